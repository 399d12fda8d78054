//! How a machine is specified: plain values, built by callers of [`crate::Driver::start`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything a new machine gets. Nothing else is inherited from the caller but user, groups, what [`Resources`] leaves
/// unlimited, and file mode mask.
#[derive(Debug)]
pub struct Spec {
    /// Begins the machine's id: 1 to 64 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// What runs first.
    pub program: Program,
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
    /// What the machine may use up.
    pub resources: Resources,
    /// Whether the machine shares the host's network.
    pub network: Network,
    /// Whether the machine may outlive its caller.
    pub lifetime: Lifetime,
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
            program: Program::Command {
                argv: vec![exe.clone().into_os_string()],
                exe,
            },
            env: BTreeMap::new(),
            cwd: PathBuf::from("/"),
            mounts: Vec::new(),
            hidden: Vec::new(),
            kept: Vec::new(),
            may_mount: false,
            resources: Resources::default(),
            network: Network::Host,
            lifetime: Lifetime::WithCaller,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            inherit: Vec::new(),
            link: None,
        }
    }

    /// The same with further arguments.
    #[must_use]
    pub fn with_args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        let (Program::Command { argv, .. } | Program::Image { argv, .. }) = &mut self.program;
        argv.extend(args.into_iter().map(Into::into));
        self
    }
}

/// What a machine runs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program of the host.
    Command {
        /// Absolute path, as seen inside the machine.
        exe: PathBuf,
        /// Its arguments, the zeroth included. Anybody on the host can read them: nothing secret.
        argv: Vec<OsString>,
    },
    /// A program of an image.
    Image {
        /// The image's digest (`sha256:…`).
        digest: String,
        /// Arguments in place of the image's own command; the zeroth is looked up in the image. Empty: the image's own.
        argv: Vec<OsString>,
    },
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
