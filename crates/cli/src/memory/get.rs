//! `memory get`: fields as they stand.

use std::path::{Path, PathBuf};

use crate::carrier::Carrier;
use crate::terminal;
use crate::{Answer, Usage, show};

/// Show memory, or one field's value
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A word alone is a field where there is an object in this directory or in --data, else a directory.
Secrets are hidden. Looking never wakes an object.

Exit codes: 0 shown, 1 the field holds nothing, 3 there is no such field.

Example:
  suijuris memory get
  suijuris memory get hello open
  suijuris memory get open --data hello/.suijuris")]
pub(crate) struct Args {
    /// Object's directory, then the field
    #[arg(value_name = "DIR|FIELD", num_args = 0..=2)]
    words: Vec<String>,
    /// Data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Print JSON: the field, or all of them with the root over them
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The object, and the field if one is asked for. A word alone is a field where there is an object here.
    fn read(&self) -> anyhow::Result<(Carrier, Option<&str>)> {
        let data = self.data.as_deref();
        let (dir, field) = match self.words.as_slice() {
            [] => (None, None),
            [word] if super::is_field(word) && Carrier::is_here(data) => (None, Some(word.as_str())),
            [dir] => (Some(Path::new(dir)), None),
            [dir, field] if super::is_field(field) => (Some(Path::new(dir)), Some(field.as_str())),
            [_, word, ..] => return Err(Usage(format!("`{word}` is not the name of a field")).into()),
        };
        Ok((Carrier::of(dir, data)?, field))
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Answer> {
    let (carrier, field) = args.read()?;
    let memory = carrier.memory()?;
    let Some(name) = field else {
        if args.json {
            terminal::print_json(&memory)?;
        } else {
            terminal::print(&show::memory_table(&memory).text(0))?;
        }
        return Ok(Answer::Yes);
    };
    let Some(field) = memory.fields.get(name) else {
        let known: Vec<&str> = memory.fields.keys().map(String::as_str).collect();
        anyhow::bail!("there is no field `{name}`; this object has {}", known.join(", "));
    };
    match &field.value {
        _ if args.json => terminal::print_json(field)?,
        // Whole and as it is: this is data for a program.
        Some(serde_json::Value::String(text)) => terminal::print(&format!("{text}\n"))?,
        Some(value) => terminal::print(&format!("{value}\n"))?,
        None => terminal::note(&format!("field `{name}` holds nothing")),
    }
    Ok(if field.value.is_some() {
        Answer::Yes
    } else {
        Answer::No
    })
}
