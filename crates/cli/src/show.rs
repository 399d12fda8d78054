//! `show`: an object as it stands.

use serde::Serialize;
use suijuris_api::agent;
use suijuris_core::lineage::{Head, Phase};
use suijuris_store::{Reader, fork};

use crate::control::{self, Running};
use crate::object_paths::{ObjectArg, ObjectPaths};
use crate::terminal::{self, Screen, Table, Tone};
use crate::{Answer, clock, history};

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

/// What `show --json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    object: String,
    name: String,
    phase: String,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    epoch: u64,
    seq: u64,
    head: String,
    bundle: String,
    born: String,
    /// Whom it was forked from, as proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent>,
    at: String,
    last_woke: Option<String>,
    last_dormant: Option<String>,
    unsealed: bool,
    uncovered: u64,
    refused: u64,
    /// Time awake in all its life, seconds.
    awake_seconds: Option<u64>,
    /// Activations in a row that were cut off.
    crashes: u64,
    torn: bool,
    controllers: Vec<String>,
    threshold: u32,
    data: String,
    memory: agent::Memory,
}

/// A parent.
#[derive(Debug, Serialize)]
struct Parent {
    object: String,
    name: String,
    /// The parent's record of the birth.
    record: String,
    seq: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let reader = history::open(&place)?;
    let shown = look(&place, &reader)?;
    if args.json {
        terminal::print_json(&shown)?;
    } else {
        terminal::print(&text(&shown, Screen::stdout()))?;
    }
    Ok(Answer::Yes)
}

/// Phase as people should know it: what `up` says, else what is recorded.
pub(crate) fn phase(head: &Head, running: Option<&Running>, in_use: bool) -> String {
    match (running, head.phase) {
        (Some(running), _) => running.phase.clone(),
        (None, Phase::Active) if !in_use => "crashed".to_owned(),
        (None, phase) => phase.as_str().to_owned(),
    }
}

/// Time awake in all its life, by its records; of an activation that was cut off, up to its last one.
pub(crate) fn awake_seconds(head: &Head, in_use: bool) -> Option<u64> {
    let until = if in_use {
        clock::reading().map_or(head.at, |reading| reading.wall)
    } else {
        head.at
    };
    u64::try_from(head.awake_at(until).0 / 1_000).ok()
}

fn look(place: &ObjectPaths, reader: &Reader) -> anyhow::Result<Shown> {
    let (state, running) = (reader.state(), control::running(place));
    let (head, in_use) = (state.head(), place.home().is_in_use());
    let parent = fork::parent_of(&place.home())?.map(|parent| Parent {
        object: parent.object.to_string(),
        name: parent.name,
        record: parent.forked.to_string(),
        seq: parent.seq,
    });
    Ok(Shown {
        object: head.object.to_string(),
        name: head.name.clone(),
        phase: phase(head, running.as_ref(), in_use),
        running: running.is_some() || in_use,
        pid: running.as_ref().map(|running| running.pid),
        url: running.map(|running| running.url),
        epoch: head.epoch,
        seq: head.seq,
        head: head.record.to_string(),
        bundle: head.bundle.to_string(),
        born: head.born.to_string(),
        parent,
        at: head.at.to_string(),
        last_woke: head.last_woke.map(|at| at.to_string()),
        last_dormant: head.last_dormant.map(|at| at.to_string()),
        unsealed: head.unsealed,
        uncovered: head.uncovered(),
        refused: head.refused,
        awake_seconds: awake_seconds(head, in_use),
        crashes: head.crashes,
        torn: reader.is_torn(),
        controllers: head.controllers.iter().map(ToString::to_string).collect(),
        threshold: head.threshold,
        data: place.data.display().to_string(),
        memory: suijuris_runtime::words::memory(state, clock::now(state)?),
    })
}

fn text(shown: &Shown, terminal: Screen) -> String {
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

fn remarks(shown: &Shown) -> Vec<String> {
    let mut remarks = Vec::new();
    if shown.phase == "crashed" {
        remarks.push("the last run did not shut down cleanly; the next start records it".to_owned());
    }
    if shown.unsealed {
        let runs = if shown.crashes > 1 {
            format!("the previous {} runs", shown.crashes)
        } else {
            "the previous run".to_owned()
        };
        remarks.push(format!("{runs} did not shut down cleanly (unsealed)"));
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
