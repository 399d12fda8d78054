//! The listening socket of `up`: it accepts while the object is dormant; awake, the runtime does, on the same socket.

use std::time::Duration;

use suijuris_core::manifest::Protocol;
use suijuris_supervisor::connection::{PendingConnection, read_http};
use suijuris_supervisor::{Input, ObjectHandle};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Connections whose heads are being read, at most; further ones wait in the socket's backlog.
const MAX_READING: usize = 1_024;

/// Pause after `accept` failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until dropped, or until the object's actor has ended: `always`, or only while its runtime does not.
pub(super) async fn accept(listener: TcpListener, always: bool, protocol: Protocol, object: ObjectHandle) {
    let raw = matches!(protocol, Protocol::Tcp | Protocol::FdPassing);
    let mut accepting = object.accepting();
    let mut reading: JoinSet<()> = JoinSet::new();
    loop {
        let open = *accepting.borrow_and_update() || always;
        tokio::select! {
            changed = accepting.changed() => if changed.is_err() { return },
            Some(_read) = reading.join_next() => {}
            accepted = listener.accept(), if open && reading.len() < MAX_READING => match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    let object = object.clone();
                    reading.spawn_local(async move {
                        let connection = if raw {
                            Some(PendingConnection::raw((socket, peer)))
                        } else {
                            read_http((socket, peer)).await
                        };
                        if let Some(connection) = connection {
                            // The actor has ended where it takes none any more.
                            let _ = object.send(Input::Connection(Box::new(connection))).await;
                        }
                    });
                }
                Err(_out_of_descriptors) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}
