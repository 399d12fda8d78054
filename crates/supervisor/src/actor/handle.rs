//! The way to an actor, for whoever listens, keeps or looks: what may be sent to it, and what it shows of its object.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::history::Paused;
use suijuris_core::activation::Phase;
use suijuris_core::lineage;
use suijuris_core::time::{Span, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Input;

/// The way to an actor. Clones lead to the same one.
#[derive(Debug, Clone)]
pub struct ObjectHandle {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) accepting: watch::Receiver<bool>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) awake: Rc<Cell<Awake>>,
    /// What its last record says of it, where that is known here.
    pub(super) recorded: Rc<Cell<Option<lineage::Phase>>>,
    /// Its last activation, by its records and by what its runtime says.
    pub(super) epoch: Rc<Cell<u64>>,
    /// When it recorded something last, while it rests.
    pub(super) rests_since: Rc<Cell<Option<Timestamp>>>,
    /// Whether something may come of it while it sleeps, with nobody asking: its timers, messages, rules of its own that look at the time.
    pub(super) looked_after: Rc<Cell<bool>>,
    pub(super) pause: Pause,
    pub(super) holds: Holds,
}

/// Holds that are kept of one object at most: a runtime takes no more either.
const MAX_HOLDS: usize = 256;

/// Until when an object is left alone after a failure, and after what.
pub(super) type Pause = Rc<RefCell<Option<(Instant, String)>>>;

/// The holds that its runtime told of, and until when they are in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(Rc<RefCell<BTreeMap<String, Instant>>>);

impl Holds {
    /// These are in force from now on, each for so many milliseconds.
    pub(super) fn told(&self, left: BTreeMap<String, u64>) {
        let now = Instant::now();
        let until = |ms: u64| now.checked_add(Duration::from_millis(ms));
        let holds = left.into_iter().filter_map(|(name, ms)| Some((name, until(ms)?)));
        self.0.replace(holds.take(MAX_HOLDS).collect());
    }

    /// With the time that they have left in milliseconds.
    pub(super) fn left(&self) -> BTreeMap<String, u64> {
        let now = Instant::now();
        let left = |until: &Instant| until.checked_duration_since(now).filter(|left| !left.is_zero());
        let holds = self.0.borrow();
        let named = |(name, until): (&String, &Instant)| {
            let ms = u64::try_from(left(until)?.as_millis()).unwrap_or(u64::MAX);
            Some((name.clone(), ms))
        };
        holds.iter().filter_map(named).collect()
    }
}

/// How long an object was awake in all its life.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Awake {
    /// As its records tell of activations that ended.
    pub(super) before: Duration,
    pub(super) since: Option<Instant>,
}

impl Awake {
    pub(super) fn recorded(span: Span) -> Self {
        Self {
            before: Duration::from_millis(u64::try_from(span.0).unwrap_or(0)),
            since: None,
        }
    }

    pub(super) fn total(self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl ObjectHandle {
    /// Sends; what was sent where the actor has ended.
    ///
    /// # Errors
    /// The input.
    pub async fn send(&self, input: Input) -> Result<(), Input> {
        self.inputs.send(input).await.map_err(|error| error.0)
    }

    /// Sends, if the actor has room.
    ///
    /// # Errors
    /// The input, where too much waits or the actor has ended.
    pub fn try_send(&self, input: Input) -> Result<(), Input> {
        self.inputs
            .try_send(input)
            .map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Whether whoever listens for this object alone accepts connections now: awake, its runtime does.
    #[must_use]
    pub fn accepting(&self) -> watch::Receiver<bool> {
        self.accepting.clone()
    }

    /// Where its activation stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until no machine has the object: it rests, in a suspended machine at most, or nothing more comes of it.
    pub async fn rests(&self) {
        let mut phase = self.phase.clone();
        let rests = |phase: &Phase| {
            matches!(
                phase,
                Phase::Resting | Phase::BackingOff | Phase::Suspended | Phase::Lost
            )
        };
        // Its actor has ended where nothing more comes.
        let _ = phase.wait_for(rests).await;
    }

    /// How long the object was awake in all its life, by its records, and by our clock while it runs.
    #[must_use]
    pub fn awake(&self) -> Duration {
        self.awake.get().total()
    }

    /// The number of its last activation.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Whether something is looked after while it sleeps: timers, messages, an end or a move of its own by the time.
    #[must_use]
    pub fn is_looked_after(&self) -> bool {
        self.looked_after.get()
    }

    /// Since when it rests and has recorded nothing; none while it does not.
    #[must_use]
    pub fn rests_since(&self) -> Option<Timestamp> {
        self.rests_since.get()
    }

    /// What keeps it from waking for good, by its last record: `terminated`, `departed` or `quarantined`.
    #[must_use]
    pub fn closed(&self) -> Option<&'static str> {
        use lineage::Phase::{Departed, Quarantined, Terminated};
        let recorded = self.recorded.get()?;
        matches!(recorded, Departed | Quarantined | Terminated).then(|| recorded.as_str())
    }

    /// That it is left alone after a failure, where it is.
    #[must_use]
    pub fn paused(&self) -> Option<Paused> {
        paused(&self.pause)
    }

    /// Its holds, with the time they have left in milliseconds.
    #[must_use]
    pub fn holds(&self) -> BTreeMap<String, u64> {
        self.holds.left()
    }

    /// Whether the actor has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.inputs.is_closed()
    }
}

pub(super) fn paused(pause: &Pause) -> Option<Paused> {
    let pause = pause.borrow();
    let (until, why) = pause.as_ref()?;
    let left = until.checked_duration_since(Instant::now())?;
    Some(Paused {
        seconds: left.as_secs() + u64::from(left.subsec_nanos() > 0),
        why: why.clone(),
    })
}
