//! From a caller's specification to what is sent to a shim, with every limit checked on the way.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use tokio::net::unix::pipe;

use super::wire::{Fault, MountOrder, Namespaces, Request, Step};
use super::{Isolation, Process, StartError, step};
use crate::machine::{Mount, Network, Output, Spec};
use crate::sys;

/// Most files a machine may inherit; the message also carries the request and both outputs.
const MOST_FILES: usize = sys::MESSAGE_FDS - 3;
/// Most mounts of a machine.
const MOST_MOUNTS: usize = 256;
/// Highest number of an inherited file: the usual soft limit on open files.
const HIGHEST_FILE: i32 = 1023;

/// A specification that passed all checks.
pub(super) struct Plan {
    pub(super) id: String,
    pub(super) request: Request,
    /// Both outputs, then those that are inherited.
    pub(super) files: Vec<OwnedFd>,
    /// The other ends of the outputs that are pipes.
    pub(super) outputs: [Option<pipe::Receiver>; 2],
}

impl Plan {
    /// Checks `spec` and makes the control group.
    pub(super) fn new(driver: &Process, spec: Spec) -> Result<Self, StartError> {
        check(&spec, driver.description.isolation).map_err(StartError::Spec)?;
        let (stdout, out) = output(spec.stdout, io::stdout().as_fd())?;
        let (stderr, err) = output(spec.stderr, io::stderr().as_fd())?;
        let (inherited, numbers): (Vec<_>, Vec<_>) = spec.inherit.into_iter().unzip();
        let files = [stdout, stderr].into_iter().chain(inherited).collect();
        let namespaces = (driver.description.isolation != Isolation::Plain).then_some(Namespaces {
            user: driver.description.isolation == Isolation::UserNamespaces,
            network: spec.network == Network::Private,
        });
        let id = format!("{}-{}", spec.name, driver.next.fetch_add(1, Ordering::Relaxed));
        let nul = |_| StartError::Spec("a path, an argument or a variable contains a zero byte".to_owned());
        let variable = |(name, value): (OsString, OsString)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
        };
        let mut request = Request {
            exe: Some(CString::new(spec.exe.as_os_str().as_bytes()).map_err(nul)?),
            argv: spec
                .argv
                .iter()
                .map(|arg| CString::new(arg.as_bytes()))
                .collect::<Result<_, _>>()
                .map_err(nul)?,
            env: spec
                .env
                .into_iter()
                .map(variable)
                .collect::<Result<_, _>>()
                .map_err(nul)?,
            cwd: CString::new(spec.cwd.as_os_str().as_bytes()).map_err(nul)?,
            numbers,
            namespaces,
            mounts: spec
                .mounts
                .iter()
                .map(MountOrder::try_from)
                .collect::<Result<_, _>>()
                .map_err(nul)?,
            cgroup: None,
        };
        let leaf = driver.base.as_ref().map(|base| base.leaf(&id)).transpose();
        request.cgroup = leaf.map_err(|error| step(Fault::new(Step::Cgroup, "", &error)))?;
        Ok(Self {
            id,
            request,
            files,
            outputs: [out, err],
        })
    }
}

/// The machine's end of an output, and the caller's where there is one.
fn output(output: Output, own: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<pipe::Receiver>)> {
    Ok(match output {
        // A caller without output of its own has none to share.
        Output::Inherit => (own.try_clone_to_owned().or_else(|_| sys::null())?, None),
        Output::Null => (sys::null()?, None),
        Output::Fd(fd) => (fd, None),
        Output::Pipe => {
            let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
            (writer, Some(pipe::Receiver::from_owned_fd(reader)?))
        }
    })
}

/// What is wrong with a specification, if anything is.
fn check(spec: &Spec, isolation: Isolation) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=64).contains(&spec.name.len()) || !spec.name.bytes().all(allowed) {
        return Err(format!("name {:?} is not 1 to 64 of a-z, 0-9 and -", spec.name));
    }
    let targets = spec.mounts.iter().flat_map(mount_paths);
    for path in [spec.exe.as_path(), spec.cwd.as_path()]
        .into_iter()
        .chain(targets)
    {
        if !path.is_absolute() {
            return Err(format!("path {} is not absolute", path.display()));
        }
    }
    if let Some(name) = spec
        .env
        .keys()
        .find(|name| name.is_empty() || name.as_bytes().contains(&b'='))
    {
        return Err(format!("environment variable {name:?} is empty or contains `=`"));
    }
    check_files(&spec.inherit)?;
    if spec.mounts.len() > MOST_MOUNTS {
        return Err(format!(
            "{} mounts are more than {MOST_MOUNTS}",
            spec.mounts.len()
        ));
    }
    if isolation == Isolation::Plain && spec.network == Network::Private {
        return Err(
            "a private network needs namespaces, which are off; see the driver's description".to_owned(),
        );
    }
    if isolation == Isolation::Plain && !spec.mounts.is_empty() {
        return Err("mounts need namespaces, which are off; see the driver's description".to_owned());
    }
    Ok(())
}

fn check_files(files: &[(OwnedFd, i32)]) -> Result<(), String> {
    if files.len() > MOST_FILES {
        return Err(format!(
            "{} inherited files are more than {MOST_FILES}",
            files.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for &(_, number) in files {
        if !(3..=HIGHEST_FILE).contains(&number) || !seen.insert(number) {
            return Err(format!(
                "inherited file number {number} is taken, or not within 3 to {HIGHEST_FILE}"
            ));
        }
    }
    Ok(())
}

fn mount_paths(mount: &Mount) -> Vec<&Path> {
    match mount {
        Mount::Bind { from, to, .. } => vec![from, to],
        Mount::Tmpfs { to, .. } => vec![to],
    }
}
