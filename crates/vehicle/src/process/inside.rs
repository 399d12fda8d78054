//! From a fresh fork to the machine's first program: runs in the child that is to become it.
//!
//! The shim is single-threaded, so this is ordinary code; whatever fails is a [`Fault`] which the shim
//! passes on to the caller.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt as _};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{AccessFlags, Gid, Uid, access};

use super::stranger;
use super::wire::{Fault, Namespaces, Request, Step};
use suijuris_guest::mounts;
use suijuris_sys::{confine, descriptors, fork, mounts as loopback, signals};

/// What the child needs from the time before the fork.
pub(super) struct Birth {
    /// Gives a byte when the machine may act.
    pub(super) go: OwnedFd,
    /// Member lists of the version 1 control groups to enter.
    pub(super) members: Vec<File>,
    /// What becomes files 1 and 2, then the others in the order of the request's numbers.
    pub(super) files: Vec<OwnedFd>,
    /// The user and group of the caller, which a new user namespace hides until they are mapped.
    pub(super) user: Uid,
    /// See `user`.
    pub(super) group: Gid,
}

/// Becomes the machine's first program, or ends. `pipe` is read by the shim alone: it carries the [`Fault`],
/// or closes with the exec.
pub(super) fn enter(request: &Request, birth: Birth, pipe: BorrowedFd<'_>) -> ! {
    // Above all the numbers that the machine's files get, so that it cannot be hit by one of them.
    let above = request
        .assignment
        .numbers
        .iter()
        .copied()
        .max()
        .unwrap_or(2)
        .max(2)
        + 1;
    let fault = match descriptors::copy_above(pipe, above) {
        Ok(pipe) => {
            let Err(fault) = become_first(request, birth, pipe.as_fd(), above);
            report(pipe.as_fd(), &fault);
            fork::exit_now(EXIT_FAULT)
        }
        Err(error) => Fault::new(Step::Files, above.to_string(), &error),
    };
    report(pipe, &fault);
    fork::exit_now(EXIT_FAULT)
}

fn become_first(
    request: &Request,
    mut birth: Birth,
    pipe: BorrowedFd<'_>,
    above: i32,
) -> Result<Infallible, Fault> {
    for members in &mut birth.members {
        members
            .write_all(b"0")
            .map_err(|error| Fault::new(Step::Cgroup, "", &error))?;
    }
    leash(pipe)?;
    wait_for(&birth.go)?;
    if let Some(namespaces) = request.namespaces {
        move_in(namespaces, request, &birth)?;
    }
    request.assignment.enter_directory()?;
    signals::default_all();
    let session = SigSet::empty()
        .thread_set_mask()
        .and_then(|()| nix::unistd::setsid());
    session.map_err(|errno| Fault::new(Step::Leash, "", &errno.into()))?;
    let Some(exe) = &request.exe else {
        fork::exit_now(0)
    };
    let exe = &look_up(exe, &request.assignment.env);
    let files = above_targets(&birth.files, &request.assignment.numbers, above)?;
    // Root keeps what it has through an exec; whoever is mapped into the machine under another number does not.
    if request.assignment.may_mount && request.namespaces.is_some_and(|namespaces| namespaces.user) {
        confine::pass_on_mounting().map_err(|error| Fault::new(Step::Mounts, "", &error))?;
    }
    request.assignment.limit()?;
    if let Some(account) = &request.stranger {
        stranger::become_child(account, has_one_user(request))?;
    }
    fork::execute(
        &files,
        (exe, &request.assignment.argv, &request.assignment.env),
        |number, error| {
            let fault = match number {
                Some(number) => Fault::new(Step::Files, number.to_string(), &error),
                None => Fault::new(Step::Exec, text(exe), &error),
            };
            report(pipe, &fault);
        },
    )
}

/// Dies with the shim, also when it died before this took effect.
fn leash(pipe: BorrowedFd<'_>) -> Result<(), Fault> {
    let fault = |error: io::Error| Fault::new(Step::Leash, "", &error);
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| fault(errno.into()))?;
    // Nobody else has the other end: an event on it means that the shim is gone.
    let alone = descriptors::poll(&[pipe], 0).map_err(fault)?;
    if alone.contains(&true) {
        Err(fault(io::Error::from_raw_os_error(libc::EPIPE)))
    } else {
        Ok(())
    }
}

/// Waits until the shim has written down what must be known of the machine before it acts.
fn wait_for(go: &OwnedFd) -> Result<(), Fault> {
    match nix::unistd::read(go, &mut [0]) {
        Ok(length) if length > 0 => Ok(()),
        // The shim is gone, and with it whoever could hear this.
        _ => Err(Fault::new(Step::Leash, "", &io::ErrorKind::BrokenPipe.into())),
    }
}

fn move_in(namespaces: Namespaces, request: &Request, birth: &Birth) -> Result<(), Fault> {
    match has_one_user(request) {
        true => map_users(birth, request.root.as_ref().map(|root| root.user))?,
        // Mapped from outside. The caller's own further groups are none of the machine's.
        false if namespaces.user => nix::unistd::setgroups(&[])
            .map_err(|errno| Fault::new(Step::Users, "setgroups", &errno.into()))?,
        false => {}
    }
    match &request.root {
        Some(root) => super::root::enter(root, &request.assignment.mounts, namespaces.user)?,
        None => {
            mounts::own()?;
            request.assignment.assemble_view()?;
        }
    }
    if namespaces.network {
        loopback::loopback_up().map_err(|error| Fault::new(Step::Loopback, "", &error))?;
    }
    Ok(())
}

/// Whether there is no other user in the machine than the caller.
fn has_one_user(request: &Request) -> bool {
    let users = request.root.as_ref().and_then(|root| root.users.as_ref());
    request.namespaces.is_some_and(|namespaces| namespaces.user) && users.is_none()
}

/// The caller keeps its own number inside, not 0: files stay its own, programs that refuse to run as root
/// run, and the machine keeps no privilege over its namespaces after exec unless it was asked for.
///
/// In an image it has the number that the image asks for.
fn map_users(birth: &Birth, within: Option<(u32, u32)>) -> Result<(), Fault> {
    let (user, group) = (birth.user, birth.group);
    let (as_user, as_group) = within.unwrap_or((user.as_raw(), group.as_raw()));
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{as_user} {user} 1")),
        ("/proc/self/gid_map", format!("{as_group} {group} 1")),
    ];
    for (path, map) in maps {
        fs::write(path, map).map_err(|error| Fault::new(Step::Users, path, &error))?;
    }
    Ok(())
}

/// The program of a name without `/`, in the first directory of `PATH` that has it; the name itself where none has.
pub(super) fn look_up(exe: &CString, env: &[CString]) -> CString {
    if exe.as_bytes().contains(&b'/') {
        return exe.clone();
    }
    let path = env
        .iter()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
    let path = OsStr::from_bytes(path.unwrap_or(DEFAULT_PATH));
    let name = OsStr::from_bytes(exe.as_bytes());
    let mut found = std::env::split_paths(path).map(|directory| directory.join(name));
    let found = found.find(|file| access(file, AccessFlags::X_OK).is_ok() && file.is_file());
    found
        .and_then(|file| CString::new(file.into_os_string().into_vec()).ok())
        .unwrap_or_else(|| exe.clone())
}

/// Copies of `files` above the numbers they are to get, so that placing one never closes another.
fn above_targets(files: &[OwnedFd], numbers: &[i32], above: i32) -> Result<Vec<(OwnedFd, i32)>, Fault> {
    let null = descriptors::null().map_err(|error| Fault::new(Step::Files, "0", &error))?;
    let numbers = [0, 1, 2].into_iter().chain(numbers.iter().copied());
    let place = |(file, number): (&OwnedFd, i32)| match descriptors::copy_above(file.as_fd(), above) {
        Ok(copy) => Ok((copy, number)),
        Err(error) => Err(Fault::new(Step::Files, number.to_string(), &error)),
    };
    [&null].into_iter().chain(files).zip(numbers).map(place).collect()
}

/// Where programs are looked up without a `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Exit code of a child that never became the machine; seen by the shim alone.
const EXIT_FAULT: i32 = 127;

fn report(pipe: BorrowedFd<'_>, fault: &Fault) {
    // When even this fails the shim still sees the pipe close and the process end.
    if let Ok(bytes) = super::wire::encode(fault) {
        let _ = nix::unistd::write(pipe, &bytes);
    }
}

fn text(path: &CString) -> String {
    OsStr::from_bytes(path.as_bytes()).to_string_lossy().into_owned()
}
