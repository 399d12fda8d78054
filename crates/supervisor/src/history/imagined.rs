//! Decisions of an object that nobody made: born of a definition, in a situation that a test of its rules describes.
//!
//! The same code judges that judges a real one ([`super::what_if`]); only its memory and its past are made up. Nothing is
//! written anywhere. Called by `suijuris test`.

use std::collections::BTreeMap;
use std::sync::Arc;

use suijuris_api::agent::Patch;
use suijuris_api::history::{Supposed, WhatIf};
use suijuris_core::bundle::Bundle;
use suijuris_core::class::{self, ClassId, Key, KeyError, Membership, Template};
use suijuris_core::governance::Action;
use suijuris_core::id::Digest;
use suijuris_core::inputs::{Founding, Host, Vehicle};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{ChainError, Head, Inception, Outcome, State};
use suijuris_core::memory::{Change, Memory, Name, Value, Write};
use suijuris_core::time::{Now, Span, Timestamp};
use suijuris_custody::{chain, patch};
use suijuris_words::verdict;

use super::{HistoryError, what_if};

/// Keys of an object that nobody has.
const SEED: [u8; 32] = [1; 32];

/// What is made up of an object.
#[derive(Debug, Clone, Default)]
pub struct Situation {
    /// What was written to its memory, by field, in the plain form; to counters it was added.
    pub memory: BTreeMap<String, serde_json::Value>,
    /// How long ago; now, where a field is not named.
    pub ages: BTreeMap<String, Span>,
    /// What its history says.
    pub lineage: Lineage,
    /// Its key, where it is an instance of a class.
    pub key: Option<String>,
    /// Instances there are of its class, in all and founded in the last second for the peer and in all.
    pub founding: (u64, u64, u64),
}

/// What a history says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lineage {
    /// Records.
    pub length: Option<u64>,
    /// Activations.
    pub epoch: u64,
    /// Refusals.
    pub refused: u64,
    /// Activations in a row that were cut off or crashed.
    pub crashes: u64,
    /// Time awake.
    pub awake: Span,
    /// Time since it was born, woke and fell asleep.
    pub born_ago: Option<Span>,
    /// Time since it woke.
    pub woke_ago: Option<Span>,
    /// Time since it fell asleep.
    pub slept_ago: Option<Span>,
}

/// What an object in a situation decides.
#[derive(Debug)]
pub struct Answered {
    /// The decision.
    pub what_if: WhatIf,
    /// The HTTP status that a caller would read, where it refuses.
    pub status: Option<u16>,
}

/// What an object of `bundle` in `situation` decides of `supposed` at `now`.
///
/// # Errors
/// [`HistoryError`]: what does not fit the definition.
pub fn decide(
    bundle: &Bundle,
    situation: &Situation,
    supposed: &Supposed,
    now: Now,
) -> Result<Answered, HistoryError> {
    let asked = super::proposal::Proposal::read(supposed)?;
    let now = asked.now(now);
    let instance = instance(bundle, situation)?;
    let born = born(bundle, now, situation)?;
    let memory = memory(born.memory(), situation, now.at)?;
    let mut head = born.head().clone();
    past(&mut head, &situation.lineage, now.at);
    head.class.clone_from(&instance);
    let decision = match (asked.action, instance) {
        (Action::Instantiate, Some(instance)) => {
            let (instances, peer_rate, class_rate) = situation.founding;
            let max = bundle
                .manifest
                .class
                .as_ref()
                .map_or(0, |class| class.max_instances);
            let founding = Founding {
                instances,
                max_instances: max,
                peer_rate,
                class_rate,
            };
            let template = Template {
                id: instance.id(),
                name: &head.name,
                rules: &bundle.rules,
                memory: &memory,
            };
            let inputs = asked.inputs(&head, &bundle.rules.vocabulary, now, here())?;
            let verdict = class::instantiate(&template, instance.key(), founding, inputs);
            verdict.decision().clone()
        }
        _ => what_if::judged(head, &memory, bundle, supposed, &asked, (now, here()))?,
    };
    let refused = decision.outcome != Outcome::Permit;
    let status = refused.then(|| verdict::problem(&decision, &bundle.manifest.name).status);
    Ok(Answered {
        what_if: what_if::told(&decision, bundle)?,
        status,
    })
}

fn here() -> Host {
    let vehicle = Vehicle {
        provider: "process",
        class: "",
    };
    Host::of(vehicle, None, "test")
}

fn asked(why: impl Into<String>) -> HistoryError {
    HistoryError::Asked(why.into())
}

/// The instance that is meant: every object of a class is one.
fn instance(bundle: &Bundle, situation: &Situation) -> Result<Option<Membership>, HistoryError> {
    match (&bundle.manifest.class, &situation.key) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(asked("`key`: this definition is no class; leave it out")),
        (Some(class), key) => {
            let key: Key = class
                .key
                .asked(key.as_deref().unwrap_or("test").as_bytes())
                .map_err(|error: KeyError| asked(format!("`key`: {}", chain(&error))))?;
            let id = ClassId::from_digest(Digest::of(bundle.manifest.name.as_bytes()));
            Ok(Some(Membership::new(id, key)))
        }
    }
}

/// The object as it was born.
fn born(bundle: &Bundle, now: Now, situation: &Situation) -> Result<State, ChainError> {
    let epoch_key = SecretKey::from_seed(&SEED);
    let owner = SecretKey::from_seed(&[2; 32]);
    let body = Inception {
        name: bundle.manifest.name.clone(),
        controllers: vec![owner.public()],
        threshold: 1,
        next: epoch_key.public().commitment(),
        nonce: vec![0; 16],
        parent: None,
        class: None,
        ticket: None,
    };
    let at = ago(now.at, situation.lineage.born_ago.unwrap_or(Span(0)));
    let schema = Arc::clone(bundle.schema());
    State::create(body, at, bundle.rules.bundle, schema, &epoch_key).map(|(state, _)| state)
}

const fn ago(now: Timestamp, span: Span) -> Timestamp {
    now.saturating_add(Span(span.0.saturating_neg()))
}

fn past(head: &mut Head, lineage: &Lineage, now: Timestamp) {
    head.seq = lineage.length.map_or(head.seq, |length| length.saturating_sub(1));
    head.epoch = lineage.epoch;
    head.refused = lineage.refused;
    head.crashes = lineage.crashes;
    head.unsealed = lineage.crashes > 0;
    head.awake = lineage.awake;
    head.last_woke = lineage.woke_ago.map(|span| ago(now, span));
    head.last_dormant = lineage.slept_ago.map(|span| ago(now, span));
}

/// Memory as the situation has it: each field written by the rules of the schema, as long ago as it says.
fn memory(born: &Memory, situation: &Situation, now: Timestamp) -> Result<Memory, HistoryError> {
    let mut memory = born.clone();
    if let Some(name) = situation
        .ages
        .keys()
        .find(|name| !situation.memory.contains_key(*name))
    {
        return Err(asked(format!(
            "`ages.{name}`: say in `memory` what was written then"
        )));
    }
    for (name, value) in &situation.memory {
        let age = situation.ages.get(name).copied().unwrap_or(Span(0));
        let counter = memory
            .schema()
            .field(name)
            .is_some_and(|field| field.kind.counts());
        let patch = match (counter, value.as_i64()) {
            (true, Some(0)) => continue,
            (true, Some(count)) => Patch {
                add: [(name.clone(), count)].into(),
                ..Patch::default()
            },
            _ => Patch {
                set: [(name.clone(), value.clone())].into(),
                ..Patch::default()
            },
        };
        let misfit = |error: &dyn std::error::Error| HistoryError::Misfit(chain(error));
        let parsed = patch::parse(&patch, &memory).map_err(|error| misfit(&error))?;
        let change = veiled(parsed);
        memory
            .apply(&change, ago(now, age))
            .map_err(|error| misfit(&error))?;
    }
    Ok(memory)
}

/// Rules never see a secret, so that any commitment does for one.
pub(super) fn veiled(parsed: patch::Parsed) -> Change {
    let veil = |name: Name| (name, Write::Set(Value::Commitment(Digest([0; 32]))));
    let mut change = parsed.change;
    change.extend(parsed.secrets.into_keys().map(veil));
    change
}
