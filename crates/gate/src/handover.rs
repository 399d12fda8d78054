//! Connection mode: the workload gets the admitted client's socket itself, and the gate steps out of the data path.
//!
//! The gate keeps a second descriptor of each connection, only to cut it and to notice its end; it never reads.
//! A client that ended its sending side is cut [`HALF_CLOSED_MS`](crate::limits::HALF_CLOSED_MS) later: a workload
//! that merely closed its descriptor would otherwise leave the connection open for ever.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::task::Poll;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use crate::Judge;
use crate::control::Control;
use crate::gate::Shared;
use crate::upstream::Upstream;
use crate::{sys, tunnel};

/// Ends noticed in one look.
const EVENTS: usize = 64;

/// The socket to the workload and the watch over what went through it.
#[derive(Debug)]
pub(crate) struct Channel {
    path: Option<PathBuf>,
    socket: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    watch: RefCell<Option<Rc<Watch>>>,
}

impl Channel {
    pub(crate) fn new(upstream: &Upstream) -> Self {
        let path = match upstream {
            Upstream::Unix(path) => Some(path.clone()),
            Upstream::Tcp(_) => None,
        };
        Self {
            path,
            socket: RefCell::default(),
            watch: RefCell::default(),
        }
    }

    pub(crate) fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// Sends one connection; a workload that restarted meanwhile is connected anew, once.
    async fn send(&self, stream: &std::net::TcpStream, message: &[u8]) -> io::Result<()> {
        let reused = self.socket.borrow().is_some();
        match self.try_send(stream, message).await {
            Err(_) if reused => {
                self.socket.take();
                self.try_send(stream, message).await
            }
            sent => sent,
        }
    }

    async fn try_send(&self, stream: &std::net::TcpStream, message: &[u8]) -> io::Result<()> {
        let socket = self.socket()?;
        let fds = [stream.as_raw_fd()];
        let sent = socket.async_io(Interest::WRITABLE, |socket| {
            let rights = [ControlMessage::ScmRights(&fds)];
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            Ok(sendmsg::<()>(
                socket.as_raw_fd(),
                &[IoSlice::new(message)],
                &rights,
                flags,
                None,
            )?)
        });
        sent.await.map(drop)
    }

    fn socket(&self) -> io::Result<Rc<AsyncFd<OwnedFd>>> {
        if let Some(socket) = self.socket.borrow().as_ref() {
            return Ok(Rc::clone(socket));
        }
        let path = self.path.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        let socket = Rc::new(sys::polled(fd, Interest::WRITABLE)?);
        *self.socket.borrow_mut() = Some(Rc::clone(&socket));
        Ok(socket)
    }

    fn watch(&self) -> io::Result<Rc<Watch>> {
        if let Some(watch) = self.watch.borrow().as_ref() {
            return Ok(Rc::clone(watch));
        }
        let watch = Rc::new(Watch::new()?);
        *self.watch.borrow_mut() = Some(Rc::clone(&watch));
        Ok(watch)
    }
}

/// Serves one connection: admits it, hands it over, and waits for its end.
pub(crate) async fn serve<J: Judge>(
    gate: &Rc<Shared<J>>,
    stream: TcpStream,
    peer: SocketAddr,
    prefix: &[u8],
) {
    let timer = gate.control.timer();
    // Out of tokio's epoll: bytes that arrive are not ours to be woken for.
    let Ok(stream) = stream.into_std() else { return };
    let cut = Cut(stream);
    let Some(_permit) = tunnel::admit(gate, peer, &timer).await else {
        return;
    };
    let _admitted = gate.traffic.admitted();
    // Most programs that are given a socket expect one that blocks.
    let Ok(()) = cut.0.set_nonblocking(false) else {
        return;
    };
    let message = [peer.to_string().as_bytes(), b"\n", prefix].concat();
    if gate.handover.send(&cut.0, &message).await.is_ok()
        && let Ok(watch) = gate.handover.watch()
        && let Ok(watched) = watch.add(&cut.0)
    {
        watched
            .ended(&gate.control, &timer, gate.limits.half_closed_ms)
            .await;
    }
}

/// Ends the connection for both descriptors: closing ours alone would leave the workload's open.
struct Cut(std::net::TcpStream);

impl Drop for Cut {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ended = self.0.shutdown(Shutdown::Both);
    }
}

/// How far a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Not,
    ClientDone,
    Both,
}

/// An epoll of its own that asks for hang-ups only, so that data passing by wakes nobody.
#[derive(Debug)]
struct Watch {
    epoll: Epoll,
    readable: AsyncFd<OwnedFd>,
    next: Cell<u64>,
    states: RefCell<HashMap<u64, Ended>>,
}

impl Watch {
    fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // A duplicate names the same epoll: one is polled by tokio, the other asked for events.
        let readable = sys::polled(epoll.0.try_clone()?, Interest::READABLE)?;
        Ok(Self {
            epoll,
            readable,
            next: Cell::new(0),
            states: RefCell::default(),
        })
    }

    fn add<'s>(self: &Rc<Self>, stream: &'s std::net::TcpStream) -> io::Result<Watched<'s>> {
        let id = self.next.get();
        self.next.set(id + 1);
        self.epoll.add(
            stream.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, id),
        )?;
        self.states.borrow_mut().insert(id, Ended::Not);
        Ok(Watched {
            watch: Rc::clone(self),
            id,
            stream,
        })
    }

    /// Takes over what the epoll has to say. True: there was news, perhaps for another connection.
    fn look(&self) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut news = false;
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(_) => 0,
            };
            for event in events.iter().take(count) {
                self.note(*event);
            }
            news |= count > 0;
            if count < EVENTS {
                return news;
            }
        }
    }

    fn note(&self, event: EpollEvent) {
        let both = event
            .events()
            .intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        let ended = if both { Ended::Both } else { Ended::ClientDone };
        if let Some(state) = self.states.borrow_mut().get_mut(&event.data()) {
            *state = (*state).max(ended);
        }
    }

    fn poll_news(&self, cx: &mut std::task::Context<'_>, control: &Control) {
        while let Poll::Ready(Ok(mut ready)) = self.readable.poll_read_ready(cx) {
            if self.look() {
                // One waker is kept per descriptor: whoever was woken tells the others.
                control.ask_again();
            } else {
                ready.clear_ready();
            }
        }
    }
}

/// One connection under watch.
struct Watched<'s> {
    watch: Rc<Watch>,
    id: u64,
    stream: &'s std::net::TcpStream,
}

impl Watched<'_> {
    async fn ended(&self, control: &Control, timer: &crate::control::Timer, half_closed_ms: u64) {
        timer.arm(u64::MAX);
        let mut until = Ended::ClientDone;
        while until <= Ended::Both {
            let reached = timer.until(|cx| {
                self.watch.poll_news(cx, control);
                let state = self.watch.states.borrow().get(&self.id).copied();
                if state.is_none_or(|state| state >= until) {
                    Poll::Ready(state)
                } else {
                    Poll::Pending
                }
            });
            match reached.await {
                Ok(Some(Ended::ClientDone)) => {
                    until = Ended::Both;
                    timer.arm(half_closed_ms);
                }
                _ => return,
            }
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.watch.states.borrow_mut().remove(&self.id);
        // Fails only if it is not there.
        let _removed = self.watch.epoll.delete(self.stream.as_fd());
    }
}
