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

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};
use suijuris_sys::descriptors::poll;
use suijuris_sys::fork::{self, Fork};
use suijuris_sys::{Pidfd, processes, sockets};

use super::cgroup::Leaf;
use super::inside::{self, Birth};
use super::wire::{self, Fault, MESSAGE_BYTES, Order, Report, Request, Step};
use crate::machine::Exit;

/// How long the shim goes on killing what does not die (processes of another user, or stuck in the kernel).
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Runs the shim; its socket is file 0. To be called first thing in `main`, while there is one thread.
#[must_use]
pub fn main() -> ExitCode {
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
    let Order::Run = wire::decode(&message.bytes)? else {
        return Ok(());
    };
    match launch(message.descriptors) {
        Ok(machine) => Supervisor {
            channel,
            signals,
            machine,
            exit: None,
        }
        .run(),
        Err(fault) => tell(channel.as_fd(), &Report::Failed(fault), &[]),
    }
}

fn tell(channel: BorrowedFd<'_>, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    sockets::send(channel, &wire::encode(report)?, fds).map(drop)
}

/// A machine that has been forked.
struct Machine {
    pid: u32,
    pidfd: Pidfd,
    /// Closes when the first program is executed; carries a [`Fault`] before, if it is not.
    birth: Option<OwnedFd>,
    namespaced: bool,
    leaf: Option<Leaf>,
}

fn launch(files: Vec<OwnedFd>) -> Result<Machine, Fault> {
    let unreadable = |error: io::Error| Fault::new(Step::Request, "", &error);
    let mut files = files.into_iter();
    let request = files
        .next()
        .ok_or_else(|| unreadable(io::ErrorKind::UnexpectedEof.into()))?;
    let request = Request::open(request).map_err(unreadable)?;
    let closed = |error: io::Error| Fault::new(Step::Cgroup, "", &error);
    let members = request
        .cgroup
        .as_ref()
        .map(Leaf::members)
        .transpose()
        .map_err(closed)?
        .flatten();
    let home = request
        .cgroup
        .as_ref()
        .map(Leaf::birthplace)
        .transpose()
        .map_err(closed)?
        .flatten();
    let birth = Birth {
        members,
        files: files.collect(),
        user: Uid::effective(),
        group: Gid::effective(),
    };
    let (reader, writer) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| unreadable(errno.into()))?;
    match fork::fork(flags(&request), home.as_ref().map(AsFd::as_fd)) {
        Ok(Fork::Child) => {
            drop(reader);
            inside::enter(&request, birth, writer.as_fd())
        }
        Ok(Fork::Parent { pid, pidfd }) => {
            let namespaced = request.namespaces.is_some();
            Ok(Machine {
                pid,
                pidfd,
                birth: Some(reader),
                namespaced,
                leaf: request.cgroup,
            })
        }
        // Only version 2 groups take part in the fork, and only they answer with these.
        Err(error)
            if home.is_some()
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EACCES | libc::EBUSY | libc::EOPNOTSUPP)
                ) =>
        {
            Err(closed(error))
        }
        Err(error) => Err(Fault::new(Step::Namespaces, "", &error)),
    }
}

fn flags(request: &Request) -> libc::c_int {
    let Some(namespaces) = request.namespaces else {
        return 0;
    };
    let always = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let users = if namespaces.user { libc::CLONE_NEWUSER } else { 0 };
    let network = if namespaces.network { libc::CLONE_NEWNET } else { 0 };
    always | users | network
}

/// The shim while its machine exists.
struct Supervisor {
    channel: OwnedFd,
    signals: SignalFd,
    machine: Machine,
    /// How the first program ended, once it has.
    exit: Option<Exit>,
}

impl Supervisor {
    fn run(mut self) -> io::Result<()> {
        while self.exit.is_none() {
            self.turn()?;
        }
        self.extinguish();
        // No one may be left to hear it.
        let _ = tell(
            self.channel.as_fd(),
            &Report::Exited(self.exit.unwrap_or(Exit::Lost)),
            &[],
        );
        Ok(())
    }

    /// Waits for something to happen and deals with it. Birth comes first: a short-lived program has
    /// been executed before it has exited.
    fn turn(&mut self) -> io::Result<()> {
        let mut fds = vec![self.channel.as_fd(), self.signals.as_fd()];
        fds.extend(self.machine.birth.as_ref().map(AsFd::as_fd));
        let ready = poll(&fds, -1)?;
        let is_ready = |index: usize| ready.get(index).copied().unwrap_or(false);
        if is_ready(2) {
            self.born()?;
        }
        if is_ready(0) {
            self.ordered();
        }
        if is_ready(1) {
            self.signalled();
        }
        Ok(())
    }

    /// The pipe of the newborn has something to say, or closed because it was executed.
    fn born(&mut self) -> io::Result<()> {
        let Some(pipe) = self.machine.birth.take() else {
            return Ok(());
        };
        let mut bytes = [0; 4096];
        let length = nix::unistd::read(&pipe, &mut bytes)?;
        if length == 0 {
            let report = Report::Started {
                pid: self.machine.pid,
            };
            // A caller that is gone is noticed in the next turn.
            let _ = tell(self.channel.as_fd(), &report, &[self.machine.pidfd.as_fd()]);
            return Ok(());
        }
        let fault = wire::decode(bytes.get(..length).unwrap_or_default())?;
        self.extinguish();
        let _ = tell(self.channel.as_fd(), &Report::Failed(fault), &[]);
        Ok(())
    }

    /// The caller wants the machine killed: it says so, or is gone, or talks nonsense.
    fn ordered(&mut self) {
        // Emptied, so that the end of the connection is not mistaken for a further order.
        let _ = sockets::receive(self.channel.as_fd(), MESSAGE_BYTES);
        self.extinguish();
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
                self.exit = Some(exit);
            }
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
            let clean = alone
                && self
                    .machine
                    .leaf
                    .as_ref()
                    .is_none_or(|leaf| leaf.remove().unwrap_or(true));
            if clean || Instant::now() > limit {
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
        if let Some(leaf) = &self.machine.leaf {
            let _ = leaf.kill();
        }
        if !self.machine.namespaced {
            for process in processes::below(std::process::id()) {
                let _ = process.signal(libc::SIGKILL);
            }
        }
    }
}
