//! What is in volumes: directories of the host's file system, copied whole. Where it can share blocks a copy takes milliseconds
//! and no room; elsewhere holes stay holes.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{ioctl_ficlone, syncfs};

/// Makes `to`, with the content of `from` in it where there is one, durably. Returns its bytes.
pub(super) async fn make(from: Option<PathBuf>, to: PathBuf) -> io::Result<u64> {
    if let Some(from) = from {
        copy(&from, &to).await?;
    } else {
        DirBuilder::new().recursive(true).mode(0o755).create(&to)?;
    }
    let made = tokio::task::spawn_blocking(move || {
        sync(&to)?;
        Ok(bytes_of(&to))
    });
    made.await.map_err(io::Error::other)?
}

/// Returns once what is in `directory` is on the disk: whoever is told that it is made may lose power at once.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    Ok(syncfs(File::open(directory)?)?)
}

/// Makes `directory` anew, with nothing in it.
pub(super) fn renew(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o755).create(directory)
}

async fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut command = tokio::process::Command::new("cp");
    command.args([
        "--archive",
        "--reflink=auto",
        "--sparse=always",
        "--no-target-directory",
        "--",
    ]);
    let output = command.arg(from).arg(to).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(text))
}

/// Removes a tree. What stays is looked at again by the next daemon.
pub(super) async fn remove(tree: PathBuf) {
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(tree)).await;
}

/// Whether files in `directory` can share blocks with their copies: XFS and btrfs can, ext4 and tmpfs cannot.
pub(super) fn shares_blocks(directory: &Path) -> bool {
    let paths = [directory.join(".probe"), directory.join(".probe-copy")];
    let [one, other] = &paths;
    let create = |path: &Path| {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
    };
    let tried = || -> io::Result<()> {
        create(one)?.write_all(&[1; 4_096])?;
        Ok(ioctl_ficlone(create(other)?, File::open(one)?)?)
    };
    let shares = tried().is_ok();
    for path in &paths {
        let _ = std::fs::remove_file(path);
    }
    shares
}

/// Bytes that a tree takes on disk; blocks that it shares count for each.
pub(super) fn bytes_of(directory: &Path) -> u64 {
    let mut bytes: u64 = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    bytes
}
