//! `memory`: an object's fields, read, written and watched.

mod get;
mod set;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use suijuris_api::agent::Memory;
use suijuris_core::memory::Name;
use suijuris_supervisor::history::what_if;
pub(crate) use suijuris_supervisor::history::what_if::as_typed_for as as_typed;

use zeroize::Zeroizing;

use crate::{Answer, Usage, terminal};

/// Read, write or watch an object's memory
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example:\n  suijuris memory set hello open=false && suijuris memory get hello open")]
pub(crate) enum Command {
    Get(get::Args),
    Set(set::Args),
    Watch(watch::Args),
}

pub(crate) fn run(command: Command) -> anyhow::Result<Answer> {
    match command {
        Command::Get(args) => get::run(&args),
        Command::Set(args) => set::run(&args),
        Command::Watch(args) => watch::run(&args),
    }
}

/// Values by field, from `FIELD=VALUE`.
pub(crate) fn assignments(
    texts: &[String],
    memory: &Memory,
) -> Result<BTreeMap<String, serde_json::Value>, Usage> {
    let mut values = BTreeMap::new();
    for text in texts {
        let (field, value) = text
            .split_once('=')
            .ok_or_else(|| Usage(format!("`{text}`: write FIELD=VALUE")))?;
        if values
            .insert(field.to_owned(), given(field, value, memory)?)
            .is_some()
        {
            return Err(Usage(format!("field `{field}` is named twice")));
        }
    }
    Ok(values)
}

/// Numbers by counter, from `FIELD=NUMBER`.
pub(crate) fn amounts(texts: &[String]) -> Result<BTreeMap<String, i64>, Usage> {
    let mut amounts = BTreeMap::new();
    for text in texts {
        let amount = text
            .split_once('=')
            .and_then(|(field, amount)| Some((field, amount.parse().ok()?)));
        let (field, amount) =
            amount.ok_or_else(|| Usage(format!("`{text}`: write FIELD=NUMBER, as in spent=3")))?;
        if amounts.insert(field.to_owned(), amount).is_some() {
            return Err(Usage(format!("field `{field}` is named twice")));
        }
    }
    Ok(amounts)
}

/// Bytes of a value from a file at most.
const MAX_FILE: u64 = 2 << 20;

/// A value as it stands there, or that of a file: `@FILE`, or `@-` for standard input, so that a secret is in no argument. At
/// a terminal `@-` asks for it and does not show it.
/// `@@` begins a text with `@`.
fn given(field: &str, value: &str, memory: &Memory) -> Result<serde_json::Value, Usage> {
    let Some(path) = value.strip_prefix('@') else {
        return Ok(typed(field, value, memory));
    };
    if path.starts_with('@') {
        return Ok(typed(field, path, memory));
    }
    let unreadable = |why: &dyn std::fmt::Display| {
        let hint = "write FIELD=@@… for a text that begins with @";
        Usage(format!("`{field}`: {path} cannot be read: {why}; {hint}"))
    };
    if path == "-" && io::stdin().is_terminal() {
        let text = Zeroizing::new(terminal::hidden(field).map_err(|error| unreadable(&error))?);
        return Ok(typed(field, &text, memory));
    }
    let mut bytes = Vec::new();
    let read = match path {
        "-" => io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unreadable(&"it has more than 2 MiB"));
    }
    if kind_of(field, memory) == Some("bytes") {
        return Ok(URL_SAFE_NO_PAD.encode(&bytes).into());
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is no text, which this field takes"))?;
    // An editor ends a file with a line's end, which nobody means.
    Ok(typed(field, text.strip_suffix('\n').unwrap_or(&text), memory))
}

fn kind_of<'m>(field: &str, memory: &'m Memory) -> Option<&'m str> {
    memory.fields.get(field).map(|field| field.kind.as_str())
}

fn typed(field: &str, text: &str, memory: &Memory) -> serde_json::Value {
    what_if::as_typed(kind_of(field, memory), text)
}

/// `FIELD=VALUE` texts with what they name by `FIELD=@FILE` in its place.
pub(crate) fn with_files(texts: &[String], memory: &Memory) -> Result<Vec<String>, Usage> {
    let values = assignments(texts, memory)?;
    Ok(values
        .into_iter()
        .map(|(field, value)| format!("{field}={value}"))
        .collect())
}

/// Whether a word can be the name of a field.
fn is_field(word: &str) -> bool {
    Name::new(word).is_ok()
}
