//! Refusals at a door, coalesced: the first of each kind at once, then a count a minute. [`Tally`] is one object's;
//! [`Notes`] those of many, for events: bounded in objects, and what exceeds that is counted in metrics alone.
//!
//! Whether they are recorded is the caller's affair: `up` writes its object's into the lineage, the door of many writes
//! no lineage.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use suijuris_core::lineage::{Decision, Refused};
use suijuris_core::refusals::{RefusalId, Refusals};
use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ObjectId};

/// Where these refusals were given, in records and events.
const AT: &str = "door";

/// Refusals of one object, not yet told.
#[derive(Debug, Default)]
pub(crate) struct Tally(Refusals);

impl Tally {
    /// Takes note of a refusal.
    pub(crate) fn add(&mut self, decision: &Decision, at: Timestamp) {
        self.0.add(decision, at);
    }

    /// The decision that the record of this refusal keeps.
    pub(crate) fn first<'a>(&'a self, decision: &'a Decision) -> &'a Decision {
        self.0.first(decision)
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first of each kind, and counts of windows that are over, or all.
    pub(crate) fn take(&mut self, at: Timestamp, all: bool) -> Vec<Refused> {
        let mut taken = self.0.take(at, all);
        for refused in &mut taken {
            AT.clone_into(&mut refused.at);
        }
        taken
    }
}

/// Refusals of many objects, not yet told.
#[derive(Debug)]
pub(crate) struct Notes {
    objects: Mutex<HashMap<ObjectId, (BundleId, Tally)>>,
    max: usize,
}

/// Refusals of one kind that a door gave, as whoever keeps them hears of them.
#[derive(Debug, Clone)]
pub struct NotedRefusal {
    /// What each refused caller quotes.
    pub id: RefusalId,
    /// The object that was decided for.
    pub object: ObjectId,
    /// The first in full, and how many since the last time.
    pub refused: Refused,
}

impl NotedRefusal {
    fn of(object: ObjectId, bundle: BundleId, refused: Refused) -> Self {
        Self {
            id: RefusalId::of(object, bundle, &refused.decision),
            object,
            refused,
        }
    }
}

impl Notes {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            objects: Mutex::default(),
            max,
        }
    }

    /// Takes note of a refusal of an object under the rules of `bundle`: its id, and what is to be told now.
    pub(crate) fn add(
        &self,
        (object, bundle): (ObjectId, BundleId),
        decision: &Decision,
        at: Timestamp,
    ) -> (RefusalId, Vec<NotedRefusal>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.len() >= self.max && !objects.contains_key(&object) {
            return (RefusalId::of(object, bundle, decision), Vec::new());
        }
        let (under, tally) = objects
            .entry(object)
            .or_insert_with(|| (bundle, Tally::default()));
        // Other rules count anew: what was counted under the former ones is told first.
        let mut told = Vec::new();
        if *under != bundle {
            let former = std::mem::replace(under, bundle);
            let counted = std::mem::take(tally).take(at, true).into_iter();
            told.extend(counted.map(|refused| NotedRefusal::of(object, former, refused)));
        }
        tally.add(decision, at);
        let id = RefusalId::of(object, bundle, tally.first(decision));
        let new = tally.take(at, false).into_iter();
        told.extend(new.map(|refused| NotedRefusal::of(object, bundle, refused)));
        (id, told)
    }

    /// Counts of windows that are over, or all; objects with nothing more to tell are forgotten.
    pub(crate) fn take(&self, at: Timestamp, all: bool) -> Vec<NotedRefusal> {
        let mut told = Vec::new();
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.retain(|object, (bundle, tally)| {
            let taken = tally.take(at, all).into_iter();
            told.extend(taken.map(|refused| NotedRefusal::of(*object, *bundle, refused)));
            !tally.is_empty()
        });
        told
    }

    /// Objects that refused something within the last minute.
    pub(crate) fn len(&self) -> usize {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
