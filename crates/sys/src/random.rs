//! The kernel's random numbers in a machine that goes on from a copy of its memory. Called by `guest`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use crate::checked;

/// `RNDRESEEDCRNG` of `linux/random.h`.
const RESEED: libc::c_ulong = 0x5207;

/// Mixes `seed` into the kernel's pool and lets it draw a new key from there at once: what it gave before says nothing of what
/// it gives from now on.
///
/// # Errors
/// Whoever calls is not root, or there is no such device.
pub fn reseed(seed: &[u8]) -> io::Result<()> {
    let mut pool = File::options().write(true).open("/dev/urandom")?;
    pool.write_all(seed)?;
    // SAFETY: the request takes no argument.
    checked(unsafe { libc::ioctl(pool.as_raw_fd(), RESEED as _) }.into())?;
    Ok(())
}
