//! The fuzz bodies of what reads foreign bytes: plain functions, for a fuzzer and for tests over a corpus.
//!
//! Whatever the bytes, each returns in bounded time and memory, and what was accepted is written back the same.

use crate::decoder::Decoder;
use crate::frame::{Frame, parse};
use crate::handshake::{Handshake, Side};
use crate::identity::{ActivationId, Nonce, Secret};
use crate::limits::Limits;
use crate::message::{Message as _, ToRuntime, ToSupervisor};
use crate::mux::Mux;

/// Bytes as they come over a link, in pieces of `piece`: cut into frames, taken in by both handshakes and both ends.
/// Returns how many frames there were.
///
/// # Panics
/// Where something that must hold does not.
pub fn stream(bytes: &[u8], piece: usize) -> usize {
    let limits = Limits::V1;
    let mut decoder = Decoder::new(limits);
    let (secret, nonce) = (Secret::from_bytes([1; 32]), Nonce([2; 32]));
    let mut attach = Handshake::attach(Side::Supervisor, ActivationId([3; 16]), secret, nonce);
    let mut launched = Handshake::launched(nonce);
    let mut ends = [
        Some(Mux::<()>::new(Side::Supervisor, limits)),
        Some(Mux::new(Side::Runtime, limits)),
    ];
    let mut frames = 0;
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece);
        while let Ok(Some(frame)) = decoder.next_frame() {
            frames += 1;
            is_written_back(&frame);
            let _ = (attach.on(&frame), launched.on(&frame));
            ends.iter_mut().for_each(|end| take_in(end, &frame));
        }
    }
    frames
}

fn take_in(end: &mut Option<Mux<()>>, frame: &Frame) {
    let Some(mux) = end else { return };
    let descriptors = match frame {
        Frame::Message { descriptors, .. } => vec![(); usize::from(*descriptors)],
        _ => Vec::new(),
    };
    if mux.receive(frame.clone(), descriptors).is_err() {
        *end = None;
        return;
    }
    while let Some(message) = mux.take() {
        message_body(&message.body, message.descriptors.len());
    }
    while mux.transmit().is_some() {}
    let most = Limits::V1.message_window + 64 * 1_024 * Limits::V1.max_streams;
    assert!(mux.kept_bytes() <= most, "{} bytes", mux.kept_bytes());
}

fn is_written_back(frame: &Frame) {
    // What another version says, and why it refuses, is read but in part.
    if matches!(
        frame,
        Frame::Foreign { .. } | Frame::Refused { .. } | Frame::Hello(_)
    ) {
        return;
    }
    let mut written = Vec::new();
    frame.write(&mut written);
    let read = parse(&written, &Limits::V1);
    assert_eq!(read, Ok(Some((frame.clone(), written.len()))));
}

/// The body of a message with so many descriptors, for either direction. Returns whether it was one for either.
///
/// # Panics
/// Where something that must hold does not.
pub fn message_body(body: &[u8], descriptors: usize) -> bool {
    let max = Limits::V1.max_message_bytes;
    let slots = || (0..descriptors).collect::<Vec<_>>();
    let down = ToRuntime::<usize>::unpack(body, slots(), max);
    let up: Result<ToSupervisor, _> = crate::message::Message::<usize>::unpack(body, slots(), max);
    if let Ok(message) = &down {
        let again = message.clone().pack();
        assert!(again.is_ok_and(|(bytes, came)| bytes == body && came == slots()));
    }
    down.is_ok() || up.is_ok()
}
