//! Name tables in a bucket, by conditional put.
//!
//! Nothing is removed there on a condition, so an entry that is removed is put over by one that says so; it stays, counts
//! for nothing, and is put over by the next entry of its key.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use suijuris_core::ClassId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::{Entry, Stage};
use tokio::time::Instant;

use super::conditional::{Kind, Outcome};
use super::store::{Store, each};
use super::{Objects, Shared};
use crate::driver::{LONG, QUICK};
use crate::{Answer, Directory, Error, MAX_NAMES, NameRemoval, NameSwap, Version, entry, frame};

impl Directory for Objects {
    fn name<'a>(&'a self, class: ClassId, key: &'a Key) -> Answer<'a, Option<(Entry, Version)>> {
        let key = key.clone();
        self.run(
            QUICK,
            |shared| async move { read(&shared.store, class, &key).await },
        )
    }

    fn swap_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        entry: &'a Entry,
        expected: Option<&'a Version>,
    ) -> Answer<'a, NameSwap> {
        let (key, entry, expected) = (key.clone(), entry.clone(), expected.cloned());
        self.run(QUICK, |shared| async move {
            shared.swap_name(class, &key, &entry, expected.as_ref()).await
        })
    }

    fn remove_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, NameRemoval> {
        let (key, expected) = (key.clone(), expected.clone());
        self.run(QUICK, |shared| async move {
            shared.remove_name(class, &key, &expected).await
        })
    }

    fn names<'a>(
        &'a self,
        class: ClassId,
        after: Option<&'a Key>,
        limit: usize,
    ) -> Answer<'a, Vec<(Key, Entry)>> {
        let after = after.cloned();
        self.run(LONG, |shared| async move {
            list(&shared.store, class, after.as_ref(), limit.min(MAX_NAMES)).await
        })
    }

    fn count_names(&self, class: ClassId) -> Answer<'_, u64> {
        self.run(LONG, |shared| async move {
            shared.counts.count(&shared.store, class).await
        })
    }
}

impl Shared {
    async fn swap_name(
        &self,
        class: ClassId,
        key: &Key,
        entry: &Entry,
        expected: Option<&Version>,
    ) -> Result<NameSwap, Error> {
        self.probe().await?;
        let swapped = swap(&self.store, class, key, entry, expected).await;
        match &swapped {
            Ok(NameSwap::Done(_)) => self.counts.put(class, entry, expected),
            Ok(NameSwap::Conflict(_)) => {}
            Err(_) => self.counts.forget(class),
        }
        swapped
    }

    async fn remove_name(&self, class: ClassId, key: &Key, expected: &Version) -> Result<NameRemoval, Error> {
        self.probe().await?;
        let removed = remove(&self.store, class, key, expected).await;
        self.counts.forget(class);
        removed
    }
}

/// Reads an entry, or that there is none any more.
type Open = fn(&[u8], &str) -> Result<Option<Entry>, Error>;

const NAME: Kind<Open> = Kind {
    max: entry::MAX_STORED,
    open: entry::open_or_freed,
};

/// Tries to create an entry whose key is freed again and again.
const TRIES: usize = 5;

/// How long a count is believed: each is a list of the whole table, a request for 1,000 names.
const BELIEVED: Duration = Duration::from_secs(10);

/// Classes whose count is remembered.
const COUNTS: usize = 10_000;

fn folder(class: ClassId) -> String {
    format!("classes/{class}/names")
}

fn name_key(class: ClassId, key: &Key) -> String {
    format!("{}/{key}", folder(class))
}

/// An entry that is there, and not one that was removed.
fn there(found: Option<(Option<Entry>, Version)>) -> Option<(Entry, Version)> {
    found.and_then(|(entry, version)| Some((entry?, version)))
}

/// The entry under `key`.
async fn read(store: &Store, class: ClassId, key: &Key) -> Result<Option<(Entry, Version)>, Error> {
    Ok(there(NAME.read(store, &name_key(class, key)).await?))
}

/// Puts `entry` in place of the one whose version is `expected`.
async fn swap(
    store: &Store,
    class: ClassId,
    key: &Key,
    entry: &Entry,
    expected: Option<&Version>,
) -> Result<NameSwap, Error> {
    let at = name_key(class, key);
    let mut over = expected.cloned();
    for _ in 0..TRIES {
        let bytes = entry::stamp(entry)?;
        match NAME.swap(store, &at, bytes, over.as_ref()).await? {
            Outcome::Done(version) => return Ok(NameSwap::Done(version)),
            // There is none, where none is expected.
            Outcome::Conflict(None) if expected.is_none() => over = None,
            Outcome::Conflict(Some((None, freed))) if expected.is_none() => over = Some(freed),
            Outcome::Conflict(present) => return Ok(NameSwap::Conflict(there(present))),
        }
    }
    let why = "others make and remove the same entry all the time";
    Err(Error::Unreachable(store.url.clone(), Some(why.into())))
}

/// Frees the key whose entry has the version `expected`.
async fn remove(store: &Store, class: ClassId, key: &Key, expected: &Version) -> Result<NameRemoval, Error> {
    let at = name_key(class, key);
    Ok(
        match NAME.swap(store, &at, entry::freed()?, Some(expected)).await? {
            Outcome::Done(_) => NameRemoval::Done,
            Outcome::Conflict(present) => NameRemoval::Conflict(there(present)),
        },
    )
}

/// Entries whose keys come after `after`.
async fn list(
    store: &Store,
    class: ClassId,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<(Key, Entry)>, Error> {
    let folder = folder(class);
    let mut after = after.map(Key::to_string);
    let mut found = Vec::new();
    while found.len() < limit {
        let names = store
            .names(&folder, after.as_deref(), limit - found.len(), |_| true)
            .await?;
        let Some(last) = names.last() else {
            break;
        };
        after = Some(last.name.clone());
        let parse = |name: &String| {
            let garbage = |error: suijuris_core::class::KeyError| {
                frame::garbage(&store.place(&format!("{folder}/{name}")), &error.to_string())
            };
            name.parse::<Key>().map_err(garbage)
        };
        let keys: Result<Vec<Key>, Error> = names.iter().map(|entry| parse(&entry.name)).collect();
        let entries = each(keys?, |key| async move {
            let found = read(store, class, &key).await?;
            Ok(found.map(|(entry, _)| (key, entry)))
        });
        found.extend(entries.await?.into_iter().flatten());
    }
    Ok(found)
}

/// How many entries there are of classes, as this process knows it.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<HashMap<ClassId, (u64, Instant)>>);

impl Counts {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<ClassId, (u64, Instant)>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many entries of `class` are no tombstones; what others do is seen after [`BELIEVED`].
    async fn count(&self, store: &Store, class: ClassId) -> Result<u64, Error> {
        let known = self.with(|counts| counts.get(&class).copied());
        if let Some((count, at)) = known
            && at.elapsed() < BELIEVED
        {
            return Ok(count);
        }
        let begun = Instant::now();
        let count = store
            .count(&folder(class), |meta| entry::counts(meta.size))
            .await?;
        self.with(|counts| {
            if counts.len() >= COUNTS {
                counts.clear();
            }
            counts.insert(class, (count, begun));
        });
        Ok(count)
    }

    /// An entry was put where `expected` was.
    fn put(&self, class: ClassId, entry: &Entry, expected: Option<&Version>) {
        match (expected, entry.state) {
            (None, Stage::Founding | Stage::Founded) => self.with(|counts| {
                counts.entry(class).and_modify(|(count, _)| *count += 1);
            }),
            // Of what is founding it comes to be founded: a tombstone is only ever removed.
            (Some(_), Stage::Founding | Stage::Founded) => {}
            (_, Stage::Tombstone) => self.forget(class),
        }
    }

    /// Something changed, and nobody knows what.
    fn forget(&self, class: ClassId) {
        self.with(|counts| counts.remove(&class));
    }
}
