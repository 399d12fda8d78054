//! Users of an image where the caller is an ordinary user: numbers that an administrator gave that user (`/etc/subuid`,
//! `/etc/subgid`), mapped by `newuidmap` and `newgidmap`. Without them a machine has one user.
//!
//! The caller is the image's user in the machine, so that the image's files, the volume and the runtime are whose they would be
//! without; all other users of the image are subordinate numbers outside. What those leave on the host no ordinary user could read or remove:
//! it is given back to the caller when the machine has ended, by a child in a namespace of the same users.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, User, fchown, fchownat};
use rustix::fs::Dir;
use serde::{Deserialize, Serialize};
use suijuris_sys::fork::{self, Fork};

use super::Shim;
use super::scratch::remove_strange;
use super::wire::{Fault, Step};

/// Where the two programs are looked for.
const PLACES: [&str; 5] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"];

/// Directories within each other in which owners are looked at.
const DEEPEST: usize = 500;

/// What tells the shim that it is to remove a directory; behind it comes its path.
const REMOVE: &str = "remove-strange";

/// What tells the shim that it is to map users, for nothing.
const TRY: &str = "try-users";

/// Numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    first: u32,
    count: u32,
}

/// Subordinate users and groups, and what maps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subordinate {
    users: Vec<Range>,
    groups: Vec<Range>,
    map_users: PathBuf,
    map_groups: PathBuf,
}

impl Subordinate {
    /// Those of this process's user.
    ///
    /// # Errors
    /// Why there are none, and what to do about it, in words.
    pub(super) fn find() -> Result<Self, String> {
        let user = Uid::effective();
        let name = User::from_uid(user).ok().flatten().map(|user| user.name);
        let name = name.unwrap_or_default();
        let of = |file: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let ranges = ranges(&text, &name, user.as_raw());
            match ranges.is_empty() {
                true => Err(format!(
                    "{file} names no numbers for this user: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}`",
                    if name.is_empty() { "USER" } else { &name }
                )),
                false => Ok(ranges),
            }
        };
        let program = |name: &str| {
            let mut all = PLACES.iter().map(|place| Path::new(place).join(name));
            all.find(|path| path.is_file())
                .ok_or_else(|| format!("{name} is not here: install it (Debian package uidmap)"))
        };
        Ok(Self {
            users: of("/etc/subuid")?,
            groups: of("/etc/subgid")?,
            map_users: program("newuidmap")?,
            map_groups: program("newgidmap")?,
        })
    }

    /// Maps users and groups of process `pid`, whose namespace for users is fresh: `own` is what this process's user and group are there.
    pub(super) fn map(&self, pid: u32, own: (u32, u32)) -> Result<(), Fault> {
        let user = (own.0, Uid::effective().as_raw());
        let group = (own.1, Gid::effective().as_raw());
        run(&self.map_users, pid, &lines(user, &self.users))?;
        run(&self.map_groups, pid, &lines(group, &self.groups))
    }

    /// Does `work` as root of a namespace with these users; for a process of one thread. Whether it was done.
    pub(super) fn as_root(&self, work: impl FnOnce() -> bool) -> io::Result<bool> {
        let (wait, go) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        match fork::fork(libc::CLONE_NEWUSER, None)? {
            Fork::Child => {
                drop(go);
                let is_mapped = matches!(nix::unistd::read(&wait, &mut [0]), Ok(1));
                fork::exit_now(i32::from(!(is_mapped && work())))
            }
            Fork::Parent { pid, .. } => {
                let mapped = self.map(pid, (0, 0));
                if mapped.is_ok() {
                    nix::unistd::write(&go, b"g")?;
                }
                drop(go);
                let ended = waitpid(Pid::from_raw(pid.cast_signed()), None)?;
                mapped.map_err(io::Error::other)?;
                Ok(matches!(ended, WaitStatus::Exited(_, 0)))
            }
        }
    }
}

/// The numbers that a file like `/etc/subuid` names for this user.
fn ranges(text: &str, name: &str, number: u32) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let whose = fields.next()?;
        let is_ours = (!name.is_empty() && whose == name) || whose == number.to_string();
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (is_ours && count > 0).then_some(Range { first, count })
    };
    text.lines().filter_map(range).collect()
}

/// What each number within is outside, and how many in a row: the caller's own `within`, and the ranges at all others from 0 on.
fn lines((within, outside): (u32, u32), ranges: &[Range]) -> Vec<[u32; 3]> {
    let (mut lines, mut next) = (vec![[within, outside, 1]], 0_u32);
    for range in ranges {
        let (mut first, mut left) = (range.first, range.count);
        while left > 0 {
            if next == within {
                next = next.saturating_add(1);
            }
            let room = match next < within {
                true => within - next,
                // The highest number is no user.
                false => (u32::MAX - 1).saturating_sub(next),
            };
            let some = left.min(room);
            if some == 0 {
                break;
            }
            lines.push([next, first, some]);
            (next, first, left) = (next + some, first.saturating_add(some), left - some);
        }
    }
    lines
}

fn run(program: &Path, pid: u32, lines: &[[u32; 3]]) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::new(Step::Users, program.display().to_string(), &error);
    let numbers = lines.iter().flatten().map(u32::to_string);
    let mut command = Command::new(program);
    command.arg(pid.to_string()).args(numbers).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let subject = format!("{}: {}", program.display(), said.trim());
    Err(Fault::new(
        Step::Users,
        subject,
        &io::Error::from_raw_os_error(libc::EINVAL),
    ))
}

/// Gives everything in a directory to the root of this namespace, who is the caller outside. What cannot be given stays.
pub(super) fn give_back(directory: &Path) {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(open) = nix::fcntl::open(directory, flags, Mode::empty()) else {
        return;
    };
    if fstat(&open).is_ok_and(|about| (about.st_uid, about.st_gid) != (0, 0)) {
        let _ = fchown(&open, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)));
    }
    give_below(&open, 0);
}

fn give_below(directory: &OwnedFd, depth: usize) {
    let Ok(entries) = Dir::read_from(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(about) = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
            continue;
        };
        if (about.st_uid, about.st_gid) != (0, 0) {
            let root = (Some(Uid::from_raw(0)), Some(Gid::from_raw(0)));
            let _ = fchownat(directory, name, root.0, root.1, AtFlags::AT_SYMLINK_NOFOLLOW);
        }
        let is_directory = about.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if is_directory
            && depth < DEEPEST
            && let Ok(inner) = nix::fcntl::openat(directory, name, flags, Mode::empty())
        {
            give_below(&inner, depth + 1);
        }
    }
}

/// Removes what users of a machine left that this process's user may not, by way of the shim.
pub(super) fn remove(shim: &Shim, directory: &Path) -> io::Result<()> {
    let mut command = Command::new(&shim.exe);
    command.args(&shim.args).arg(REMOVE).arg(directory);
    command.env_clear().current_dir("/");
    let done = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    match done.success() {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Maps users for a child that ends at once, by way of the shim.
///
/// # Errors
/// Why that is not possible here, and what to do about it.
pub(super) async fn try_out(shim: &Shim) -> Result<Subordinate, String> {
    let found = Subordinate::find()?;
    let mut command = tokio::process::Command::new(&shim.exe);
    command.args(&shim.args).arg(TRY).env_clear().current_dir("/");
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(found),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Does one of these, where this process was executed for that.
pub(super) fn main() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let word = args.by_ref().find(|arg| arg == REMOVE || arg == TRY)?;
    let found = Subordinate::find().map_err(io::Error::other);
    let done = if word == TRY {
        found.and_then(|subordinate| subordinate.as_root(|| true))
    } else {
        let directory = PathBuf::from(args.next()?);
        found.and_then(|subordinate| subordinate.as_root(|| remove_strange(&directory).is_ok()))
    };
    Some(match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = write!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_this_user_by_name_or_number() {
        let text = "ann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:x:1\nann:5:0\n# ann:1:1\n";
        let range = |first, count| Range { first, count };
        assert_eq!(
            ranges(text, "ann", 1000),
            [range(100_000, 65536), range(300_000, 10)]
        );
        assert_eq!(ranges(text, "bob", 7), [range(165_536, 65536)]);
        assert_eq!(ranges(text, "", 7), []);
    }

    #[test]
    fn the_caller_is_the_images_user_and_others_fill_the_rest() {
        let range = [Range {
            first: 100_000,
            count: 65536,
        }];
        assert_eq!(lines((0, 1000), &range), [[0, 1000, 1], [1, 100_000, 65536]]);
        assert_eq!(
            lines((33, 1000), &range),
            [[33, 1000, 1], [0, 100_000, 33], [34, 100_033, 65503]]
        );
        let two = [Range { first: 5, count: 2 }, Range { first: 50, count: 3 }];
        assert_eq!(
            lines((3, 1), &two),
            [[3, 1, 1], [0, 5, 2], [2, 50, 1], [4, 51, 2]]
        );
        assert_eq!(
            lines((70_000, 1000), &range),
            [[70_000, 1000, 1], [0, 100_000, 65536]]
        );
    }
}
