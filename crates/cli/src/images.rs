//! `images`: what workloads run in. The store is this user's; `up`, `add` and others pull into it what a definition names.

mod pin;
mod pulling;

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;
use suijuris_oci::ContentDigest;
use suijuris_oci::store::{ImageStore, Listed, StoreOptions};

use crate::terminal::{self, Table};
use crate::{Answer, Usage, registry};

pub(crate) use pin::{Lookup, pin, pin_blocking};
#[cfg(feature = "remote")]
pub(crate) use pulling::resolve;
pub(crate) use pulling::runtime;
use pulling::{From, pull};

/// What workloads run in: pull, list, remove
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Exit codes: 0 done, 1 there is no such image, 2 usage, 3 it cannot be pulled or the store cannot be
used.

Example:
  suijuris images pull nginx:1.29
  suijuris images ls
  suijuris images rm nginx:1.29 && suijuris images gc")]
pub(crate) enum Command {
    /// List the images that are here
    Ls {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    Pull(PullArgs),
    /// Forget images by name or by digest, and remove what nothing else needs
    Rm {
        /// Name, or digest as `ls` shows it
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Remove what no image needs
    Gc {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Pull an image: that which a definition names, or another
#[derive(Debug, clap::Args)]
#[command(after_help = "\
IMAGE is a name (nginx:1.29), oci:DIRECTORY[:NAME] or docker-archive:FILE[:NAME]. Without it the image
that object.toml names is pulled, and what its name means is pinned in image.lock. What broke off is
gone on with.

Exit codes: 0 pulled, 2 usage, 3 it cannot be pulled.

Example:
  suijuris images pull
  suijuris images pull registry.example/app:v2")]
pub(crate) struct PullArgs {
    /// What to pull
    #[arg(value_name = "IMAGE", conflicts_with = "update")]
    image: Option<String>,
    /// Object's directory, where no image is named
    #[arg(long = "for", value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Look the name up again, though it is pinned
    #[arg(long)]
    update: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where images are kept.
pub(crate) fn store() -> anyhow::Result<ImageStore> {
    let home = registry::home().context("there is no place for images: set HOME or XDG_DATA_HOME")?;
    Ok(ImageStore::open(&home.join("images"), StoreOptions::default())?)
}

/// Runs the command.
///
/// # Errors
/// What keeps it from being done.
pub(crate) fn run(command: &Command) -> anyhow::Result<Answer> {
    match command {
        Command::Ls { json } => list(*json),
        Command::Pull(args) => pull_one(args),
        Command::Rm { images } => remove(images),
        Command::Gc { json } => collect(*json),
    }
}

/// An image, as `ls --json` and `pull --json` print it.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    digest: String,
    layers: usize,
    /// Bytes of its layers as they travel.
    bytes: u64,
}

fn shown(store: &ImageStore, listed: &Listed) -> anyhow::Result<Shown> {
    let hold = store.image(&listed.name)?;
    let layers = hold.image().layers();
    Ok(Shown {
        name: listed.name.clone(),
        digest: listed.manifest.digest.to_string(),
        layers: layers.len(),
        bytes: layers.iter().map(|layer| layer.descriptor.size).sum(),
    })
}

fn list(json: bool) -> anyhow::Result<Answer> {
    let store = store()?;
    let mut all = Vec::new();
    for listed in store.list()? {
        all.push(shown(&store, &listed).with_context(|| format!("image `{}`", listed.name))?);
    }
    if json {
        terminal::print_json(&all)?;
        return Ok(Answer::Yes);
    }
    let mut table = Table::default();
    table.row(["IMAGE", "DIGEST", "LAYERS", "SIZE"]);
    for image in &all {
        let digest = image.digest.get(..19).unwrap_or(&image.digest);
        let name = image
            .name
            .split_once("@sha256:")
            .map_or(&*image.name, |(name, _)| name);
        table.row([
            &terminal::clean(name),
            digest,
            &image.layers.to_string(),
            &size(image.bytes),
        ]);
    }
    terminal::print(&table.text(0))?;
    Ok(Answer::Yes)
}

pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

fn pull_one(args: &PullArgs) -> anyhow::Result<Answer> {
    let store = store()?;
    let pulled = match &args.image {
        Some(name) => {
            let from = From::parse(name, &std::env::current_dir()?)?;
            let tokio = runtime()?;
            tokio.block_on(pull(&store, &from))?
        }
        None => {
            let which = if args.update { Lookup::Again } else { Lookup::All };
            let pinned = pin_blocking(&args.dir, which)?;
            let Some(pinned) = pinned else {
                let why = format!(
                    "no image is named in {}: name one, or an object's directory with --for",
                    args.dir.display()
                );
                return Err(Usage(why).into());
            };
            pinned
        }
    };
    let about = Shown {
        name: pulled.name,
        digest: pulled.digest.to_string(),
        layers: pulled.layers,
        bytes: pulled.bytes,
    };
    if args.json {
        terminal::print_json(&about)?;
    } else {
        terminal::print(&format!(
            "{}  {}, {}\n",
            about.digest,
            terminal::count(about.layers as u64, "layer"),
            size(about.bytes)
        ))?;
    }
    Ok(Answer::Yes)
}

fn remove(images: &[String]) -> anyhow::Result<Answer> {
    let store = store()?;
    let mut all_there = true;
    for image in images {
        let names: Vec<String> = store
            .list()?
            .into_iter()
            .filter(|listed| is_meant(image, listed))
            .map(|listed| listed.name)
            .collect();
        if names.is_empty() {
            all_there = false;
            terminal::note(&format!(
                "there is no image `{}`: `suijuris images ls` lists them",
                terminal::clean(image)
            ));
        }
        for name in names {
            store.remove(&name)?;
        }
    }
    store.gc()?;
    Ok(if all_there { Answer::Yes } else { Answer::No })
}

/// Whether `image` is the name of `listed`, with or without its digest, or its digest or what it begins with.
fn is_meant(image: &str, listed: &Listed) -> bool {
    let digest = listed.manifest.digest.to_string();
    let name = listed
        .name
        .strip_suffix(&format!("@{digest}"))
        .unwrap_or(&listed.name);
    let by_digest = image.len() >= "sha256:".len() + 12 && digest.starts_with(image);
    image == listed.name || image == name || by_digest
}

#[derive(Debug, Serialize)]
struct Collected {
    layers: u64,
    documents: u64,
}

fn collect(json: bool) -> anyhow::Result<Answer> {
    let collected = store()?.gc()?;
    let collected = Collected {
        layers: collected.layers,
        documents: collected.blobs,
    };
    if json {
        terminal::print_json(&collected)?;
    } else {
        terminal::note(&format!("removed {}", terminal::count(collected.layers, "layer")));
    }
    Ok(Answer::Yes)
}

/// What was pulled.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) name: String,
    pub(crate) digest: ContentDigest,
    pub(crate) layers: usize,
    pub(crate) bytes: u64,
}
