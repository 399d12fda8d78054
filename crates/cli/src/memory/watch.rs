//! `memory watch`: fields as they change.

use std::time::Duration;

use suijuris_api::agent::{Field, Memory};
use suijuris_api::daemon::Object;
use suijuris_api::history::MemoryChange;
use suijuris_supervisor::history::follow::changed;

use crate::Answer;
use crate::carrier::{Carrier, route};
use crate::history::Follow;
use crate::object_paths::ObjectArg;
use crate::server::Server;
use crate::terminal::{self, cell};

/// Until a daemon is asked again whose stream ended.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is said before the first change.
const WATCHING: &str = "watching; stop with Ctrl-C";

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
    match &carrier {
        Carrier::Daemon(server, object) => watched(args, server, object),
        Carrier::Files(paths) => {
            let mut follow = Follow::new(paths);
            let mut before = carrier.memory()?;
            terminal::note(WATCHING);
            loop {
                follow.wait();
                let now = carrier.memory()?;
                if let Some(change) = changed(&before, &now) {
                    show(&change, args.json)?;
                }
                before = now;
            }
        }
    }
}

/// Shows what a daemon tells, for ever; after a stream that ended, from where it was.
fn watched(args: &Args, server: &Server, object: &Object) -> anyhow::Result<Answer> {
    let mut last = Some(server.get::<Memory>(&route(object, "/memory"))?.seq);
    terminal::note(WATCHING);
    loop {
        let path = route(object, "/memory/watch");
        server.follow(&path, last, |seq, text| {
            show(&serde_json::from_str(text)?, args.json)?;
            last = Some(seq);
            Ok(())
        })?;
        std::thread::sleep(AGAIN_AFTER);
    }
}

fn show(change: &MemoryChange, json: bool) -> anyhow::Result<()> {
    let mut fields = change.fields.iter();
    fields.try_for_each(|(name, field)| show_field(name, field, change.seq, json))
}

fn show_field(name: &str, field: &Field, seq: u64, json: bool) -> anyhow::Result<()> {
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
