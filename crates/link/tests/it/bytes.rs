//! The codec: any bytes are frames or refused, in bounded time and memory.

use proptest::prelude::*;
use suijuris_link::decoder::Decoder;
use suijuris_link::frame::{Frame, FrameError, Kind, parse};
use suijuris_link::fuzz;
use suijuris_link::limits::{HEADER_BYTES, Limits};
use suijuris_link::message::Message as _;

use crate::vectors::{frames, to_runtime, to_supervisor, written};

/// The bytes of all golden frames and messages, a corpus to begin with.
fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<Vec<u8>> = frames().iter().map(|(_, frame)| written(frame)).collect();
    for (_, message) in to_runtime() {
        let (body, came) = message.pack().unwrap();
        let descriptors = u8::try_from(came.len()).unwrap();
        corpus.push(written(&Frame::Message { descriptors, body }));
    }
    for (_, message) in to_supervisor() {
        let (body, _): (_, Vec<u8>) = message.pack().unwrap();
        corpus.push(written(&Frame::Message { descriptors: 0, body }));
    }
    corpus.push(corpus.concat());
    corpus
}

#[test]
fn the_corpus_is_read_whole_in_any_pieces() {
    for bytes in corpus() {
        let whole = fuzz::stream(&bytes, usize::MAX);
        assert!(whole > 0);
        for piece in [1, 3, 7] {
            assert_eq!(fuzz::stream(&bytes, piece), whole);
        }
    }
    for (_, message) in to_runtime() {
        let (body, came) = message.pack().unwrap();
        assert!(fuzz::message_body(&body, came.len()));
        assert!(
            !fuzz::message_body(&body, came.len() + 1),
            "a descriptor too many"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_frames_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1_usize..50) {
        fuzz::stream(&bytes, piece);
        fuzz::message_body(&bytes, usize::from(bytes.len() % 3 == 0));
    }

    #[test]
    fn damaged_frames_are_frames_or_refused(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        piece in 1_usize..50,
    ) {
        let corpus = corpus();
        let mut bytes = which.get(&corpus).clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzz::stream(&bytes, piece);
        fuzz::message_body(&bytes[HEADER_BYTES..], usize::from(bytes[5]));
    }
}

#[test]
fn a_frame_waits_for_its_last_byte() {
    for (name, frame) in frames() {
        let bytes = written(&frame);
        for length in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..length], &Limits::V1),
                Ok(None),
                "{name}, {length} bytes"
            );
        }
        assert_eq!(
            parse(&bytes, &Limits::V1),
            Ok(Some((frame, bytes.len()))),
            "{name}"
        );
    }
}

#[test]
fn a_length_beyond_what_its_kind_allows_is_refused_before_it_comes() {
    for (kind, most) in [
        (0x10, Limits::V1.max_message_bytes),
        (0x21, 8 + 16_384),
        (0x11, 8),
        (0x01, 1_024),
    ] {
        for length in [u32::try_from(most).unwrap() + 1, u32::MAX] {
            let [a, b, c, d] = length.to_be_bytes();
            let refused = parse(&[a, b, c, d, kind, 0], &Limits::V1);
            assert!(
                matches!(refused, Err(FrameError::Length { .. })),
                "{kind:#x} {length}: {refused:?}"
            );
        }
    }
}

#[test]
fn what_has_no_meaning_is_refused_by_name() {
    let check = |bytes: &[u8], expected: FrameError| assert_eq!(parse(bytes, &Limits::V1), Err(expected));
    check(&[0, 0, 0, 1, 0x7f, 0, 0], FrameError::Kind(0x7f));
    check(
        &[0, 0, 0, 8, 0x11, 1],
        FrameError::Descriptors(Kind::Heartbeat, 1),
    );
    check(
        &[0, 0, 0, 1, 0x10, 9, 0],
        FrameError::Descriptors(Kind::Message, 9),
    );
    check(
        &[0, 0, 0, 8, 0x23, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        FrameError::Content(Kind::End),
    );
    check(
        &[0, 0, 0, 9, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9],
        FrameError::Content(Kind::Open),
    );
    let mut other = written(&frames()[0].1);
    other[HEADER_BYTES] = b'x';
    check(&other, FrameError::Content(Kind::Hello));
}

#[test]
fn a_decoder_keeps_no_more_than_a_frame_and_what_was_fed_last() {
    let mut decoder = Decoder::new(Limits::V1);
    let frame = Frame::Heartbeat { number: 1 };
    let bytes = written(&frame);
    for _ in 0..10_000 {
        decoder.feed(&bytes[..5]);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.is_inside_a_frame());
        decoder.feed(&bytes[5..]);
        assert_eq!(decoder.next_frame(), Ok(Some(frame.clone())));
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.kept_bytes() < 2 * bytes.len());
    }
}
