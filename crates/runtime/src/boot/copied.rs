//! A machine that is a copy of a suspended one: it hears so over its link, and becomes the machine of another object (or of the
//! same one again) before anything is decided in it.
//!
//! All that the runtime was is dropped first: keys, claim, history, gate. What the disk has of the object that it is a copy of is
//! replaced by files that come over the link, all but the workload's volume; the workload goes on. Then it boots like any other.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use suijuris_core::lifecycle::Phase;
use suijuris_link::launch::Image;
use suijuris_link::{Launch, ToRuntime, ToSupervisor};

use super::renewed::renew;
use super::start::{Config, Error};
use crate::resident::Resident;
use crate::supervision::{Attached, Identity, Supervision};

/// What stays of the directory: the workload's volume, the sockets' directory, the file system's own.
const STAYS: [&str; 3] = ["volume", "run", "lost+found"];

/// Time for the next piece of a file.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

/// Files at most, and bytes of one.
const MAX_FILES: u64 = 1 << 20;
const MAX_SIZE: u64 = 1 << 40;

/// What the machine keeps of the one that it is a copy of.
#[derive(Debug)]
pub(super) struct Places {
    data: PathBuf,
    object_dir: PathBuf,
    agent_socket: PathBuf,
    image: Option<Image>,
    egress: bool,
}

impl Places {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            data: config.data.clone(),
            object_dir: config.object_dir.clone(),
            agent_socket: config.agent_socket.clone(),
            image: config.image.clone(),
            egress: config.egress,
        }
    }
}

/// What the machine is to become.
#[derive(Debug)]
pub(super) struct Copy {
    launch: Launch<OwnedFd>,
    supervision: Supervision,
}

impl Copy {
    /// Whether a launch that comes to a machine that runs says that it is a copy: one that is not suspended is none.
    pub(super) fn is_meant(launch: &Launch<OwnedFd>, resident: &Resident) -> bool {
        launch.files.is_some() && resident.phase() == Phase::Suspended
    }

    pub(super) const fn new(launch: Launch<OwnedFd>, supervision: Supervision) -> Self {
        Self { launch, supervision }
    }

    /// Takes in the object's files and says so. Nothing else of the machine is at work.
    pub(super) async fn begin(
        self,
        places: Places,
        owner: Attached,
    ) -> Result<(Config, Attached, Supervision), Error> {
        let Self { launch, supervision } = self;
        supervision.become_activation(Identity {
            activation: launch.activation,
            secret: launch.secret.clone(),
        });
        let failed = |error| Error::System("replace the files of the machine that it is a copy of", error);
        remove_files(&places.data).map_err(failed)?;
        for _ in 0..launch.files.unwrap_or(0).min(MAX_FILES) {
            take_file(&supervision, &places.data).await?;
        }
        if places.image.is_some() {
            let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            renew(Path::new("/"), name.trim())
                .map_err(|error| Error::System("renew what says which machine this is", error))?;
        }
        let dir = File::open(&places.data).map_err(failed)?;
        rustix::fs::syncfs(&dir).map_err(|errno| failed(errno.into()))?;
        let said = supervision.link().send(ToSupervisor::FilesWritten).await;
        said.map_err(|_gone| Error::Files("the supervisor is gone"))?;
        let config = Config {
            data: places.data,
            object_dir: places.object_dir,
            agent_socket: places.agent_socket,
            image: places.image,
            egress: places.egress,
            ..Config::launched(launch)?
        };
        Ok((config, owner, supervision))
    }
}

/// Removes what the directory has of an object, but the workload's volume.
fn remove_files(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        if STAYS.iter().any(|stays| entry.file_name() == *stays) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// The next file, whole.
async fn take_file(supervision: &Supervision, data: &Path) -> Result<(), Error> {
    let failed = |error| Error::System("write the object's files", error);
    let mut open: Option<(String, File)> = None;
    loop {
        let next = tokio::time::timeout(PIECE_WITHIN, supervision.link().receive()).await;
        let next = next.map_err(|_late| Error::Silent)?.map_err(Error::Link)?;
        let Some(ToRuntime::File {
            path,
            size,
            at,
            bytes,
            last,
        }) = next
        else {
            return Err(Error::Files("something else came"));
        };
        let file = match &open {
            Some((name, file)) if *name == path => file,
            Some(_) => return Err(Error::Files("a file is not whole")),
            None => {
                let file = make(data, &path, size).map_err(failed)?;
                &open.insert((path, file)).1
            }
        };
        if at.saturating_add(bytes.len() as u64) > size {
            return Err(Error::Files("a piece is beyond its file"));
        }
        file.write_all_at(&bytes, at).map_err(failed)?;
        if last {
            return Ok(());
        }
    }
}

fn make(data: &Path, path: &str, size: u64) -> io::Result<File> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let stays = path
        .components()
        .next()
        .is_none_or(|first| STAYS.iter().any(|stays| first.as_os_str() == *stays));
    if !plain || stays || size > MAX_SIZE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = data.join(path);
    if let Some(above) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    }
    let file = File::options()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(size)?;
    Ok(file)
}
