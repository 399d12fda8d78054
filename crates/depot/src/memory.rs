//! A depot in this process's memory, for tests: every call is answered at its first poll, nothing outlives the process.
//!
//! What it holds is bytes, read as a real backend reads them, so that garbage can be put in place of anything. Not part of
//! the product (feature `testing`); `faults` makes it fail.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use suijuris_core::class::Key;
use suijuris_core::message::{Message, MessageKey};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{HolderId, Mark};
use suijuris_core::{BundleId, ClassId, ObjectId};
use tokio::sync::oneshot;

use crate::{
    Answer, Archive, Depot, Error, Inbox, MAX_BUNDLE, MAX_READ, MAX_SEGMENT, MAX_WAITING, Marks, Posted,
    Presence, PresenceGuard, Swap, Version, Waiting, frame, segment,
};

/// Acknowledged messages that are remembered of each object.
const REMEMBERED: usize = 100_000;

/// A depot in memory. Clones are the same depot.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    versions: u64,
    keeps_presence: bool,
    objects: BTreeMap<String, Object>,
    bundles: BTreeMap<BundleId, Vec<u8>>,
    names: BTreeMap<(ClassId, Key), (Vec<u8>, u64)>,
}

#[derive(Debug, Default)]
struct Object {
    mark: Option<(Vec<u8>, u64)>,
    holders: BTreeMap<HolderId, Weak<Held>>,
    announcement: Option<Vec<u8>>,
    segments: BTreeMap<(u64, u64), Vec<u8>>,
    places: u64,
    inbox: BTreeMap<u64, (MessageKey, Vec<u8>)>,
    seen: BTreeSet<MessageKey>,
    seen_order: std::collections::VecDeque<MessageKey>,
    watchers: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Held;

impl PresenceGuard for Held {}

/// What [`Memory::corrupt`] replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The stored mark.
    Mark,
    /// The stored announcement.
    Announcement,
    /// The oldest waiting message.
    Message,
}

impl Memory {
    /// An empty depot that cannot tell who runs: presence is always unknown, as in object storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty depot that knows who runs, as a local directory does.
    #[must_use]
    pub fn with_presence() -> Self {
        let memory = Self::default();
        memory.state().keeps_presence = true;
        memory
    }

    /// Puts `bytes` in place of what is stored, as a broken disk or a foreign program would.
    pub fn corrupt(&self, object: ObjectId, what: What, bytes: &[u8]) {
        let mut state = self.state();
        let entry = state.objects.entry(object.to_string()).or_default();
        match what {
            What::Mark => entry.mark = Some((bytes.to_vec(), u64::MAX)),
            What::Announcement => entry.announcement = Some(bytes.to_vec()),
            What::Message => {
                let stored = entry.inbox.values_mut().next();
                stored
                    .into_iter()
                    .for_each(|(_, stored)| *stored = bytes.to_vec());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T: Send + 'static>(
        &self,
        object: ObjectId,
        read: impl FnOnce(&mut Object) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'_, T> {
        Box::pin(async move { read(self.state().objects.entry(object.to_string()).or_default()) })
    }
}

fn open(stored: Option<&(Vec<u8>, u64)>, object: ObjectId) -> Result<Option<(Mark, Version)>, Error> {
    let Some((bytes, version)) = stored else {
        return Ok(None);
    };
    let mark = frame::open_mark(bytes, object, &format!("memory:{object}/mark"))?;
    Ok(Some((mark, Version(version.to_be_bytes().to_vec()))))
}

impl Depot for Memory {
    fn describe(&self) -> String {
        "memory:".to_owned()
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

impl Marks for Memory {
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.read(object, move |found| open(found.mark.as_ref(), object))
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        Box::pin(async move {
            let bytes = frame::stamp(mark)?;
            let mut state = self.state();
            state.versions += 1;
            let version = state.versions;
            let found = state.objects.entry(mark.object.to_string()).or_default();
            let present = open(found.mark.as_ref(), mark.object)?;
            if present.as_ref().map(|(_, version)| version) != expected {
                return Ok(Swap::Conflict(present));
            }
            found.mark = Some((bytes, version));
            Ok(Swap::Done(Version(version.to_be_bytes().to_vec())))
        })
    }

    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        Box::pin(async move {
            let mut state = self.state();
            if !state.keeps_presence {
                return Ok(None);
            }
            let found = state.objects.entry(object.to_string()).or_default();
            let held = Arc::new(Held);
            found.holders.insert(holder, Arc::downgrade(&held));
            Ok(Some(held as Arc<dyn PresenceGuard>))
        })
    }

    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence> {
        self.read(object, move |found| {
            Ok(match found.holders.get(&holder).map(Weak::strong_count) {
                None => Presence::Unknown,
                Some(0) => Presence::Gone,
                Some(_) => Presence::Here,
            })
        })
    }
}

impl Archive for Memory {
    fn announce<'a>(&'a self, object: ObjectId, bytes: &'a [u8], due: Option<Timestamp>) -> Answer<'a, ()> {
        Box::pin(async move {
            let stored = frame::announce(bytes, due)?;
            let mut state = self.state();
            state.objects.entry(object.to_string()).or_default().announcement = Some(stored);
            Ok(())
        })
    }

    fn announcement(&self, object: ObjectId) -> Answer<'_, Option<Vec<u8>>> {
        self.read(object, move |found| {
            let Some(stored) = &found.announcement else {
                return Ok(None);
            };
            let (_, bytes) = frame::open_announcement(stored, &format!("memory:{object}/announcement"))?;
            Ok(Some(bytes.to_vec()))
        })
    }

    fn announced(&self, after: Option<ObjectId>, limit: usize) -> Answer<'_, Vec<ObjectId>> {
        let after = after.map(|after| after.to_string());
        Box::pin(async move {
            let state = self.state();
            let later = state.objects.iter().filter(|(id, found)| {
                after.as_ref().is_none_or(|after| *id > after) && found.announcement.is_some()
            });
            Ok(later.filter_map(|(id, _)| id.parse().ok()).take(limit).collect())
        })
    }

    fn due(&self, until: Timestamp, limit: usize) -> Answer<'_, Vec<(Timestamp, ObjectId)>> {
        Box::pin(async move {
            let state = self.state();
            let mut due = Vec::new();
            for (id, found) in &state.objects {
                let Some(stored) = &found.announcement else {
                    continue;
                };
                let (at, _) = frame::open_announcement(stored, &format!("memory:{id}/announcement"))?;
                due.extend(
                    at.filter(|at| *at <= until)
                        .and_then(|at| Some((at, id.parse().ok()?))),
                );
            }
            due.sort();
            due.truncate(limit);
            Ok(due)
        })
    }

    fn put_segment<'a>(
        &'a self,
        object: ObjectId,
        positions: RangeInclusive<u64>,
        bytes: &'a [u8],
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            segment::check(&positions)?;
            frame::bounded("the segment", bytes, MAX_SEGMENT)?;
            let mut state = self.state();
            let found = state.objects.entry(object.to_string()).or_default();
            let stored = found.segments.entry(positions.into_inner());
            if *stored.or_insert_with(|| bytes.to_vec()) == bytes {
                Ok(())
            } else {
                Err(Error::Different(format!("segment of {object}")))
            }
        })
    }

    fn segments(&self, object: ObjectId) -> Answer<'_, Vec<RangeInclusive<u64>>> {
        self.read(object, |found| {
            Ok(found
                .segments
                .keys()
                .map(|(first, last)| *first..=*last)
                .collect())
        })
    }

    fn segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, Option<Vec<u8>>> {
        self.read(object, move |found| {
            Ok(found.segments.get(&positions.into_inner()).cloned())
        })
    }

    fn remove_segment(&self, object: ObjectId, positions: RangeInclusive<u64>) -> Answer<'_, ()> {
        Box::pin(async move {
            if let Some(found) = self.state().objects.get_mut(&object.to_string()) {
                found.segments.remove(&positions.into_inner());
            }
            Ok(())
        })
    }

    fn put_bundle<'a>(&'a self, id: BundleId, bytes: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            frame::bounded("the bundle", bytes, MAX_BUNDLE)?;
            if *self.state().bundles.entry(id).or_insert_with(|| bytes.to_vec()) == bytes {
                Ok(())
            } else {
                Err(Error::Different(format!("bundle {id}")))
            }
        })
    }

    fn bundle(&self, id: BundleId) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.state().bundles.get(&id).cloned()) })
    }
}

impl Inbox for Memory {
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted> {
        Box::pin(async move {
            let bytes = frame::encode_message(message)?;
            let key = message.key();
            let mut state = self.state();
            let found = state.objects.entry(object.to_string()).or_default();
            if found.seen.contains(&key) || found.inbox.values().any(|(waiting, _)| *waiting == key) {
                return Ok(Posted::Duplicate);
            }
            if found.inbox.len() >= MAX_WAITING {
                return Err(Error::InboxFull);
            }
            found.places += 1;
            found.inbox.insert(found.places, (key, bytes));
            for watcher in found.watchers.drain(..) {
                let _ = watcher.send(());
            }
            Ok(Posted::Stored)
        })
    }

    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>> {
        self.read(object, move |found| {
            let mut left = MAX_READ;
            let mut waiting = Vec::new();
            for (place, (_, bytes)) in found.inbox.iter().take(limit) {
                if bytes.len() > left && !waiting.is_empty() {
                    break;
                }
                left = left.saturating_sub(bytes.len());
                let place = format!("{place:020}");
                let message = frame::open_message(bytes, &format!("memory:{object}/inbox/{place}"))?;
                waiting.push(Waiting { place, message });
            }
            Ok(waiting)
        })
    }

    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut state = self.state();
            let found = state.objects.entry(object.to_string()).or_default();
            let done: BTreeSet<&MessageKey> = messages.iter().collect();
            let taken: Vec<MessageKey> = found
                .inbox
                .extract_if(.., |_, (key, _)| done.contains(key))
                .map(|(_, (key, _))| key)
                .collect();
            found.seen.extend(&taken);
            found.seen_order.extend(&taken);
            while found.seen_order.len() > REMEMBERED {
                if let Some(oldest) = found.seen_order.pop_front() {
                    found.seen.remove(&oldest);
                }
            }
            Ok(())
        })
    }

    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()> {
        if at_most.is_zero() {
            return Box::pin(ready(Ok(())));
        }
        let (changed, wait) = oneshot::channel();
        let mut state = self.state();
        let found = state.objects.entry(object.to_string()).or_default();
        found.watchers.retain(|watcher| !watcher.is_closed());
        found.watchers.push(changed);
        drop(state);
        let (over, late) = oneshot::channel::<()>();
        let _detached = std::thread::spawn(move || {
            std::thread::park_timeout(at_most);
            let _ = over.send(());
        });
        Box::pin(async move {
            tokio::select! {
                _ = wait => {}
                _ = late => {}
            }
            Ok(())
        })
    }
}
