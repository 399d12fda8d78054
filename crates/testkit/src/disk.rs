//! A disk in memory that keeps apart what was synced and what was not, and fails as told.
//!
//! Not a file system: names, bytes, and the two promises that durability rests on (a synced file's bytes stay; a synced
//! directory's names stay). After a [`FaultyDisk::crash`] each unsynced thing may have happened or not, as the seed says.
//! The store's tests put their own disk trait in front of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that reach the medium together or not at all.
const SECTOR_BYTES: usize = 512;
/// Linux error numbers that faults carry.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What happens at one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This and all later operations fail: the power is gone.
    PowerLoss,
    /// This one operation fails with EIO and does nothing.
    Eio,
    /// From here on nothing can grow: ENOSPC.
    Full,
}

/// What becomes of unsynced things in a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All lost.
    All,
    /// All kept.
    Nothing,
    /// Those before some point kept, the write at that point torn.
    Later(u64),
    /// Each sector of each write kept or lost on its own: torn and reordered.
    Scattered(u64),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    volatile: Vec<u8>,
    /// Writes since the last sync; a truncation is a write of nothing at `usize::MAX`.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Naming {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    naming: Vec<Naming>,
    dirs: Vec<PathBuf>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    full: bool,
    dead: bool,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<Disk>>);

/// A file on it, which stays the same file when its name changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(usize);

/// A small generator, so that a seed printed by a test repeats its run.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(0x9e37_79b9_7f4a_7c15))
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if at == usize::MAX {
        content.clear();
        return;
    }
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

impl Disk {
    fn operate(&mut self, grows: bool) -> io::Result<()> {
        self.operations += 1;
        if self.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        match self.fault {
            Some((at, fault)) if at == self.operations => match fault {
                Fault::PowerLoss => self.dead = true,
                Fault::Eio => return Err(io::Error::from_raw_os_error(EIO)),
                Fault::Full => self.full = true,
            },
            _ => {}
        }
        if self.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if self.full && grows {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }

    fn inode(&mut self, id: usize) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(id)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn apply(names: &mut BTreeMap<PathBuf, usize>, naming: &Naming) {
        match naming {
            Naming::Link(path, id) => drop(names.insert(path.clone(), *id)),
            Naming::Remove(path) => drop(names.remove(path)),
            Naming::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
                // A directory takes its names along.
                for path in Self::below(names, from) {
                    if let (Ok(rest), Some(id)) = (path.strip_prefix(from), names.remove(&path)) {
                        names.insert(to.join(rest), id);
                    }
                }
            }
        }
    }

    fn below(names: &BTreeMap<PathBuf, usize>, dir: &Path) -> Vec<PathBuf> {
        let inside = names.keys().filter(|path| path.starts_with(dir));
        inside.cloned().collect()
    }

    fn name(&mut self, naming: Naming) {
        Self::apply(&mut self.names, &naming);
        self.naming.push(naming);
    }
}

impl Naming {
    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Link(path, _) | Self::Rename(_, path) | Self::Remove(path)) = self;
        path.parent() == Some(dir)
    }
}

impl FaultyDisk {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far that change something or make it durable.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Lets `fault` happen `after` so many more operations; 1 is the next one.
    pub fn fail(&self, after: u64, fault: Fault) {
        let mut disk = self.lock();
        disk.fault = Some((disk.operations + after, fault));
    }

    /// Ends a [`Fault::Full`].
    pub fn free_space(&self) {
        self.lock().full = false;
    }

    /// What the disk holds after the power came back: a new disk; the old one is dead.
    #[must_use]
    pub fn crash(&self, loss: Loss) -> Self {
        let mut old = self.lock();
        old.dead = true;
        let mut dice = Dice::new(match loss {
            Loss::Later(seed) | Loss::Scattered(seed) => seed,
            Loss::All | Loss::Nothing => 0,
        });
        let kept = match loss {
            Loss::All => 0,
            Loss::Nothing => old.naming.len(),
            Loss::Later(_) | Loss::Scattered(_) => {
                usize::try_from(dice.below(old.naming.len() as u64 + 1)).unwrap_or_default()
            }
        };
        let mut names = old.durable_names.clone();
        for naming in old.naming.iter().take(kept) {
            Disk::apply(&mut names, naming);
        }
        let survivor = |inode: &Inode| {
            let content = survive(inode, loss, &mut dice);
            Inode {
                durable: content.clone(),
                volatile: content,
                pending: Vec::new(),
            }
        };
        let inodes = old.inodes.iter().map(survivor).collect();
        Self(Arc::new(Mutex::new(Disk {
            inodes,
            durable_names: names.clone(),
            names,
            dirs: old.dirs.clone(),
            ..Disk::default()
        })))
    }

    /// A copy with everything durable, for tests that change bytes.
    #[must_use]
    pub fn copy(&self) -> Self {
        let old = self.lock();
        let settled = |inode: &Inode| Inode {
            durable: inode.volatile.clone(),
            volatile: inode.volatile.clone(),
            pending: Vec::new(),
        };
        Self(Arc::new(Mutex::new(Disk {
            inodes: old.inodes.iter().map(settled).collect(),
            names: old.names.clone(),
            durable_names: old.names.clone(),
            dirs: old.dirs.clone(),
            ..Disk::default()
        })))
    }

    /// Paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// Content of the file at `path`.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.lock();
        let id = *disk.names.get(path)?;
        Some(disk.inodes.get(id)?.volatile.clone())
    }

    /// Replaces the content of the file at `path`, or makes the file: somebody tampers with the disk.
    pub fn set_content(&self, path: &Path, content: Vec<u8>) {
        let mut disk = self.lock();
        let id = disk.inodes.len();
        disk.inodes.push(Inode {
            durable: content.clone(),
            volatile: content,
            pending: Vec::new(),
        });
        disk.names.insert(path.to_owned(), id);
        disk.durable_names.insert(path.to_owned(), id);
    }

    /// Takes the file at `path` away: somebody tampers with the disk.
    pub fn take_away(&self, path: &Path) {
        let mut disk = self.lock();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }

    /// Opens an existing file.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(&self, path: &Path) -> io::Result<FileId> {
        let disk = self.lock();
        let id = disk.names.get(path).copied();
        id.map(FileId).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes a file, or empties the one that is there.
    ///
    /// # Errors
    /// As told.
    pub fn create(&self, path: &Path) -> io::Result<FileId> {
        let mut disk = self.lock();
        disk.operate(true)?;
        if let Some(id) = disk.names.get(path).copied() {
            let inode = disk.inode(id)?;
            inode.volatile.clear();
            inode.pending.push((usize::MAX, Vec::new()));
            return Ok(FileId(id));
        }
        let id = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.name(Naming::Link(path.to_owned(), id));
        Ok(FileId(id))
    }

    /// Size of a file, bytes.
    ///
    /// # Errors
    /// For a file of another disk.
    pub fn size(&self, file: FileId) -> io::Result<u64> {
        Ok(self.lock().inode(file.0)?.volatile.len() as u64)
    }

    /// Reads up to the file's end.
    ///
    /// # Errors
    /// For a file of another disk.
    pub fn read_at(&self, file: FileId, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.lock();
        let inode = disk.inode(file.0)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = inode.volatile.get(start..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    /// Writes; not durable before [`FaultyDisk::sync`].
    ///
    /// # Errors
    /// As told.
    pub fn write_at(&self, file: FileId, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.lock();
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let grows = disk.inode(file.0)?.volatile.len() < at + bytes.len();
        let done = disk.operate(grows);
        let died_here = disk.dead && disk.fault.is_some_and(|(at, _)| at == disk.operations);
        let inode = disk.inode(file.0)?;
        // A write that the power loss interrupts may still have reached the medium.
        if done.is_ok() || died_here {
            put(&mut inode.volatile, at, bytes);
            inode.pending.push((at, bytes.to_vec()));
        }
        done
    }

    /// Makes a file's bytes durable.
    ///
    /// # Errors
    /// As told; what was pending is then neither durable nor written again, as on Linux.
    pub fn sync(&self, file: FileId) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate(false)?;
        let inode = disk.inode(file.0)?;
        inode.durable = inode.volatile.clone();
        inode.pending.clear();
        Ok(())
    }

    /// Gives a file another name, or a directory, whose new name must be free or that of an empty one.
    ///
    /// # Errors
    /// As told, and where there is no such file or directory.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate(false)?;
        let is_dir = disk.dirs.iter().any(|dir| dir == from);
        if !is_dir && !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if is_dir && !Disk::below(&disk.names, to).is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        disk.name(Naming::Rename(from.to_owned(), to.to_owned()));
        if is_dir {
            // The old name stays known as an empty directory, so that a crash which undoes the renaming finds it.
            let to = to.to_owned();
            disk.dirs.push(to);
        }
        Ok(())
    }

    /// Removes an empty directory; its name is gone durably at once.
    ///
    /// # Errors
    /// As told, and where it holds something.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate(false)?;
        if !Disk::below(&disk.names, path).is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        disk.dirs.retain(|dir| dir != path);
        Ok(())
    }

    /// Removes a name.
    ///
    /// # Errors
    /// As told.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate(false)?;
        disk.name(Naming::Remove(path.to_owned()));
        Ok(())
    }

    /// Makes a directory. Directories themselves are durable at once here.
    ///
    /// # Errors
    /// As told.
    pub fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate(true)?;
        if !disk.dirs.iter().any(|dir| dir == path) {
            disk.dirs.push(path.to_owned());
        }
        Ok(())
    }

    /// Names in a directory.
    ///
    /// # Errors
    /// Where there is none.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.lock();
        if !disk.dirs.iter().any(|known| known == dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As told.
    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate(false)?;
        let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut disk.naming)
            .into_iter()
            .partition(|naming| naming.is_in(dir));
        for naming in &synced {
            Disk::apply(&mut disk.durable_names, naming);
        }
        disk.naming = rest;
        Ok(())
    }
}

fn survive(inode: &Inode, loss: Loss, dice: &mut Dice) -> Vec<u8> {
    let mut content = inode.durable.clone();
    let kept = match loss {
        Loss::All => return content,
        Loss::Nothing => return inode.volatile.clone(),
        Loss::Later(_) | Loss::Scattered(_) => dice.below(inode.pending.len() as u64 + 1),
    };
    for (index, (at, bytes)) in inode.pending.iter().enumerate() {
        let before = (index as u64) < kept;
        if *at == usize::MAX {
            if before {
                content.clear();
            }
            continue;
        }
        let torn_at = dice.below(bytes.len() as u64 + 1);
        let mut start = 0;
        while start < bytes.len() {
            let end = bytes
                .len()
                .min((at + start) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - at);
            let survives = match loss {
                Loss::Scattered(_) => dice.below(2) == 0,
                _ => before || (index as u64 == kept && (end as u64) <= torn_at),
            };
            if survives {
                put(
                    &mut content,
                    at + start,
                    bytes.get(start..end).unwrap_or_default(),
                );
            }
            start = end;
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_synced_bytes_under_synced_names_survive_for_sure() {
        let disk = FaultyDisk::default();
        let (dir, path) = (Path::new("d"), Path::new("d/f"));
        disk.create_dir(dir).unwrap();
        let file = disk.create(path).unwrap();
        disk.write_at(file, b"abc", 0).unwrap();
        disk.sync(file).unwrap();
        assert_eq!(
            disk.copy().crash(Loss::All).content(path).as_deref(),
            Some(&b"abc"[..])
        );
        assert_eq!(
            disk.crash(Loss::All).content(path),
            None,
            "its name was not synced"
        );
    }

    #[test]
    fn unsynced_writes_tear_and_reorder() {
        let results: std::collections::BTreeSet<_> = (0..200)
            .map(|seed| {
                let disk = FaultyDisk::default();
                disk.set_content(Path::new("f"), vec![0; 2_048]);
                let file = disk.open(Path::new("f")).unwrap();
                disk.write_at(file, &[1; 2_048], 0).unwrap();
                let content = disk.crash(Loss::Scattered(seed)).content(Path::new("f")).unwrap();
                content.chunks(512).map(|sector| sector[0]).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(results.len(), 16, "every subset of four sectors is seen");
    }
}
