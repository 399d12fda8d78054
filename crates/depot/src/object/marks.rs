//! Marks in a bucket, by conditional put, and whether the server keeps conditions at all.

use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::witness::Mark;

use super::store::{Put, Store};
use crate::open::Place;
use crate::{Error, Swap, Version, frame};

/// Tries of a swap that the server calls under way while nothing has changed.
const TRIES: usize = 5;

fn mark_key(object: ObjectId) -> String {
    format!("objects/{object}/mark")
}

async fn stored(store: &Store, object: ObjectId) -> Result<Option<(Vec<u8>, Mark, Version)>, Error> {
    let key = mark_key(object);
    let Some(found) = store.get(&key, frame::MAX_MARK).await? else {
        return Ok(None);
    };
    let place = store.place(&key);
    let mark = frame::open_mark(&found.bytes, object, &place)?;
    let tag = found
        .tag
        .ok_or_else(|| frame::garbage(&place, "the server gives it no tag"))?;
    Ok(Some((found.bytes, mark, Version(tag.into_bytes()))))
}

/// The mark of an object.
pub(super) async fn read(store: &Store, object: ObjectId) -> Result<Option<(Mark, Version)>, Error> {
    Ok(present(stored(store, object).await?))
}

/// Puts `mark` in place of the one whose version is `expected`.
pub(super) async fn swap(store: &Store, mark: &Mark, expected: Option<&Version>) -> Result<Swap, Error> {
    let bytes = frame::stamp(mark)?;
    let key = mark_key(mark.object);
    let tag = match expected {
        None => None,
        Some(version) => match tag_of(version) {
            Some(tag) => Some(tag),
            None => return Ok(Swap::Conflict(present(stored(store, mark.object).await?))),
        },
    };
    for _ in 0..TRIES {
        match store.put_if(&key, bytes.clone(), tag).await? {
            Put::Done(Some(tag)) => return Ok(Swap::Done(Version(tag.into_bytes()))),
            Put::Done(None) | Put::Refused => {}
        }
        let found = stored(store, mark.object).await?;
        match &found {
            // Ours: a proxy on the way had repeated the request.
            Some((found, _, version)) if *found == bytes => return Ok(Swap::Done(version.clone())),
            // Nothing has changed: the server only said that another put was under way.
            Some((_, _, version)) if Some(version) == expected => {}
            None if expected.is_none() => {}
            _ => return Ok(Swap::Conflict(present(found))),
        }
    }
    let why = "the server refuses the swap again and again, though the mark has not changed";
    Err(Error::Unreachable(store.url.clone(), Some(why.into())))
}

fn present(found: Option<(Vec<u8>, Mark, Version)>) -> Option<(Mark, Version)> {
    found.map(|(_, mark, version)| (mark, version))
}

/// A version as the tag that it is; `None` where it cannot be one of this backend's.
fn tag_of(version: &Version) -> Option<&str> {
    let tag = std::str::from_utf8(&version.0).ok()?;
    let possible = (1..=256).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_graphic());
    possible.then_some(tag)
}

/// Puts an object under conditions that do not hold, and refuses a server that takes it.
pub(super) async fn probe(store: &Store, place: &Place) -> Result<(), Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::NotAllowed(format!("no randomness: {error}")))?;
    let key = format!("probes/{}", Digest::of(&random).hex());
    let holds = probe_at(store, &key).await?;
    // Whoever may write but not remove leaves a byte behind.
    let _ = store.delete(&key).await;
    if holds {
        return Ok(());
    }
    Err(place.refuse(
        "the server ignores the conditions of If-None-Match and If-Match, so two copies of an object could both win; \
         use a server that keeps them",
    ))
}

async fn probe_at(store: &Store, key: &str) -> Result<bool, Error> {
    let Put::Done(Some(tag)) = store.put_if(key, b"1".to_vec(), None).await? else {
        return Ok(false);
    };
    let again = store.put_if(key, b"2".to_vec(), None).await?;
    let Put::Done(Some(newer)) = store.put_if(key, b"3".to_vec(), Some(&tag)).await? else {
        return Ok(false);
    };
    let late = store.put_if(key, b"4".to_vec(), Some(&tag)).await?;
    Ok(matches!((again, late), (Put::Refused, Put::Refused)) && newer != tag)
}
