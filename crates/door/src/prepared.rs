//! A bundle as a door keeps it: once, for all sleeping objects that carry it.

use std::collections::BTreeMap;
use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_auth::{KeyError, Keys};
use suijuris_core::ObjectId;
use suijuris_core::bundle::Bundle;
use suijuris_core::governance::Action;
use suijuris_core::lineage::Fired;
use suijuris_core::memory::Kind;
use suijuris_core::time::{Now, Timestamp};
use suijuris_core::trigger::{Pending, ScheduleError, Timers};

use crate::authenticate::{self, Credentials, Shown};

/// Actions that the door decides.
const ACTIONS: [Action; 2] = [Action::Wake, Action::Admit];

/// A field that the rules of these actions look at.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Position in name order.
    pub(crate) position: usize,
    /// The value counts, and not only when it was written.
    pub(crate) value: bool,
    /// Type of the field.
    pub(crate) kind: Kind,
}

/// Why a bundle that belongs together still cannot be decided with.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A pinned key.
    #[error("the bundle's caller keys cannot be used")]
    Key(#[from] KeyError),
    /// A timer.
    #[error("the bundle's timers cannot be used")]
    Timer(#[from] ScheduleError),
}

/// A bundle with what follows from it: the keys of callers and the tokens verified lately, timers, where rules look.
#[derive(Debug)]
pub struct PreparedBundle {
    bundle: Arc<Bundle>,
    looks: Vec<Look>,
    identity: bool,
    messages: bool,
    timers: Timers,
    keys: Keys,
}

impl PreparedBundle {
    /// What follows from `bundle`.
    ///
    /// # Errors
    /// [`PrepareError`]; a bundle that was built or decoded here is not.
    pub fn new(bundle: Arc<Bundle>) -> Result<Self, PrepareError> {
        let watches = ACTIONS.map(|action| bundle.rules.program.watches(action));
        let mut looks: BTreeMap<usize, bool> = BTreeMap::new();
        for position in watches.iter().flat_map(|watches| &watches.fresh) {
            looks.entry(usize::from(*position)).or_insert(false);
        }
        for position in watches.iter().flat_map(|watches| &watches.memory) {
            looks.insert(usize::from(*position), true);
        }
        let look = |(position, value): (usize, bool)| {
            let (_, field) = bundle.schema().at(position)?;
            let kind = field.kind.clone();
            Some(Look {
                position,
                value,
                kind,
            })
        };
        Ok(Self {
            looks: looks.into_iter().filter_map(look).collect(),
            identity: watches.iter().any(|watches| watches.identity),
            messages: watches.iter().any(|watches| watches.messages),
            timers: Timers::new(&bundle.manifest.triggers.timers)?,
            keys: Keys::new(&bundle.manifest.callers, &bundle.manifest.claims)?,
            bundle,
        })
    }

    /// The bundle.
    #[must_use]
    pub const fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// Fields to keep, in the order of their positions.
    pub(crate) fn looks(&self) -> &[Look] {
        &self.looks
    }

    /// Whether rules look at the object's id.
    pub(crate) const fn identity(&self) -> bool {
        self.identity
    }

    /// Whether rules look at how many messages wait.
    pub(crate) const fn messages(&self) -> bool {
        self.messages
    }

    /// Who shows these credentials to `object` at `now`: a caller, anonymous without a token, or another object.
    ///
    /// # Errors
    /// The [`Problem`] to answer with: they mean another object, or their token is not valid.
    pub fn shown(&self, object: ObjectId, now: Now, credentials: Credentials<'_>) -> Result<Shown, Problem> {
        authenticate::shown(self, object, now, credentials)
    }

    pub(crate) const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether a message on this topic proposes a wake.
    #[must_use]
    pub fn wakes_for(&self, topic: &str) -> bool {
        self.bundle.manifest.triggers.topics.contains(topic)
    }

    /// What timers want of an object born at `born` that has dealt with `fired`.
    pub(crate) fn pending(&self, fired: &Fired, born: Timestamp, now: Timestamp) -> Pending {
        self.timers.pending(fired, born, now)
    }
}

/// When timers want their object awake: the past where one has come due and fires. Occurrences that are skipped want
/// nothing.
#[must_use]
pub fn due(pending: &Pending) -> Option<Timestamp> {
    let firing = pending.due.iter().filter(|(_, due)| !due.fire.is_empty());
    firing.map(|(_, due)| due.up_to).min().or(pending.next)
}
