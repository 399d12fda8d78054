//! `up` holds its object in the depot as long as it runs, asleep or awake, so that no second copy is the object meanwhile.
//!
//! While a machine runs, its runtime goes on under the same name with the depot that is served to it here, and `up` only
//! listens. Asleep, `up` lets the mark follow what it records itself, and publishes what doors and importers read.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use suijuris_api::Event;
use suijuris_core::ObjectId;
use suijuris_core::governance::Action;
use suijuris_core::inputs::Witnessed;
use suijuris_core::lineage::{Body, Invariant, Quarantined};
use suijuris_core::manifest::Manifest;
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{Evidence, HolderId, Point, Purpose, Terms, Verdict};
use suijuris_custody::chain;
use suijuris_custody::clock::{Clock, Continuity, ResumeDetector};
use suijuris_custody::holding::{FOLLOW_WITHIN, code_of, follow, fresh_id, in_words, newest};
use suijuris_custody::witness::{Config, LeaseEvent, Witness, publish};
use suijuris_depot::{Attendance, Depot, Own, relay};
use suijuris_store::{Depth, ObjectDir, Reader, Writer, capsule};

use super::say::Say;
use crate::depots::Which;
use crate::sleeping;

/// The depot cannot be used.
const CODE_DEPOT: &str = "depot_failed";

/// Time to give the object up in the depot, and to publish it, when `up` ends.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Time between two questions to a witness that is required and does not answer; each waits for an answer too.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How the object is held.
pub(crate) struct Holding {
    depot: Option<Arc<Own>>,
    witness: Option<Arc<Witness>>,
    id: HolderId,
    object: ObjectId,
    home: ObjectDir,
    verdict: Option<Verdict>,
    /// While a machine holds it: what tells whether the host stood still since.
    lent: Option<ResumeDetector>,
}

/// This copy is not the object; the event that says so.
pub(crate) struct NotTheObject(pub(crate) Box<Event>);

impl Holding {
    /// Opens the depot and says nothing in it yet. Without a depot the object goes on alone, where its bundle lets it.
    pub(crate) async fn open(
        which: &Which,
        home: &ObjectDir,
        manifest: &Manifest,
        writer: &Writer,
        say: &Say,
    ) -> anyhow::Result<Self> {
        let object = writer.published().head().object;
        let id = fresh_id().context("the system gives no randomness")?;
        let depot = match which.open().await {
            Ok(depot) => Some(Arc::new(Own::new(depot))),
            // A depot that somebody named is wanted; the default one may be missing.
            Err(error) if which.depot.is_some() => return Err(error.into()),
            Err(error) => {
                say.error(CODE_DEPOT, &chain(&error));
                None
            }
        };
        let witness = depot.clone().map(|depot: Arc<Own>| {
            let opening = Config {
                object,
                id,
                who: format!("host {}, process {}", super::house::host().id, std::process::id()),
                terms: Terms::of(manifest, depot.pace()),
                newest: newest(writer),
            };
            Witness::start(opening, depot, Arc::new(home.clone()))
        });
        Ok(Self {
            depot,
            witness: witness.transpose()?.map(Arc::new),
            id,
            object,
            home: home.clone(),
            verdict: None,
            lent: None,
        })
    }

    /// Claims the object for resting, before `writer` writes anything; from now on the mark follows it. A copy that is not
    /// the object is told apart from one that only cannot ask.
    pub(crate) async fn claim(
        &mut self,
        writer: &Writer,
        now: Timestamp,
        say: &Say,
    ) -> anyhow::Result<Result<(), NotTheObject>> {
        let Some(witness) = self.witness.clone() else {
            return Ok(Ok(()));
        };
        witness.note(newest(writer));
        let claimed = witness.claim(Purpose::Rest).await?;
        follow(writer, witness);
        if let Verdict::Absent | Verdict::Missing = claimed.verdict {
            let why = claimed.trouble.as_deref().unwrap_or("it does not answer");
            say.error(CODE_DEPOT, &format!("the witness cannot be asked: {why}"));
        }
        let code = match shut_away_as(&self.home) {
            // Its own last record is in the way of comparing again; what it found then stands.
            Some(code) if claimed.verdict.is_final() => code,
            _ => code_of(self.asked(), &claimed.verdict).await,
        };
        let refused = claimed.verdict.evidence().map(|evidence| {
            let event = Box::new(refused(code, evidence));
            (event, claimed.verdict.is_final(), in_words(evidence))
        });
        self.verdict = Some(claimed.verdict);
        match refused {
            None => Ok(Ok(())),
            Some((event, false, _)) => Ok(Err(NotTheObject(event))),
            Some((event, true, words)) => {
                // So that it stays refused where no witness can be asked.
                sleeping::settle_crash(writer, now)?;
                let reason = format!("{code}: {words}");
                let is_away = writer.published().head().phase == suijuris_core::lineage::Phase::Quarantined;
                if !is_away {
                    sleeping::record(writer, Body::Quarantined(Quarantined { reason }), now)?;
                }
                Ok(Err(NotTheObject(event)))
            }
        }
    }

    fn asked(&self) -> Option<&dyn Depot> {
        self.depot.as_deref().map(|depot| depot as &dyn Depot)
    }

    /// Claims the object for resting in a frozen machine, whose runtime has the writer. It writes nothing.
    pub(super) async fn rest(&mut self, newest: Point) -> anyhow::Result<Result<(), NotTheObject>> {
        let Some(witness) = &self.witness else {
            return Ok(Ok(()));
        };
        witness.note(newest);
        let claimed = witness.claim(Purpose::Rest).await?;
        let code = code_of(self.asked(), &claimed.verdict).await;
        let refused = claimed.verdict.evidence().map(|evidence| refused(code, evidence));
        self.verdict = Some(claimed.verdict);
        Ok(match refused {
            Some(event) => Err(NotTheObject(Box::new(event))),
            None => Ok(()),
        })
    }

    /// Asks again where a witness is required and none answered; what it says once it does.
    pub(super) fn again(&self) -> Option<impl Future<Output = Verdict> + use<>> {
        let missing = matches!(self.verdict, Some(Verdict::Missing));
        self.witness.clone().filter(|_| missing).map(ask_again)
    }

    /// Takes an answer that came late; the event that says so where this copy is not the object.
    pub(super) async fn take(&mut self, verdict: Verdict) -> Option<Event> {
        let code = code_of(self.asked(), &verdict).await;
        let refused = verdict.evidence().map(|evidence| refused(code, evidence));
        self.verdict = Some(verdict);
        refused
    }

    /// The object.
    pub(super) const fn object(&self) -> ObjectId {
        self.object
    }

    /// Whether the witness agrees that this copy is the object.
    pub(super) const fn agrees(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Agrees(_)))
    }

    /// What decisions at the door look at; the runtime asks again.
    pub(super) fn witnessed(&self, manifest: &Manifest) -> Witnessed {
        match (&self.verdict, manifest.witness) {
            (Some(verdict), _) => verdict.witnessed(),
            (None, suijuris_core::manifest::Witness::Required) => Witnessed::Missing,
            (None, suijuris_core::manifest::Witness::Optional) => Witnessed::Absent,
        }
    }

    /// Waits until the mark covers what `up` is about to acknowledge, where marks cost nothing or a witness is required.
    /// Whether it may be acknowledged.
    pub(crate) async fn acknowledged(&self, seq: u64, manifest: &Manifest) -> bool {
        let required = manifest.witness == suijuris_core::manifest::Witness::Required;
        let prompt = self.depot.as_ref().is_some_and(|depot| depot.pace().is_zero());
        match &self.witness {
            Some(witness) if required || (prompt && self.agrees()) => {
                let covered = tokio::time::timeout(FOLLOW_WITHIN, witness.covered(seq)).await;
                !required || matches!(covered, Ok(Ok(())))
            }
            _ => true,
        }
    }

    /// The machine that held the object has ended or is frozen: goes on by the name that it took, if it found that it
    /// stood still. Where only we find that out, a copy of us may serve under our name, so that we take a fresh one.
    pub(super) async fn take_back(&mut self, clock: &Clock) -> anyhow::Result<()> {
        let Some(((depot, witness), mut lent)) = self
            .depot
            .as_ref()
            .zip(self.witness.as_ref())
            .zip(self.lent.take())
        else {
            return Ok(());
        };
        let mut name = depot.name().unwrap_or(self.id);
        let (_, continuity) = clock.check(&mut lent);
        if name == self.id && continuity != Continuity::Continuous {
            name = fresh_id().context("the system gives no randomness")?;
        }
        if name != self.id {
            self.id = name;
            witness.thawed(name).await;
        }
        Ok(())
    }

    /// Leaves the mark to the machine that is about to run. What it inherits: its way to the depot, and what keeps the
    /// object held until it has ended.
    pub(super) async fn hand_over(&mut self, clock: &Clock) -> std::io::Result<Handed> {
        self.lent = Some(clock.detector());
        let Some((depot, witness)) = self.depot.clone().zip(self.witness.as_ref()) else {
            return Ok(Handed {
                holder: None,
                depot: None,
                attendance: None,
            });
        };
        witness.hand_over().await;
        let (ours, theirs) = UnixStream::pair()?;
        let attendance = depot.attendance().await;
        serve(ours, depot, self.object)?;
        Ok(Handed {
            holder: Some(self.id),
            depot: Some(theirs.into()),
            attendance,
        })
    }

    /// Leaves the mark to the machine that has been frozen and goes on now.
    pub(super) async fn thaw(&mut self, clock: &Clock) {
        self.lent = Some(clock.detector());
        if let Some(witness) = &self.witness {
            witness.hand_over().await;
        }
    }

    /// The depot, for watching the inbox.
    pub(crate) fn depot(&self) -> Option<Arc<dyn Depot>> {
        self.depot.clone().map(|depot| depot as Arc<dyn Depot>)
    }

    /// Resolves when another copy has taken the object; the event to tell.
    pub(super) async fn lost(&self) -> Event {
        if let Some(witness) = &self.witness {
            let mut news = witness.news();
            if let Ok(lost) = news.wait_for(|news| matches!(news, LeaseEvent::Lost(_))).await
                && let LeaseEvent::Lost(evidence) = &*lost
            {
                return refused(Invariant::Twin.as_str(), evidence);
            }
        }
        std::future::pending().await
    }

    /// Publishes the sleeping object, in the background: bundles, records, announcement, due time.
    pub(super) fn publish(
        &self,
        due: Option<Timestamp>,
    ) -> Option<impl Future<Output = Result<(), String>> + use<>> {
        let depot = self.depot.clone()?;
        let home = self.home.clone();
        let covered = self.witness.clone();
        Some(async move {
            let announcing = home.clone();
            let announcement = tokio::task::spawn_blocking(move || capsule::announcement_of(&announcing))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| chain(&error))?;
            if let (Some(witness), Some((seq, _))) = (covered, &announcement) {
                // A door takes an announcement for late while the mark is behind it.
                let _ = tokio::time::timeout(LEAVE_WITHIN, witness.covered(*seq)).await;
            }
            publish(&*depot, &home, announcement.map(|(_, bytes)| bytes), due)
                .await
                .map_err(|error| chain(&error))
        })
    }

    /// Publishes a last time and gives the object up.
    pub(crate) async fn leave(&self, due: Option<Timestamp>, say: &Say) {
        if self.agrees()
            && let Some(publishing) = self.publish(due)
        {
            match tokio::time::timeout(LEAVE_WITHIN, publishing).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => say.error(CODE_DEPOT, &why),
                Err(_late) => say.error(
                    CODE_DEPOT,
                    "the depot did not take in time what the object publishes",
                ),
            }
        }
        if let Some(witness) = &self.witness {
            // Where the mark does not say so, the lease runs out.
            let _said = witness.release(LEAVE_WITHIN).await;
        }
    }
}

/// Claims the object for resting until a witness answers.
async fn ask_again(witness: Arc<Witness>) -> Verdict {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        match witness.claim(Purpose::Rest).await {
            Ok(claimed) if !matches!(claimed.verdict, Verdict::Missing) => return claimed.verdict,
            Ok(_) | Err(_) => {}
        }
    }
}

/// What a machine is given of a holding.
pub(super) struct Handed {
    pub(super) holder: Option<HolderId>,
    pub(super) depot: Option<OwnedFd>,
    pub(super) attendance: Option<Arc<dyn Attendance>>,
}

/// Serves the depot to one machine, on a thread of its own, so that nothing `up` does delays a renewal.
fn serve(stream: UnixStream, depot: Arc<Own>, object: ObjectId) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("relay".to_owned())
        .spawn(move || {
            tokio.block_on(async move {
                if let Ok(stream) = tokio::net::UnixStream::from_std(stream) {
                    // The machine finds out by itself when nobody answers any more.
                    let _ = relay::serve(stream, depot, object).await;
                }
            });
            tokio.shutdown_background();
        })?;
    Ok(())
}

/// Why this copy shut itself away, where another copy was the reason.
fn shut_away_as(home: &ObjectDir) -> Option<&'static str> {
    let reader = Reader::open(home, Depth::Tail).ok()?;
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

fn refused(code: &str, evidence: &Evidence) -> Event {
    Event::Refused {
        action: Action::Wake.as_str().to_owned(),
        reason: code.to_owned(),
        rules: Vec::new(),
        reasons: vec![in_words(evidence)],
        times: 1,
        evidence: Some(Box::new(evidence.into())),
    }
}
