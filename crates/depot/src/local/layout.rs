//! Where things are in the directory; `spec/depot.md` gives the same for other programs.

use std::path::{Path, PathBuf};

use suijuris_core::time::Timestamp;
use suijuris_core::witness::HolderId;
use suijuris_core::{BundleId, ClassId, ObjectId};

use crate::frame;

/// Names the format, so that no other directory is taken for a depot.
pub(crate) const FORMAT: &str = "format";
/// What stands in it.
pub(crate) const FORMAT_TEXT: &[u8] = b"suijuris depot 1\n";
/// What is being written.
pub(crate) const TMP: &str = "tmp";
/// The homes of objects, by a part of their ids.
pub(crate) const OBJECTS: &str = "objects";
/// Bundles by id.
pub(crate) const BUNDLES: &str = "bundles";
/// Empty files named by hour, due time and object.
pub(crate) const DUE: &str = "due";
/// A file for each process in which objects rest, locked while it runs; made when the first does.
pub(crate) const PROCESSES: &str = "processes";
/// The homes of classes, by their ids; made when the first is needed.
pub(crate) const CLASSES: &str = "classes";

/// In an object's home: the stamped mark.
pub(crate) const MARK: &str = "mark";
/// The lock of whoever changes anything of the object; in a class's home, its name table.
pub(crate) const LOCK: &str = "lock";
/// The announcement behind its due time.
pub(crate) const ANNOUNCEMENT: &str = "announcement";
/// A file for each holder, locked while it runs.
pub(crate) const HOLDERS: &str = "holders";
/// Lineage segments by positions.
pub(crate) const SEGMENTS: &str = "segments";
/// Waiting messages by place and key.
pub(crate) const INBOX: &str = "inbox";
/// The greatest place that was acknowledged.
pub(crate) const PLACE: &str = "place";
/// Acknowledged messages by key.
pub(crate) const SEEN: &str = "seen";

/// In a class's home: its name table, a file for each key.
pub(crate) const NAMES: &str = "names";
/// How many of them are no tombstones, where that is known.
pub(crate) const COUNT: &str = "count";

/// Every id begins with the same seven letters; the next two spread objects over 1,024 directories, in the order of the
/// texts of their ids.
const SHARD: std::ops::Range<usize> = 7..9;

/// Milliseconds of due times that share a directory.
const HOUR_MS: i64 = 3_600_000;

/// The part of an id's text that names its directory.
pub(crate) fn shard(id: &str) -> &str {
    id.get(SHARD).unwrap_or_default()
}

/// The home of an object.
pub(crate) fn home(root: &Path, object: ObjectId) -> PathBuf {
    let id = object.to_string();
    root.join(OBJECTS).join(shard(&id)).join(&id)
}

/// A bundle.
pub(crate) fn bundle(root: &Path, id: BundleId) -> PathBuf {
    root.join(BUNDLES).join(id.to_string())
}

/// The home of a class.
pub(crate) fn class(root: &Path, class: ClassId) -> PathBuf {
    root.join(CLASSES).join(class.to_string())
}

/// The file of a holder.
pub(crate) fn holder(root: &Path, object: ObjectId, holder: HolderId) -> PathBuf {
    home(root, object).join(HOLDERS).join(holder.to_string())
}

/// The directory of the hour of `at`.
pub(crate) fn hour(at: Timestamp) -> String {
    frame::sortable(Timestamp(at.0.div_euclid(HOUR_MS)))
}

/// The entry that says that `object` is due at `at`.
pub(crate) fn due(root: &Path, at: Timestamp, object: ObjectId) -> PathBuf {
    root.join(DUE)
        .join(hour(at))
        .join(format!("{}-{object}", frame::sortable(at)))
}

/// Reads the name of such an entry.
pub(crate) fn parse_due(name: &str) -> Option<(Timestamp, ObjectId)> {
    let (at, object) = name.split_once('-')?;
    Some((frame::unsortable(at)?, object.parse().ok()?))
}
