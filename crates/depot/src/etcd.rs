//! A depot in etcd: transactions on revisions, a lease for presence, watches for inboxes.
//!
//! `spec/depot.md` gives the layout, `docs/depot.md` what it costs and what to give a cluster.

mod blobs;
mod gateway;
mod inbox;
mod keyspace;
mod names;
mod presence;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ObjectId};

use self::gateway::{KeyValue, Op, Range, Sort};
use self::keyspace::Keyspace;
use crate::driver::{Driver, LONG, QUICK};
use crate::open::{DepotUrl, Environment};
use crate::{
    Answer, Archive, Depot, Error, MAX_BUNDLE, MAX_SEGMENT, Marks, Presence, PresenceGuard, Swap, Version,
    frame, segment,
};

/// Time between two writes of one mark: each is a log entry of the whole cluster.
const PACE: Duration = Duration::from_millis(100);

/// Tries to replace an announcement that somebody else replaces too.
const TRIES: usize = 8;

/// A depot in a cluster.
#[derive(Debug)]
pub(crate) struct Etcd {
    shared: Arc<Shared>,
    driver: Arc<Driver>,
}

#[derive(Debug)]
struct Shared {
    space: Arc<Keyspace>,
    memory: inbox::Memory,
    looks: Mutex<HashMap<ObjectId, i64>>,
}

/// The cluster that `place` names; it is asked when something is wanted of it.
pub(crate) fn open(
    place: &DepotUrl,
    environment: Environment<'_>,
) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    let space = Arc::new(Keyspace::new(place, environment)?);
    let failed = |error: std::io::Error| Error::Unreachable(place.url(), Some(error.into()));
    let driver = Arc::new(Driver::new(&space.url).map_err(failed)?);
    let shared = Arc::new(Shared {
        space,
        memory: inbox::Memory::default(),
        looks: Mutex::default(),
    });
    let depot: Arc<dyn Depot> = Arc::new(Etcd { shared, driver });
    Ok(Box::pin(std::future::ready(Ok(depot))))
}

fn mark_key(object: ObjectId) -> String {
    format!("objects/{object}/mark")
}

fn announcement_key(object: ObjectId) -> String {
    format!("announcements/{object}")
}

fn due_key(at: Timestamp, object: ObjectId) -> String {
    format!("due/{}-{object}", frame::sortable(at))
}

fn segment_key(object: ObjectId, positions: &RangeInclusive<u64>) -> String {
    format!("objects/{object}/segments/{}", segment::name(positions))
}

fn version(revision: i64) -> Version {
    Version(revision.to_be_bytes().to_vec())
}

fn revision_of(version: &Version) -> Option<i64> {
    let revision = i64::from_be_bytes(version.0.as_slice().try_into().ok()?);
    (revision > 0).then_some(revision)
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Shared {
    fn open_mark(&self, object: ObjectId, stored: &[u8], revision: i64) -> Result<(Mark, Version), Error> {
        let mark = frame::open_mark(stored, object, &self.space.place(&mark_key(object)))?;
        Ok((mark, version(revision)))
    }

    async fn mark(&self, object: ObjectId) -> Result<Option<(Mark, Version)>, Error> {
        let found = self.space.value(&mark_key(object), frame::MAX_MARK).await?;
        let open = |(stored, revision): (Vec<u8>, i64)| self.open_mark(object, &stored, revision);
        found.map(open).transpose()
    }

    async fn swap(&self, mark: Mark, expected: Option<Version>) -> Result<Swap, Error> {
        let stored = frame::stamp(&mark)?;
        let key = mark_key(mark.object);
        let expected = match &expected {
            None => Some(0),
            Some(version) => revision_of(version),
        };
        let Some(expected) = expected else {
            return Ok(Swap::Conflict(self.mark(mark.object).await?));
        };
        let put = Op::Put(self.space.key(&key), stored, None);
        let get = Op::Get(self.space.key(&key));
        let mut done = self.space.change(&key, expected, &[put], &[get]).await?;
        if done.succeeded {
            return Ok(Swap::Done(version(done.revision)));
        }
        let present = done.found.pop();
        let open = |found: KeyValue| self.open_mark(mark.object, &found.value, found.changed);
        Ok(Swap::Conflict(present.map(open).transpose()?))
    }

    async fn announce(&self, object: ObjectId, bytes: &[u8], due: Option<Timestamp>) -> Result<(), Error> {
        let stored = frame::announce(bytes, due)?;
        let key = announcement_key(object);
        for _ in 0..TRIES {
            let before = self.space.value(&key, frame::MAX_ANNOUNCED).await?;
            let old = before
                .as_ref()
                .and_then(|(stored, _)| frame::open_announcement(stored, &key).ok()?.0);
            let mut operations = vec![Op::Put(self.space.key(&key), stored.clone(), None)];
            operations.extend(due.map(|at| Op::Put(self.space.key(&due_key(at, object)), Vec::new(), None)));
            let over = old.filter(|old| Some(*old) != due);
            operations.extend(over.map(|at| Op::Delete(self.space.key(&due_key(at, object)))));
            let known = before.map_or(0, |(_, revision)| revision);
            if self.space.change(&key, known, &operations, &[]).await?.succeeded {
                return Ok(());
            }
        }
        let why = "others announce the same object all the time";
        Err(Error::Unreachable(self.space.url.clone(), Some(why.into())))
    }

    async fn announcement(&self, object: ObjectId) -> Result<Option<Vec<u8>>, Error> {
        let key = announcement_key(object);
        let Some((mut stored, _)) = self.space.value(&key, frame::MAX_ANNOUNCED).await? else {
            return Ok(None);
        };
        frame::open_announcement(&stored, &self.space.place(&key))?;
        stored.drain(..frame::DUE_BYTES);
        Ok(Some(stored))
    }

    /// Names between `from` and `to`, in their order, at most `limit`.
    async fn names(&self, from: &str, to: &str, limit: usize) -> Result<Vec<String>, Error> {
        if limit == 0 {
            return Ok(Vec::new()); // etcd takes 0 for no limit
        }
        let range = Range::between(self.space.key(from), &self.space.key(to))
            .keys_only()
            .sorted(Sort::Key)
            .limited(limit_of(limit));
        let got = self.space.range(range).await?;
        let bare = |found: &KeyValue| self.space.bare(&found.key).map(str::to_owned);
        Ok(got.found.iter().filter_map(bare).collect())
    }

    async fn announced(&self, after: Option<ObjectId>, limit: usize) -> Result<Vec<ObjectId>, Error> {
        let from = after.map_or_else(
            || "announcements/".to_owned(),
            |after| format!("announcements/{after}\0"),
        );
        let names = self.names(&from, "announcements0", limit).await?;
        let parse = |name: &String| {
            let id = name.rsplit_once('/').and_then(|(_, id)| id.parse().ok());
            id.ok_or_else(|| frame::garbage(&self.space.place(name), "its name is not the id of an object"))
        };
        names.iter().map(parse).collect()
    }

    async fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<(Timestamp, ObjectId)>, Error> {
        // `.` comes after the `-` behind the time.
        let names = self
            .names("due/", &format!("due/{}.", frame::sortable(until)), limit)
            .await?;
        let parse = |name: &String| {
            let read = || {
                let (at, object) = name.strip_prefix("due/")?.split_once('-')?;
                Some((frame::unsortable(at)?, object.parse().ok()?))
            };
            read().ok_or_else(|| frame::garbage(&self.space.place(name), "its name is not a due time"))
        };
        names.iter().map(parse).collect()
    }

    async fn segments(&self, object: ObjectId) -> Result<Vec<RangeInclusive<u64>>, Error> {
        let folder = format!("objects/{object}/segments");
        let names = self
            .names(
                &format!("{folder}/"),
                &format!("{folder}0"),
                segment::MAX_SEGMENTS,
            )
            .await?;
        let parse = |name: &String| {
            let positions = name.rsplit_once('/').and_then(|(_, name)| segment::parse(name));
            positions
                .ok_or_else(|| frame::garbage(&self.space.place(name), "its name is not that of a segment"))
        };
        names.iter().map(parse).collect()
    }
}

impl Etcd {
    fn run<T: Send + 'static, F: Future<Output = Result<T, Error>> + Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(Arc<Shared>) -> F,
    ) -> Answer<'static, T> {
        self.driver.run(limit, work(Arc::clone(&self.shared)))
    }
}

impl Depot for Etcd {
    fn describe(&self) -> String {
        self.shared.space.url.clone()
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

impl Marks for Etcd {
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.run(QUICK, |shared| async move { shared.mark(object).await })
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        let (mark, expected) = (mark.clone(), expected.cloned());
        self.run(QUICK, |shared| async move { shared.swap(mark, expected).await })
    }

    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        let driver = Arc::clone(&self.driver);
        self.run(QUICK, |shared| async move {
            let held = presence::register(Arc::clone(&shared.space), driver, object, holder).await?;
            Ok(Some(Arc::new(held) as Arc<dyn PresenceGuard>))
        })
    }

    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence> {
        self.run(LONG, |shared| async move {
            presence::presence(&shared.space, object, holder).await
        })
    }
}

impl Archive for Etcd {
    fn announce<'a>(&'a self, object: ObjectId, bytes: &'a [u8], due: Option<Timestamp>) -> Answer<'a, ()> {
        let bytes = bytes.to_vec();
        self.run(LONG, |shared| async move {
            shared.announce(object, &bytes, due).await
        })
    }

    fn announcement(&self, object: ObjectId) -> Answer<'_, Option<Vec<u8>>> {
        self.run(QUICK, |shared| async move { shared.announcement(object).await })
    }

    fn announced(&self, after: Option<ObjectId>, limit: usize) -> Answer<'_, Vec<ObjectId>> {
        self.run(LONG, |shared| async move { shared.announced(after, limit).await })
    }

    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>> {
        self.run(LONG, |shared| async move { shared.due(until, limit).await })
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
            let what = format!("segment {} of {object}", segment::name(&positions));
            blobs::keep(&shared.space, &segment_key(object, &positions), &bytes, &what).await
        })
    }

    fn segments(&self, object: ObjectId) -> Answer<'_, Vec<RangeInclusive<u64>>> {
        self.run(LONG, |shared| async move { shared.segments(object).await })
    }

    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>> {
        self.run(LONG, |shared| async move {
            blobs::get(&shared.space, &segment_key(object, &positions), MAX_SEGMENT).await
        })
    }

    fn remove_segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, ()> {
        self.run(LONG, |shared| async move {
            blobs::remove(&shared.space, &segment_key(object, &positions), MAX_SEGMENT).await
        })
    }

    fn put_bundle<'a>(&'a self, id: BundleId, bytes: &'a [u8]) -> Answer<'a, ()> {
        let allowed = frame::bounded("the bundle", bytes, MAX_BUNDLE);
        let bytes = bytes.to_vec();
        self.run(LONG, |shared| async move {
            allowed?;
            blobs::keep(
                &shared.space,
                &format!("bundles/{id}"),
                &bytes,
                &format!("bundle {id}"),
            )
            .await
        })
    }

    fn bundle(&self, id: BundleId) -> Answer<'_, Option<Vec<u8>>> {
        self.run(LONG, |shared| async move {
            blobs::get(&shared.space, &format!("bundles/{id}"), MAX_BUNDLE).await
        })
    }
}
