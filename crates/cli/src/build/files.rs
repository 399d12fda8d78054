//! The object's directory in its image: what `{object}` stands for there.
//!
//! Left out, and said where it may surprise: names that begin with a dot (history, keys, version control), layouts of images,
//! files that only their owner may read. In the order of names, of root, from 1970: the same directory gives the same bytes.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use suijuris_runtime::resident::files::{DIRECTORY, OBJECT};

use super::layers::Tar;
use crate::terminal;

/// Files of an object at most.
const MAX_FILES: usize = 10_000;
/// Bytes of them at most.
const MAX_BYTES: u64 = 512 << 20;
/// Bits that a file keeps: whether it is a program.
const PROGRAM: u32 = 0o111;

/// What was added, so that it stays bounded.
#[derive(Default)]
struct Sum {
    files: usize,
    bytes: u64,
}

/// Adds what lies in `dir`.
pub(super) fn add(tar: &mut Tar, dir: &Path) -> anyhow::Result<()> {
    let place = Path::new(DIRECTORY).join(OBJECT);
    let place = place.to_string_lossy().trim_start_matches('/').to_owned();
    directory(tar, dir, &place, 0, &mut Sum::default())
}

fn directory(tar: &mut Tar, dir: &Path, place: &str, depth: usize, sum: &mut Sum) -> anyhow::Result<()> {
    tar.directory(place, 0o755)?;
    let failed = || format!("`{}` cannot be read", dir.display());
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(failed)?;
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default();
        let Some(name) = name.to_str() else {
            bail!("the name of `{}` is no UTF-8: rename it", path.display());
        };
        if name.starts_with('.') {
            continue;
        }
        entry(tar, &path, &format!("{place}/{name}"), depth, sum)?;
    }
    Ok(())
}

fn entry(tar: &mut Tar, path: &Path, place: &str, depth: usize, sum: &mut Sum) -> anyhow::Result<()> {
    let shown = path.display();
    let failed = || format!("`{shown}` cannot be read");
    let metadata = fs::symlink_metadata(path).with_context(failed)?;
    sum.files += 1;
    if sum.files > MAX_FILES {
        bail!(
            "the object's directory holds more than {MAX_FILES} files: move what is not the object's out of it"
        );
    }
    if metadata.is_symlink() {
        let target = fs::read_link(path).with_context(failed)?;
        return link(tar, path, &target, place, depth);
    }
    if metadata.is_dir() {
        if path.join("oci-layout").exists() {
            return Ok(());
        }
        return directory(tar, path, place, depth + 1, sum);
    }
    if !metadata.is_file() {
        bail!("`{shown}` is neither file nor directory: move it out of the object's directory");
    }
    let mode = metadata.permissions().mode();
    if mode & 0o077 == 0 {
        terminal::note(&format!(
            "`{shown}` is left out, since only its owner may read it"
        ));
        return Ok(());
    }
    sum.bytes = sum.bytes.saturating_add(metadata.size());
    if sum.bytes > MAX_BYTES {
        bail!("the object's directory holds more than {MAX_BYTES} bytes: put large files into an image");
    }
    let file = File::open(path).with_context(failed)?;
    let mode = if mode & PROGRAM == 0 { 0o644 } else { 0o755 };
    Ok(tar.file(place, mode, metadata.size(), file)?)
}

/// A link that stays inside the object's directory.
fn link(tar: &mut Tar, path: &Path, target: &Path, place: &str, depth: usize) -> anyhow::Result<()> {
    let mut level = depth;
    for part in target.components() {
        match part {
            Component::Normal(_) => level += 1,
            Component::CurDir => {}
            Component::ParentDir if level > 0 => level -= 1,
            _ => bail!(
                "`{}` is a link that leads out of the object's directory: put the file itself there",
                path.display()
            ),
        }
    }
    let Some(target) = target.to_str() else {
        bail!("the link `{}` says no UTF-8: write it again", path.display());
    };
    Ok(tar.symlink(place, target)?)
}
