//! The door itself: what is known of an object, what its rules say, and waking it.
//!
//! Everything here may be called by a server or by a program that embeds the door. Whatever waits is bounded in time
//! and number. Nothing is started before the rules that the object carries have permitted it.

mod asking;
mod due;
mod inbox;
mod waking;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use suijuris_api::event::Event;
use suijuris_core::ObjectId;
use suijuris_core::inputs::Host;
use suijuris_core::time::{Reading, Timestamp};
use suijuris_depot::Depot;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{Config, Limits, Location};
use crate::heads::{self, Found, Trust};
use crate::metrics::Metrics;
use crate::notes::{NotedRefusal, Notes};
use crate::rates::RateTables;
use crate::single_flight::SingleFlight;
use crate::sleepers::Sleepers;
use crate::waker::Waker;

/// Locks under which an object is looked for: as many can be looked for at once, and each by one alone.
const STRIPES: usize = 512;

/// Announcements listed at once, and read at once, when all are read.
const PAGE: usize = 1_000;
const AT_ONCE: usize = 64;

/// Ticks a second of the clock that entries carry.
const TICKS: u64 = 100;

/// Objects known to be unknown, at most.
const ABSENT: usize = 16_384;

/// Reads the clocks: the one place where time comes from.
pub type Clock = Arc<dyn Fn() -> Reading + Send + Sync>;

/// Takes events: refusals, failures.
pub type Listener = Arc<dyn Fn(ObjectId, Event) + Send + Sync>;

/// Takes refusals in full, for owners who ask later. Called where requests are answered: it must not wait.
pub type RefusalKeeper = Arc<dyn Fn(&NotedRefusal) + Send + Sync>;

/// Who passes, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// The object is awake: it decides.
    Awake,
    /// Its rules permit it; somebody else starts the machine.
    Permitted,
    /// Its rules permitted it, and it woke.
    Woken,
}

impl Passed {
    /// The word used in headers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Awake => "awake",
            Self::Permitted => "permitted",
            Self::Woken => "woken",
        }
    }
}

/// What an object does, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectStatus {
    /// It sleeps, and is decided for.
    Asleep,
    /// It is awake.
    Awake,
    /// The depot has nothing of it.
    Unknown,
}

/// A door over one depot.
pub struct Door {
    depot: Arc<dyn Depot>,
    sleepers: Sleepers,
    waker: Box<dyn Waker>,
    wakes: SingleFlight,
    notes: Notes,
    rates: RateTables,
    pub(crate) metrics: Metrics,
    limits: Limits,
    trust: Trust,
    host: Host,
    clock: Clock,
    listener: Option<Listener>,
    keeper: Option<RefusalKeeper>,
    started: Instant,
    stripes: Box<[tokio::sync::Mutex<()>]>,
    reads: Semaphore,
    running: Semaphore,
    absent: Mutex<HashMap<ObjectId, u32>>,
    due: Mutex<BTreeSet<(Timestamp, ObjectId)>>,
    deferred: SingleFlight,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("depot", &self.depot.describe())
            .field("objects", &self.sleepers.len())
            .finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// A door over `depot`, as `config` says.
    #[must_use]
    pub fn new(depot: Arc<dyn Depot>, config: Config, clock: Clock, listener: Option<Listener>) -> Self {
        let waker = config.waker.waker();
        Self::with_waker(
            depot,
            waker,
            config.limits,
            config.trust,
            &config.place,
            clock,
            listener,
        )
    }

    /// The same door, whose refusals `keeper` takes.
    #[must_use]
    pub fn keeping(mut self, keeper: RefusalKeeper) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// A door with a waker of the caller's making.
    #[must_use]
    pub fn with_waker(
        depot: Arc<dyn Depot>,
        waker: Box<dyn Waker>,
        limits: Limits,
        trust: Trust,
        place: &Location,
        clock: Clock,
        listener: Option<Listener>,
    ) -> Self {
        Self {
            depot,
            sleepers: Sleepers::new(limits.table_bytes),
            waker,
            wakes: SingleFlight::new(limits.pauses),
            deferred: SingleFlight::new(limits.pauses),
            notes: Notes::new(limits.noted),
            rates: RateTables::default(),
            metrics: Metrics::default(),
            trust,
            host: place.host(),
            clock,
            listener,
            keeper: None,
            started: Instant::now(),
            stripes: (0..STRIPES).map(|_| tokio::sync::Mutex::default()).collect(),
            reads: Semaphore::new(limits.depot_reads),
            running: Semaphore::new(limits.wakes),
            absent: Mutex::default(),
            due: Mutex::default(),
            tasks: Mutex::default(),
            limits,
        }
    }

    /// The table of sleepers.
    #[must_use]
    pub const fn sleepers(&self) -> &Sleepers {
        &self.sleepers
    }

    /// The depot.
    #[must_use]
    pub fn depot(&self) -> &dyn Depot {
        &*self.depot
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)().wall
    }

    fn tick(&self) -> u32 {
        let ticks = self.started.elapsed().as_millis() * u128::from(TICKS) / 1_000;
        // Wraps after sixteen months; what nobody asked for since then looks fresh once.
        u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or_default()
    }

    fn is_within(&self, checked: u32, age: Duration) -> bool {
        let ticks = age.as_millis() * u128::from(TICKS) / 1_000;
        u128::from(self.tick().wrapping_sub(checked)) < ticks
    }

    /// Runs `work` beside everything else, until the door is closed.
    fn aside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Waits for what runs beside, at most this long; then it is dropped.
    pub async fn close(&self, at_most: Duration) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        // What takes longer is dropped with the set.
        let _ = tokio::time::timeout(at_most, all).await;
        self.tell_refusals(true);
    }

    // What is known.

    /// What `object` does. Looks into the depot where what is known is older than it may be.
    ///
    /// # Errors
    /// [`heads::Error`] where what the depot has is not believed, or it does not answer.
    pub async fn look(&self, object: ObjectId) -> Result<ObjectStatus, heads::Error> {
        if let Some(status) = self.recall(object, self.limits.fresh_for) {
            return Ok(status);
        }
        let _alone = match self.stripe(object) {
            Some(stripe) => Some(stripe.lock().await),
            None => None,
        };
        // Whoever held the lock may have looked.
        if let Some(status) = self.recall(object, self.limits.fresh_for) {
            return Ok(status);
        }
        match self.read(object).await {
            Ok(status) => Ok(status),
            Err(error) => {
                self.metrics.head_refused(error.as_str());
                let recalled = self.recall(object, self.limits.stale_for);
                recalled.filter(|_| error.is_unreachable()).ok_or(error)
            }
        }
    }

    fn stripe(&self, object: ObjectId) -> Option<&tokio::sync::Mutex<()>> {
        let [a, b, ..] = object.digest().0;
        self.stripes
            .get(usize::from(u16::from_be_bytes([a, b])) % STRIPES)
    }

    fn recall(&self, object: ObjectId, age: Duration) -> Option<ObjectStatus> {
        if let Some(known) = self.sleepers.known(object) {
            let status = if known.asleep {
                ObjectStatus::Asleep
            } else {
                ObjectStatus::Awake
            };
            return self.is_within(known.checked, age).then_some(status);
        }
        let checked = lock(&self.absent).get(&object).copied()?;
        self.is_within(checked, age.min(self.limits.fresh_for))
            .then_some(ObjectStatus::Unknown)
    }

    /// Reads what the depot has and takes it in.
    async fn read(&self, object: ObjectId) -> Result<ObjectStatus, heads::Error> {
        let before = self.sleepers.known(object);
        let reading = async {
            let _turn = self.reads.acquire().await;
            let at_hand = |id| self.sleepers.bundle(id);
            heads::find(&*self.depot, object, before.as_ref(), self.trust, at_hand).await
        };
        let found = tokio::time::timeout(self.limits.depot_within, reading)
            .await
            .map_err(|_| heads::Error::Slow)??;
        let checked = self.tick();
        let status = match found {
            Found::Nothing => {
                self.sleepers.forget(object);
                let mut absent = lock(&self.absent);
                if absent.len() >= ABSENT {
                    absent.clear();
                }
                absent.insert(object, checked);
                return Ok(ObjectStatus::Unknown);
            }
            Found::Same => {
                self.sleepers.touch(object, checked);
                ObjectStatus::Asleep
            }
            Found::Awake(mark) => {
                self.sleepers
                    .awake(object, mark.head, mark.seq, mark.epoch, checked);
                ObjectStatus::Awake
            }
            Found::Asleep(state, bundle) => {
                let kept = self.sleepers.keep(&state, &bundle, self.now(), checked);
                match kept {
                    Ok(known) => {
                        if let Some(due) = known.due {
                            self.put_off(due, object);
                        }
                        ObjectStatus::Asleep
                    }
                    // What cannot be decided for is left to the object.
                    Err(error) => {
                        self.tell(object, "door_table", &error.to_string());
                        ObjectStatus::Awake
                    }
                }
            }
        };
        lock(&self.absent).remove(&object);
        Ok(status)
    }

    // At large.

    /// Reads all announcements that the depot has; how many objects sleep and are decided for.
    ///
    /// # Errors
    /// As [`suijuris_depot::Archive::announced`]. Single objects that are not believed are counted and skipped.
    pub async fn preload(self: &Arc<Self>) -> Result<usize, suijuris_depot::Error> {
        let (mut after, mut asleep) = (None, 0);
        let mut looks: JoinSet<bool> = JoinSet::new();
        loop {
            let page = self.depot.announced(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for object in page {
                if looks.len() >= AT_ONCE
                    && let Some(slept) = looks.join_next().await
                {
                    asleep += usize::from(slept.unwrap_or_default());
                }
                let door = Arc::clone(self);
                looks.spawn(async move { matches!(door.look(object).await, Ok(ObjectStatus::Asleep)) });
            }
        }
        while let Some(slept) = looks.join_next().await {
            asleep += usize::from(slept.unwrap_or_default());
        }
        Ok(asleep)
    }

    /// Whether the depot answers.
    pub async fn depot_answers(&self) -> bool {
        let asked = self.depot.due(Timestamp(i64::MIN), 1);
        let answers = matches!(
            tokio::time::timeout(self.limits.depot_within, asked).await,
            Ok(Ok(_))
        );
        self.metrics.depot.set(i64::from(answers));
        answers
    }

    /// The metrics as text, with those of whoever has the door.
    #[must_use]
    pub fn metrics_text(&self, beside: Option<&Registry>) -> String {
        let counts = self.sleepers.counts();
        self.metrics.objects("dormant", counts.asleep);
        self.metrics.objects("active", counts.awake);
        self.metrics.objects("refused", self.notes.len());
        self.metrics
            .objects("resting", self.wakes.backing_off(Instant::now()));
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.bytes.set(number(self.sleepers.bytes()));
        self.metrics.bundles.set(number(self.sleepers.bundles()));
        self.metrics.text(beside)
    }
}

/// An error with its causes, in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
