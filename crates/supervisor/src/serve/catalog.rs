//! What a daemon keeps on disk: its classes, its objects, and where each lies.
//!
//! ```text
//! ROOT/lock                          one daemon at a time
//! ROOT/classes/NAME/class.json       identity and definition of a class; its bundles beside it
//! ROOT/instances/CLASS/KEY/          the data of an instance
//! ROOT/objects/NAME/                 the data of a single object; object.json in it
//! ROOT/archive/ID.sui                the capsule of an object that was removed; ID.sui.volume, its volume
//! ROOT/archive/ID/                   the data of one that could not be packed
//! ROOT/outgoing/ID.sui               what departed to another server and is being carried there
//! ROOT/receiving/ID/                 what comes from one, and has not been verified whole
//! ROOT/destinations.json             where objects may move of their own accord
//! ROOT/archived/CLASS/KEY.ID.sui     an instance that slept so long that its directory went, its volume beside it
//! ROOT/archive.json                  the key that those are sealed to
//! ROOT/receive.json                  from whom that is taken, and what it may run
//! ROOT/removed/CLASS.KEY.ID/         what is being removed, and is packed where it was to be
//! ROOT/staging/…                     what is being founded and serves nobody
//! ROOT/run/control.sock              the control API
//! ```
//! Files are written whole: staged, synced, renamed. Not here: which of them run.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use suijuris_api::daemon::Ports;
use suijuris_core::BundleId;
use suijuris_core::class::{ClassId, Identity, Key};
use suijuris_core::key::PublicKey;
use suijuris_store::ObjectDir;

use crate::events::Origin;
use crate::paths::{ObjectPaths, socket};

/// Bytes of a note at most.
const MAX_NOTE: u64 = 64 << 10;

/// How long another daemon may take to let go of the directory, and how often that is looked at.
const LOCKED_WITHIN: Duration = Duration::from_secs(2);
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Longest name of a class or an object: a DNS label.
pub const MAX_NAME: usize = 63;

/// The directory of a daemon, locked for it.
#[derive(Debug)]
pub struct Catalog {
    root: PathBuf,
    _lock: File,
}

/// What is being removed: class, key or name, object, directory.
pub type Aside = (String, String, suijuris_core::ObjectId, PathBuf);

/// A class as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassNote {
    /// What it is called here.
    pub name: String,
    /// What its bundle calls it; with the rest, what its id is made of.
    pub bundle_name: String,
    /// Its owners.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
    /// Makes two classes of one name two.
    pub nonce: [u8; 16],
    /// The template in force.
    pub bundle: BundleId,
    /// The directory of its definition, which its workloads may need.
    pub object_dir: Option<PathBuf>,
    /// Its ports for raw connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// A single object as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectNote {
    /// What it is called here.
    pub name: String,
    /// The directory of its definition.
    pub object_dir: Option<PathBuf>,
    /// Its ports for raw connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// It came from another host: it may run what is listed for such objects, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub received: bool,
}

/// Where objects are packed that are carried to another server.
const OUTGOING: &str = "outgoing";

/// The note of a single object, in its data directory.
pub(super) const OBJECT_NOTE: &str = "object.json";

/// Notes of one kind.
#[derive(Debug)]
pub struct Notes<T> {
    /// Those that were read.
    pub read: Vec<T>,
    /// Those that cannot be, by the name of their directory: what they are notes of is not served.
    pub broken: Vec<(String, CatalogError)>,
}

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Another daemon has it.
    #[error("another daemon serves {0}: end it first, or name another directory")]
    Locked(PathBuf),
    /// A name that none can have.
    #[error("`{0}` is no name: use 1 to {MAX_NAME} of a-z, 0-9 and -, not at either end, and not xn--")]
    Name(String),
    /// Something of that name is there.
    #[error("`{0}` is there already: remove it first, or give this another name with --name")]
    Taken(String),
    /// A note that cannot be read.
    #[error("{path} cannot be read: {why}")]
    Note {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The disk.
    #[error("cannot use {path}")]
    Disk {
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl ClassNote {
    /// Its id; none where its parts have no encoding, which no note of ours has.
    #[must_use]
    pub fn id(&self) -> Option<ClassId> {
        let identity = Identity {
            controllers: self.controllers.clone(),
            threshold: self.threshold,
            name: self.bundle_name.clone(),
            nonce: self.nonce,
        };
        identity.id().ok()
    }
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> CatalogError + use<> {
    let path = path.to_owned();
    move |source| CatalogError::Disk { path, source }
}

/// Whether a class or an object may be called so: a DNS label that is no object's id.
///
/// # Errors
/// [`CatalogError::Name`].
pub fn check_name(name: &str) -> Result<(), CatalogError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain);
    let ends = name.starts_with('-') || name.ends_with('-') || name.starts_with("xn--");
    if label && !ends && name.parse::<suijuris_core::ObjectId>().is_err() {
        Ok(())
    } else {
        Err(CatalogError::Name(name.to_owned()))
    }
}

impl Catalog {
    /// Opens the directory, makes it where there is none, and locks it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn open(root: &Path) -> Result<Self, CatalogError> {
        for dir in [
            root.to_owned(),
            root.join("classes"),
            root.join("instances"),
            root.join("objects"),
            root.join("staging"),
            root.join("run"),
        ] {
            make_dir(&dir).map_err(disk(&dir))?;
        }
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(disk(&path))?;
        let until = Instant::now() + LOCKED_WITHIN;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // One that was just killed is on its way out.
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_AGAIN),
                Err(TryLockError::WouldBlock) => return Err(CatalogError::Locked(root.to_owned())),
                Err(TryLockError::Error(error)) => return Err(disk(&path)(error)),
            }
        }
        let root = root.to_owned();
        Ok(Self { root, _lock: lock })
    }

    /// Where the control API of the daemon of `root` listens.
    #[must_use]
    pub fn control_socket(root: &Path) -> PathBuf {
        socket(root, "control.sock")
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bundles of a class.
    #[must_use]
    pub fn class_dir(&self, name: &str) -> ObjectDir {
        Self::class_dir_in(&self.root, name)
    }

    /// The bundles of a class of the daemon of `root`, for who only reads them.
    #[must_use]
    pub fn class_dir_in(root: &Path, name: &str) -> ObjectDir {
        ObjectDir::at(root.join("classes").join(name))
    }

    /// Where an instance is.
    #[must_use]
    pub fn instance(&self, class: &ClassNote, key: &Key) -> ObjectPaths {
        ObjectPaths {
            object_dir: class.object_dir.clone(),
            data: self.root.join("instances").join(&class.name).join(key.as_str()),
        }
    }

    /// Where a single object is.
    #[must_use]
    pub fn object(&self, note: &ObjectNote) -> ObjectPaths {
        ObjectPaths {
            object_dir: note.object_dir.clone(),
            data: self.root.join("objects").join(&note.name),
        }
    }

    /// Whether what lies here came from another host; what cannot be told counts as foreign.
    #[must_use]
    pub fn is_received(&self, paths: &ObjectPaths) -> bool {
        let path = paths.data.join(OBJECT_NOTE);
        path.exists() && note(&path).map_or(true, |note: ObjectNote| note.received)
    }

    /// A place where an instance can be staged; another one at each call.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn staging(&self, class: &str, key: &Key) -> Result<PathBuf, getrandom::Error> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let random = u64::from_be_bytes(random);
        Ok(self
            .root
            .join("staging")
            .join(format!("{class}.{key}.{random:016x}")))
    }

    /// What was staged and is neither founded nor discarded: class, key, directory.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn staged(&self) -> Result<Vec<(String, String, PathBuf)>, CatalogError> {
        let names = entries(&self.root.join("staging"))?;
        let parts = |(name, path): (String, PathBuf)| {
            let (class, rest) = name.split_once('.')?;
            let (key, _random) = rest.split_once('.')?;
            Some((class.to_owned(), key.to_owned(), path))
        };
        Ok(names.into_iter().filter_map(parts).collect())
    }

    /// The classes that there are, by name.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn classes(&self) -> Result<Notes<ClassNote>, CatalogError> {
        notes(&self.root.join("classes"), "class.json", |note: &ClassNote| {
            &note.name
        })
    }

    /// The single objects that there are, by name.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn objects(&self) -> Result<Notes<ObjectNote>, CatalogError> {
        notes(&self.root.join("objects"), OBJECT_NOTE, |note: &ObjectNote| {
            &note.name
        })
    }

    /// Whether there is, or was once, a class of this name.
    #[must_use]
    pub fn has_class(&self, name: &str) -> bool {
        self.root.join("classes").join(name).exists()
    }

    /// Keys of the instances of a class that have data here.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn keys(&self, class: &str) -> Result<Vec<String>, CatalogError> {
        let dir = self.root.join("instances").join(class);
        if !dir.exists() {
            return Ok(Vec::new());
        }
        Ok(entries(&dir)?.into_iter().map(|(name, _)| name).collect())
    }

    /// Whether a class or an object has this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let class = self.root.join("classes").join(name).join("class.json");
        let object = self.root.join("objects").join(name).join(OBJECT_NOTE);
        class.exists() || object.exists()
    }

    /// Keeps a class, durably.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn keep_class(&self, note: &ClassNote) -> Result<(), CatalogError> {
        check_name(&note.name)?;
        let dir = self.root.join("classes").join(&note.name);
        let instances = self.root.join("instances").join(&note.name);
        make_dir(&dir).map_err(disk(&dir))?;
        make_dir(&instances).map_err(disk(&instances))?;
        write(&dir, "class.json", note)
    }

    /// Keeps a single object, durably.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn keep_object(&self, note: &ObjectNote) -> Result<(), CatalogError> {
        check_name(&note.name)?;
        let dir = self.root.join("objects").join(&note.name);
        make_dir(&dir).map_err(disk(&dir))?;
        write(&dir, OBJECT_NOTE, note)
    }

    /// Puts what was staged where instances are, durably; done already where that has happened.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn place(staged: &Path, paths: &ObjectPaths) -> Result<(), CatalogError> {
        Self::place_telling(staged, paths, || {})
    }

    /// As [`Catalog::place`]; `placed` is told once it is there, and not durably yet.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn place_telling(
        staged: &Path,
        paths: &ObjectPaths,
        placed: impl FnOnce(),
    ) -> Result<(), CatalogError> {
        let parent = paths.data.parent().unwrap_or(staged);
        make_dir(parent).map_err(disk(parent))?;
        std::fs::rename(staged, &paths.data).map_err(disk(&paths.data))?;
        placed();
        sync_dir(parent).map_err(disk(parent))
    }

    /// Removes what nobody knows of.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn discard(&self, staged: &Path) -> Result<(), CatalogError> {
        match std::fs::remove_dir_all(staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(staged)(error)),
            _ => Ok(()),
        }
    }

    /// Removes a class that has no instances.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remove_class(&self, name: &str) -> Result<(), CatalogError> {
        let classes = self.root.join("classes");
        self.discard(&classes.join(name))?;
        sync_dir(&classes).map_err(disk(&classes))
    }

    /// Where the capsule of a removed object is kept.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn archived(&self, object: suijuris_core::ObjectId) -> Result<PathBuf, CatalogError> {
        let archive = self.root.join("archive");
        make_dir(&archive).map_err(disk(&archive))?;
        Ok(archive.join(format!("{object}.sui")))
    }

    /// Where an object is packed that is carried to another server.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn outgoing(&self, object: suijuris_core::ObjectId) -> Result<PathBuf, CatalogError> {
        let outgoing = self.root.join(OUTGOING);
        make_dir(&outgoing).map_err(disk(&outgoing))?;
        Ok(Self::outgoing_in(&self.root, object))
    }

    /// The same for whoever looks at a daemon's directory from outside.
    #[must_use]
    pub fn outgoing_in(root: &Path, object: suijuris_core::ObjectId) -> PathBuf {
        root.join(OUTGOING).join(format!("{object}.sui"))
    }

    /// Puts the data of a removed object aside, under a name that says what is still to be done for it; where it is then.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn set_aside(&self, paths: &ObjectPaths, origin: &Origin) -> Result<PathBuf, CatalogError> {
        let removed = self.root.join("removed");
        make_dir(&removed).map_err(disk(&removed))?;
        let called = match &origin.instance {
            Some((class, key)) => format!("{class}.{key}.{}", origin.object),
            None => format!(".{}.{}", origin.name, origin.object),
        };
        let aside = removed.join(called);
        std::fs::rename(&paths.data, &aside).map_err(disk(&paths.data))?;
        for dir in [Some(removed.as_path()), paths.data.parent()]
            .into_iter()
            .flatten()
        {
            sync_dir(dir).map_err(disk(dir))?;
        }
        Ok(aside)
    }

    /// What was put aside: class (empty for a single object), key or name, object, directory.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn aside(&self) -> Result<Vec<Aside>, CatalogError> {
        let removed = self.root.join("removed");
        if !removed.exists() {
            return Ok(Vec::new());
        }
        let parts = |(name, path): (String, PathBuf)| {
            let (class, rest) = name.split_once('.')?;
            let (key, object) = rest.rsplit_once('.')?;
            Some((class.to_owned(), key.to_owned(), object.parse().ok()?, path))
        };
        Ok(entries(&removed)?.into_iter().filter_map(parts).collect())
    }

    /// Moves the data of a removed object away; where it is then.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn archive(
        &self,
        paths: &ObjectPaths,
        object: suijuris_core::ObjectId,
    ) -> Result<PathBuf, CatalogError> {
        let archive = self.root.join("archive");
        make_dir(&archive).map_err(disk(&archive))?;
        let kept = archive.join(object.to_string());
        std::fs::rename(&paths.data, &kept).map_err(disk(&paths.data))?;
        for dir in [Some(archive.as_path()), paths.data.parent()]
            .into_iter()
            .flatten()
        {
            sync_dir(dir).map_err(disk(dir))?;
        }
        Ok(kept)
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(super) fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, CatalogError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(disk(dir))? {
        let entry = entry.map_err(disk(dir))?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn notes<T: for<'de> Deserialize<'de>>(
    dir: &Path,
    file: &str,
    name: impl Fn(&T) -> &str,
) -> Result<Notes<T>, CatalogError> {
    let (mut read, mut broken) = (Vec::new(), Vec::new());
    for (called, path) in entries(dir)? {
        let path = path.join(file);
        // What was cut short while it was made has no note yet.
        if !path.exists() {
            continue;
        }
        match note(&path) {
            Ok(note) if name(&note) == called => read.push(note),
            Ok(_other) => {
                let why = "it is the note of something else".to_owned();
                broken.push((called, CatalogError::Note { path, why }));
            }
            Err(error) => broken.push((called, error)),
        }
    }
    Ok(Notes { read, broken })
}

pub(super) fn note<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, CatalogError> {
    let wrong = |why: String| CatalogError::Note {
        path: path.to_owned(),
        why,
    };
    let data = path.metadata().map_err(disk(path))?;
    if data.len() > MAX_NOTE {
        return Err(wrong("it is too large".to_owned()));
    }
    let text = std::fs::read(path).map_err(disk(path))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

pub(super) fn write(dir: &Path, name: &str, note: &impl Serialize) -> Result<(), CatalogError> {
    let (fresh, path) = (dir.join(format!(".{name}")), dir.join(name));
    let write = || {
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(note)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        sync_dir(dir)
    };
    write().map_err(disk(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_daemon() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        let first = Catalog::open(&root).unwrap();
        assert!(matches!(Catalog::open(&root), Err(CatalogError::Locked(_))));
        drop(first);
        Catalog::open(&root).unwrap();
    }

    #[test]
    fn names_are_labels_and_no_ids() {
        for good in ["a", "tenant", "a-1", &"x".repeat(63)] {
            check_name(good).unwrap();
        }
        let id = suijuris_core::ObjectId::from_digest(suijuris_core::id::Digest([7; 32])).to_string();
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "..",
            "xn--a",
            "é",
            &id,
            &"x".repeat(64),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let temp = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(temp.path()).unwrap();
        let note = ObjectNote {
            name: "hello".to_owned(),
            object_dir: Some("/x".into()),
            ports: None,
            received: false,
        };
        catalog.keep_object(&note).unwrap();
        assert_eq!(catalog.objects().unwrap().read, [note]);
        assert!(catalog.has("hello") && !catalog.has("other"));
    }

    #[test]
    fn a_broken_note_hides_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(temp.path()).unwrap();
        for name in ["first", "second", "third"] {
            let (name, object_dir) = (name.to_owned(), None);
            catalog
                .keep_object(&ObjectNote {
                    name,
                    object_dir,
                    ports: None,
                    received: false,
                })
                .unwrap();
        }
        let objects = temp.path().join("objects");
        let (first, second) = (
            objects.join("first/object.json"),
            objects.join("second/object.json"),
        );
        std::fs::copy(objects.join("third/object.json"), first).unwrap();
        std::fs::write(second, "{").unwrap();
        let found = catalog.objects().unwrap();
        let names: Vec<_> = found.read.iter().map(|note| note.name.as_str()).collect();
        let broken: Vec<_> = found.broken.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, broken), (vec!["third"], vec!["first", "second"]));
    }
}
