//! A workload that means harm: it tries one door after the other and says which it got through.
//!
//! Every attempt is made for real and undone where it could hurt the machine that tests run on: a stopped process goes on,
//! a made file is removed. Called by tests that run themselves as a workload.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, getppid};

/// What a workload is after. It knows where everything is.
#[derive(Debug, Clone)]
pub struct Loot {
    /// Its own object's data directory.
    pub data: PathBuf,
    /// The directory with its own object's rules.
    pub object_dir: PathBuf,
    /// The data directory of another object of the same user.
    pub other: PathBuf,
    /// The owner's key.
    pub owner_key: PathBuf,
    /// The depot's directory.
    pub depot: PathBuf,
    /// The control socket of `up`.
    pub control: PathBuf,
}

impl Loot {
    /// Names of the variables that say it, in the order of the fields.
    pub const VARIABLES: [&str; 6] = [
        "LOOT_DATA",
        "LOOT_OBJECT",
        "LOOT_OTHER",
        "LOOT_KEY",
        "LOOT_DEPOT",
        "LOOT_CONTROL",
    ];

    /// As those variables say.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let [data, object_dir, other, owner_key, depot, control] =
            Self::VARIABLES.map(|name| std::env::var_os(name).map(PathBuf::from));
        Some(Self {
            data: data?,
            object_dir: object_dir?,
            other: other?,
            owner_key: owner_key?,
            depot: depot?,
            control: control?,
        })
    }
}

/// A door: its name, and an attempt that succeeds where it stands open.
type Door = (&'static str, fn(&Loot) -> io::Result<()>);

/// All doors. Those that could end the attempt come last.
const DOORS: &[Door] = &[
    ("key of the next epoch", |loot| read(&loot.data.join("next.key"))),
    ("history, read", |loot| read(&segment(&loot.data)?)),
    ("history, written", |loot| append(&segment(&loot.data)?)),
    ("secrets of the object", |loot| {
        fs::read_dir(loot.data.join("secrets")).map(drop)
    }),
    ("up and over the volume", |loot| {
        read(&loot.data.join("volume/../next.key"))
    }),
    ("the way back from the working directory", |_| {
        read(Path::new("../next.key"))
    }),
    ("key of the owner", |loot| read(&loot.owner_key)),
    ("key of another object", |loot| read(&loot.other.join("next.key"))),
    ("depot, read", |loot| read_some_directory(&loot.depot)),
    ("depot, written", |loot| make(&loot.depot.join("hostile"))),
    ("control socket", ask_control),
    ("own rules", |loot| {
        append(&loot.object_dir.join("governance.cedar"))
    }),
    ("own definition", |loot| {
        append(&loot.object_dir.join("object.toml"))
    }),
    ("a file beside the rules", |loot| {
        make(&loot.object_dir.join("hostile"))
    }),
    ("the host's settings", |_| {
        OpenOptions::new()
            .write(true)
            .open("/proc/sys/kernel/core_pattern")
            .map(drop)
    }),
    ("the host's files", |_| make(Path::new("/etc/suijuris-hostile"))),
    ("the host's groups", |_| {
        OpenOptions::new().write(true).open(group()?).map(drop)
    }),
    ("a disk of its own making", disk),
    ("memory of the runtime", |_| {
        File::open(of_parent("mem")).map(drop)
    }),
    ("environment of the runtime", |_| {
        read_to_end(&of_parent("environ"))
    }),
    ("descriptors of the runtime", |_| {
        let opened = fs::read_dir(of_parent("fd"))?.map(|entry| entry?.path().read_link().map(drop));
        opened.collect()
    }),
    ("files by way of the runtime", |loot| {
        let path = loot.data.join("next.key");
        read(&of_parent("root").join(path.strip_prefix("/").unwrap_or(&path)))
    }),
    ("memory of the runtime by a call", vm_read),
    ("uncovering by unmounting", |loot| {
        umount2(&loot.data, MntFlags::MNT_DETACH)?;
        read(&loot.data.join("next.key"))
    }),
    ("writing by remounting", |_| {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
    }),
    ("mounting elsewhere", |loot| {
        Ok(mount(
            Some(&loot.data),
            "/tmp",
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?)
    }),
    ("view of the runtime", |_| {
        let place = File::open(of_parent("ns/mnt"))?;
        Ok(setns(place, CloneFlags::CLONE_NEWNS)?)
    }),
    ("tracing the runtime", |_| {
        ptrace::attach(getppid())?;
        Ok(ptrace::detach(getppid(), None)?)
    }),
    ("a user namespace of its own", |_| {
        Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
    }),
    ("standstill of the runtime", |_| stop(getppid())),
    ("end of the runtime", |_| {
        kill(getppid(), Signal::SIGTERM)?;
        Ok(kill(getppid(), Signal::SIGINT)?)
    }),
];

/// Tries every door; a name and how it went for each, `open` or the error.
#[must_use]
pub fn try_all(loot: &Loot, without: &[String]) -> Vec<(&'static str, String)> {
    let doors = DOORS
        .iter()
        .filter(|(name, _)| !without.iter().any(|left| left == name));
    doors
        .map(|(name, attempt)| {
            let went = attempt(loot).map_or_else(|error| error.to_string(), |()| OPEN.to_owned());
            (*name, went)
        })
        .collect()
}

/// What is said of a door that was passed.
pub const OPEN: &str = "open";

fn read(path: &Path) -> io::Result<()> {
    File::open(path)?.read_exact(&mut [0])
}

fn read_to_end(path: &Path) -> io::Result<()> {
    match fs::read(path)?.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(()),
    }
}

fn append(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).open(path).map(drop)
}

fn make(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    fs::remove_file(path)
}

fn read_some_directory(path: &Path) -> io::Result<()> {
    match fs::read_dir(path)?.next() {
        Some(entry) => entry.map(drop),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn segment(data: &Path) -> io::Result<PathBuf> {
    let first = fs::read_dir(data.join("lineage"))?.next();
    Ok(first.ok_or(io::ErrorKind::NotFound)??.path())
}

/// Asks for a write in the name of whoever runs `up`, and hears an answer.
fn ask_control(loot: &Loot) -> io::Result<()> {
    let mut socket = UnixStream::connect(&loot.control)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.write_all(b"\"status\"\n{\"status\":{}}\n")?;
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer)?;
    match answer.contains("\"status\"") {
        true => Ok(()),
        false => Err(io::Error::other(answer)),
    }
}

/// The root of some hierarchy of control groups: who writes himself there has left his limits.
fn group() -> io::Result<PathBuf> {
    let places = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/memory",
    ];
    let members = places.iter().map(|place| Path::new(place).join("cgroup.procs"));
    Ok(members
        .into_iter()
        .find(|path| path.exists())
        .ok_or(io::ErrorKind::NotFound)?)
}

/// Makes a node for the host's first disk in its own volume and reads from there.
fn disk(loot: &Loot) -> io::Result<()> {
    let disks = [
        "/sys/block/vda/dev",
        "/sys/block/sda/dev",
        "/sys/block/nvme0n1/dev",
    ];
    let text = disks.iter().find_map(|path| fs::read_to_string(path).ok());
    let text = text.ok_or(io::ErrorKind::NotFound)?;
    let (major, minor) = text.trim().split_once(':').ok_or(io::ErrorKind::InvalidData)?;
    let number = |text: &str| {
        text.parse()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    let node = loot.data.join("volume/disk");
    mknod(
        &node,
        SFlag::S_IFBLK,
        Mode::S_IRWXU,
        makedev(number(major)?, number(minor)?),
    )?;
    let went = File::open(&node).and_then(|disk| disk.read_at(&mut [0; 512], 0));
    fs::remove_file(&node)?;
    went.map(drop)
}

fn of_parent(name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}", getppid())).join(name)
}

fn vm_read(_: &Loot) -> io::Result<()> {
    let maps = fs::read_to_string(of_parent("maps"))?;
    let base = maps
        .split('-')
        .next()
        .and_then(|base| usize::from_str_radix(base, 16).ok());
    let base = base.ok_or(io::ErrorKind::InvalidData)?;
    let mut bytes = [0; 16];
    let from = [RemoteIoVec {
        base,
        len: bytes.len(),
    }];
    process_vm_readv(getppid(), &mut [io::IoSliceMut::new(&mut bytes)], &from)?;
    Ok(())
}

/// Stops a process and lets it go on; succeeds where it stood still.
fn stop(pid: Pid) -> io::Result<()> {
    kill(pid, Signal::SIGSTOP)?;
    let stands = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    // It takes its next step to stop.
    let stood = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(2));
        stands()
    });
    kill(pid, Signal::SIGCONT)?;
    match stood {
        true => Ok(()),
        false => Err(io::Error::other("the signal had no effect")),
    }
}

/// Leaves a process behind in a session of its own, under the name of a program that sleeps.
///
/// # Errors
/// Where it cannot be started.
pub fn leave_somebody() -> io::Result<()> {
    let mut command = std::process::Command::new("setsid");
    command.args(["sh", "-c", "trap '' TERM INT HUP; sleep 600 & wait; sleep 600"]);
    command.stdin(std::process::Stdio::null());
    command.spawn().map(drop)
}
