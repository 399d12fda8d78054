//! Name tables in etcd: a key for each entry, and an empty one beside it where it is no tombstone, changed in one
//! transaction; so the cluster counts.

use suijuris_core::ClassId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::{Entry, Stage};

use super::gateway::{Done, KeyValue, Op, Range, Sort};
use super::keyspace::Keyspace;
use super::{Etcd, limit_of, revision_of, version};
use crate::driver::{LONG, QUICK};
use crate::{Answer, Directory, Error, MAX_NAMES, NameRemoval, NameSwap, Version, entry, frame};

impl Directory for Etcd {
    fn name<'a>(&'a self, class: ClassId, key: &'a Key) -> Answer<'a, Option<(Entry, Version)>> {
        let key = key.clone();
        self.run(
            QUICK,
            |shared| async move { read(&shared.space, class, &key).await },
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
            swap(&shared.space, class, &key, &entry, expected.as_ref()).await
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
            remove(&shared.space, class, &key, &expected).await
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
            list(&shared.space, class, after.as_ref(), limit.min(MAX_NAMES)).await
        })
    }

    fn count_names(&self, class: ClassId) -> Answer<'_, u64> {
        self.run(LONG, |shared| async move { count(&shared.space, class).await })
    }
}

/// What there is of an entry, if anything.
type Present = Option<(Entry, Version)>;

fn name_key(class: ClassId, key: &Key) -> String {
    format!("classes/{class}/names/{key}")
}

fn live_key(class: ClassId, key: &Key) -> String {
    format!("classes/{class}/live/{key}")
}

/// The entry under `key`.
async fn read(space: &Keyspace, class: ClassId, key: &Key) -> Result<Present, Error> {
    let key = name_key(class, key);
    let found = space.value(&key, entry::MAX_STORED).await?;
    let open = |(stored, revision): (Vec<u8>, i64)| {
        Ok((entry::open(&stored, &space.place(&key))?, version(revision)))
    };
    found.map(open).transpose()
}

/// Puts `entry` in place of the one whose version is `expected`.
async fn swap(
    space: &Keyspace,
    class: ClassId,
    key: &Key,
    entry: &Entry,
    expected: Option<&Version>,
) -> Result<NameSwap, Error> {
    let stored = entry::stamp(entry)?;
    let (name, live) = (name_key(class, key), space.key(&live_key(class, key)));
    let operations = [
        Op::Put(space.key(&name), stored, None),
        match entry.state {
            Stage::Founding | Stage::Founded => Op::Put(live, Vec::new(), None),
            Stage::Tombstone => Op::Delete(live),
        },
    ];
    let expected = expected.map_or(Some(0), revision_of);
    Ok(match change(space, &name, expected, &operations).await? {
        Ok(done) => NameSwap::Done(version(done.revision)),
        Err(present) => NameSwap::Conflict(present),
    })
}

/// Removes the entry whose version is `expected`.
async fn remove(
    space: &Keyspace,
    class: ClassId,
    key: &Key,
    expected: &Version,
) -> Result<NameRemoval, Error> {
    let name = name_key(class, key);
    let operations = [
        Op::Delete(space.key(&name)),
        Op::Delete(space.key(&live_key(class, key))),
    ];
    Ok(
        match change(space, &name, revision_of(expected), &operations).await? {
            Ok(_) => NameRemoval::Done,
            Err(present) => NameRemoval::Conflict(present),
        },
    )
}

/// Performs the operations if `name` was last changed by the revision `expected`; else what is there. No revision of etcd's
/// is expected where the version is not one of this backend's.
async fn change(
    space: &Keyspace,
    name: &str,
    expected: Option<i64>,
    operations: &[Op],
) -> Result<Result<Done, Present>, Error> {
    let get = [Op::Get(space.key(name))];
    let mut done = space
        .change(name, expected.unwrap_or(i64::MAX), operations, &get)
        .await?;
    if done.succeeded {
        return Ok(Ok(done));
    }
    let open = |found: KeyValue| -> Result<(Entry, Version), Error> {
        let entry = entry::open(&found.value, &space.place(name))?;
        Ok((entry, version(found.changed)))
    };
    Ok(Err(done.found.pop().map(open).transpose()?))
}

/// Entries whose keys come after `after`.
async fn list(
    space: &Keyspace,
    class: ClassId,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<(Key, Entry)>, Error> {
    if limit == 0 {
        return Ok(Vec::new()); // etcd takes 0 for no limit
    }
    let folder = format!("classes/{class}/names");
    let from = after.map_or_else(|| format!("{folder}/"), |after| format!("{folder}/{after}\0"));
    let range = Range::between(space.key(&from), &space.key(&format!("{folder}0")))
        .sorted(Sort::Key)
        .limited(limit_of(limit));
    let open = |found: &KeyValue| {
        let name = space.bare(&found.key).unwrap_or_default();
        let place = space.place(name);
        let (_, key) = name.rsplit_once('/').unwrap_or_default();
        let key = key
            .parse::<Key>()
            .map_err(|error| frame::garbage(&place, &error.to_string()))?;
        Ok((key, entry::open(&found.value, &place)?))
    };
    space.range(range).await?.found.iter().map(open).collect()
}

/// How many entries are no tombstones.
async fn count(space: &Keyspace, class: ClassId) -> Result<u64, Error> {
    let range = Range::under(space.key(&format!("classes/{class}/live/"))).count_only();
    let count = space.range(range).await?.count;
    u64::try_from(count).map_err(|_| frame::garbage(&space.url, "it counts less than nothing"))
}
