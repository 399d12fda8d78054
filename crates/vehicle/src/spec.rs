//! How a machine is specified: plain values, built by callers of [`crate::Driver::start`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a new machine gets. Nothing else is inherited from the caller but user, groups, what [`Resources`] leaves
/// unlimited, and file mode mask.
#[derive(Debug)]
pub struct Spec {
    /// Begins the machine's id: 1 to 64 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// The file system that it begins with.
    pub root: Root,
    /// What runs first.
    pub program: Program,
    /// Arguments, the zeroth included, by which the program stands by (`suijuris_guest::standby`): started ahead, in namespaces of
    /// its own, it becomes the first program of whatever machine it is assigned to. The number of its socket is added to them. None: it
    /// cannot.
    pub stands_by: Option<Vec<OsString>>,
    /// Its whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Its working directory, absolute, as seen inside the machine.
    pub cwd: PathBuf,
    /// What is mounted over the machine's file system, in this order, visible in the machine alone.
    pub mounts: Vec<Mount>,
    /// Directories of the host that are covered by empty ones, where the machine has a file system of its own. Those that
    /// are not there are left out.
    pub hidden: Vec<PathBuf>,
    /// Directories and files that stay in view though they lie below [`Self::hidden`] ones.
    pub kept: Vec<PathBuf>,
    /// Whether the first program may mount in the machine, for what it starts in turn; everything else that it could use
    /// this for stays in the machine.
    pub may_mount: bool,
    /// Whose the first program is, where it is a stranger's: it gets this account and is confined, and a small process of ours
    /// stands before it as process 1, passes signals on and buries orphans. Only with the files of an image.
    pub stranger: Option<Account>,
    /// Whose files of the image are, where not root's; for machines in which several users are numbers of the caller's
    /// ([`crate::ImageUsers::Mapped`]), others pass over it. Files that are given away are copied first.
    pub owners: Vec<Owner>,
    /// Whether what the machine writes to its image stays in its scratch directory, for the next machine that gets it.
    pub keeps_written: bool,
    /// What the machine may use up.
    pub resources: Resources,
    /// Whether the machine shares the host's network.
    pub network: Network,
    /// The network that is the machine's own, made before it ([`crate::process::Networks::join`]); none: a fresh one. Only with
    /// [`Network::Private`], and for machines of processes.
    pub joins: Option<Place>,
    /// Whether the machine may outlive its caller.
    pub lifetime: Lifetime,
    /// Whether it begins as a copy of the machine that was frozen for its one directory ([`crate::Machine::freeze`]), instead of
    /// booting: with that one's programs and memory, whatever else is said here.
    pub frozen: bool,
    /// Where file 1 goes.
    pub stdout: Output,
    /// Where file 2 goes.
    pub stderr: Output,
    /// Open files and the numbers (3 to 1023) they get, where the vehicle passes open files. No other file but
    /// 0 (always empty), 1 and 2 is open.
    pub inherit: Vec<(OwnedFd, i32)>,
    /// Whether there is a link, and the number (3 to 1023) of the open file at which the first program finds its end
    /// (`suijuris_sys::link::Inlet`), where the vehicle passes open files; a virtual machine has a device for it.
    pub link: Option<i32>,
}

impl Spec {
    /// A machine that runs the host's `exe` in `/` with no arguments, an empty environment, the host's network, the
    /// caller's output, no limits and no link, and that ends with its caller.
    #[must_use]
    pub fn new(name: impl Into<String>, exe: impl Into<PathBuf>) -> Self {
        let exe = exe.into();
        Self {
            name: name.into(),
            root: Root::Host,
            program: Program {
                argv: vec![exe.clone().into_os_string()],
                exe,
            },
            stands_by: None,
            env: BTreeMap::new(),
            cwd: PathBuf::from("/"),
            mounts: Vec::new(),
            hidden: Vec::new(),
            kept: Vec::new(),
            may_mount: false,
            stranger: None,
            owners: Vec::new(),
            keeps_written: false,
            resources: Resources::default(),
            network: Network::Host,
            joins: None,
            lifetime: Lifetime::WithCaller,
            frozen: false,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            inherit: Vec::new(),
            link: None,
        }
    }

    /// The same once more, with copies of its open files; none where it has a network that only one machine can have.
    pub(crate) fn try_clone(&self) -> io::Result<Option<Self>> {
        if self.joins.is_some() {
            return Ok(None);
        }
        let inherit = self.inherit.iter();
        let inherit = inherit.map(|(file, number)| Ok((file.try_clone()?, *number)));
        Ok(Some(Self {
            name: self.name.clone(),
            root: self.root.clone(),
            program: self.program.clone(),
            stands_by: self.stands_by.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            mounts: self.mounts.clone(),
            hidden: self.hidden.clone(),
            kept: self.kept.clone(),
            may_mount: self.may_mount,
            stranger: self.stranger.clone(),
            owners: self.owners.clone(),
            keeps_written: self.keeps_written,
            resources: self.resources,
            network: self.network,
            joins: None,
            lifetime: self.lifetime,
            frozen: self.frozen,
            stdout: self.stdout.try_clone()?,
            stderr: self.stderr.try_clone()?,
            inherit: inherit.collect::<io::Result<_>>()?,
            link: self.link,
        }))
    }

    /// The same with further arguments.
    #[must_use]
    pub fn with_args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.program.argv.extend(args.into_iter().map(Into::into));
        self
    }
}

/// The owner of a file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Below the image's root, relative.
    pub path: PathBuf,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Whom a program runs as, by the numbers of its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups; none where the machine has namespaces for users.
    pub groups: Vec<u32>,
}

/// What a machine runs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute path, as seen inside the machine; or a name without `/`, looked up there in the `PATH` of [`Spec::env`].
    pub exe: PathBuf,
    /// Its arguments, the zeroth included. Anybody on the host can read them: nothing secret.
    pub argv: Vec<OsString>,
}

/// The file system that a machine begins with. [`Spec::mounts`] come on top of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Root {
    /// The host's.
    #[default]
    Host,
    /// That of an image, writable; what is written is gone when the machine ends. Beside it the machine has its own `/proc`,
    /// `/dev`, `/run` and `/tmp`, `/sys` read-only, with the host's network its `/etc/resolv.conf`, and nothing of the host.
    Image(ImageRoot),
}

/// The files of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRoot {
    /// What it is put together from.
    pub files: ImageFiles,
    /// Directory of the machine's own for what it writes; made where missing, emptied before the start and once the machine
    /// has ended.
    pub scratch: PathBuf,
    /// User and group that the caller's own user is in the machine, where it is the only one that there can be
    /// ([`crate::Isolation::UserNamespaces`]).
    pub user: (u32, u32),
}

/// Where the files of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageFiles {
    /// Directories of its layers, lowest first, as overlayfs takes them (`suijuris_oci::store::Root::overlay`).
    Layers(Vec<PathBuf>),
    /// One directory with all of them, for this machine alone: it writes there, and the directory goes with it.
    Copy(PathBuf),
    /// A disk with all of them, as virtual machines take it ([`crate::vm::make_root`]): each gets a copy, and the file stays.
    Disk(PathBuf),
}

/// Whether a machine may outlive whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// It ends with its handle and with its caller, however either ends.
    WithCaller,
    /// It goes on when its handle is dropped or its caller dies, and [`crate::Driver::attach`] finds it again.
    Detached,
}

/// What a machine may use up; `None` is no limit. [`crate::Machine::limits`] says what makes each hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Bytes of memory of all its processes together.
    pub memory: Option<u64>,
    /// Thousandths of one processor's time: 1500 is one and a half processors.
    pub cpu: Option<u32>,
    /// Processes and threads at one time.
    pub processes: Option<u32>,
    /// Open files of each process.
    pub open_files: Option<u32>,
}

/// The network a machine sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Its own: a loopback interface that is up, and nothing else. Inherited sockets keep working.
    Private,
    /// The host's.
    Host,
}

/// A network that was made for one machine. It is gone with the machine, or with this, where no machine took it.
#[derive(Debug)]
pub struct Place {
    /// The namespace for users that owns it; none where that is the caller's own.
    pub(crate) users: Option<OwnedFd>,
    /// Its own namespace.
    pub(crate) network: OwnedFd,
}

/// Where a machine's output goes.
#[derive(Debug)]
pub enum Output {
    /// To the caller's own.
    Inherit,
    /// Nowhere.
    Null,
    /// To whoever calls [`crate::Machine::output`]. A machine that ends with its caller waits for its reader once
    /// some 64 KiB are unread; what a detached one writes is kept in a file, the newest MiB of it.
    Lines,
    /// Into this file.
    Fd(OwnedFd),
}

impl Output {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Inherit => Self::Inherit,
            Self::Null => Self::Null,
            Self::Lines => Self::Lines,
            Self::Fd(file) => Self::Fd(file.try_clone()?),
        })
    }
}

/// Something mounted inside a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// The host's `from` (a directory or a file, with all that is mounted below it) appears at `to`.
    Bind {
        /// Absolute path on the host.
        from: PathBuf,
        /// Absolute path in the machine. Made, invisibly to the host, where its parent exists.
        to: PathBuf,
        /// Refuse writes.
        read_only: bool,
    },
    /// An empty directory in memory appears at `to`, gone when the machine ends.
    Tmpfs {
        /// Absolute path in the machine. Made, invisibly to the host, where its parent exists.
        to: PathBuf,
        /// Most bytes it can hold.
        size_bytes: u64,
    },
}
