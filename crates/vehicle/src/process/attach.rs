//! Takes a detached machine over from an earlier supervisor, or kills what cannot be proved to be it.
//!
//! Checked before anything is believed: the host was not started anew, the first program has its number, its time of
//! start and its control group; then the shim proves the machine's secret, and this driver proves it to the shim; then
//! the descriptor that the shim hands over names that same first program.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use suijuris_sys::link::Outlet;
use suijuris_sys::{Pidfd, Process, processes, sockets};
use tokio::time::{sleep, timeout};

use super::freezer;
use super::handle::{Channel, Machine, Parts};
use super::keeper::{Challenge, Knock, random};
use super::record::{Record, SOCKET};
use super::state::StateDir;
use super::wire::{self, Report};
use crate::error::AttachError;
use crate::machine::{Exit, MachineId};
use crate::secret::{Nonces, Secret, Side};

/// How long a shim may take to answer; it has little else to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long killing what is no machine of ours may take.
const KILL_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two looks at what is dying.
const PAUSE: Duration = Duration::from_millis(2);

/// Why what was found is not to be trusted.
#[derive(Debug, thiserror::Error)]
enum Distrust {
    #[error("its first program is gone, or its number is another's now")]
    Gone,
    #[error("its first program is not in its control group")]
    Group,
    #[error("its keeper does not answer: {0}")]
    Silent(#[from] io::Error),
    #[error("its keeper does not answer within {} s", ANSWER_WITHIN.as_secs())]
    Slow,
    #[error("its keeper does not know its secret")]
    Keeper,
    #[error("its keeper refuses this supervisor")]
    Refused,
    #[error("its record was made with another key")]
    Key,
    #[error("its keeper hands over another process")]
    Process,
}

/// Takes over machine `id` of `state`.
pub(super) async fn attach(state: &StateDir, id: &MachineId) -> Result<Machine, AttachError> {
    let mut place = state.hold(id).ok_or_else(|| AttachError::Held(id.clone()))?;
    let record = match Record::read(place.path()) {
        Ok(record) => record,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(AttachError::Unknown(id.clone()));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            place.is_over = true;
            return Err(AttachError::Killed {
                id: id.clone(),
                why: error.to_string(),
                left: "its first program is not known, so its processes may still run".to_owned(),
            });
        }
        Err(source) => {
            return Err(AttachError::Io {
                id: id.clone(),
                source,
            });
        }
    };
    let (first, keeper) = (record.first(), record.keeper());
    if let Some(exit) = record.exit.or_else(|| is_gone(&record).then_some(Exit::Lost)) {
        clear(&record).await;
        return Ok(Machine::ended(record, place, exit));
    }
    let why = match check(state, &record, place.path()).await {
        Ok((pidfd, outlet, channel)) => {
            let parts = Parts {
                id: id.clone(),
                pid: first.pid,
                pidfd,
                keeper,
                child: None,
                channel,
                groups: record.groups,
                outlet,
                outputs: Vec::new(),
                has_log: record.has_log,
                limits: record.limits,
                place: Some(place),
            };
            return Machine::attached(parts, first).map_err(|source| AttachError::Io {
                id: id.clone(),
                source,
            });
        }
        Err(why) => why,
    };
    let left = if clear(&record).await {
        String::new()
    } else {
        "some of its processes could not be killed".to_owned()
    };
    place.is_over = true;
    Err(AttachError::Killed {
        id: id.clone(),
        why: why.to_string(),
        left,
    })
}

/// Whether nothing of the machine runs any more, and nobody wrote down how it ended.
fn is_gone(record: &Record) -> bool {
    !record.is_of_this_boot() || !(record.first().exists() || record.keeper().exists())
}

async fn check(
    state: &StateDir,
    record: &Record,
    dir: &Path,
) -> Result<(Pidfd, Option<Outlet>, Channel), Distrust> {
    let secret = state.secret(&record.id, &record.nonce);
    if secret.fingerprint() != record.fingerprint {
        return Err(Distrust::Key);
    }
    let first = record.first();
    if !first.exists() {
        return Err(Distrust::Gone);
    }
    let members = record.groups.iter().map(|leaf| leaf.has(first.pid));
    if !members.into_iter().all(|is_member| is_member.unwrap_or(false)) {
        return Err(Distrust::Group);
    }
    let proved = timeout(ANSWER_WITHIN, prove(&secret, &record.id, dir)).await;
    let (channel, descriptors) = proved.map_err(|_| Distrust::Slow)??;
    let mut descriptors = descriptors.into_iter();
    let pidfd = descriptors.next().map(Pidfd::from).ok_or(Distrust::Process)?;
    // The number is the first program's as long as the descriptor is alive; its start tells it from another.
    if pidfd.pid() != Some(first.pid) || !first.exists() {
        return Err(Distrust::Process);
    }
    Ok((pidfd, descriptors.next().map(Outlet::from), channel))
}

/// Proves the secret both ways; the connection, and what the shim hands over.
async fn prove(secret: &Secret, id: &MachineId, dir: &Path) -> Result<(Channel, Vec<OwnedFd>), Distrust> {
    let channel = Channel::new(connect(dir)?)?;
    let nonce = random()?;
    say(&channel, &Knock::Hello { nonce })?;
    let (challenge, _) = channel.next::<Challenge>().await?.ok_or(Distrust::Refused)?;
    let nonces = Nonces {
        driver: nonce,
        keeper: challenge.nonce,
    };
    if !secret.is_proof(Side::Keeper, id, nonces, &challenge.proof) {
        return Err(Distrust::Keeper);
    }
    let proof = secret.prove(Side::Driver, id, nonces);
    say(&channel, &Knock::Answer { proof })?;
    match channel.next::<Report>().await? {
        Some((Report::Attached, descriptors)) => Ok((channel, descriptors)),
        _ => Err(Distrust::Refused),
    }
}

fn say(channel: &Channel, message: &impl Serialize) -> io::Result<()> {
    channel.send(&wire::encode(message)?)
}

/// The shim's socket. By way of a descriptor, since the path may be longer than a socket's address.
fn connect(dir: &Path) -> io::Result<OwnedFd> {
    let directory = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()));
    sockets::connect(&path.join(SOCKET))
}

/// Kills whatever `record` names that is still what it names; whether nothing is left.
async fn clear(record: &Record) -> bool {
    if !record.is_of_this_boot() {
        return true;
    }
    let limit = Instant::now() + KILL_WITHIN;
    while !clear_once(record) {
        if Instant::now() > limit {
            return false;
        }
        sleep(PAUSE).await;
    }
    true
}

fn clear_once(record: &Record) -> bool {
    let (first, keeper) = (record.first(), record.keeper());
    if keeper.exists() {
        for process in processes::below(keeper.pid) {
            let _ = process.signal(libc::SIGKILL);
        }
    }
    let mut clean = freezer::clear(&record.groups);
    for process in [first, keeper] {
        let _ = process.signal(libc::SIGKILL);
        clean &= is_over(process);
    }
    clean
}

/// Whether a process is gone, or only waits to be buried by its parent.
fn is_over(process: Process) -> bool {
    !process.exists()
        || processes::table()
            .get(&process.pid)
            .is_none_or(|stat| !stat.is_alive())
}
