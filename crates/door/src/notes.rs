//! Refusals at the door, coalesced by object and kind, for events: the first of each kind at once, then a count a
//! minute. Bounded in objects; what exceeds that is counted in metrics alone. The door writes no lineage.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use suijuris_core::ObjectId;
use suijuris_core::lineage::{Decision, Refused};
use suijuris_core::refusals::Refusals;
use suijuris_core::time::Timestamp;

/// Refusals not yet told.
#[derive(Debug)]
pub(crate) struct Notes {
    objects: Mutex<HashMap<ObjectId, Refusals>>,
    max: usize,
}

impl Notes {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            objects: Mutex::default(),
            max,
        }
    }

    /// Takes note of a refusal; what is to be told now.
    pub(crate) fn add(&self, object: ObjectId, decision: Decision, at: Timestamp) -> Vec<Refused> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.len() >= self.max && !objects.contains_key(&object) {
            return Vec::new();
        }
        let refusals = objects.entry(object).or_default();
        refusals.add(decision, at);
        refusals.take(at, false)
    }

    /// Counts of windows that are over, or all; objects with nothing more to tell are forgotten.
    pub(crate) fn take(&self, at: Timestamp, all: bool) -> Vec<(ObjectId, Refused)> {
        let mut told = Vec::new();
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.retain(|object, refusals| {
            told.extend(
                refusals
                    .take(at, all)
                    .into_iter()
                    .map(|refused| (*object, refused)),
            );
            !refusals.is_empty()
        });
        told
    }

    /// Objects that refused something within the last minute.
    pub(crate) fn len(&self) -> usize {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
