//! The bytes between a virtual machine's first process and the driver outside: frames, and the orders and reports in them.
//!
//! Pure. Whatever comes from a machine is foreign: a frame is bounded before it is kept.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Name of the virtio-serial port.
pub const PORT: &str = "suijuris";

/// Name of the virtio-serial port whose bytes are kept outside while no driver is there: output, and how the program ended.
pub const KEPT_PORT: &str = "suijuris-kept";

/// Port of the vsock host at which a machine without a virtio-serial port finds the driver.
pub const VSOCK_PORT: u32 = 1024;

/// Bytes of an order or a report at most: argument list and environment of a program.
pub const MAX_WORDS: usize = 512 << 10;

/// Bytes of a stream in one frame at most.
pub const MAX_DATA: usize = 16 << 10;

/// Bytes of a stream that may be under way, in each direction.
pub const WINDOW: usize = 64 << 10;

/// Stream of the program's standard output.
pub const STDOUT: u32 = 1;

/// Stream of the program's standard error.
pub const STDERR: u32 = 2;

/// First stream that the driver opens.
pub const FIRST_LINK: u32 = 16;

/// Bytes before a frame's content: kind, stream, length.
const HEADER: usize = 9;

/// What crosses the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// An order (from the driver) or a report (to it), as JSON.
    Words(Vec<u8>),
    /// The driver opens a link to the program.
    Open(u32),
    /// Bytes of a stream.
    Data(u32, Vec<u8>),
    /// No more bytes of a stream come from this side.
    End(u32),
    /// A stream is broken off, both ways.
    Cut(u32),
    /// So many more bytes of a stream may be sent.
    Credit(u32, u32),
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the machine's channel sends bytes that are not a frame")]
pub struct NotAFrame;

impl Frame {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let credit;
        let (kind, stream, content): (u8, u32, &[u8]) = match self {
            Self::Words(words) => (0, 0, words),
            Self::Open(stream) => (1, *stream, &[]),
            Self::Data(stream, bytes) => (2, *stream, bytes),
            Self::End(stream) => (3, *stream, &[]),
            Self::Cut(stream) => (4, *stream, &[]),
            Self::Credit(stream, bytes) => {
                credit = bytes.to_be_bytes();
                (5, *stream, &credit)
            }
        };
        let mut bytes = Vec::with_capacity(HEADER + content.len());
        bytes.push(kind);
        bytes.extend_from_slice(&stream.to_be_bytes());
        // Contents are bounded far below.
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(content);
        bytes
    }

    fn of(kind: u8, stream: u32, content: &[u8]) -> Result<Self, NotAFrame> {
        match (kind, content.len()) {
            (0, _) if stream == 0 => Ok(Self::Words(content.to_vec())),
            (1, 0) => Ok(Self::Open(stream)),
            (2, 1..) => Ok(Self::Data(stream, content.to_vec())),
            (3, 0) => Ok(Self::End(stream)),
            (4, 0) => Ok(Self::Cut(stream)),
            (5, 4) => {
                let bytes = content.try_into().map_err(|_| NotAFrame)?;
                Ok(Self::Credit(stream, u32::from_be_bytes(bytes)))
            }
            _ => Err(NotAFrame),
        }
    }
}

/// Bytes in, frames out.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`NotAFrame`]; nothing that follows can be read either.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, NotAFrame> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, a, b, c, d, e, f, g, h] = *header;
        let length = usize::try_from(u32::from_be_bytes([e, f, g, h])).map_err(|_| NotAFrame)?;
        let most = match kind {
            0 => MAX_WORDS,
            2 => MAX_DATA,
            1 | 3 | 4 | 5 => 4,
            _ => return Err(NotAFrame),
        };
        if length > most {
            return Err(NotAFrame);
        }
        let Some(content) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::of(kind, u32::from_be_bytes([a, b, c, d]), content)?;
        self.bytes.drain(..HEADER + length);
        Ok(Some(frame))
    }
}

/// Text of the system, not all of which is UTF-8, as JSON that keeps it: a string where it is one, else its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub OsString);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self.0.to_str() {
            Some(text) => Written::Text(text.to_owned()),
            None => Written::Bytes(self.0.as_bytes().to_vec()),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.into(),
            Written::Bytes(bytes) => OsString::from_vec(bytes),
        }))
    }
}

/// What the driver wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Start the program; once, and first.
    Start(Box<Start>),
    /// Send this signal to the program.
    Signal(i32),
    /// The machine is about to be suspended: write everything to the disks, say [`Report::Paused`] and nothing behind it, for a
    /// channel that breaks with the suspension would lose it. Nothing else comes before [`Order::Resumed`].
    Pause,
    /// The machine runs on.
    Resumed(Now),
    /// The machine begins as a copy of one that was suspended after [`Order::Pause`]; said first, in place of [`Order::Resumed`].
    /// All streams of that one are over, and [`Report::Started`] answers.
    Copied(Box<Copied>),
}

/// What a machine has to itself that begins as a copy of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Clock and randomness.
    pub now: Now,
    /// Its host name.
    pub hostname: String,
    /// What only its driver and it know, in place of what the other one has.
    pub mark: Mark,
}

/// What a machine cannot know by itself after a pause, or at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Now {
    /// The wall clock, milliseconds of Unix time.
    pub wall_ms: i64,
    /// Randomness, so that two machines from one memory do not draw the same.
    pub seed: [u8; 32],
}

/// What runs, and in what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Clock and randomness.
    pub now: Now,
    /// The machine's host name.
    pub hostname: String,
    /// The file system that the program begins with: that of the disk of this name, or where there is none the machine's first one.
    /// Around its files are then `/proc`, `/dev`, `/run`, `/tmp` and `/sys` of the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// What of the machine's first file system appears there, to be read: from where, and at which place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<(PathBuf, PathBuf)>,
    /// The program's path.
    pub exe: PathBuf,
    /// Its arguments, the zeroth included.
    pub argv: Vec<Text>,
    /// Its whole environment.
    pub env: BTreeMap<Text, Text>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// What is mounted first, in this order.
    pub mounts: Vec<Mount>,
    /// Number of the open file at which it finds its links.
    pub link: Option<i32>,
    /// Whether its output is wanted: files 1 and 2.
    pub outputs: [bool; 2],
    /// Most open files of each process.
    pub open_files: Option<u32>,
    /// Most processes and threads of the machine, without those of its kernel.
    pub processes: Option<u32>,
    /// Whether the machine's network card leads to the host's network.
    pub network: bool,
    /// Of a machine that outlives its driver: what only the driver and the first process know. Output goes to [`KEPT_PORT`] then, and
    /// [`Mark::line`] with how the program ended; a driver that takes the machine over begins with [`Mark::bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// Bytes of a [`Mark`].
pub const MARK: usize = 32;

/// Random bytes by which the two ends of a channel find each other again, and words of the first process are told from output.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(pub [u8; MARK]);

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mark(…)")
    }
}

impl Mark {
    /// What a driver that takes over says first, and then the machine: whatever came before is of the past.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; MARK] {
        &self.0
    }

    /// What a line of the first process's own begins with.
    #[must_use]
    pub fn line(&self) -> String {
        use std::fmt::Write as _;
        let digits = self.0.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        format!("suijuris {digits} ")
    }
}

/// Looks for a [`Mark`] in bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Finder {
    /// The last bytes of what came before, fewer than a mark has.
    last: Vec<u8>,
}

impl Finder {
    /// What follows the last mark in `bytes` and what came before them; none where it does not end in here.
    pub fn after<'b>(&mut self, mark: &Mark, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let before = self.last.len();
        self.last.extend_from_slice(bytes);
        let found = self.last.windows(MARK).rposition(|window| window == mark.0);
        let after = found.and_then(|at| bytes.get((at + MARK).checked_sub(before)?..));
        let keep = match found {
            Some(_) => 0,
            None => MARK - 1,
        };
        let past = self.last.len().saturating_sub(keep);
        self.last.drain(..past);
        after
    }
}

/// Something mounted before the program starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mount {
    /// The disk with the ext4 file system of this name.
    Disk {
        /// Name of the file system.
        label: String,
        /// Where.
        to: PathBuf,
        /// Refuse writes.
        read_only: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Where.
        to: PathBuf,
        /// Most bytes it can hold.
        size_bytes: u64,
    },
}

/// What the first process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Report {
    /// The machine has booted, and waits for [`Order::Start`].
    Ready,
    /// The program has been executed.
    Started,
    /// It could not be; the machine ends.
    Failed {
        /// What, with the kernel's answer.
        why: String,
    },
    /// Everything is on the disks, and all that was sent before [`Order::Pause`] has arrived.
    Paused,
    /// The program has ended, and everything is on the disks.
    Exited(Ended),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It returned this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// An order or a report as a frame.
///
/// # Errors
/// What cannot be written as JSON, or is too long.
pub fn words<T: Serialize>(value: &T) -> Result<Frame, serde_json::Error> {
    let words = serde_json::to_vec(value)?;
    if words.len() > MAX_WORDS {
        return Err(serde::ser::Error::custom(
            "arguments and environment are too long",
        ));
    }
    Ok(Frame::Words(words))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let bytes = || prop::collection::vec(any::<u8>(), 1..100);
        prop_oneof![
            bytes().prop_map(Frame::Words),
            any::<u32>().prop_map(Frame::Open),
            (any::<u32>(), bytes()).prop_map(|(stream, bytes)| Frame::Data(stream, bytes)),
            any::<u32>().prop_map(Frame::End),
            any::<u32>().prop_map(Frame::Cut),
            any::<(u32, u32)>().prop_map(|(stream, bytes)| Frame::Credit(stream, bytes)),
        ]
    }

    proptest! {
        #[test]
        fn frames_are_read_as_they_were_written_however_they_arrive(
            frames in prop::collection::vec(any_frame(), 0..10),
            chunk in 1_usize..40,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let mut decoder = Decoder::default();
            let mut read = Vec::new();
            for chunk in bytes.chunks(chunk) {
                decoder.feed(chunk);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    read.push(frame);
                }
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn no_bytes_make_it_keep_more_than_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }

    #[test]
    fn a_mark_is_found_however_it_arrives() {
        let mark = Mark([7; MARK]);
        let mut bytes = vec![1; 50];
        bytes.extend_from_slice(mark.bytes());
        bytes.extend_from_slice(b"then");
        for chunk in 1..bytes.len() {
            let (mut finder, mut after) = (Finder::default(), None);
            for piece in bytes.chunks(chunk) {
                match (finder.after(&mark, piece), &mut after) {
                    (Some(found), after @ None) => *after = Some(found.to_vec()),
                    (Some(_), Some(_)) => panic!("found twice in pieces of {chunk}"),
                    (None, Some(after)) => after.extend_from_slice(piece),
                    (None, None) => {}
                }
            }
            assert_eq!(after.as_deref(), Some(&b"then"[..]), "in pieces of {chunk}");
        }
        assert_eq!(Finder::default().after(&mark, &[7; MARK - 1]), None);
        assert!(!format!("{mark:?}").contains('7') && mark.line().ends_with("0707 "));
    }

    #[test]
    fn a_length_beyond_all_bounds_is_refused_before_its_content_comes() {
        let mut decoder = Decoder::default();
        decoder.feed(&[2, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next_frame(), Err(NotAFrame));
    }

    #[test]
    fn text_that_is_no_unicode_travels() {
        let text = Text(OsString::from_vec(vec![0x66, 0xff]));
        let json = serde_json::to_string(&text).unwrap();
        assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
        assert_eq!(serde_json::to_string(&Text("a".into())).unwrap(), "\"a\"");
    }
}
