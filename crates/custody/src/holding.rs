//! How the resident object stands with its witness: claimed before anything is decided, looked at before anything is
//! served or acknowledged.
//!
//! A thin layer between the object's one thread and [`Witness`]. Without a depot the object holds itself, unless its bundle
//! requires a witness. Who calls: boot, shell, judge, and the writes of the resident object.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::id::Digest;
use suijuris_core::inputs::Witnessed;
use suijuris_core::manifest::{Manifest, Witness as Strength};
use suijuris_core::witness::{Evidence, HolderId, Point, Purpose, Terms, Verdict};
use suijuris_depot::{Depot, Own, Presence};
use suijuris_store::{ObjectDir, Writer};

use crate::clock;
use crate::witness::{ClaimError, Claimed, Config, Lease, LeaseEvent, Uncovered, Witness};

/// Time that a write waits for the mark where the witness is optional and marks cost nothing. Then it is acknowledged all the
/// same, as the bundle says.
pub const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

/// Time for the mark to follow the last record before the machine leaves.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// How the object stands with its witness.
#[derive(Debug)]
pub struct Holding {
    witness: Option<Arc<Witness>>,
    lease: Lease,
    strength: Strength,
    /// Marks cost nothing: they are waited for even where they need not be.
    prompt: bool,
    id: Cell<HolderId>,
    /// Whoever started the machine says that it was paused, and that it served nothing meanwhile.
    announced: Cell<bool>,
    verdict: RefCell<Option<Verdict>>,
}

/// What a holding is made of.
#[derive(Debug)]
pub struct Means {
    /// The depot.
    pub depot: Arc<dyn Depot>,
    /// The name of this copy.
    pub id: HolderId,
    /// Host and process, for people.
    pub who: String,
}

/// A fresh name for a copy.
///
/// # Errors
/// The system gives no randomness.
pub fn fresh_id() -> Result<HolderId, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    // Two copies of a virtual machine may go on with the same randomness, but not at the same nanosecond.
    let moment = clock::moment().mono.0.to_be_bytes();
    let Digest(digest) = Digest::of_parts(&[&random, &moment]);
    let (name, _) = digest.split_first_chunk().unwrap_or((&[0; 16], &[]));
    Ok(HolderId(*name))
}

/// The place in its history up to which an open object is durable.
#[must_use]
pub fn newest(writer: &Writer) -> Point {
    let state = writer.published();
    let head = state.head();
    Point {
        seq: head.seq,
        record: head.record,
        epoch: head.epoch,
    }
}

/// Lets the mark follow what `writer` makes durable.
pub fn follow(writer: &Writer, witness: Arc<Witness>) {
    writer.watch(move |group| {
        if let Some(last) = group.last() {
            witness.note(Point {
                seq: last.record.seq,
                record: last.id,
                epoch: last.record.epoch,
            });
        }
    });
}

impl Holding {
    /// Without a depot.
    #[must_use]
    pub fn alone(manifest: &Manifest) -> Self {
        Self {
            witness: None,
            lease: Lease::unlimited(),
            strength: manifest.witness,
            prompt: false,
            id: Cell::new(HolderId([0; 16])),
            announced: Cell::new(false),
            verdict: RefCell::new(None),
        }
    }

    /// With a depot; nothing is asked yet.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn with(
        means: Means,
        manifest: &Manifest,
        home: &ObjectDir,
        writer: &Writer,
    ) -> std::io::Result<Self> {
        let Means { depot, id, who } = means;
        let newest = newest(writer);
        let prompt = depot.pace().is_zero();
        let opening = Config {
            object: writer.published().head().object,
            id,
            who,
            terms: Terms::of(manifest, depot.pace()),
            newest,
        };
        let witness = Arc::new(Witness::start(
            opening,
            Arc::new(Own::new(depot)),
            Arc::new(home.clone()),
        )?);
        follow(writer, witness.clone());
        Ok(Self {
            lease: witness.lease(),
            witness: Some(witness),
            strength: manifest.witness,
            prompt,
            id: Cell::new(id),
            announced: Cell::new(false),
            verdict: RefCell::new(None),
        })
    }

    /// Asks for the object, to wake it.
    ///
    /// # Errors
    /// [`ClaimError`]: nothing may run.
    pub async fn claim(&self) -> Result<Option<Claimed>, ClaimError> {
        let Some(witness) = &self.witness else {
            return Ok(None);
        };
        let claimed = witness.claim(Purpose::Wake).await?;
        self.verdict.replace(Some(claimed.verdict.clone()));
        Ok(Some(claimed))
    }

    /// What decisions to wake look at.
    #[must_use]
    pub fn witnessed(&self) -> Witnessed {
        match (&*self.verdict.borrow(), self.strength) {
            (Some(verdict), _) => verdict.witnessed(),
            (None, Strength::Required) => Witnessed::Missing,
            (None, Strength::Optional) => Witnessed::Absent,
        }
    }

    /// Whether the object may serve at this reading of `CLOCK_BOOTTIME`, nanoseconds.
    #[must_use]
    pub fn is_good(&self, boot_ns: u64) -> bool {
        self.lease.is_good(boot_ns)
    }

    /// The pause that is found next was announced: whoever started the machine froze it, asleep.
    pub fn announce_pause(&self) {
        self.announced.set(true);
    }

    /// The machine was paused: what was held counts no more. Unless the pause was announced, this copy goes on under a fresh
    /// name, since another may be running under the old one, and serving.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub async fn thawed(&self) -> Result<(), getrandom::Error> {
        let Some(witness) = &self.witness else {
            return Ok(());
        };
        if !self.announced.replace(false) {
            self.id.set(fresh_id()?);
        }
        witness.thawed(self.id.get()).await;
        Ok(())
    }

    /// Resolves when whatever stands at `seq` may be acknowledged: once the mark covers it, or where the witness is optional
    /// at once, or after [`FOLLOW_WITHIN`] if marks cost nothing.
    ///
    /// # Errors
    /// [`Uncovered`]: no mark of this copy will cover it, or serving is over.
    pub async fn acknowledged(&self, seq: u64) -> Result<(), Uncovered> {
        match (&self.witness, self.strength) {
            (Some(witness), Strength::Required) => {
                let mut news = witness.news();
                let over = news.wait_for(|news| matches!(news, LeaseEvent::Over));
                tokio::select! {
                    biased;
                    covered = witness.covered(seq) => covered,
                    _over = over => Err(Uncovered::Ended),
                }
            }
            (Some(witness), Strength::Optional) if self.prompt && self.agrees() => {
                let _ = tokio::time::timeout(FOLLOW_WITHIN, witness.covered(seq)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn agrees(&self) -> bool {
        matches!(&*self.verdict.borrow(), Some(Verdict::Agrees(_)))
    }

    /// Waits until the mark has followed to `seq`, for some seconds at most: before the machine leaves.
    pub async fn settle(&self, seq: u64) {
        if let Some(witness) = self.witness.clone().filter(|_| self.agrees()) {
            // What the mark does not say yet is found at the next claim.
            let _ = tokio::time::timeout(SETTLE_WITHIN, async move { witness.covered(seq).await }).await;
        }
    }

    /// Gives the object up, for a copy that nobody else holds it for.
    pub async fn release(&self) {
        if let Some(witness) = &self.witness {
            let _said = witness.release(SETTLE_WITHIN).await;
        }
    }

    /// The next news of the lease other than `last`; never without a witness.
    pub async fn news(&self, last: &LeaseEvent) -> LeaseEvent {
        if let Some(witness) = &self.witness {
            let mut news = witness.news();
            if let Ok(new) = news.wait_for(|new| new != last).await {
                return new.clone();
            }
        }
        std::future::pending().await
    }
}

/// Codes of a refusal for another copy: one with a newer history, and one that runs or has gone another way.
const CODES: (&str, &str) = ("rolled_back", "twin");

/// The code of a refusal for another copy. One that lacks what was witnessed is a twin while the other runs, as far as the
/// depot can tell, and an older copy once nobody holds the object.
pub async fn code_of(depot: Option<&dyn Depot>, verdict: &Verdict) -> &'static str {
    if verdict.witnessed() != Witnessed::Newer {
        return CODES.1;
    }
    let mark = verdict
        .evidence()
        .and_then(|evidence| evidence.witnessed.as_ref());
    let held = mark.and_then(|mark| Some((mark.object, mark.holder.as_ref()?.id)));
    let (Some(depot), Some((object, holder))) = (depot, held) else {
        return CODES.0;
    };
    match depot.presence(object, holder).await {
        Ok(Presence::Gone) => CODES.0,
        Ok(Presence::Here | Presence::Unknown) | Err(_) => CODES.1,
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
