//! From the bytes of a blob to the bytes of its tar: compression is recognised, both sides are measured, and what grows
//! beyond bounds is stopped while it grows.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::Limits;
use crate::blob::Meter;
use crate::descriptor::ContentDigest;

/// Window of a zstd frame at most, bytes: what `zstd -d` takes unasked. It is memory.
const MAX_WINDOW_BYTES: u64 = 128 << 20;

/// Bytes that any layer may unpack to, however small its blob is: long runs of zeros are honest.
const FREE_BYTES: u64 = 64 << 20;

/// The blob as it comes, measured, and not longer than it says.
pub(super) struct Blob<R> {
    input: R,
    meter: Meter,
    most: u64,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.meter.update(buffer.get(..length).unwrap_or_default());
        self.read.set(self.meter.size());
        if self.meter.size() > self.most {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the blob is longer than it says",
            ));
        }
        Ok(length)
    }
}

impl<R: Read> Blob<R> {
    pub(super) fn new(input: R, most: u64) -> Self {
        Self {
            input,
            meter: Meter::default(),
            most,
            read: Rc::default(),
        }
    }

    /// Reads what is left, and gives digest and length.
    pub(super) fn end(mut self) -> io::Result<(ContentDigest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.meter.end())
    }
}

/// The tar inside.
pub(super) struct Plain<'a, R: Read> {
    input: Decoder<BufReader<&'a mut Blob<R>>>,
    meter: Meter,
    packed: Rc<Cell<u64>>,
    limits: Limits,
}

enum Decoder<B: BufRead> {
    Plain(B),
    Gzip(Box<MultiGzDecoder<B>>),
    Zstd(Box<Zstd<B>>),
}

/// That a layer grows beyond bounds; wrapped in an [`io::Error`] on its way through readers.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum Bomb {
    /// In all.
    #[error("the layer unpacks to more than {0} bytes")]
    Bytes(u64),
    /// For the size of its blob.
    #[error("the layer unpacks to more than {0} times the size of its blob")]
    Ratio(u64),
}

impl<'a, R: Read> Plain<'a, R> {
    /// Recognises the compression by the first bytes, as Docker does: media types lie about it often enough.
    pub(super) fn new(blob: &'a mut Blob<R>, limits: Limits) -> io::Result<Self> {
        let packed = Rc::clone(&blob.read);
        let mut input = BufReader::with_capacity(64 << 10, blob);
        let input = match input.fill_buf()? {
            [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            // A frame, or one to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Decoder::Zstd(Box::new(Zstd::new(input)))
            }
            _ => Decoder::Plain(input),
        };
        Ok(Self {
            input,
            meter: Meter::default(),
            packed,
            limits,
        })
    }

    /// Reads what is left, and gives digest and length.
    pub(super) fn end(mut self) -> io::Result<(ContentDigest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.meter.end())
    }
}

impl<R: Read> Read for Plain<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match &mut self.input {
            Decoder::Plain(input) => input.read(buffer)?,
            Decoder::Gzip(input) => input.read(buffer)?,
            Decoder::Zstd(input) => input.read(buffer)?,
        };
        self.meter.update(buffer.get(..length).unwrap_or_default());
        let size = self.meter.size();
        if size > self.limits.bytes {
            return Err(io::Error::other(Bomb::Bytes(self.limits.bytes)));
        }
        if size > FREE_BYTES && size / self.limits.ratio.max(1) > self.packed.get() {
            return Err(io::Error::other(Bomb::Ratio(self.limits.ratio)));
        }
        Ok(length)
    }
}

/// Frame after frame, since some packers write many.
struct Zstd<B: BufRead> {
    input: B,
    decoder: FrameDecoder,
    /// Within a frame.
    inside: bool,
}

impl<B: BufRead> Zstd<B> {
    fn new(input: B) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        Self {
            input,
            decoder,
            inside: false,
        }
    }

    /// Goes to the next frame; false at the end.
    fn enter(&mut self) -> io::Result<bool> {
        while !self.inside {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.input) {
                Ok(()) => self.inside = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let wanted = u64::from(length);
                    let skipped = io::copy(&mut self.input.by_ref().take(wanted), &mut io::sink())?;
                    if skipped != wanted {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(true)
    }
}

impl<B: BufRead> Read for Zstd<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() && self.enter()? {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder
                    .decode_blocks(&mut self.input, one)
                    .map_err(io::Error::other)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.inside = false,
                length => return Ok(length),
            }
        }
        Ok(0)
    }
}
