//! A tree becomes blocks and a listing of them. What a file has at one place is one block as long as it stays the same, so that the next
//! backup sends what has changed; small files share blocks, whose ends depend on paths, so that one more file moves few of them.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom, seek};
use sha2::{Digest as _, Sha256};

use super::format::{BLOCK, Bytes, Entry, Line, Name, Namer, Piece, What};

/// Files up to this size share blocks.
const SMALL: u64 = 128 << 10;
/// Lines that wait for the block that small files share.
const WAITING: usize = 4_096;
/// A block of the listing ends where a path says so, once it has this many bytes.
const LISTED: usize = 64 << 10;
/// Pieces in one line.
const PIECES: usize = 1_024;
/// Attributes of one file, all in all.
const ATTRIBUTES: usize = 256 << 10;
/// Longest value of an attribute, and longest list of them, as the kernel has it.
const ATTRIBUTE: usize = 64 << 10;

/// What was read of a tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) listing: Vec<Name>,
    pub(super) bytes: u64,
    pub(super) left_out: u64,
}

/// Reads the tree at `root`, whose content nobody changes meanwhile. `send` takes each block that is not among `known`, once.
pub(super) fn read(
    root: &Path,
    namer: &Namer,
    known: HashSet<String>,
    send: &mut dyn FnMut(Name, Vec<u8>) -> io::Result<()>,
) -> io::Result<Tree> {
    let mut reader = Reader {
        namer,
        send,
        known,
        shared: Vec::new(),
        lines: Vec::new(),
        listed: Vec::new(),
        same: HashMap::new(),
        tree: Tree::default(),
    };
    reader.walk(root, &[])?;
    reader.end_shared()?;
    reader.end_listed()?;
    Ok(reader.tree)
}

struct Reader<'a> {
    namer: &'a Namer,
    send: &'a mut dyn FnMut(Name, Vec<u8>) -> io::Result<()>,
    known: HashSet<String>,
    /// The block that small files share, so far.
    shared: Vec<u8>,
    /// Lines since that block began.
    lines: Vec<Pending>,
    listed: Vec<u8>,
    /// Files with more than one name, by device and inode.
    same: HashMap<(u64, u64), Vec<u8>>,
    tree: Tree,
}

/// A line, or one that lacks the name of the block that it shares.
enum Pending {
    Line(Line),
    Shared { from: u32, len: u32 },
}

impl Reader<'_> {
    fn walk(&mut self, at: &Path, path: &[u8]) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(at)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.entry(at, path, &metadata, What::Directory)?;
            let mut names = std::fs::read_dir(at)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            for name in names {
                let mut below = path.to_vec();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name.as_bytes());
                self.walk(&at.join(&name), &below)?;
            }
            return Ok(());
        }
        if kind.is_file() {
            if metadata.nlink() > 1 {
                let identity = (metadata.dev(), metadata.ino());
                if let Some(first) = self.same.get(&identity) {
                    let first = Bytes(first.clone());
                    return self.entry(at, path, &metadata, What::SameAs(first));
                }
                self.same.insert(identity, path.to_vec());
            }
            self.entry(at, path, &metadata, What::File { size: metadata.len() })?;
            self.content(at, metadata.len())?;
        } else if kind.is_symlink() {
            let to = std::fs::read_link(at)?.into_os_string().into_vec();
            self.entry(at, path, &metadata, What::Symlink(Bytes(to)))?;
        } else if kind.is_fifo() {
            self.entry(at, path, &metadata, What::Pipe)?;
        } else {
            self.tree.left_out = self.tree.left_out.saturating_add(1);
        }
        let is_end = Sha256::digest(path).first().is_some_and(|byte| byte % 64 == 0);
        if is_end || self.lines.len() >= WAITING {
            self.end_shared()?;
            if self.listed.len() >= LISTED {
                self.end_listed()?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, at: &Path, path: &[u8], metadata: &Metadata, what: What) -> io::Result<()> {
        let entry = Entry {
            path: Bytes(path.to_vec()),
            attributes: if matches!(what, What::Directory | What::File { .. }) {
                attributes(at)?
            } else {
                Vec::new()
            },
            what,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            modified: (
                metadata.mtime(),
                u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            ),
        };
        self.lines.push(Pending::Line(Line::Entry(entry)));
        Ok(())
    }

    fn content(&mut self, at: &Path, size: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(at)?;
        if size <= SMALL {
            return self.small(&file, size);
        }
        let mut pieces = Vec::new();
        let mut position = 0;
        while let Some((begin, end)) = data(&file, position, size)? {
            position = begin - begin % BLOCK as u64;
            while position < end {
                let mut block = vec![0; BLOCK];
                let length = fill(&file, &mut block, position)?;
                block.truncate(length);
                if block.is_empty() {
                    return Err(io::Error::other("a file of the snapshot has become shorter"));
                }
                if block.iter().any(|byte| *byte != 0) {
                    pieces.push(Piece {
                        at: position,
                        len: u32::try_from(length).map_err(io::Error::other)?,
                        block: self.block(block)?,
                        from: 0,
                    });
                }
                if pieces.len() >= PIECES {
                    let full = std::mem::take(&mut pieces);
                    self.lines.push(Pending::Line(Line::Pieces(full)));
                }
                position = position.saturating_add(BLOCK as u64);
            }
        }
        if !pieces.is_empty() {
            self.lines.push(Pending::Line(Line::Pieces(pieces)));
        }
        Ok(())
    }

    fn small(&mut self, file: &File, size: u64) -> io::Result<()> {
        let length = usize::try_from(size).map_err(io::Error::other)?;
        if self.shared.len().saturating_add(length) > BLOCK {
            self.end_shared_before_last()?;
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        if bytes.iter().any(|byte| *byte != 0) {
            let number = |length: usize| u32::try_from(length).map_err(io::Error::other);
            self.lines.push(Pending::Shared {
                from: number(self.shared.len())?,
                len: number(length)?,
            });
            self.shared.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// Ends the shared block; the last line's file begins the next one.
    fn end_shared_before_last(&mut self) -> io::Result<()> {
        let last = self.lines.pop();
        self.end_shared()?;
        self.lines.extend(last);
        Ok(())
    }

    fn end_shared(&mut self) -> io::Result<()> {
        let name = match std::mem::take(&mut self.shared) {
            empty if empty.is_empty() => None,
            block => Some(self.block(block)?),
        };
        for line in std::mem::take(&mut self.lines) {
            let line = match (line, &name) {
                (Pending::Line(line), _) => line,
                (Pending::Shared { from, len }, Some(block)) => Line::Pieces(vec![Piece {
                    at: 0,
                    len,
                    block: block.clone(),
                    from,
                }]),
                (Pending::Shared { .. }, None) => continue,
            };
            let text = serde_json::to_vec(&line)?;
            if self.listed.len().saturating_add(text.len()) >= BLOCK {
                self.end_listed()?;
            }
            self.listed.extend_from_slice(&text);
            self.listed.push(b'\n');
        }
        Ok(())
    }

    fn end_listed(&mut self) -> io::Result<()> {
        let listed = std::mem::take(&mut self.listed);
        if !listed.is_empty() {
            let name = self.block(listed)?;
            self.tree.listing.push(name);
        }
        Ok(())
    }

    fn block(&mut self, bytes: Vec<u8>) -> io::Result<Name> {
        let name = self.namer.name(&bytes);
        self.tree.bytes = self.tree.bytes.saturating_add(bytes.len() as u64);
        if self.known.insert(name.as_str().to_owned()) {
            (self.send)(name.clone(), bytes)?;
        }
        Ok(name)
    }
}

/// The next range at or after `from` that is no hole.
fn data(file: &File, from: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= size {
        return Ok(None);
    }
    let begin = match seek(file, SeekFrom::Data(from)) {
        Ok(begin) => begin,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(begin))?.min(size);
    Ok((begin < end).then_some((begin, end)))
}

fn fill(file: &File, block: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = block.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(done as u64))? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// Attributes of users; those of the system are not a tenant's to bring back.
fn attributes(at: &Path) -> io::Result<Vec<(Bytes, Bytes)>> {
    let mut names = vec![0; ATTRIBUTE];
    let length = match rustix::fs::llistxattr(at, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let mut found = Vec::new();
    let mut room = ATTRIBUTES;
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."))
    {
        let mut value = vec![0; ATTRIBUTE];
        let length = rustix::fs::lgetxattr(at, name, value.as_mut_slice())?;
        value.truncate(length);
        let too_many = || io::Error::other("a file has more than 256 KiB of attributes");
        room = room.checked_sub(name.len() + length).ok_or_else(too_many)?;
        found.push((Bytes(name.to_vec()), Bytes(value)));
    }
    Ok(found)
}
