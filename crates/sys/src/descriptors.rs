//! Descriptors: watched by tokio, copied above a number, taken over from whoever started this process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{checked, owned};

/// Lets tasks wait until `fd` is ready; to be called within a tokio runtime. What is read or written must be in
/// non-blocking mode.
///
/// # Errors
/// When the descriptor cannot be watched.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and the `AsyncFd` owns it: nothing
    // here takes it out or hands out more than a borrow.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// An owned copy of `file` with a number of at least `least`, closed on exec.
///
/// # Errors
/// When no more descriptors can be had.
pub fn copy_above(file: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let number = checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) }.into())?;
    owned(number)
}

/// Takes an inherited descriptor over; `None` where the number is not open.
#[must_use]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: `fcntl` with `F_SETFD` takes a number, open or not, and touches no memory.
    let open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: the number is open, was given to this process by whoever started it, and is taken over once, at boot.
    (number > 2 && open).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `number` a copy of `file` that an exec passes on; what was open there is closed. For numbers that nothing in this process has
/// taken over.
///
/// # Errors
/// When no descriptor may have such a number, or `file` itself has it.
pub fn place(file: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if file.as_raw_fd() == number {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: passes no memory, and by the contract nobody owns what is closed.
    checked(unsafe { libc::dup2(file.as_raw_fd(), number) }.into()).map(drop)
}

/// Closes `number`, as [`place`] does, and opens nothing there.
pub fn vacate(number: RawFd) {
    // SAFETY: as for `place`.
    let _ = unsafe { libc::close(number) };
}

/// Whether descriptors can be sent over this one.
#[must_use]
pub fn is_unix_socket(fd: BorrowedFd<'_>) -> bool {
    let name = getsockname::<SockaddrStorage>(fd.as_raw_fd());
    name.is_ok_and(|name| name.family() == Some(AddressFamily::Unix))
}

/// Lets reads and writes of `fd` return at once, for every process that shares it.
///
/// # Errors
/// When the descriptor takes no such setting.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Reads what there is; 0 at the end.
///
/// # Errors
/// `WouldBlock` where there is nothing yet.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::unistd::read(fd, buffer)?)
}

/// Writes some of `bytes`.
///
/// # Errors
/// `WouldBlock` where nothing is taken yet.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(nix::unistd::write(fd, bytes)?)
}

/// An empty file that nothing can be read from and whose writes vanish.
///
/// # Errors
/// When the system has no `/dev/null`.
pub fn null() -> io::Result<OwnedFd> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
}

/// Whether `fd` has urgent news, as a list of mounts has once what is mounted has changed since it was opened or asked last.
///
/// # Errors
/// When the kernel has no memory for it.
pub fn poll_urgent(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut asked = [PollFd::new(fd, PollFlags::POLLPRI)];
    nix::poll::poll(&mut asked, PollTimeout::ZERO)?;
    let news = asked.first().and_then(PollFd::revents);
    Ok(news.is_none_or(|news| news.intersects(PollFlags::POLLPRI | PollFlags::POLLERR)))
}

/// Waits until `fds` have something to read or their peer is gone, at most `limit_ms` (-1: no limit).
///
/// # Errors
/// When the kernel has no memory for it.
pub fn poll(fds: &[BorrowedFd<'_>], limit_ms: i32) -> io::Result<Vec<bool>> {
    let mut asked: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    let limit = PollTimeout::try_from(limit_ms).map_err(io::Error::other)?;
    match nix::poll::poll(&mut asked, limit) {
        Ok(_) => Ok(asked.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
        Err(Errno::EINTR) => Ok(vec![false; fds.len()]),
        Err(errno) => Err(errno.into()),
    }
}
