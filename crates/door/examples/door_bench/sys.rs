//! The allocator that knows how much is alive: the one place with `unsafe`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is alive and passes everything on.
pub(crate) struct Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Bytes alive, each allocation as the C library rounds it: eight bytes more, to a multiple of sixteen, 32 at least.
pub(crate) fn alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

fn chunk(size: usize) -> usize {
    ((size + 8 + 15) & !15).max(32)
}

// SAFETY: every call is passed to the system allocator unchanged, which keeps the contract of `GlobalAlloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALIVE.fetch_add(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller upholds what `alloc` asks of `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: `ptr` came from `alloc` above with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}
