//! What goes wrong between two ends: words only.

use crate::limits::MAX_DESCRIPTORS;

/// What the other end must not do. The link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More messages than there was credit for.
    #[error("more messages than it had credit for")]
    Messages,
    /// More bytes than there was credit for.
    #[error("more bytes on a stream than it had credit for")]
    BeyondWindow,
    /// Something after the end.
    #[error("more on a stream after its end")]
    AfterEnd,
    /// More credit than the window.
    #[error("more credit than the window holds")]
    Credit,
    /// A stream that was never opened.
    #[error("something on a stream that was never opened")]
    NoStream,
    /// A number that is not its to give, or was given before.
    #[error("a stream under a number that it cannot have")]
    Number,
    /// Too many.
    #[error("more streams than may be open")]
    TooMany,
    /// A frame of the handshake.
    #[error("a frame of the handshake after it")]
    Handshake,
}

/// Why a message is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Too large ever to be sent.
    #[error(
        "a message of {bytes} bytes and {descriptors} descriptors, where {most} bytes and {MAX_DESCRIPTORS} are allowed"
    )]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// Its descriptors.
        descriptors: usize,
        /// Bytes allowed.
        most: usize,
    },
    /// The other end does not keep up.
    #[error("the other end of the link does not keep up")]
    Full,
    /// There is no other end.
    #[error("the link has ended")]
    Ended,
    /// What it runs over passes none.
    #[error("this link passes no descriptors")]
    NoDescriptors,
    /// It has no encoding; no message of ours is such.
    #[error("a message that cannot be encoded")]
    Encoding,
}

/// Why there is no new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many are open as may be.
    #[error("too many streams are open on the link")]
    TooMany,
    /// There is no other end.
    #[error("the link has ended")]
    Ended,
}
