//! The listening socket of `up`: it accepts while the object is dormant; awake, the runtime does, on the same socket.

use std::time::Duration;

use suijuris_core::manifest::Protocol;
use suijuris_supervisor::connection::{LEAVE_WITHIN, PendingConnection, read_http};
use suijuris_supervisor::{Input, ObjectHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections whose heads are being read, at most; further ones wait in the socket's backlog.
const MAX_READING: usize = 1_024;

/// Pause after `accept` failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the object's actor has ended, and lets those end then who were accepted: `always`, or only while its runtime
/// does not accept.
pub(super) async fn accept(listener: TcpListener, always: bool, protocol: Protocol, object: ObjectHandle) {
    let raw = matches!(protocol, Protocol::Tcp | Protocol::FdPassing);
    let mut accepting = object.accepting();
    let mut reading: JoinSet<()> = JoinSet::new();
    let (leave, leaving) = watch::channel(false);
    loop {
        let open = *accepting.borrow_and_update() || always;
        tokio::select! {
            changed = accepting.changed() => if changed.is_err() { break },
            Some(_read) = reading.join_next() => {}
            accepted = listener.accept(), if open && reading.len() < MAX_READING => match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    let (object, leaving) = (object.clone(), leaving.clone());
                    reading.spawn_local(async move {
                        let connection = if raw {
                            Some(PendingConnection::raw((socket, peer)))
                        } else {
                            read_http((socket, peer), leaving).await
                        };
                        if let Some(connection) = connection {
                            let sent = object.send(Input::Connection(Box::new(connection))).await;
                            // The actor has ended where it takes none any more.
                            if let Err(Input::Connection(connection)) = sent {
                                connection.refuse_leaving().await;
                            }
                        }
                    });
                }
                Err(_out_of_descriptors) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    leave.send_replace(true);
    let all = async { while reading.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LEAVE_WITHIN, all).await;
}
