//! What the kernel says of the quality of its wall clock. Called by the runtime.

/// Whether the kernel says that the wall clock is synchronised; `None` where it does not say.
#[must_use]
pub fn is_synced() -> Option<bool> {
    // SAFETY: `timex` is plain integers, for which zero is a value; `modes` zero only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `timex`.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(timex.status & libc::STA_UNSYNC == 0)
}
