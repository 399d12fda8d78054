//! `show`: an object as it stands.

use suijuris_api::agent;
use suijuris_api::history::{Paused, State};

use crate::Answer;
use crate::object_paths::ObjectArg;
use crate::terminal::{self, Screen, Table, Tone};

/// Show an object as it stands: phase, identity, memory
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looking never wakes an object.\n\nExample:\n  suijuris show hello --json | jq .memory.fields"
)]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let shown = args.at.carrier()?.state()?;
    if args.json {
        terminal::print_json(&shown)?;
    } else {
        terminal::print(&text(&shown, Screen::stdout()))?;
    }
    Ok(Answer::Yes)
}

fn text(shown: &State, terminal: Screen) -> String {
    let mut table = Table::default();
    table.row(["object", &shown.object]);
    table.row(["bundle", &shown.bundle]);
    table.row([
        "history",
        &format!(
            "{}, epoch {}, {} refused",
            terminal::count(shown.seq.saturating_add(1), "record"),
            shown.epoch,
            shown.refused
        ),
    ]);
    if let Some(parent) = &shown.parent {
        let words = format!(
            "{} {}, record {}",
            terminal::clean(&parent.name),
            parent.object,
            parent.seq
        );
        table.row(["parent", &words]);
    }
    for (word, at) in [("woke", &shown.last_woke), ("dormant", &shown.last_dormant)] {
        table.row([word, at.as_deref().unwrap_or("never")]);
    }
    if let Some(seconds) = shown.awake_seconds {
        table.row(["awake", &format!("{seconds} s in all")]);
    }
    if let Some(Paused { seconds, why }) = &shown.paused {
        let words = format!("{}, next try in {seconds} s", terminal::clean(why));
        table.row(["paused", &words]);
    }
    for (name, ms) in &shown.holds {
        let words = format!("{}, {} s left", terminal::clean(name), ms.div_ceil(1_000));
        table.row(["hold", &words]);
    }
    if let Some(next) = &shown.next_timer {
        table.row(["next", &format!("timer {} at {}", next.name, next.at)]);
    }
    if let Some(waiting) = messages(shown) {
        table.row(["messages", &waiting]);
    }
    if let Some(url) = &shown.url {
        table.row(["url", url]);
    }
    if let Some(pid) = shown.pid {
        table.row(["up", &format!("process {pid}")]);
    }
    table.row(["data", &shown.data]);
    let title = format!(
        "{}  {}\n",
        terminal.paint(Tone::Strong, &terminal::clean(&shown.name)),
        shown.phase
    );
    let mut text = title + &table.text(2);
    for remark in remarks(shown) {
        text += &format!("  {remark}\n");
    }
    let fields = memory_table(&shown.memory);
    if !fields.is_empty() {
        text += &format!("\n{}\n{}", terminal.paint(Tone::Strong, "memory"), fields.text(2));
    }
    text
}

/// What waits in its inbox, where that is known and anything does.
fn messages(shown: &State) -> Option<String> {
    let aside =
        (shown.set_aside > 0).then(|| format!("{} set aside: see `suijuris messages ls`", shown.set_aside));
    let waiting = shown.messages.filter(|waiting| *waiting > 0);
    let waiting = waiting.map(|waiting| format!("{waiting} waiting"));
    let both: Vec<_> = [waiting, aside].into_iter().flatten().collect();
    (!both.is_empty()).then(|| both.join(", "))
}

fn remarks(shown: &State) -> Vec<String> {
    let mut remarks = Vec::new();
    if shown.phase == "crashed" {
        remarks.push("the last run did not shut down cleanly; the next start records it".to_owned());
    }
    if shown.unsealed {
        remarks.push("the previous run did not shut down cleanly (unsealed)".to_owned());
    }
    if shown.crashes > 1 {
        remarks.push(format!(
            "the previous {} runs crashed or were cut off",
            shown.crashes
        ));
    }
    if shown.uncovered > 0 {
        remarks.push(format!(
            "not signed yet: {} at the end",
            terminal::count(shown.uncovered, "record")
        ));
    }
    if shown.torn {
        remarks.push("the last write is incomplete; the next start removes it".to_owned());
    }
    remarks
}

/// Fields, one a row.
pub(crate) fn memory_table(memory: &agent::Memory) -> Table {
    let mut table = Table::default();
    for (name, field) in &memory.fields {
        let value = match &field.value {
            None => "(nothing)".to_owned(),
            Some(serde_json::Value::String(text)) => short(text),
            Some(other) => short(&other.to_string()),
        };
        let written = field.as_of.as_deref().unwrap_or("never written");
        let freshness = if field.freshness == "never_written" {
            ""
        } else {
            &field.freshness
        };
        table.row([name, &field.kind, &value, written, freshness]);
    }
    table
}

fn short(text: &str) -> String {
    terminal::cell(&suijuris_core::memory::Value::String(text.to_owned()))
}
