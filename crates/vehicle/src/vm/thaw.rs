//! A machine that begins as a copy of one that stands still: its memory is that one's, privately, and nothing of it is heard before it
//! knows that it is another.
//!
//! Its directory stays the newest state until [`crate::Machine::settle`]; what fails before costs nothing but the seat, and the next
//! start boots.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use suijuris_guest::wire::{Copied, MARK, Mark, Report};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::channel::Channel;
use super::console::Console;
use super::disk::Taken;
use super::machine::{Machine, Parts};
use super::monitor::Hardware;
use super::owner::now;
use super::plan::binds;
use super::record::{Phase, Record};
use super::{VirtualMachines, failed, frozen, random_number};
use crate::driver::Machine as _;
use crate::error::{FreezeError, SpecError, StartError};
use crate::machine::MachineId;
use crate::spec::{Lifetime, Spec};

/// Time for a copy to say that it is one.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

/// Why a machine does not begin as a copy.
#[derive(Debug, thiserror::Error)]
enum ThawError {
    #[error("the machine was frozen by another QEMU ({was}) than the one here ({is})")]
    Version { was: String, is: String },
    #[error("the copied machine ended before it began")]
    Ended,
    #[error("the copied machine did not begin within {} s", BEGIN_WITHIN.as_secs())]
    Slow,
}

/// Files of a machine that did not begin: nothing on its disks is anybody's.
struct Unbegun(Option<PathBuf>);

impl Drop for Unbegun {
    fn drop(&mut self) {
        for entry in self.0.iter().flat_map(fs::read_dir).flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl VirtualMachines {
    pub(super) async fn thaw(&self, spec: Spec) -> Result<Machine, StartError> {
        let dirs: Vec<_> = binds(&spec, false).map(|(from, _)| from).collect();
        let ([dir], Lifetime::Detached) = (dirs.as_slice(), spec.lifetime) else {
            return Err(failed(FreezeError::Unsupported));
        };
        let number = format!("{:016x}", random_number()?);
        let id = format!("{}-{number}", spec.name);
        let id = MachineId::try_from(id).map_err(|_| SpecError::Name(spec.name.clone()))?;
        let mut place = self.place(id.as_str())?;
        let seats = self.options.state.join(frozen::PLACE);
        let (at, seat) = frozen::take(&seats, dir).map_err(failed)?;
        let _seat = frozen::hold(&at)?;
        for name in fs::read_dir(&at)? {
            let name = name?.file_name();
            if name != "lock" && name != "seat" {
                fs::rename(at.join(&name), place.dir.join(&name))?;
            }
        }
        let _ = fs::remove_dir_all(&at);
        let mut unbegun = Unbegun(Some(place.dir.clone()));
        let disks: Vec<_> = seat.disks.iter().map(|name| place.dir.join(name)).collect();
        let Some(own) = disks.last() else {
            return Err(failed(FreezeError::Unsupported));
        };
        let taken = vec![Taken::copy(dir.clone(), own.clone()).map_err(failed)?];
        let mut mark = [0; MARK];
        getrandom::fill(&mut mark).map_err(io::Error::other)?;
        let mark = Mark(mark);
        let hardware = Hardware {
            name: format!("vm-{number}"),
            programs: self.tools.programs.clone(),
            dir: place.dir.clone(),
            initrd: place.dir.join("initrd"),
            memory: place.dir.join("memory"),
            state: place.dir.join("state"),
            disks,
            borrowed: true,
            ..seat.hardware
        };
        let mut record = Record::new(&id, &hardware, &taken, mark);
        (record.has_link, record.has_output) = (seat.has_link, seat.has_output);
        record.limits.clone_from(&seat.limits);
        // Its links are told from those of the machine that it is a copy of.
        record.attached = seat.attached.wrapping_add(1);
        record.write()?;
        let mut monitor = hardware.run(&self.inner, &taken, true).await?;
        let mut channel = Channel::new();
        let (console, mut consoles) = (Arc::new(Console::default()), JoinSet::new());
        let began = async {
            if monitor.version() != hardware.saved_by {
                return Err(failed(ThawError::Version {
                    was: hardware.saved_by.clone(),
                    is: monitor.version().to_owned(),
                }));
            }
            monitor.load(&hardware).await?;
            monitor.keep_console(&console, &mut consoles);
            channel.begin_copy(Copied {
                now: now()?,
                hostname: id.to_string(),
                mark,
            });
            monitor.go_on(&mut channel).await?;
            match channel.report().await {
                Some(Report::Started) => Ok(()),
                _ => Err(failed(ThawError::Ended)),
            }
        };
        let began = timeout(BEGIN_WITHIN, began)
            .await
            .unwrap_or_else(|_late| Err(failed(ThawError::Slow)));
        if let Err(error) = began {
            let _ = monitor.process().kill().await;
            return Err(error);
        }
        let _ = fs::remove_file(&hardware.state);
        record.set(Phase::Running(monitor.process().id().clone()))?;
        monitor.release();
        place.stays = true;
        unbegun.0 = None;
        Ok(Machine::started(Parts {
            id,
            inner: self.inner.clone(),
            hardware,
            tools: self.tools.disk.clone(),
            limits: seat.limits,
            monitor: Some(monitor),
            channel,
            console,
            consoles,
            disks: taken,
            place,
            record: Some(record),
            outputs: Vec::new(),
            streams: JoinSet::new(),
            has_link: seat.has_link,
        }))
    }
}
