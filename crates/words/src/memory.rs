//! State in the words of the wire.

use std::collections::BTreeMap;

use suijuris_api::agent;
use suijuris_core::lineage::State;
use suijuris_core::memory::{Cell, Field, Plain, Value};
use suijuris_core::time::Now;

/// Memory at `now`, secrets veiled.
#[must_use]
pub fn memory(state: &State, now: Now) -> agent::Memory {
    let memory = state.memory();
    let fields = memory.iter().map(|(name, field, cell)| {
        let freshness = memory
            .freshness(name.as_str(), now)
            .map_or("", |freshness| freshness.as_str());
        let value = memory.value_at(name.as_str(), now.at);
        (name.to_string(), shown(field, cell, value.as_ref(), freshness))
    });
    agent::Memory {
        root: memory.root().hex(),
        seq: state.head().seq,
        fields: fields.collect(),
    }
}

/// How the object is, in `phase` and with these `holds`.
#[must_use]
pub fn status(state: &State, phase: &str, holds: BTreeMap<String, u64>) -> agent::Status {
    let head = state.head();
    agent::Status {
        object: head.object.to_string(),
        name: head.name.clone(),
        phase: phase.to_owned(),
        epoch: head.epoch,
        seq: head.seq,
        head: head.record.to_string(),
        bundle: head.bundle.to_string(),
        memory_root: state.memory().root().hex(),
        holds,
    }
}

fn shown(field: &Field, cell: &Cell, value: Option<&Value>, freshness: &str) -> agent::Field {
    let plain = |value: &Value| serde_json::to_value(Plain(value)).unwrap_or_default();
    agent::Field {
        value: value.map(plain),
        kind: field.kind.name().to_owned(),
        as_of: cell.as_of.map(|at| at.to_string()),
        freshness: freshness.to_owned(),
    }
}
