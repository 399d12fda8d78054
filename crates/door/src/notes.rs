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
    objects: Mutex<HashMap<ObjectId, Tally>>,
    max: usize,
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
    ) -> (RefusalId, Vec<Refused>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.len() >= self.max && !objects.contains_key(&object) {
            return (RefusalId::of(object, bundle, decision), Vec::new());
        }
        let tally = objects.entry(object).or_default();
        tally.add(decision, at);
        let id = RefusalId::of(object, bundle, tally.first(decision));
        (id, tally.take(at, false))
    }

    /// Counts of windows that are over, or all; objects with nothing more to tell are forgotten.
    pub(crate) fn take(&self, at: Timestamp, all: bool) -> Vec<(ObjectId, Refused)> {
        let mut told = Vec::new();
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.retain(|object, tally| {
            told.extend(tally.take(at, all).into_iter().map(|refused| (*object, refused)));
            !tally.is_empty()
        });
        told
    }

    /// Objects that refused something within the last minute.
    pub(crate) fn len(&self) -> usize {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
