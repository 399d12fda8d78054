//! What one link may make either side keep in memory. Part of the version: both sides work with the same numbers.

/// Bytes of a frame before its content: length, kind, number of descriptors.
pub const HEADER_BYTES: usize = 6;

/// Bytes of a stream that one frame carries at most.
pub const MAX_DATA_BYTES: usize = 16 << 10;

/// Descriptors that come with one message at most: a launch has three.
pub const MAX_DESCRIPTORS: usize = 8;

/// What a message costs beside its own bytes, so that small ones are bounded in number too.
pub const MESSAGE_COST_BYTES: usize = 64;

/// What each descriptor of a message costs.
pub const DESCRIPTOR_COST_BYTES: usize = 4 << 10;

/// How much may be under way. [`Limits::V1`] is what the protocol says; other numbers are for tests, and both ends need
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Cost of the messages that were sent and not yet taken, at most.
    pub message_window: usize,
    /// Bytes of a message at most, its descriptors not counted. With them it costs less than half of the window, so that
    /// one always gets through.
    pub max_message_bytes: usize,
    /// Bytes of a stream that were sent and not yet read, at most; 2 or more.
    pub stream_window: u32,
    /// Streams that one side has open at once, at most.
    pub max_streams: usize,
    /// Cost of the messages that wait for their turn on the sending side, at most.
    pub max_queued: usize,
}

impl Limits {
    /// Those of version 1.
    pub const V1: Self = Self {
        message_window: 512 << 10,
        max_message_bytes: 192 << 10,
        stream_window: 64 << 10,
        max_streams: 1_024,
        max_queued: 8 << 20,
    };

    /// What a message of so many bytes and descriptors costs.
    #[must_use]
    pub const fn cost(bytes: usize, descriptors: usize) -> usize {
        bytes + MESSAGE_COST_BYTES + descriptors * DESCRIPTOR_COST_BYTES
    }
}
