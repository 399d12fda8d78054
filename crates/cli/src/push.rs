//! `push`: an object, or its capsule, to a registry.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use suijuris_bundle::artifact::{self, Artifact, Labels, Title};
use suijuris_core::id::{BundleId, Digest};
use suijuris_core::time::Timestamp;
use suijuris_oci::{Blob, ContentDigest, Descriptor, MAX_BLOB_BYTES, Reference, Registry, RegistryError};
use suijuris_store::capsule;

use crate::object_paths::locate;
use crate::oci::{Reach, reference, runtime};
use crate::progress::Progress;
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, clock, export};

/// Bytes of a capsule read at once.
const READ_BYTES: usize = 256 << 10;

/// Push an object to a registry, as an OCI artifact
#[derive(Debug, clap::Args)]
#[command(after_help = "\
OBJECT is a capsule that `export` wrote, or an object, which is exported first (key and secrets
sealed to you). A capsule that is not valid is not pushed. REFERENCE is
HOST[:PORT]/REPOSITORY:TAG; user and password are taken from Docker's or Podman's configuration.
The image that the object runs is named as `subject` where the same repository has it.

Exit codes: 0 pushed, 1 the capsule is not valid, 2 usage, 3 it cannot be read or pushed.

Example:
  suijuris push hello registry.example/shop:hello-v1
  suijuris push hello.sui localhost:5000/hello:v1 --json")]
pub(crate) struct Args {
    /// Capsule, object's directory or data directory
    #[arg(value_name = "OBJECT")]
    object: PathBuf,
    /// Where to
    #[arg(value_name = "REFERENCE")]
    to: String,
    /// Name this image as subject, a reference in the same repository [default: the image in the definition]
    #[arg(long, value_name = "REFERENCE")]
    subject: Option<String>,
    #[command(flatten)]
    reach: Reach,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `push --json` prints.
#[derive(Debug, Serialize)]
struct Pushed {
    reference: String,
    digest: String,
    object: String,
    head: String,
    seq: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let to = reference(&args.to)?;
    let subject = args.subject.as_deref().map(reference).transpose()?;
    let registry = args.reach.registry(&to)?;
    let temp;
    let file = if args.object.is_file() {
        args.object.as_path()
    } else {
        temp = Exported::of(&args.object)?;
        &temp.file
    };
    let looked = match look(file)? {
        Ok(looked) => looked,
        Err(words) => {
            let word = Screen::stdout().paint(Tone::Bad, "not pushed");
            terminal::print(&format!("{word}\n  {}\n", terminal::clean(&words)))?;
            return Ok(Answer::No);
        }
    };
    let title = title(&args.object)?;
    let capsule = Blob::measure(file, MAX_BLOB_BYTES)?;
    let bytes = capsule.size();
    let tokio = runtime()?;
    let subject = match (subject, looked.image) {
        (Some(image), _) => Some(tokio.block_on(registry.resolve(&image))?),
        (None, Some(image)) => tokio.block_on(image_of(&registry, &to, image))?,
        (None, None) => None,
    };
    let labels = Labels {
        title,
        created: looked.at,
        object: looked.object,
        head: looked.head,
        seq: looked.seq,
    };
    let pushed = Pushed {
        reference: to.to_string(),
        digest: String::new(),
        object: labels.object.to_string(),
        head: labels.head.to_string(),
        seq: labels.seq,
        bytes,
        subject: subject.as_ref().map(|subject| subject.digest.to_string()),
    };
    let artifact = Artifact::new(capsule, labels, subject)?;
    let progress = Progress::bytes("pushed");
    let mut tell_progress = |done, total| progress.bytes_at(done, total);
    let digest = tokio.block_on(artifact::push(&registry, &to, &artifact, &mut tell_progress))?;
    drop(progress);
    tell(
        &Pushed {
            digest: digest.to_string(),
            ..pushed
        },
        args.json,
    )
}

fn tell(pushed: &Pushed, json: bool) -> anyhow::Result<Answer> {
    if json {
        terminal::print_json(pushed)?;
        return Ok(Answer::Yes);
    }
    let mut text = format!(
        "{}  {} bytes\n  digest  {}\n  object  {}\n  head    {}, record {}\n",
        pushed.reference, pushed.bytes, pushed.digest, pushed.object, pushed.head, pushed.seq
    );
    if let Some(subject) = &pushed.subject {
        text += &format!("  subject {subject}\n");
    }
    terminal::print(&text)?;
    Ok(Answer::Yes)
}

/// What a capsule says of itself, verified.
struct Looked {
    object: suijuris_core::ObjectId,
    head: suijuris_core::RecordId,
    seq: u64,
    at: Timestamp,
    /// The image that the bundle in force names.
    image: Option<Digest>,
}

fn look(file: &Path) -> anyhow::Result<Result<Looked, String>> {
    let shown = file.display();
    let source = File::open(file).with_context(|| format!("`{shown}` cannot be read"))?;
    let progress = Progress::of(None, "verified");
    let mut images: Vec<(BundleId, Option<Digest>)> = Vec::new();
    let verified = capsule::verify_with(
        BufReader::with_capacity(READ_BYTES, source),
        |at| progress.at(at.records),
        |id, files| {
            let image = files
                .open()
                .ok()
                .and_then(|bundle| bundle.manifest.workload.image);
            images.push((*id, image));
        },
    );
    let verified = match verified {
        Ok(verified) => verified,
        Err(error @ capsule::CapsuleError::Read(_)) => return Err(error.into()),
        Err(error) => return Ok(Err(suijuris_custody::chain(&error))),
    };
    let head = verified.state.head();
    let in_force = images.iter().find(|(id, _)| *id == head.bundle);
    Ok(Ok(Looked {
        object: head.object,
        head: head.record,
        seq: head.seq,
        // When it was exported the file says, not its history.
        at: clock::reading()?.wall,
        image: in_force.and_then(|(_, image)| *image),
    }))
}

/// The workload's image, where the repository has it.
async fn image_of(registry: &Registry, to: &Reference, image: Digest) -> anyhow::Result<Option<Descriptor>> {
    let digest = ContentDigest::from_bytes(image.0);
    match registry.resolve(&to.with_digest(digest)).await {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(RegistryError::NotFound { .. }) => {
            terminal::note(&format!(
                "the image that the object runs ({}) is not in {}/{}: pushed without `subject`",
                digest,
                to.host(),
                to.repository()
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The file name that people see, of the capsule or made of the object's.
fn title(object: &Path) -> anyhow::Result<Title> {
    let absolute = std::path::absolute(object)?;
    let name = absolute
        .file_name()
        .map_or_else(|| "object".to_owned(), |name| name.to_string_lossy().into_owned());
    let name = if object.is_file() {
        name
    } else {
        format!("{name}.sui")
    };
    Ok(name.parse().or_else(|_| "object.sui".parse())?)
}

/// An object exported for the way; the file is removed with this.
struct Exported {
    file: PathBuf,
}

impl Exported {
    fn of(object: &Path) -> anyhow::Result<Self> {
        let place = locate(Some(object), None)?;
        let file = place.data.join(format!("push.{}.sui", std::process::id()));
        let exported = Self { file };
        export::write(&place.home(), &exported.file, &["owner".to_owned()])?;
        Ok(exported)
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
