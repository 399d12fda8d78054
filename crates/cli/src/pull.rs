//! `pull`: an object from a registry.

use std::path::PathBuf;

use serde::Serialize;
use suijuris_bundle::artifact::{self, Artifact};

use crate::oci::{Reach, reference, runtime};
use crate::progress::Progress;
use crate::{Answer, Usage, import, terminal};

/// Pull an object from a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With -o the capsule becomes a new file; with --data it is imported at once, as `import` does.
REFERENCE is HOST[:PORT]/REPOSITORY with :TAG or @sha256:DIGEST. A tag can be moved by whoever may
write there: name the digest where it matters which object you get. The registry is not trusted
for what is in the capsule; every record is verified.

Exit codes: 0 pulled, 1 the capsule is not valid or does not fit DATA, 2 usage, 3 it cannot be
pulled or written.

Example:
  suijuris pull registry.example/shop:hello-v1 -o hello.sui
  suijuris pull localhost:5000/hello:v1 --data copy && suijuris up hello --data copy")]
pub(crate) struct Args {
    /// Where from
    #[arg(value_name = "REFERENCE")]
    from: String,
    /// File to write; it must not exist
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "data",
        conflicts_with = "data"
    )]
    output: Option<PathBuf>,
    /// Data directory to import into
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Key that the capsule is sealed to: an owner's key or an age identity [default: your owner's key]
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with = "without_key")]
    key: Option<PathBuf>,
    /// Do not open what is sealed: the copy can be read and verified, not woken
    #[arg(long, requires = "data")]
    without_key: bool,
    #[command(flatten)]
    reach: Reach,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `pull -o --json` prints. Object, head and seq are claims of the registry: `verify` proves them, or not.
#[derive(Debug, Serialize)]
struct Pulled {
    file: String,
    digest: String,
    object: String,
    head: String,
    seq: u64,
    bytes: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let from = reference(&args.from)?;
    let registry = args.reach.registry(&from)?;
    let pull = |file: &std::path::Path| -> anyhow::Result<Artifact> {
        let progress = Progress::bytes("pulled");
        let mut told = |done, total| progress.bytes_at(done, total);
        Ok(runtime()?.block_on(artifact::pull(&registry, &from, file, &mut told))?)
    };
    if let Some(data) = &args.data {
        let above = std::path::absolute(data)?;
        let above = above.parent().unwrap_or(&above).to_owned();
        std::fs::create_dir_all(&above)?;
        let temp = Temp(above.join(format!(".pull.{}.sui", std::process::id())));
        pull(&temp.0)?;
        return import::answer(&temp.0, data, args.key.as_deref(), args.without_key, args.json);
    }
    let Some(file) = &args.output else {
        return Err(Usage("name a file with -o, or a data directory with --data".to_owned()).into());
    };
    if file.exists() {
        return Err(Usage(format!("`{}` exists: name another file", file.display())).into());
    }
    let artifact = pull(file)?;
    let labels = &artifact.manifest().labels;
    let pulled = Pulled {
        file: file.display().to_string(),
        digest: artifact.digest().to_string(),
        object: labels.object.to_string(),
        head: labels.head.to_string(),
        seq: labels.seq,
        bytes: artifact.capsule().size(),
    };
    if args.json {
        terminal::print_json(&pulled)?;
    } else {
        terminal::print(&format!(
            "{}  {} bytes\n  digest  {}\n  object  {} (as the registry says; `suijuris verify {}` proves it)\n  head    {}, record {}\n",
            pulled.file, pulled.bytes, pulled.digest, pulled.object, pulled.file, pulled.head, pulled.seq
        ))?;
    }
    Ok(Answer::Yes)
}

/// A capsule on its way into a directory; removed with this.
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
