//! A depot in a local directory, the default: files that are whole or not there, locks that end with their process.
//!
//! For any number of processes of one machine. Not for a directory that machines share over a network, whose locks cannot
//! be trusted in the same way. Everything is 0600 or 0700. `spec/depot.md` gives the layout.

mod common;
mod files;
mod holders;
mod inbox;
mod layout;
mod marks;
mod names;
mod sleepers;
mod watch;

use std::fs::DirBuilder;
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ObjectId};

use self::common::Commons;
use self::files::{Created, Files};
use self::watch::Watcher;
use crate::pool::Pool;
use crate::{
    Answer, Archive, Depot, Error, Inbox, MAX_BUNDLE, MAX_SEGMENT, Marks, Posted, Presence, PresenceGuard,
    Swap, Version, Waiting, frame, segment,
};

/// A depot in a local directory.
#[derive(Debug)]
pub struct Local {
    shared: Arc<Shared>,
    pool: Pool,
    watcher: Watcher,
}

#[derive(Debug)]
struct Shared {
    files: Files,
    /// The kernel alone keeps its locks.
    locks: bool,
    acknowledged: AtomicU64,
    commons: Commons,
    turns: names::Turns,
}

impl Local {
    /// The depot in `directory`, which is made where it is not there. Blocks for a few syncs at most.
    ///
    /// # Errors
    /// [`Error::Url`] for a directory that holds something else, or a depot of a later format; else as any operation.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let given = directory.display().to_string();
        let refuse = |why: String| Error::Url {
            url: given.clone(),
            why,
        };
        let root = std::path::absolute(directory).map_err(|error| refuse(error.to_string()))?;
        let files = Files {
            url: format!("file://{}", root.display()),
            root,
        };
        let format = files.root.join(layout::FORMAT);
        let unusable = |error: Error| refuse(frame::told(&error));
        match files.read(&format, 256).map_err(unusable)? {
            Some(text) if text == layout::FORMAT_TEXT => {}
            Some(_) => {
                return Err(refuse(
                    "its file `format` is not `suijuris depot 1`; use a newer suijuris, or another directory"
                        .into(),
                ));
            }
            None => create(&files, &format, refuse)?,
        }
        files.sweep();
        Ok(Self {
            pool: Pool::new(files.url.clone()),
            shared: Arc::new(Shared {
                locks: holders::is_local(&files.root),
                files,
                acknowledged: AtomicU64::new(0),
                commons: Commons::default(),
                turns: names::Turns::default(),
            }),
            watcher: Watcher::default(),
        })
    }

    /// The directory, absolute.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.files.root
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T> {
        let shared = Arc::clone(&self.shared);
        self.pool.run(move || work(&shared))
    }
}

/// Makes an empty depot. Two processes that do so at once make the same one.
fn create(files: &Files, format: &Path, refuse: impl Fn(String) -> Error) -> Result<(), Error> {
    let ours = [
        layout::TMP,
        layout::OBJECTS,
        layout::BUNDLES,
        layout::DUE,
        layout::CLASSES,
        layout::PROCESSES,
        layout::FORMAT,
    ];
    let foreign = files.names(&files.root, 1_000).unwrap_or_default();
    if let Some(name) = foreign.iter().find(|name| !ours.contains(&name.as_str())) {
        let why = format!("it is not empty (`{name}`) and no depot; write an empty or a new directory");
        return Err(refuse(why));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&files.root)
        .map_err(|error| refuse(format!("it cannot be made: {error}")))?;
    for name in [layout::TMP, layout::OBJECTS, layout::BUNDLES, layout::DUE] {
        files.directory(&files.root.join(name))?;
    }
    files.create(format, layout::FORMAT_TEXT)?;
    files.sync_parent(&files.root)
}

/// Creates something immutable; the same bytes again are no error.
fn keep(
    files: &Files,
    path: &Path,
    bytes: &[u8],
    max: usize,
    what: impl Fn() -> String,
) -> Result<(), Error> {
    match files.create(path, bytes)? {
        Created::New => Ok(()),
        Created::Exists if files.read(path, max)?.as_deref() == Some(bytes) => Ok(()),
        Created::Exists => Err(Error::Different(what())),
    }
}

impl Depot for Local {
    fn describe(&self) -> String {
        self.shared.files.url.clone()
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    fn presence_is_a_lock(&self) -> bool {
        self.shared.locks
    }
}

impl Marks for Local {
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.run(move |shared| marks::read(&shared.files, object))
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        let (mark, expected) = (mark.clone(), expected.cloned());
        self.run(move |shared| marks::swap(&shared.files, &mark, expected.as_ref()))
    }

    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        self.run(move |shared| {
            let held = holders::register(&shared.files, object, holder)?;
            Ok(Some(Arc::new(held) as Arc<dyn PresenceGuard>))
        })
    }

    fn rename(
        &self,
        object: ObjectId,
        former: HolderId,
        held: Arc<dyn PresenceGuard>,
        holder: HolderId,
    ) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        if !held.is_shared() {
            return self.run(move |shared| {
                let fresh = holders::rename(&shared.files, object, former, holder)?;
                Ok(Some(fresh.map_or(held, |fresh| Arc::new(fresh))))
            });
        }
        // Under its new name it rests as under the old one, which ends.
        let renamed = self.run(move |shared| {
            let fresh = shared.commons.share(&shared.files, object, holder)?;
            holders::leave(&shared.files, object, former)?;
            Ok(fresh)
        });
        Box::pin(async move {
            Ok(Some(match renamed.await? {
                Some(fresh) => Arc::new(fresh.delivered()),
                None => self.part(object, holder, held).await?,
            }))
        })
    }

    fn share(
        &self,
        object: ObjectId,
        holder: HolderId,
        held: Arc<dyn PresenceGuard>,
    ) -> Answer<'_, Arc<dyn PresenceGuard>> {
        let shared = self.run(move |shared| shared.commons.share(&shared.files, object, holder));
        Box::pin(async move {
            let shared = shared.await?;
            Ok(shared.map_or(held, |shared| Arc::new(shared.delivered())))
        })
    }

    fn part(
        &self,
        object: ObjectId,
        holder: HolderId,
        held: Arc<dyn PresenceGuard>,
    ) -> Answer<'_, Arc<dyn PresenceGuard>> {
        let parted = self.run(move |shared| shared.commons.part(&shared.files, object, holder));
        Box::pin(async move {
            let own = parted.await?.delivered();
            Ok(own.map_or(held, |own| Arc::new(own) as Arc<dyn PresenceGuard>))
        })
    }

    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence> {
        self.run(move |shared| holders::presence(&shared.files, object, holder))
    }
}

impl Archive for Local {
    fn announce<'a>(&'a self, object: ObjectId, bytes: &'a [u8], due: Option<Timestamp>) -> Answer<'a, ()> {
        let bytes = bytes.to_vec();
        self.run(move |shared| sleepers::announce(&shared.files, object, &bytes, due))
    }

    fn announcement(&self, object: ObjectId) -> Answer<'_, Option<Vec<u8>>> {
        self.run(move |shared| sleepers::announcement(&shared.files, object))
    }

    fn announced(&self, after: Option<ObjectId>, limit: usize) -> Answer<'_, Vec<ObjectId>> {
        self.run(move |shared| sleepers::announced(&shared.files, after, limit))
    }

    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>> {
        self.run(move |shared| sleepers::due(&shared.files, until, limit))
    }

    fn put_segment<'a>(
        &'a self,
        object: ObjectId,
        positions: RangeInclusive<u64>,
        bytes: &'a [u8],
    ) -> Answer<'a, ()> {
        let bytes = bytes.to_vec();
        self.run(move |shared| {
            let files = &shared.files;
            segment::check(&positions)?;
            frame::bounded("the segment", &bytes, MAX_SEGMENT)?;
            let directory = layout::home(&files.root, object).join(layout::SEGMENTS);
            files.directory(&directory)?;
            let name = segment::name(&positions);
            keep(files, &directory.join(&name), &bytes, MAX_SEGMENT, || {
                format!("segment {name} of {object}")
            })
        })
    }

    fn segments(&self, object: ObjectId) -> Answer<'_, Vec<RangeInclusive<u64>>> {
        self.run(move |shared| {
            let files = &shared.files;
            let directory = layout::home(&files.root, object).join(layout::SEGMENTS);
            let mut names = files.names(&directory, segment::MAX_SEGMENTS)?;
            names.sort_unstable();
            let parse = |name: String| {
                let place = files.place(&directory.join(&name));
                segment::parse(&name)
                    .ok_or_else(|| frame::garbage(&place, "its name is not that of a segment"))
            };
            names.into_iter().map(parse).collect()
        })
    }

    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>> {
        self.run(move |shared| {
            let files = &shared.files;
            let directory = layout::home(&files.root, object).join(layout::SEGMENTS);
            files.read(&directory.join(segment::name(&positions)), MAX_SEGMENT)
        })
    }

    fn remove_segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, ()> {
        self.run(move |shared| {
            let files = &shared.files;
            let directory = layout::home(&files.root, object).join(layout::SEGMENTS);
            files.remove(&directory.join(segment::name(&positions)))
        })
    }

    fn put_bundle<'a>(&'a self, id: BundleId, bytes: &'a [u8]) -> Answer<'a, ()> {
        let bytes = bytes.to_vec();
        self.run(move |shared| {
            frame::bounded("the bundle", &bytes, MAX_BUNDLE)?;
            let path = layout::bundle(&shared.files.root, id);
            keep(&shared.files, &path, &bytes, MAX_BUNDLE, || {
                format!("bundle {id}")
            })
        })
    }

    fn bundle(&self, id: BundleId) -> Answer<'_, Option<Vec<u8>>> {
        self.run(move |shared| {
            shared
                .files
                .read(&layout::bundle(&shared.files.root, id), MAX_BUNDLE)
        })
    }
}

impl Inbox for Local {
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted> {
        let message = message.clone();
        self.run(move |shared| inbox::post(&shared.files, object, &message))
    }

    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>> {
        self.run(move |shared| inbox::read(&shared.files, object, limit))
    }

    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()> {
        let messages = messages.iter().copied().collect();
        self.run(move |shared| inbox::acknowledge(&shared.files, object, &messages, &shared.acknowledged))
    }

    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()> {
        let inbox = layout::home(&self.shared.files.root, object).join(layout::INBOX);
        // A directory that is not there cannot be watched; whether it can be made shows when a message is posted.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(&inbox);
        let changed = self.watcher.changed(&inbox, at_most);
        Box::pin(async move {
            let _ = changed.await;
            Ok(())
        })
    }
}
