//! A jailer that is played: it does with its arguments and its directory what Firecracker's own does (`docs/jailer.md` of its
//! repository), as root. Run by the conformance suite.
//!
//! What it does besides: the programs that it jails here are not static, so that the host's libraries are mounted into the jail, to be
//! read. What it does not: control groups, limits, and devices that no played machine opens.

#![expect(clippy::print_stderr, reason = "a program that is played")]

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Gid, Uid, chdir, chroot, setgid, setgroups, setuid};

/// Where the libraries of programs lie that are not static.
const LIBRARIES: [&str; 3] = ["usr", "lib", "lib64"];

/// What it is told.
#[derive(Debug, Default)]
struct Arguments {
    id: String,
    exec_file: PathBuf,
    user: u32,
    group: u32,
    base: PathBuf,
    rest: Vec<String>,
}

fn main() -> ExitCode {
    let jailed = Arguments::parse(std::env::args().skip(1)).and_then(|arguments| jail(&arguments));
    let Err(error) = jailed;
    eprintln!("Jailer error: {error}");
    ExitCode::FAILURE
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Self> {
        let (mut arguments, mut given) = (Self::default(), Vec::new());
        while let Some(name) = words.next() {
            if name == "--" {
                arguments.rest = words.collect();
                break;
            }
            let value = words
                .next()
                .ok_or_else(|| refused(format!("{name} needs a value")))?;
            let number = || value.parse().map_err(|_| refused(format!("{name} {value}")));
            match name.as_str() {
                "--id" => arguments.id.clone_from(&value),
                "--exec-file" => arguments.exec_file = PathBuf::from(&value),
                "--uid" => arguments.user = number()?,
                "--gid" => arguments.group = number()?,
                "--chroot-base-dir" => arguments.base = PathBuf::from(&value),
                "--cgroup-version" if ["1", "2"].contains(&value.as_str()) => {}
                _ => return Err(refused(format!("unexpected argument {name} {value}"))),
            }
            given.push(name);
        }
        for needed in ["--id", "--exec-file", "--uid", "--gid"] {
            if !given.iter().any(|name| name == needed) {
                return Err(refused(format!("Argument '{needed}' required, but not found.")));
            }
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=64).contains(&arguments.id.len()) || !arguments.id.bytes().all(is_plain) {
            return Err(refused(format!("Invalid instance ID: {}", arguments.id)));
        }
        let name = arguments.exec_file.file_name().unwrap_or_default();
        if !name.to_string_lossy().contains("firecracker") {
            return Err(refused("the name of the executable must contain `firecracker`"));
        }
        Ok(arguments)
    }
}

fn jail(arguments: &Arguments) -> io::Result<std::convert::Infallible> {
    let name = arguments.exec_file.file_name().unwrap_or_default();
    let root = arguments.base.join(name).join(&arguments.id).join("root");
    fs::create_dir_all(&root)?;
    // A copy, so that machines share no memory of the program.
    fs::copy(&arguments.exec_file, root.join(name))?;
    let owner = (Some(arguments.user), Some(arguments.group));
    chown(&root, owner.0, owner.1)?;
    chown(root.join(name), owner.0, owner.1)?;
    fs::set_permissions(root.join(name), PermissionsExt::from_mode(0o500))?;
    fs::create_dir(root.join("dev"))?;
    // What Firecracker opens, as far as the host has it; refused where one is left of an earlier run.
    for device in ["urandom", "userfaultfd"] {
        if let Ok(about) = fs::metadata(Path::new("/dev").join(device)) {
            let (made, mode) = (root.join("dev").join(device), Mode::from_bits_truncate(0o600));
            mknod(&made, SFlag::S_IFCHR, mode, about.rdev())?;
            chown(made, owner.0, owner.1)?;
        }
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    for library in LIBRARIES {
        bind_to_read(&Path::new("/").join(library), &root.join(library))?;
    }
    chroot(&root)?;
    chdir("/")?;
    setgroups(&[])?;
    setgid(Gid::from_raw(arguments.group))?;
    setuid(Uid::from_raw(arguments.user))?;
    let exe = Path::new("/").join(name);
    let mut command = Command::new(exe);
    command.args(["--id", &arguments.id]);
    for time in ["--start-time-us", "--start-time-cpu-us", "--parent-cpu-time-us"] {
        command.args([time, "0"]);
    }
    Err(command.args(&arguments.rest).exec())
}

fn bind_to_read(from: &Path, to: &Path) -> io::Result<()> {
    let none = None::<&str>;
    fs::create_dir(to)?;
    mount(Some(from), to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    let read = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(none, to, none, read, none)?)
}
