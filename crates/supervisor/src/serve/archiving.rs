//! Instances of a class that slept for as long as its `archive_after`: each is packed into a capsule, its volume beside it, and its
//! directory goes. First use brings it back as the same object: nothing is recorded, and the witness's mark stands where it stood.
//!
//! Of what is there twice after a kill the directory counts, since it goes last and comes last. Not archived: objects with timers or
//! topics, which have to be looked after while they sleep.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use suijuris_core::ObjectId;
use suijuris_core::activation::Stop;
use suijuris_core::time::Span;
use suijuris_custody::chain;
use suijuris_store::{Depth, ObjectDir, Reader, Sizes, capsule};
use suijuris_vehicle::Driver;

use super::catalog::{self, Catalog, CatalogError};
use super::entry::{Entry, Status};
use super::packing::{KeyWrap, Parcel};
use super::roster::Roster;
use crate::actor::Input;
use crate::paths::make_private_dir;
use crate::services::STOP_WITHIN;
use crate::volume;

/// Between two looks for who slept long enough: a tenth of the shortest time that a class can say.
const LOOK_EVERY: Duration = Duration::from_secs(6);

/// The note of the key that archived instances are sealed to.
const KEY: &str = "archive.json";

/// The key of this daemon's archive.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArchiveKey {
    identity: String,
    recipient: String,
}

/// Archives who slept long enough, until the daemon ends.
pub(super) async fn archive_long_sleepers<D: Driver>(roster: Weak<Roster<D>>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(roster) = roster.upgrade().filter(|roster| !roster.is_stopping()) else {
            return;
        };
        roster.look_for_long_sleepers().await;
    }
}

impl<D: Driver> Roster<D> {
    async fn look_for_long_sleepers(&self) {
        let now = self.services.clock.reading().wall;
        for entry in self.entries() {
            let Some((class, _)) = &entry.origin.instance else {
                continue;
            };
            let Some(after) = self.class(class).and_then(|class| class.class.archive_after) else {
                continue;
            };
            let Status::Live(handle) = entry.status() else {
                continue;
            };
            let slept = |since| -> Span { now.since(since) };
            let long = handle
                .rests_since()
                .is_some_and(|since| slept(since).0 >= after.0);
            let leaves = self.leaving.borrow().contains(&entry.origin.object);
            if !long || leaves || entry.stays.get() || handle.is_looked_after() {
                continue;
            }
            entry.archiving.set(true);
            // Its keeper goes on once it has stopped.
            let _ = handle.send(Input::Stop(Stop::Graceful(STOP_WITHIN))).await;
        }
    }

    fn archived_in(&self, class: &str) -> PathBuf {
        self.catalog.root().join("archived").join(class)
    }

    /// Where the capsule of an instance is while it is archived.
    fn archived_file(&self, entry: &Entry) -> Option<PathBuf> {
        let (class, key) = entry.origin.instance.as_ref()?;
        let name = format!("{key}.{}.sui", entry.origin.object);
        Some(self.archived_in(class).join(name))
    }

    /// Whether nothing of the object is here but its capsule.
    pub(super) fn is_archived(&self, entry: &Entry) -> bool {
        let file = self.archived_file(entry);
        !entry.paths.data.exists() && file.is_some_and(|file| file.exists())
    }

    /// Archives an object that was stopped for that. Whoever comes meanwhile waits, and brings it back.
    pub(super) async fn archive(&self, entry: &Entry) {
        // Who wanted it before has had it.
        tokio::select! {
            biased;
            () = entry.wanted.notified() => {}
            () = std::future::ready(()) => {}
        }
        entry.status.send_replace(Status::Opening);
        if let Err(why) = self.put_away(entry).await {
            entry.stays.set(true);
            let why = format!("it is not archived: {why}");
            self.say_broken(&super::entry::label(&entry.origin), &why);
        }
    }

    /// Packs an object that has been let go of, and removes its directory.
    async fn put_away(&self, entry: &Entry) -> Result<(), String> {
        let (Some((class, _)), Some(file)) = (&entry.origin.instance, self.archived_file(entry)) else {
            return Ok(());
        };
        let key = self.archive_key()?;
        let dir = self.archived_in(class);
        let made =
            make_private_dir(&self.catalog.root().join("archived")).and_then(|()| make_private_dir(&dir));
        made.map_err(|error| error.to_string())?;
        let parcel = Parcel {
            file: file.clone(),
            seal_to: vec![key.recipient],
            volume: true,
        };
        self.pack(&entry.paths, &parcel).await?;
        let data = entry.paths.data.clone();
        let gone = tokio::task::spawn_blocking(move || {
            let aside = file.with_extension("gone");
            discard(&aside)?;
            fs::rename(&data, &aside)?;
            volume::sync_parent(&data)?;
            discard(&aside)
        });
        let gone = gone.await.map_err(|error| error.to_string())?;
        gone.map_err(|error| format!("its directory does not go: {error}"))
    }

    /// Waits until an archived object is wanted, and puts it back where objects are; not where the daemon ends before.
    pub(super) async fn brought_back(&self, entry: &Entry) -> Result<bool, String> {
        let Some(file) = self.archived_file(entry) else {
            return Ok(true);
        };
        entry.status.send_replace(Status::Archived);
        let mut status = entry.status.subscribe();
        tokio::select! {
            () = entry.wanted.notified() => {}
            _ = status.wait_for(|status| matches!(status, Status::Stopped)) => return Ok(false),
        }
        let (identity, wrap) = (self.archive_key()?.identity, self.wrap.clone());
        let (fresh, packed) = (file.with_extension("back"), file.clone());
        let unpacked = {
            let fresh = fresh.clone();
            tokio::task::spawn_blocking(move || unpack(&packed, &fresh, &identity, &*wrap))
        };
        unpacked.await.map_err(|error| error.to_string())??;
        let placed = Catalog::place(&fresh, &entry.paths);
        placed.map_err(|error| chain(&error))?;
        forget(&file).map_err(|error| error.to_string())?;
        entry.status.send_replace(Status::Opening);
        Ok(true)
    }

    /// The key that archived instances are sealed to: made once, for this daemon's directory.
    fn archive_key(&self) -> Result<ArchiveKey, String> {
        let root = self.catalog.root();
        if root.join(KEY).exists() {
            return catalog::note(&root.join(KEY)).map_err(|error| chain(&error));
        }
        let (identity, recipient) = self.wrap.fresh()?;
        let key = ArchiveKey {
            identity: identity.to_string(),
            recipient,
        };
        catalog::write(root, KEY, &key).map_err(|error| chain(&error))?;
        Ok(key)
    }

    /// Takes archived instances in; of what is there twice the directory counts.
    pub(super) fn load_archived(self: &Rc<Self>) -> Result<(), CatalogError> {
        for class in self.classes() {
            let dir = self.archived_in(&class.note.name);
            if !dir.exists() {
                continue;
            }
            for (name, path) in catalog::entries(&dir)? {
                let Some((key, object)) = named(&name) else {
                    self.clear(&path)?;
                    continue;
                };
                let Ok(key) = class.class.key.asked(key.as_bytes()) else {
                    continue;
                };
                if self.catalog.instance(&class.note, &key).data.exists() {
                    let forgotten = forget(&path);
                    forgotten.map_err(|source| CatalogError::Disk { path, source })?;
                } else {
                    self.kept(&class, &key, object);
                }
            }
        }
        Ok(())
    }

    /// Removes what was cut off on its way out, or in; not the volume of a capsule.
    fn clear(&self, path: &Path) -> Result<(), CatalogError> {
        if path.is_dir() {
            return self.catalog.discard(path);
        }
        let capsule = path.with_extension("");
        if volume::beside(&capsule) == path && capsule.exists() {
            return Ok(());
        }
        match fs::remove_file(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(CatalogError::Disk {
                path: path.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }
}

/// Key and object of a capsule's name.
fn named(name: &str) -> Option<(&str, ObjectId)> {
    let (key, object) = name.strip_suffix(".sui")?.rsplit_once('.')?;
    Some((key, object.parse().ok()?))
}

fn unpack(file: &Path, fresh: &Path, identity: &str, wrap: &dyn KeyWrap) -> Result<(), String> {
    let disk = |error: std::io::Error| error.to_string();
    discard(fresh).map_err(disk)?;
    let open = |sealed: Option<&[u8]>| match sealed {
        Some(sealed) => wrap
            .open(sealed, identity)
            .map(Some)
            .map_err(std::io::Error::other),
        None => Err(std::io::Error::other("its key is not in it")),
    };
    let source = std::io::BufReader::with_capacity(256 << 10, fs::File::open(file).map_err(disk)?);
    let home = ObjectDir::at(fresh);
    capsule::import(source, &home, Sizes::default(), open, |_| {}).map_err(|error| chain(&error))?;
    let packed = volume::beside(file);
    if packed.exists() {
        let reader = Reader::open(&home, Depth::Tail).map_err(|error| chain(&error))?;
        let head = reader.state().head().record;
        volume::unpack(&packed, &head, &fresh.join("volume")).map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// The capsule before the volume: without a capsule nothing is archived.
fn forget(file: &Path) -> std::io::Result<()> {
    for path in [file.to_owned(), volume::beside(file)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn discard(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
