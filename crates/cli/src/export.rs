//! `export`: an object's whole history as one file.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use suijuris_store::capsule::{self, Decrypted, Exported, SecretsError};
use suijuris_store::{Depth, ObjectDir, Reader};

use crate::object_paths::ObjectArg;
use crate::progress::Progress;
use crate::terminal;
use crate::{Answer, Usage, key_wrap};

/// Times to look again when the object wakes while its waiting key is read.
const TRIES: u32 = 5;

/// Write an object's whole history into one file
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is a capsule: bundles, every record, a checkpoint; anybody can verify it. The key that
continues the history and the values of secret fields travel sealed, by default to you, who
created the object: `import` it wherever your owner's key lies. The workload's volume is not in
it. Exporting neither wakes nor stops the object; once an imported copy has woken with the same
depot, this one is refused as rolled back.

Exit codes: 0 written, 2 usage, 3 the object cannot be read or the file cannot be written.

Example:
  suijuris export hello -o hello.sui && suijuris import hello.sui --data copy")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// File to write; it must not exist
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Whom key and secrets are sealed to: an age recipient (age1…), or `owner`; repeatable
    #[arg(
        long,
        value_name = "RECIPIENT",
        default_value = "owner",
        conflicts_with = "without_key"
    )]
    to: Vec<String>,
    /// Leave key and secrets out: the copy can be read and verified, not woken
    #[arg(long)]
    without_key: bool,
    /// Overwrite FILE
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `export --json` prints.
#[derive(Debug, Serialize)]
struct Written {
    file: String,
    object: String,
    head: String,
    seq: u64,
    bytes: u64,
    /// Whom key and secrets are sealed to; empty where they are left out.
    sealed_to: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    if args.output.exists() && !args.force {
        let shown = args.output.display();
        return Err(Usage(format!(
            "`{shown}` exists: name another file, or write over it with --force"
        ))
        .into());
    }
    let sealed_to = if args.without_key {
        Vec::new()
    } else {
        args.to.clone()
    };
    let exported = write(&place.home(), &args.output, &sealed_to)?;
    let written = Written {
        file: args.output.display().to_string(),
        object: exported.object.to_string(),
        head: exported.head.to_string(),
        seq: exported.seq,
        bytes: exported.bytes,
        sealed_to,
    };
    if args.json {
        terminal::print_json(&written)?;
    } else {
        terminal::print(&text(&written))?;
    }
    Ok(Answer::Yes)
}

/// Writes the capsule under a name of its own, and gives it the wanted name once it is whole and durable.
pub(crate) fn write(home: &ObjectDir, path: &Path, sealed_to: &[String]) -> anyhow::Result<Exported> {
    let (reader, sealed) = read(home, sealed_to)?;
    let shown = path.display();
    let fresh = path.with_extension(format!("tmp.{}", std::process::id()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("`{shown}` cannot be written"))?;
    let written = pack(&reader, file, sealed.as_deref());
    let done = written.and_then(|exported| {
        fs::rename(&fresh, path).with_context(|| format!("`{shown}` cannot be written"))?;
        Ok(exported)
    });
    if done.is_err() {
        // What is left of a file that is of no use to anybody.
        let _ = fs::remove_file(&fresh);
    }
    done
}

fn pack(reader: &Reader, mut file: File, sealed: Option<&[u8]>) -> anyhow::Result<Exported> {
    let total = reader.state().head().seq.saturating_add(1);
    let progress = Progress::of(Some(total), "exported");
    let exported = capsule::export(reader, &file, sealed, |at| progress.at(at.records))?;
    file.flush()?;
    file.sync_all().context("the capsule cannot be made durable")?;
    Ok(exported)
}

/// The state, and what is sealed of the very same state.
fn read(home: &ObjectDir, sealed_to: &[String]) -> anyhow::Result<(Reader, Option<Vec<u8>>)> {
    for _ in 0..TRIES {
        let reader = Reader::open(home, Depth::Tail)?;
        if sealed_to.is_empty() {
            return Ok((reader, None));
        }
        match Decrypted::of(home, reader.state()) {
            Ok(open) => return Ok((reader, Some(key_wrap::encrypt(&open, sealed_to)?))),
            // The object has just woken, and another key waits.
            Err(SecretsError::Key(_)) if home.is_in_use() => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("the object wakes again and again while it is exported; put it to sleep first")
}

fn text(written: &Written) -> String {
    let sealed = match written.sealed_to.as_slice() {
        [] => "nothing: without its key the copy can be read and verified, not woken".to_owned(),
        to => format!("key and secrets to {}", to.join(", ")),
    };
    let Written {
        file,
        object,
        head,
        seq,
        bytes,
        ..
    } = written;
    format!(
        "{file}  {} records, {bytes} bytes\n  object {object}\n  head   {head}\n  sealed {sealed}\n",
        seq + 1
    )
}
