//! Connection mode: the workload gets the admitted client's socket itself, and the gate steps out of the data path.
//!
//! The gate keeps a second descriptor of each connection, only to cut it and to notice its end; it never reads. It cuts
//! when the authorizer, asked again, refuses the connection, and when the gate holds: what is out of its hands cannot
//! wait. A client that ended its sending side is cut [`HALF_CLOSED_MS`](crate::limits::HALF_CLOSED_MS) later: a
//! workload that merely closed its descriptor would otherwise leave the connection open for ever.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use crate::Authorizer;
use crate::connection_status::{ConnectionStatus, Reviewed, StatusSource};
use crate::control::Timer;
use crate::forward::Origin;
use crate::gate::Shared;
use crate::upstream::Upstream;
use crate::{sys, tunnel};

/// Ends noticed in one look.
const EVENTS: usize = 64;

/// The socket to the workload and the watch over what went through it.
#[derive(Debug)]
pub(crate) struct Channel {
    way: Option<Way>,
    socket: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    watch: RefCell<Option<Rc<Watch>>>,
}

/// How the workload is reached.
#[derive(Debug)]
enum Way {
    /// It listens here.
    Path(PathBuf),
    /// It has had the other end since its start.
    Given(Arc<OwnedFd>),
}

impl Channel {
    pub(crate) fn new(upstream: &Upstream) -> Self {
        let way = match upstream {
            Upstream::Unix(path) => Some(Way::Path(path.clone())),
            Upstream::Given(end) => Some(Way::Given(Arc::clone(end))),
            Upstream::Tcp(_) => None,
        };
        Self {
            way,
            socket: RefCell::default(),
            watch: RefCell::default(),
        }
    }

    pub(crate) const fn has_way(&self) -> bool {
        self.way.is_some()
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
        let fd = match self.way.as_ref().ok_or(io::ErrorKind::InvalidInput)? {
            Way::Given(end) => end.try_clone()?,
            Way::Path(path) => {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
                connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
                fd
            }
        };
        let socket = Rc::new(sys::polled(fd, Interest::WRITABLE)?);
        *self.socket.borrow_mut() = Some(Rc::clone(&socket));
        Ok(socket)
    }

    /// Starts watching; the future returned must be polled for as long as connections are served.
    pub(crate) fn watch(&self) -> io::Result<impl Future<Output = ()> + use<>> {
        let watch = Rc::new(Watch::new()?);
        *self.watch.borrow_mut() = Some(Rc::clone(&watch));
        Ok(async move { watch.run().await })
    }

    fn watched<'s>(&self, stream: &'s std::net::TcpStream) -> io::Result<Watched<'s>> {
        let watch = self.watch.borrow().clone().ok_or(io::ErrorKind::NotConnected)?;
        watch.add(stream)
    }
}

/// Serves one connection: admits it, hands it over, and waits for its end.
pub(crate) async fn serve<A: Authorizer>(
    gate: &Rc<Shared<A>>,
    stream: TcpStream,
    origin: &Origin,
    prefix: &[u8],
) {
    let timer = gate.control.timer();
    // Out of tokio's epoll: bytes that arrive are not ours to be woken for.
    let Ok(stream) = stream.into_std() else { return };
    let cut = Cut(stream);
    let Some(permit) = tunnel::admit(gate, origin, &timer).await else {
        return;
    };
    let reviewed = Reviewed::new(gate, origin, permit);
    let _admitted = gate.traffic.admitted();
    // Most programs that are given a socket expect one that blocks.
    let Ok(()) = cut.0.set_nonblocking(false) else {
        return;
    };
    let message = [origin.peer.to_string().as_bytes(), b"\n", prefix].concat();
    if gate.fd_passing.send(&cut.0, &message).await.is_ok()
        && let Ok(watched) = gate.fd_passing.watched(&cut.0)
    {
        watched.ended(&timer, &reviewed, gate.limits.half_closed_ms).await;
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

/// One connection's state and who waits for it to change.
#[derive(Debug)]
struct Entry {
    ended: Ended,
    waker: Option<Waker>,
}

/// An epoll of its own that asks for hang-ups only, so that data passing by wakes nobody.
#[derive(Debug)]
struct Watch {
    epoll: Epoll,
    readable: AsyncFd<OwnedFd>,
    next: Cell<u64>,
    entries: RefCell<HashMap<u64, Entry>>,
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
            entries: RefCell::default(),
        })
    }

    async fn run(&self) {
        while let Ok(mut ready) = self.readable.readable().await {
            if !self.look() {
                ready.clear_ready();
            }
        }
    }

    fn add<'s>(self: Rc<Self>, stream: &'s std::net::TcpStream) -> io::Result<Watched<'s>> {
        let id = self.next.get();
        self.next.set(id + 1);
        self.epoll.add(
            stream.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, id),
        )?;
        self.entries.borrow_mut().insert(
            id,
            Entry {
                ended: Ended::Not,
                waker: None,
            },
        );
        Ok(Watched {
            watch: self,
            id,
            stream,
        })
    }

    /// Takes over what the epoll has to say. False: nothing.
    fn look(&self) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => return true,
            waited => waited.unwrap_or(0),
        };
        for event in events.iter().take(count) {
            self.note(*event);
        }
        count > 0
    }

    fn note(&self, event: EpollEvent) {
        let both = event
            .events()
            .intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        let ended = if both { Ended::Both } else { Ended::ClientDone };
        if let Some(entry) = self.entries.borrow_mut().get_mut(&event.data()) {
            entry.ended = entry.ended.max(ended);
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
        }
    }

    fn poll_ended(&self, id: u64, until: Ended, cx: &Context<'_>) -> Poll<()> {
        match self.entries.borrow_mut().get_mut(&id) {
            Some(entry) if entry.ended < until => {
                entry.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
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
    /// Waits until both sides ended, or the client did and its time for reading is over, or the connection may not go
    /// on: what is in the workload's hands cannot be held, only cut.
    async fn ended(&self, timer: &Timer, source: &dyn StatusSource, half_closed_ms: u64) {
        let over = |until: Ended, cx: &mut Context<'_>| match source.status() {
            ConnectionStatus::Good => self.watch.poll_ended(self.id, until, cx).map(|()| true),
            ConnectionStatus::Held | ConnectionStatus::Revoked => Poll::Ready(false),
        };
        let for_ever = u64::MAX;
        if timer.within(for_ever, |cx| over(Ended::ClientDone, cx)).await == Ok(true) {
            // Elapsed, ended or cut: either way it is over.
            let _over = timer.within(half_closed_ms, |cx| over(Ended::Both, cx)).await;
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.watch.entries.borrow_mut().remove(&self.id);
        // Fails only if it is not there.
        let _removed = self.watch.epoll.delete(self.stream.as_fd());
    }
}
