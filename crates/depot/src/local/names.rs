//! Name tables in files: one for each key, compared and changed under the lock of its class.
//!
//! How many there are stands in a file beside them. That is struck out before anything changes and written afterwards, without
//! a sync, and names the boot it was written in: whatever a crash leaves there is not believed, and the names are counted.
//!
//! Threads of this process wait for their turn before they try the lock, which is only tried again after pauses. A change is
//! made under the lock and synced after it, so that the file system makes those of several threads durable at once; whoever
//! changes it next syncs both.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use suijuris_core::ClassId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::Entry;
use suijuris_core::id::Digest;

use super::files::Files;
use super::{Local, Shared, layout};
use crate::{Answer, Directory, Error, MAX_NAMES, NameRemoval, NameSwap, Version, entry, frame};

/// Size of a count at most, bytes.
const MAX_COUNT: usize = 128;

/// Stands in place of a count while names change.
const STRUCK_OUT: &[u8] = b"-";

/// Turns of this process's threads at the locks of name tables.
pub(crate) type Turns = Mutex<()>;

impl Directory for Local {
    fn name<'a>(&'a self, class: ClassId, key: &'a Key) -> Answer<'a, Option<(Entry, Version)>> {
        let key = key.clone();
        self.run(move |shared| Table::new(shared, class).read(&key))
    }

    fn swap_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        entry: &'a Entry,
        expected: Option<&'a Version>,
    ) -> Answer<'a, NameSwap> {
        let (key, entry, expected) = (key.clone(), entry.clone(), expected.cloned());
        self.run(move |shared| Table::new(shared, class).swap(&key, &entry, expected.as_ref()))
    }

    fn remove_name<'a>(
        &'a self,
        class: ClassId,
        key: &'a Key,
        expected: &'a Version,
    ) -> Answer<'a, NameRemoval> {
        let (key, expected) = (key.clone(), expected.clone());
        self.run(move |shared| Table::new(shared, class).remove(&key, &expected))
    }

    fn names<'a>(
        &'a self,
        class: ClassId,
        after: Option<&'a Key>,
        limit: usize,
    ) -> Answer<'a, Vec<(Key, Entry)>> {
        let after = after.cloned();
        self.run(move |shared| Table::new(shared, class).list(after.as_ref(), limit.min(MAX_NAMES)))
    }

    fn count_names(&self, class: ClassId) -> Answer<'_, u64> {
        self.run(move |shared| Table::new(shared, class).count())
    }
}

/// The name table of a class.
struct Table<'a> {
    files: &'a Files,
    turns: &'a Turns,
    home: PathBuf,
    names: PathBuf,
}

/// An entry as it was read, and the size of what is stored.
struct Present {
    entry: Entry,
    version: Version,
    size: u64,
}

impl<'a> Table<'a> {
    fn new(shared: &'a Shared, class: ClassId) -> Self {
        let home = layout::class(&shared.files.root, class);
        Self {
            files: &shared.files,
            turns: &shared.turns,
            names: home.join(layout::NAMES),
            home,
        }
    }

    /// The lock of the table, as soon as it is this thread's turn.
    fn lock(&self) -> Result<(MutexGuard<'a, ()>, fs::File), Error> {
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((turn, self.files.lock(&self.home.join(layout::LOCK))?))
    }

    fn path(&self, key: &Key) -> PathBuf {
        // A key is a DNS label, and so a name of a file as it stands.
        self.names.join(key.as_str())
    }

    fn present(&self, key: &Key) -> Result<Option<Present>, Error> {
        let path = self.path(key);
        let Some(stored) = self.files.read(&path, entry::MAX_STORED)? else {
            return Ok(None);
        };
        Ok(Some(Present {
            entry: entry::open(&stored, &self.files.place(&path))?,
            version: version(&stored),
            size: stored.len() as u64,
        }))
    }

    /// The entry under `key`.
    fn read(&self, key: &Key) -> Result<Option<(Entry, Version)>, Error> {
        Ok(told(self.present(key)?))
    }

    /// Puts `entry` in place of the one whose version is `expected`.
    fn swap(&self, key: &Key, entry: &Entry, expected: Option<&Version>) -> Result<NameSwap, Error> {
        let stored = entry::stamp(entry)?;
        let differs = |present: &Option<Present>| present.as_ref().map(|found| &found.version) != expected;
        let present = self.present(key)?;
        if differs(&present) {
            return Ok(NameSwap::Conflict(told(present)));
        }
        self.files.directory(&self.names)?;
        let draft = self.files.draft(&stored)?;
        let lock = self.lock()?;
        let present = self.present(key)?;
        if differs(&present) {
            return Ok(NameSwap::Conflict(told(present)));
        }
        let known = self.begin()?;
        self.files.rename_unsynced(draft.path(), &self.path(key))?;
        let gone = u64::from(present.is_some_and(|found| entry::counts(found.size)));
        let come = u64::from(entry::counts(stored.len() as u64));
        self.record_count(known.and_then(|known| (known + come).checked_sub(gone)));
        drop(lock);
        self.files.sync(&self.names)?;
        Ok(NameSwap::Done(version(&stored)))
    }

    /// Removes the entry whose version is `expected`.
    fn remove(&self, key: &Key, expected: &Version) -> Result<NameRemoval, Error> {
        if self.present(key)?.is_none() {
            return Ok(NameRemoval::Conflict(None));
        }
        let _lock = self.lock()?;
        let found = match self.present(key)? {
            Some(found) if found.version == *expected => found,
            other => return Ok(NameRemoval::Conflict(told(other))),
        };
        let known = self.begin()?;
        self.files.remove(&self.path(key))?;
        let gone = u64::from(entry::counts(found.size));
        self.record_count(known.and_then(|known| known.checked_sub(gone)));
        Ok(NameRemoval::Done)
    }

    /// Entries whose keys come after `after`.
    fn list(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, Error> {
        let mut first = BTreeSet::new();
        self.files.each_name(&self.names, |name| {
            if after.is_none_or(|after| name.as_str() > after.as_str()) {
                first.insert(name);
                // The last of those that were seen so far is beyond the limit.
                if first.len() > limit {
                    first.pop_last();
                }
            }
            Ok(())
        })?;
        let full = first.len() == limit;
        let (mut found, mut last) = (Vec::new(), None);
        for name in first {
            let key = name.parse::<Key>().map_err(|error| {
                frame::garbage(&self.files.place(&self.names.join(&name)), &error.to_string())
            })?;
            // One that is not there any more was removed a moment ago.
            match self.present(&key)? {
                Some(present) => found.push((key, present.entry)),
                None => last = Some(key),
            }
        }
        match last {
            // An empty answer says that there are no more.
            Some(last) if found.is_empty() && full => self.list(Some(&last), limit),
            _ => Ok(found),
        }
    }

    /// How many entries are no tombstones.
    fn count(&self) -> Result<u64, Error> {
        if let Some(known) = self.known()? {
            return Ok(known);
        }
        if !self.names.is_dir() {
            return Ok(0);
        }
        let _lock = match self.lock() {
            Ok(lock) => lock,
            // Whoever may only read counts each time.
            Err(Error::ReadOnly(..)) => return self.counted(),
            Err(error) => return Err(error),
        };
        if let Some(known) = self.known()? {
            return Ok(known);
        }
        let counted = self.counted()?;
        self.record_count(Some(counted));
        Ok(counted)
    }

    /// Goes through all of them, and reads none.
    fn counted(&self) -> Result<u64, Error> {
        let mut count = 0;
        self.files.each_name(&self.names, |name| {
            let found = fs::symlink_metadata(self.names.join(name));
            count += u64::from(found.is_ok_and(|found| entry::counts(found.len())));
            Ok(())
        })?;
        Ok(count)
    }

    /// What the file says, if it can be believed.
    fn known(&self) -> Result<Option<u64>, Error> {
        let found = self.files.read(&self.home.join(layout::COUNT), MAX_COUNT);
        let stored = match found {
            Ok(Some(stored)) => stored,
            Ok(None) | Err(Error::Garbage { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8(stored).unwrap_or_default();
        let count = text
            .trim_end()
            .rsplit_once(' ')
            .and_then(|(_, count)| count.parse().ok());
        Ok(count.filter(|count| self.written(*count).is_some_and(|written| written == text)))
    }

    /// Strikes the count out, before something changes under the lock; what it said.
    fn begin(&self) -> Result<Option<u64>, Error> {
        let known = self.known()?;
        self.files
            .overwrite_unsynced(&self.home.join(layout::COUNT), STRUCK_OUT)?;
        Ok(known)
    }

    /// Writes the count, after something has changed under the lock. What cannot be written is counted when it is asked for.
    fn record_count(&self, count: Option<u64>) {
        if let Some(text) = count.and_then(|count| self.written(count)) {
            let path = self.home.join(layout::COUNT);
            let _ = self.files.overwrite_unsynced(&path, text.as_bytes());
        }
    }

    /// A count as it is written in this boot about this directory, which is another where it was copied.
    fn written(&self, count: u64) -> Option<String> {
        let number = fs::metadata(&self.names).ok()?.ino();
        Some(format!("{} {number:020} {count:020}\n", boot()?))
    }
}

fn told(present: Option<Present>) -> Option<(Entry, Version)> {
    present.map(|found| (found.entry, found.version))
}

/// Stored bytes never come again (they begin with a random stamp), so their digest is a version.
fn version(stored: &[u8]) -> Version {
    Version(Digest::of(stored).0.to_vec())
}

/// Which boot of the system this is.
fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let text = fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).ok()?;
        Some(text.trim().to_owned()).filter(|id| id.len() == 36)
    };
    BOOT.get_or_init(read).as_deref()
}
