//! Recorded decisions under another definition. Nothing is recorded.

use std::sync::Arc;

use suijuris_api::history::{Changed, Rejudged};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::View;
use suijuris_core::lineage::{Body, Decision, State, Stored};
use suijuris_core::time::Timestamp;
use suijuris_words::verdict;

use super::{HistoryError, Past, again, decision as decision_of, place, walk, words};

/// Changes that are listed; further ones are counted.
pub const MAX_LISTED: usize = 1_000;

/// Every recorded decision made again, from its recorded inputs, under the rules of `bundle`.
///
/// # Errors
/// [`HistoryError`].
pub fn rejudge(past: Past<'_>, bundle: &Bundle) -> Result<Rejudged, HistoryError> {
    let mut rejudged = Rejudging::default();
    walk(past, u64::MAX, |state, next| {
        if let Some(decision) = decision_of(&next.record.body) {
            let times = match &next.record.body {
                Body::Refused(refused) => refused.times,
                _ => 1,
            };
            let change = || change(state, bundle, next, decision);
            rejudged.take(decision, times, state.head().at, change);
        }
        Ok(())
    })?;
    Ok(Rejudged {
        bundle: bundle.id().to_string(),
        judged: rejudged.judged,
        would_change: rejudged.would_change,
        changed: rejudged.changed.into_iter().map(|(changed, _)| changed).collect(),
    })
}

#[derive(Default)]
struct Rejudging {
    judged: u64,
    would_change: u64,
    changed: Vec<(Changed, Decision)>,
}

impl Rejudging {
    /// Takes in a decision that was recorded after `since`. One that is older repeats an earlier record, to count more of
    /// its kind; the first of them has been judged on the state of its own time.
    fn take(
        &mut self,
        decision: &Decision,
        times: u64,
        since: Timestamp,
        change: impl FnOnce() -> Option<Changed>,
    ) {
        self.judged = self.judged.saturating_add(times);
        let changed = if decision.inputs.now.at >= since {
            change().inspect(|_| self.would_change = self.would_change.saturating_add(times))
        } else {
            let mut known = self.changed.iter_mut().rev();
            if let Some((first, _)) = known.find(|(_, first)| first == decision) {
                first.times = first.times.saturating_add(times);
                self.would_change = self.would_change.saturating_add(times);
            }
            None
        };
        if self.changed.len() < MAX_LISTED {
            self.changed
                .extend(changed.map(|changed| (Changed { times, ..changed }, decision.clone())));
        }
    }
}

/// The decision, where it would come out otherwise: the same proposal at the same moment, with memory as the other schema
/// keeps it.
fn change(state: &State, bundle: &Bundle, next: &Stored, decision: &Decision) -> Option<Changed> {
    let memory = state.memory().amended(Arc::new(bundle.manifest.memory.clone()));
    let view = View {
        head: state.head(),
        memory: &memory,
        program: &bundle.rules.program,
        vocabulary: &bundle.rules.vocabulary,
        bundle: state.head().bundle,
    };
    let other = again(view, &next.record.body, decision);
    (other.outcome != decision.outcome).then(|| Changed {
        seq: next.record.seq,
        at: next.record.at.to_string(),
        times: 1,
        proposed: words::proposed(decision),
        was: verdict::verdict(decision, place(&next.record.body)),
        would_be: verdict::verdict(&other, "what-if"),
    })
}
