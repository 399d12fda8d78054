//! `memory watch`: fields as they change.

use std::collections::BTreeMap;

use suijuris_api::agent;

use crate::object_paths::{ObjectArg, ObjectPaths};
use crate::terminal::{self, cell};
use crate::{Answer, clock, history};

/// Watch memory change, until stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each field when it is written, whoever writes it. Watching never wakes an object.

Example:
  suijuris memory watch hello --json | jq -c .")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let mut follow = history::Follow::new(&place);
    let mut before = look(&place)?;
    terminal::note("watching; stop with Ctrl-C");
    loop {
        follow.wait();
        let now = look(&place)?;
        for (name, field) in changed(&before.fields, &now.fields) {
            show(name, field, now.seq, args.json)?;
        }
        before = now;
    }
}

fn look(place: &ObjectPaths) -> anyhow::Result<agent::Memory> {
    let reader = history::open(place)?;
    Ok(suijuris_runtime::words::memory(
        reader.state(),
        clock::now(reader.state())?,
    ))
}

type Fields = BTreeMap<String, agent::Field>;

/// Fields written since: another value, or the same written again.
fn changed<'a>(before: &'a Fields, now: &'a Fields) -> impl Iterator<Item = (&'a String, &'a agent::Field)> {
    let is_new = |(name, field): &(&String, &agent::Field)| {
        before
            .get(*name)
            .is_none_or(|old| old.value != field.value || old.as_of != field.as_of)
    };
    now.iter().filter(is_new)
}

fn show(name: &str, field: &agent::Field, seq: u64, json: bool) -> anyhow::Result<()> {
    if json {
        return terminal::print_json(&serde_json::json!({
            "field": name, "value": field.value, "as_of": field.as_of, "type": field.kind, "seq": seq,
        }));
    }
    let value = match &field.value {
        None => "(nothing)".to_owned(),
        Some(serde_json::Value::String(text)) => cell(&suijuris_core::memory::Value::String(text.clone())),
        Some(other) => terminal::clean(&other.to_string()),
    };
    let at = field.as_of.as_deref().unwrap_or("-");
    Ok(terminal::print(&format!("{at}  {name} = {value}\n"))?)
}
