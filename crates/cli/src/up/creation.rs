//! From a directory to an object that can be woken: build the bundle, create the object or amend it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use suijuris_bundle::Built;
use suijuris_core::BundleId;
use suijuris_core::bundle::Bundle;
use suijuris_core::manifest::Manifest;
use suijuris_core::time::Reading;
use suijuris_custody::clock::Clock;
use suijuris_store::{BundleFiles, Creation, Depth, ObjectDir, Sizes, Writer, create, fork};
use zeroize::Zeroizing;

use super::amending::amend;
use crate::event_printer::EventPrinter;
use crate::object_paths::ObjectPaths;
use crate::{owner, registry, terminal};

/// File that is written once there is a history; alone, it shows that one has been lost.
const CHECKPOINT: &str = "checkpoint";

/// An object that can be woken.
pub(super) struct Created {
    pub(super) writer: Writer,
    pub(super) bundle: Arc<Bundle>,
    pub(super) clock: Clock,
}

/// An object that is open, and what its directory defines now. Nothing has been written, but for an object created here.
pub(super) struct Opened {
    pub(super) writer: Writer,
    built: Option<Built>,
    in_force: Arc<Bundle>,
    pub(super) clock: Clock,
}

impl Opened {
    /// The definition that will be in force.
    pub(super) fn manifest(&self) -> &Manifest {
        self.built
            .as_ref()
            .map_or(&self.in_force.manifest, |built| &built.manifest)
    }

    /// Its id.
    pub(super) fn bundle_id(&self) -> BundleId {
        let in_force = self.writer.published().head().bundle;
        self.built.as_ref().map_or(in_force, |built| built.id)
    }
}

/// What became of the preparations.
pub(super) enum Prepared {
    Ready(Box<Created>),
    /// The object refused to be amended, or too few owners approved; it was said. It can be woken as it is.
    Refused(Box<Created>),
}

/// Builds, creates where nothing is yet, opens. Where an object was whose data is gone, another begins only `anew`.
pub(super) fn open(place: &ObjectPaths, anew: bool, say: &EventPrinter) -> anyhow::Result<Opened> {
    let clock = Clock::start_at_rest(None).context("the clock thread cannot be started")?;
    let built = place
        .object_dir
        .as_deref()
        .map(suijuris_bundle::build)
        .transpose();
    let built = match built {
        Ok(built) => built,
        Err(report) => {
            say.report(&report);
            bail!("the definition has errors; `suijuris check` shows them again");
        }
    };
    if built.as_ref().is_some_and(|built| built.manifest.class.is_some()) {
        bail!(
            "{name} defines a class, and `up` runs a single object. `suijuris serve` and `suijuris add {name}` serve the class; to run one \
             object of this definition, take [class] out of object.toml and the rules of `instantiate` out of governance.cedar",
            name = place.name()
        );
    }
    let home = ObjectDir::at(&place.data);
    if suijuris_vehicle::vm::recover(&place.data)? {
        terminal::note(
            "the machine that ran last was not ended in order: what it had written is back from its disk",
        );
    }
    if !home.holds_object()? {
        let Some(built) = &built else {
            bail!("{} holds no object", place.data.display())
        };
        if place.data.join(CHECKPOINT).exists() {
            bail!(
                "{} holds what an object left behind, but not its history: restore `lineage` from a copy, or name other data with --data",
                place.data.display()
            );
        }
        if let Some((object, name)) = registry::gone(&place.data).filter(|_| !anew) {
            bail!(
                "`{name}` was here, and its history in {} is gone: put back a copy of it, or `suijuris import` or `pull` it; \
                 --anew begins another object, with another identity and empty memory ({object} stays gone)",
                place.data.display()
            );
        }
        make_data_dir(&place.data).with_context(|| format!("cannot make {}", place.data.display()))?;
        create_object(&home, built, clock.reading())?;
    }
    fs::create_dir_all(place.data.join("volume"))?;
    fs::create_dir_all(home.run_dir())?;
    // A child without proof of its parent is a copy that somebody gave another name.
    fork::parent_of(&home)?;
    let (writer, _recovery) = Writer::open(&home, Depth::Tail, Sizes::default())?;
    let id = writer.published().head().bundle;
    let in_force = writer.bundles().bundle(&id)?;
    Ok(Opened {
        writer,
        built,
        in_force,
        clock,
    })
}

/// The object's data directory: open to this user alone, and in no repository that its definition lies in.
fn make_data_dir(data: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    match fs::File::create_new(data.join(".gitignore")) {
        Ok(mut file) => file.write_all(b"*\n"),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Amends where the definition has changed.
pub(super) fn settle(opened: Opened, papers: &[PathBuf], say: &EventPrinter) -> anyhow::Result<Prepared> {
    let Opened {
        writer, built, clock, ..
    } = opened;
    let mut refused = false;
    if let Some(built) = &built {
        let in_force = writer.published().head().bundle;
        refused = built.id != in_force && !amend(&writer, built, papers, clock.reading(), say)?;
    }
    let id = writer.published().head().bundle;
    let bundle = writer.bundles().bundle(&id)?;
    let created = Box::new(Created {
        writer,
        bundle,
        clock,
    });
    Ok(if refused {
        Prepared::Refused(created)
    } else {
        Prepared::Ready(created)
    })
}

pub(crate) fn files(built: &Built) -> BundleFiles {
    let files = built.files();
    BundleFiles {
        manifest: files.manifest,
        governance: files.governance.into_bytes(),
        program: files.program,
    }
}

fn create_object(home: &ObjectDir, built: &Built, reading: Reading) -> anyhow::Result<()> {
    let mut seed = Zeroizing::new([0; 32]);
    let mut nonce = vec![0; 16];
    getrandom::fill(seed.as_mut_slice()).context("the system provides no randomness")?;
    getrandom::fill(&mut nonce).context("the system provides no randomness")?;
    let (controllers, threshold) = match &built.controllers {
        Some(declared) => (declared.keys.clone(), declared.threshold),
        None => (vec![owner::owner_key()?.public()], 1),
    };
    let creation = Creation {
        name: built.manifest.name.clone(),
        controllers,
        threshold,
        nonce,
        parent: None,
        class: None,
        at: reading.wall,
        bundle: files(built),
        seed,
    };
    create(home, creation)?;
    Ok(())
}
