//! The shim: a small process between the caller and its machine, so that no thread of the caller is forked.
//!
//! The caller executes itself anew and calls [`main`] before anything else. The shim makes the machine,
//! waits for it, and ends it when told to, when the caller is gone (the end of their socket), or when the
//! machine's first program ends and leaves others behind:
//!
//! ```text
//! caller ──socket── shim ──parent-death signal── first program ── … ── descendants
//! ```
//!
//! With namespaces the kernel kills all descendants with the first program. Without, the shim is the one
//! that orphans fall to (a "child subreaper"), and kills until none is left. If the shim itself is killed,
//! the first program dies by its parent-death signal; what it had started survives only without namespaces
//! and without control groups.
//!
//! A machine that its caller released outlives the caller: the shim goes on, writes its output to a file, and lets in
//! who proves to be the caller's successor (`keeper`).

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use suijuris_guest::standby::Unassigned;
use suijuris_sys::descriptors::poll;
use suijuris_sys::{processes, sockets};

use super::birth::{Keeping, Launched, Machine, Parcel, Waiting, go_to, keep, launch, stand_by, unreadable};
use super::cgroup;
use super::keeper::Keeper;
use super::wire::{self, Fault, MESSAGE_BYTES, Order, Report, Step};
use crate::machine::Exit;

/// How often the shim looks whether somebody takes too long to prove himself.
const LOOK_AGAIN_MS: i32 = 1_000;
/// How long a program that stands by may take to become a machine's first, milliseconds.
const ASSIGN_LIMIT_MS: i32 = 500;
/// How long the shim goes on killing what does not die (processes of another user, or stuck in the kernel).
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Runs the shim; its socket is file 0. To be called first thing in `main`, while there is one thread.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = super::enter::main()
        .or_else(super::network::main)
        .or_else(super::networks::main)
        .or_else(super::users::main)
    {
        return code;
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "this command is only for suijuris itself: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve() -> io::Result<()> {
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    // Out of the terminal's reach: Ctrl-C is for the caller, who decides what becomes of the machine.
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    SigSet::all().thread_set_mask()?;
    let watched = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ];
    let signals = SignalFd::with_flags(
        &watched.into_iter().collect(),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?;
    let Some(message) = sockets::receive(channel.as_fd(), MESSAGE_BYTES)? else {
        return Ok(());
    };
    let launched = match wire::decode(&message.bytes)? {
        Order::Run => launch(message.descriptors),
        Order::StandBy => stand_by(message.descriptors),
        _ => return Ok(()),
    };
    match launched {
        Ok(Launched {
            machine,
            keeping,
            standby,
        }) => Supervisor {
            channel: Some(channel),
            is_released: false,
            signals,
            machine,
            keeping,
            standby,
            exit: None,
        }
        .run(),
        Err(fault) => tell(channel.as_fd(), &Report::Failed(fault), &[]),
    }
}

fn tell(channel: BorrowedFd<'_>, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    sockets::send(channel, &wire::encode(report)?, fds).map(drop)
}

/// The shim while its machine exists.
struct Supervisor {
    /// To the caller; none while nobody is there.
    channel: Option<OwnedFd>,
    /// Whether the machine outlives its caller.
    is_released: bool,
    signals: SignalFd,
    machine: Machine,
    keeping: Option<Keeping>,
    /// As long as the first program is no machine's.
    standby: Option<Waiting>,
    /// How the first program ended, once it has.
    exit: Option<Exit>,
}

/// What has something to say, in the order in which it is heard: a short-lived program has been executed before it has
/// exited, and a caller's death is known before his successor is let in.
#[derive(Clone, Copy)]
enum Source {
    Birth,
    Standby,
    Pipe(usize),
    Caller,
    Signals,
    Keeper(usize),
}

impl Supervisor {
    fn run(mut self) -> io::Result<()> {
        while self.exit.is_none() {
            self.turn()?;
        }
        self.extinguish();
        self.machine.scratch = None;
        let exit = self.exit.unwrap_or(Exit::Lost);
        if let Some(keeping) = &mut self.keeping {
            keeping.log.finish();
            keeping.keeper.ended(exit);
        }
        // No one may be left to hear it.
        self.tell(&Report::Exited(exit), &[]);
        Ok(())
    }

    fn tell(&self, report: &Report, fds: &[BorrowedFd<'_>]) {
        if let Some(channel) = &self.channel {
            // A caller that is gone is noticed in the next turn.
            let _ = tell(channel.as_fd(), report, fds);
        }
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> io::Result<()> {
        for source in self.wait()?.into_iter().rev() {
            match source {
                Source::Birth => self.born()?,
                Source::Standby => self.stands_by(),
                Source::Caller => self.ordered(),
                Source::Signals => self.signalled(),
                Source::Pipe(index) => {
                    if let Some(keeping) = &mut self.keeping {
                        keeping.log.take(index);
                    }
                }
                Source::Keeper(index) => self.knocked(index),
            }
        }
        if let Some(keeping) = &mut self.keeping {
            keeping.keeper.tidy();
        }
        Ok(())
    }

    /// The sources that have something to say, the first to be heard last: dealing with one may shorten the lists that
    /// later numbers count in, never what earlier ones count in.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut asked: Vec<(Source, BorrowedFd<'_>)> = Vec::new();
        let mut limit_ms = -1;
        if let Some(keeping) = &self.keeping {
            let numbered = keeping.keeper.sockets().enumerate();
            asked.extend(numbered.map(|(index, socket)| (Source::Keeper(index), socket.as_fd())));
            if keeping.keeper.is_waited_for() {
                limit_ms = LOOK_AGAIN_MS;
            }
        }
        asked.push((Source::Signals, self.signals.as_fd()));
        asked.extend(
            self.channel
                .as_ref()
                .map(|channel| (Source::Caller, channel.as_fd())),
        );
        if let Some(keeping) = &self.keeping {
            let numbered = keeping.log.pipes().enumerate();
            asked.extend(numbered.map(|(index, pipe)| (Source::Pipe(index), pipe.as_fd())));
        }
        // What it says after the first word is an answer, which is waited for.
        let waiting = self.standby.as_ref().filter(|waiting| !waiting.is_ready);
        asked.extend(waiting.map(|waiting| (Source::Standby, waiting.standby.as_fd())));
        asked.extend(
            self.machine
                .birth
                .as_ref()
                .map(|birth| (Source::Birth, birth.as_fd())),
        );
        let fds: Vec<BorrowedFd<'_>> = asked.iter().map(|(_, fd)| *fd).collect();
        let ready = poll(&fds, limit_ms)?;
        let heard = asked.iter().zip(ready).filter(|(_, ready)| *ready);
        Ok(heard.map(|((source, _), _)| *source).collect())
    }

    /// The pipe of the newborn has something to say, or closed because it was executed.
    fn born(&mut self) -> io::Result<()> {
        let Some(pipe) = self.machine.birth.take() else {
            return Ok(());
        };
        let mut bytes = [0; 4096];
        let length = nix::unistd::read(&pipe, &mut bytes)?;
        if length == 0 {
            let pid = self.machine.pid;
            self.tell(&Report::Started { pid }, &[self.machine.pidfd.as_fd()]);
            return Ok(());
        }
        let fault = wire::decode(bytes.get(..length).unwrap_or_default())?;
        self.extinguish();
        self.machine.scratch = None;
        if self.keeping.take().is_some() {
            Keeper::forget();
        }
        self.tell(&Report::Failed(fault), &[]);
        Ok(())
    }

    /// The program that was executed ahead says its first word.
    fn stands_by(&mut self) {
        let Some(waiting) = &mut self.standby else { return };
        waiting.is_ready = waiting.standby.is_ready();
        if waiting.is_ready {
            self.tell(&Report::StandingBy, &[]);
        } else {
            // It does not know what to wait for: no machine will come of it.
            self.extinguish();
        }
    }

    /// Makes a machine of the program that stands by. What fails is told, and nothing is left of it.
    fn assign(&mut self, files: Vec<OwnedFd>) {
        match self.try_assigning(files) {
            Ok(()) => {
                let pid = self.machine.pid;
                self.tell(&Report::Started { pid }, &[self.machine.pidfd.as_fd()]);
            }
            Err(fault) => {
                self.extinguish();
                if self.keeping.take().is_some() {
                    Keeper::forget();
                }
                self.tell(&Report::Failed(fault), &[]);
            }
        }
    }

    fn try_assigning(&mut self, files: Vec<OwnedFd>) -> Result<(), Fault> {
        let failed = |error: io::Error| Fault::new(Step::Assign, "", &error);
        let waiting = self.standby.take().filter(|waiting| waiting.is_ready);
        let waiting = waiting.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let parcel = Parcel::open(files).map_err(unreadable)?;
        let request = parcel.request;
        go_to(parcel.directory.as_ref())?;
        let born = std::mem::replace(&mut self.machine.groups, request.groups);
        let others = self.machine.groups.iter().filter(|leaf| !born.contains(leaf));
        for leaf in others {
            leaf.take_in(self.machine.pid)
                .map_err(|error| Fault::new(Step::Cgroup, "", &error))?;
        }
        if let Some(detached) = &request.detached {
            let keeping = keep(detached, &self.machine, parcel.outlet, parcel.pipes);
            self.keeping = Some(keeping.map_err(|error| {
                Keeper::forget();
                Fault::new(Step::Record, "", &error)
            })?);
        }
        let files: Vec<BorrowedFd<'_>> = parcel.files.iter().map(AsFd::as_fd).collect();
        let assigned = waiting
            .standby
            .assign(&request.assignment, &files, ASSIGN_LIMIT_MS);
        assigned.map_err(|why| {
            let errno = match why {
                Unassigned::Slow => libc::ETIMEDOUT,
                _ => libc::EPIPE,
            };
            Fault::new(
                Step::Assign,
                why.to_string(),
                &io::Error::from_raw_os_error(errno),
            )
        })
    }

    /// The caller says something, or is gone, or talks nonsense.
    fn ordered(&mut self) {
        let Some(channel) = &self.channel else { return };
        let message = match sockets::receive(channel.as_fd(), MESSAGE_BYTES) {
            // Its successor will come.
            Ok(None) if self.is_released => {
                self.channel = None;
                return;
            }
            Ok(Some(message)) => message,
            _ => return self.extinguish(),
        };
        match wire::decode(&message.bytes) {
            Ok(Order::Release) => self.is_released = self.keeping.is_some(),
            Ok(Order::Assign) => self.assign(message.descriptors),
            _ => self.extinguish(),
        }
    }

    /// Somebody connects, or proves to be the caller's successor, who then takes his place.
    fn knocked(&mut self, index: usize) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some(channel) = keeping.keeper.hear(index) else {
            return;
        };
        let mut fds = vec![self.machine.pidfd.as_fd()];
        fds.extend(keeping.outlet.as_ref().map(AsFd::as_fd));
        if tell(channel.as_fd(), &Report::Attached, &fds).is_ok() {
            self.is_released = true;
            self.channel = Some(channel);
        }
    }

    fn signalled(&mut self) {
        if self.drain_signals() {
            self.extinguish();
        }
        self.reap();
    }

    /// Reads what signals came; whether one of them asks this process to end.
    fn drain_signals(&mut self) -> bool {
        let mut asked = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            asked |= signal.ssi_signo.cast_signed() != libc::SIGCHLD;
        }
        asked
    }

    /// Buries every child that has ended; whether none is left.
    fn reap(&mut self) -> bool {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return false,
                Err(Errno::ECHILD) => return true,
                Ok(_) | Err(_) => continue,
            };
            if self.is_first(pid) {
                self.exit = Some(self.explain(exit));
            }
        }
    }

    /// Names a death at the memory limit.
    fn explain(&self, exit: Exit) -> Exit {
        let killed = exit == Exit::Signal(libc::SIGKILL);
        if killed && self.machine.groups.iter().any(|leaf| leaf.out_of_memory() > 0) {
            Exit::OutOfMemory
        } else {
            exit
        }
    }

    fn is_first(&self, pid: Pid) -> bool {
        u32::try_from(pid.as_raw()).is_ok_and(|pid| pid == self.machine.pid)
    }

    /// Kills until nothing of the machine is left and its control group is removed.
    fn extinguish(&mut self) {
        let limit = Instant::now() + KILL_LIMIT;
        let mut pause_ms = 1;
        loop {
            let alone = self.reap();
            if (alone && cgroup::remove_all(&self.machine.groups)) || Instant::now() > limit {
                return;
            }
            self.kill_once();
            let _ = poll(&[self.signals.as_fd()], pause_ms);
            self.drain_signals();
            pause_ms = (pause_ms * 2).min(50);
        }
    }

    /// One pass. Its failures show in that something is left, and the next pass tries again.
    fn kill_once(&self) {
        if self.exit.is_none() {
            let _ = self.machine.pidfd.signal(libc::SIGKILL);
        }
        for leaf in &self.machine.groups {
            let _ = leaf.kill();
        }
        if !self.machine.namespaced {
            for process in processes::below(std::process::id()) {
                let _ = process.signal(libc::SIGKILL);
            }
        }
    }
}
