//! The memory of a machine that was suspended, a page at a time as the machine touches it (`Uffd`).
//!
//! Firecracker connects to a socket of ours and sends where its machine's memory lies, and the descriptor over which the kernel
//! tells of pages that are missing. A thread brings each from the file. A machine whose pages nobody brings stands still for ever:
//! whatever ends the thread before the machine ends the machine, and says why.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde::Deserialize;
use suijuris_sys::descriptors::poll;
use suijuris_sys::sockets;
use suijuris_sys::userfault::{Event, Faults, PAGE};
use tokio::sync::oneshot;

/// Bytes of what Firecracker says at most: a few regions.
const MESSAGE_BYTES: usize = 64 << 10;

/// A part of the machine's memory; what else Firecracker says of it does not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Region {
    /// Where it is in Firecracker's own memory.
    base_host_virt_addr: u64,
    size: u64,
    /// Where it is in the file.
    offset: u64,
}

/// The thread that brings the pages; it ends when this is dropped, or with Firecracker.
#[derive(Debug)]
pub(super) struct Pages {
    _stop: OwnedFd,
}

impl Pages {
    /// Waits for Firecracker at `listener`, and brings pages of the file `memory`. What comes of it comes by the receiver, whose error
    /// is that the thread has panicked.
    pub(super) fn serve(
        listener: UnixListener,
        memory: &Path,
    ) -> io::Result<(Self, oneshot::Receiver<io::Result<()>>)> {
        let memory = File::open(memory)?;
        let (stopped, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (done, outcome) = oneshot::channel();
        let serve = move || drop(done.send(serve(&listener, &memory, &stopped)));
        std::thread::Builder::new()
            .name("pages".to_owned())
            .spawn(serve)?;
        Ok((Self { _stop: stop }, outcome))
    }
}

fn serve(listener: &UnixListener, memory: &File, stopped: &OwnedFd) -> io::Result<()> {
    if is_told(&[listener.as_fd(), stopped.as_fd()])? != Some(0) {
        return Ok(());
    }
    let (stream, _) = listener.accept()?;
    let message = sockets::receive(stream.as_fd(), MESSAGE_BYTES)?;
    let message = message.ok_or_else(|| nonsense("it said nothing"))?;
    let regions: Vec<Region> = serde_json::from_slice(&message.bytes)?;
    let faults = message.descriptors.into_iter().next();
    let faults = Faults::from(faults.ok_or_else(|| nonsense("no descriptor came along"))?);
    let memory = Memory::of(regions, memory)?;
    let mut removed = Removed::default();
    loop {
        // Firecracker keeps its end of the connection for as long as it runs.
        match is_told(&[faults.as_fd(), stream.as_fd(), stopped.as_fd()])? {
            Some(0) => {}
            _ => return Ok(()),
        }
        match faults.next()? {
            None => {}
            Some(Event::Missing(address)) => {
                let address = address - address % PAGE as u64;
                match memory.bring(&faults, address, &removed) {
                    // It is gone, and its end is noticed as such.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                    brought => brought?,
                }
            }
            Some(Event::Removed(from, to)) => removed.add(from, to),
            Some(Event::Other(kind)) => {
                return Err(io::Error::other(format!("the kernel told of event {kind:#x}")));
            }
        }
    }
}

fn nonsense(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The first of those that have something to say, once there is one.
fn is_told(files: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<Option<usize>> {
    loop {
        match poll(files, -1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(ready) => return Ok(ready.iter().position(|ready| *ready)),
        }
    }
}

/// Where pages come from.
struct Memory<'a> {
    regions: Vec<Region>,
    file: &'a File,
}

impl<'a> Memory<'a> {
    fn of(regions: Vec<Region>, file: &'a File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let is_in = |region: &Region| {
            let end = region.offset.checked_add(region.size);
            end.is_some_and(|end| end <= length)
                && region.base_host_virt_addr.checked_add(region.size).is_some()
        };
        match regions.iter().all(is_in) && !regions.is_empty() {
            true => Ok(Self { regions, file }),
            false => Err(nonsense("the memory file is another one's: it has another size")),
        }
    }

    /// Where the page of an address is in the file.
    fn offset(&self, address: u64) -> Option<u64> {
        let mut within = self.regions.iter().filter_map(|region| {
            let inner = address.checked_sub(region.base_host_virt_addr)?;
            (inner < region.size).then_some(region.offset + inner)
        });
        within.next()
    }

    fn bring(&self, faults: &Faults, address: u64, removed: &Removed) -> io::Result<()> {
        let offset = self
            .offset(address)
            .ok_or_else(|| nonsense("a page is missing that is in no region"))?;
        let mut page = [0; PAGE];
        if !removed.has(address) {
            self.file.read_exact_at(&mut page, offset)?;
        }
        loop {
            match faults.bring(address, &page) {
                // Two processors of the machine waited for it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                brought => return brought,
            }
        }
    }
}

/// What the machine gave back, and holds zeros when it is touched again.
#[derive(Default)]
struct Removed(Vec<(u64, u64)>);

impl Removed {
    fn add(&mut self, from: u64, to: u64) {
        match self.0.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => self.0.push((from, to)),
        }
    }

    fn has(&self, address: u64) -> bool {
        self.0.iter().any(|(from, to)| (*from..*to).contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(base: u64, size: u64, offset: u64) -> Region {
        Region {
            base_host_virt_addr: base,
            size,
            offset,
        }
    }

    #[test]
    fn a_page_is_where_its_region_says() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 12).unwrap();
        let memory = Memory::of(
            vec![region(0x10_0000, 0x2000, 0), region(0x90_0000, 0x1000, 0x2000)],
            &file,
        );
        let memory = memory.unwrap();
        assert_eq!(memory.offset(0x10_1000), Some(0x1000));
        assert_eq!(memory.offset(0x90_0000), Some(0x2000));
        assert_eq!(memory.offset(0x10_2000), None);
        assert_eq!(memory.offset(0), None);
        for wrong in [
            vec![],
            vec![region(0, 4 << 12, 0)],
            vec![region(0, 1, u64::MAX)],
            vec![region(u64::MAX, 2, 0)],
        ] {
            assert!(Memory::of(wrong.clone(), &file).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_was_given_back_is_known() {
        let mut removed = Removed::default();
        removed.add(0x1000, 0x2000);
        removed.add(0x2000, 0x3000);
        removed.add(0x8000, 0x9000);
        assert_eq!(removed.0.len(), 2);
        assert!(removed.has(0x2fff) && removed.has(0x8000) && !removed.has(0x3000));
    }
}
