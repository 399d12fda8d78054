//! One copy's right to its object: claimed before anything is decided or written, looked at before anything is served,
//! lent to a machine and taken back, given up at the end.
//!
//! A thin layer between whoever holds an object and its [`Witness`]. Without a depot the object holds itself, unless its
//! bundle requires a witness. Who calls: the runtime, `up`, and every command that writes. Not here: what is written
//! ([`crate::write`]), what the witness's protocol is (`suijuris_core::witness`).

mod acknowledging;
mod lending;
mod refused;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::inputs::Witnessed;
use suijuris_core::manifest::{Manifest, Witness as Strength};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Lent, Point, Purpose, Terms, Verdict};
use suijuris_depot::{Depot, Session, Version};
use suijuris_store::{ObjectDir, Reader, StageError, Writer, capsule};

use crate::chain;
use crate::clock::{self, Attention, Clock, ResumeDetector};
use crate::record::quarantine;
use crate::witness::{ClaimError, Config, Lease, LeaseEvent, Service, Witness, publish, republish};

pub use acknowledging::{Acknowledged, Unwitnessed};
pub use lending::{Granted, Handoff, LeaseGrant};
pub use refused::{RefusedCopy, in_words};

/// Time to give the object up in the depot, and to publish it, when whoever holds it leaves.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Time between two questions to a witness that is required and does not answer; each waits for an answer too.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// One copy's right to its object.
#[derive(Debug)]
pub struct Claim {
    object: ObjectId,
    object_dir: ObjectDir,
    strength: Strength,
    depot: Option<Shared>,
    known: Mutex<Known>,
}

/// What stands between this copy and others.
#[derive(Debug, Clone)]
struct Shared {
    session: Arc<Session>,
    witness: Arc<Witness>,
    lease: Lease,
    /// Marks cost nothing: they are waited for even where they need not be.
    prompt: bool,
}

#[derive(Debug)]
struct Known {
    id: HolderId,
    verdict: Option<Verdict>,
    /// Whoever started the machine says that it was suspended, and that it served nothing meanwhile.
    announced: bool,
    /// While a machine has it: what tells whether the host was suspended since.
    lent: Option<Since>,
}

/// What tells whether time passed unseen since.
#[derive(Debug)]
struct Since {
    detector: ResumeDetector,
    _attention: Attention,
}

impl Since {
    fn now(clock: &Clock) -> Self {
        let attention = clock.register();
        Self {
            detector: clock.detector(),
            _attention: attention,
        }
    }
}

/// The depot, the process's service, and how this copy is called there.
#[derive(Debug)]
pub struct Means {
    /// The witnesses of this process.
    pub service: Service,
    /// The depot.
    pub depot: Arc<dyn Depot>,
    /// The name of this copy: a fresh one ([`fresh_id`]), or that of whoever lent it.
    pub id: HolderId,
    /// Host and process, for people.
    pub who: String,
}

/// What became of a claim.
#[derive(Debug)]
#[must_use = "a copy that is not the object may write and run nothing"]
pub enum Answer {
    /// This copy is the object: the witness says so, or there is no depot and none is required.
    Ours,
    /// No witness answers, for this reason. What goes on without one is decided by the object's setting.
    Unasked(String),
    /// Another copy is the object.
    Refused(Box<RefusedCopy>),
}

/// Why a claim came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// It has no answer.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// What was found could not be recorded.
    #[error("the object cannot be shut away")]
    Record(#[from] StageError),
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
    writer.published().head().into()
}

/// What a claim is about: the object, its directory, its newest record.
fn of(writer: &Writer) -> (ObjectId, ObjectDir, Point) {
    let object = writer.published().head().object;
    (object, writer.object_dir().clone(), newest(writer))
}

impl Claim {
    /// Opens it for an object that whoever started this machine has claimed to wake it: goes on with what they were
    /// answered, without asking again, where that is about this very history; else as [`Claim::open`], with nothing asked.
    /// Whether it goes on.
    #[must_use]
    pub fn from_grant(means: Means, manifest: &Manifest, writer: &Writer, granted: &Granted) -> (Self, bool) {
        let newest = newest(writer);
        let lent = granted.lent().filter(|lent| {
            let same = lent.mark.object == writer.published().head().object;
            let ours = (lent.mark.seq, lent.mark.head) == (newest.seq, newest.record);
            same && ours && lent.mark.holder.as_ref().map(|holder| holder.id) == Some(means.id)
        });
        let verdict = lent.as_ref().map(|lent| Verdict::Agrees(lent.mark.epoch));
        let goes_on = verdict.is_some();
        let claim = Self::begin(Some(means), manifest, of(writer), lent);
        claim.known().verdict = verdict;
        (claim, goes_on)
    }

    /// Opens it for the object that `writer` has open: without a depot where there are no `means`, with one otherwise.
    /// Nothing is asked yet.
    #[must_use]
    pub fn open(means: Option<Means>, manifest: &Manifest, writer: &Writer) -> Self {
        Self::begin(means, manifest, of(writer), None)
    }

    /// The same for an object that a machine of an earlier process has, as `reader` reads it: it is claimed once that machine
    /// has ended.
    #[must_use]
    pub fn beside(means: Option<Means>, manifest: &Manifest, reader: &Reader) -> Self {
        let head = reader.state().head();
        let subject = (head.object, reader.object_dir().clone(), head.into());
        Self::begin(means, manifest, subject, None)
    }

    fn begin(
        means: Option<Means>,
        manifest: &Manifest,
        (object, object_dir, newest): (ObjectId, ObjectDir, Point),
        lent: Option<Lent<Version>>,
    ) -> Self {
        let id = means.as_ref().map_or(HolderId([0; 16]), |means| means.id);
        let depot = means.map(|means| Shared::open(means, manifest, &object_dir, (object, newest, lent)));
        Self {
            object,
            object_dir,
            strength: manifest.witness,
            depot,
            known: Mutex::new(Known {
                id,
                verdict: None,
                announced: false,
                lent: None,
            }),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object.
    #[must_use]
    pub const fn object(&self) -> ObjectId {
        self.object
    }

    /// What this copy wrote to the depot: a machine that is suspended while it is claimed for goes on with that.
    #[must_use]
    pub fn session(&self) -> Option<Arc<Session>> {
        self.depot.as_ref().map(|shared| Arc::clone(&shared.session))
    }

    /// The depot, for its inbox.
    #[must_use]
    pub fn depot(&self) -> Option<Arc<dyn Depot>> {
        let shared = self.depot.as_ref()?;
        Some(Arc::clone(&shared.session) as Arc<dyn Depot>)
    }

    /// Lets the mark follow what `writer` makes durable.
    pub fn follow(&self, writer: &Writer) {
        let Some(shared) = self.depot.clone() else { return };
        writer.watch(move |group| {
            if let Some(last) = group.last() {
                shared.witness.note(Point {
                    seq: last.record.seq,
                    record: last.id,
                    epoch: last.record.epoch,
                });
            }
        });
    }

    /// Asks for the object, to wake it.
    ///
    /// # Errors
    /// [`ClaimError`]: nothing may run.
    pub async fn wake(&self) -> Result<Answer, ClaimError> {
        self.ask(Purpose::Wake).await
    }

    /// Asks for the object at rest, open in `writer`, before that writes anything; from then on the mark follows it. A copy
    /// that can never be the object again without its owners is shut away.
    ///
    /// # Errors
    /// [`RestError`].
    pub async fn rest(&self, writer: &Writer, at: Timestamp) -> Result<Answer, RestError> {
        let answer = self.rest_at(newest(writer)).await?;
        if let Some(shared) = &self.depot {
            self.follow(writer);
            // Nobody but this process has it now: one presence stands for all that it holds. What fails costs a descriptor.
            let _ = shared.session.rest().await;
        }
        if let Answer::Refused(copy) = &answer
            && copy.is_final
        {
            quarantine(writer, copy.code, &copy.evidence, at)?;
        }
        Ok(answer)
    }

    /// Asks for the object at rest in a suspended machine, whose runtime has the writer; `newest` is its last record.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn rest_at(&self, newest: Point) -> Result<Answer, ClaimError> {
        if let Some(shared) = &self.depot {
            shared.witness.note(newest);
        }
        self.ask(Purpose::Rest).await
    }

    async fn ask(&self, purpose: Purpose) -> Result<Answer, ClaimError> {
        let Some(shared) = &self.depot else {
            return Ok(match self.strength {
                Strength::Required => {
                    Answer::Unasked("the object requires a depot, and there is none".to_owned())
                }
                Strength::Optional => Answer::Ours,
            });
        };
        let claimed = shared.witness.claim(purpose).await?;
        let copy = self.refused_copy(&claimed.verdict).await;
        let unasked = matches!(claimed.verdict, Verdict::Absent | Verdict::Missing);
        self.known().verdict = Some(claimed.verdict);
        Ok(match copy {
            Some(copy) => Answer::Refused(Box::new(copy)),
            None if unasked => {
                Answer::Unasked(claimed.trouble.unwrap_or_else(|| "it does not answer".to_owned()))
            }
            None => Answer::Ours,
        })
    }

    /// What a verdict against this copy comes to.
    async fn refused_copy(&self, verdict: &Verdict) -> Option<RefusedCopy> {
        let depot = self.depot.as_ref().map(|shared| &*shared.session as &dyn Depot);
        RefusedCopy::of(verdict, depot, &self.object_dir).await
    }

    /// Asks again where a witness is required and none answered; resolves with what it says once it does.
    pub fn again(&self) -> Option<impl Future<Output = Verdict> + Send + use<>> {
        let missing = matches!(self.known().verdict, Some(Verdict::Missing));
        let witness = self.depot.as_ref().filter(|_| missing)?.witness.clone();
        Some(async move {
            loop {
                tokio::time::sleep(ASK_AGAIN).await;
                match witness.claim(Purpose::Rest).await {
                    Ok(claimed) if !matches!(claimed.verdict, Verdict::Missing) => return claimed.verdict,
                    Ok(_) | Err(_) => {}
                }
            }
        })
    }

    /// Takes an answer that came late; the copy that was refused, where this one is not the object.
    pub async fn take(&self, verdict: Verdict) -> Option<RefusedCopy> {
        let copy = self.refused_copy(&verdict).await;
        self.known().verdict = Some(verdict);
        copy
    }

    /// Whether the witness agrees that this copy is the object.
    #[must_use]
    pub fn agrees(&self) -> bool {
        matches!(self.known().verdict, Some(Verdict::Agrees(_)))
    }

    /// What decisions to wake look at.
    #[must_use]
    pub fn witnessed(&self) -> Witnessed {
        match (&self.known().verdict, self.strength) {
            (Some(verdict), _) => verdict.witnessed(),
            (None, Strength::Required) => Witnessed::Missing,
            (None, Strength::Optional) => Witnessed::Absent,
        }
    }

    /// Whether the object may serve at this reading of `CLOCK_BOOTTIME`, nanoseconds.
    #[must_use]
    pub fn is_good(&self, boot_ns: u64) -> bool {
        self.depot
            .as_ref()
            .is_none_or(|shared| shared.lease.is_good(boot_ns))
    }

    /// The next event of the lease other than `last`; never without a depot.
    pub async fn lease_event(&self, last: &LeaseEvent) -> LeaseEvent {
        if let Some(shared) = &self.depot {
            let mut events = shared.witness.news();
            if let Ok(new) = events.wait_for(|new| new != last).await {
                return new.clone();
            }
        }
        std::future::pending().await
    }

    /// Resolves when another copy has taken the object.
    pub async fn lost(&self) -> RefusedCopy {
        if let Some(shared) = &self.depot {
            let mut events = shared.witness.news();
            if let Ok(lost) = events
                .wait_for(|event| matches!(event, LeaseEvent::Lost(_)))
                .await
                && let LeaseEvent::Lost(evidence) = &*lost
            {
                return RefusedCopy::twin(evidence);
            }
        }
        std::future::pending().await
    }

    /// Publishes the sleeping object: bundles, records, announcement, due time. Nothing where the witness does not agree.
    /// Dropping the future leaves nothing half done that is visible.
    pub fn publish(
        &self,
        due: Option<Timestamp>,
    ) -> Option<impl Future<Output = Result<(), String>> + Send + use<>> {
        let shared = self.depot.clone().filter(|_| self.agrees())?;
        let (home, object) = (self.object_dir.clone(), self.object);
        Some(async move {
            let announcing = home.clone();
            let announcement = tokio::task::spawn_blocking(move || capsule::announcement_of(&announcing))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| chain(&error))?;
            if let Some((seq, _)) = &announcement {
                // A door takes an announcement for late while the mark is behind it.
                let _ = tokio::time::timeout(LEAVE_WITHIN, shared.witness.covered(*seq)).await;
            }
            let announcement = announcement.map(|(_, bytes)| bytes);
            if let Some(bytes) = &announcement
                && republish(&*shared.session, object, bytes, due).await
            {
                return Ok(());
            }
            publish(&*shared.session, &home, announcement, due)
                .await
                .map_err(|error| chain(&error))
        })
    }

    /// Publishes a last time and gives the object up.
    ///
    /// # Errors
    /// Why it was not published, in words; it was given up all the same.
    pub async fn leave(&self, due: Option<Timestamp>) -> Result<(), String> {
        let published = match self.publish(due) {
            None => Ok(()),
            Some(publishing) => tokio::time::timeout(LEAVE_WITHIN, publishing)
                .await
                .unwrap_or_else(|_late| {
                    Err("the depot did not accept the object's records in time".to_owned())
                }),
        };
        self.release().await;
        published
    }

    /// Gives the object up. Where the mark does not say so, the lease runs out.
    pub async fn release(&self) {
        if let Some(shared) = &self.depot {
            let _said = shared.witness.release(LEAVE_WITHIN).await;
        }
    }
}

impl Shared {
    fn open(
        means: Means,
        manifest: &Manifest,
        object_dir: &ObjectDir,
        (object, newest, lent): (ObjectId, Point, Option<Lent<Version>>),
    ) -> Self {
        let Means {
            service,
            depot,
            id,
            who,
        } = means;
        let pace = depot.pace();
        let session = Arc::new(Session::new(depot));
        let config = Config {
            object,
            id,
            who,
            terms: Terms::of(manifest, pace).where_presence_is_a_lock(session.presence_is_a_lock()),
            newest,
            lent,
        };
        let witness = Arc::new(service.open(config, session.clone(), Arc::new(object_dir.clone())));
        Self {
            session,
            lease: witness.lease(),
            witness,
            prompt: pace.is_zero(),
        }
    }
}
