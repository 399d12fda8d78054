//! A machine that begins as a copy of a suspended one: its runtime hears who it is now, gets the object's files over the link, and
//! boots like any other; its workload goes on.
//!
//! The directory stays the newest state until the files are there, and nothing is decided in the machine before. What fails until
//! then costs the copy alone.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use suijuris_core::ObjectId;
use suijuris_core::id::BundleId;
use suijuris_custody::chain;
use suijuris_link::transport::Bytes;
use suijuris_link::{ActivationId, Launch, Nonce, Secret, SupervisorLink, ToRuntime, ToSupervisor};
use suijuris_vehicle::{Driver, Lifetime, Machine as _, Mount, Spec};
use tokio::task::JoinSet;

use super::{NoMachine, Outside, Running, carried_depot, depot_over_link, noted};
use crate::machine_notes::MachineNote;
use crate::services::Services;

/// What of the directory is this host's alone, or is in the machine already.
const NOT_SENT: [&str; 6] = ["volume", "run", "lock", "frozen", "in-machine", "kept.key"];

/// Time for a copied machine's runtime to say that it is there, and to take the files: machines may be emulated, several at a time.
const TAKES_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// What is noted of a machine that stands still, by who starts its copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Frozen {
    /// The activation in it.
    activation: ActivationId,
    /// What proves a supervisor to its runtime.
    secret: Secret,
    /// The bundle that its workload was started by.
    bundle: BundleId,
    /// The epoch of the object whose directory has it: one that was awake since is past what stands still.
    epoch: u64,
}

impl Frozen {
    pub(crate) fn of(note: &MachineNote, bundle: BundleId, epoch: u64) -> Self {
        Self {
            activation: note.activation,
            secret: note.secret.clone(),
            bundle,
            epoch,
        }
    }

    pub(crate) fn tag(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// What stands still for `data`, if it fits an object with this bundle and epoch; what does not is discarded.
    pub(crate) fn for_start<D: Driver>(
        driver: &D,
        data: &Path,
        bundle: BundleId,
        epoch: u64,
    ) -> Option<Self> {
        let tag = driver.frozen(data)?;
        let frozen: Option<Self> = serde_json::from_str(&tag).ok();
        let fits = frozen.filter(|frozen| (frozen.bundle, frozen.epoch) == (bundle, epoch));
        if fits.is_none() {
            driver.discard_frozen(data);
        }
        fits
    }

    /// The same for a child, which was never awake.
    pub(crate) fn for_child(&self) -> Self {
        Self {
            epoch: 0,
            ..self.clone()
        }
    }
}

/// Whether a machine began.
pub(super) enum Begun<M> {
    Copied(Box<Running<M>>),
    /// It did not; why, in words. The launch is for a machine that boots.
    Not(Box<Launch<OwnedFd>>, String),
}

/// Starts a machine as the copy that stands still for the object.
pub(super) async fn start<D: Driver>(
    services: &Services<D>,
    object: ObjectId,
    mut launch: Launch<OwnedFd>,
    frozen: Frozen,
) -> Result<Begun<D::Machine>, NoMachine> {
    let driver = &services.driver;
    let not = |launch, why: String| Ok(Begun::Not(Box::new(launch), format!("booted, not copied: {why}")));
    let Some(notes) = services.machines.as_ref().filter(|_| driver.describe().copies) else {
        driver.discard_frozen(&launch.data);
        return not(launch, "machines cannot be copied here".to_owned());
    };
    let spec = Spec {
        frozen: true,
        lifetime: Lifetime::Detached,
        mounts: vec![Mount::Bind {
            from: launch.data.clone(),
            to: launch.data.clone(),
            read_only: false,
        }],
        ..Spec::new("object", services.runtime.exe.clone())
    };
    let machine = match driver.start(spec).await {
        Ok(machine) => machine,
        Err(error) => {
            driver.discard_frozen(&launch.data);
            return not(launch, chain(&error));
        }
    };
    let reached = async {
        let stream = Bytes(machine.link().await.map_err(|error| chain(&error))?.stream);
        let nonce = Nonce::fresh().map_err(|error| chain(&error))?;
        let (link, moves) = SupervisorLink::attach(stream, frozen.activation, frozen.secret, nonce);
        let mut moving = JoinSet::new();
        moving.spawn_local(moves);
        wait_for(&link, |said| matches!(said, ToSupervisor::Present(_))).await?;
        Ok::<_, String>((link, moving))
    };
    let (link, moving) = match reached.await {
        Ok(reached) => reached,
        Err(why) => {
            let _ = machine.kill().await;
            return not(launch, why);
        }
    };
    let presence = launch.presence.take();
    let depot = depot_over_link(&mut launch);
    let (activation, secret) = (launch.activation, launch.secret.clone());
    launch.listen = suijuris_link::launch::Listen::Link;
    let data = launch.data.clone();
    let settled = async {
        let files = files_of(&data).map_err(|error| error.to_string())?;
        launch.files = Some(u64::try_from(files.len()).unwrap_or(u64::MAX));
        send(&link, ToRuntime::Launch(Box::new(launch))).await?;
        for file in files {
            send_file(&link, &data, &file).await?;
        }
        wait_for(&link, |said| matches!(said, ToSupervisor::FilesWritten)).await?;
        machine.settle().await.map_err(|error| chain(&error))
    };
    if let Err(why) = settled.await {
        // Nothing was decided in it.
        let _ = machine.kill().await;
        return Err(NoMachine::Copy(why));
    }
    let note = noted(notes, object, &machine, activation, secret);
    let carrying = carried_depot(&link, depot)?;
    Ok(Begun::Copied(Box::new(Running {
        machine: std::sync::Arc::new(machine),
        link,
        image: Some("copied from a suspended machine".to_owned()),
        generation: 0,
        told: std::collections::BTreeMap::new(),
        note: Some(note),
        _moving: moving,
        _outside: Some(Outside {
            _presence: presence,
            _depot: carrying,
        }),
    })))
}

async fn wait_for(link: &SupervisorLink, wanted: impl Fn(&ToSupervisor) -> bool) -> Result<(), String> {
    let heard = async {
        loop {
            match link.receive().await {
                // What it reports besides is of the past: of the machine that it is a copy of.
                Ok(Some(said)) if wanted(&said) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => return Err("its runtime is gone".to_owned()),
                Err(error) => return Err(chain(&error)),
            }
        }
    };
    let heard = tokio::time::timeout(TAKES_WITHIN, heard).await;
    heard.unwrap_or_else(|_late| {
        Err(format!(
            "its runtime says nothing within {} s",
            TAKES_WITHIN.as_secs()
        ))
    })
}

async fn send(link: &SupervisorLink, message: ToRuntime<OwnedFd>) -> Result<(), String> {
    let sent = tokio::time::timeout(TAKES_WITHIN, link.send(message)).await;
    sent.map_err(|_late| "its runtime takes nothing".to_owned())?
        .map_err(|error| chain(&error))
}

/// Files of the object below `data`, by their path there.
fn files_of(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(data.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type()?;
            if NOT_SENT.iter().any(|name| path == Path::new(name)) {
                continue;
            }
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Sends a file in pieces; those that are zeros throughout are left out.
async fn send_file(link: &SupervisorLink, data: &Path, path: &Path) -> Result<(), String> {
    let wrong = |error: io::Error| format!("{}: {error}", path.display());
    let name = path
        .to_str()
        .ok_or_else(|| format!("{} is no text", path.display()))?;
    let file = File::open(data.join(path)).map_err(wrong)?;
    let size = file.metadata().map_err(wrong)?.len();
    let (mut at, mut piece) = (0, vec![0; PIECE]);
    loop {
        let read = file.read_at(&mut piece, at).map_err(wrong)?;
        let bytes = piece.get(..read).unwrap_or_default();
        let next = at + read as u64;
        let last = read == 0 || next >= size;
        if last || bytes.iter().any(|byte| *byte != 0) {
            let message = ToRuntime::File {
                path: name.to_owned(),
                size,
                at,
                bytes: bytes.to_vec().into(),
                last,
            };
            send(link, message).await?;
        }
        if last {
            return Ok(());
        }
        at = next;
    }
}
