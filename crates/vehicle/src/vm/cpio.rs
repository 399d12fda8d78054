//! The archive that a kernel unpacks as its first file system (`newc`, as in the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). Several may follow one another.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path};

/// Bytes of an archive at most: all of it is in the machine's memory, twice for a moment.
pub(super) const MAX_BYTES: usize = 512 << 20;

/// Directories below one another at most.
const MAX_DEPTH: usize = 64;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that is being written. Everything in it belongs to root.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    made: BTreeSet<Vec<u8>>,
    number: u32,
}

impl Archive {
    /// Adds a file with its directories; the first of one path counts.
    pub(super) fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | (mode & 0o7_777), content)
    }

    /// Adds a directory with those above it.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds what is on this host at `from`, as `to`; what lies at one of `except` is left out, and so is what is neither file,
    /// directory nor link. What a link leads to is not followed.
    pub(super) fn tree(&mut self, from: &Path, to: &Path, except: &[&Path]) -> io::Result<()> {
        self.tree_below(from, to, except, 0)
    }

    fn tree_below(&mut self, from: &Path, to: &Path, except: &[&Path], depth: usize) -> io::Result<()> {
        if except.contains(&from) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            let why = format!("{} is deeper than {MAX_DEPTH} directories", from.display());
            return Err(io::Error::other(why));
        }
        let metadata = from.symlink_metadata()?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(from)?;
            self.entry(to, LINK | 0o777, target.as_os_str().as_bytes())
        } else if kind.is_dir() {
            self.entry(to, DIRECTORY | (metadata.permissions().mode() & 0o7_777), &[])?;
            let mut entries = fs::read_dir(from)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<_>>>()?;
            entries.sort();
            entries
                .iter()
                .try_for_each(|name| self.tree_below(&from.join(name), &to.join(name), except, depth + 1))
        } else if kind.is_file() {
            if metadata.size() > (MAX_BYTES - self.bytes.len().min(MAX_BYTES)) as u64 {
                return Err(too_large());
            }
            self.file(to, metadata.permissions().mode(), &fs::read(from)?)
        } else {
            Ok(())
        }
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.write(b"TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        let mut name = Vec::new();
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(part) = part else {
                if part == Component::RootDir {
                    continue;
                }
                return Err(io::Error::other(format!(
                    "{} is not a plain path",
                    path.display()
                )));
            };
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(part.as_bytes());
            if !self.made.insert(name.clone()) {
                continue;
            }
            match parts.peek() {
                Some(_) => self.write(&name, DIRECTORY | 0o755, &[])?,
                None => self.write(&name, mode, content)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, name: &[u8], mode: u32, content: &[u8]) -> io::Result<()> {
        if self.bytes.len() + content.len() + name.len() > MAX_BYTES {
            return Err(too_large());
        }
        self.number += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.number,
            mode,
            0,
            0,
            links,
            0,
            u32::try_from(content.len()).map_err(io::Error::other)?,
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1).map_err(io::Error::other)?,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn too_large() -> io::Error {
    io::Error::other(format!(
        "what the machine's memory is to hold of this host's files is more than {} MiB: put it into an image, or into the object's volume",
        MAX_BYTES >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("a/left out")).unwrap();
        fs::write(from.join("a/x"), "content").unwrap();
        std::os::unix::fs::symlink("a/x", from.join("link")).unwrap();
        let mut archive = Archive::default();
        archive.file(Path::new("/init"), 0o755, b"#!").unwrap();
        archive
            .tree(&from, Path::new("/t"), &[&from.join("a/left out")])
            .unwrap();
        archive.directory(Path::new("/t/a")).unwrap();
        let bytes = archive.finish().unwrap();
        assert!(Archive::default().file(Path::new("a/../b"), 0, b"").is_err());
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is not there: run `sh tools/setup --test`");
        io::Write::write_all(cpio.stdin.as_mut().unwrap(), &bytes).unwrap();
        let listed = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let names: Vec<&str> = listed
            .lines()
            .map(|line| line.split(' ').next_back().unwrap())
            .collect();
        assert_eq!(names, ["init", "t", "t/a", "t/a/x", "a/x"], "{listed}");
    }
}
