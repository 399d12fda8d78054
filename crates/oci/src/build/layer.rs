//! Writing a layer: an archive that is the same for the same content, whoever makes it and when.

use std::io::{self, Write};

use tar::{EntryType, Header};

use crate::unpack::{EntryPath, NotAnEntryPath};

/// Writes a layer: files of root, changed at the beginning of 1970, always the same for the same content.
pub struct LayerWriter<W: Write> {
    archive: tar::Builder<W>,
}

/// Why a member cannot be added to a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The path.
    #[error("`{path}` cannot be a path in a layer: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong.
        why: NotAnEntryPath,
    },
    /// The archive.
    #[error("the layer cannot be written")]
    Write(#[source] io::Error),
}

impl<W: Write> LayerWriter<W> {
    /// A layer that is written to `out`.
    pub fn new(out: W) -> Self {
        Self {
            archive: tar::Builder::new(out),
        }
    }

    /// Adds a directory, with permissions `mode`.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), LayerError> {
        self.member(EntryType::Directory, path, mode, 0, io::empty(), None)
    }

    /// Adds a plain file of `size` bytes, with permissions `mode`; directories on the way are not added.
    ///
    /// # Errors
    /// See [`LayerError`]; fewer bytes than `size` are one.
    pub fn file(
        &mut self,
        path: &str,
        mode: u32,
        size: u64,
        content: impl io::Read,
    ) -> Result<(), LayerError> {
        self.member(EntryType::Regular, path, mode, size, content, None)
    }

    /// Adds a symbolic link that says `target`.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), LayerError> {
        self.member(EntryType::Symlink, path, 0o777, 0, io::empty(), Some(target))
    }

    fn member(
        &mut self,
        kind: EntryType,
        path: &str,
        mode: u32,
        size: u64,
        content: impl io::Read,
        target: Option<&str>,
    ) -> Result<(), LayerError> {
        let bad = |why| LayerError::Path {
            path: crate::printable(path),
            why,
        };
        let path = EntryPath::parse(path.as_bytes()).map_err(bad)?;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        match target {
            Some(target) => self.archive.append_link(&mut header, path.as_path(), target),
            None => {
                let mut content = Exactly {
                    input: content,
                    left: size,
                };
                self.archive
                    .append_data(&mut header, path.as_path(), &mut content)
            }
        }
        .map_err(LayerError::Write)
    }

    /// Ends the layer, and gives back what it was written to.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn end(self) -> Result<W, LayerError> {
        self.archive.into_inner().map_err(LayerError::Write)
    }
}

/// A content that has as many bytes as its header says; the archive would be broken otherwise.
struct Exactly<R> {
    input: R,
    left: u64,
}

impl<R: io::Read> io::Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        match self.input.read(buffer)? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the content is shorter than it says",
            )),
            length => {
                self.left = self.left.saturating_sub(length as u64);
                Ok(length)
            }
        }
    }
}
