//! A segment that is filled at once with records that are sound.

use std::path::PathBuf;

use suijuris_core::lineage::Stored;

use super::fault::{StagingError, failed};
use crate::disk::{File, How};
use crate::frame::{FRAME_BYTES, Frame, Header};
use crate::object_dir::ObjectDir;

/// Bytes written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A segment that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) path: PathBuf,
    file: Box<dyn File>,
    pub(super) first: u64,
    at: u64,
    buffer: Vec<u8>,
    pub(super) last_frame_bytes: u64,
}

impl Filling {
    pub(super) fn begin(
        object_dir: &ObjectDir,
        path: PathBuf,
        header: &Header,
    ) -> Result<Self, StagingError> {
        let file = object_dir.disk.open(&path, How::Create).map_err(failed(&path))?;
        Ok(Self {
            path,
            file,
            first: header.first,
            at: 0,
            buffer: header.encode(),
            last_frame_bytes: 0,
        })
    }

    pub(super) fn end(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    pub(super) fn push(&mut self, stored: &Stored) -> Result<(), StagingError> {
        self.last_frame_bytes = (FRAME_BYTES + stored.bytes.len()) as u64;
        // Each record is a group of its own: whoever sees one knows that all before it were durable.
        Frame::push(stored, 0, &mut self.buffer);
        if self.buffer.len() >= BUFFER_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), StagingError> {
        self.file
            .write_at(&self.buffer, self.at)
            .map_err(failed(&self.path))?;
        self.at = self.end();
        self.buffer.clear();
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), StagingError> {
        self.write()?;
        self.file.sync().map_err(failed(&self.path))
    }
}
