//! Messages in files: one each in `inbox`, named by place and key; acknowledging moves it to `seen`, under its key alone.
//!
//! A message is thus in exactly one of the two at any time, and a key in either is a duplicate.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::message::{self, Message, MessageKey};

use super::files::Files;
use super::layout;
use crate::{Error, MAX_READ, MAX_WAITING, Posted, Waiting, frame};

/// Acknowledged keys that are remembered of an object at least.
const REMEMBERED: usize = 100_000;

/// How many more there may be before the oldest are forgotten.
const SLACK: usize = 10_000;

/// Acknowledgements between two looks at how many keys are remembered.
const LOOK_EVERY: u64 = 1_000;

/// Entries of `seen` at most; more are taken for garbage.
const MAX_SEEN: usize = 4 * REMEMBERED;

/// Stores a message, once.
pub(crate) fn post(files: &Files, object: ObjectId, message: &Message) -> Result<Posted, Error> {
    let bytes = frame::encode_message(message)?;
    let key = message.key();
    let home = layout::home(&files.root, object);
    let (inbox, seen) = (home.join(layout::INBOX), home.join(layout::SEEN));
    files.directory(&inbox)?;
    files.directory(&seen)?;
    let _lock = files.lock(&home.join(layout::LOCK))?;
    let waiting = entries(files, &inbox)?;
    let acknowledged = seen.join(key.0.hex());
    let known = waiting
        .iter()
        .find(|entry| entry.key == key)
        .map(|entry| inbox.join(entry.name()));
    if let Some(path) = known.or_else(|| acknowledged.exists().then_some(acknowledged)) {
        // Who stored it may have crashed before it was durable, and we are about to say that it is.
        files.sync_parent(&path)?;
        return Ok(Posted::Duplicate);
    }
    if waiting.len() >= MAX_WAITING {
        return Err(Error::InboxFull);
    }
    let newest = waiting.last().map_or(0, |entry| entry.place);
    let place = newest.max(acknowledged_place(files, &home)?).saturating_add(1);
    files.place_draft(&files.draft(&bytes)?, &inbox.join(Entry { place, key }.name()))?;
    Ok(Posted::Stored)
}

/// Waiting messages, oldest first.
pub(crate) fn read(files: &Files, object: ObjectId, limit: usize) -> Result<Vec<Waiting>, Error> {
    let inbox = layout::home(&files.root, object).join(layout::INBOX);
    let mut waiting = Vec::new();
    let mut left = MAX_READ;
    for entry in entries(files, &inbox)? {
        if waiting.len() >= limit {
            break;
        }
        let path = inbox.join(entry.name());
        let Some(bytes) = files.read(&path, message::MAX_BYTES)? else {
            continue; // acknowledged a moment ago
        };
        if bytes.len() > left && !waiting.is_empty() {
            break;
        }
        left = left.saturating_sub(bytes.len());
        let place = files.place(&path);
        let message = frame::open_message(&bytes, &place)?;
        if message.key() != entry.key {
            return Err(frame::garbage(&place, "it is another message than its name says"));
        }
        waiting.push(Waiting {
            place: format!("{:020}", entry.place),
            message,
        });
    }
    Ok(waiting)
}

/// Takes messages out for good. `count` counts acknowledgements of this process.
pub(crate) fn acknowledge(
    files: &Files,
    object: ObjectId,
    messages: &BTreeSet<MessageKey>,
    count: &AtomicU64,
) -> Result<(), Error> {
    let home = layout::home(&files.root, object);
    let (inbox, seen) = (home.join(layout::INBOX), home.join(layout::SEEN));
    if !inbox.is_dir() {
        return Ok(());
    }
    files.directory(&seen)?;
    let _lock = files.lock(&home.join(layout::LOCK))?;
    let mut done = entries(files, &inbox)?;
    done.retain(|entry| messages.contains(&entry.key));
    if let Some(last) = done.last()
        && last.place > acknowledged_place(files, &home)?
    {
        files.replace(
            &home.join(layout::PLACE),
            format!("{:020}", last.place).as_bytes(),
        )?;
    }
    let looks = done.iter().fold(false, |looks, _| {
        looks | count.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY)
    });
    for entry in &done {
        let to = seen.join(entry.key.0.hex());
        files.rename_unsynced(&inbox.join(entry.name()), &to)?;
        // Only its name matters from here on.
        let _ = OpenOptions::new()
            .write(true)
            .open(&to)
            .and_then(|file| file.set_len(0));
    }
    files.sync(&seen)?;
    files.sync(&inbox)?;
    if looks {
        forget(files, &seen)?;
    }
    Ok(())
}

/// Forgets the oldest keys where there are too many.
fn forget(files: &Files, seen: &Path) -> Result<(), Error> {
    let names = files.names(seen, MAX_SEEN)?;
    let Some(surplus) = names
        .len()
        .checked_sub(REMEMBERED)
        .filter(|surplus| *surplus > SLACK)
    else {
        return Ok(());
    };
    let aged = |name: String| {
        let path = seen.join(name);
        let at = fs::metadata(&path).and_then(|metadata| metadata.modified());
        (at.unwrap_or(SystemTime::UNIX_EPOCH), path)
    };
    let mut aged: Vec<(SystemTime, PathBuf)> = names.into_iter().map(aged).collect();
    aged.sort_unstable();
    aged.iter()
        .take(surplus)
        .for_each(|(_, path)| drop(fs::remove_file(path)));
    Ok(())
}

/// A file of the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    place: u64,
    key: MessageKey,
}

impl Entry {
    fn name(&self) -> String {
        format!("{:020}-{}", self.place, self.key.0.hex())
    }

    fn parse(name: &str) -> Option<Self> {
        let (place, key) = name.split_once('-')?;
        let entry = Self {
            place: place.parse().ok()?,
            key: MessageKey(key.parse::<Digest>().ok()?),
        };
        (entry.name() == name).then_some(entry)
    }
}

/// Files of the inbox, oldest first.
fn entries(files: &Files, inbox: &Path) -> Result<Vec<Entry>, Error> {
    let parse = |name: String| {
        Entry::parse(&name).ok_or_else(|| {
            frame::garbage(
                &files.place(&inbox.join(name)),
                "its name is not the position of a message",
            )
        })
    };
    let names = files.names(inbox, 2 * MAX_WAITING)?;
    let mut entries = names.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    entries.sort_unstable();
    Ok(entries)
}

/// The greatest place ever acknowledged.
fn acknowledged_place(files: &Files, home: &Path) -> Result<u64, Error> {
    let path = home.join(layout::PLACE);
    let Some(bytes) = files.read(&path, 20)? else {
        return Ok(0);
    };
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() == 20);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| frame::garbage(&files.place(&path), "it is not a position: 20 digits"))
}
