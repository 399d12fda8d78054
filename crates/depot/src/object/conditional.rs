//! What is changed only by conditional put: marks, and entries of name tables.

use super::store::{Put, Store};
use crate::{Error, Version, frame};

/// Tries of a swap that the server calls under way while nothing has changed.
const TRIES: usize = 5;

/// How one kind of these is kept.
pub(super) struct Kind<F> {
    /// Size at most, bytes.
    pub(super) max: usize,
    /// Reads it, as stored at a place.
    pub(super) open: F,
}

/// One of these, as it was found.
struct Found<T> {
    bytes: Vec<u8>,
    value: T,
    version: Version,
}

/// The outcome of a swap that was answered.
pub(super) enum Outcome<T> {
    Done(Version),
    Conflict(Option<(T, Version)>),
}

impl<T: Send, F: Fn(&[u8], &str) -> Result<T, Error> + Sync> Kind<F> {
    async fn found(&self, store: &Store, key: &str) -> Result<Option<Found<T>>, Error> {
        let Some(found) = store.get(key, self.max).await? else {
            return Ok(None);
        };
        let place = store.place(key);
        let value = (self.open)(&found.bytes, &place)?;
        let tag = found
            .tag
            .ok_or_else(|| frame::garbage(&place, "the server gives it no tag"))?;
        Ok(Some(Found {
            bytes: found.bytes,
            value,
            version: Version(tag.into_bytes()),
        }))
    }

    /// What is at `key`.
    pub(super) async fn read(&self, store: &Store, key: &str) -> Result<Option<(T, Version)>, Error> {
        Ok(present(self.found(store, key).await?))
    }

    /// Puts `bytes`, which were never put before, in place of what has the version `expected`.
    pub(super) async fn swap(
        &self,
        store: &Store,
        key: &str,
        bytes: Vec<u8>,
        expected: Option<&Version>,
    ) -> Result<Outcome<T>, Error> {
        let tag = match expected {
            None => None,
            Some(version) => match tag_of(version) {
                Some(tag) => Some(tag),
                None => return Ok(Outcome::Conflict(self.read(store, key).await?)),
            },
        };
        for _ in 0..TRIES {
            match store.put_if(key, bytes.clone(), tag).await? {
                Put::Done(Some(tag)) => return Ok(Outcome::Done(Version(tag.into_bytes()))),
                Put::Done(None) | Put::Refused => {}
            }
            let found = self.found(store, key).await?;
            match &found {
                // Ours: a proxy on the way had repeated the request.
                Some(found) if found.bytes == bytes => return Ok(Outcome::Done(found.version.clone())),
                // Nothing has changed: the server only said that another put was under way.
                Some(found) if Some(&found.version) == expected => {}
                None if expected.is_none() => {}
                _ => return Ok(Outcome::Conflict(present(found))),
            }
        }
        let why = "the server refuses the swap again and again, though nothing has changed there";
        Err(Error::Unreachable(store.url.clone(), Some(why.into())))
    }
}

fn present<T>(found: Option<Found<T>>) -> Option<(T, Version)> {
    found.map(|found| (found.value, found.version))
}

/// A version as the tag that it is; `None` where it cannot be one of this backend's.
fn tag_of(version: &Version) -> Option<&str> {
    let tag = std::str::from_utf8(&version.0).ok()?;
    let possible = (1..=256).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_graphic());
    possible.then_some(tag)
}
