//! Messages in a bucket: one object each, and one for each key that was ever accepted.
//!
//! A message is put first and then its key, create-only, with the message's place in it. Whoever puts the key has
//! accepted the message; a message whose key names another place was a duplicate, one without a key was never accepted.
//! So a key that is there means that its message was stored, however the poster ended.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::message::{self, Message, MessageKey};
use suijuris_core::time::Timestamp;

use super::store::{Entry, Put, Store, each};
use crate::{Error, MAX_READ, MAX_WAITING, Posted, Waiting, frame};

/// How long acknowledged keys are remembered at least, seconds.
const REMEMBERED_S: i64 = 30 * 24 * 60 * 60;

/// Acknowledgements of this process between two looks for keys to forget.
const LOOK_EVERY: u64 = 10_000;

/// Keys that one look goes through.
const LOOK: usize = 1_000_000;

/// What stands in place of a message's place once it was acknowledged.
const DONE: &[u8] = b"acknowledged";

/// Size of a place, bytes: the time it was accepted, and eight random digits.
const PLACE: usize = 16 + 8;

fn inbox(object: ObjectId) -> String {
    format!("objects/{object}/inbox")
}

fn seen(object: ObjectId, key: MessageKey) -> String {
    format!("objects/{object}/seen/{}", key.0.hex())
}

/// An entry of the inbox.
#[derive(Debug, Clone)]
struct Letter {
    place: String,
    key: MessageKey,
}

impl Letter {
    fn name(&self) -> String {
        format!("{}-{}", self.place, self.key.0.hex())
    }

    fn parse(store: &Store, object: ObjectId, entry: &Entry) -> Result<Self, Error> {
        let read = || {
            let (place, key) = entry.name.split_once('-')?;
            let key = MessageKey(key.parse::<Digest>().ok()?);
            let place = Some(place).filter(|place| place.len() == PLACE && at(place).is_some())?;
            Some(Self {
                place: place.to_owned(),
                key,
            })
        };
        let place = store.place(&format!("{}/{}", inbox(object), entry.name));
        read().ok_or_else(|| frame::garbage(&place, "its name is not the position of a message"))
    }
}

fn at(place: &str) -> Option<Timestamp> {
    frame::unsortable(place.get(..16)?)
}

async fn letters(store: &Store, object: ObjectId) -> Result<Vec<Letter>, Error> {
    let names = store
        .names(&inbox(object), None, 2 * MAX_WAITING, |_| true)
        .await?;
    names
        .iter()
        .map(|entry| Letter::parse(store, object, entry))
        .collect()
}

/// Stores a message, once.
pub(crate) async fn post(store: &Store, object: ObjectId, message: &Message) -> Result<Posted, Error> {
    let bytes = frame::encode_message(message)?;
    let key = message.key();
    let claim = seen(object, key);
    if store.get(&claim, PLACE).await?.is_some() {
        return Ok(Posted::Duplicate);
    }
    let waiting = letters(store, object).await?;
    if waiting.len() >= MAX_WAITING {
        return Err(Error::InboxFull);
    }
    let last = waiting.last().and_then(|letter| at(&letter.place));
    let after = last.map_or(i64::MIN, |last| last.0.saturating_add(1));
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| Error::NotAllowed(format!("no randomness: {error}")))?;
    let time = frame::sortable(Timestamp(message.accepted.0.max(after)));
    let letter = Letter {
        place: format!("{time}{:08x}", u32::from_be_bytes(random)),
        key,
    };
    let name = format!("{}/{}", inbox(object), letter.name());
    store.put(&name, bytes).await?;
    match store
        .put_if(&claim, letter.place.clone().into_bytes(), None)
        .await?
    {
        Put::Done(_) => Ok(Posted::Stored),
        Put::Refused => {
            store.delete(&name).await?;
            Ok(Posted::Duplicate)
        }
    }
}

/// Waiting messages, oldest first.
pub(crate) async fn read(store: &Store, object: ObjectId, limit: usize) -> Result<Vec<Waiting>, Error> {
    let mut waiting = Vec::new();
    let mut left = MAX_READ;
    let all = letters(store, object).await?;
    // A few at a time, so that neither memory nor requests are spent on what does not fit.
    for some in all.chunks(16) {
        let opened = each(some.to_vec(), |letter| open(store, object, letter)).await?;
        for (bytes, message) in opened.into_iter().flatten() {
            let fits = bytes <= left || waiting.is_empty();
            if waiting.len() >= limit || !fits {
                return Ok(waiting);
            }
            left = left.saturating_sub(bytes);
            waiting.push(message);
        }
    }
    Ok(waiting)
}

/// The message behind a letter and its size, if it was accepted and not acknowledged.
async fn open(store: &Store, object: ObjectId, letter: Letter) -> Result<Option<(usize, Waiting)>, Error> {
    let name = format!("{}/{}", inbox(object), letter.name());
    match store.get(&seen(object, letter.key), PLACE).await? {
        Some(found) if found.bytes == letter.place.as_bytes() => {}
        Some(_) => {
            // A duplicate, or acknowledged: its poster or reader ended before it removed it.
            store.delete(&name).await?;
            return Ok(None);
        }
        None => return Ok(None),
    }
    let Some(found) = store.get(&name, message::MAX_BYTES).await? else {
        return Ok(None);
    };
    let place = store.place(&name);
    let message = frame::open_message(&found.bytes, &place)?;
    if message.key() != letter.key {
        return Err(frame::garbage(&place, "it is another message than its name says"));
    }
    let place = letter.place;
    Ok(Some((found.bytes.len(), Waiting { place, message })))
}

/// Takes messages out for good. `count` counts acknowledgements of this process.
pub(crate) async fn acknowledge(
    store: &Store,
    object: ObjectId,
    messages: &BTreeSet<MessageKey>,
    count: &AtomicU64,
) -> Result<(), Error> {
    let mut done = letters(store, object).await?;
    done.retain(|letter| messages.contains(&letter.key));
    let looks = done.iter().fold(false, |looks, _| {
        looks | count.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY)
    });
    each(done, |letter| async move {
        store.put(&seen(object, letter.key), DONE.to_vec()).await?;
        store
            .delete(&format!("{}/{}", inbox(object), letter.name()))
            .await
    })
    .await?;
    if looks {
        forget(store, object).await?;
    }
    Ok(())
}

/// Forgets keys that were acknowledged long before the newest one, by the server's clock; never that of a message that waits.
async fn forget(store: &Store, object: ObjectId) -> Result<(), Error> {
    let waiting: BTreeSet<String> = letters(store, object)
        .await?
        .iter()
        .map(|letter| letter.key.0.hex())
        .collect();
    let folder = format!("objects/{object}/seen");
    let keys = store.names(&folder, None, LOOK, |_| true).await?;
    let newest = keys
        .iter()
        .map(|entry| entry.meta.last_modified.timestamp())
        .max()
        .unwrap_or_default();
    let old: Vec<Entry> = keys
        .into_iter()
        .filter(|entry| newest - entry.meta.last_modified.timestamp() > REMEMBERED_S)
        .filter(|entry| !waiting.contains(&entry.name))
        .collect();
    let keys = old
        .into_iter()
        .map(|entry| format!("{folder}/{}", entry.name))
        .collect();
    each(keys, |key: String| async move { store.delete(&key).await }).await?;
    Ok(())
}

/// What the inbox looks like: changes whenever it does.
pub(crate) async fn glance(store: &Store, object: ObjectId) -> Result<Digest, Error> {
    let letters = letters(store, object).await?;
    let names: Vec<String> = letters.iter().map(Letter::name).collect();
    Ok(Digest::of(names.join("\n").as_bytes()))
}
