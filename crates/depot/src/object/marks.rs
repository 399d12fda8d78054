//! Marks in a bucket, by conditional put, and whether the server keeps conditions at all.

use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::witness::Mark;

use super::conditional::{Kind, Outcome};
use super::store::{Put, Store};
use crate::open::DepotUrl;
use crate::{Error, Swap, Version, frame};

fn mark_key(object: ObjectId) -> String {
    format!("objects/{object}/mark")
}

fn kind(object: ObjectId) -> Kind<impl Fn(&[u8], &str) -> Result<Mark, Error> + Sync> {
    Kind {
        max: frame::MAX_MARK,
        open: move |stored: &[u8], place: &str| frame::open_mark(stored, object, place),
    }
}

/// The mark of an object.
pub(super) async fn read(store: &Store, object: ObjectId) -> Result<Option<(Mark, Version)>, Error> {
    kind(object).read(store, &mark_key(object)).await
}

/// Puts `mark` in place of the one whose version is `expected`.
pub(super) async fn swap(store: &Store, mark: &Mark, expected: Option<&Version>) -> Result<Swap, Error> {
    let (key, bytes) = (mark_key(mark.object), frame::stamp(mark)?);
    Ok(
        match kind(mark.object).swap(store, &key, bytes, expected).await? {
            Outcome::Done(version) => Swap::Done(version),
            Outcome::Conflict(present) => Swap::Conflict(present),
        },
    )
}

/// Puts an object under conditions that do not hold, and refuses a server that takes it.
pub(super) async fn probe(store: &Store, place: &DepotUrl) -> Result<(), Error> {
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
