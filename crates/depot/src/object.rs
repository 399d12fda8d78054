//! A depot in object storage with conditional put: S3 and what speaks like it, Azure's blob storage.
//!
//! Marks rest on `If-Match` and `If-None-Match`; a server that ignores them is refused when it is opened. Nobody's
//! presence is known here, and inboxes are looked at, not watched. `spec/depot.md` gives the layout, `docs/depot.md` the
//! costs in requests.

mod bucket;
mod conditional;
mod connect;
mod inbox;
mod marks;
mod names;
mod sleepers;
mod store;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::path::Path;
use suijuris_core::id::Digest;
use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ObjectId};
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub use self::bucket::Bucket;
use self::store::{Put, Store};
use crate::driver::{Driver, LONG, QUICK};
use crate::open::{DepotUrl, Environment};
use crate::{
    Answer, Archive, Depot, Error, Inbox, MAX_BUNDLE, MAX_SEGMENT, Marks, Posted, Presence, PresenceGuard,
    Swap, Version, Waiting, frame, segment,
};

/// Time between two writes of one mark: each is a request that costs money.
const PACE: Duration = Duration::from_secs(1);

/// First and longest pause between two looks at an inbox.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// Objects whose inboxes' last look is remembered.
const GLANCES: usize = 10_000;

/// A depot in a bucket.
#[derive(Debug)]
pub(crate) struct Objects {
    shared: Arc<Shared>,
    driver: Driver,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    place: DepotUrl,
    /// Set once the server was seen to keep conditions.
    probed: OnceCell<()>,
    acknowledged: AtomicU64,
    glances: Mutex<HashMap<ObjectId, Digest>>,
    counts: names::Counts,
}

/// Opens the bucket that `place` names, and makes sure that it keeps conditions.
pub(crate) fn open(
    place: &DepotUrl,
    environment: Environment<'_>,
) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    let url = place.url();
    let prefix = Path::parse(&place.path).map_err(|error| place.refuse(&error.to_string()))?;
    let store = Store {
        inner: connect::bucket(place, environment)?,
        prefix,
        url: url.clone(),
    };
    let place = place.clone();
    let driver = Driver::new(&url).map_err(|error| Error::Unreachable(url, Some(error.into())))?;
    Ok(Box::pin(async move {
        let shared = Arc::new(Shared {
            store,
            place,
            probed: OnceCell::new(),
            acknowledged: AtomicU64::new(0),
            glances: Mutex::default(),
            counts: names::Counts::default(),
        });
        let depot = Objects { shared, driver };
        match depot
            .run(QUICK, |shared| async move { shared.probe().await })
            .await
        {
            Ok(()) | Err(Error::Unreachable(..) | Error::ReadOnly(..)) => {
                Ok(Arc::new(depot) as Arc<dyn Depot>)
            }
            Err(error) => Err(error),
        }
    }))
}

fn segment_key(object: ObjectId, positions: &RangeInclusive<u64>) -> String {
    format!("objects/{object}/segments/{}", segment::name(positions))
}

impl Shared {
    fn glances(&self) -> MutexGuard<'_, HashMap<ObjectId, Digest>> {
        self.glances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn probe(&self) -> Result<(), Error> {
        self.probed
            .get_or_try_init(|| marks::probe(&self.store, &self.place))
            .await
            .copied()
    }

    async fn keep(&self, key: &str, bytes: Vec<u8>, max: usize, what: String) -> Result<(), Error> {
        if matches!(self.store.put_if(key, bytes.clone(), None).await?, Put::Done(_)) {
            return Ok(());
        }
        match self.store.get(key, max).await? {
            Some(found) if found.bytes == bytes => Ok(()),
            Some(_) => Err(Error::Different(what)),
            None => Err(Error::Unreachable(
                self.store.url.clone(),
                Some("it says both that it is there and that it is not".into()),
            )),
        }
    }

    async fn inbox_changed(&self, object: ObjectId, known: Digest, at_most: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let (mut pause, longest) = LOOKS;
        loop {
            if inbox::glance(&self.store, object).await? != known {
                return Ok(());
            }
            let left = at_most.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(longest);
        }
    }
}

impl Objects {
    fn run<T: Send + 'static, F: Future<Output = Result<T, Error>> + Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(Arc<Shared>) -> F,
    ) -> Answer<'static, T> {
        self.driver.run(limit, work(Arc::clone(&self.shared)))
    }
}

impl Depot for Objects {
    fn describe(&self) -> String {
        self.shared.store.url.clone()
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

impl Marks for Objects {
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.run(
            QUICK,
            |shared| async move { marks::read(&shared.store, object).await },
        )
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        let (mark, expected) = (mark.clone(), expected.cloned());
        self.run(QUICK, |shared| async move {
            shared.probe().await?;
            marks::swap(&shared.store, &mark, expected.as_ref()).await
        })
    }

    fn register(&self, _: ObjectId, _: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn presence(&self, _: ObjectId, _: HolderId) -> Answer<'_, Presence> {
        Box::pin(std::future::ready(Ok(Presence::Unknown)))
    }
}

impl Archive for Objects {
    fn announce<'a>(&'a self, object: ObjectId, bytes: &'a [u8], due: Option<Timestamp>) -> Answer<'a, ()> {
        let bytes = bytes.to_vec();
        self.run(LONG, |shared| async move {
            sleepers::announce(&shared.store, object, &bytes, due).await
        })
    }

    fn announcement(&self, object: ObjectId) -> Answer<'_, Option<Vec<u8>>> {
        self.run(QUICK, |shared| async move {
            let key = sleepers::announcement_key(object);
            let Some(mut found) = shared.store.get(&key, frame::MAX_ANNOUNCED).await? else {
                return Ok(None);
            };
            frame::open_announcement(&found.bytes, &shared.store.place(&key))?;
            found.bytes.drain(..frame::DUE_BYTES);
            Ok(Some(found.bytes))
        })
    }

    fn announced(&self, after: Option<ObjectId>, limit: usize) -> Answer<'_, Vec<ObjectId>> {
        self.run(LONG, |shared| async move {
            let after = after.map(|after| after.to_string());
            let store = &shared.store;
            let names = store
                .names("announcements", after.as_deref(), limit, |_| true)
                .await?;
            let parse = |name: &str| {
                let place = store.place(&format!("announcements/{name}"));
                let garbage = |_| frame::garbage(&place, "its name is not the id of an object");
                name.parse().map_err(garbage)
            };
            names.iter().map(|entry| parse(&entry.name)).collect()
        })
    }

    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>> {
        self.run(LONG, |shared| async move {
            sleepers::due(&shared.store, until, limit).await
        })
    }

    fn put_segment<'a>(
        &'a self,
        object: ObjectId,
        positions: RangeInclusive<u64>,
        bytes: &'a [u8],
    ) -> Answer<'a, ()> {
        let allowed =
            segment::check(&positions).and_then(|()| frame::bounded("the segment", bytes, MAX_SEGMENT));
        let bytes = bytes.to_vec();
        self.run(LONG, |shared| async move {
            allowed?;
            let key = segment_key(object, &positions);
            let what = format!("segment {} of {object}", segment::name(&positions));
            shared.keep(&key, bytes, MAX_SEGMENT, what).await
        })
    }

    fn segments(&self, object: ObjectId) -> Answer<'_, Vec<RangeInclusive<u64>>> {
        self.run(LONG, |shared| async move {
            let folder = format!("objects/{object}/segments");
            let names = shared
                .store
                .names(&folder, None, segment::MAX_SEGMENTS, |_| true)
                .await?;
            let parse = |name: &str| {
                let place = shared.store.place(&format!("{folder}/{name}"));
                segment::parse(name)
                    .ok_or_else(|| frame::garbage(&place, "its name is not that of a segment"))
            };
            names.iter().map(|entry| parse(&entry.name)).collect()
        })
    }

    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>> {
        self.run(LONG, |shared| async move {
            let found = shared
                .store
                .get(&segment_key(object, &positions), MAX_SEGMENT)
                .await?;
            Ok(found.map(|found| found.bytes))
        })
    }

    fn remove_segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, ()> {
        self.run(LONG, |shared| async move {
            shared.store.delete(&segment_key(object, &positions)).await
        })
    }

    fn put_bundle<'a>(&'a self, id: BundleId, bytes: &'a [u8]) -> Answer<'a, ()> {
        let allowed = frame::bounded("the bundle", bytes, MAX_BUNDLE);
        let bytes = bytes.to_vec();
        self.run(LONG, |shared| async move {
            allowed?;
            shared
                .keep(
                    &format!("bundles/{id}"),
                    bytes,
                    MAX_BUNDLE,
                    format!("bundle {id}"),
                )
                .await
        })
    }

    fn bundle(&self, id: BundleId) -> Answer<'_, Option<Vec<u8>>> {
        self.run(LONG, |shared| async move {
            let found = shared.store.get(&format!("bundles/{id}"), MAX_BUNDLE).await?;
            Ok(found.map(|found| found.bytes))
        })
    }
}

impl Inbox for Objects {
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted> {
        let message = message.clone();
        self.run(QUICK, |shared| async move {
            inbox::post(&shared.store, object, &message).await
        })
    }

    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>> {
        self.run(LONG, |shared| async move {
            let glance = inbox::glance(&shared.store, object).await?;
            let waiting = inbox::read(&shared.store, object, limit).await?;
            let mut glances = shared.glances();
            if glances.len() >= GLANCES {
                glances.clear();
            }
            glances.insert(object, glance);
            drop(glances);
            Ok(waiting)
        })
    }

    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()> {
        let messages = messages.iter().copied().collect();
        self.run(LONG, |shared| async move {
            inbox::acknowledge(&shared.store, object, &messages, &shared.acknowledged).await
        })
    }

    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()> {
        let shared = Arc::clone(&self.shared);
        // The last look before this call: a later one, perhaps of another reader, may have seen what this one waits for.
        let known = shared.glances().get(&object).copied();
        let known = known.unwrap_or_else(|| Digest::of(b""));
        let changed = async move { shared.inbox_changed(object, known, at_most).await };
        self.driver
            .run_while_awaited(at_most.saturating_add(LONG), changed)
    }
}
