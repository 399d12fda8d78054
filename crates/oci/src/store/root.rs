//! The root file system of a held image: the directories of its layers for overlayfs, or all of them copied into one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Hold, ImageStore, StoreError, disk};
use crate::descriptor::ContentDigest;
use crate::file;
use crate::unpack::{Entries, Entry, EntryPath, Kept, Kind, Report, Tree, TreeError, read_entries};

/// Length of a layer's report at most, bytes: its few devices have the longest names.
const MAX_REPORT_BYTES: usize = 1 << 20;

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDir {
    /// Digest of its archive.
    pub diff_id: ContentDigest,
    /// Its files. Not to be written to: other images have them too.
    pub tree: PathBuf,
    /// What was done when it was unpacked.
    pub report: Report,
}

/// The layers of an image, lowest first. Lives no longer than the hold.
#[derive(Debug)]
pub struct Root<'a> {
    store: &'a ImageStore,
    layers: Vec<LayerDir>,
}

/// What an image looks like when its layers lie on each other: for each path the number of its layer, and what that says.
pub type Merged = BTreeMap<EntryPath, (usize, Entry)>;

/// How the content of files was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Shared with the store until one of both is written to; takes no room.
    Reflink,
    /// Byte by byte.
    Copy,
    /// Some files so, some so.
    Mixed,
}

/// What was copied. What is counted as kept holds in [`Root::entries`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files that share their content with the store.
    pub reflinked: u64,
    /// Files that were copied byte by byte.
    pub copied: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Further names of files.
    pub links: u64,
    /// Directories.
    pub directories: u64,
    /// Devices and pipes that were not made.
    pub devices_kept: u64,
    /// Owners that files could not be given.
    pub owners_kept: u64,
    /// Files without the special bits that they should have.
    pub special_bits_kept: u64,
    /// Files without extended attributes that they should have.
    pub xattrs_kept: u64,
}

impl Copied {
    /// How the content was copied; none where there was none.
    #[must_use]
    pub const fn how(&self) -> Option<How> {
        match (self.reflinked, self.copied) {
            (0, 0) => None,
            (_, 0) => Some(How::Reflink),
            (0, _) => Some(How::Copy),
            _ => Some(How::Mixed),
        }
    }
}

impl Hold {
    /// The layers of the image. Only a held image has them, since others may be collected at any moment.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`], [`StoreError::Damaged`], [`StoreError::File`].
    pub fn root(&self) -> Result<Root<'_>, StoreError> {
        let store = self.store();
        let one = |diff_id: ContentDigest| {
            let dir = store.layer_dir(diff_id);
            if !store.has_layer(diff_id) {
                return Err(StoreError::NoLayer(diff_id));
            }
            let path = dir.join("layer.json");
            let bytes = file::bytes(&path, MAX_REPORT_BYTES)?;
            let report = serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
                path,
                why: error.to_string(),
            })?;
            Ok(LayerDir {
                diff_id,
                tree: dir.join("tree"),
                report,
            })
        };
        let layers = self
            .image()
            .layers()
            .iter()
            .map(|layer| one(layer.diff_id))
            .collect::<Result<_, _>>()?;
        Ok(Root { store, layers })
    }
}

impl Root<'_> {
    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[LayerDir] {
        &self.layers
    }

    /// The directories for overlayfs, lowest first (its option `lowerdir` wants them the other way round); none where a layer
    /// has whiteouts that its file system could not keep. To be mounted with `userxattr`, which mounts in user namespaces
    /// need, or as root without. The same directory never stands twice, which overlayfs refuses: what a layer does once
    /// more, below others, is hidden by the last time.
    #[must_use]
    pub fn overlay(&self) -> Option<Vec<&Path>> {
        if self.layers.iter().any(|layer| !layer.report.overlay) {
            return None;
        }
        // Overlayfs does not look whether the root of a layer hides what is below it.
        let from = self
            .layers
            .iter()
            .rposition(|layer| layer.report.opaque_root)
            .unwrap_or(0);
        let visible = self.layers.get(from..).unwrap_or_default();
        let last = |number: usize, layer: &LayerDir| {
            let above = visible.get(number.saturating_add(1)..).unwrap_or_default();
            above.iter().all(|other| other.diff_id != layer.diff_id)
        };
        Some(
            visible
                .iter()
                .enumerate()
                .filter(|(number, layer)| last(*number, layer))
                .map(|(_, layer)| &*layer.tree)
                .collect(),
        )
    }

    /// What the image looks like: all layers on each other, as their records say. Owners, modes and devices are those of the
    /// image, whatever the files have: enough to build a disk from.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Disk`].
    pub fn entries(&self) -> Result<Merged, StoreError> {
        let mut merged = Merged::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let path = self.store.layer_dir(layer.diff_id).join("entries");
            let file = File::open(&path).map_err(disk(&path))?;
            // Members, and a directory for each name on the way to them.
            let most = self
                .store
                .0
                .options
                .limits
                .entries
                .saturating_mul(crate::unpack::MAX_DEPTH as u64);
            let entries = read_entries(BufReader::new(file), most).map_err(|error| StoreError::Damaged {
                path,
                why: error.to_string(),
            })?;
            merge(&mut merged, number, entries);
        }
        Ok(merged)
    }

    /// Copies the image into one directory, `to`, which is new or empty and appears when it is complete. For where overlayfs
    /// is not allowed. Files share their content with the store where the file system can do that. Nothing is synced.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`], [`StoreError::Copy`], [`StoreError::Disk`].
    pub fn copy_to(&self, to: &Path) -> Result<Copied, StoreError> {
        match fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
            Ok(true) => return Err(StoreError::NotEmpty(to.to_owned())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(to)(error)),
            _ => {}
        }
        let parent = to
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let stage = tempfile::Builder::new()
            .prefix(".rootfs-")
            .tempdir_in(parent)
            .map_err(disk(parent))?;
        let merged = self.entries()?;
        let as_root = self.store.0.options.as_root;
        let open = |dir: &Path| {
            Tree::open(dir, as_root).map_err(|source| StoreError::Copy {
                path: EntryPath::root(),
                source,
            })
        };
        let mut copy = Copying {
            from: self
                .layers
                .iter()
                .map(|layer| open(&layer.tree))
                .collect::<Result<_, _>>()?,
            to: open(stage.path())?,
            names: HashMap::new(),
            clones: true,
            copied: Copied::default(),
        };
        for (path, (layer, entry)) in &merged {
            copy.one(path, *layer, entry).map_err(|source| StoreError::Copy {
                path: path.clone(),
                source,
            })?;
        }
        for (path, (_, entry)) in merged.iter().rev().filter(|(_, (_, entry))| entry.is_directory()) {
            copy.directory(path, entry).map_err(|source| StoreError::Copy {
                path: path.clone(),
                source,
            })?;
        }
        fs::rename(stage.path(), to).map_err(disk(to))?;
        // Nothing is left for it to remove.
        let _ = stage.keep();
        Ok(copy.copied)
    }
}

/// Lays a layer on others. What it hides goes first: whiteouts apply to lower layers only.
fn merge(merged: &mut Merged, number: usize, entries: Entries) {
    for (path, entry) in &entries {
        match entry.kind {
            Kind::Whiteout => {
                merged.remove(path);
                remove_below(merged, path);
            }
            Kind::Directory { opaque: true, .. } => remove_below(merged, path),
            _ => {}
        }
    }
    for (path, entry) in entries {
        let is_directory = entry.is_directory();
        let below = merged.get(&path).map(|(_, below)| below.is_directory());
        match entry.kind {
            Kind::Whiteout => continue,
            // Only what is in it is of this layer.
            Kind::Directory { implied: true, .. } if below == Some(true) => continue,
            _ => {}
        }
        if below == Some(true) && !is_directory {
            remove_below(merged, &path);
        }
        merged.insert(path, (number, entry));
    }
}

fn remove_below(merged: &mut Merged, path: &EntryPath) {
    if path.is_root() {
        let root = merged.remove(path);
        merged.clear();
        merged.extend(root.map(|root| (path.clone(), root)));
        return;
    }
    let (from, to) = path.below();
    for below in merged
        .range(&from..&to)
        .map(|(path, _)| path.clone())
        .collect::<Vec<_>>()
    {
        merged.remove(&below);
    }
}

struct Copying {
    from: Vec<Tree>,
    to: Tree,
    /// Files of several names that were copied, by layer and inode.
    names: HashMap<(usize, u64), EntryPath>,
    /// Whether sharing content has worked so far.
    clones: bool,
    copied: Copied,
}

fn add(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more);
}

impl Copying {
    fn one(&mut self, path: &EntryPath, layer: usize, entry: &Entry) -> Result<(), TreeError> {
        // Parents stand before what they contain.
        let mut made = |_| {};
        match entry.kind {
            Kind::Whiteout => Ok(()),
            Kind::Directory { .. } => {
                add(&mut self.copied.directories, 1);
                self.to.make_directory(path, &mut made)
            }
            Kind::File { .. } => self.file(path, layer, entry),
            _ => {
                match self.to.make_special(path, entry, &mut made)? {
                    Some(kept) => self.note(kept),
                    None => add(&mut self.copied.devices_kept, 1),
                }
                Ok(())
            }
        }
    }

    fn file(&mut self, path: &EntryPath, layer: usize, entry: &Entry) -> Result<(), TreeError> {
        let Some(tree) = self.from.get_mut(layer) else {
            return Err(TreeError::System(io::ErrorKind::NotFound.into()));
        };
        let from = tree.read_file(path)?;
        let about = from.metadata().map_err(TreeError::System)?;
        let mut made = |_| {};
        if about.nlink() > 1 {
            if let Some(first) = self.names.get(&(layer, about.ino())) {
                add(&mut self.copied.links, 1);
                return self.to.make_link(path, first, &mut made);
            }
            self.names.insert((layer, about.ino()), path.clone());
        }
        let (clones, copied) = (&mut self.clones, &mut self.copied);
        let kept = self.to.make_file(path, entry, &mut made, |to| {
            *clones = *clones && rustix::fs::ioctl_ficlone(&*to, &from).is_ok();
            if *clones {
                add(&mut copied.reflinked, 1);
                add(&mut copied.bytes, about.len());
            } else {
                add(&mut copied.copied, 1);
                add(&mut copied.bytes, io::copy(&mut &from, to)?);
            }
            Ok(())
        })?;
        self.note(kept);
        Ok(())
    }

    fn note(&mut self, kept: Kept) {
        add(&mut self.copied.owners_kept, u64::from(kept.owner));
        add(&mut self.copied.special_bits_kept, u64::from(kept.special_bits));
        add(&mut self.copied.xattrs_kept, u64::from(kept.xattrs));
    }

    fn directory(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), TreeError> {
        let kept = self.to.finish_directory(path, entry)?;
        self.note(kept);
        Ok(())
    }
}
