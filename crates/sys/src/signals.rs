//! Signals by number, real-time ones included, and their default effects.

use std::io;

use crate::checked;

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
