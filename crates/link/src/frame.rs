//! Frames: the bytes of the link. Pure: bytes in, frames out, and back.
//!
//! A frame is `length: u32 ‖ kind: u8 ‖ descriptors: u8 ‖ content`, integers big-endian; `length` counts the content. It is
//! checked against what the kind allows before a byte of the content is kept. `spec/link.md` has the table.
//! Not here: when a frame may come; that is `handshake`'s and `mux`'s affair.

use std::fmt;

use crate::handshake::{Hello, PROOF_BYTES, Proof};
use crate::limits::{HEADER_BYTES, Limits, MAX_DATA_BYTES, MAX_DESCRIPTORS};

/// Names a stream within its link: odd where the supervisor opened it, even where the runtime did; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// Stands for the messages where credit is granted.
    pub(crate) const MESSAGES: Self = Self(0);

    /// The stream of this number, if one can have it (1 or more).
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match number {
            0 => None,
            number => Some(Self(number)),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// The bytes of a caller's connection.
    Connection,
    /// Calls to the depot that the supervisor serves.
    Depot,
    /// A connection of the workload's to what its bundle lets it reach, which the supervisor makes. The runtime says first where to: the
    /// length of that in one byte, then a host, a colon and a port.
    Egress,
}

/// Why a stream ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Whoever had it let it go unfinished.
    Dropped,
    /// Nobody takes streams of this kind here.
    Refused,
    /// The connection behind it failed.
    Failed,
}

/// Why an end of the link goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The other end speaks another version.
    Version,
    /// The other end wants to launch where it can only attach, or the other way round, or is of the same side.
    Purpose,
    /// Another activation is meant.
    Activation,
    /// The proof of the activation's secret is wrong.
    Proof,
    /// What came makes no sense.
    Violation,
}

macro_rules! codes {
    ($type:ident { $($variant:ident = $code:literal),+ $(,)? }) => {
        impl $type {
            const fn code(self) -> u8 {
                match self { $(Self::$variant => $code),+ }
            }
            const fn of(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes!(StreamKind { Connection = 1, Depot = 2, Egress = 3 });
codes!(Reset { Dropped = 1, Refused = 2, Failed = 3 });
codes!(Refusal { Version = 1, Purpose = 2, Activation = 3, Proof = 4, Violation = 5 });

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The first of each side.
    Hello(Hello),
    /// What another version says first; nothing else of it is understood.
    Foreign {
        /// Its version.
        version: u16,
    },
    /// The sender knows the secret of the activation.
    Proof(Proof),
    /// The sender goes no further. Its form is the same in each version.
    Refused {
        /// The version that the sender speaks.
        version: u16,
        /// Why.
        refusal: Refusal,
    },
    /// A message.
    Message {
        /// How many descriptors belong to it.
        descriptors: u8,
        /// Canonical DAG-CBOR.
        body: Vec<u8>,
    },
    /// The sender is alive.
    Heartbeat {
        /// Counts up from 1.
        number: u64,
    },
    /// A new stream.
    Open {
        /// Its number.
        stream: StreamId,
        /// What it carries.
        kind: StreamKind,
    },
    /// The next bytes of a stream, 1 to [`MAX_DATA_BYTES`].
    Data {
        /// Which.
        stream: StreamId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// So many bytes more may be sent on a stream, or of messages for number 0.
    Credit {
        /// Which.
        stream: StreamId,
        /// How many.
        bytes: u32,
    },
    /// The sender has said all on this stream.
    End {
        /// Which.
        stream: StreamId,
    },
    /// The sender reads no more on this stream.
    Stop {
        /// Which.
        stream: StreamId,
    },
    /// The stream ends at once, in both directions.
    Reset {
        /// Which.
        stream: StreamId,
        /// Why.
        why: Reset,
    },
}

/// What a frame is, as its byte says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Frame::Hello`]
    Hello,
    /// [`Frame::Proof`]
    Proof,
    /// [`Frame::Refused`]
    Refused,
    /// [`Frame::Message`]
    Message,
    /// [`Frame::Heartbeat`]
    Heartbeat,
    /// [`Frame::Open`]
    Open,
    /// [`Frame::Data`]
    Data,
    /// [`Frame::Credit`]
    Credit,
    /// [`Frame::End`]
    End,
    /// [`Frame::Stop`]
    Stop,
    /// [`Frame::Reset`]
    Reset,
}

codes!(Kind {
    Hello = 0x01, Proof = 0x02, Refused = 0x03, Message = 0x10, Heartbeat = 0x11,
    Open = 0x20, Data = 0x21, Credit = 0x22, End = 0x23, Stop = 0x24, Reset = 0x25,
});

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such kind.
    #[error("a frame of kind {0:#04x}, which version 1 does not have")]
    Kind(u8),
    /// A length that its kind does not allow.
    #[error("a {kind:?} frame of {length} bytes; {least} to {most} are allowed")]
    Length {
        /// Its kind.
        kind: Kind,
        /// Its length.
        length: usize,
        /// Least length allowed.
        least: usize,
        /// Greatest length allowed.
        most: usize,
    },
    /// More descriptors than its kind allows.
    #[error("a {0:?} frame with {1} descriptors")]
    Descriptors(Kind, u8),
    /// Content that its kind does not allow.
    #[error("a {0:?} frame whose content is none")]
    Content(Kind),
}

/// Bytes of a hello that another version may have at most; ours has fewer.
const MAX_HELLO_BYTES: usize = 1_024;

impl Kind {
    /// Least and greatest length of the content, bytes.
    const fn lengths(self, limits: &Limits) -> (usize, usize) {
        match self {
            Self::Hello => (Hello::PREFIX_BYTES, MAX_HELLO_BYTES),
            Self::Proof => (PROOF_BYTES, PROOF_BYTES),
            Self::Refused => (3, MAX_HELLO_BYTES),
            Self::Message => (1, limits.max_message_bytes),
            Self::Heartbeat | Self::End | Self::Stop => (8, 8),
            Self::Open | Self::Reset => (9, 9),
            Self::Data => (9, 8 + MAX_DATA_BYTES),
            Self::Credit => (12, 12),
        }
    }
}

/// Reads the frame that `arrived` begins with, and how many bytes it took; `None` until it is whole.
///
/// # Errors
/// [`FrameError`] as soon as the header shows that no frame can come of it.
pub fn parse(arrived: &[u8], limits: &Limits) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some((header, rest)) = arrived.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [a, b, c, d, kind, descriptors] = *header;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let kind = Kind::of(kind).ok_or(FrameError::Kind(kind))?;
    let (least, most) = kind.lengths(limits);
    if length < least || length > most {
        return Err(FrameError::Length {
            kind,
            length,
            least,
            most,
        });
    }
    let allowed = if kind == Kind::Message { MAX_DESCRIPTORS } else { 0 };
    if usize::from(descriptors) > allowed {
        return Err(FrameError::Descriptors(kind, descriptors));
    }
    let Some(content) = rest.get(..length) else {
        return Ok(None);
    };
    let frame = content_of(kind, descriptors, content).ok_or(FrameError::Content(kind))?;
    Ok(Some((frame, HEADER_BYTES + length)))
}

fn content_of(kind: Kind, descriptors: u8, content: &[u8]) -> Option<Frame> {
    Some(match kind {
        Kind::Hello => Hello::read(content)?,
        Kind::Proof => Frame::Proof(Proof::from_bytes(content.try_into().ok()?)),
        Kind::Refused => {
            let (version, rest) = content.split_first_chunk()?;
            let refusal = Refusal::of(*rest.first()?).unwrap_or(Refusal::Violation);
            let version = u16::from_be_bytes(*version);
            Frame::Refused { version, refusal }
        }
        Kind::Message => Frame::Message {
            descriptors,
            body: content.to_vec(),
        },
        Kind::Heartbeat => Frame::Heartbeat {
            number: u64::from_be_bytes(content.try_into().ok()?),
        },
        Kind::Credit => {
            let (number, bytes) = content.split_first_chunk()?;
            let stream = StreamId(u64::from_be_bytes(*number));
            Frame::Credit {
                stream,
                bytes: u32::from_be_bytes(bytes.try_into().ok()?),
            }
        }
        Kind::Open | Kind::Data | Kind::End | Kind::Stop | Kind::Reset => of_stream(kind, content)?,
    })
}

fn of_stream(kind: Kind, content: &[u8]) -> Option<Frame> {
    let (number, rest) = content.split_first_chunk()?;
    let stream = StreamId::new(u64::from_be_bytes(*number))?;
    Some(match kind {
        Kind::Open => Frame::Open {
            stream,
            kind: StreamKind::of(*rest.first()?)?,
        },
        Kind::Data => Frame::Data {
            stream,
            bytes: rest.to_vec(),
        },
        Kind::End => Frame::End { stream },
        Kind::Stop => Frame::Stop { stream },
        Kind::Reset => Frame::Reset {
            stream,
            why: Reset::of(*rest.first()?)?,
        },
        _ => return None,
    })
}

impl Frame {
    /// Appends the frame's bytes. Contents are within the limits: whoever makes a frame sees to it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let (kind, descriptors) = self.write_content(out);
        let length = u32::try_from(out.len() - start - HEADER_BYTES).unwrap_or(u32::MAX);
        let [a, b, c, d] = length.to_be_bytes();
        if let Some(header) = out.get_mut(start..start + HEADER_BYTES) {
            header.copy_from_slice(&[a, b, c, d, kind.code(), descriptors]);
        }
    }

    fn write_content(&self, out: &mut Vec<u8>) -> (Kind, u8) {
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        match self {
            Self::Hello(hello) => {
                put(&hello.to_bytes());
                return (Kind::Hello, 0);
            }
            Self::Foreign { version } => {
                put(&Hello::prefix(*version));
                return (Kind::Hello, 0);
            }
            Self::Proof(proof) => {
                put(proof.as_bytes());
                return (Kind::Proof, 0);
            }
            Self::Refused { version, refusal } => {
                put(&version.to_be_bytes());
                put(&[refusal.code()]);
                return (Kind::Refused, 0);
            }
            Self::Message { descriptors, body } => {
                put(body);
                return (Kind::Message, *descriptors);
            }
            Self::Heartbeat { number } => {
                put(&number.to_be_bytes());
                return (Kind::Heartbeat, 0);
            }
            Self::Open { stream, .. }
            | Self::Data { stream, .. }
            | Self::Credit { stream, .. }
            | Self::End { stream }
            | Self::Stop { stream }
            | Self::Reset { stream, .. } => put(&stream.0.to_be_bytes()),
        }
        let kind = match self {
            Self::Open { kind, .. } => {
                put(&[kind.code()]);
                Kind::Open
            }
            Self::Data { bytes, .. } => {
                put(bytes);
                Kind::Data
            }
            Self::Credit { bytes, .. } => {
                put(&bytes.to_be_bytes());
                Kind::Credit
            }
            Self::Stop { .. } => Kind::Stop,
            Self::Reset { why, .. } => {
                put(&[why.code()]);
                Kind::Reset
            }
            _ => Kind::End,
        };
        (kind, 0)
    }
}
