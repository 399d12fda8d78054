//! The answer to a proposal that nobody made. Nothing is recorded.

use std::collections::BTreeMap;

use suijuris_api::agent::Patch;
use suijuris_api::history::{Supposed, WhatIf};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{self, View};
use suijuris_core::governance::Action;
use suijuris_core::inputs::Host;
use suijuris_core::lineage::{Decision, Head, Phase};
use suijuris_core::memory::{Kind, Memory};
use suijuris_core::time::{Now, Ratchet, Reading, Timestamp};
use suijuris_custody::{chain, patch};
use suijuris_store::Reader;
use suijuris_words::verdict;

use super::proposal::Proposal;
use super::{HistoryError, imagined, words};

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
    let asked = Proposal::read(supposed)?;
    let present = Ratchet::new(state.head().at).observe(reading);
    let now = asked.now(present);
    // What a write proposes is judged; for any other proposal it has been written.
    let memory = if asked.action == Action::Mutate {
        state.memory().clone()
    } else {
        let written = patch(supposed, state.memory())?;
        as_if(state.memory(), &written, now.at.min(present.at))?
    };
    let head = state.head().clone();
    let decision = judged(head, &memory, &bundle, supposed, &asked, (now, host))?;
    told(&decision, &bundle)
}

/// What an object with this head and this memory decides of a proposal.
pub(super) fn judged(
    mut head: Head,
    memory: &Memory,
    bundle: &Bundle,
    supposed: &Supposed,
    asked: &Proposal<'_>,
    (now, host): (Now, Host),
) -> Result<Decision, HistoryError> {
    let rules = &bundle.rules;
    // What asks for a waking object is answered as if it were awake.
    if matches!(asked.action, Action::Admit | Action::Remain | Action::Sleep) && head.phase == Phase::Dormant
    {
        head.phase = Phase::Active;
    }
    let mut inputs = asked.inputs(&head, &rules.vocabulary, now, host)?;
    let written = patch(supposed, memory)?;
    if asked.action == Action::Mutate && written != Patch::default() {
        let parsed = patch::writes(&written, memory).map_err(|error| misfit(&error))?;
        inputs.fields.extend(parsed.fields());
        inputs.written =
            patch::judged(&parsed, memory, &rules.program, now.at).map_err(|error| misfit(&error))?;
    }
    let view = View {
        head: &head,
        memory,
        program: &rules.program,
        vocabulary: &rules.vocabulary,
        bundle: rules.bundle,
    };
    Ok(decide::evaluate(view, asked.action, inputs))
}

/// A decision of an object of `bundle`, for people.
pub(super) fn told(decision: &Decision, bundle: &Bundle) -> Result<WhatIf, HistoryError> {
    Ok(WhatIf {
        verdict: verdict::verdict(decision, "what-if"),
        explained: words::explained(decision),
        rules: words::rule_texts(decision, bundle),
        inputs: serde_json::to_value(&decision.inputs)?,
    })
}

fn misfit(error: &patch::Error) -> HistoryError {
    HistoryError::Misfit(chain(error))
}

/// What is written, or supposed to have been.
fn patch(supposed: &Supposed, memory: &Memory) -> Result<Patch, HistoryError> {
    let amount = |(field, value): (String, serde_json::Value)| {
        let wrong = || HistoryError::Asked(format!("--add {field}={value}: write a number above zero"));
        Ok((field.clone(), value.as_i64().ok_or_else(wrong)?))
    };
    Ok(Patch {
        set: assignments(&supposed.set, memory)?,
        append: assignments(&supposed.append, memory)?,
        unset: supposed.unset.clone(),
        add: assignments(&supposed.add, memory)?
            .into_iter()
            .map(amount)
            .collect::<Result<_, HistoryError>>()?,
        ..Patch::default()
    })
}

fn as_if(memory: &Memory, patch: &Patch, at: Timestamp) -> Result<Memory, HistoryError> {
    let mut memory = memory.clone();
    if *patch == Patch::default() {
        return Ok(memory);
    }
    let parsed = patch::parse(patch, &memory).map_err(|error| misfit(&error))?;
    memory
        .apply(&imagined::veiled(parsed), at)
        .map_err(|error| HistoryError::Misfit(chain(&error)))?;
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
