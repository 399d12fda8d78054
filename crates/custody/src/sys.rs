//! The system call that no safe wrapper offers; the one file of this crate with `unsafe`.
//!
//! Called by `clock`. Nothing here decides anything.

/// Whether the kernel says that the wall clock is synchronised; `None` where it does not say.
pub(crate) fn clock_synced() -> Option<bool> {
    // SAFETY: `timex` is plain integers, for which zero is a value; `modes` zero only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `timex`.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(timex.status & libc::STA_UNSYNC == 0)
}
