//! The control socket of `up`: other commands ask here for what needs the object's actor.

use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use suijuris_api::control::Reply;
use suijuris_supervisor::control::{CODE_BAD_REQUEST, PendingRequest};
use suijuris_supervisor::{Input, ObjectHandle};
use suijuris_sys::peers;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// Size of a request at most, bytes.
const MAX_LINE: u64 = 4 << 20;

/// Time for a request at most.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Clients at once at most.
const MAX_CLIENTS: usize = 32;

/// Asked by what runs in a machine.
const CODE_FROM_INSIDE: &str = "from_inside";

/// `up` is on its way out.
const CODE_ENDING: &str = "up_ending";

/// Makes the socket, in place of one that a killed `up` left behind; the store's lock has shown that no other runs.
pub(super) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("cannot make {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Hears clients until dropped.
pub(super) async fn serve(listener: UnixListener, object: ObjectHandle) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((socket, _)) => { clients.spawn_local(client(socket, object.clone())); }
                Err(_out_of_descriptors) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_ended) = clients.join_next() => {}
        }
    }
}

async fn client(socket: UnixStream, object: ObjectHandle) {
    let is_inside = peers::is_in_a_machine(socket.as_fd());
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read.take(MAX_LINE));
    let mut line = String::new();
    match tokio::time::timeout(READ_WITHIN, lines.read_line(&mut line)).await {
        Ok(Ok(length)) if length > 0 => {}
        _ => return,
    }
    let reply = match serde_json::from_str(&line) {
        Ok(_) if is_inside => from_inside(),
        Ok(message) => match PendingRequest::of(message) {
            Ok((request, answered)) => {
                let sent = object.send(Input::Request(Box::new(request))).await;
                match sent {
                    Ok(()) => answered.await.unwrap_or_else(|_| ending()),
                    Err(_over) => ending(),
                }
            }
            Err(reply) => reply,
        },
        Err(error) => Reply::Error {
            code: CODE_BAD_REQUEST.to_owned(),
            message: format!("not a request: {error}"),
        },
    };
    let mut bytes = serde_json::to_vec(&reply).unwrap_or_default();
    bytes.push(b'\n');
    // A client that has gone needs no answer.
    let _ = write.write_all(&bytes).await;
}

/// A workload has the agent socket, where it proposes as what it is.
fn from_inside() -> Reply {
    Reply::Error {
        code: CODE_FROM_INSIDE.to_owned(),
        message: "this socket is for those who run the object, and you are in a machine or another process namespace: \
                  a workload asks at SUIJURIS_AGENT_SOCKET, a person beside `up`"
            .to_owned(),
    }
}

fn ending() -> Reply {
    Reply::Error {
        code: CODE_ENDING.to_owned(),
        message: "`up` is ending; start it again".to_owned(),
    }
}
