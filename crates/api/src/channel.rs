//! A channel of packets over a Unix socket pair: JSON, raw bytes behind it, and at most one descriptor each.
//!
//! Packet: length of the JSON, u32 little-endian; the JSON; raw bytes. At most [`MAX_BYTES`].

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use suijuris_sys::{sockets, watch};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Size of a packet at most, bytes: a request head and a memory patch fit; socket buffers hold it.
pub const MAX_BYTES: usize = 96 * 1024;

/// One packet.
#[derive(Debug)]
pub struct Packet<T> {
    /// What it says.
    pub message: T,
    /// Bytes behind the JSON.
    pub raw: Vec<u8>,
    /// Descriptor that came with it.
    pub descriptor: Option<OwnedFd>,
}

/// One end, registered with the current tokio runtime.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

/// Two ends that are not registered yet: one to keep, one for the machine.
///
/// # Errors
/// When no more descriptors can be had.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    sockets::packet_pair()
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Channel {
    /// Registers an end of a [`pair`].
    ///
    /// # Errors
    /// Outside of a tokio runtime, or when the socket cannot be registered.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        watch(end, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Sends one packet. Cancellation safe: sent whole or not at all.
    ///
    /// # Errors
    /// `InvalidData` above [`MAX_BYTES`]; otherwise the peer is gone.
    pub async fn send<T: Serialize>(
        &self,
        message: &T,
        raw: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = pack(message, raw)?;
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|socket| send(socket.as_fd(), &bytes, descriptor)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one packet now or not at all; for events, which may be lost when nobody reads them.
    ///
    /// # Errors
    /// `WouldBlock` when the peer does not keep up; otherwise as [`Channel::send`].
    pub fn try_send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        send(self.0.as_fd(), &pack(message, &[])?, None)
    }

    /// Receives one packet; `None` when the peer is gone. Cancellation safe.
    ///
    /// # Errors
    /// `InvalidData` for a packet that is not one of ours.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<Packet<T>>> {
        let read = |socket: &OwnedFd| sockets::receive(socket.as_fd(), MAX_BYTES);
        let Some(received) = self.0.async_io(Interest::READABLE, read).await? else {
            return Ok(None);
        };
        let (message, raw) = unpack(&received.bytes)?;
        Ok(Some(Packet {
            message,
            raw,
            descriptor: received.descriptors.into_iter().next(),
        }))
    }
}

/// Sends one packet, which is sent whole or not at all.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    sockets::send(socket, bytes, descriptor.as_slice()).map(drop)
}

fn pack<T: Serialize>(message: &T, raw: &[u8]) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(invalid)?;
    let bytes = [&length.to_le_bytes(), json.as_slice(), raw].concat();
    if bytes.len() > MAX_BYTES {
        return Err(invalid(format!(
            "a message of {} bytes, where {MAX_BYTES} are allowed",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, Vec<u8>)> {
    let cut = || invalid("a packet that is cut short");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(invalid)?;
    let (json, raw) = rest.split_at_checked(length).ok_or_else(cut)?;
    Ok((serde_json::from_slice(json)?, raw.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::control::ToRuntime;

    #[tokio::test]
    async fn a_packet_arrives_with_its_bytes_and_descriptor() {
        let (a, b) = pair().unwrap();
        let (a, b) = (Channel::new(a).unwrap(), Channel::new(b).unwrap());
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        a.send(
            &ToRuntime::Connection { id: 1 },
            b"GET / HTTP/1.1\r\n",
            Some(theirs.as_fd()),
        )
        .await
        .unwrap();
        let packet = b.receive::<ToRuntime>().await.unwrap().unwrap();
        assert_eq!(
            (packet.message, packet.raw.as_slice()),
            (ToRuntime::Connection { id: 1 }, &b"GET / HTTP/1.1\r\n"[..])
        );
        UnixStream::from(packet.descriptor.unwrap())
            .write_all(b"hi")
            .unwrap();
        drop(theirs);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        drop(a);
        assert!(b.receive::<ToRuntime>().await.unwrap().is_none());
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for bytes in [
            &b""[..],
            b"\x01",
            b"\xff\xff\xff\xff{}",
            b"\x02\0\0\0[]",
            b"\x01\0\0\0{",
        ] {
            assert!(unpack::<ToRuntime>(bytes).is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_packet_too_large_is_refused_before_it_is_sent() {
        let (a, _b) = pair().unwrap();
        let a = Channel::new(a).unwrap();
        assert!(
            a.send(&ToRuntime::Connection { id: 1 }, &vec![0; MAX_BYTES], None)
                .await
                .is_err()
        );
    }
}
