//! What may be asked of a machine, and in which state: one function, pure. What it grants is recorded before it is answered.

use std::collections::BTreeMap;

use super::plan::begin;
use super::{By, Kind, Lease, Machine, Stamp, State, Version};
use crate::clock::rfc3339;
use crate::config::MachineConfig;

/// Memory of a machine that can be suspended at most, MiB.
const SUSPEND_MAX_MB: u64 = 4_096;

/// Something that is asked of a machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Start,
    Stop {
        signal: Option<i32>,
        budget_ms: Option<u64>,
    },
    Restart {
        signal: Option<i32>,
        budget_ms: Option<u64>,
        force: bool,
    },
    Suspend,
    /// No request of the proxy's starts it before this instant.
    NotBefore(u64),
    Update(Box<Update>),
    Destroy {
        force: bool,
    },
    Cordon(bool),
    /// Asks for a lease, or renews the one whose nonce was shown.
    Lease {
        ttl_ms: u64,
        nonce: String,
        owner: String,
        description: String,
    },
    Release,
    Metadata(Metadata),
}

/// A new version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Update {
    pub(crate) config: MachineConfig,
    /// The version that the caller knows, if it insists on it.
    pub(crate) current: Option<String>,
    /// The id of the new one.
    pub(crate) version: String,
    pub(crate) skip_launch: bool,
    pub(crate) name: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) secrets_version: Option<u64>,
    pub(crate) cordon: bool,
    pub(crate) lease: Option<Lease>,
}

/// A change of metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// `None` removes.
    pub(crate) changes: BTreeMap<String, Option<String>>,
    /// Whether all other keys go.
    pub(crate) replace: bool,
    pub(crate) version: Option<String>,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("failed_precondition: {0}")]
    Precondition(String),
    #[error("invalid_argument: {0}")]
    Invalid(String),
    #[error("aborted: {0}")]
    NoRoom(String),
    #[error("machine ID {machine} lease currently held by {owner}, expires at {until}")]
    Leased {
        machine: String,
        owner: String,
        until: String,
    },
    #[error("lease not found")]
    NoLease,
    #[error("machine not found")]
    Gone,
    /// The operation began and came to nothing.
    #[error("failed_precondition: {0}")]
    Failed(String),
    /// The record could not be kept.
    #[error("internal: {0}")]
    Broken(String),
    /// It is busy.
    #[error("deadline_exceeded: machine {0} is busy; ask again")]
    Busy(String),
}

/// The record after `request`; equal to the present one where there is nothing to do.
pub(crate) fn accept(
    machine: &Machine,
    request: &Request,
    nonce: Option<&str>,
    by: By,
    stamp: &Stamp,
) -> Result<Machine, Refusal> {
    if machine.state == State::Destroyed {
        return Err(Refusal::Gone);
    }
    let free = matches!(request, Request::Metadata(_));
    if !free
        && let Some(lease) = machine.lease_at(stamp.now_ms)
        && nonce != Some(lease.nonce.as_str())
    {
        return Err(Refusal::Leased {
            machine: machine.id.clone(),
            owner: lease.owner.clone(),
            until: rfc3339(lease.expires_ms),
        });
    }
    let mut next = machine.clone();
    match request {
        Request::Start => start(&mut next, by, stamp)?,
        Request::Stop { signal, budget_ms } => stop(&mut next, (*signal, *budget_ms), by, stamp)?,
        Request::Restart {
            signal,
            budget_ms,
            force,
        } => restart(&mut next, (*signal, *budget_ms, *force), by, stamp)?,
        Request::Suspend => suspend(&mut next, by, stamp)?,
        Request::Update(update) => accept_update(&mut next, update, by, stamp)?,
        Request::Destroy { force } => {
            if next.state != State::Destroying {
                begin(&mut next, Kind::Destroy { force: *force }, by);
                next.enter(stamp, State::Destroying, "destroy", by);
            } else if *force && let Some(operation) = &mut next.operation {
                operation.kind = Kind::Destroy { force: true };
            }
        }
        Request::NotBefore(at_ms) => next.not_before_ms = Some(*at_ms),
        Request::Cordon(cordoned) => next.cordoned = *cordoned,
        Request::Lease {
            ttl_ms,
            nonce: fresh,
            owner,
            description,
        } => {
            let held = next.lease_at(stamp.now_ms).cloned();
            if nonce.is_some() && held.is_none() {
                return Err(Refusal::NoLease);
            }
            next.lease = Some(Lease {
                nonce: held.as_ref().map_or(fresh, |lease| &lease.nonce).clone(),
                made_ms: stamp.now_ms,
                expires_ms: stamp.now_ms.saturating_add(*ttl_ms),
                owner: owner.clone(),
                description: held
                    .map(|lease| lease.description)
                    .filter(|_| description.is_empty())
                    .unwrap_or_else(|| description.clone()),
            });
        }
        Request::Release => {
            if next.lease_at(stamp.now_ms).is_none() {
                return Err(Refusal::NoLease);
            }
            next.lease = None;
        }
        Request::Metadata(change) => metadata(&mut next, change, stamp)?,
    }
    Ok(next)
}

fn cannot<T>(what: &str, state: State) -> Result<T, Refusal> {
    Err(Refusal::Precondition(format!(
        "unable to {what} machine from current state: '{}'",
        state.name()
    )))
}

fn start(next: &mut Machine, by: By, stamp: &Stamp) -> Result<(), Refusal> {
    if let Some(at_ms) = next
        .not_before_ms
        .filter(|at_ms| by == By::Proxy && *at_ms > stamp.now_ms)
    {
        let at = rfc3339(at_ms);
        return Err(Refusal::Precondition(format!(
            "who stopped this machine let no request start it before {at}"
        )));
    }
    next.not_before_ms = None;
    match next.state {
        State::Started | State::Starting => Ok(()),
        State::Created if next.operation.is_some() => cannot("start", State::Created),
        State::Created | State::Stopped | State::Suspended | State::Suspending | State::Failed => {
            begin(next, Kind::Start { not_before_ms: 0 }, by);
            next.enter(stamp, State::Starting, "start", by);
            Ok(())
        }
        State::Replacing => Err(Refusal::Precondition(
            "machine getting replaced, refusing to start".to_owned(),
        )),
        state => cannot("start", state),
    }
}

fn stop(
    next: &mut Machine,
    (signal, budget_ms): (Option<i32>, Option<u64>),
    by: By,
    stamp: &Stamp,
) -> Result<(), Refusal> {
    let (default_signal, default_ms) = next.stopping();
    match next.state {
        State::Stopped | State::Stopping => Ok(()),
        State::Created
        | State::Started
        | State::Starting
        | State::Suspended
        | State::Suspending
        | State::Failed => {
            let (signal, budget_ms) = (signal.unwrap_or(default_signal), budget_ms.unwrap_or(default_ms));
            begin(
                next,
                Kind::Stop {
                    signal,
                    budget_ms,
                    restart: false,
                },
                by,
            );
            next.enter(stamp, State::Stopping, "stop", by);
            Ok(())
        }
        State::Replacing => Err(Refusal::Precondition(
            "machine getting replaced, refusing to stop".to_owned(),
        )),
        state => cannot("stop", state),
    }
}

fn restart(
    next: &mut Machine,
    (signal, budget_ms, force): (Option<i32>, Option<u64>, bool),
    by: By,
    stamp: &Stamp,
) -> Result<(), Refusal> {
    let (default_signal, default_ms) = next.stopping();
    match next.state {
        State::Started => {
            let budget_ms = if force { 0 } else { budget_ms.unwrap_or(default_ms) };
            let signal = signal.unwrap_or(default_signal);
            begin(
                next,
                Kind::Stop {
                    signal,
                    budget_ms,
                    restart: true,
                },
                by,
            );
            next.enter(stamp, State::Restarting, "restart", by);
            Ok(())
        }
        State::Stopped | State::Suspended | State::Failed => start(next, by, stamp),
        state => cannot("restart", state),
    }
}

fn suspend(next: &mut Machine, by: By, stamp: &Stamp) -> Result<(), Refusal> {
    match next.state {
        State::Suspended | State::Suspending => return Ok(()),
        State::Started => {}
        state => return cannot("suspend", state),
    }
    let guest = next.config.guest();
    let swap = next
        .config
        .init
        .as_ref()
        .and_then(|init| init.swap_size_mb)
        .unwrap_or(0);
    let why = if guest.memory_mb > SUSPEND_MAX_MB {
        Some("its memory is over 4096 MB")
    } else if swap > 0 {
        Some("it has swap")
    } else if next.config.schedule.is_some() {
        Some("it has a schedule")
    } else {
        None
    };
    if let Some(why) = why {
        return Err(Refusal::Precondition(format!(
            "machine cannot be suspended: {why}; stop it instead"
        )));
    }
    begin(next, Kind::Suspend, by);
    next.enter(stamp, State::Suspending, "suspend", by);
    Ok(())
}

fn accept_update(next: &mut Machine, update: &Update, by: By, stamp: &Stamp) -> Result<(), Refusal> {
    match next.state {
        State::Created if next.operation.is_some() => return cannot("update", State::Created),
        State::Created | State::Started | State::Stopped | State::Suspended | State::Failed => {}
        State::Replacing => {
            return Err(Refusal::Precondition(
                "machine getting replaced, refusing to update".to_owned(),
            ));
        }
        state => return cannot("update", state),
    }
    if let Some(current) = &update.current
        && *current != next.version
    {
        return Err(Refusal::Precondition(format!(
            "current_version {current} is not the machine's, which is {}; read it again",
            next.version
        )));
    }
    if update.name.as_ref().is_some_and(|name| *name != next.name) {
        return Err(Refusal::Invalid(
            "a machine's name cannot be changed; create another machine".to_owned(),
        ));
    }
    if update
        .region
        .as_ref()
        .is_some_and(|region| *region != next.region)
    {
        return Err(Refusal::Invalid(
            "a machine's region cannot be changed; create another machine there".to_owned(),
        ));
    }
    let volume = |config: &MachineConfig| {
        config
            .mounts
            .iter()
            .flatten()
            .find_map(|mount| mount.volume.clone())
    };
    if volume(&next.config).is_some() && volume(&update.config) != volume(&next.config) {
        return Err(Refusal::Invalid(
            "a machine's volume cannot be changed; create another machine with it".to_owned(),
        ));
    }
    // A machine that was stopped stays so; its next request starts it.
    let launch = match next.state {
        State::Created => !update.skip_launch,
        State::Started => true,
        _ => false,
    };
    if let Some(version) = update.secrets_version {
        next.secrets_version = version;
    }
    if update.cordon {
        next.cordoned = true;
    }
    if update.lease.is_some() {
        next.lease.clone_from(&update.lease);
    }
    let version = Version {
        version: update.version.clone(),
        config: update.config.clone(),
    };
    begin(
        next,
        Kind::Update {
            next: Box::new(version),
            launch,
        },
        by,
    );
    next.enter(stamp, State::Replacing, "update", by);
    Ok(())
}

fn metadata(next: &mut Machine, change: &Metadata, stamp: &Stamp) -> Result<(), Refusal> {
    if let Some(version) = &change.version
        && *version != next.version
    {
        return Err(Refusal::Precondition(format!(
            "machine_version {version} is not the machine's, which is {}; read it again",
            next.version
        )));
    }
    let mut metadata = if change.replace {
        BTreeMap::new()
    } else {
        next.config.metadata()
    };
    for (key, value) in &change.changes {
        match value.as_ref().filter(|value| !value.is_empty()) {
            Some(value) => metadata.insert(key.clone(), value.clone()),
            None => metadata.remove(key),
        };
    }
    crate::config::check_map("metadata", Some(&metadata))
        .map_err(|error| Refusal::Invalid(error.to_string()))?;
    next.config.metadata = Some(metadata);
    next.updated_ms = stamp.now_ms;
    Ok(())
}
