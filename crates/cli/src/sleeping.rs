//! What can be done to an object that nobody runs, by whoever holds its writer: `up` and `memory set`.

use suijuris_api::agent::Patch;
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{Verdict, View, decide};
use suijuris_core::governance::Action;
use suijuris_core::id::Digest;
use suijuris_core::inputs::{Host, Inputs, Principal};
use suijuris_core::lineage::{Body, Decision, Mutated, Phase, Unsealed};
use suijuris_core::memory::{Change, Value, Write};
use suijuris_core::time::{Now, Timestamp};
use suijuris_custody::patch::{self, Parsed};
use suijuris_store::{Draft, Secret, Sign, Writer};

/// What became of a write.
pub(crate) enum Written {
    /// It is durable.
    Done {
        /// Position of the record.
        seq: u64,
        /// Root after it, hexadecimal.
        root: String,
        /// Fields written.
        fields: Vec<String>,
    },
    /// The rules refused it.
    Refused(Box<Decision>),
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The patch does not fit.
    #[error(transparent)]
    Patch(#[from] patch::Error),
    /// The disk, or the system.
    #[error(transparent)]
    System(#[from] anyhow::Error),
}

/// Makes a signed record; returns once it is durable.
pub(crate) fn record(writer: &Writer, body: Body, at: Timestamp) -> anyhow::Result<()> {
    Ok(writer
        .stage(Draft {
            body,
            at,
            bundle: None,
            sign: Sign::Now,
        })?
        .wait()?)
}

/// Records that the last activation ended without the object's own act, where it did: its key is gone with its
/// process, and nothing else can be written before.
pub(crate) fn settle_crash(writer: &Writer, at: Timestamp) -> anyhow::Result<()> {
    let left = writer.staged(|state| {
        let head = state.head();
        let unsealed = Unsealed {
            mutations: head.uncovered(),
            sealed: head.sealed,
        };
        (head.phase == Phase::Active).then_some(unsealed)
    });
    left.map_or(Ok(()), |unsealed| record(writer, Body::Unsealed(unsealed), at))
}

/// An owner's write: parsed by the types of memory, decided by the rules, recorded, durable.
pub(crate) fn write(
    writer: &Writer,
    bundle: &Bundle,
    owner: Principal,
    host: Host,
    now: Now,
    patch: &Patch,
) -> Result<Written, Error> {
    let parsed = patch::parse(patch, writer.published().memory())?;
    let mut inputs = Inputs::new(now, owner);
    inputs.host = host;
    inputs.fields = parsed
        .change
        .keys()
        .chain(parsed.secrets.keys())
        .map(ToString::to_string)
        .collect();
    let fields = inputs.fields.iter().cloned().collect();
    let verdict = {
        let state = writer.published();
        decide(
            View::new(&state, &bundle.rules),
            Action::Mutate,
            state.head().object,
            inputs,
        )
    };
    if let Verdict::Refuse(decision) = verdict {
        return Ok(Written::Refused(decision));
    }
    let change = keep_secrets(writer, parsed)?;
    record(
        writer,
        Body::Mutated(Mutated {
            by: "controller".to_owned(),
            change,
        }),
        now.at,
    )?;
    let state = writer.published();
    Ok(Written::Done {
        seq: state.head().seq,
        root: state.memory().root().hex(),
        fields,
    })
}

fn keep_secrets(writer: &Writer, parsed: Parsed) -> anyhow::Result<Change> {
    let mut change = parsed.change;
    for (name, value) in parsed.secrets {
        let mut salt = Digest([0; 32]);
        getrandom::fill(&mut salt.0)?;
        let commitment = writer.object_dir().keep_secret(&Secret { salt, value })?;
        change.insert(name, Write::Set(Value::Commitment(commitment)));
    }
    Ok(change)
}
