//! The agent socket: the workload's own interface to the object it runs in.
//!
//! HTTP/1.1 and JSON over a Unix socket, curl-able; `docs/agent-socket.md` has the routes. Whoever can open the socket
//! is the workload: its directory is private to the machine. Every write is decided by the rules (`mutate`, `sleep`)
//! before it is made, and answered when it is durable. Not here: traffic from outside (gate).

mod messages;
mod routes;
mod stream;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::resident::Resident;

pub(crate) use routes::holds_left;
pub use stream::Feed;

/// Connections open at most; a workload has few.
const MAX_CONNECTIONS: usize = 128;

/// Time for a request head at most.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the agent socket {path} cannot be made")]
pub struct BindError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Makes the socket, in place of one that a former run left behind.
///
/// # Errors
/// [`BindError`] where the directory cannot be written or the path is too long (107 bytes).
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    use std::os::unix::fs::PermissionsExt as _;
    let error = |source| BindError {
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(error)?;
    }
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(error(cause)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(error)?;
    Ok(listener)
}

/// Serves until dropped.
pub async fn serve(listener: UnixListener, resident: Rc<Resident>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((socket, _)) => { connections.spawn_local(connection(socket, resident.clone())); }
                Err(_out_of_descriptors) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(socket: UnixStream, resident: Rc<Resident>) {
    let service = service_fn(move |request| {
        let resident = resident.clone();
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&resident, request).await) }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(64 * 1024);
    // A connection that breaks is the workload's affair; what it asked for is done or not done by then.
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}
