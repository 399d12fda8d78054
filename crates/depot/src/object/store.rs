//! One bucket under a prefix: whole objects with size limits, conditional puts, lists, and what failures mean.
//!
//! Reads are tried again a bounded number of times; writes are not, because a write whose answer was lost may have
//! happened, and only the caller can tell.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Error as Cause, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    UpdateVersion,
};

use crate::{Error, frame};

/// Pauses before a read is tried again.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// A bucket, and how its errors are called.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    pub(crate) url: String,
}

impl fmt::Debug for Store {
    /// The client inside knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.url).finish()
    }
}

/// The outcome of a conditional put that was answered.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is there, with this tag.
    Done(Option<String>),
    /// The condition did not hold, or the server says that another put was under way.
    Refused,
}

/// An object in the bucket.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tag: Option<String>,
}

impl Store {
    /// The full key of `key`.
    pub(crate) fn path(&self, key: &str) -> Path {
        key.split('/')
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// `key` as errors name it.
    pub(crate) fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    fn unreadable(&self, cause: Cause) -> Error {
        Error::Unreachable(self.url.clone(), Some(cause.into()))
    }

    /// What a failed write means. Only a refusal by the server says that nothing has changed.
    pub(crate) fn unwritten(&self, cause: Cause) -> Error {
        match cause {
            Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => {
                Error::ReadOnly(self.url.clone(), Some(cause.into()))
            }
            cause if frame::told(&cause).contains("507 Insufficient Storage") => {
                Error::Full(self.url.clone())
            }
            cause => self.unreadable(cause),
        }
    }

    /// The object at `key`, of at most `max` bytes.
    pub(crate) async fn get(&self, key: &str, max: usize) -> Result<Option<Found>, Error> {
        self.get_range(key, max, None).await
    }

    /// The first `len` bytes of the object at `key`, which has at least that many.
    pub(crate) async fn get_start(&self, key: &str, len: usize) -> Result<Option<Found>, Error> {
        self.get_range(key, usize::MAX, Some(len)).await
    }

    async fn get_range(&self, key: &str, max: usize, start: Option<usize>) -> Result<Option<Found>, Error> {
        for pause in AGAIN {
            match self.get_once(key, max, start).await {
                Err(Error::Unreachable(..)) => tokio::time::sleep(pause).await,
                answer => return answer,
            }
        }
        self.get_once(key, max, start).await
    }

    async fn get_once(&self, key: &str, max: usize, start: Option<usize>) -> Result<Option<Found>, Error> {
        let options = GetOptions {
            range: start.map(|len| GetRange::Bounded(0..len as u64)),
            ..GetOptions::default()
        };
        let found = match self.inner.get_opts(&self.path(key), options).await {
            Ok(found) => found,
            Err(Cause::NotFound { .. }) => return Ok(None),
            Err(cause) => return Err(self.unreadable(cause)),
        };
        if found.meta.size > max as u64 {
            let why = format!("it has more than {max} bytes");
            return Err(frame::garbage(&self.place(key), &why));
        }
        let tag = found.meta.e_tag.clone();
        let bytes = found.bytes().await.map_err(|cause| self.unreadable(cause))?;
        Ok(Some(Found {
            bytes: bytes.to_vec(),
            tag,
        }))
    }

    /// Puts `bytes` at `key`, over what is there.
    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let put = self.inner.put(&self.path(key), bytes.into()).await;
        put.map(drop).map_err(|cause| self.unwritten(cause))
    }

    /// Puts `bytes` at `key` if the tag there is `expected` (`None`: nothing is there).
    pub(crate) async fn put_if(
        &self,
        key: &str,
        bytes: Vec<u8>,
        expected: Option<&str>,
    ) -> Result<Put, Error> {
        let mode = expected.map_or(PutMode::Create, |tag| {
            PutMode::Update(UpdateVersion {
                e_tag: Some(tag.to_owned()),
                version: None,
            })
        });
        let put = self
            .inner
            .put_opts(&self.path(key), bytes.into(), PutOptions::from(mode))
            .await;
        match put {
            Ok(put) => Ok(Put::Done(put.e_tag)),
            // 412, or 409 where another conditional put of this key is under way.
            Err(Cause::AlreadyExists { .. } | Cause::Precondition { .. }) => Ok(Put::Refused),
            // Some servers say 404 where If-Match meets nothing.
            Err(Cause::NotFound { .. }) if expected.is_some() => Ok(Put::Refused),
            Err(cause) => Err(self.unwritten(cause)),
        }
    }

    /// Removes `key`; one that is not there is no error.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), Error> {
        match self.inner.delete(&self.path(key)).await {
            Ok(()) | Err(Cause::NotFound { .. }) => Ok(()),
            Err(cause) => Err(self.unwritten(cause)),
        }
    }

    /// Names below `folder`, in their order, after `after`, while `wanted` and at most `max`.
    pub(crate) async fn names(
        &self,
        folder: &str,
        after: Option<&str>,
        max: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, Error> {
        for pause in AGAIN {
            match self.names_once(folder, after, max, &wanted).await {
                Err(Error::Unreachable(..)) => tokio::time::sleep(pause).await,
                answer => return answer,
            }
        }
        self.names_once(folder, after, max, &wanted).await
    }

    /// All names below `folder`, without the prefix, in their order.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let listed = self
            .inner
            .list(Some(&self.path(folder)))
            .try_collect::<Vec<_>>()
            .await;
        let listed = listed.map_err(|cause| self.unreadable(cause))?;
        let below = |meta: ObjectMeta| {
            let parts = meta.location.prefix_match(&self.prefix)?;
            Some(
                parts
                    .map(|part| part.as_ref().to_owned())
                    .collect::<Vec<_>>()
                    .join("/"),
            )
        };
        let mut names: Vec<String> = listed.into_iter().filter_map(below).collect();
        names.sort();
        Ok(names)
    }

    /// How many objects are below `folder` whose description `counts`.
    pub(crate) async fn count(
        &self,
        folder: &str,
        counts: impl Fn(&ObjectMeta) -> bool,
    ) -> Result<u64, Error> {
        for pause in AGAIN {
            match self.count_once(folder, &counts).await {
                Err(Error::Unreachable(..)) => tokio::time::sleep(pause).await,
                answer => return answer,
            }
        }
        self.count_once(folder, &counts).await
    }

    async fn count_once(&self, folder: &str, counts: &impl Fn(&ObjectMeta) -> bool) -> Result<u64, Error> {
        let base = self.path(folder);
        let mut listed = self.inner.list(Some(&base));
        let mut count = 0;
        while let Some(meta) = listed.try_next().await.map_err(|cause| self.unreadable(cause))? {
            count += u64::from(counts(&meta));
        }
        Ok(count)
    }

    async fn names_once(
        &self,
        folder: &str,
        after: Option<&str>,
        max: usize,
        wanted: &impl Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, Error> {
        let base = self.path(folder);
        let mut listed = match after {
            Some(after) => self
                .inner
                .list_with_offset(Some(&base), &base.clone().join(after)),
            None => self.inner.list(Some(&base)),
        };
        let mut names = Vec::new();
        // Both S3 and Azure list in the order of names, page by page.
        while names.len() < max {
            let Some(meta) = listed.try_next().await.map_err(|cause| self.unreadable(cause))? else {
                break;
            };
            let Some(name) = meta.location.filename().map(str::to_owned) else {
                continue;
            };
            if !wanted(&name) {
                break;
            }
            names.push(Entry { name, meta });
        }
        names.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(names)
    }
}

/// One name of a list.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) meta: ObjectMeta,
}

/// Requests under way at once, where one call needs many.
const ABREAST: usize = 8;

/// Performs `work` on each of `items`, several at once; results in their order.
pub(crate) async fn each<I, T, F>(items: Vec<I>, work: impl Fn(I) -> F) -> Result<Vec<T>, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    futures_util::stream::iter(items)
        .map(work)
        .buffered(ABREAST)
        .try_collect()
        .await
}
