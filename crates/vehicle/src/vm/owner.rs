//! The task that owns a virtual machine: it has the monitor, does one thing at a time, and ends it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use suijuris_guest::wire::{Ended, Mark, Now, Order, Report, words};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::channel::Channel;
use super::console::Console;
use super::disk::{DiskError, Taken};
use super::frozen;
use super::machine::Ask;
use super::monitor::{Hardware, Monitor};
use super::record::{Phase, Record};
use super::tools::DiskTools;
use crate::driver::Machine as _;
use crate::error::{FreezeError, ResumeError, SuspendError};
use crate::machine::{Exit, State};
use crate::output::Since;
use crate::process::{self, Process};

/// Time for a machine to write everything to its disks before it is suspended.
const PAUSE_WITHIN: Duration = Duration::from_secs(20);

/// Time for a signal to be on its way.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// Time for what a monitor that has ended left on the console to be read.
const CONSOLE_WITHIN: Duration = Duration::from_secs(5);

/// Has the machine.
pub(super) struct Owner {
    pub(super) inner: Arc<Process>,
    pub(super) hardware: Hardware,
    pub(super) tools: DiskTools,
    /// None while the machine is suspended.
    pub(super) monitor: Option<Monitor>,
    pub(super) channel: Channel,
    pub(super) console: Arc<Console>,
    pub(super) consoles: JoinSet<()>,
    pub(super) disks: Vec<Taken>,
    /// What is written down of a machine that outlives its driver.
    pub(super) record: Option<Record>,
    /// Where what such a machine writes is kept, of its newest run.
    pub(super) runs: watch::Sender<Option<Arc<process::Machine>>>,
    /// How the program ended, in the machine's words.
    pub(super) said: Option<Exit>,
    pub(super) publish: watch::Sender<State>,
    pub(super) kill: Arc<Notify>,
}

/// What happened to a machine.
enum Happened {
    Asked(Option<Ask>),
    Reported(Option<Report>),
    Ended,
    Killed,
}

impl Owner {
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        let kill = self.kill.clone();
        loop {
            let ended = async {
                match &self.monitor {
                    Some(monitor) => drop(monitor.process().wait().await),
                    None => std::future::pending().await,
                }
            };
            let happened = tokio::select! {
                biased;
                () = kill.notified() => Happened::Killed,
                report = self.channel.report() => Happened::Reported(report),
                ask = asked.recv() => Happened::Asked(ask),
                () = ended => Happened::Ended,
            };
            let exit = match happened {
                Happened::Killed => Some(Exit::Signal(libc::SIGKILL)),
                Happened::Reported(Some(Report::Exited(ended))) => {
                    let exit = exit_of(ended);
                    self.said = Some(exit);
                    Some(exit)
                }
                Happened::Reported(_) => None,
                Happened::Ended => Some(self.last_words().await),
                // Nobody has the handle any more.
                Happened::Asked(None) => Some(Exit::Signal(libc::SIGKILL)),
                Happened::Asked(Some(ask)) => tokio::select! {
                    biased;
                    () = kill.notified() => Some(Exit::Signal(libc::SIGKILL)),
                    exit = self.answer(ask) => exit,
                },
            };
            if let Some(exit) = exit {
                return self.finish(exit).await;
            }
        }
    }

    /// Does what is asked; how the machine ended, where it did.
    async fn answer(&mut self, ask: Ask) -> Option<Exit> {
        match ask {
            Ask::Signal(signal, answer) => {
                let sent = timeout(SEND_WITHIN, self.send(&Order::Signal(signal.number()))).await;
                let _ = answer.send(sent.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into())));
            }
            Ask::Suspend(answer) => {
                let suspended = self.suspend().await;
                let exit = match &suspended {
                    Err(SuspendError::Ended(exit)) => Some(*exit),
                    _ => None,
                };
                let _ = answer.send(suspended);
                return exit;
            }
            Ask::Resume(answer) => {
                let resumed = self.resume().await;
                let _ = answer.send(resumed);
            }
            Ask::Freeze(tag, answer) => {
                let frozen = self.freeze(tag).await;
                // It stands still for good: this machine is over.
                let exit = frozen.is_ok().then_some(Exit::Code(0));
                let _ = answer.send(frozen);
                return exit;
            }
            Ask::Settle(answer) => {
                let settled = self.disks(|disk, _tools| disk.settle()).await;
                let _ = answer.send(settled.map_err(FreezeError::Io));
            }
        }
        None
    }

    async fn send(&self, order: &Order) -> io::Result<()> {
        let frame = words(order).map_err(io::Error::other)?;
        self.channel.session().send(frame).await;
        Ok(())
    }

    /// Writes down where the machine is, where it outlives its driver.
    fn note(&mut self, phase: Phase) -> io::Result<()> {
        self.record.as_mut().map_or(Ok(()), |record| record.set(phase))
    }

    async fn suspend(&mut self) -> Result<(), SuspendError> {
        let Some(monitor) = &mut self.monitor else {
            return Ok(());
        };
        self.channel.pause();
        let paused = async {
            loop {
                match self.channel.report().await {
                    Some(Report::Paused) => return None,
                    Some(Report::Exited(ended)) => return Some(exit_of(ended)),
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            }
        };
        let ended = monitor.process().wait();
        let paused = tokio::select! {
            paused = timeout(PAUSE_WITHIN, paused) => Some(paused),
            _ = ended => None,
        };
        match paused {
            None => return Err(SuspendError::Ended(self.last_words().await)),
            Some(Ok(None)) => {}
            Some(Ok(Some(exit))) => {
                self.said = Some(exit);
                return Err(SuspendError::Ended(exit));
            }
            Some(Err(_late)) => {
                self.channel.resume(now().map_err(SuspendError::Refused)?);
                return Err(SuspendError::Slow {
                    limit_s: PAUSE_WITHIN.as_secs(),
                });
            }
        }
        if let Err(error) = monitor.save(&self.hardware).await {
            self.channel.resume(now().map_err(SuspendError::Refused)?);
            return Err(SuspendError::Refused(error));
        }
        monitor.version().clone_into(&mut self.hardware.saved_by);
        self.hardware.whole = self.hardware.borrowed;
        let own = match self.hardware.borrowed {
            // All of it is in the state: the next run has a memory of its own.
            true => own_memory(&mut self.hardware),
            false => Ok(()),
        };
        if let Some(record) = &mut self.record {
            record.hardware = self.hardware.clone();
        }
        if let Err(error) = own {
            monitor.go_back().await.map_err(SuspendError::Refused)?;
            self.channel.resume(now().map_err(SuspendError::Refused)?);
            return Err(SuspendError::Refused(error));
        }
        // Before its monitor ends: what is in the files now is the machine.
        if let Err(error) = self
            .record
            .as_mut()
            .map_or(Ok(()), |record| record.set(Phase::Suspended))
        {
            monitor.go_back().await.map_err(SuspendError::Refused)?;
            self.channel.resume(now().map_err(SuspendError::Refused)?);
            return Err(SuspendError::Refused(error));
        }
        monitor.end().await;
        self.channel.disconnect().await;
        self.monitor = None;
        self.publish.send_replace(State::Suspended);
        // From here on it is at rest: what it wrote must be there for whoever looks.
        let copied = self.disks(|disk, tools| disk.copy_back(tools)).await;
        if let Err(error) = copied {
            let _ = self.resume().await;
            return Err(SuspendError::Refused(error));
        }
        Ok(())
    }

    /// Does something with all disks, off the event loop.
    async fn disks(
        &mut self,
        with: impl Fn(&mut Taken, &DiskTools) -> Result<(), DiskError> + Send + 'static,
    ) -> io::Result<()> {
        let (mut disks, tools) = (std::mem::take(&mut self.disks), self.tools.clone());
        let done = tokio::task::spawn_blocking(move || {
            let done = disks.iter_mut().try_for_each(|disk| with(disk, &tools));
            (disks, done)
        });
        let (disks, done) = done.await.map_err(io::Error::other)?;
        self.disks = disks;
        done.map_err(io::Error::other)
    }

    /// Keeps the suspended machine for copies, and lets go of its disk, whose directory has all that is on it.
    async fn freeze(&mut self, tag: String) -> Result<(), FreezeError> {
        if self.monitor.is_some() {
            return Err(FreezeError::Runs);
        }
        let (Some(record), [disk]) = (&self.record, self.disks.as_slice()) else {
            return Err(FreezeError::Unsupported);
        };
        frozen::keep(record, &self.hardware, disk, &tag)?;
        self.disks.clear();
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), ResumeError> {
        if self.monitor.is_some() {
            return Ok(());
        }
        let refused = |error: io::Error| ResumeError::Refused(error);
        let mut monitor = self
            .hardware
            .run(&self.inner, &self.disks, true)
            .await
            .map_err(|error| refused(io::Error::other(error)))?;
        monitor.load(&self.hardware).await.map_err(refused)?;
        // Before it runs on: what is in the files is the past from then on.
        self.note(Phase::Running(monitor.process().id().clone()))
            .map_err(refused)?;
        if self.record.is_some() {
            monitor.release();
        }
        self.runs.send_replace(monitor.kept());
        monitor.keep_console(&self.console, &mut self.consoles);
        // Said first, so that the machine hears nothing else before.
        self.channel.resume(now().map_err(refused)?);
        monitor.go_on(&mut self.channel).await.map_err(refused)?;
        let _ = std::fs::remove_file(&self.hardware.state);
        self.monitor = Some(monitor);
        self.publish.send_replace(State::Running);
        Ok(())
    }

    /// How a machine ended whose monitor has.
    async fn last_words(&mut self) -> Exit {
        self.channel.disconnect().await;
        while let Ok(Some(report)) = timeout(Duration::ZERO, self.channel.report()).await {
            if let Report::Exited(ended) = report {
                return exit_of(ended);
            }
        }
        self.read_consoles().await;
        if let (Some(record), Some(monitor)) = (&self.record, &self.monitor)
            && let Some(exit) = exit_kept(monitor.process(), &record.mark).await
        {
            return exit;
        }
        match self.console.panicked.load(Ordering::Relaxed) {
            true => Exit::Panicked,
            false => Exit::Lost,
        }
    }

    /// The monitor has ended: takes in what is left on its console.
    async fn read_consoles(&mut self) {
        let read = async { while self.consoles.join_next().await.is_some() {} };
        let _ = timeout(CONSOLE_WITHIN, read).await;
    }

    pub(super) async fn finish(mut self, exit: Exit) {
        if let Some(mut monitor) = self.monitor.take() {
            if self.said.is_some() {
                monitor.quit().await;
            }
            let _ = monitor.process().kill().await;
        }
        self.channel.disconnect().await;
        self.channel.session().end();
        self.read_consoles().await;
        let (disks, tools) = (std::mem::take(&mut self.disks), self.tools.clone());
        let brought = tokio::task::spawn_blocking(move || {
            disks.into_iter().try_for_each(|disk| disk.bring_back(&tools))
        });
        match brought.await {
            Ok(Ok(())) => {}
            // The marker stays: nobody takes the directory for the newest state, and it is tried again.
            Ok(Err(error)) => self.console.push(said(&error)),
            Err(error) => self.console.push(said(&error)),
        }
        // What is not written is found out again from the monitor's end.
        let _ = self.note(Phase::Ended(exit));
        self.publish.send_replace(State::Exited(exit));
    }

    /// Goes on with a machine that an earlier driver left, as its record says; how it ended, where it has. The monitor is the record's, where
    /// that runs.
    pub(super) async fn take_over(&mut self) -> io::Result<Option<Exit>> {
        let Some(record) = &self.record else {
            return Ok(None);
        };
        let mark = record.mark;
        match &record.phase {
            Phase::Ended(exit) => return Ok(Some(*exit)),
            Phase::Starting => return Ok(Some(Exit::Lost)),
            Phase::Suspended => {
                // Its last supervisor may have had no time for that. What somebody brought back goes on elsewhere.
                if !self.disks.iter().all(Taken::is_away) {
                    return Ok(Some(Exit::Lost));
                }
                self.disks(|disk, tools| disk.copy_back(tools)).await?;
            }
            Phase::Running(_) => {
                let Some(monitor) = &mut self.monitor else {
                    return Ok(Some(self.said.unwrap_or(Exit::Lost)));
                };
                monitor.keep_console(&self.console, &mut self.consoles);
                self.channel.resume(now()?);
                monitor.take_over(&mut self.channel, mark).await?;
                monitor.release();
                self.runs.send_replace(monitor.kept());
            }
        }
        self.record.as_ref().map_or(Ok(()), Record::write)?;
        Ok(None)
    }
}

/// How a machine's program ended whose monitor has ended unseen, as its first process wrote down.
pub(super) async fn exit_kept(monitor: &process::Machine, mark: &Mark) -> Option<Exit> {
    let (mark, mut exit) = (mark.line(), None);
    let mut lines = monitor.output(Since::Kept).ok()?;
    while let Some(line) = lines.next().await {
        if let Some(ended) = line.text.strip_prefix(&mark) {
            exit = serde_json::from_str(ended).ok().map(exit_of);
        }
    }
    exit
}

/// A fresh file for the machine's memory, in place of the one that is shared.
fn own_memory(hardware: &mut Hardware) -> io::Result<()> {
    let fresh = hardware.dir.join("memory.new");
    let _ = std::fs::remove_file(&fresh);
    super::private_file(&fresh, hardware.memory_bytes)?;
    std::fs::rename(fresh, &hardware.memory)?;
    hardware.borrowed = false;
    Ok(())
}

fn said(error: &dyn std::error::Error) -> String {
    let mut text = format!("what the machine wrote is not back in its directory yet: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

const fn exit_of(ended: Ended) -> Exit {
    match ended {
        Ended::Code(code) => Exit::Code(code),
        Ended::Signal(number) => Exit::Signal(number),
    }
}

/// The clock, and fresh randomness.
pub(super) fn now() -> io::Result<Now> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let wall_ms = time
        .tv_sec()
        .saturating_mul(1_000)
        .saturating_add(time.tv_nsec() / 1_000_000);
    Ok(Now { wall_ms, seed })
}
