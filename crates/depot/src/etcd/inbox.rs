//! Messages in etcd: one key each, in the order in which the cluster made them; acknowledged ones leave a key behind.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::message::{self, Message, MessageKey};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::gateway::{Compare, KeyValue, Op, Range, Sort};
use super::keyspace::Keyspace;
use super::{Etcd, Shared};
use crate::driver::{LONG, QUICK};
use crate::{Answer, Error, Inbox, MAX_READ, MAX_WAITING, Posted, Waiting, frame};

/// How long the cluster remembers acknowledged keys, seconds; each lease serves for a day, so 30 days at least.
const REMEMBERED_S: i64 = 31 * 24 * 60 * 60;

/// How long one lease is given to new keys.
const LEASE_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Messages acknowledged in one transaction; etcd takes 128 operations.
const TOGETHER: usize = 50;

/// Objects whose inboxes' last look is remembered.
const LOOKS: usize = 10_000;

/// A lease under which acknowledged keys are remembered, and since when.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Option<(i64, Instant)>>);

impl Inbox for Etcd {
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted> {
        let message = message.clone();
        self.run(QUICK, |shared| async move {
            post(&shared.space, object, &message).await
        })
    }

    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>> {
        self.run(LONG, |shared| async move { shared.inbox(object, limit).await })
    }

    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()> {
        let messages = messages.iter().copied().collect();
        self.run(LONG, |shared| async move {
            acknowledge(&shared.space, object, &messages, &shared.memory).await
        })
    }

    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()> {
        let shared = Arc::clone(&self.shared);
        // The last look before this call: a later one, perhaps of another reader, may have seen what this one waits for.
        let known = shared.looks().get(&object).copied();
        let changed = async move { shared.inbox_changed(object, known, at_most).await };
        self.driver
            .run_while_awaited(at_most.saturating_add(LONG), changed)
    }
}

impl Shared {
    fn looks(&self) -> MutexGuard<'_, HashMap<ObjectId, i64>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn inbox(&self, object: ObjectId, limit: usize) -> Result<Vec<Waiting>, Error> {
        let (waiting, at) = read(&self.space, object, limit).await?;
        let mut looks = self.looks();
        if looks.len() >= LOOKS {
            looks.clear();
        }
        looks.insert(object, at);
        Ok(waiting)
    }

    async fn inbox_changed(
        &self,
        object: ObjectId,
        known: Option<i64>,
        at_most: Duration,
    ) -> Result<(), Error> {
        let known = match known.filter(|known| *known > 0) {
            Some(known) => known,
            // Nobody has looked yet: whatever waits is news.
            None => match any(&self.space, object).await? {
                (true, _) => return Ok(()),
                (false, at) => at,
            },
        };
        changed(&self.space, object, known, at_most).await
    }
}

fn inbox(object: ObjectId) -> String {
    format!("objects/{object}/inbox/")
}

fn waiting_key(object: ObjectId, key: MessageKey) -> String {
    format!("{}{}", inbox(object), key.0.hex())
}

fn seen_key(object: ObjectId, key: MessageKey) -> String {
    format!("objects/{object}/seen/{}", key.0.hex())
}

/// Stores a message, once.
async fn post(space: &Keyspace, object: ObjectId, message: &Message) -> Result<Posted, Error> {
    let bytes = frame::encode_message(message)?;
    let (waiting, seen) = (
        waiting_key(object, message.key()),
        seen_key(object, message.key()),
    );
    let count = Range::under(space.key(&inbox(object))).count_only();
    let full = usize::try_from(space.range(count).await?.count).is_ok_and(|count| count >= MAX_WAITING);
    let put = Op::Put(space.key(&waiting), bytes, None);
    // A full inbox still knows its duplicates.
    let then = if full { vec![] } else { vec![put] };
    let when = [
        Compare::Absent(space.key(&waiting)),
        Compare::Absent(space.key(&seen)),
    ];
    let done = space.gateway().txn(&when, &then, &[]).await;
    match (done.map_err(|cause| space.failed(cause))?.succeeded, full) {
        (true, false) => Ok(Posted::Stored),
        (true, true) => Err(Error::InboxFull),
        (false, _) => Ok(Posted::Duplicate),
    }
}

/// A message that waits: its key and when the cluster made it.
struct Letter {
    name: String,
    key: MessageKey,
    created: i64,
}

/// At most `limit` of those that wait, oldest first, and the revision at which that was true.
async fn letters(space: &Keyspace, object: ObjectId, limit: usize) -> Result<(Vec<Letter>, i64), Error> {
    let range = Range::under(space.key(&inbox(object)))
        .keys_only()
        .sorted(Sort::Create)
        .limited(i64::try_from(limit.min(2 * MAX_WAITING)).unwrap_or(i64::MAX));
    let got = space.range(range).await?;
    let parse = |found: &KeyValue| -> Result<Letter, Error> {
        let name = space.bare(&found.key).unwrap_or_default();
        let key = name
            .rsplit_once('/')
            .and_then(|(_, key)| key.parse::<Digest>().ok());
        let key =
            key.ok_or_else(|| frame::garbage(&space.place(name), "its name is not the key of a message"))?;
        Ok(Letter {
            name: name.to_owned(),
            key: MessageKey(key),
            created: found.created,
        })
    };
    Ok((
        got.found.iter().map(parse).collect::<Result<_, _>>()?,
        got.revision,
    ))
}

/// Waiting messages, oldest first, and the revision at which they waited.
async fn read(space: &Keyspace, object: ObjectId, limit: usize) -> Result<(Vec<Waiting>, i64), Error> {
    let mut waiting = Vec::new();
    if limit == 0 {
        return Ok((waiting, 0));
    }
    let (letters, at) = letters(space, object, limit).await?;
    let mut left = MAX_READ;
    for letter in letters {
        let Some((bytes, _)) = space.value(&letter.name, message::MAX_BYTES).await? else {
            continue; // acknowledged a moment ago
        };
        if bytes.len() > left && !waiting.is_empty() {
            break;
        }
        left = left.saturating_sub(bytes.len());
        let place = space.place(&letter.name);
        let message = frame::open_message(&bytes, &place)?;
        if message.key() != letter.key {
            return Err(frame::garbage(&place, "it is another message than its key says"));
        }
        let place = format!("{:020}", letter.created);
        waiting.push(Waiting { place, message });
    }
    Ok((waiting, at))
}

/// Takes messages out for good.
async fn acknowledge(
    space: &Keyspace,
    object: ObjectId,
    messages: &BTreeSet<MessageKey>,
    memory: &Memory,
) -> Result<(), Error> {
    let (mut done, _) = letters(space, object, usize::MAX).await?;
    done.retain(|letter| messages.contains(&letter.key));
    if done.is_empty() {
        return Ok(());
    }
    let lease = memory.lease(space).await?;
    for some in done.chunks(TOGETHER) {
        let operations = some.iter().flat_map(|letter| {
            let seen = space.key(&seen_key(object, letter.key));
            [
                Op::Put(seen, Vec::new(), Some(lease)),
                Op::Delete(space.key(&letter.name)),
            ]
        });
        let operations: Vec<Op> = operations.collect();
        if let Err(cause) = space.gateway().txn(&[], &operations, &[]).await {
            // The lease may be gone, with a cluster that was restored: the next try takes a new one.
            memory.forget().await;
            return Err(space.failed(cause));
        }
    }
    Ok(())
}

/// Resolves when a message is posted after `known`, or after `at_most`.
async fn changed(space: &Keyspace, object: ObjectId, known: i64, at_most: Duration) -> Result<(), Error> {
    let prefix = space.key(&inbox(object));
    let watch = space.gateway().watch(&prefix, known + 1);
    match tokio::time::timeout(at_most, watch).await {
        Ok(Err(cause)) => Err(space.failed(cause)),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// Whether anything waits, and the revision at which that was true.
async fn any(space: &Keyspace, object: ObjectId) -> Result<(bool, i64), Error> {
    let got = space
        .range(Range::under(space.key(&inbox(object))).count_only())
        .await?;
    Ok((got.count > 0, got.revision))
}

impl Memory {
    async fn lease(&self, space: &Keyspace) -> Result<i64, Error> {
        let mut held = self.0.lock().await;
        if let Some((lease, since)) = *held
            && since.elapsed() < LEASE_FOR
        {
            return Ok(lease);
        }
        let granted = space.gateway().grant(REMEMBERED_S).await;
        let lease = granted.map_err(|cause| space.failed(cause))?;
        *held = Some((lease, Instant::now()));
        Ok(lease)
    }

    async fn forget(&self) {
        *self.0.lock().await = None;
    }
}
