//! Connections of a listener, each with the routes that answer it: HTTP/1.1 and HTTP/2, bounded in number and in the time of a head.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long a request's head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How often a connection of HTTP/2 is asked whether it is there.
const ASKED_EVERY: Duration = Duration::from_secs(30);

/// Answers at most `most` connections at one time by `routes`, until it is dropped or there are no routes any more.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    most: usize,
    mut routes: impl FnMut() -> Option<Router>,
) {
    let room = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let (stream, _) = listener.accept().await;
        let Some(routes) = routes() else { return };
        connections.spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN);
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(Some(ASKED_EVERY));
            // How a connection ended is its client's affair.
            let _ = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(routes))
                .await;
            drop(permit);
        });
    }
}
