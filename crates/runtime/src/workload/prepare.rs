//! From the manifest's workload to a started process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::unistd::{AccessFlags, access};
use suijuris_core::manifest;
use suijuris_core::manifest::secrets::SECRET_FILE;

use super::Running;
use super::command::Question;
use super::confine::{Sight, can_divide, confinement, is_own_temporary};
use super::limits::MachineLimits;
use super::notify::{self, Notify};
use super::running::{Given, Questions};
use super::secrets::{Files, Secrets};
use super::user::{Account, give_tree, of_image, resolve_user};
use suijuris_link::launch::Image;
use suijuris_sys::confine::Confinement;
use suijuris_sys::kill;
use suijuris_sys::spawn::{self as child, Credentials, User as RunsAs};

/// Variable that tells a workload the number of the descriptor over which connections are handed to it.
pub const CONNECTIONS_FD: &str = "SUIJURIS_CONNECTIONS_FD";

/// Search path where neither the runtime nor the manifest has one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a workload runs and what it is told.
#[derive(Debug)]
pub struct Placement {
    /// `{data}`, `SUIJURIS_DATA`, and the working directory where the manifest has none. Exists.
    pub data_dir: PathBuf,
    /// What is the object's and not its workload's: covered where the workload can have a view of its own.
    pub private: Vec<PathBuf>,
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
    /// `HOME`, whoever the workload runs as.
    pub home: PathBuf,
    /// The end of a pair of Unix sockets over which connections are handed to the workload; see [`CONNECTIONS_FD`].
    /// Close it after [`spawn`], so that the other end sees the workload go.
    pub connections: Option<OwnedFd>,
    /// What the machine as a whole is limited in already.
    pub limits: MachineLimits,
    /// What [`manifest::Workload::secret_env`] and `{secret_file:FIELD}` stand for.
    pub secrets: Secrets,
    /// The image that this machine has its files from; what it says holds where the manifest says nothing.
    pub image: Option<Image>,
    /// What the workload sees as `/etc/hosts`, where that is not its machine's.
    pub hosts: Option<PathBuf>,
}

impl Placement {
    /// The signal that asks a workload to stop.
    #[must_use]
    pub fn stop_signal(&self, workload: &manifest::Workload) -> i32 {
        match (workload.stop_signal, &self.image) {
            (0, Some(image)) => image.stop_signal,
            (0, None) => libc::SIGTERM,
            (signal, _) => signal,
        }
    }
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
    /// A file in a directory of which the workload has one of its own.
    #[error(
        "the workload cannot see {0}: its /tmp and /var/tmp are its own, and empty; put the program beside object.toml and name it as {{object}}/…, or anywhere else"
    )]
    Hidden(PathBuf),
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
        "this machine has one user and cannot call it `{0}`, since user namespaces are not allowed here; remove workload.user or start it as root"
    )]
    UserForbidden(String),
    /// Somebody else listens there.
    #[error("port {0} is in use by another program; stop it or let the runtime pick one with port = 0")]
    PortInUse(u16),
    /// A text with a NUL byte, or an empty command.
    #[error("workload.command is empty or holds a NUL byte")]
    Command,
    /// It cannot be kept from what it must not have.
    #[error(
        "the workload cannot be shut in: it was not possible to {0}; run it where namespaces work, or with --plain and read what that does not give"
    )]
    Confine(String, #[source] io::Error),
    /// A mount that cannot be had.
    #[error("workload.mounts: {0} {1}")]
    Mount(PathBuf, &'static str),
    /// Its directory cannot be given to its user.
    #[error("{0} cannot be made the directory of the workload's user")]
    Volume(PathBuf, #[source] io::Error),
    /// The socket in `NOTIFY_SOCKET`.
    #[error("the socket that the workload says in when it is ready cannot be made beside the agent socket")]
    Notify(#[source] io::Error),
    /// The files of its secrets.
    #[error("the files of the workload's secrets cannot be written")]
    Secrets(#[source] io::Error),
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

/// A placement, and where the files of its secrets are.
struct Filled<'p> {
    placement: &'p Placement,
    files: PathBuf,
    notify: Option<&'p Path>,
}

impl std::ops::Deref for Filled<'_> {
    type Target = Placement;

    fn deref(&self) -> &Placement {
        self.placement
    }
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
    let user = match &placement.image {
        Some(image) => Some(of_image(image)),
        None => workload.user.as_deref().map(resolve_user).transpose()?,
    };
    let credentials = user.as_ref().and_then(Account::owner);
    let runs_as = user.as_ref().and_then(|user| user.user.clone());
    let files = Files::directory(&placement.agent_socket, &placement.object_id, credentials);
    let says = std::iter::once(&workload.ready).chain(workload.live.as_ref().map(|live| &live.by));
    let says = says.into_iter().any(|how| *how == manifest::Ready::Notify);
    let notify = says.then(|| Notify::bind(&placement.agent_socket));
    let notify = notify.transpose().map_err(SpawnError::Notify)?;
    let placement = &Filled {
        placement,
        files,
        notify: notify.as_ref().map(Notify::path),
    };
    let cwd = working_directory(workload, placement)?;
    let env = environment(workload, placement);
    let of_image = placement.image.as_ref().filter(|_| workload.argv.is_empty());
    let of_image = of_image
        .into_iter()
        .flat_map(|image| image.argv.iter().map(OsString::from));
    let mut argv = workload
        .argv
        .iter()
        .map(|arg| fill(arg, placement))
        .chain(of_image);
    let name = argv.next().ok_or(SpawnError::Command)?;
    let program = find_program(&name, &cwd, env.get(OsStr::new("PATH")))?;
    if serves_port(&workload.ready) && port_taken(placement.port) {
        return Err(SpawnError::PortInUse(placement.port));
    }
    let secrets = Files::write(placement.files.clone(), &placement.secrets, credentials);
    let secrets = secrets.map_err(SpawnError::Secrets)?;
    if let Some(credentials) = credentials {
        hand_over(placement, credentials)?;
    }
    let confinement = Arc::new(confined(workload, placement, (&program, &cwd), credentials)?);
    let asking = Asking {
        workload,
        placement,
        env: &env,
        cwd: &cwd,
        user: runs_as.as_ref(),
        confinement: &confinement,
    };
    let questions = asking.questions()?;
    let mut command = Command::new(&program);
    command
        .args(argv)
        .env_clear()
        .envs(&env)
        .current_dir(&cwd)
        .stdin(Stdio::null())
        .stdout(output.stdout)
        .stderr(output.stderr);
    std::os::unix::process::CommandExt::arg0(&mut command, &name);
    let keep = placement.connections.as_ref().map(AsRawFd::as_raw_fd);
    let renamed = matches!(runs_as, Some(RunsAs::Renamed { .. }));
    let failed = |source| SpawnError::Failed {
        program: program.clone(),
        source,
    };
    let child = child::spawn(&mut command, runs_as, keep, Some(confinement.clone()));
    let child = child.map_err(|source| match confinement.trouble() {
        Some(step) => SpawnError::Confine(step, source),
        // What an exec is refused with is another error.
        None if renamed && is_no_namespace(&source) => {
            SpawnError::UserForbidden(workload.user.clone().unwrap_or_else(|| "the image's".to_owned()))
        }
        None => explain(&program, source),
    })?;
    let pid = i32::try_from(child.id()).map_err(|error| failed(io::Error::other(error)))?;
    let port = placement.port;
    let given = Given {
        _secrets: secrets,
        notify,
        questions,
    };
    Running::watch(pid, port, given).map_err(|source| {
        // Nobody could see it end.
        let _ = kill(-pid, libc::SIGKILL);
        failed(source)
    })
}

/// What the commands have in common that are asked about a workload.
struct Asking<'a> {
    workload: &'a manifest::Workload,
    placement: &'a Filled<'a>,
    env: &'a BTreeMap<OsString, OsString>,
    cwd: &'a Path,
    user: Option<&'a RunsAs>,
    confinement: &'a Arc<Confinement>,
}

impl Asking<'_> {
    fn questions(&self) -> Result<Questions, SpawnError> {
        let live = self.workload.live.as_ref().map(|live| &live.by);
        Ok(Questions {
            ready: self.question(Some(&self.workload.ready))?,
            live: self.question(live)?,
        })
    }

    fn question(&self, how: Option<&manifest::Ready>) -> Result<Option<Question>, SpawnError> {
        let Some(manifest::Ready::Command(argv)) = how else {
            return Ok(None);
        };
        let mut argv = argv.iter().map(|arg| fill(arg, self.placement));
        let name = argv.next().ok_or(SpawnError::Command)?;
        Ok(Some(Question {
            program: find_program(&name, self.cwd, self.env.get(OsStr::new("PATH")))?,
            name,
            arguments: argv.collect(),
            env: self.env.clone(),
            cwd: self.cwd.to_owned(),
            user: self.user.cloned(),
            confinement: self.confinement.clone(),
            limits: self.placement.limits.of_each_process(&self.workload.limits),
            joins: can_divide(),
        }))
    }
}

fn confined(
    workload: &manifest::Workload,
    placement: &Filled<'_>,
    (program, cwd): (&Path, &Path),
    user: Option<&Credentials>,
) -> Result<Confinement, SpawnError> {
    let mounts = match &placement.image {
        Some(_) => Vec::new(),
        None => mounts(workload, placement)?,
    };
    // What is mounted into an image is there already.
    let kept = placement.image.iter().flat_map(|_| &workload.mounts);
    let kept: Vec<(PathBuf, bool)> = kept
        .map(|mount| (PathBuf::from(&mount.to), mount.write))
        .collect();
    let sight = Sight {
        private: &placement.private,
        volume: &placement.data_dir,
        agent_socket: &placement.agent_socket,
        notify: placement.notify,
        secrets: &placement.files,
        hosts: placement.hosts.as_deref(),
        object_dir: &placement.object_dir,
        mounts: &mounts,
        kept: &kept,
        read_only: workload.read_only,
        program,
        cwd,
        // An image's files are as its author made them.
        user: user.filter(|_| placement.image.is_none()),
    };
    let limits = placement.limits.of_each_process(&workload.limits);
    confinement(&sight, limits)
        .map_err(|error| SpawnError::Confine("take from it what it must not have".to_owned(), error))
}

/// What it sees besides: from where, at what place, and whether it may write there.
fn mounts(
    workload: &manifest::Workload,
    placement: &Filled<'_>,
) -> Result<Vec<(PathBuf, PathBuf, bool)>, SpawnError> {
    if !workload.mounts.is_empty() && !can_divide() {
        let why = "cannot be shown to a plain process: run it where namespaces work, or without --plain";
        let first = workload.mounts.first().map(|mount| PathBuf::from(&mount.to));
        return Err(SpawnError::Mount(first.unwrap_or_default(), why));
    }
    let mounts = workload.mounts.iter().map(|mount| {
        let from = PathBuf::from(fill(&mount.from, placement));
        let Ok(from) = from.canonicalize() else {
            return Err(SpawnError::Mount(
                from,
                "is not there: make it, or take the mount out",
            ));
        };
        let is_private = |private: &PathBuf| {
            let private = private.canonicalize().unwrap_or_else(|_| private.clone());
            private.starts_with(&from) || from.starts_with(&private)
        };
        // The object's own directory is covered where it stands.
        let shows = from.as_path() != Path::new(&mount.to) || mount.write;
        if shows && placement.private.iter().any(is_private) {
            let why = "would show what is the object's own: name a directory that does not hold its data";
            return Err(SpawnError::Mount(from, why));
        }
        Ok((from, PathBuf::from(&mount.to), mount.write))
    });
    mounts.collect()
}

/// Whether a user namespace was refused.
fn is_no_namespace(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::ENOSPC | libc::EUSERS)
    )
}

/// Makes volume and agent socket those of the workload's user, with what an earlier user left.
fn hand_over(placement: &Filled<'_>, to: &Credentials) -> Result<(), SpawnError> {
    let volume = &placement.data_dir;
    give_tree(volume, to).map_err(|error| SpawnError::Volume(volume.clone(), error))?;
    for socket in [Some(placement.agent_socket.as_path()), placement.notify]
        .into_iter()
        .flatten()
    {
        match std::os::unix::fs::lchown(socket, Some(to.uid), Some(to.gid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SpawnError::Volume(socket.to_owned(), error));
            }
            _ => {}
        }
    }
    Ok(())
}

const fn serves_port(ready: &manifest::Ready) -> bool {
    matches!(ready, manifest::Ready::Tcp | manifest::Ready::Http(_))
}

/// Whether somebody listens on `port`, so that the workload could not, and would be taken for ready.
fn port_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// `{port}`, `{data}`, `{object}` and `{secret_file:FIELD}` replaced, in one pass, so that a replaced text is not read again.
fn fill(text: &str, placement: &Filled<'_>) -> OsString {
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
            None if let Some((path, behind)) = secret_file(found, placement) => {
                out.push(path);
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

/// The path of the secret that `text` begins with, and what is behind; nothing where the workload is given none such.
fn secret_file<'t>(text: &'t str, placement: &Filled<'_>) -> Option<(PathBuf, &'t str)> {
    let (name, behind) = text
        .strip_prefix('{')?
        .strip_prefix(SECRET_FILE)?
        .split_once('}')?;
    let is_given = placement.secrets.files.contains_key(name);
    is_given.then(|| (placement.files.join(name), behind))
}

fn environment(workload: &manifest::Workload, placement: &Filled<'_>) -> BTreeMap<OsString, OsString> {
    let home = placement.home.clone();
    // The host's means nothing in an image.
    let path = placement.path.clone().filter(|_| placement.image.is_none());
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
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
    let of_image = placement.image.iter().flat_map(|image| &image.env);
    // What the object says of itself is not the image's to say.
    let of_image =
        of_image.filter(|(name, _)| name == "PATH" || name == "HOME" || !env.contains_key(OsStr::new(name)));
    let of_image: Vec<(OsString, OsString)> = of_image
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    env.extend(of_image);
    if let Some(connections) = &placement.connections {
        env.insert(CONNECTIONS_FD.into(), connections.as_raw_fd().to_string().into());
    }
    if let Some(notify) = placement.notify {
        env.insert(notify::SOCKET.into(), notify.into());
    }
    let watched = workload
        .live
        .as_ref()
        .filter(|live| live.by == manifest::Ready::Notify);
    if let Some(live) = watched {
        let every = live.every.0.saturating_mul(1_000).to_string();
        env.insert(notify::WATCHDOG.into(), every.into());
    }
    env.extend(
        workload
            .env
            .iter()
            .map(|(name, value)| (name.into(), fill(value, placement))),
    );
    let secrets = placement.secrets.env.iter();
    env.extend(secrets.map(|(name, value)| (name.into(), value.as_str().into())));
    env
}

fn working_directory(workload: &manifest::Workload, placement: &Filled<'_>) -> Result<PathBuf, SpawnError> {
    let cwd = match &workload.cwd {
        Some(cwd) => placement.object_dir.join(fill(cwd, placement)),
        None => match &placement.image {
            Some(image) => image.cwd.clone(),
            None => placement.data_dir.clone(),
        },
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
        Some(libc::ENOENT) => not_found(program),
        Some(libc::ENOEXEC) => SpawnError::Format(program),
        Some(libc::EACCES) => SpawnError::NotExecutable(program),
        _ => SpawnError::Failed { program, source },
    }
}

/// The program is there for us, and it or what it needs is not for the workload.
fn not_found(program: PathBuf) -> SpawnError {
    let needs = interpreter(&program);
    let interpreter = needs.as_deref().map(Path::new);
    if let Some(missing) = interpreter.filter(|interpreter| !interpreter.exists()) {
        return SpawnError::Interpreter {
            interpreter: missing.to_string_lossy().into_owned(),
            program,
        };
    }
    let places = [Some(program.as_path()), interpreter].into_iter().flatten();
    if let Some(hidden) = places.into_iter().find(|path| is_own_temporary(path)) {
        return SpawnError::Hidden(hidden.to_owned());
    }
    SpawnError::Interpreter {
        interpreter: needs.unwrap_or_else(|| "a dynamic loader".to_owned()),
        program,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_once_and_others_left_alone() {
        let placement = Placement {
            data_dir: "/d/{port}".into(),
            private: Vec::new(),
            object_dir: "/o".into(),
            port: 81,
            agent_socket: "/a".into(),
            object_id: "b".into(),
            path: None,
            home: "/".into(),
            connections: None,
            limits: MachineLimits::default(),
            secrets: Secrets {
                files: [("db".to_owned(), b"hush".to_vec().into())].into(),
                ..Secrets::default()
            },
            image: None,
            hosts: None,
        };
        let placement = Filled {
            placement: &placement,
            files: "/run/x".into(),
            notify: None,
        };
        for (text, expect) in [
            ("--p={secret_file:db}!", "--p=/run/x/db!"),
            ("{secret_file:other}", "{secret_file:other}"),
            ("{secret_file:db", "{secret_file:db"),
            ("--port={port}", "--port=81"),
            ("{data}/{object}{port}", "/d/{port}//o81"),
            ("{\"a\":{}} {ports} {", "{\"a\":{}} {ports} {"),
            ("é{port}é", "é81é"),
            ("", ""),
        ] {
            assert_eq!(fill(text, &placement), expect, "{text}");
        }
    }
}
