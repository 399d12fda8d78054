//! The resident object: the one place where its state, its rules, its clock and its holds meet.
//!
//! Everything here runs on the runtime's one thread; whoever wants something of the object asks here, and nothing is
//! answered that is not durable. What to do next is decided by the lifecycle (`lifecycle_driver`), not here.

pub(crate) mod amending;
mod asking;
mod deciding;
pub(crate) mod edge;
pub(crate) mod elsewhere;
mod ending;
pub mod files;
pub mod founding;
mod moving;
pub mod platform;
mod writing;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use suijuris_auth::ProxyKey;
use suijuris_core::bundle::Bundle;
use suijuris_core::governance::{Residual, RuleSet};
use suijuris_core::id::Digest;
use suijuris_core::inputs::{Caller, Host};
use suijuris_core::key::PublicKey;
use suijuris_core::lifecycle::{self, Phase};
use suijuris_core::lineage::Fired;
use suijuris_core::owner_request::nobody;
use suijuris_core::time::{Now, Reading, Span};
use suijuris_gate::{Forwarding, Traffic};
use suijuris_link::Cause;
use suijuris_link::launch::ServedAs;
use tokio::sync::{Notify, mpsc, watch};

use crate::agent::Feed;
use crate::auth::Callers;
use crate::authorizer;
use crate::holds::{self, Holds};
use crate::inbox::Inbox;
use crate::intake::Intake;
use crate::lineage_writer::LineageWriter;
use crate::refusals::Refusals;
use crate::report::Reports;
use suijuris_custody::claim::Claim;
use suijuris_custody::clock::{Clock, Continuity, ResumeDetector};
use suijuris_custody::rates::KeptRates;

/// How long a supervisor may take to keep a key.
const KEPT_WITHIN: Duration = Duration::from_secs(10);

/// The resident object.
#[derive(Debug)]
pub struct Resident {
    id: String,
    bundle: Arc<Bundle>,
    lineage: LineageWriter,
    clock: Rc<Clock>,
    detector: RefCell<ResumeDetector>,
    paused: Cell<Span>,
    /// A pause was found while nothing could be served.
    missed: Cell<bool>,
    /// It is suspended, and copies may be made of it: whether it is the one that goes on, only its supervisor can say.
    awaits_word: Cell<bool>,
    /// Its supervisor keeps its waiting key.
    key_kept: Notify,
    workload_pid: Cell<Option<i32>>,
    workload: asking::WorkloadAccount,
    host: Host,
    /// Why the machine runs; for a pause that nobody announced, what it was started for.
    cause: RefCell<Cause>,
    server: Cell<PublicKey>,
    served_as: Option<ServedAs>,
    /// The image that this machine has its files from.
    image: Option<Digest>,
    callers: Callers,
    /// Other objects, where a proxy carries requests to them.
    elsewhere: Option<elsewhere::Elsewhere>,
    /// The platform's proxy, where it says what it knows of clients.
    proxy: Option<ProxyKey>,
    anonymous: Arc<Caller>,
    claim: Claim,
    holds: Holds,
    inbox: Inbox,
    rates: RefCell<KeptRates>,
    traffic: Rc<Traffic>,
    /// Requests and connections that its sleep ends.
    cut: Cell<u64>,
    active_since: Cell<Instant>,
    /// Since when the gate has been open; none before it opens, when nobody can use the object.
    serves_since: Cell<Option<Instant>>,
    phase: Cell<Phase>,
    /// What tells the workload which object it is in, rendered once for each epoch; nothing where it cannot be.
    identity: RefCell<Option<Forwarding>>,
    /// Rules of `admit` with the state at this position worked in.
    residual: RefCell<Option<(u64, Residual)>>,
    admitted: RefCell<Vec<(RuleSet, u64)>>,
    refusals: RefCell<Refusals>,
    changes: Feed,
    notices: Feed,
    /// Something that `remain` may depend on has changed.
    stirred: Notify,
    intake: Intake,
    workload_ready: watch::Sender<bool>,
    /// The mark covers the record that began this activation, as far as it is waited for.
    witnessed: watch::Sender<bool>,
    events: mpsc::Sender<lifecycle::Event>,
    reports: Reports,
    ending: ending::Ending,
    moving: moving::Moving,
}

/// What a resident object is made of.
pub struct Parts {
    /// The object on disk, open for writing.
    pub lineage: LineageWriter,
    /// Its bundle.
    pub bundle: Arc<Bundle>,
    /// The clock.
    pub clock: Rc<Clock>,
    /// Where the machine runs.
    pub host: Host,
    /// The server that owners' requests are signed for; none are heard without one.
    pub server: Option<PublicKey>,
    /// How the object is called among others of its host; any host is its own without.
    pub served_as: Option<ServedAs>,
    /// Where it may move to of its own accord, as its host says.
    pub places: Vec<Host>,
    /// See [`Resident`].
    pub image: Option<Digest>,
    /// Verifies callers' tokens.
    pub callers: Callers,
    /// Other objects, where a proxy carries requests to them.
    pub(crate) elsewhere: Option<elsewhere::Elsewhere>,
    /// The platform's proxy, where it says what it knows of clients.
    pub(crate) proxy: Option<ProxyKey>,
    /// This copy's right to the object.
    pub claim: Claim,
    /// For which everything up to the claim is accounted for: a copy may have been made since.
    pub detector: ResumeDetector,
    /// Messages that wait for it.
    pub inbox: Inbox,
    /// How often somebody asked.
    pub rates: KeptRates,
    /// The gate's counters.
    pub traffic: Rc<Traffic>,
    /// Where lifecycle events go.
    pub events: mpsc::Sender<lifecycle::Event>,
    /// Where reports go.
    pub reports: Reports,
}

impl Resident {
    /// The object, not yet awake.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            lineage,
            bundle,
            clock,
            host,
            server,
            served_as,
            places,
            image,
            callers,
            elsewhere,
            proxy,
            claim,
            detector,
            inbox,
            rates,
            traffic,
            events,
            reports,
        } = parts;
        Self {
            ending: ending::Ending::of(&bundle),
            moving: moving::Moving::of(&bundle, places),
            id: lineage.published(|state| state.head().object.to_string()),
            detector: RefCell::new(detector),
            paused: Cell::default(),
            missed: Cell::default(),
            awaits_word: Cell::default(),
            key_kept: Notify::new(),
            workload_pid: Cell::new(None),
            workload: asking::WorkloadAccount::default(),
            bundle,
            lineage,
            clock,
            cause: RefCell::new(Cause::boot(host.clone())),
            // A key that nobody has where none was named.
            server: Cell::new(server.unwrap_or_else(nobody)),
            served_as,
            image,
            host,
            callers,
            elsewhere,
            proxy,
            anonymous: Arc::default(),
            claim,
            holds: Holds::default(),
            inbox,
            rates: RefCell::new(rates),
            traffic,
            cut: Cell::default(),
            active_since: Cell::new(Instant::now()),
            serves_since: Cell::new(None),
            phase: Cell::new(Phase::Dormant),
            identity: RefCell::default(),
            residual: RefCell::default(),
            admitted: RefCell::default(),
            refusals: RefCell::default(),
            changes: Feed::default(),
            notices: Feed::default(),
            stirred: Notify::new(),
            intake: Intake::default(),
            workload_ready: watch::Sender::new(false),
            witnessed: watch::Sender::new(true),
            events,
            reports,
        }
    }

    /// Identity, as text.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bundle in force.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The object on disk.
    #[must_use]
    pub fn lineage(&self) -> &LineageWriter {
        &self.lineage
    }

    /// Where reports go.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Counters of the gate.
    #[must_use]
    pub fn traffic(&self) -> &Rc<Traffic> {
        &self.traffic
    }

    /// This copy's right to the object.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// An activation is durable, and its mark on the way; or that is there, where it is waited for.
    pub fn activation_witnessed(&self, witnessed: bool) {
        self.witnessed.send_replace(witnessed);
    }

    /// Resolves once the witness knows this activation as its bundle asks: before that nothing is served, acknowledged or
    /// signed for the workload.
    pub async fn may_answer(&self) {
        // Its sender lives as long as this.
        let _ = self.witnessed.subscribe().wait_for(|witnessed| *witnessed).await;
    }

    /// Messages that wait for the object.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Something that `remain` may depend on has changed.
    pub fn notify_changed(&self) {
        self.stirred.notify_one();
    }

    /// The number of waiting messages has changed: the rules and the workload hear of it.
    pub fn messages_changed(&self) {
        let waiting = self.inbox.waiting();
        self.notices
            .send("messages", &serde_json::json!({"waiting": waiting}));
        self.notify_changed();
    }

    /// Whether connections of the owner are taken.
    #[must_use]
    pub const fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Notices to the workload.
    #[must_use]
    pub fn notice_feed(&self) -> &Feed {
        &self.notices
    }

    /// Memory changes to the workload.
    #[must_use]
    pub fn memory_feed(&self) -> &Feed {
        &self.changes
    }

    /// Says an event to the lifecycle. A full queue means that the lifecycle is about to end.
    pub fn say(&self, event: lifecycle::Event) {
        let _ = self.events.try_send(event);
    }

    /// The lifecycle has moved.
    pub fn enter(&self, phase: Phase) {
        if phase == Phase::Active && self.phase.get() != Phase::Active {
            self.active_since.set(Instant::now());
            self.serves_since.set(None);
            let epoch = self.lineage.published(|state| state.head().epoch);
            self.identity.replace(authorizer::identity(self.id(), epoch));
        }
        self.phase.set(phase);
        let missed = self.missed.get();
        match phase {
            // What is decided before it serves again holds for what happened while it slept.
            Phase::Suspended => self.missed.set(false),
            Phase::Active if missed => {
                self.missed.set(false);
                self.machine_resumed();
            }
            _ => {}
        }
        self.stirred.notify_one();
    }

    /// The gate opens: idleness counts from now, since what kept it shut, such as a slow witness, is no idleness.
    pub fn serves(&self) {
        self.serves_since.set(Some(Instant::now()));
    }

    /// Phase of the lifecycle.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Resolves when something that `remain` may depend on has changed.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }

    // Time.

    /// The time that a decision uses.
    #[must_use]
    pub fn now(&self) -> Now {
        self.lineage.now(self.clock.reading())
    }

    /// One look at the clocks.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.clock.reading()
    }

    /// The server that owners' requests are signed for; a key that nobody has where none was named.
    #[must_use]
    pub const fn server(&self) -> PublicKey {
        self.server.get()
    }

    /// Whether a request for this canonical host is meant for another object of this host.
    #[must_use]
    pub fn is_anothers(&self, host: &str) -> bool {
        self.served_as.as_ref().is_some_and(|own| own.is_anothers(host))
    }

    /// Another supervisor, with another key, has taken over.
    pub fn serve_for(&self, server: PublicKey) {
        self.server.set(server);
    }

    /// Whether the machine was suspended since the last look; the first to notice tells the lifecycle.
    #[must_use]
    pub fn jumped(&self) -> bool {
        self.look().1
    }

    /// Whether anything may be admitted or acknowledged now: the machine was not suspended, and the object is still held.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        let (boot_ns, jumped) = self.look();
        !jumped && self.claim.is_good(boot_ns)
    }

    /// Boot time, and whether the machine was suspended since the last look.
    fn look(&self) -> (u64, bool) {
        let (reading, continuity) = self.clock.check(&mut self.detector.borrow_mut());
        if let Continuity::Jumped { paused, .. } = continuity {
            self.paused.set(paused);
            match self.phase.get() {
                Phase::Active | Phase::Suspended => self.machine_resumed(),
                // Once it would serve: what was decided and claimed before the pause counts no more.
                _ => self.missed.set(true),
            }
        }
        let jumped = matches!(self.phase.get(), Phase::Resuming | Phase::Suspended);
        (reading.boot_ns, jumped)
    }

    /// The machine was suspended and runs again: nothing is forwarded until `wake` is decided again. The host says so,
    /// or the clocks do.
    pub fn machine_resumed(&self) {
        if self.awaits_word.get() {
            return;
        }
        let phase = self.phase.get();
        if phase == Phase::Suspended {
            self.claim.announce_pause();
            let (_, continuity) = self.clock.check(&mut self.detector.borrow_mut());
            if let Continuity::Jumped { paused, .. } = continuity {
                self.paused.set(paused);
            }
        }
        if matches!(phase, Phase::Active | Phase::Suspended) {
            self.phase.set(Phase::Resuming);
            self.say(lifecycle::Event::Resumed);
        }
    }

    /// The machine is about to be suspended, and others may begin as its copies: it goes on by the word of its supervisor alone,
    /// whatever its clocks say.
    pub fn awaits_word(&self) {
        self.awaits_word.set(true);
    }

    /// Its supervisor keeps its waiting key.
    pub fn key_is_kept(&self) {
        self.key_kept.notify_one();
    }

    /// Gives its waiting key to its supervisor and forgets it, here and on the disk: whoever begins as a copy of this machine finds none.
    /// Whether it did.
    ///
    /// # Errors
    /// The disk's.
    pub async fn give_key_away(&self) -> Result<bool, suijuris_store::CommitError> {
        let writer = self.lineage.writer();
        self.reports().give_key(&writer.waiting_seed());
        let kept = tokio::time::timeout(KEPT_WITHIN, self.key_kept.notified()).await;
        if kept.is_ok() {
            writer.forget_key()?;
        }
        Ok(kept.is_ok())
    }

    /// The supervisor says that it is this machine that goes on.
    pub fn hears_of_resumption(&self) {
        self.awaits_word.set(false);
    }

    /// How long the machine was last suspended; negative for a clock that went back.
    #[must_use]
    pub fn paused(&self) -> Span {
        self.paused.get()
    }

    /// The machine was started, or runs again, for this reason.
    pub fn started_for(&self, cause: Cause) {
        self.cause.replace(cause);
    }

    /// Timer occurrences that the machine runs for.
    #[must_use]
    pub fn launch_fired(&self) -> Fired {
        std::mem::take(&mut self.cause.borrow_mut().fired)
    }

    // Holds.

    /// Names of the holds in force.
    #[must_use]
    pub fn hold_names(&self) -> BTreeSet<String> {
        self.holds.names(Instant::now())
    }

    /// When the next hold ends.
    #[must_use]
    pub fn next_hold_end(&self) -> Option<Instant> {
        self.holds.next_end(Instant::now())
    }

    /// Takes or prolongs a hold.
    ///
    /// # Errors
    /// As [`Holds::take`].
    pub fn take_hold(&self, name: &str, length: Duration) -> Result<(), holds::Error> {
        self.holds.take(name, length, Instant::now())?;
        self.holds_changed();
        Ok(())
    }

    /// Releases a hold; whether it was in force.
    pub fn release_hold(&self, name: &str) -> bool {
        let released = self.holds.release(name, Instant::now());
        self.holds_changed();
        released
    }

    fn holds_changed(&self) {
        let left = self.holds.left(Instant::now());
        self.reports().holds(crate::agent::holds_left(left));
        self.stirred.notify_one();
    }
}
