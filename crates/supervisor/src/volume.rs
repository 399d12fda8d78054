//! A workload's volume on its way, beside the capsule of its object: packed into one file, unpacked from one, or copied on
//! the same host. Bytes: `spec/volume.md`. Who calls: the daemon that an object leaves or arrives at, and commands. Nobody
//! writes to the volume meanwhile: its object has departed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use suijuris_core::id::RecordId;
use tar::EntryType;

/// First bytes of a packed volume.
const MAGIC: [u8; 8] = *b"suijvol\0";
/// Its format.
const VERSION: u32 = 1;
/// Bytes before the archive: magic, version, digest of the record it belongs to, length and SHA-256 of the archive.
const HEADER: usize = 8 + 4 + 32 + 8 + 32;

/// Files and directories of a foreign volume at most.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Bytes of a foreign volume at most, packed or not.
pub const MAX_BYTES: u64 = 64 << 30;

/// Why a volume is not taken.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The disk.
    #[error("the volume cannot be read or written")]
    Disk(#[from] io::Error),
    /// Not what was written.
    #[error("the packed volume is damaged: get another copy of it")]
    Damaged,
    /// Of a later format.
    #[error("the packed volume has version {0}, this program reads version {VERSION}: use a newer suijuris")]
    Version(u32),
    /// Of another state.
    #[error(
        "the packed volume does not belong to this history: take the one that was written with the capsule"
    )]
    Other,
    /// Larger than is taken.
    #[error(
        "the packed volume has more than {MAX_ENTRIES} files or {MAX_BYTES} bytes: move the object with --to-dir"
    )]
    TooLarge,
    /// Something else than a file, a directory or a symbolic link, or a path that leads out of it.
    #[error("`{0}` in the packed volume is no plain file, directory or link inside it")]
    Entry(PathBuf),
}

/// Whether there is anything in the volume of the object whose data is in `data`.
#[must_use]
pub fn has_files(data: &Path) -> bool {
    fs::read_dir(data.join("volume")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Where the volume of the object in the capsule `file` is packed.
#[must_use]
pub fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".volume");
    name.into()
}

/// Packs the directory `volume` as of the record `head` into `file`, in place of what is there; whole and durable when it has
/// that name.
///
/// # Errors
/// The disk.
pub fn pack(volume: &Path, head: &RecordId, file: &Path) -> io::Result<()> {
    let written = whole(file, |out| {
        pack_into(volume, head, out).map_err(|error| error.to_string())
    });
    written.map_err(io::Error::other)
}

/// Writes `file` under a name of its own, and gives it its name once it is whole and durable.
///
/// # Errors
/// In words; what was there under that name is as before.
pub fn whole(file: &Path, write: impl FnOnce(&mut File) -> Result<(), String>) -> Result<(), String> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(format!(".tmp.{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let disk = |error: io::Error| format!("`{}` cannot be written: {error}", file.display());
    let written = options.open(&fresh).map_err(disk).and_then(|mut out| {
        write(&mut out)?;
        out.sync_all().map_err(disk)?;
        fs::rename(&fresh, file).map_err(disk)?;
        sync_parent(file).map_err(disk)
    });
    if written.is_err() {
        // What is left of it is of no use to anybody.
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// The disk.
pub fn sha256_of(file: &Path) -> io::Result<String> {
    let mut hashing = Hashing::new(io::sink());
    io::copy(&mut File::open(file)?, &mut hashing)?;
    let (_, digest, _) = hashing.finish();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A file without a name, on the disk of `beside`.
pub(crate) fn unnamed(beside: &Path) -> io::Result<File> {
    let mut path = beside.as_os_str().to_owned();
    path.push(format!(".tmp.{}", std::process::id()));
    // Left over from a process of the same number, if from anybody.
    let _ = fs::remove_file(&path);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn pack_into(volume: &Path, head: &RecordId, mut file: &mut File) -> io::Result<()> {
    file.write_all(&[0; HEADER])?;
    let mut archive = tar::Builder::new(Hashing::new(io::BufWriter::with_capacity(256 << 10, &mut file)));
    archive.follow_symlinks(false);
    add(&mut archive, volume, Path::new(""))?;
    let (length, digest, mut inner) = archive.into_inner()?.finish();
    inner.flush()?;
    drop(inner);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header(head, length, &digest))
}

fn header(head: &RecordId, length: u64, digest: &[u8; 32]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend(head.digest().0);
    bytes.extend(length.to_be_bytes());
    bytes.extend(digest);
    bytes
}

/// Adds what is in `dir`, which the archive calls `name`. Sockets and pipes are of a machine that has ended.
fn add(archive: &mut tar::Builder<impl Write>, dir: &Path, name: &Path) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (kind, path, name) = (entry.file_type()?, entry.path(), name.join(entry.file_name()));
        if kind.is_dir() {
            archive.append_dir(&name, &path)?;
            add(archive, &path, &name)?;
        } else if kind.is_file() || kind.is_symlink() {
            archive.append_path_with_name(&path, &name)?;
        }
    }
    Ok(())
}

/// Unpacks `file` as the directory `volume`, which is made anew, if it is that of the record `head`. All of it is verified
/// before anything is written; what cannot be used leaves nothing.
///
/// # Errors
/// [`VolumeError`].
pub fn unpack(file: &Path, head: &RecordId, volume: &Path) -> Result<(), VolumeError> {
    let mut file = File::open(file)?;
    let length = check(&mut file, head)?;
    file.seek(SeekFrom::Start(HEADER as u64))?;
    remove(volume)?;
    fs::create_dir(volume)?;
    let unpacked = extract(io::BufReader::new((&file).take(length)), volume);
    if unpacked.is_err() {
        let _ = fs::remove_dir_all(volume);
    }
    unpacked
}

/// Whether these are the bytes that were written for `head`; how many bytes of archive follow the header.
fn check(file: &mut File, head: &RecordId) -> Result<u64, VolumeError> {
    let mut found = [0; HEADER];
    file.read_exact(&mut found).map_err(|_cut| VolumeError::Damaged)?;
    let (magic, rest) = found.split_first_chunk::<8>().ok_or(VolumeError::Damaged)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(VolumeError::Damaged)?;
    if *magic != MAGIC {
        return Err(VolumeError::Damaged);
    }
    match u32::from_be_bytes(*version) {
        VERSION => {}
        other => return Err(VolumeError::Version(other)),
    }
    let (of, rest) = rest.split_first_chunk::<32>().ok_or(VolumeError::Damaged)?;
    if *of != head.digest().0 {
        return Err(VolumeError::Other);
    }
    let (length, digest) = rest.split_first_chunk::<8>().ok_or(VolumeError::Damaged)?;
    let length = u64::from_be_bytes(*length);
    if length > MAX_BYTES {
        return Err(VolumeError::TooLarge);
    }
    if file.metadata()?.len() != length.saturating_add(HEADER as u64) {
        return Err(VolumeError::Damaged);
    }
    let mut hashing = Hashing::new(io::sink());
    io::copy(file, &mut hashing)?;
    let (_, is, _) = hashing.finish();
    (is == *digest).then_some(length).ok_or(VolumeError::Damaged)
}

fn extract(source: impl Read, volume: &Path) -> Result<(), VolumeError> {
    let mut archive = tar::Archive::new(source);
    let (mut entries, mut bytes) = (0, 0_u64);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if entries > MAX_ENTRIES || bytes > MAX_BYTES {
            return Err(VolumeError::TooLarge);
        }
        let kind = entry.header().entry_type();
        let plain = matches!(
            kind,
            EntryType::Regular | EntryType::Directory | EntryType::Symlink | EntryType::GNUSparse
        );
        // It leads nowhere but below `volume`, whatever links say.
        if !plain || !entry.unpack_in(volume)? {
            return Err(VolumeError::Entry(path));
        }
    }
    sync_all(volume)?;
    Ok(())
}

/// Copies the directory `from` to `to`; one that was copied in part before is made anew.
///
/// # Errors
/// The disk.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    remove(to)?;
    copy_dir(from, to)
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, source, goal) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&source, &goal)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &goal)?;
        } else if kind.is_file() {
            fs::copy(&source, &goal)?;
            File::open(&goal)?.sync_all()?;
        }
        // Sockets and pipes are of a machine that has ended.
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    File::open(to)?.sync_all()
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_all(&entry.path())?;
        } else if kind.is_file() {
            // Only its own user may have been let in.
            match File::open(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                file => file?.sync_all()?,
            }
        }
    }
    File::open(dir)?.sync_all()
}

/// Makes the name of `file` durable.
pub(crate) fn sync_parent(file: &Path) -> io::Result<()> {
    match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Passes bytes on, and keeps their count and digest.
struct Hashing<W> {
    inner: W,
    digest: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            digest: Sha256::new(),
            length: 0,
        }
    }

    fn finish(self) -> (u64, [u8; 32], W) {
        (self.length, self.digest.finalize().into(), self.inner)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        let (passed, _) = bytes.split_at(written.min(bytes.len()));
        self.digest.update(passed);
        self.length = self.length.saturating_add(passed.len() as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &[u8]) -> RecordId {
        RecordId::of(text)
    }

    fn volume(dir: &Path) -> PathBuf {
        let volume = dir.join("volume");
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        fs::write(volume.join("deep/er/file"), b"content").unwrap();
        fs::write(volume.join("empty"), b"").unwrap();
        std::os::unix::fs::symlink("deep/er/file", volume.join("link")).unwrap();
        volume
    }

    #[test]
    fn what_is_packed_is_unpacked_and_belongs_to_one_record() {
        let temp = tempfile::tempdir().unwrap();
        let (from, file, to) = (volume(temp.path()), temp.path().join("v"), temp.path().join("to"));
        pack(&from, &head(b"head"), &file).unwrap();
        assert!(matches!(
            unpack(&file, &head(b"other"), &to),
            Err(VolumeError::Other)
        ));
        assert!(!to.exists());
        for _ in 0..2 {
            unpack(&file, &head(b"head"), &to).unwrap();
            assert_eq!(fs::read(to.join("link")).unwrap(), b"content");
            assert_eq!(fs::read(to.join("empty")).unwrap(), b"");
        }
        let again = temp.path().join("again");
        pack(&to, &head(b"head"), &again).unwrap();
        copy(&to, &temp.path().join("copied")).unwrap();
        assert_eq!(
            fs::read(temp.path().join("copied/deep/er/file")).unwrap(),
            b"content"
        );
    }

    #[test]
    fn what_was_altered_or_cut_is_not_unpacked() {
        let temp = tempfile::tempdir().unwrap();
        let (from, file, to) = (volume(temp.path()), temp.path().join("v"), temp.path().join("to"));
        pack(&from, &head(b"head"), &file).unwrap();
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&file, &bytes).unwrap();
            unpack(&file, &head(b"head"), &to).unwrap_err();
            fs::write(&file, &whole[..at]).unwrap();
            unpack(&file, &head(b"head"), &to).unwrap_err();
            assert!(!to.exists());
        }
    }

    /// An archive that nobody here would write, in a sound frame.
    fn foreign(file: &Path, archive: &[u8]) {
        let digest: [u8; 32] = Sha256::digest(archive).into();
        let mut bytes = header(&head(b"head"), archive.len() as u64, &digest);
        bytes.extend(archive);
        fs::write(file, bytes).unwrap();
    }

    #[test]
    fn nothing_leads_out_of_it() {
        let temp = tempfile::tempdir().unwrap();
        let (file, to) = (temp.path().join("v"), temp.path().join("inner/to"));
        fs::create_dir(temp.path().join("inner")).unwrap();
        let entry = |kind: EntryType, path: &str, link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            if !link.is_empty() {
                header.set_link_name_literal(link).unwrap();
            }
            header.set_mode(0o4755);
            header.set_size(0);
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        let outside = temp.path().join("inner/out");
        let through = [
            entry(EntryType::Symlink, "l", "../"),
            entry(EntryType::Regular, "l/out", ""),
        ];
        let mut cases = vec![
            entry(EntryType::Regular, "../out", ""),
            through.concat(),
            entry(EntryType::Fifo, "pipe", ""),
            entry(EntryType::Char, "device", ""),
            entry(EntryType::Link, "hard", "/etc/hostname"),
        ];
        for case in &mut cases {
            case.extend([0; 1024]);
            foreign(&file, case);
            unpack(&file, &head(b"head"), &to).unwrap_err();
            assert!(!outside.exists() && !to.exists());
        }
        let mut plain = entry(EntryType::Regular, "tool", "");
        plain.extend([0; 1024]);
        foreign(&file, &plain);
        unpack(&file, &head(b"head"), &to).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            to.join("tool").metadata().unwrap().permissions().mode() & 0o7000,
            0
        );
    }
}
