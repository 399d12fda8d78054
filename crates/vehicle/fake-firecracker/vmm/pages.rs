//! Memory whose pages somebody else brings, as Firecracker's handshake with its page fault handler has it: it connects to the
//! handler's socket, sends its regions as JSON and the descriptor of its page faults in one message, and keeps the connection.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::json;
use suijuris_sys::sockets;
use suijuris_sys::userfault::{PAGE, Region};

/// A machine's memory.
#[derive(Debug)]
pub(crate) struct Paged {
    region: Region,
    pages: usize,
    _handler: UnixStream,
}

impl Paged {
    pub(super) fn connect(handler: &Path, size: u64) -> io::Result<Self> {
        let bytes = usize::try_from(size).map_err(io::Error::other)?;
        let region = Region::new(bytes)?;
        let handler = UnixStream::connect(handler)?;
        let regions = json!([{
            "base_host_virt_addr": region.address(),
            "size": size,
            "offset": 0,
            "page_size": PAGE,
            "page_size_kib": PAGE,
        }]);
        sockets::send(
            handler.as_fd(),
            regions.to_string().as_bytes(),
            &[region.faults()],
        )?;
        Ok(Self {
            region,
            pages: bytes / PAGE,
            _handler: handler,
        })
    }

    /// What it remembers: all before the first zero.
    pub(super) fn text(&self) -> Vec<u8> {
        let bytes = (0..self.pages * PAGE).map_while(|offset| self.region.byte(offset));
        bytes.take_while(|byte| *byte != 0).collect()
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Waits for a page.
    pub(crate) fn touch(&self, page: usize) {
        let _ = self.region.byte(page * PAGE);
    }
}
