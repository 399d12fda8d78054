//! Files inside a tar on disk, found once and read where they lie.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SourceError;
use crate::file::FileError;
use crate::unpack::{EntryPath, MemberKind, Members};

/// Files in an archive at most: three for each layer, and some more.
const MAX_FILES: usize = 10_000;

/// Links that lead to links at most.
const MAX_LINKS: usize = 8;

/// A tar and what lies where in it.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    files: BTreeMap<EntryPath, Place>,
}

#[derive(Debug)]
enum Place {
    Content {
        at: u64,
        size: u64,
    },
    /// Docker saves a layer once, and links to it.
    Link(EntryPath),
}

/// A part of a file.
struct Region {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Region {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self
            .file
            .read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at = self.at.saturating_add(length as u64);
        self.left = self.left.saturating_sub(length as u64);
        Ok(length)
    }
}

/// Counts what was read.
struct Counted<R> {
    input: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.count = self.count.saturating_add(length as u64);
        Ok(length)
    }
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Read {
            path: path.to_owned(),
            source,
        };
        // Asked before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(FileError::NotPlain(path.to_owned()).into());
        }
        let file = Arc::new(File::open(path).map_err(failed)?);
        let mut magic = [0; 4];
        if file.read_at(&mut magic, 0).map_err(failed)? == 4
            && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd])
        {
            return Err(SourceError::Compressed(path.to_owned()));
        }
        let files = index(&file, path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            files,
        })
    }

    /// A file by its path in the archive, and its size; none where it is not there.
    pub(super) fn find(&self, name: &EntryPath) -> Option<(Box<dyn Read + Send>, u64)> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            match self.files.get(name)? {
                Place::Link(target) => name = target,
                Place::Content { at, size } => {
                    let region = Region {
                        file: Arc::clone(&self.file),
                        at: *at,
                        left: *size,
                    };
                    return Some((Box::new(region), *size));
                }
            }
        }
        None
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn index(file: &File, path: &Path) -> Result<BTreeMap<EntryPath, Place>, SourceError> {
    let failed = |source| SourceError::Archive {
        path: path.to_owned(),
        source,
    };
    let input = Counted {
        input: BufReader::with_capacity(1 << 20, file),
        count: 0,
    };
    let mut members = Members::new(input);
    let mut files = BTreeMap::new();
    while let Some(member) = members.next().map_err(failed)? {
        if files.len() >= MAX_FILES {
            return Err(SourceError::TooManyFiles {
                path: path.to_owned(),
                max: MAX_FILES,
            });
        }
        // What has no name that we could ask for is not looked at.
        let Ok(name) = EntryPath::parse(&member.path) else {
            continue;
        };
        let place = match member.kind {
            MemberKind::File => Some(Place::Content {
                at: members.get_ref().count,
                size: member.size,
            }),
            MemberKind::Link => EntryPath::parse(&member.link).ok().map(Place::Link),
            MemberKind::Symlink => beside(&name, &member.link).map(Place::Link),
            _ => None,
        };
        if let Some(place) = place {
            files.insert(name, place);
        }
    }
    Ok(files)
}

/// Where a symbolic link at `name` leads, by its text alone; none where it leads out.
fn beside(name: &EntryPath, target: &[u8]) -> Option<EntryPath> {
    let (directory, _) = name.split()?;
    let mut names: Vec<&[u8]> = if target.starts_with(b"/") {
        Vec::new()
    } else {
        directory.names().map(std::ffi::OsStr::as_encoded_bytes).collect()
    };
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            part => names.push(part),
        }
    }
    EntryPath::parse(&names.join(&b'/')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_by_their_text_and_not_out() {
        let check = |name: &str, target: &str, expect: Option<&str>| {
            let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
            assert_eq!(
                beside(&path(name), target.as_bytes()),
                expect.map(path),
                "{name} -> {target}"
            );
        };
        check("b/layer.tar", "../a/layer.tar", Some("a/layer.tar"));
        check("b/layer.tar", "other.tar", Some("b/other.tar"));
        check("b/layer.tar", "/a", Some("a"));
        check("layer.tar", "../a", None);
        check("a/b", "../../c", None);
    }
}
