//! From the manifest's workload to a started process.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{AccessFlags, Gid, Uid, User, access, geteuid, getgrouplist};
use suijuris_core::manifest;

use super::Running;
use suijuris_sys::kill;
use suijuris_sys::spawn::{self as child, Credentials};

/// Variable that tells a workload the number of the descriptor over which connections are handed to it.
pub const CONNECTIONS_FD: &str = "SUIJURIS_CONNECTIONS_FD";

/// Search path where neither the runtime nor the manifest has one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a workload runs and what it is told.
#[derive(Debug)]
pub struct Placement {
    /// `{data}`, `SUIJURIS_DATA`, and the working directory where the manifest has none. Exists.
    pub data_dir: PathBuf,
    /// `{object}`: the directory of the object's files; a relative `cwd` of the manifest starts here.
    pub object_dir: PathBuf,
    /// `{port}`, `PORT`: the manifest's port, or [`free_port`] where that is zero.
    pub port: u16,
    /// `SUIJURIS_AGENT_SOCKET`.
    pub agent_socket: PathBuf,
    /// `SUIJURIS_OBJECT`.
    pub object_id: String,
    /// `PATH`: the runtime's own.
    pub path: Option<OsString>,
    /// `HOME`, unless the workload runs as another user, who has a home of his own.
    pub home: PathBuf,
    /// The end of a pair of Unix sockets over which connections are handed to the workload; see [`CONNECTIONS_FD`].
    /// Close it after [`spawn`], so that the other end sees the workload go.
    pub connections: Option<OwnedFd>,
}

/// Where the workload writes; standard input is empty.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

impl Output {
    /// Both where the runtime's own go.
    #[must_use]
    pub fn inherited() -> Self {
        Self {
            stdout: Stdio::inherit(),
            stderr: Stdio::inherit(),
        }
    }
}

/// Why a workload was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No such program.
    #[error("program `{program}` was not found in PATH ({path}); install it or name it by its full path")]
    NotFound {
        /// As the manifest names it.
        program: String,
        /// What was searched.
        path: String,
    },
    /// A path that names nothing.
    #[error("there is no program at {0}; a relative path starts at the working directory")]
    NoSuchFile(PathBuf),
    /// A file that is no program.
    #[error("{0} cannot be executed: it is not a file with the x bit for this user; chmod +x it")]
    NotExecutable(PathBuf),
    /// A script or binary whose interpreter is missing.
    #[error("{program} needs {interpreter}, which is not there; install it")]
    Interpreter {
        /// The program.
        program: PathBuf,
        /// What its first line asks for, or the dynamic loader.
        interpreter: String,
    },
    /// A file that the kernel cannot run. With glibc, which hands such a file to `sh`, the shell's error is seen
    /// instead, as the end of the workload.
    #[error("{0} is neither a program for this machine nor a script that starts with #!")]
    Format(PathBuf),
    /// No such directory.
    #[error("the working directory {0} is not there; create it or change workload.cwd")]
    Cwd(PathBuf),
    /// No such user.
    #[error("there is no user `{0}` in this machine; add it to /etc/passwd or change workload.user")]
    UserUnknown(String),
    /// Only root can become somebody else.
    #[error(
        "the runtime is not root and cannot run the workload as `{0}`; remove workload.user or start it as root"
    )]
    UserForbidden(String),
    /// Somebody else listens there.
    #[error("port {0} is in use by another program; stop it or let the runtime pick one with port = 0")]
    PortInUse(u16),
    /// A text with a NUL byte, or an empty command.
    #[error("workload.command is empty or holds a NUL byte")]
    Command,
    /// The kernel refused.
    #[error("{program} could not be started")]
    Failed {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A TCP port on loopback that nobody uses at this moment.
///
/// # Errors
/// If no socket can be bound.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Starts the workload and watches it. Needs a tokio runtime with I/O; call it on the main thread.
///
/// The program gets a session of its own, default signal handling, the declared environment and nothing else of
/// ours; it is killed with the runtime.
///
/// # Errors
/// [`SpawnError`], and nothing runs.
pub fn spawn(
    workload: &manifest::Workload,
    placement: &Placement,
    output: Output,
) -> Result<Running, SpawnError> {
    let user = workload.user.as_deref().map(resolve_user).transpose()?;
    let cwd = working_directory(workload, placement)?;
    let env = environment(workload, placement, user.as_ref());
    let mut argv = workload.argv.iter().map(|arg| fill(arg, placement));
    let name = argv.next().ok_or(SpawnError::Command)?;
    let program = find_program(&name, &cwd, env.get(OsStr::new("PATH")))?;
    if serves_port(&workload.ready) && port_taken(placement.port) {
        return Err(SpawnError::PortInUse(placement.port));
    }
    let mut command = Command::new(&program);
    command
        .args(argv)
        .env_clear()
        .envs(env)
        .current_dir(&cwd)
        .stdin(Stdio::null())
        .stdout(output.stdout)
        .stderr(output.stderr);
    std::os::unix::process::CommandExt::arg0(&mut command, &name);
    let keep = placement.connections.as_ref().map(AsRawFd::as_raw_fd);
    let credentials = user.and_then(|user| user.credentials);
    let failed = |source| SpawnError::Failed {
        program: program.clone(),
        source,
    };
    let child = child::spawn(&mut command, credentials, keep).map_err(|source| explain(&program, source))?;
    let pid = i32::try_from(child.id()).map_err(|error| failed(io::Error::other(error)))?;
    Running::watch(pid, placement.port).map_err(|source| {
        // Nobody could see it end.
        let _ = kill(-pid, libc::SIGKILL);
        failed(source)
    })
}

const fn serves_port(ready: &manifest::Ready) -> bool {
    matches!(ready, manifest::Ready::Tcp | manifest::Ready::Http(_))
}

/// Whether somebody listens on `port`, so that the workload could not, and would be taken for ready.
fn port_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// `{port}`, `{data}` and `{object}` replaced, in one pass, so that a replaced text is not read again.
fn fill(text: &str, placement: &Placement) -> OsString {
    let port = placement.port.to_string();
    let places: [(&str, &OsStr); 3] = [
        ("{port}", OsStr::new(&port)),
        ("{data}", placement.data_dir.as_os_str()),
        ("{object}", placement.object_dir.as_os_str()),
    ];
    let mut out = OsString::new();
    let mut rest = text;
    while let Some((before, found)) = rest.find('{').and_then(|at| rest.split_at_checked(at)) {
        out.push(before);
        match places
            .iter()
            .find_map(|(name, value)| Some((found.strip_prefix(name)?, value)))
        {
            Some((behind, value)) => {
                out.push(value);
                rest = behind;
            }
            None => {
                out.push("{");
                rest = found.strip_prefix('{').unwrap_or_default();
            }
        }
    }
    out.push(rest);
    out
}

fn environment(
    workload: &manifest::Workload,
    placement: &Placement,
    user: Option<&Account>,
) -> BTreeMap<OsString, OsString> {
    let home = user
        .and_then(|user| user.home.clone())
        .unwrap_or_else(|| placement.home.clone());
    let path = placement.path.clone().unwrap_or_else(|| DEFAULT_PATH.into());
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::from([
        ("PATH".into(), path),
        ("HOME".into(), home.into()),
        ("PORT".into(), placement.port.to_string().into()),
        (
            "SUIJURIS_AGENT_SOCKET".into(),
            placement.agent_socket.clone().into(),
        ),
        ("SUIJURIS_DATA".into(), placement.data_dir.clone().into()),
        ("SUIJURIS_OBJECT".into(), placement.object_id.clone().into()),
    ]);
    if let Some(connections) = &placement.connections {
        env.insert(CONNECTIONS_FD.into(), connections.as_raw_fd().to_string().into());
    }
    env.extend(
        workload
            .env
            .iter()
            .map(|(name, value)| (name.into(), fill(value, placement))),
    );
    env
}

fn working_directory(workload: &manifest::Workload, placement: &Placement) -> Result<PathBuf, SpawnError> {
    let cwd = match &workload.cwd {
        Some(cwd) => placement.object_dir.join(fill(cwd, placement)),
        None => placement.data_dir.clone(),
    };
    let cwd = std::path::absolute(&cwd).unwrap_or(cwd);
    if cwd.is_dir() {
        Ok(cwd)
    } else {
        Err(SpawnError::Cwd(cwd))
    }
}

/// The file that execvp would take, found beforehand so that what is wrong can be said.
fn find_program(name: &OsStr, cwd: &Path, path: Option<&OsString>) -> Result<PathBuf, SpawnError> {
    if name.is_empty() || name.as_bytes().contains(&0) {
        return Err(SpawnError::Command);
    }
    if name.as_bytes().contains(&b'/') {
        let program = cwd.join(name);
        return match (program.exists(), executable(&program)) {
            (false, _) => Err(SpawnError::NoSuchFile(program)),
            (true, false) => Err(SpawnError::NotExecutable(program)),
            (true, true) => Ok(program),
        };
    }
    let path = path.cloned().unwrap_or_default();
    let candidates = || std::env::split_paths(&path).map(|dir| cwd.join(dir).join(name));
    candidates().find(|program| executable(program)).ok_or_else(|| {
        match candidates().find(|program| program.is_file()) {
            Some(program) => SpawnError::NotExecutable(program),
            None => SpawnError::NotFound {
                program: name.to_string_lossy().into_owned(),
                path: path.to_string_lossy().into_owned(),
            },
        }
    })
}

fn executable(program: &Path) -> bool {
    program.is_file() && access(program, AccessFlags::X_OK).is_ok()
}

/// What a failed exec means for a file that is there and has the x bit.
fn explain(program: &Path, source: io::Error) -> SpawnError {
    let program = program.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT) => SpawnError::Interpreter {
            interpreter: interpreter(&program).unwrap_or_else(|| "a dynamic loader".to_owned()),
            program,
        },
        Some(libc::ENOEXEC) => SpawnError::Format(program),
        Some(libc::EACCES) => SpawnError::NotExecutable(program),
        _ => SpawnError::Failed { program, source },
    }
}

/// What the `#!` line of a script names.
fn interpreter(program: &Path) -> Option<String> {
    let mut head = Vec::new();
    std::fs::File::open(program)
        .ok()?
        .take(256)
        .read_to_end(&mut head)
        .ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = String::from_utf8_lossy(line)
        .split_ascii_whitespace()
        .next()?
        .to_owned();
    Some(word)
}

/// The user that a workload runs as.
struct Account {
    /// Absent if we are that user already.
    credentials: Option<Credentials>,
    home: Option<PathBuf>,
}

/// A user by name, by number, or as `uid:gid`.
fn resolve_user(text: &str) -> Result<Account, SpawnError> {
    let unknown = || SpawnError::UserUnknown(text.to_owned());
    let (name, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let known = match name.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    let known = known.ok().flatten();
    let uid = known
        .as_ref()
        .map(|user| user.uid.as_raw())
        .or_else(|| name.parse().ok())
        .ok_or_else(unknown)?;
    let gid = match group {
        Some(group) => group.parse().map_err(|_| unknown())?,
        None => known.as_ref().map_or(uid, |user| user.gid.as_raw()),
    };
    let home = known.as_ref().map(|user| user.dir.clone());
    if uid == geteuid().as_raw() {
        return Ok(Account {
            credentials: None,
            home,
        });
    }
    if !geteuid().is_root() {
        return Err(SpawnError::UserForbidden(text.to_owned()));
    }
    let groups = known
        .and_then(|user| CString::new(user.name).ok())
        .map_or_else(|| vec![gid], |name| supplementary(&name, gid));
    Ok(Account {
        credentials: Some(Credentials { uid, gid, groups }),
        home,
    })
}

fn supplementary(name: &CString, gid: u32) -> Vec<u32> {
    getgrouplist(name, Gid::from_raw(gid)).map_or_else(
        |_| vec![gid],
        |groups| groups.into_iter().map(Gid::as_raw).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_once_and_others_left_alone() {
        let placement = Placement {
            data_dir: "/d/{port}".into(),
            object_dir: "/o".into(),
            port: 81,
            agent_socket: "/a".into(),
            object_id: "b".into(),
            path: None,
            home: "/".into(),
            connections: None,
        };
        for (text, expect) in [
            ("--port={port}", "--port=81"),
            ("{data}/{object}{port}", "/d/{port}//o81"),
            ("{\"a\":{}} {ports} {", "{\"a\":{}} {ports} {"),
            ("é{port}é", "é81é"),
            ("", ""),
        ] {
            assert_eq!(fill(text, &placement), expect, "{text}");
        }
    }

    #[test]
    fn users_are_found_or_named_as_missing() {
        assert!(matches!(
            resolve_user("no-such-user-here"),
            Err(SpawnError::UserUnknown(_))
        ));
        let me = resolve_user(&geteuid().to_string()).unwrap();
        assert!(me.credentials.is_none());
    }
}
