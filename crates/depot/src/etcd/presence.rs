//! Who runs: a key under a lease that its holder keeps alive.
//!
//! A key that is there says that its holder ran less than the lease ago, so [`presence`] watches for a sign of life: only
//! a lease that was kept alive while we looked means *here*. One that is not says nothing about the end of its holder: it
//! may be cut off from etcd and still hold its mark's lease; so nobody is ever known to be gone.

use std::sync::Arc;
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::witness::HolderId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::gateway::Range;
use super::keyspace::Keyspace;
use crate::driver::Driver;
use crate::{Error, Presence, PresenceGuard};

/// Lease of the key, seconds.
const LEASE_S: i64 = 5;

/// Time between two signs of life, and between two looks for one.
const BEAT: Duration = Duration::from_secs(1);

/// How long to look for a sign of life: longer than the lease.
const LOOK: Duration = Duration::from_secs(7);

/// Keeps the key as long as it lives.
#[derive(Debug)]
pub(crate) struct Held {
    _over: oneshot::Sender<()>,
    _driver: Arc<Driver>,
}

impl PresenceGuard for Held {}

fn key(object: ObjectId, holder: HolderId) -> String {
    format!("objects/{object}/holders/{holder}")
}

/// Puts the key of `holder` and keeps it alive until what is returned is dropped.
pub(crate) async fn register(
    space: Arc<Keyspace>,
    driver: Arc<Driver>,
    object: ObjectId,
    holder: HolderId,
) -> Result<Held, Error> {
    let (over, ended) = oneshot::channel();
    let key = key(object, holder);
    let lease = put(&space, &key).await?;
    let handle = driver.handle().clone();
    let _detached = handle.spawn(keep(space, key, lease, ended));
    Ok(Held {
        _over: over,
        _driver: driver,
    })
}

async fn put(space: &Keyspace, key: &str) -> Result<i64, Error> {
    let gateway = space.gateway();
    let lease = gateway
        .grant(LEASE_S)
        .await
        .map_err(|cause| space.failed(cause))?;
    let put = gateway.put(&space.key(key), b"", Some(lease)).await;
    put.map_err(|cause| space.failed(cause))?;
    Ok(lease)
}

async fn keep(space: Arc<Keyspace>, key: String, mut lease: i64, mut ended: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            _ = &mut ended => break,
            () = beat(&space, lease) => {}
        }
        // The lease is lost, or etcd cannot be reached: begin anew when it can.
        tokio::select! {
            _ = &mut ended => break,
            () = tokio::time::sleep(BEAT) => {}
        }
        if let Ok(granted) = put(&space, &key).await {
            lease = granted;
        }
    }
    // A lease that is not revoked runs out.
    let _ = space.gateway().revoke(lease).await;
}

/// Keeps `lease` alive until that fails.
async fn beat(space: &Keyspace, lease: i64) {
    let within = Duration::from_secs(LEASE_S.unsigned_abs());
    loop {
        match tokio::time::timeout(within, space.gateway().keep_alive(lease)).await {
            Ok(Ok(left)) if left > 0 => {}
            _ => return,
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Whether `holder` gives a sign of life while we look.
pub(crate) async fn presence(
    space: &Keyspace,
    object: ObjectId,
    holder: HolderId,
) -> Result<Presence, Error> {
    let got = space.range(Range::of(space.key(&key(object, holder)))).await?;
    let Some(lease) = got.found.first().map(|found| found.lease) else {
        return Ok(Presence::Unknown);
    };
    let start = Instant::now();
    let mut first = None;
    while start.elapsed() < LOOK {
        let before = start.elapsed();
        let left = space.gateway().time_to_live(lease).await;
        let left = left.map_err(|cause| space.failed(cause))?;
        if left <= 0 {
            return Ok(Presence::Unknown);
        }
        // Whole seconds, cut off: a lease that nobody keeps alive has at least one less after more than two.
        let first = *first.get_or_insert(left);
        let passed = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
        if left.saturating_add(passed) > first + 2 {
            return Ok(Presence::Here);
        }
        tokio::time::sleep(BEAT).await;
    }
    Ok(Presence::Unknown)
}
