//! Carrying a departed object to where it goes: its history by a capsule that is verified on the way in, its volume file by
//! file. Interrupted, it is done again from the start: nobody has arrived.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use suijuris_store::capsule::{self, Decrypted};
use suijuris_store::{Depth, ObjectDir, Reader, Sizes};

use super::Target;
use crate::export;
use crate::object_paths::ObjectPaths;
use crate::offline::OfflineObject;

/// Carries what `held` holds to `target`.
pub(super) fn carry(
    held: &OfflineObject,
    paths: &ObjectPaths,
    target: &Target,
    seal_to: &[String],
) -> anyhow::Result<()> {
    match target {
        Target::Capsule(file) => {
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            export::write(&paths.home(), file, seal_to)?;
            Ok(())
        }
        Target::Dir(dir) => {
            if let Some(parent) = dir.parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("`{}` cannot be made", parent.display()))?;
            }
            history(held.writer.object_dir(), &ObjectDir::at(dir))?;
            let (from, to) = (paths.data.join("volume"), dir.join("volume"));
            volume(&from, &to).with_context(|| format!("the volume cannot be copied to `{}`", to.display()))
        }
    }
}

/// The history, with key and secrets, by way of a file that nobody else sees.
fn history(from: &ObjectDir, to: &ObjectDir) -> anyhow::Result<()> {
    let reader = Reader::open(from, Depth::Tail)?;
    let decrypted = Decrypted::of(from, reader.state())?;
    let mut file = unnamed(to.path())
        .with_context(|| format!("no file can be made beside `{}`", to.path().display()))?;
    capsule::export(&reader, &file, None, |_| {})?;
    file.rewind()?;
    let open = |_: Option<&[u8]>| Ok::<_, Infallible>(Some(decrypted));
    capsule::import(io::BufReader::new(file), to, Sizes::default(), open, |_| {})
        .with_context(|| format!("it cannot be unpacked in `{}`", to.path().display()))?;
    Ok(())
}

/// A file without a name, on the disk of `beside`.
fn unnamed(beside: &Path) -> io::Result<File> {
    let path = beside.with_extension(format!("tmp.{}", std::process::id()));
    // Left over from a process of the same number, if from anybody.
    let _ = fs::remove_file(&path);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Copies the volume; one that was copied in part before is made anew.
fn volume(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    copy(from, to)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, source, goal) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&source, &goal)?;
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
