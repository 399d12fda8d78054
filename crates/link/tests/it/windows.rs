//! Streams and messages under arbitrary interleavings, tiny windows, peers that stop reading, resets: nothing is lost,
//! nothing stands still, memory is bounded.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use suijuris_link::decoder::Decoder;
use suijuris_link::frame::{Frame, Reset, StreamId, StreamKind};
use suijuris_link::handshake::Side;
use suijuris_link::limits::Limits;
use suijuris_link::mux::{Mux, Read, Violation, Write};

const TINY: Limits = Limits {
    message_window: 700,
    max_message_bytes: 200,
    stream_window: 9,
    max_streams: 3,
    max_queued: 1_500,
};

/// Memory of one end at most: queued and incoming messages, both windows of each stream of either side, and of those that
/// are over but whose reader has not come to the end.
fn bound(streams: usize) -> usize {
    TINY.max_queued + TINY.message_window + streams * 2 * 9
}

/// What one side wrote to a stream, and what the other read of it.
#[derive(Debug, Default)]
struct Direction {
    written: Vec<u8>,
    read: Vec<u8>,
    ended: bool,
    seen_end: bool,
    reader_left: bool,
}

#[derive(Debug, Default)]
struct Model {
    /// By the writing side.
    directions: [Direction; 2],
    cut: bool,
    held: [bool; 2],
}

struct World {
    ends: [Mux<()>; 2],
    decoders: [Decoder; 2],
    /// Bytes on their way to each side.
    pipes: [VecDeque<u8>; 2],
    streams: BTreeMap<StreamId, Model>,
    said: [Vec<Vec<u8>>; 2],
    heard: [Vec<Vec<u8>>; 2],
    beats: [u64; 2],
    next: u8,
}

#[derive(Debug, Clone)]
enum Act {
    Open,
    Accept,
    Write(u8, u8),
    Read(u8, u8),
    End(u8),
    Cut(u8),
    LetGo(u8),
    Say(u8),
    Take,
    Move(u8),
    Beat,
}

fn acts() -> impl Strategy<Value = Vec<(bool, Act)>> {
    let act = prop_oneof![
        2 => Just(Act::Open),
        3 => Just(Act::Accept),
        8 => (any::<u8>(), 1_u8..40).prop_map(|(which, length)| Act::Write(which, length)),
        8 => (any::<u8>(), 1_u8..40).prop_map(|(which, length)| Act::Read(which, length)),
        2 => any::<u8>().prop_map(Act::End),
        1 => any::<u8>().prop_map(Act::Cut),
        1 => any::<u8>().prop_map(Act::LetGo),
        4 => any::<u8>().prop_map(Act::Say),
        4 => Just(Act::Take),
        12 => (1_u8..100).prop_map(Act::Move),
        1 => Just(Act::Beat),
    ];
    prop::collection::vec((any::<bool>(), act), 0..250)
}

impl World {
    fn new() -> Self {
        Self {
            ends: [Mux::new(Side::Supervisor, TINY), Mux::new(Side::Runtime, TINY)],
            decoders: [Decoder::new(TINY), Decoder::new(TINY)],
            pipes: Default::default(),
            streams: BTreeMap::new(),
            said: Default::default(),
            heard: Default::default(),
            beats: [0; 2],
            next: 0,
        }
    }

    fn play(&mut self, side: usize, act: &Act) {
        match act {
            Act::Open => self.open(side),
            Act::Accept => self.accept(side),
            Act::Write(which, length) => self.write(side, *which, *length),
            Act::Read(which, length) => {
                if let Some(id) = self.held(side, *which) {
                    self.read(side, id, usize::from(*length));
                }
            }
            Act::End(which) => {
                if let Some(id) = self.held(side, *which) {
                    self.ends[side].end(id);
                    self.model(id).directions[side].ended = true;
                }
            }
            Act::Cut(which) => {
                if let Some(id) = self.held(side, *which) {
                    self.ends[side].reset(id, Reset::Failed);
                    self.model(id).cut = true;
                }
            }
            Act::LetGo(which) => self.let_go(side, *which),
            Act::Say(length) => {
                let body = vec![self.next; usize::from((*length).clamp(1, 200))];
                self.next = self.next.wrapping_add(1);
                if self.ends[side].queue(body.clone(), Vec::new()).is_ok() {
                    self.said[side].push(body);
                }
            }
            Act::Take => self.take(side),
            Act::Move(bytes) => {
                self.carry(side, usize::from(*bytes));
            }
            Act::Beat => self.ends[side].beat(self.beats[1 - side] + 1),
        }
        let most = bound(self.ends[side].streams());
        assert!(
            self.ends[side].kept_bytes() <= most,
            "{} bytes kept",
            self.ends[side].kept_bytes()
        );
    }

    fn model(&mut self, id: StreamId) -> &mut Model {
        self.streams.get_mut(&id).unwrap()
    }

    fn open(&mut self, side: usize) {
        if let Ok(id) = self.ends[side].open(StreamKind::Connection) {
            let mut model = Model::default();
            model.held[side] = true;
            assert!(self.streams.insert(id, model).is_none(), "a number given twice");
        }
    }

    fn accept(&mut self, side: usize) {
        if let Some((id, _)) = self.ends[side].accept(None) {
            self.model(id).held[side] = true;
        }
    }

    fn held(&self, side: usize, which: u8) -> Option<StreamId> {
        let held: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, model)| model.held[side])
            .map(|(id, _)| *id)
            .collect();
        held.get(usize::from(which) % held.len().max(1)).copied()
    }

    fn write(&mut self, side: usize, which: u8, length: u8) {
        let Some(id) = self.held(side, which) else { return };
        let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_add(self.next)).collect();
        self.next = self.next.wrapping_add(length);
        let written = self.ends[side].write(id, &bytes);
        let model = self.model(id);
        let direction = &mut model.directions[side];
        match written {
            Write::Bytes(count) => {
                assert!(!direction.ended, "written after its end");
                direction.written.extend(&bytes[..count]);
            }
            Write::Pending => {}
            Write::Closed => assert!(
                direction.ended || direction.reader_left,
                "closed without a reason"
            ),
            Write::Reset(_) => assert!(model.cut, "cut without a reason"),
        }
    }

    fn read(&mut self, side: usize, id: StreamId, length: usize) -> bool {
        let mut buffer = vec![0; length];
        let found = self.ends[side].read(id, &mut buffer);
        let model = self.model(id);
        let direction = &mut model.directions[1 - side];
        match found {
            Read::Bytes(count) => {
                direction.read.extend(&buffer[..count]);
                assert!(
                    direction.written.starts_with(&direction.read),
                    "other bytes than were written"
                );
                return true;
            }
            Read::Pending => {}
            Read::End => {
                assert!(direction.ended, "an end that nobody said");
                assert_eq!(direction.read, direction.written, "an end before all was read");
                direction.seen_end = true;
            }
            Read::Reset(_) => assert!(model.cut, "cut without a reason"),
        }
        false
    }

    fn let_go(&mut self, side: usize, which: u8) {
        let Some(id) = self.held(side, which) else { return };
        self.ends[side].let_go(id);
        let model = self.model(id);
        model.held[side] = false;
        if model.directions[side].ended {
            model.directions[1 - side].reader_left = true;
        } else if !(model.directions[side].seen_end && model.directions[1 - side].seen_end) {
            model.cut = true;
        }
    }

    fn take(&mut self, side: usize) {
        if let Some(message) = self.ends[side].take() {
            self.heard[side].push(message.body);
        }
    }

    /// Moves bytes from `side` to the other.
    fn carry(&mut self, side: usize, bytes: usize) -> bool {
        let pipe = &mut self.pipes[1 - side];
        if pipe.is_empty()
            && let Some((frame, _)) = self.ends[side].transmit()
        {
            let mut written = Vec::new();
            frame.write(&mut written);
            pipe.extend(written);
        }
        let moved: Vec<u8> = pipe.drain(..bytes.min(pipe.len())).collect();
        self.decoders[1 - side].feed(&moved);
        while let Some(frame) = self.decoders[1 - side].next_frame().unwrap() {
            if let Frame::Heartbeat { number } = frame {
                self.beats[1 - side] = number;
            }
            self.ends[1 - side].receive(frame, Vec::new()).unwrap();
        }
        !moved.is_empty()
    }

    /// Both applications go on until nothing moves any more.
    fn come_to_rest(&mut self, readers: &[usize]) {
        loop {
            let mut moves = false;
            for side in 0..2 {
                while self.carry(side, 64) {
                    moves = true;
                }
            }
            for side in readers.iter().copied() {
                self.accept(side);
                let heard = self.heard[side].len();
                self.take(side);
                moves |= self.heard[side].len() > heard;
                let held: Vec<StreamId> = self
                    .streams
                    .iter()
                    .filter(|(_, model)| model.held[side])
                    .map(|(id, _)| *id)
                    .collect();
                for id in held {
                    moves |= self.read(side, id, 4);
                }
            }
            if !moves {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn nothing_is_lost_and_nothing_stands_still(acts in acts()) {
        let mut world = World::new();
        for (side, act) in &acts {
            world.play(usize::from(*side), act);
        }
        world.come_to_rest(&[0, 1]);
        for side in 0..2 {
            prop_assert_eq!(&world.heard[1 - side], &world.said[side], "messages arrive once, in order");
        }
        for (id, model) in &world.streams {
            for (side, direction) in model.directions.iter().enumerate() {
                if model.cut || direction.reader_left || !model.held[1 - side] {
                    continue;
                }
                prop_assert_eq!(&direction.read, &direction.written, "stream {}", id);
                prop_assert_eq!(direction.seen_end, direction.ended, "stream {}", id);
            }
        }
    }

    /// One side neither reads nor takes messages any more; the other end still hears its heartbeat and new messages of
    /// that side, and keeps no more than the windows.
    #[test]
    fn a_side_that_reads_nothing_holds_up_nobody_else(acts in acts(), deaf in 0_usize..2) {
        let mut world = World::new();
        for (side, act) in &acts {
            let reads = matches!(act, Act::Read(..) | Act::Take | Act::Accept);
            if !(reads && usize::from(*side) == deaf) {
                world.play(usize::from(*side), act);
            }
        }
        world.ends[deaf].beat(77);
        world.come_to_rest(&[1 - deaf]);
        prop_assert_eq!(world.beats[1 - deaf], 77);
        prop_assert_eq!(&world.heard[1 - deaf], &world.said[deaf]);
        for end in &world.ends {
            prop_assert!(end.kept_bytes() <= bound(end.streams()));
        }
    }
}

#[test]
fn what_breaks_the_windows_or_the_numbers_is_a_violation() {
    let id = |number| StreamId::new(number).unwrap();
    let open = |number| Frame::Open {
        stream: id(number),
        kind: StreamKind::Connection,
    };
    let data = |number, length| Frame::Data {
        stream: id(number),
        bytes: vec![0; length],
    };
    let message = || Frame::Message {
        descriptors: 0,
        body: vec![0; 200],
    };
    let cases = [
        (vec![data(1, 1)], Violation::NoStream),
        (vec![data(2, 1)], Violation::NoStream),
        (vec![open(2)], Violation::Number),
        (vec![open(3), open(1)], Violation::Number),
        (vec![open(1), open(3), open(5), open(7)], Violation::TooMany),
        (vec![open(1), data(1, 9), data(1, 1)], Violation::BeyondWindow),
        (
            vec![open(1), Frame::End { stream: id(1) }, data(1, 1)],
            Violation::AfterEnd,
        ),
        (
            vec![
                open(1),
                Frame::Credit {
                    stream: id(1),
                    bytes: 1,
                },
            ],
            Violation::Credit,
        ),
        (vec![message(), message(), message()], Violation::Messages),
        (vec![Frame::Foreign { version: 2 }], Violation::Handshake),
    ];
    for (frames, expected) in cases {
        let mut end = Mux::<()>::new(Side::Runtime, TINY);
        let last = frames.len() - 1;
        for (at, frame) in frames.into_iter().enumerate() {
            let came = end.receive(frame.clone(), Vec::new());
            if at == last {
                assert_eq!(came, Err(expected), "{frame:?}");
            } else {
                came.unwrap();
            }
        }
    }
}

#[test]
fn a_reset_storm_keeps_nothing() {
    let mut end = Mux::<()>::new(Side::Runtime, TINY);
    for number in (1..20_000).step_by(2) {
        let stream = StreamId::new(number).unwrap();
        let kind = StreamKind::Connection;
        end.receive(Frame::Open { stream, kind }, Vec::new()).unwrap();
        end.receive(
            Frame::Data {
                stream,
                bytes: vec![1; 9],
            },
            Vec::new(),
        )
        .unwrap();
        end.receive(
            Frame::Reset {
                stream,
                why: Reset::Dropped,
            },
            Vec::new(),
        )
        .unwrap();
    }
    assert_eq!((end.streams(), end.kept_bytes()), (0, 0));
    assert!(end.accept(None).is_none() && end.transmit().is_none());
}
