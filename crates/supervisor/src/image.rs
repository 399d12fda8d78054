//! The image of a workload on its way into a machine: its files from the store, what it says of its program, and the runtime
//! and the object's own directories in their places among its files.
//!
//! ```text
//! /run/suijuris/object    the object's data, of which the workload sees its volume
//! /run/suijuris/agent     directory of the agent socket
//! /run/suijuris/runtime   the runtime, out of the workload's sight
//! ```

use std::path::{Path, PathBuf};

use suijuris_core::id::Digest;
use suijuris_core::manifest;
use suijuris_link::launch;
use suijuris_oci::ContentDigest;
use suijuris_oci::image::ImageConfig;
use suijuris_oci::store::{Hold, How, ImageStore, NoSuchAccount, StoreError, Unpacked};
use suijuris_oci::unpack::Kind;
use suijuris_vehicle::process::{Step, StepFailed};
use suijuris_vehicle::{Description, ImageFiles, ImageRoot, ImageUsers, Mount, Owner, StartError};

use crate::image_disk;
use crate::runtime_in_image::{self, InImage, NotStatic};
use crate::services::RuntimeProgram;

/// The object's data directory in a machine with an image.
pub(crate) const DATA: &str = "/run/suijuris/object";
/// Directory of the agent socket there.
const AGENT: &str = "/run/suijuris/agent";
/// Bytes of that where it is in a machine's memory; a socket takes none.
const AGENT_BYTES: u64 = 1 << 20;
/// Name of the directory for what a machine writes to its image, in the object's data.
const SCRATCH: &str = "scratch";
/// Name of the copy of an image, where overlayfs cannot be used.
const COPY: &str = "image";

/// Files of an image that are given to their owners at most.
const MOST_OWNERS: usize = 16_384;

/// Why a workload's image cannot be run here.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The vehicle cannot.
    #[error(
        "machines here are {0}, in which no image runs: use a host that allows namespaces (docs/isolation.md)"
    )]
    Vehicle(String),
    /// There is no store.
    #[error("this daemon has no image store: set HOME or XDG_DATA_HOME")]
    NoStore,
    /// It is not here.
    #[error(
        "the image sha256:{0} is not on this machine: `suijuris images pull` brings it, by the name in object.toml"
    )]
    Missing(String),
    /// The store.
    #[error("the image cannot be used")]
    Store(#[from] StoreError),
    /// Whom it runs as.
    #[error("the workload's user cannot be found")]
    User(#[from] NoSuchAccount),
    /// It names no program.
    #[error("the image names neither entrypoint nor command: write workload.command in object.toml")]
    NoCommand,
    /// The runtime.
    #[error("the runtime cannot go into the image")]
    Runtime(#[from] NotStatic),
    /// Its disk.
    #[error("the image cannot be put onto a disk")]
    Disk(#[from] image_disk::ImageDiskError),
    /// A mount of the workload.
    #[error("workload.mounts: {0} {1}")]
    Mount(PathBuf, &'static str),
    /// Left over from an earlier start.
    #[error("`{0}` cannot be removed: do so by hand")]
    Left(PathBuf, #[source] std::io::Error),
}

/// An image that a machine can begin with.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Its files stay as long as this, or a copy of its descriptor, is open.
    pub(crate) hold: Hold,
    pub(crate) root: ImageRoot,
    /// Whose its files are, where not root's.
    pub(crate) owners: Vec<Owner>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) runtime: InImage,
    /// What the runtime is told.
    pub(crate) told: launch::Image,
    /// Which, and how its files come into the machine.
    pub(crate) words: String,
}

/// What of the object goes into the machine.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) data: PathBuf,
    pub(crate) object_dir: PathBuf,
    pub(crate) agent_socket: PathBuf,
}

/// Gets the image `digest` ready. Reads the disk, and copies where overlayfs cannot be used: not for a thread that must go on.
pub(crate) fn ready(
    store: Option<&ImageStore>,
    digest: Digest,
    workload: &manifest::Workload,
    places: &Places,
    (runtime, vehicle): (&RuntimeProgram, &Description),
) -> Result<Ready, ImageError> {
    if !vehicle.images {
        return Err(ImageError::Vehicle(vehicle.isolation.to_string()));
    }
    let store = store.ok_or(ImageError::NoStore)?;
    let hold = match store.by_digest(named(digest)) {
        Err(StoreError::NoSuchImage(_)) => return Err(ImageError::Missing(digest.hex())),
        hold => hold?,
    };
    let unpacked = hold.unpacked()?;
    let config = hold.image().config().clone();
    let told = told(digest, &config, workload, &unpacked)?;
    let runtime = runtime_in_image::of(runtime, &unpacked)?;
    let mut mounts = runtime.mounts.clone();
    mounts.push(bind(&places.data, DATA, false));
    match places.agent_socket.parent() {
        Some(agent) if vehicle.descriptors => mounts.push(bind(agent, AGENT, false)),
        // Nobody outside the machine reaches a socket in it.
        _ => mounts.push(Mount::Tmpfs {
            to: AGENT.into(),
            size_bytes: AGENT_BYTES,
        }),
    }
    mounts.extend(of_workload(workload, places)?);
    let (files, how) = match (vehicle.descriptors, unpacked.overlay) {
        // A machine with a file system of its own.
        (false, _) => (image_disk::of(store, &hold, digest)?, "on a disk".to_owned()),
        (true, true) => (ImageFiles::Layers(unpacked.layers), "by overlayfs".to_owned()),
        (true, false) => copied(&hold, &places.data)?,
    };
    let (uid, gid, _) = &told.account;
    let owners = match (vehicle.users, uid, gid) {
        (ImageUsers::Mapped, 0, 0) => owners(&hold)?,
        _ => Vec::new(),
    };
    let root = ImageRoot {
        files,
        scratch: places.data.join(SCRATCH),
        user: (*uid, *gid),
    };
    Ok(Ready {
        hold,
        root,
        owners,
        mounts,
        runtime,
        told,
        words: format!(
            "image sha256:{} {how}",
            digest.hex().get(..12).unwrap_or_default()
        ),
    })
}

/// Whose files of an image are, where not root's. Where most are somebody else's none are given away: each is copied first.
fn owners(hold: &Hold) -> Result<Vec<Owner>, StoreError> {
    let mut owners = Vec::new();
    for (path, (_, entry)) in hold.root()?.entries()? {
        if (entry.uid, entry.gid) == (0, 0) || matches!(entry.kind, Kind::Whiteout) {
            continue;
        }
        if owners.len() == MOST_OWNERS {
            return Ok(Vec::new());
        }
        owners.push(Owner {
            path: path.as_path().to_owned(),
            uid: entry.uid,
            gid: entry.gid,
        });
    }
    Ok(owners)
}

impl Ready {
    /// Whether its files are for overlayfs.
    pub(crate) const fn is_layered(&self) -> bool {
        matches!(self.root.files, ImageFiles::Layers(_))
    }
}

/// Whether a machine was not started because overlayfs cannot be mounted here.
pub(crate) fn is_no_overlay(error: &StartError) -> bool {
    let StartError::Failed(error) = error else {
        return false;
    };
    let failed = error.downcast_ref::<StepFailed>();
    failed.is_some_and(|failed| failed.fault.step == Step::Root)
}

/// All files of an image in one directory of the object's data, for one machine, and how they came there.
pub(crate) fn copied(hold: &Hold, data: &Path) -> Result<(ImageFiles, String), ImageError> {
    let copy = data.join(COPY);
    remove(&copy)?;
    let copied = hold.root()?.copy_to(&copy)?;
    let how = match copied.how() {
        Some(How::Reflink) => "image by reflinks, since overlayfs cannot be used".to_owned(),
        _ => format!(
            "image copied, {} bytes, since overlayfs cannot be used",
            copied.bytes
        ),
    };
    Ok((ImageFiles::Copy(copy), how))
}

/// Where the agent socket is in the machine.
pub(crate) fn agent_socket(on_host: &Path) -> PathBuf {
    Path::new(AGENT).join(on_host.file_name().unwrap_or_default())
}

const fn named(digest: Digest) -> ContentDigest {
    ContentDigest::from_bytes(digest.0)
}

/// What the image `digest` says of its program, for a runtime; `unpacked` are its files, in which users are looked up.
///
/// # Errors
/// [`ImageError::NoCommand`], [`ImageError::User`].
pub fn told(
    digest: Digest,
    config: &ImageConfig,
    workload: &manifest::Workload,
    unpacked: &Unpacked,
) -> Result<launch::Image, ImageError> {
    let argv = config.argv();
    if argv.is_empty() && workload.argv.is_empty() {
        return Err(ImageError::NoCommand);
    }
    let account = unpacked.account(workload.user.as_deref().unwrap_or(&config.user))?;
    let mut env = config.env.clone();
    if let Some(home) = account
        .home
        .filter(|_| !env.iter().any(|(name, _)| name == "HOME"))
    {
        env.push(("HOME".to_owned(), home));
    }
    Ok(launch::Image {
        digest,
        argv,
        env,
        cwd: PathBuf::from(&config.working_dir),
        stop_signal: i32::from(config.stop_signal.number()),
        account: (account.uid, account.gid, account.groups),
    })
}

fn bind(from: &Path, to: impl Into<PathBuf>, read_only: bool) -> Mount {
    Mount::Bind {
        from: from.to_owned(),
        to: to.into(),
        read_only,
    }
}

/// What the workload sees of the host besides: into an image it comes with the machine, since the runtime in there sees
/// nothing of the host.
fn of_workload(workload: &manifest::Workload, places: &Places) -> Result<Vec<Mount>, ImageError> {
    let mounts = workload.mounts.iter().map(|mount| {
        let below = mount.from.strip_prefix("{object}");
        let from = match below {
            Some(below) => places.object_dir.join(below.trim_start_matches('/')),
            None => PathBuf::from(&mount.from),
        };
        let Ok(from) = from.canonicalize() else {
            return Err(ImageError::Mount(
                from,
                "is not there: make it, or take the mount out",
            ));
        };
        let agent = places.agent_socket.parent().unwrap_or(&places.data);
        let is_own = |private: &Path| {
            let private = private.canonicalize().unwrap_or_else(|_| private.to_owned());
            private.starts_with(&from) || from.starts_with(&private)
        };
        if is_own(&places.data) || is_own(agent) {
            let why = "would show what is the object's own: name a directory that does not hold its data";
            return Err(ImageError::Mount(from, why));
        }
        Ok(bind(&from, &mount.to, !mount.write))
    });
    mounts.collect()
}

fn remove(copy: &Path) -> Result<(), ImageError> {
    match suijuris_vehicle::process::remove_strange(copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ImageError::Left(copy.to_owned(), error))
        }
        _ => Ok(()),
    }
}
