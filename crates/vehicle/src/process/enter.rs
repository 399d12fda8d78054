//! Commands in a machine that runs: a program of ours goes into its namespaces and control groups, and becomes the command there,
//! confined as the machine's own program is.
//!
//! ```text
//! caller ── enter (this program, anew) ── command, in the machine
//! ```
//!
//! The command has the files 0, 1, 2 and the environment of `enter`, dies with it, and `enter` ends as the command did.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use suijuris_sys::fork::{self, Fork};
use suijuris_sys::{Process, descriptors, namespaces, signals, terminals};

use super::{Machine, Shim, inside, stranger};
use crate::spec::Account;

/// What tells the shim that it is to enter a machine; behind it comes an [`Order`], and then the command.
const WORD: &str = "enter";
/// Exit code where the command could not be executed, as a shell has it.
const NOT_FOUND: u8 = 127;
/// Exit code where the machine could not be entered.
const NOT_ENTERED: u8 = 126;
/// Namespaces in the order in which they are entered; that for mounts is entered by the child, whose `/proc` it changes.
const BEFORE: [&str; 6] = ["user", "ipc", "uts", "net", "cgroup", "pid"];

/// A command in a machine.
#[derive(Debug, Clone)]
pub struct Entering {
    /// The command; a name without `/` is looked up in the machine, in the `PATH` of its environment.
    pub argv: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory in the machine, absolute.
    pub cwd: PathBuf,
    /// Whom it runs as, confined; none: as the caller, with all that the machine gives it.
    pub stranger: Option<Account>,
    /// Whether its file 0 is a terminal, which becomes that of the command's session.
    pub terminal: bool,
}

/// Which machine, and as whom.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Its first process: number, and when it started.
    process: (u32, u64),
    cwd: PathBuf,
    stranger: Option<Account>,
    terminal: bool,
    /// Member lists of the machine's control groups.
    members: Vec<PathBuf>,
}

impl Machine {
    /// The command that runs `entering` in this machine, to be spawned by the caller, who sets its files 0, 1 and 2. `shim` as for
    /// [`super::Process::detect`].
    ///
    /// # Errors
    /// The machine has ended.
    pub fn enter(&self, shim: &Shim, entering: Entering) -> io::Result<Command> {
        let process = Process::of(self.pid()).ok_or(io::ErrorKind::NotFound)?;
        let order = Order {
            process: (process.pid, process.started),
            cwd: entering.cwd,
            stranger: entering.stranger,
            terminal: entering.terminal,
            members: self
                .groups()
                .iter()
                .map(super::cgroup::Leaf::member_list)
                .collect(),
        };
        let mut command = Command::new(&shim.exe);
        command
            .args(&shim.args)
            .arg(WORD)
            .arg(serde_json::to_string(&order)?);
        command.args(entering.argv).env_clear().envs(entering.env);
        Ok(command)
    }
}

/// Does so, where this process was executed for that.
pub(super) fn main() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1).skip_while(|arg| arg != WORD);
    args.next()?;
    let order = args.next()?;
    let entered = serde_json::from_slice(order.as_encoded_bytes())
        .map_err(io::Error::from)
        .and_then(|order| enter(&order, args.collect()));
    Some(entered.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "cannot enter the machine: {error}");
        ExitCode::from(NOT_ENTERED)
    }))
}

fn enter(order: &Order, argv: Vec<OsString>) -> io::Result<ExitCode> {
    let (pid, started) = order.process;
    let file = |space: &str| File::open(format!("/proc/{pid}/ns/{space}"));
    let is_other = |space: &str| {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{space}")).ok();
        of(&pid.to_string()) != of("self")
    };
    let in_user_namespace = is_other("user");
    let before = if in_user_namespace && is_other("net") {
        namespaces::above(pid)?
    } else {
        Vec::new()
    };
    let spaces = BEFORE.iter().filter(|space| is_other(space));
    // What belongs to users above the machine's own can be entered only before those are.
    let spaces = spaces.filter(|space| before.is_empty() || **space != "net");
    let spaces = spaces
        .map(|space| file(space))
        .collect::<io::Result<Vec<File>>>()?;
    let view = if is_other("mnt") { Some(file("mnt")?) } else { None };
    if !(Process { pid, started }).exists() {
        return Err(io::Error::other("it has ended"));
    }
    for members in &order.members {
        // As far as this process may: a limit that cannot hold for the command is none for the machine either.
        let _ = std::fs::write(members, std::process::id().to_string());
    }
    let spaces = before
        .iter()
        .map(OwnedFd::as_fd)
        .chain(spaces.iter().map(File::as_fd));
    spaces.into_iter().try_for_each(namespaces::join)?;
    let (alive, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match fork::fork(0, None)? {
        Fork::Child => {
            drop(ours);
            let error = become_command(order, argv, (view, alive, in_user_namespace));
            let not_found = error.kind() == io::ErrorKind::NotFound;
            let _ = writeln!(io::stderr(), "cannot run the command: {error}");
            fork::exit_now(i32::from(if not_found { NOT_FOUND } else { NOT_ENTERED }))
        }
        Fork::Parent { pid, .. } => outlive(Pid::from_raw(pid.cast_signed())),
    }
}

fn become_command(
    order: &Order,
    argv: Vec<OsString>,
    (view, alive, in_user_namespace): (Option<File>, OwnedFd, bool),
) -> io::Error {
    let prepare = || -> io::Result<()> {
        if let Some(view) = &view {
            namespaces::join(view.as_fd())?;
        }
        nix::unistd::chdir(&order.cwd)?;
        signals::default_all();
        nix::unistd::setsid()?;
        if order.terminal {
            terminals::take(io::stdin().as_fd())?;
        }
        if let Some(account) = &order.stranger {
            stranger::confine(account, in_user_namespace)?;
        }
        // A change of user had undone it earlier.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if descriptors::poll(&[alive.as_fd()], 0)?.contains(&true) {
            fork::exit_now(i32::from(NOT_ENTERED));
        }
        SigSet::empty().thread_set_mask()?;
        Ok(())
    };
    if let Err(error) = prepare() {
        return error;
    }
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
    let argv = match argv.into_iter().map(text).collect::<io::Result<Vec<CString>>>() {
        Ok(argv) => argv,
        Err(error) => return error,
    };
    let variable = |(name, value): (OsString, OsString)| {
        CString::new([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()).ok()
    };
    let env: Vec<CString> = std::env::vars_os().filter_map(variable).collect();
    let Some(first) = argv.first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let exe = inside::look_up(first, &env);
    match nix::unistd::execve(&exe, &argv, &env) {
        Err(errno) => errno.into(),
        Ok(never) => match never {},
    }
}

/// Waits for the command, and ends as it did.
fn outlive(command: Pid) -> io::Result<ExitCode> {
    loop {
        match waitpid(command, None) {
            Ok(WaitStatus::Exited(_, code)) => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                let pid = std::process::id().cast_signed();
                // In the machine's namespaces, but not in that for processes: its number is still its own.
                signals::kill(pid, signal as i32)?;
                return Ok(ExitCode::from(
                    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX),
                ));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
