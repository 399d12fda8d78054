//! The door as a server: connections, their bounds, and the work that goes on beside them.
//!
//! HTTP/1.1 and HTTP/2 in clear text, for proxies on the same host or network: TLS ends before. Parsing is hyper's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use suijuris_core::ObjectId;
use suijuris_depot::Depot;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::config::{Config, Limits};
use crate::door::{Clock, Door, Listener, RefusalKeeper};
use crate::routes::Routes;

/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time between two looks at the heap of due timers and at counted refusals.
const BEAT: Duration = Duration::from_secs(1);

/// Concurrent HTTP/2 streams on one connection.
const STREAMS: u32 = 128;

/// Serves until `shutdown` resolves, then lets requests in flight end.
///
/// The listeners are bound already; `config.listen` and `config.depot` are not looked at. Events go to the listener, refusals in
/// full to the keeper.
pub async fn serve(
    listeners: Vec<TcpListener>,
    depot: Arc<dyn Depot>,
    config: Config,
    clock: Clock,
    (listener, keeper): (Listener, Option<RefusalKeeper>),
    shutdown: impl Future<Output = ()>,
) {
    let (map, preload) = (config.map.clone(), config.preload);
    let door = Door::new(depot, config, clock, Some(listener));
    let door = Arc::new(match keeper {
        Some(keeper) => door.keeping(keeper),
        None => door,
    });
    let mut beside = JoinSet::new();
    if preload {
        let door = Arc::clone(&door);
        beside.spawn(async move {
            // A depot that does not answer shows in metrics and health; requests load what they need.
            let _ = door.preload().await;
        });
    }
    serve_door(listeners, door, map, shutdown).await;
    beside.shutdown().await;
}

/// As [`serve`], with a door of the caller's making; hosts name objects as `map` says.
pub async fn serve_door(
    listeners: Vec<TcpListener>,
    door: Arc<Door>,
    map: BTreeMap<String, ObjectId>,
    shutdown: impl Future<Output = ()>,
) {
    let limits = *door.limits();
    let routes = Arc::new(Routes {
        door: Arc::clone(&door),
        names: map,
    });
    let mut beside = JoinSet::new();
    beside.spawn(beat(Arc::clone(&door), limits));
    let room = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut accepting = JoinSet::new();
    let (sender, mut accepted) = tokio::sync::mpsc::channel(64);
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&room), sender.clone()));
    }
    drop(sender);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_over) = connections.join_next(), if !connections.is_empty() => {}
            next = accepted.recv() => match next {
                Some((stream, peer, permit)) => {
                    let connection = connection(stream, peer, permit, &routes, &limits, &graceful);
                    connections.spawn(connection);
                }
                None => break,
            },
        }
    }
    accepting.shutdown().await;
    // Whoever does not end in time is dropped with its task.
    let _ = tokio::time::timeout(limits.leave_within, graceful.shutdown()).await;
    connections.shutdown().await;
    beside.shutdown().await;
    door.close(limits.leave_within).await;
}

type Accepted = (TcpStream, std::net::SocketAddr, OwnedSemaphorePermit);

/// Accepts as long as there is room; further connections wait in the kernel's queue.
async fn accept(listener: TcpListener, room: Arc<Semaphore>, accepted: tokio::sync::mpsc::Sender<Accepted>) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                if accepted.send((stream, peer, permit)).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn connection(
    stream: TcpStream,
    peer: std::net::SocketAddr,
    permit: OwnedSemaphorePermit,
    routes: &Arc<Routes<BTreeMap<String, ObjectId>>>,
    limits: &Limits,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + 'static {
    // Small answers at once: refusals are what a door is for.
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head_bytes.max(8 << 10))
        .max_headers(limits.headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.head_within)
        .keep_alive_timeout(limits.head_within);
    let routes = Arc::clone(routes);
    let watcher = graceful.watcher();
    async move {
        let metrics = &routes.door.metrics.connections;
        metrics.inc();
        let answers = Arc::clone(&routes);
        let service = service_fn(move |request| {
            let routes = Arc::clone(&answers);
            async move { Ok::<_, Infallible>(routes.answer(request, peer).await) }
        });
        let connection = builder
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        // How a connection ended is the client's affair.
        let _ = watcher.watch(connection).await;
        metrics.dec();
        drop(permit);
    }
}

/// Timers and counted refusals, as long as the door stands.
async fn beat(door: Arc<Door>, limits: Limits) {
    let mut every = tokio::time::interval(BEAT.min(limits.timers_every));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        door.tell_refusals(false);
        // A depot that does not answer is asked again with the next beat.
        let _ = door.timers().await;
    }
}
