//! Taking connections from the listener, and turning away those that are too many.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::gate::Protocol;
use crate::refusal::{self, Refusal};
use crate::stream::Stream;

/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The next connection, never one without a listener; out of descriptors, it waits for some to be closed.
pub(crate) async fn accept(listener: Option<&TcpListener>) -> (TcpStream, SocketAddr) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// One connection too many: answered from here, without a task.
pub(crate) fn turn_away(mut stream: Stream, protocol: Protocol) {
    if matches!(protocol, Protocol::Http | Protocol::H2c) {
        // Best effort: reading what has come keeps the close from becoming a reset.
        let cx = &mut Context::from_waker(Waker::noop());
        let answer = refusal::render_http1(&Refusal::too_many_connections(), false, None);
        let mut unread = [0; 4096];
        let _read = Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut unread));
        let _written = Pin::new(&mut stream).poll_write(cx, &answer);
        let _ended = Pin::new(&mut stream).poll_shutdown(cx);
    }
}
