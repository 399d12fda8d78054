//! A copy that is not the object: why, in words, and the event that says so.

use suijuris_api::Event;
use suijuris_core::governance::Action;
use suijuris_core::inputs::Witnessed;
use suijuris_core::lineage::{Body, Invariant};
use suijuris_core::witness::{Evidence, Verdict};
use suijuris_depot::{Depot, Presence};
use suijuris_store::{Depth, ObjectDir, Reader};

/// A copy that was refused for another.
#[derive(Debug, Clone)]
pub struct RefusedCopy {
    /// `twin` or `rolled_back`.
    pub code: &'static str,
    /// Both sides.
    pub evidence: Evidence,
    /// It can never be the object again without its owners.
    pub is_final: bool,
}

impl RefusedCopy {
    /// What a verdict against the copy in `object_dir` comes to; nothing where it is not against it.
    pub(super) async fn of(
        verdict: &Verdict,
        depot: Option<&dyn Depot>,
        object_dir: &ObjectDir,
    ) -> Option<Self> {
        let evidence = verdict.evidence()?.clone();
        let is_final = verdict.is_final();
        // Its own last record is in the way of comparing again; what it found then stands.
        let code = match is_final.then(|| shut_away_as(object_dir)).flatten() {
            Some(code) => code,
            None => code_of(depot, verdict).await,
        };
        Some(Self {
            code,
            evidence,
            is_final,
        })
    }

    /// Another copy took the object from this one.
    #[must_use]
    pub fn twin(evidence: &Evidence) -> Self {
        Self {
            code: Invariant::Twin.as_str(),
            evidence: evidence.clone(),
            is_final: false,
        }
    }

    /// Why, in words.
    #[must_use]
    pub fn words(&self) -> String {
        in_words(&self.evidence)
    }

    /// The event that tells it.
    #[must_use]
    pub fn event(&self) -> Event {
        Event::Refused {
            action: Action::Wake.as_str().to_owned(),
            reason: self.code.to_owned(),
            rules: Vec::new(),
            reasons: vec![self.words()],
            times: 1,
            evidence: Some(Box::new(suijuris_words::evidence(&self.evidence))),
        }
    }
}

/// The code of a refusal for another copy. One that lacks what was witnessed is a twin while the other runs, as far as the
/// depot can tell, and an older copy once nobody holds the object.
async fn code_of(depot: Option<&dyn Depot>, verdict: &Verdict) -> &'static str {
    let (older, twin) = (Invariant::RolledBack.as_str(), Invariant::Twin.as_str());
    if verdict.witnessed() != Witnessed::Newer {
        return twin;
    }
    let mark = verdict
        .evidence()
        .and_then(|evidence| evidence.witnessed.as_ref());
    let held = mark.and_then(|mark| Some((mark.object, mark.holder.as_ref()?.id)));
    let (Some(depot), Some((object, holder))) = (depot, held) else {
        return older;
    };
    match depot.presence(object, holder).await {
        Ok(Presence::Gone) => older,
        Ok(Presence::Here | Presence::Unknown) | Err(_) => twin,
    }
}

/// Why another copy was preferred, in words.
#[must_use]
pub fn in_words(evidence: &Evidence) -> String {
    let ours = &evidence.ours;
    let mine = format!("this copy ends at record {} ({})", ours.seq, ours.record);
    match &evidence.witnessed {
        None => format!("{mine}; the witness has lost what it knew of the object"),
        Some(mark) => {
            let holder = mark
                .holder
                .as_ref()
                .map(|holder| format!(", held by {}", holder.who))
                .unwrap_or_default();
            format!(
                "{mine}; the witness knows record {} ({}) of epoch {}{holder}",
                mark.seq, mark.head, mark.epoch
            )
        }
    }
}

/// Why this copy shut itself away, where another copy was the reason.
fn shut_away_as(object_dir: &ObjectDir) -> Option<&'static str> {
    let reader = Reader::open(object_dir, Depth::Tail).ok()?;
    let seq = reader.state().head().seq;
    let last = reader.records(seq..seq.saturating_add(1)).ok()?.next()?.ok()?;
    let Body::Quarantined(quarantined) = &last.record.body else {
        return None;
    };
    [Invariant::RolledBack, Invariant::Twin]
        .map(Invariant::as_str)
        .into_iter()
        .find(|code| {
            quarantined
                .reason
                .strip_prefix(code)
                .is_some_and(|rest| rest.starts_with(": "))
        })
}
