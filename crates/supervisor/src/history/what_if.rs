//! The answer to a proposal that nobody made. Nothing is recorded.

use std::collections::BTreeMap;

use suijuris_api::agent::Patch;
use suijuris_api::history::{Supposed, WhatIf};
use suijuris_core::decide::{self, View};
use suijuris_core::governance::Action;
use suijuris_core::inputs::Host;
use suijuris_core::lineage::Phase;
use suijuris_core::memory::{Kind, Memory, Value, Write};
use suijuris_core::time::{Ratchet, Reading, Timestamp};
use suijuris_custody::chain;
use suijuris_store::Reader;
use suijuris_words::verdict;

use super::{HistoryError, proposal, words};

/// What would be decided about `supposed`, on a host like this.
///
/// # Errors
/// [`HistoryError`].
pub fn what_if(
    reader: &Reader,
    supposed: &Supposed,
    reading: Reading,
    host: Host,
) -> Result<WhatIf, HistoryError> {
    let state = reader.state();
    let bundle = reader.bundle(&state.head().bundle)?;
    let rules = &bundle.rules;
    let asked = proposal::Proposal::read(supposed)?;
    let present = Ratchet::new(state.head().at).observe(reading);
    let now = asked.now(present);
    let memory = as_if(state.memory(), &supposed.set, now.at.min(present.at))?;
    let mut head = state.head().clone();
    // What asks for a waking object is answered as if it were awake.
    if matches!(asked.action, Action::Admit | Action::Remain | Action::Sleep) && head.phase == Phase::Dormant
    {
        head.phase = Phase::Active;
    }
    let inputs = asked.inputs(&head, &rules.vocabulary, now, host)?;
    let view = View {
        head: &head,
        memory: &memory,
        program: &rules.program,
        vocabulary: &rules.vocabulary,
        bundle: rules.bundle,
    };
    let decision = decide::evaluate(view, asked.action, inputs);
    Ok(WhatIf {
        verdict: verdict::verdict(&decision, "what-if"),
        explained: words::explained(&decision),
        rules: words::rule_texts(&decision, &bundle),
        inputs: serde_json::to_value(&decision.inputs)?,
    })
}

fn as_if(memory: &Memory, set: &[String], at: Timestamp) -> Result<Memory, HistoryError> {
    let mut memory = memory.clone();
    if set.is_empty() {
        return Ok(memory);
    }
    let patch = Patch {
        set: assignments(set, &memory)?,
        ..Patch::default()
    };
    let wrong = |error: &dyn std::error::Error| HistoryError::Misfit(chain(error));
    let parsed = suijuris_custody::patch::parse(&patch, &memory).map_err(|error| wrong(&error))?;
    let mut change = parsed.change;
    // Rules never see a secret, so that any commitment does.
    let veiled = |name| {
        let any = Value::Commitment(suijuris_core::id::Digest([0; 32]));
        (name, Write::Set(any))
    };
    change.extend(parsed.secrets.into_keys().map(veiled));
    memory.apply(&change, at).map_err(|error| wrong(&error))?;
    Ok(memory)
}

/// Values by field, from `FIELD=VALUE`.
fn assignments(
    texts: &[String],
    memory: &Memory,
) -> Result<BTreeMap<String, serde_json::Value>, HistoryError> {
    let mut values = BTreeMap::new();
    for text in texts {
        let asked = |why: String| HistoryError::Asked(why);
        let (field, value) = text
            .split_once('=')
            .ok_or_else(|| asked(format!("`{text}`: write FIELD=VALUE")))?;
        let kind = memory.schema().field(field).map(|field| field.kind.name());
        if values.insert(field.to_owned(), as_typed(kind, value)).is_some() {
            return Err(asked(format!("field `{field}` is named twice")));
        }
    }
    Ok(values)
}

/// What is typed for a value of the type that is called so: where it is text in JSON, `5` and `true` are text too; `null`
/// stands for nothing. What is neither text nor JSON is text.
#[must_use]
pub fn as_typed(kind: Option<&str>, text: &str) -> serde_json::Value {
    let as_text = || serde_json::Value::String(text.to_owned());
    let is_text = ["string", "enum", "bytes", "decimal", "timestamp", "duration"];
    match serde_json::from_str(text) {
        Ok(json @ (serde_json::Value::String(_) | serde_json::Value::Null)) => json,
        Ok(_) if kind.is_some_and(|kind| is_text.contains(&kind)) => as_text(),
        Ok(json) => json,
        Err(_text) => as_text(),
    }
}

/// [`as_typed`] by the type itself.
#[must_use]
pub fn as_typed_for(kind: Option<&Kind>, text: &str) -> serde_json::Value {
    as_typed(kind.map(Kind::name), text)
}
