//! Takes over a machine that an earlier driver left: the record says where it was, and the driver of processes proves its monitor.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::channel::Channel;
use super::console::Console;
use super::machine::{Machine, Parts};
use super::monitor::Monitor;
use super::owner::exit_kept;
use super::qemu::Emulator;
use super::record::{Phase, Record};
use super::{Place, VirtualMachines, lock};
use crate::driver::{Driver as _, Machine as _};
use crate::error::AttachError;
use crate::machine::{Exit, MachineId, State};
use crate::process;

/// Time for a handle that was dropped a moment ago to let go of a monitor.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(2);

impl VirtualMachines {
    pub(super) async fn take_over(&self, id: &MachineId) -> Result<Machine, AttachError> {
        let failed = |source| AttachError::Io {
            id: id.clone(),
            source,
        };
        let dir = self.machines().join(id.as_str());
        let record = match Record::read(&dir) {
            Ok(mut record) if record.id == *id && record.hardware.dir == dir => {
                // Its links are told from those of earlier drivers.
                record.attached = record.attached.wrapping_add(1);
                record
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AttachError::Unknown(id.clone()));
            }
            Ok(_) => return Err(failed(io::ErrorKind::InvalidData.into())),
            Err(error) => return Err(failed(error)),
        };
        let lock = lock(&dir.join("lock")).map_err(failed)?;
        let lock = lock.ok_or_else(|| AttachError::Held(id.clone()))?;
        let place = Place {
            dir,
            stays: true,
            _lock: lock,
        };
        let monitor = match &record.phase {
            Phase::Running(monitor) => Some(monitor.clone()),
            _ => None,
        };
        self.end_others(&record.hardware.name, monitor.as_ref())
            .await
            .map_err(failed)?;
        let (mut running, mut exit, mut distrust) = (None, None, None);
        if let Some(monitor) = monitor {
            match self.found(&monitor).await {
                Ok(found) => match found.state() {
                    State::Exited(_) => exit = exit_kept(&found, &record.mark).await,
                    _ => {
                        let found = Arc::new(found);
                        match Emulator::reach(found.clone(), &record.hardware).await {
                            Ok(emulator) => running = Some(Monitor::Qemu(emulator)),
                            Err(error) => {
                                // Its disks come back below: nobody may write to them.
                                found.kill().await;
                                distrust = Some(format!("its emulator does not answer: {error}"));
                            }
                        }
                    }
                },
                Err(AttachError::Unknown(_)) => {}
                Err(AttachError::Killed { why, .. }) => distrust = Some(why),
                Err(AttachError::Io { source, .. }) => return Err(failed(source)),
                Err(AttachError::Held(_)) => return Err(AttachError::Held(id.clone())),
            }
        }
        if distrust.is_some() {
            exit = Some(Exit::Lost);
        }
        let parts = Parts {
            id: id.clone(),
            inner: self.inner.clone(),
            hardware: record.hardware.clone(),
            tools: self.tools.disk.clone(),
            monitor: running,
            channel: Channel::new(),
            console: Arc::new(Console::default()),
            consoles: JoinSet::new(),
            disks: record.disks(),
            place,
            outputs: Vec::new(),
            streams: JoinSet::new(),
            has_link: record.has_link,
            limits: record.limits.clone(),
            record: Some(record),
        };
        let machine = Machine::attached(parts, exit).await.map_err(failed)?;
        match distrust {
            Some(why) => Err(AttachError::Killed {
                id: id.clone(),
                why,
                left: String::new(),
            }),
            None => Ok(machine),
        }
    }

    /// A monitor of this name, once nobody has it.
    async fn found(&self, id: &MachineId) -> Result<process::Machine, AttachError> {
        let begin = Instant::now();
        loop {
            match self.inner.attach(id).await {
                Err(AttachError::Held(_)) if begin.elapsed() < LET_GO_WITHIN => sleep(PAUSE).await,
                found => return found,
            }
        }
    }

    /// Ends monitors of a machine that its record does not know: whoever started them had no time to write that down.
    async fn end_others(&self, name: &str, known: Option<&MachineId>) -> io::Result<()> {
        let listed = self.inner.list().await.map_err(io::Error::other)?;
        for other in listed {
            let is_own = other
                .as_str()
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'));
            if is_own
                && Some(&other) != known
                && let Ok(other) = self.found(&other).await
            {
                let _ = other.kill().await;
            }
        }
        Ok(())
    }
}
