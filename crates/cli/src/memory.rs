//! `memory`: an object's fields, read, written and watched.

mod get;
mod set;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use suijuris_core::memory::{Kind, Memory, Name};

use crate::{Answer, Usage};

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

/// A value as it is typed: JSON if it is that, else text.
pub(crate) fn value(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()))
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

/// Bytes of a value from a file at most.
const MAX_FILE: u64 = 2 << 20;

/// A value as it stands there, or that of a file: `@FILE`, or `@-` for standard input, so that a secret is in no argument.
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
    let mut bytes = Vec::new();
    let read = match path {
        "-" => io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(unreadable(&"it has more than 2 MiB"));
    }
    let kind = memory.schema().field(field).map(|field| &field.kind);
    if kind == Some(&Kind::Bytes) {
        return Ok(URL_SAFE_NO_PAD.encode(&bytes).into());
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is no text, which this field takes"))?;
    // An editor ends a file with a line's end, which nobody means.
    Ok(typed(field, text.strip_suffix('\n').unwrap_or(&text), memory))
}

fn typed(field: &str, text: &str, memory: &Memory) -> serde_json::Value {
    as_typed(memory.schema().field(field).map(|field| &field.kind), text)
}

/// What is typed for a value of this type: where it is text in JSON, `5` and `true` are text too; `null` stands for nothing.
pub(crate) fn as_typed(kind: Option<&Kind>, text: &str) -> serde_json::Value {
    let is_text = |kind: &Kind| {
        matches!(
            kind,
            Kind::String | Kind::Enum(_) | Kind::Bytes | Kind::Decimal | Kind::Timestamp | Kind::Duration
        )
    };
    match (kind, value(text)) {
        (_, json @ (serde_json::Value::String(_) | serde_json::Value::Null)) => json,
        (Some(kind), _) if is_text(kind) => serde_json::Value::String(text.to_owned()),
        (_, json) => json,
    }
}

/// Whether a word can be the name of a field.
fn is_field(word: &str) -> bool {
    Name::new(word).is_ok()
}
