//! From a caller's specification to what is sent to a shim, with every limit checked on the way.

use std::collections::BTreeSet;
use std::ffi::{CString, NulError, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use suijuris_sys::descriptors;
use suijuris_sys::sockets::MESSAGE_FDS;
use tokio::net::unix::pipe;

use super::wire::{Fault, MountOrder, Namespaces, Request, Step};
use super::{Isolation, Process, StartError, step};
use crate::machine::{Mount, Network, Output, Spec};

/// Most files a machine may inherit; the message also carries the request and both outputs.
const MOST_FILES: usize = MESSAGE_FDS - 3;
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

/// Why a specification cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name would not do as part of a file name.
    #[error("name {0:?} is not 1 to 64 of a-z, 0-9 and -")]
    Name(String),
    /// A path must not depend on where the caller happens to be.
    #[error("path {} is not absolute", .0.display())]
    Relative(PathBuf),
    /// An environment variable that no program could read back.
    #[error("environment variable {0:?} is empty or contains `=`")]
    Variable(OsString),
    /// The kernel takes strings that end at the first zero byte.
    #[error("a path, an argument or a variable contains a zero byte")]
    ZeroByte(#[from] NulError),
    /// More than can be passed on.
    #[error("{count} {what} are more than {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// The number for an inherited file is given twice or out of range.
    #[error("inherited file number {0} is taken, or not within 3 to {HIGHEST_FILE}")]
    Number(i32),
    /// Asked for of plain processes.
    #[error("{0} needs namespaces, which are off here: the driver's description says why")]
    NeedsNamespaces(&'static str),
}

impl Plan {
    /// Checks `spec` and makes the control group.
    pub(super) fn new(driver: &Process, mut spec: Spec) -> Result<Self, StartError> {
        let isolation = driver.description.isolation;
        check(&spec, isolation)?;
        let mut request = request(&spec, isolation).map_err(SpecError::from)?;
        let (stdout, out) = output(spec.stdout, io::stdout().as_fd())?;
        let (stderr, err) = output(spec.stderr, io::stderr().as_fd())?;
        let inherited = spec.inherit.drain(..).map(|(file, _)| file);
        let files = [stdout, stderr].into_iter().chain(inherited).collect();
        let id = format!("{}-{}", spec.name, driver.next.fetch_add(1, Ordering::Relaxed));
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

/// `spec` in the kernel's terms, without a control group.
fn request(spec: &Spec, isolation: Isolation) -> Result<Request, NulError> {
    let text = |text: &OsStr| CString::new(text.as_bytes());
    let variable = |(name, value): (&OsString, &OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    Ok(Request {
        exe: Some(text(spec.exe.as_os_str())?),
        argv: spec.argv.iter().map(|arg| text(arg)).collect::<Result<_, _>>()?,
        env: spec.env.iter().map(variable).collect::<Result<_, _>>()?,
        cwd: text(spec.cwd.as_os_str())?,
        numbers: spec.inherit.iter().map(|(_, number)| *number).collect(),
        namespaces: (isolation != Isolation::Plain).then_some(Namespaces {
            user: isolation == Isolation::UserNamespaces,
            network: spec.network == Network::Private,
        }),
        mounts: spec
            .mounts
            .iter()
            .map(MountOrder::try_from)
            .collect::<Result<_, _>>()?,
        cgroup: None,
    })
}

/// The machine's end of an output, and the caller's where there is one.
fn output(output: Output, own: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<pipe::Receiver>)> {
    Ok(match output {
        // A caller without output of its own has none to share.
        Output::Inherit => (own.try_clone_to_owned().or_else(|_| descriptors::null())?, None),
        Output::Null => (descriptors::null()?, None),
        Output::Fd(fd) => (fd, None),
        Output::Pipe => {
            let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
            (writer, Some(pipe::Receiver::from_owned_fd(reader)?))
        }
    })
}

fn check(spec: &Spec, isolation: Isolation) -> Result<(), SpecError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=64).contains(&spec.name.len()) || !spec.name.bytes().all(allowed) {
        return Err(SpecError::Name(spec.name.clone()));
    }
    let mounted = spec.mounts.iter().flat_map(mount_paths);
    let mut paths = [spec.exe.as_path(), &spec.cwd].into_iter().chain(mounted);
    if let Some(path) = paths.find(|path| !path.is_absolute()) {
        return Err(SpecError::Relative(path.to_owned()));
    }
    let unusable = |name: &&OsString| name.is_empty() || name.as_bytes().contains(&b'=');
    if let Some(name) = spec.env.keys().find(unusable) {
        return Err(SpecError::Variable(name.clone()));
    }
    check_files(&spec.inherit)?;
    at_most("mounts", spec.mounts.len(), MOST_MOUNTS)?;
    match isolation {
        Isolation::Plain if spec.network == Network::Private => {
            Err(SpecError::NeedsNamespaces("a private network"))
        }
        Isolation::Plain if !spec.mounts.is_empty() => Err(SpecError::NeedsNamespaces("a mount")),
        _ => Ok(()),
    }
}

fn check_files(files: &[(OwnedFd, i32)]) -> Result<(), SpecError> {
    at_most("inherited files", files.len(), MOST_FILES)?;
    let mut seen = BTreeSet::new();
    let mut numbers = files.iter().map(|(_, number)| *number);
    let wrong = numbers.find(|number| !(3..=HIGHEST_FILE).contains(number) || !seen.insert(*number));
    wrong.map_or(Ok(()), |number| Err(SpecError::Number(number)))
}

fn at_most(what: &'static str, count: usize, most: usize) -> Result<(), SpecError> {
    if count > most {
        Err(SpecError::TooMany { what, count, most })
    } else {
        Ok(())
    }
}

fn mount_paths(mount: &Mount) -> Vec<&Path> {
    match mount {
        Mount::Bind { from, to, .. } => vec![from, to],
        Mount::Tmpfs { to, .. } => vec![to],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Spec), isolation: Isolation) -> String {
        let mut spec = Spec::new("web-1", "/bin/true");
        assert_eq!(check(&spec, isolation), Ok(()));
        change(&mut spec);
        let checked = check(&spec, isolation);
        let made = checked.and_then(|()| request(&spec, isolation).map_err(SpecError::from));
        made.unwrap_err().to_string()
    }

    #[test]
    fn unusable_specifications_are_refused_with_their_reason() {
        let tmpfs = |to: &str| Mount::Tmpfs {
            to: to.into(),
            size_bytes: 1,
        };
        let null = || descriptors::null().unwrap();
        for (change, reason) in [
            (
                Box::new(|spec: &mut Spec| spec.name = "Web/1".into()) as Box<dyn FnOnce(&mut Spec)>,
                "name \"Web/1\" is not",
            ),
            (Box::new(|spec| spec.name = "x".repeat(65)), "is not 1 to 64"),
            (
                Box::new(|spec| spec.exe = "true".into()),
                "path true is not absolute",
            ),
            (
                Box::new(|spec| spec.mounts = vec![tmpfs("run")]),
                "path run is not absolute",
            ),
            (
                Box::new(|spec| spec.mounts = vec![tmpfs("/run"); 257]),
                "257 mounts are more than 256",
            ),
            (
                Box::new(|spec| drop(spec.env.insert("A=B".into(), "".into()))),
                "variable \"A=B\"",
            ),
            (Box::new(|spec| spec.argv.push("a\0b".into())), "zero byte"),
            (
                Box::new(move |spec| spec.inherit.push((null(), 2))),
                "file number 2",
            ),
            (
                Box::new(move |spec| spec.inherit = (3..200).map(|n| (null(), n)).collect()),
                "197 inherited files",
            ),
        ] {
            let told = refused(change, Isolation::UserNamespaces);
            assert!(told.contains(reason), "{told}");
        }
        let told = refused(|spec| spec.network = Network::Private, Isolation::Plain);
        assert!(told.starts_with("a private network needs namespaces"), "{told}");
    }
}
