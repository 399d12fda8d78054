//! Raw connections: bytes both ways to a machine of the app that serves the port, started where none runs.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use suijuris_gate::Route as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::asked::Asked;
use crate::passage::{Goal, Passage, Story};
use crate::relay::Carried;
use crate::router::Router;

/// Connecting to a machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A connection in which no byte moves.
const IDLE: Duration = Duration::from_secs(3_600);

/// Who connected.
pub(crate) enum Client {
    /// As it came: another process can go on with it.
    Socket(TcpStream),
    /// What its TLS comes to, which ends in this process.
    Tls(Box<suijuris_edge::tls::Stream>),
}

/// Serves one connection to its end. What no machine takes is closed.
pub(crate) async fn serve(router: Arc<Router>, client: Client, asked: Asked) {
    let asked = Rc::new(asked);
    router.metrics.connected(&asked.app);
    let goal = Goal {
        app: Arc::clone(&asked.app),
        wanted: asked.wanted.clone(),
        until: Instant::now() + router.hold,
        back: None,
    };
    let Ok(mut passage) = router.resolve(&asked, &goal, &Story::default()).await else {
        return;
    };
    let machine = loop {
        match timeout(CONNECT_WITHIN, passage.connect()).await {
            Ok(Ok(machine)) => break machine,
            Ok(Err(_)) | Err(_) => match Arc::clone(&router).after_failure(passage, false).await {
                Ok((next, _)) => passage = next,
                Err(_) => return,
            },
        }
    };
    // Only latency is lost where it cannot be set.
    let _slower = machine.set_nodelay(true);
    // The passage holds the machine's load meanwhile.
    match client {
        Client::Socket(client) => carry(&router, client, machine, &passage).await,
        Client::Tls(mut client) => join(&mut client, machine).await,
    }
}

/// Gives the connection to the relay, where there is one that takes it.
async fn carry(router: &Router, mut client: TcpStream, mut machine: TcpStream, passage: &Passage) {
    if let Some(relay) = &router.relay {
        match relay.carry(client, machine, passage.leads()).await {
            // Sockets that cannot be handed over are closed by now.
            Ok(Carried::Ended) | Err(_) => return,
            Ok(Carried::Refused(a, b)) => (client, machine) = (a, b),
        }
    }
    join(&mut client, machine).await;
}

/// Copies until both sides have ended, or nothing has moved for long.
pub(crate) async fn join(client: &mut (impl AsyncRead + AsyncWrite + Unpin), machine: TcpStream) {
    let moved = Rc::new(Cell::new(Instant::now()));
    let mut machine = Watched {
        inner: machine,
        moved: Rc::clone(&moved),
    };
    let idle = async {
        while moved.get().elapsed() < IDLE {
            sleep_until(moved.get() + IDLE).await;
        }
    };
    tokio::select! {
        // Whoever broke it knows.
        _ended = copy_bidirectional(client, &mut machine) => {}
        () = idle => {}
    }
}

/// A stream that remembers when it last moved a byte.
struct Watched {
    inner: TcpStream,
    moved: Rc<Cell<Instant>>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            self.moved.set(Instant::now());
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if written.is_ready() {
            self.moved.set(Instant::now());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
