//! Core's values in the words of the wire: decisions, memory, messages, evidence, owners' requests, as the documents of `api`.
//!
//! A crate of its own because doors, runtime, custody, supervisor and commands say the same of the same thing, while `api`
//! is a leaf that gate, vehicle and clients link without knowing `core`. Not here: what is decided, and how lines look.

#![forbid(unsafe_code)]

pub mod cloudevents;
pub mod memory;
pub mod owner;
pub mod tls;
pub mod verdict;

use suijuris_api::event::{Evidence, Point};
use suijuris_core::RecordId;

/// Why another copy was preferred.
#[must_use]
pub fn evidence(evidence: &suijuris_core::witness::Evidence) -> Evidence {
    let point = |seq, head: RecordId, epoch| Point {
        seq,
        head: head.to_string(),
        epoch,
    };
    let ours = &evidence.ours;
    let mark = evidence.witnessed.as_ref();
    Evidence {
        ours: point(ours.seq, ours.record, ours.epoch),
        witnessed: mark.map(|mark| point(mark.seq, mark.head, mark.epoch)),
        holder: mark.and_then(|mark| Some(mark.holder.as_ref()?.who.clone())),
    }
}
