//! Announcements and due times in files.
//!
//! The announcement says when its object is due; the entries below `due` only find it quickly. An entry is made before the
//! announcement it belongs to and removed after it, so that none is ever missing; one too many is seen and passed over.

use std::fs;

use suijuris_core::ObjectId;
use suijuris_core::time::Timestamp;

use super::files::Files;
use super::layout;
use crate::{Error, frame};

/// Objects in one of the 1,024 directories at most.
const MAX_SHARD: usize = 100_000;

/// Due times in one hour at most.
const MAX_HOUR: usize = 1_000_000;

/// Replaces announcement and due time.
pub(crate) fn announce(
    files: &Files,
    object: ObjectId,
    bytes: &[u8],
    due: Option<Timestamp>,
) -> Result<(), Error> {
    let stored = frame::announce(bytes, due)?;
    let home = layout::home(&files.root, object);
    let path = home.join(layout::ANNOUNCEMENT);
    // Nothing has changed since it was made durable: a process that begins again announces all that it has.
    if due.is_none() && files.read(&path, frame::MAX_ANNOUNCED).ok().flatten().as_deref() == Some(&stored) {
        return Ok(());
    }
    files.directory(&home)?;
    let draft = files.draft(&stored)?;
    let _lock = files.lock(&home.join(layout::LOCK))?;
    let before = due_of(files, object).ok().flatten();
    if let Some(at) = due {
        enter(files, at, object)?;
    }
    files.place_draft(&draft, &path)?;
    if let Some(at) = before.filter(|before| Some(*before) != due) {
        leave(files, at, object);
    }
    Ok(())
}

fn enter(files: &Files, at: Timestamp, object: ObjectId) -> Result<(), Error> {
    let entry = layout::due(&files.root, at, object);
    let hour = files.root.join(layout::DUE).join(layout::hour(at));
    // The directory of the hour may be removed between the two steps by whoever empties it.
    for _ in 0..8 {
        files.directory(&hour)?;
        match files.create(&entry, b"") {
            Err(Error::Unreachable(..)) if !hour.is_dir() => {}
            other => return other.map(drop),
        }
    }
    let why = format!("{} does not stay", files.place(&hour));
    Err(Error::Unreachable(files.url.clone(), Some(why.into())))
}

/// Removes an entry and the directory that it leaves empty. What cannot be removed is passed over by readers.
fn leave(files: &Files, at: Timestamp, object: ObjectId) {
    let _ = fs::remove_file(layout::due(&files.root, at, object));
    let _ = fs::remove_dir(files.root.join(layout::DUE).join(layout::hour(at)));
}

fn due_of(files: &Files, object: ObjectId) -> Result<Option<Timestamp>, Error> {
    let path = layout::home(&files.root, object).join(layout::ANNOUNCEMENT);
    let Some(header) = files.read_start(&path, frame::DUE_BYTES)? else {
        return Ok(None);
    };
    Ok(frame::open_announcement(&header, &files.place(&path))?.0)
}

/// The announcement of an object.
pub(crate) fn announcement(files: &Files, object: ObjectId) -> Result<Option<Vec<u8>>, Error> {
    let path = layout::home(&files.root, object).join(layout::ANNOUNCEMENT);
    let Some(mut stored) = files.read(&path, frame::MAX_ANNOUNCED)? else {
        return Ok(None);
    };
    frame::open_announcement(&stored, &files.place(&path))?;
    stored.drain(..frame::DUE_BYTES);
    Ok(Some(stored))
}

/// Objects with an announcement whose texts come after that of `after`.
pub(crate) fn announced(
    files: &Files,
    after: Option<ObjectId>,
    limit: usize,
) -> Result<Vec<ObjectId>, Error> {
    let after = after.map(|after| after.to_string()).unwrap_or_default();
    let objects = files.root.join(layout::OBJECTS);
    let mut shards = files.names(&objects, MAX_SHARD)?;
    shards.retain(|shard| shard.as_str() >= layout::shard(&after));
    shards.sort_unstable();
    let mut found = Vec::new();
    for shard in shards {
        let directory = objects.join(&shard);
        let mut ids = files.names(&directory, MAX_SHARD)?;
        ids.retain(|id| *id > after);
        ids.sort_unstable();
        for id in ids {
            if found.len() >= limit {
                return Ok(found);
            }
            if !directory.join(&id).join(layout::ANNOUNCEMENT).exists() {
                continue;
            }
            let parsed = id.parse().map_err(|_| {
                frame::garbage(
                    &files.place(&directory.join(&id)),
                    "its name is not the id of an object",
                )
            });
            found.push(parsed?);
        }
    }
    Ok(found)
}

/// Objects due at or before `until`, earliest first.
pub(crate) fn due(
    files: &Files,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<(Timestamp, ObjectId)>, Error> {
    let directory = files.root.join(layout::DUE);
    let last = layout::hour(until);
    let mut hours = files.names(&directory, MAX_HOUR)?;
    hours.retain(|hour| *hour <= last);
    hours.sort_unstable();
    let mut found = Vec::new();
    for hour in hours {
        let mut names = files.names(&directory.join(&hour), MAX_HOUR)?;
        names.sort_unstable();
        for name in names {
            let (at, object) = layout::parse_due(&name).ok_or_else(|| {
                frame::garbage(
                    &files.place(&directory.join(&hour).join(&name)),
                    "its name is not a due time",
                )
            })?;
            if found.len() >= limit || at > until {
                return Ok(found);
            }
            match due_of(files, object) {
                // Whoever reads the announcement next is told what is wrong with it; other objects' timers go on.
                Err(Error::Garbage { .. }) => found.push((at, object)),
                Ok(due) if due == Some(at) => found.push((at, object)),
                Ok(_) => forget(files, at, object),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// Removes an entry that a crash left, unless its announcement is being written this moment.
fn forget(files: &Files, at: Timestamp, object: ObjectId) {
    let home = layout::home(&files.root, object);
    if !home.is_dir() {
        return leave(files, at, object);
    }
    let Ok(_lock) = files.lock(&home.join(layout::LOCK)) else {
        return;
    };
    if matches!(due_of(files, object), Ok(due) if due != Some(at)) {
        leave(files, at, object);
    }
}
