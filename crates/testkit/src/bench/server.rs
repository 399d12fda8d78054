//! The workload of gate and start benches: one thread, one epoll, the same answer to every request.
//!
//! It is meant to cost as little as a server can, so that what stands before it shows. It reads GET requests that come
//! whole and without a body, as load generators send them; it is no HTTP server for anything else.

use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSliceMut, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind,
    listen, recvmsg, socket,
};

use super::sys::own;
use super::{Running, await_port, free_port};

/// What every request is answered with.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

/// Events taken at once.
const EVENTS: usize = 64;
/// Longest message that comes with a connection: an address and what was read.
const MESSAGE_BYTES: usize = 32 * 1024;

/// Takes the arguments with which a bench starts itself as a server: `serve PORT` on loopback, `take PATH`, or `take` for
/// connections that come over `$SUIJURIS_CONNECTIONS_FD`; `None` where they say nothing of that.
pub fn as_asked() -> Option<io::Result<()>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [word, port] if word == "serve" => Some(
            port.parse()
                .map_err(io::Error::other)
                .and_then(|port: u16| serve(&TcpListener::bind((Ipv4Addr::LOCALHOST, port))?)),
        ),
        [word, path] if word == "take" => Some(serve_handed_over(Path::new(path))),
        [word] if word == "take" => Some(serve_given()),
        _ => None,
    }
}

/// Starts this program again as `serve`; its main function begins with [`as_asked`]. The port it listens on, too.
///
/// # Errors
/// The system's.
pub fn spawn() -> io::Result<(u16, Running)> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", &port.to_string()]).stdin(Stdio::null());
    let running = Running(command.spawn()?);
    await_port(port)?;
    Ok((port, running))
}

/// Serves connections that `listener` accepts, until an error of the system.
///
/// # Errors
/// The system's.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    Server::new(listener)?.run(|server| {
        loop {
            match listener.accept() {
                Ok((stream, _)) => server.open(stream)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    })
}

/// Serves connections that a gate in connection mode hands over at Unix socket `path`, which is made here.
///
/// # Errors
/// The system's.
pub fn serve_handed_over(path: &Path) -> io::Result<()> {
    // One that an earlier activation left behind.
    let _absent = std::fs::remove_file(path);
    let flags = SockFlag::SOCK_CLOEXEC;
    let entry = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(entry.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&entry, Backlog::new(1)?)?;
    let channel = own(accept(entry.as_raw_fd())?);
    Server::new(&channel)?.run(|server| server.take(&channel))
}

/// Serves connections that a gate hands over on the socket that this program was started with.
fn serve_given() -> io::Result<()> {
    let given = std::env::var("SUIJURIS_CONNECTIONS_FD").map_err(io::Error::other)?;
    let channel = own(given.parse().map_err(io::Error::other)?);
    Server::new(&channel)?.run(|server| server.take(&channel))
}

/// Connections, by descriptor.
struct Server {
    epoll: Epoll,
    source: RawFd,
    open: HashMap<RawFd, TcpStream>,
}

impl Server {
    fn new(source: &impl AsFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let fd = source.as_fd().as_raw_fd();
        epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, data(fd)))?;
        Ok(Self {
            epoll,
            source: fd,
            open: HashMap::new(),
        })
    }

    fn run(mut self, mut admit: impl FnMut(&mut Self) -> io::Result<()>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => 0,
                waited => waited?,
            };
            for event in events.iter().take(count) {
                if event.data() == data(self.source) {
                    admit(&mut self)?;
                } else {
                    self.answer(RawFd::try_from(event.data()).unwrap_or(-1));
                }
            }
        }
    }

    fn open(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let fd = stream.as_raw_fd();
        self.epoll
            .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, data(fd)))?;
        self.open.insert(fd, stream);
        Ok(())
    }

    /// A connection that fails or ends is dropped, which takes it out of the epoll.
    fn answer(&mut self, fd: RawFd) {
        let Some(stream) = self.open.get_mut(&fd) else {
            return;
        };
        let mut bytes = [0; 16 * 1024];
        let goes_on = match stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(read) if bytes.get(..read).is_some_and(|read| read.ends_with(b"\r\n\r\n")) => {
                stream.write_all(ANSWER).is_ok()
            }
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if !goes_on && let Some(stream) = self.open.remove(&fd) {
            // The gate keeps a second descriptor of what it handed over: closing ours alone would not end it.
            let _ended = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Takes one handed-over connection; what was read before comes with it.
    fn take(&mut self, channel: &OwnedFd) -> io::Result<()> {
        let mut text = vec![0; MESSAGE_BYTES];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut text)];
        let message = recvmsg::<()>(
            channel.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        if message.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                for fd in fds {
                    self.open(TcpStream::from(own(fd)))?;
                }
            }
        }
        Ok(())
    }
}

fn data(fd: RawFd) -> u64 {
    u64::try_from(fd).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_whole_request_is_answered_on_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(&listener));
        let mut client = TcpStream::connect(address).unwrap();
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = vec![0; ANSWER.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, ANSWER);
        }
    }
}
