//! Objects known on this machine: a note each, written by `up`, read by `ps`. A note is a hint for people, never proof.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use suijuris_core::id::ObjectId;

use crate::object_paths::ObjectPaths;
use crate::terminal;

/// Bytes of a note at most.
const MAX_NOTE: u64 = 16 << 10;

/// Where an object was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    /// Name for people.
    pub(crate) name: String,
    /// Data directory, absolute.
    pub(crate) data: PathBuf,
    /// Directory of its definition, absolute.
    pub(crate) object_dir: Option<PathBuf>,
    /// Where callers reach it, while `up` runs.
    pub(crate) url: Option<String>,
}

/// This user's directory for what is known and kept beside objects.
pub(crate) fn home() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(base.join("suijuris"))
}

/// Where the notes are.
pub(crate) fn dir() -> Option<PathBuf> {
    Some(home()?.join("objects"))
}

/// Notes where `object` lives and is reached. Called by `up`, which goes on where nothing can be noted.
pub(crate) fn note(place: &ObjectPaths, object: &str, name: &str, url: &str) {
    let note = Note {
        name: name.to_owned(),
        data: place.data.clone(),
        object_dir: place.object_dir.clone(),
        url: Some(url.to_owned()),
    };
    if let Err(error) = dir().map_or(Ok(()), |dir| write(&dir, object, &note)) {
        terminal::note(&format!("`suijuris ps` will not know this object: {error}"));
    }
}

/// Notes that nobody runs the object at `place` any more.
pub(crate) fn forget_run(place: &ObjectPaths) {
    let Some(dir) = dir() else { return };
    for (object, note) in all().unwrap_or_default() {
        if note.data == place.data {
            // What remains is an address that nobody answers at, which `ps` does not take for a running object.
            let _ = write(&dir, &object.to_string(), &Note { url: None, ..note });
        }
    }
}

/// A note is replaced whole, so that no reader meets half of one.
fn write(dir: &Path, object: &str, note: &Note) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let fresh = dir.join(format!(".{object}.{}", std::process::id()));
    std::fs::write(&fresh, serde_json::to_vec(note)?)?;
    std::fs::rename(&fresh, dir.join(format!("{object}.json")))
}

/// The object that was at `data`, and its name, where nothing of its history is left there.
pub(crate) fn gone(data: &Path) -> Option<(ObjectId, String)> {
    let data = std::path::absolute(data).ok()?;
    let listed = std::fs::read_dir(dir()?).ok()?;
    let mut notes = listed.filter_map(|entry| read(&entry.ok()?.path()));
    let (object, note) = notes.find(|(_, note)| note.data == data && !note.data.join("lineage").is_dir())?;
    Some((object, note.name))
}

/// All objects noted whose data is still there, by name; notes of objects that are gone with their definition are removed.
pub(crate) fn all() -> io::Result<Vec<(ObjectId, Note)>> {
    let listed = dir().map(std::fs::read_dir);
    let entries = match listed {
        None => return Ok(Vec::new()),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Some(entries) => entries?,
    };
    let mut notes = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some((object, note)) = read(&path) else {
            continue;
        };
        if note.data.join("lineage").is_dir() {
            notes.push((object, note));
        } else if !note.object_dir.as_deref().is_some_and(Path::is_dir) {
            // A note of what is gone misleads; that it stays where it cannot be removed is no harm.
            let _ = std::fs::remove_file(&path);
        }
    }
    notes.sort_by(|(a, one), (b, other)| (&one.name, a).cmp(&(&other.name, b)));
    Ok(notes)
}

fn read(path: &Path) -> Option<(ObjectId, Note)> {
    let object = path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()?;
    let plain = path
        .metadata()
        .ok()
        .filter(|data| data.is_file() && data.len() <= MAX_NOTE);
    let text = plain.and_then(|_| std::fs::read(path).ok())?;
    Some((object, serde_json::from_slice(&text).ok()?))
}
