//! `memory watch`: fields as they change.

use std::collections::BTreeMap;
use std::time::Duration;

use suijuris_api::agent;

use crate::Answer;
use crate::history::Follow;
use crate::object_paths::ObjectArg;
use crate::terminal::{self, cell};

/// Time between two looks at a daemon's object.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    let carrier = args.at.carrier()?;
    let mut follow = carrier.files().map(Follow::new);
    let mut before = carrier.memory()?;
    terminal::note("watching; stop with Ctrl-C");
    loop {
        match &mut follow {
            Some(follow) => follow.wait(),
            None => std::thread::sleep(LOOK_EVERY),
        }
        let now = carrier.memory()?;
        for (name, field) in changed(&before.fields, &now.fields) {
            show(name, field, now.seq, args.json)?;
        }
        before = now;
    }
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
