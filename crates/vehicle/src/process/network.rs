//! Sockets in the network of a machine, for whoever connects to its programs from outside: a socket stays in the network that it was
//! made in, whoever connects it then.
//!
//! Root makes one on a thread that goes into the network. Others need the machine's namespace for users as well, which only a process of
//! one thread enters: the shim, executed anew, makes sockets there on request and passes them back, until its caller is gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use suijuris_sys::descriptors::poll;
use suijuris_sys::{Process, namespaces, sockets};

use super::{Machine, Shim};

/// What tells the shim that it is to make sockets; number and start of the machine's first process come behind it.
const WORD: &str = "sockets";
/// How long the shim may take for one, milliseconds.
const LIMIT_MS: i32 = 5_000;

/// The shim that makes sockets for one machine.
#[derive(Debug)]
pub(super) struct Maker {
    channel: OwnedFd,
    child: Child,
}

impl Drop for Maker {
    fn drop(&mut self) {
        // It waits for nothing but its channel, which is still open: killed, it is gone at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which internet protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Family {
    fn socket(self) -> io::Result<OwnedFd> {
        let family = match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(socket(family, SockType::Stream, flags, None)?)
    }

    const fn byte(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    const fn of(byte: u8) -> Self {
        if byte == 6 { Self::V6 } else { Self::V4 }
    }
}

/// Whether the machine has a network of its own.
fn is_apart(pid: u32) -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    of(&pid.to_string()) != of("self")
}

impl Machine {
    /// A new TCP socket in the machine's network, not connected, non-blocking. Blocks for some 100 µs, the first time for some
    /// milliseconds where this process is not root. `shim` as for [`super::Process::detect`].
    ///
    /// # Errors
    /// The machine has ended, or the kernel's answer.
    pub fn socket(&self, shim: &Shim, family: Family) -> io::Result<OwnedFd> {
        let first = Process::of(self.pid()).ok_or(io::ErrorKind::NotFound)?;
        if !is_apart(first.pid) {
            return if first.exists() {
                family.socket()
            } else {
                Err(io::ErrorKind::NotFound.into())
            };
        }
        match on_a_thread(first, family) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let mut maker = self
                    .maker()
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let made = match maker.as_ref() {
                    Some(maker) => maker.ask(family),
                    None => Err(io::ErrorKind::NotFound.into()),
                };
                if made.is_ok() {
                    return made;
                }
                // There was none, or it is gone.
                let fresh = Maker::start(shim, first)?;
                let made = fresh.ask(family);
                *maker = Some(fresh);
                made
            }
            made => made,
        }
    }
}

fn on_a_thread(first: Process, family: Family) -> io::Result<OwnedFd> {
    let network = File::open(format!("/proc/{}/ns/net", first.pid))?;
    if !first.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let make = move || {
        namespaces::join(network.as_fd())?;
        family.socket()
    };
    let thread = std::thread::Builder::new()
        .name("socket".to_owned())
        .spawn(make)?;
    thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

impl Maker {
    fn start(shim: &Shim, first: Process) -> io::Result<Self> {
        let (ours, theirs) = sockets::packet_pair()?;
        let mut command = Command::new(&shim.exe);
        command
            .args(&shim.args)
            .arg(WORD)
            .arg(first.pid.to_string())
            .arg(first.started.to_string());
        command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self {
            channel: ours,
            child: command.spawn()?,
        })
    }

    fn ask(&self, family: Family) -> io::Result<OwnedFd> {
        sockets::send(self.channel.as_fd(), &[family.byte()], &[])?;
        if !poll(&[self.channel.as_fd()], LIMIT_MS)?.contains(&true) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let message = sockets::receive(self.channel.as_fd(), 1)?.ok_or(io::ErrorKind::BrokenPipe)?;
        message
            .descriptors
            .into_iter()
            .next()
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

/// Makes sockets, where this process was executed for that.
pub(super) fn main() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1).skip_while(|arg| arg != WORD);
    args.next()?;
    let first = Process {
        pid: args.next()?.parse().ok()?,
        started: args.next()?.parse().ok()?,
    };
    Some(match serve(first) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn serve(first: Process) -> io::Result<()> {
    let network = File::open(format!("/proc/{}/ns/net", first.pid))?;
    if !first.exists() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // Not the machine's own users where its network was made before it.
    namespaces::join(namespaces::owner(network.as_fd())?.as_fd())?;
    namespaces::join(network.as_fd())?;
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    loop {
        poll(&[channel.as_fd()], -1)?;
        let Some(message) = sockets::receive(channel.as_fd(), 1)? else {
            return Ok(());
        };
        let made = Family::of(message.bytes.first().copied().unwrap_or_default()).socket()?;
        sockets::send(channel.as_fd(), &[1], &[made.as_fd()])?;
    }
}
