//! `import`: an object out of a capsule.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use suijuris_store::capsule::{self, Decrypted, ImportError, Imported};
use suijuris_store::{ObjectDir, Sizes};
use suijuris_supervisor::volume;

use crate::depots::DepotArg;
use crate::object_paths::ObjectPaths;
use crate::progress::Progress;
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, history, key_wrap, migrate, verify};

/// Make an object out of a capsule
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every record, signature and bundle is verified before anything appears under DATA; id, head and
memory are those of the capsule; the volume in FILE.volume, where there is one, is unpacked. A directory that holds an older part of the same history is
brought up to it; any other is refused and stays as it is. An object that departed into the capsule
(`suijuris migrate`) arrives, if the depot knows of its departure and of nothing behind it.

Exit codes: 0 imported, 1 the capsule is not valid or does not fit the directory, 2 usage, 3 it
cannot be read or written.

Example:
  suijuris import hello.sui --data copy && suijuris up hello --data copy")]
pub(crate) struct Args {
    /// The capsule
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Data directory to make
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Key that the capsule is sealed to: an owner's key or an age identity [default: your owner's key]
    #[arg(long, value_name = "FILE", conflicts_with = "without_key")]
    key: Option<PathBuf>,
    /// Do not open what is sealed: the copy can be read and verified, not woken
    #[arg(long)]
    without_key: bool,
    #[command(flatten)]
    depot: DepotArg,
    /// Print one JSON object; of an object that departed, the event of its arrival behind it
    #[arg(long)]
    json: bool,
}

/// What `import --json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    data: String,
    object: String,
    head: String,
    seq: u64,
    /// Records that the directory did not have before.
    added: u64,
    /// Whether the key came along.
    wakes: bool,
    /// Secret fields whose values did not come along.
    missing_secrets: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let answered = answer(
        &args.file,
        &args.data,
        args.key.as_deref(),
        args.without_key,
        args.json,
    )?;
    if answered == Answer::Yes && !args.without_key {
        unpack_volume(&args.file, &args.data)?;
    }
    if answered == Answer::Yes && !args.without_key && migrate::has_departed(&args.data)? {
        return migrate::arrived_at(&args.data, &args.depot, args.json);
    }
    Ok(answered)
}

/// Unpacks the volume that lies beside the capsule, where the object has none yet: not once it has lived here.
fn unpack_volume(file: &Path, data: &Path) -> anyhow::Result<()> {
    let packed = volume::beside(file);
    if !packed.exists() || (volume::has_files(data) && !migrate::has_departed(data)?) {
        return Ok(());
    }
    let paths = ObjectPaths {
        object_dir: None,
        data: data.to_owned(),
    };
    let head = history::open(&paths)?.state().head().record;
    volume::unpack(&packed, &head, &data.join("volume"))
        .with_context(|| format!("the volume in `{}` was not unpacked", packed.display()))
}

/// Imports the capsule in `file` into `data`, and tells.
pub(crate) fn answer(
    file: &Path,
    data: &Path,
    key: Option<&Path>,
    without_key: bool,
    json: bool,
) -> anyhow::Result<Answer> {
    let imported = match read(file, data, key, without_key) {
        Ok(imported) => imported,
        Err(error) if is_no(&error) => {
            let word = Screen::stdout().paint(Tone::Bad, "not imported");
            terminal::print(&format!("{word}\n  {}\n", terminal::clean(&format!("{error:#}"))))?;
            return Ok(Answer::No);
        }
        Err(error) => return Err(error),
    };
    let shown = Shown {
        data: data.display().to_string(),
        object: imported.object.to_string(),
        head: imported.head.to_string(),
        seq: imported.seq,
        added: imported.added,
        wakes: imported.wakes,
        missing_secrets: imported.missing_secrets.iter().map(ToString::to_string).collect(),
        parent: imported.parent.map(|parent| parent.object.to_string()),
    };
    if json {
        terminal::print_json(&shown)?;
    } else {
        terminal::print(&text(&shown))?;
    }
    Ok(Answer::Yes)
}

/// Whether the answer is no, rather than the question could not be asked.
fn is_no(error: &anyhow::Error) -> bool {
    use suijuris_store::capsule::CapsuleError;
    if error.is::<verify::NotVerified>() {
        return true;
    }
    match error.downcast_ref() {
        Some(ImportError::Capsule(CapsuleError::Read(_)) | ImportError::Decrypt(_)) | None => false,
        Some(_) => true,
    }
}

/// Imports the capsule in `file` into `data`.
pub(crate) fn read(
    file: &Path,
    data: &Path,
    key: Option<&Path>,
    without_key: bool,
) -> anyhow::Result<Imported> {
    let shown = file.display();
    let source = File::open(file).with_context(|| format!("`{shown}` cannot be read"))?;
    let data = std::path::absolute(data)?;
    verify::ensure_verified(file)?;
    if let Some(parent) = data.parent() {
        fs::create_dir_all(parent).with_context(|| format!("`{}` cannot be made", parent.display()))?;
    }
    let progress = Progress::of(None, "imported");
    let decrypt = |sealed: Option<&[u8]>| -> anyhow::Result<Option<Decrypted>> {
        sealed
            .filter(|_| !without_key)
            .map(|sealed| key_wrap::decrypt(sealed, key))
            .transpose()
    };
    let imported = capsule::import(
        BufReader::with_capacity(256 << 10, source),
        &ObjectDir::at(&data),
        Sizes::default(),
        decrypt,
        |at| progress.at(at.records),
    )?;
    Ok(imported)
}

fn text(shown: &Shown) -> String {
    let Shown {
        data,
        object,
        head,
        seq,
        added,
        ..
    } = shown;
    let what = if *added == 0 {
        "the same history was there"
    } else {
        "imported"
    };
    let mut text = format!(
        "{what}  {} records, {added} new\n  object {object}\n  head   {head}\n  data   {data}\n",
        seq + 1
    );
    if let Some(parent) = &shown.parent {
        text += &format!("  parent {parent}, proved\n");
    }
    if !shown.wakes {
        text += "  without its key: it can be read and verified, not woken\n";
    }
    if !shown.missing_secrets.is_empty() {
        text += &format!(
            "  secrets to be set again: {}\n",
            shown.missing_secrets.join(", ")
        );
    }
    text
}
