//! Memory whose pages another process brings when they are first touched (`userfaultfd`). Called by `vehicle`, whose driver brings
//! the pages of a machine that was suspended, and by its tests.
//!
//! Layouts and numbers are those of `linux/userfaultfd.h`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use crate::{checked, owned};

/// Bytes of a page.
pub const PAGE: usize = 4096;

const API: u64 = 0xaa;
/// That memory was given back is told, too.
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;

/// `_IOWR(0xaa, number, size)`.
const fn request(number: u64, size: u64) -> u64 {
    (3 << 30) | (size << 16) | (API << 8) | number
}

const UFFDIO_API: u64 = request(0x3f, 24);
const UFFDIO_REGISTER: u64 = request(0x00, 32);
const UFFDIO_COPY: u64 = request(0x03, 40);
const UFFDIO_ZEROPAGE: u64 = request(0x04, 32);

/// What happened in the memory of the other process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The page at this address is missing, and whoever touched it waits.
    Missing(u64),
    /// These addresses, from and up to, were given back: they hold nothing any more.
    Removed(u64, u64),
    /// Something that was not asked for.
    Other(u8),
}

/// The end of whoever brings pages.
#[derive(Debug)]
pub struct Faults(OwnedFd);

impl From<OwnedFd> for Faults {
    /// A descriptor that whoever has the memory sent.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for Faults {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Faults {
    /// The next thing that happened; none where nothing has.
    ///
    /// # Errors
    /// The kernel's answer; `InvalidData` where the descriptor is something else.
    pub fn next(&self) -> io::Result<Option<Event>> {
        let mut message = [0_u8; 32];
        match nix::unistd::read(&self.0, &mut message) {
            Ok(32) => {}
            // The memory is gone, with whoever had it.
            Ok(0) | Err(nix::Error::EAGAIN) => return Ok(None),
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(errno) => return Err(errno.into()),
        }
        let [kind, _, _, _, _, _, _, _, rest @ ..] = message;
        let number = |at: usize| {
            let bytes = rest.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        Ok(Some(match kind {
            EVENT_PAGEFAULT => Event::Missing(number(8)),
            EVENT_REMOVE => Event::Removed(number(0), number(8)),
            other => Event::Other(other),
        }))
    }

    /// Puts `page` at `address`, the beginning of a page of the other process, and lets whoever waits for it go on.
    ///
    /// # Errors
    /// The kernel's answer: `AlreadyExists` where the page is there, `WouldBlock` while the memory's owner changes what is mapped.
    pub fn bring(&self, address: u64, page: &[u8; PAGE]) -> io::Result<()> {
        let mut copy = [address, page.as_ptr().addr() as u64, PAGE as u64, 0, 0];
        self.ask(UFFDIO_COPY, &mut copy)
    }

    /// As [`Self::bring`], a page of zeros.
    ///
    /// # Errors
    /// As there.
    pub fn bring_zeros(&self, address: u64) -> io::Result<()> {
        let mut zeros = [address, PAGE as u64, 0, 0];
        self.ask(UFFDIO_ZEROPAGE, &mut zeros)
    }

    fn ask<const N: usize>(&self, request: u64, argument: &mut [u64; N]) -> io::Result<()> {
        // SAFETY: the argument is as large as the request's number says, which the kernel reads and writes during the call; where it
        // names memory of ours, that outlives the call and is only read.
        let asked = unsafe {
            libc::syscall(
                libc::SYS_ioctl,
                self.0.as_raw_fd(),
                request,
                argument.as_mut_ptr(),
            )
        };
        checked(asked).map(drop)
    }
}

/// By the system call, or by the device where only that is allowed.
fn descriptor() -> io::Result<OwnedFd> {
    /// `USERFAULTFD_IOC_NEW`.
    const NEW: u64 = 0xaa00;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: takes an integer.
    match checked(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) }) {
        Ok(descriptor) => return owned(descriptor),
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        Err(_denied) => {}
    }
    let device = File::options().read(true).write(true).open("/dev/userfaultfd")?;
    // SAFETY: this request takes an integer.
    owned(checked(unsafe {
        libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), NEW, flags)
    })?)
}

/// Memory whose pages come from whoever is given a copy of its [`Faults`].
#[derive(Debug)]
pub struct Region {
    start: NonNull<libc::c_void>,
    size: usize,
    faults: Faults,
}

// SAFETY: the memory is this value's own, and is only read.
unsafe impl Send for Region {}

impl Region {
    /// Memory of `size` bytes, a number of pages, with nothing in it.
    ///
    /// # Errors
    /// The kernel's answer: `PermissionDenied` where this user may not (`vm.unprivileged_userfaultfd`, `/dev/userfaultfd`).
    pub fn new(size: usize) -> io::Result<Self> {
        let faults = Faults(descriptor()?);
        faults.ask(UFFDIO_API, &mut [API, FEATURE_EVENT_REMOVE, 0])?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, kind, -1, 0) };
        let start = NonNull::new(start).filter(|start| start.as_ptr() != libc::MAP_FAILED);
        let region = Self {
            start: start.ok_or_else(io::Error::last_os_error)?,
            size,
            faults,
        };
        let mut register = [region.address(), size as u64, REGISTER_MODE_MISSING, 0];
        region.faults.ask(UFFDIO_REGISTER, &mut register)?;
        Ok(region)
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    /// What brings its pages, to be sent to whoever does.
    #[must_use]
    pub fn faults(&self) -> BorrowedFd<'_> {
        self.faults.as_fd()
    }

    /// The byte at `offset`; none behind its end. Waits for as long as nobody brings the page.
    #[must_use]
    pub fn byte(&self, offset: usize) -> Option<u8> {
        // SAFETY: within the mapping, which lives as long as this, and which the kernel fills before the read returns. Volatile: others
        // write to it.
        (offset < self.size).then(|| unsafe { self.start.cast::<u8>().add(offset).read_volatile() })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this size, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::poll;

    /// None where this user may not, which is said.
    fn region(size: usize) -> Option<Region> {
        match Region::new(size) {
            Ok(region) => Some(region),
            Err(error) => {
                assert!(!nix::unistd::geteuid().is_root(), "{error}");
                None
            }
        }
    }

    #[test]
    fn pages_are_brought_when_they_are_touched() {
        let Some(region) = region(4 * PAGE) else { return };
        let faults = Faults(region.faults().try_clone_to_owned().unwrap());
        assert_eq!(faults.next().unwrap(), None);
        let address = region.address();
        let reader = std::thread::spawn(move || {
            let bytes = [0, 1, 2 * PAGE + 7, 4 * PAGE].map(|offset| region.byte(offset));
            (bytes, region)
        });
        let missing = || loop {
            poll(&[faults.as_fd()], -1).unwrap();
            if let Some(event) = faults.next().unwrap() {
                return event;
            }
        };
        assert_eq!(missing(), Event::Missing(address));
        faults.bring(address, &[7; PAGE]).unwrap();
        let third = address + 2 * PAGE as u64;
        assert_eq!(missing(), Event::Missing(third));
        faults.bring_zeros(third).unwrap();
        let (bytes, region) = reader.join().unwrap();
        assert_eq!(bytes, [Some(7), Some(7), Some(0), None]);
        let again = faults.bring(address, &[8; PAGE]).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        drop(region);
        let gone = faults.bring(third, &[8; PAGE]);
        assert!(gone.is_err(), "nothing is written where nothing is mapped");
    }
}
