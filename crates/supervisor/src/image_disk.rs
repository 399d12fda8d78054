//! The disk of an image for virtual machines: made on its first use, kept beside the images, one for each digest.
//!
//! Owners, modes and links are those that the image's records say, also where an ordinary user made it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use suijuris_core::id::Digest;
use suijuris_oci::ContentDigest;
use suijuris_oci::store::{Hold, ImageStore, StoreError};
use suijuris_oci::unpack::Kind;
use suijuris_vehicle::ImageFiles;
use suijuris_vehicle::process::remove_strange;
use suijuris_vehicle::vm::{DiskError, Owned, make_root};

/// Name of the directory with disks in the store's, and how their names end.
const DISKS: &str = "disks";
const DISK: &str = "ext4";
/// Where the files lie of a disk that is being made.
const FILES: &str = "files";

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageDiskError {
    /// The files of the image.
    #[error("its files cannot be read")]
    Store(#[from] StoreError),
    /// The disk.
    #[error("its disk cannot be made")]
    Disk(#[from] DiskError),
    /// Where disks are kept.
    #[error("cannot use `{}`", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// The disk of a held image. Blocks while it is made; an image that lost its name takes its disk along, when the next one is made.
pub(crate) fn of(store: &ImageStore, hold: &Hold, digest: Digest) -> Result<ImageFiles, ImageDiskError> {
    let dir = store.dir().join(DISKS);
    let disk = dir.join(digest.hex()).with_extension(DISK);
    if !disk.is_file() {
        let fault = |error| ImageDiskError::Io(dir.clone(), error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(fault)?;
        // One at a time: another may be making the same.
        let lock = fs::File::create(dir.join("lock")).map_err(fault)?;
        lock.lock().map_err(fault)?;
        if !disk.is_file() {
            forget_old(store, &dir);
            make(hold, &dir.join(FILES), &disk)?;
        }
    }
    Ok(ImageFiles::Disk(disk))
}

/// Makes the disk of all files of an image, which lie at `files` meanwhile.
fn make(hold: &Hold, files: &Path, disk: &Path) -> Result<(), ImageDiskError> {
    let remove = || match remove_strange(files) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // Of one who was killed.
    remove().map_err(|error| ImageDiskError::Io(files.to_owned(), error))?;
    let root = hold.root()?;
    root.copy_to(files)?;
    let entries = root.entries()?.into_iter();
    let owned: Vec<Owned> = entries
        .filter(|(_, (_, entry))| !matches!(entry.kind, Kind::Whiteout))
        .map(|(path, (_, entry))| Owned {
            path: path.as_path().to_owned(),
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
        })
        .collect();
    let made = make_root(files, &owned, disk);
    let _ = remove();
    Ok(made?)
}

/// Removes disks of images that are gone.
fn forget_old(store: &ImageStore, dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != DISK) {
            continue;
        }
        let digest = path.file_stem().and_then(|name| name.to_str());
        let digest = digest.and_then(|hex| format!("sha256:{hex}").parse::<ContentDigest>().ok());
        let is_gone =
            digest.is_none_or(|digest| matches!(store.by_digest(digest), Err(StoreError::NoSuchImage(_))));
        if is_gone {
            // A machine that is being started has its copy, or makes the disk again.
            let _ = fs::remove_file(path);
        }
    }
}
