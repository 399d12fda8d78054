//! What caller and shim say to each other over their socket pair, one message a packet.
//!
//! The caller opens with [`Order::Run`], whose bulk ([`Request`], JSON) lies in a file in memory that
//! travels with it, ahead of the machine's two outputs and the files that it inherits. The shim answers with [`Report`]s. The end of
//! the connection is a message too: whoever is left cleans up, unless the machine was released to outlive its caller.

use std::ffi::{CString, NulError};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use suijuris_guest::assignment::{Assignment, Failed, MountOrder, Part};

use super::cgroup::Leaf;
use super::users::Subordinate;
use crate::description::Enforced;
use crate::machine::{Exit, MachineId};
use crate::secret::Bytes;
use crate::spec::{Account, ImageFiles, ImageRoot, Mount, Network, Spec};

/// Most bytes of a [`Request`]: the kernel's own limit on arguments and environment, in JSON's wider form.
const REQUEST_BYTES: u64 = 8 << 20;
/// Most bytes of an [`Order`] or a [`Report`].
pub(super) const MESSAGE_BYTES: usize = 16 << 10;

/// What the shim is to run. Strings are as the kernel takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// The files of an image; none for those of the host.
    pub(super) root: Option<RootOrder>,
    /// The first program; none to only try the way there.
    pub(super) exe: Option<CString>,
    /// What makes a prepared process this machine's; numbers are for the files that came along.
    pub(super) assignment: Assignment,
    pub(super) namespaces: Option<Namespaces>,
    /// Namespaces that are gone into before the machine is forked: so many files right behind the request.
    pub(super) joins: usize,
    /// Whose the first program is, where it is a stranger's.
    pub(super) stranger: Option<Account>,
    /// The control groups that the machine lives in.
    pub(super) groups: Vec<Leaf>,
    /// Of a machine that may outlive its caller.
    pub(super) detached: Option<Detached>,
}

/// What a shim needs to keep a machine without its caller. Its files come along behind the request: the machine's
/// directory, the outer end of the link where there is one, and the pipes of its output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detached {
    pub(super) id: MachineId,
    pub(super) nonce: Bytes,
    /// What later callers must prove to know.
    pub(super) secret: Bytes,
    pub(super) has_link: bool,
    /// How many pipes of output come along.
    pub(super) pipes: usize,
    pub(super) limits: Vec<Enforced>,
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Detached({})", self.id)
    }
}

/// Which namespaces a machine gets beside those for processes, mounts, names and System V objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespaces {
    /// Users: what makes the others possible without privilege.
    pub(super) user: bool,
    pub(super) network: bool,
}

/// [`ImageRoot`] as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RootOrder {
    /// Lowest first; one directory, if it is not to be laid under anything.
    pub(super) layers: Vec<CString>,
    /// Whether they are for overlayfs.
    pub(super) overlay: bool,
    pub(super) scratch: CString,
    /// What the caller's user and group are within a user namespace.
    pub(super) user: (u32, u32),
    /// Whether names are resolved as on the host.
    pub(super) resolver: bool,
    /// Whether what is written stays.
    pub(super) keeps: bool,
    /// Whether what reaches the host's kernel is read-only.
    pub(super) is_strange: bool,
    /// Users beside the caller's own, within a user namespace.
    pub(super) users: Option<Subordinate>,
    /// Whose files of it are, where not root's: path below its root, user, group. Only where there are [`Self::users`].
    pub(super) owners: Vec<(CString, u32, u32)>,
}

impl RootOrder {
    pub(super) fn new(image: &ImageRoot, spec: &Spec) -> Result<Self, NulError> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let (layers, overlay) = match &image.files {
            ImageFiles::Layers(layers) => {
                let layers = layers.iter().map(|layer| text(layer));
                (layers.collect::<Result<_, _>>()?, true)
            }
            // No disk is one: refused before.
            ImageFiles::Copy(directory) | ImageFiles::Disk(directory) => (vec![text(directory)?], false),
        };
        Ok(Self {
            layers,
            overlay,
            scratch: text(&image.scratch)?,
            user: image.user,
            resolver: spec.network == Network::Host,
            keeps: spec.keeps_written,
            is_strange: spec.stranger.is_some(),
            users: None,
            owners: spec
                .owners
                .iter()
                .map(|owned| Ok((text(&owned.path)?, owned.uid, owned.gid)))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Hides what is at `path`.
pub(super) fn cover(path: &Path, size_bytes: u64) -> Result<MountOrder, NulError> {
    mount_order(&Mount::Tmpfs {
        to: path.to_owned(),
        size_bytes,
    })
}

/// [`Mount`] as the kernel takes it.
pub(super) fn mount_order(mount: &Mount) -> Result<MountOrder, NulError> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    Ok(match mount {
        Mount::Bind { from, to, read_only } => MountOrder::Bind {
            from: text(from)?,
            to: text(to)?,
            read_only: *read_only,
        },
        Mount::Tmpfs { to, size_bytes } => MountOrder::Tmpfs {
            to: text(to)?,
            size_bytes: *size_bytes,
        },
    })
}

/// Caller to shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Run the [`Request`] in the first file that comes along.
    Run,
    /// Run the [`Request`] in the first file that comes along, whose program then waits for the machine that it is to be.
    StandBy,
    /// The program that stands by becomes the machine of the [`Request`] in the first file that comes along, as [`Order::Run`] has
    /// it; its namespaces and its program stay.
    Assign,
    /// The machine may outlive the caller from now on.
    Release,
    /// Kill whatever runs in the machine.
    Kill,
}

/// Shim to caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The first program has been executed; a descriptor of its process comes along.
    Started { pid: u32 },
    /// The first program, of which [`Report::Started`] told, waits for the machine that it is to be.
    StandingBy,
    /// The caller has proved that the machine is its own; a descriptor of its first process comes along, and the outer
    /// end of the link where there is one.
    Attached,
    /// It could not be executed; nothing is left.
    Failed(Fault),
    /// The machine has ended; nothing is left.
    Exited(Exit),
}

/// A step on the way to a running machine that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What was being done.
    pub step: Step,
    /// To what: a path, a number; empty where the step says it all.
    pub subject: String,
    /// The kernel's answer.
    pub errno: i32,
}

/// Steps on the way to a running machine, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The shim reads what it is to run.
    Request,
    /// The control groups are entered.
    Cgroup,
    /// What limits each process is set.
    Limits,
    /// What finds the machine again is written down.
    Record,
    /// The namespaces are made.
    Namespaces,
    /// The machine is tied to the life of its supervisor.
    Leash,
    /// The caller's user and group are mapped into the machine.
    Users,
    /// The directory for what a machine with an image writes is made or emptied.
    Scratch,
    /// The files of its image are put together.
    Root,
    /// The file system of the machine is put together.
    Mounts,
    /// The process file system is mounted.
    Proc,
    /// The loopback interface is brought up.
    Loopback,
    /// The working directory is entered.
    Cwd,
    /// Open files get their numbers.
    Files,
    /// What a stranger's program must not have is taken from it.
    Confine,
    /// The first program is executed.
    Exec,
    /// A program that stood by becomes the machine's first.
    Assign,
}

impl Fault {
    /// `step` on `subject` failed with `error`.
    pub(super) fn new(step: Step, subject: impl Into<String>, error: &io::Error) -> Self {
        Self {
            step,
            subject: subject.into(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// The kernel's answer as an error.
    #[must_use]
    pub fn cause(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    /// What to do about it; empty where the fault speaks for itself.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match (self.step, self.errno) {
            (Step::Namespaces, libc::ENOSPC) => "raise `sysctl user.max_user_namespaces` and its siblings",
            (Step::Namespaces, libc::EINVAL | libc::ENOSYS) => "this kernel was built without namespaces",
            (
                Step::Namespaces | Step::Users | Step::Mounts | Step::Proc | Step::Loopback,
                libc::EPERM | libc::EACCES,
            ) => refusal_hint(self.step),
            (Step::Root, libc::ENODEV | libc::EPERM | libc::EINVAL | libc::EOPNOTSUPP) => {
                "overlayfs cannot be mounted here: `modprobe overlay`, Linux 5.11 or newer where not root, a scratch directory that does not lie on overlayfs itself"
            }
            (Step::Root | Step::Scratch, libc::ENOSPC) => "the disk is full",
            (Step::Record, libc::ENOSPC) => "the disk is full",
            (Step::Limits, libc::EPERM) => "the caller itself is limited to less",
            (Step::Cgroup, _) => "run under a delegated control group (systemd: Delegate=yes)",
            (Step::Exec, libc::ENOENT) if Path::new(&self.subject).exists() => {
                "the program exists, but the interpreter or loader that it names does not"
            }
            (Step::Exec, libc::ENOENT) => {
                "there is no such program; give an absolute path that exists in the machine"
            }
            (Step::Exec, libc::EACCES) => {
                "the file is not executable, or lies on a file system mounted noexec"
            }
            (Step::Exec, libc::ENOEXEC) => {
                "the file is not a program for this processor; scripts need a first line `#!…`"
            }
            (Step::Cwd, libc::ENOENT) => "the working directory does not exist in the machine",
            (Step::Mounts, libc::ENOENT) => "the source does not exist, or the target not even in part",
            (Step::Files, libc::EBADF | libc::EMFILE) => "raise the limit on open files (`ulimit -n`)",
            _ => "",
        }
    }
}

/// Which of the usual locks on user namespaces is shut on this host.
fn refusal_hint(step: Step) -> &'static str {
    let is = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts user namespaces: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or a profile with `userns,`"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "`sysctl kernel.unprivileged_userns_clone=1` allows them"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "`sysctl user.max_user_namespaces=10000` allows them"
    } else if step == Step::Proc {
        "a container hides parts of /proc; run it with an unmasked /proc (podman: --security-opt unmask=ALL)"
    } else {
        "a seccomp filter or security module of the surrounding container refuses; run it with fewer restrictions"
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "cannot read the machine's specification",
            Self::Cgroup => "cannot use the control group",
            Self::Limits => "cannot limit",
            Self::Record => "cannot write down how to find the machine again",
            Self::Namespaces => "cannot make namespaces",
            Self::Leash => "cannot tie the machine to its supervisor",
            Self::Users => "cannot map users",
            Self::Scratch => "cannot use the directory for what the machine writes",
            Self::Root => "cannot put the image's files together at",
            Self::Mounts => "cannot mount",
            Self::Proc => "cannot mount /proc",
            Self::Loopback => "cannot bring the loopback interface up",
            Self::Cwd => "cannot enter directory",
            Self::Files => "cannot pass on open file",
            Self::Confine => "cannot take from the program what a stranger must not have",
            Self::Exec => "cannot execute",
            Self::Assign => "cannot make the machine of a program that stood by",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        match self.hint() {
            "" => Ok(()),
            hint => write!(f, " ({hint})"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        let step = match failed.part {
            Part::Mounts => Step::Mounts,
            Part::Proc => Step::Proc,
            Part::Cwd => Step::Cwd,
            Part::Files => Step::Files,
            Part::Limits => Step::Limits,
            Part::Environment => Step::Assign,
        };
        Self::new(step, failed.subject, &failed.error)
    }
}

impl Request {
    /// The request as a file in memory, ready to be read from its start.
    pub(super) fn seal(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"machine", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// Reads what [`Self::seal`] wrote, refusing what is too long.
    pub(super) fn open(file: OwnedFd) -> io::Result<Self> {
        let mut bytes = Vec::new();
        File::from(file).take(REQUEST_BYTES + 1).read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() as u64 > REQUEST_BYTES {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// One message as bytes.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(message)?)
}

/// One message from bytes.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Body for fuzzing: whatever the bytes, each decoder answers, and what it accepts survives a round trip.
#[cfg(test)]
fn fuzz(bytes: &[u8]) {
    if let Ok(request) = Request::parse(bytes) {
        assert_eq!(Request::open(request.seal().unwrap()).unwrap(), request);
    }
    if let Ok(report) = decode::<Report>(bytes) {
        assert_eq!(decode::<Report>(&encode(&report).unwrap()).unwrap(), report);
    }
    let _ = decode::<Order>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use suijuris_guest::assignment::Rlimit;

    fn request() -> Request {
        Request {
            root: Some(RootOrder {
                layers: vec![c"/l".to_owned()],
                overlay: true,
                scratch: c"/s".to_owned(),
                user: (0, 7),
                resolver: true,
                keeps: true,
                is_strange: true,
                users: None,
                owners: vec![(c"srv".to_owned(), 33, 33)],
            }),
            exe: Some(c"/bin/true".to_owned()),
            assignment: Assignment {
                argv: vec![c"\xff".to_owned(), c"".to_owned()],
                env: vec![c"A=b=c".to_owned()],
                cwd: c"/".to_owned(),
                numbers: vec![3, 9],
                mounts: vec![MountOrder::Tmpfs {
                    to: c"/run".to_owned(),
                    size_bytes: 1,
                }],
                hidden: vec![c"/srv/keys".to_owned()],
                kept: Vec::new(),
                is_apart: true,
                may_mount: true,
                rlimits: vec![(Rlimit::OpenFiles, 64)],
            },
            namespaces: Some(Namespaces {
                user: true,
                network: false,
            }),
            joins: 0,
            stranger: Some(Account {
                uid: 1,
                gid: 2,
                groups: vec![3],
            }),
            groups: Vec::new(),
            detached: Some(Detached {
                id: "web-1".parse().unwrap(),
                nonce: [1; 32],
                secret: [2; 32],
                has_link: true,
                pipes: 2,
                limits: Vec::new(),
            }),
        }
    }

    #[test]
    fn requests_survive_the_file() {
        assert_eq!(Request::open(request().seal().unwrap()).unwrap(), request());
    }

    #[test]
    fn an_oversize_request_is_refused() {
        let mut large = request();
        large.assignment.argv = vec![CString::new(vec![b'x'; 4 << 20]).unwrap()];
        assert!(Request::open(large.seal().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn decoders_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            fuzz(&bytes);
        }

        #[test]
        fn damaged_requests_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = serde_json::to_vec(&request()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            fuzz(&bytes);
        }
    }
}
