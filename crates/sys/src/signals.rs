//! Signals by number, real-time ones included, their default effects, and where they come from.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{checked, descriptors};

/// Sends signal `number`; `pid` as in kill(2): negative for a process group.
///
/// # Errors
/// When there is nobody to send it to, or the kernel refuses.
pub fn kill(pid: i32, number: i32) -> io::Result<()> {
    // SAFETY: takes two integers and touches no memory of ours.
    checked(unsafe { libc::kill(pid, number) }.into()).map(drop)
}

/// Gives every signal its default effect again, which exec does not do for ignored ones. Safe between fork and exec.
pub fn default_all() {
    // `struct sigaction` of the kernel, whose zero is SIG_DFL without flags. The C library would refuse to
    // touch the two signals that it uses itself, which a caller's parent may have left ignored.
    let default = [0_u64; 4];
    let (no_old, mask_bytes) = (std::ptr::null::<u64>(), size_of::<u64>());
    for number in 1..=64 {
        // SAFETY: default outlives the call and is at least as long as the kernel's structure; no code is
        // installed; numbers that cannot be changed are refused without effect.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                &raw const default,
                no_old,
                mask_bytes,
            )
        };
    }
}

/// Whether this process ignores signal `number`, as under nohup.
#[must_use]
pub fn is_ignored(number: i32) -> bool {
    // SAFETY: `struct sigaction` is plain data, for which zero is a value.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is installed, and what is in force is written to a live structure.
    let asked = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut now) };
    asked == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Blocks no signal any more. Safe between fork and exec.
///
/// # Errors
/// Never, on a kernel that works.
pub fn unblock_all() -> io::Result<()> {
    // SAFETY: a zeroed `sigset_t` is storage for sigemptyset, which makes it a value.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to a live set; the old one is not wanted.
    let result = unsafe {
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    checked(result.into()).map(drop)
}

/// Signals that come from outside this process's process namespace; the same ones from inside have no effect.
#[derive(Debug)]
pub struct FromOutside(AsyncFd<OwnedFd>);

/// Size of `struct signalfd_siginfo`.
const ARRIVED_BYTES: usize = 128;

impl FromOutside {
    /// Takes these signals over, for all threads that are started from now on; to be called within a tokio runtime by the
    /// first process of a namespace, while it has one thread.
    ///
    /// # Errors
    /// When no descriptor can be had.
    pub fn new(taken: &[Signal]) -> io::Result<Self> {
        let set: SigSet = taken.iter().copied().collect();
        set.thread_block()?;
        let arriving = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        descriptors::watch(arriving.into(), Interest::READABLE).map(Self)
    }

    /// The number of the next one.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<i32> {
        loop {
            let Ok(mut guard) = ready!(self.0.poll_read_ready(context)) else {
                // The event loop is shutting down.
                return Poll::Pending;
            };
            let mut bytes = [0; ARRIVED_BYTES];
            match descriptors::read(self.0.get_ref().as_fd(), &mut bytes) {
                Ok(ARRIVED_BYTES) => {
                    if let Some(number) = outside(&bytes) {
                        return Poll::Ready(number);
                    }
                }
                _ => guard.clear_ready(),
            }
        }
    }
}

/// The number of a signal whose sender has no number here. Who is inside can make up a sender, but then not say that
/// the signal came by kill(2), whose code is zero.
fn outside(bytes: &[u8; ARRIVED_BYTES]) -> Option<i32> {
    let [number, _errno, code, sender] = [0, 4, 8, 12].map(|at| {
        let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
        field.map_or(0, i32::from_ne_bytes)
    });
    ((code == libc::SI_USER || code == libc::SI_KERNEL) && sender == 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_with_a_number_is_inside() {
        let arrived = |code: i32, sender: i32| {
            let mut bytes = [0; ARRIVED_BYTES];
            bytes[..4].copy_from_slice(&15_i32.to_ne_bytes());
            bytes[8..12].copy_from_slice(&code.to_ne_bytes());
            bytes[12..16].copy_from_slice(&sender.to_ne_bytes());
            outside(&bytes)
        };
        assert_eq!(arrived(libc::SI_USER, 0), Some(15));
        assert_eq!(arrived(libc::SI_USER, 7), None);
        assert_eq!(arrived(libc::SI_QUEUE, 0), None);
        assert_eq!(arrived(libc::SI_TKILL, 0), None);
    }
}
