//! Marks in files: written aside, compared under the object's lock, moved into place.

use std::path::Path;

use suijuris_core::ObjectId;
use suijuris_core::id::Digest;
use suijuris_core::witness::Mark;

use super::files::Files;
use super::layout;
use crate::{Error, Swap, Version, frame};

/// The mark of an object.
pub(crate) fn read(files: &Files, object: ObjectId) -> Result<Option<(Mark, Version)>, Error> {
    let path = layout::home(&files.root, object).join(layout::MARK);
    open(files, &path, object)
}

fn open(files: &Files, path: &Path, object: ObjectId) -> Result<Option<(Mark, Version)>, Error> {
    let Some(stored) = files.read(path, frame::MAX_MARK)? else {
        return Ok(None);
    };
    let mark = frame::open_mark(&stored, object, &files.place(path))?;
    Ok(Some((mark, version(&stored))))
}

/// Stored bytes never come again (they begin with a random stamp), so their digest is a version.
fn version(stored: &[u8]) -> Version {
    Version(Digest::of(stored).0.to_vec())
}

/// Puts `mark` in place of the one whose version is `expected`.
pub(crate) fn swap(files: &Files, mark: &Mark, expected: Option<&Version>) -> Result<Swap, Error> {
    let stored = frame::stamp(mark)?;
    let home = layout::home(&files.root, mark.object);
    let path = home.join(layout::MARK);
    let differs =
        |present: &Option<(Mark, Version)>| present.as_ref().map(|(_, version)| version) != expected;
    let present = open(files, &path, mark.object)?;
    if differs(&present) {
        return Ok(Swap::Conflict(present));
    }
    files.directory(&home)?;
    let draft = files.draft(&stored)?;
    let _lock = files.lock(&home.join(layout::LOCK))?;
    let present = open(files, &path, mark.object)?;
    if differs(&present) {
        return Ok(Swap::Conflict(present));
    }
    files.place_draft(&draft, &path)?;
    Ok(Swap::Done(version(&stored)))
}
