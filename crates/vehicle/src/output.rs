//! What a machine writes, as lines: a read is no line, and no character is cut in two.
//!
//! `Splitter` is pure; [`Lines`] is what callers read, whatever a driver reads from.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longest line, in bytes; a longer one arrives in pieces.
pub const MAX_LINE: usize = 8 << 10;
/// Lines that wait for their reader.
const WAITING: usize = 64;

/// From where output is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// From the oldest line that is kept.
    Kept,
    /// From now on. Where nothing is kept, that is what nobody has read yet.
    Now,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its text without the line's end; what is no UTF-8 is replaced. Control characters stand as written.
    pub text: String,
    /// Whether the line goes on in the next one, as it is longer than [`MAX_LINE`].
    pub goes_on: bool,
}

/// Lines as they are written. Dropping it ends the reading.
#[derive(Debug)]
pub struct Lines {
    lines: mpsc::Receiver<Line>,
    /// Owns the tasks that read.
    _readers: JoinSet<()>,
}

impl Lines {
    /// The next line; `None` when nothing is left of the machine and everything has been read. Cancel safe.
    pub async fn next(&mut self) -> Option<Line> {
        self.lines.recv().await
    }

    /// Lines that tasks spawned by `spawn` send.
    pub(crate) fn read_by(spawn: impl FnOnce(&mut JoinSet<()>, &mpsc::Sender<Line>)) -> Self {
        let (sender, lines) = mpsc::channel(WAITING);
        let mut readers = JoinSet::new();
        spawn(&mut readers, &sender);
        Self {
            lines,
            _readers: readers,
        }
    }
}

/// Bytes in, lines out.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// The lines that `bytes` complete. What is left waits for more.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (head, tail) = rest.split_at(end);
            self.grow(head, &mut lines);
            let whole = std::mem::take(&mut self.partial);
            lines.push(line(whole.strip_suffix(b"\r").unwrap_or(&whole), false));
            rest = tail.get(1..).unwrap_or_default();
        }
        self.grow(rest, &mut lines);
        lines
    }

    /// What was written without a line's end.
    pub(crate) fn finish(&mut self) -> Option<Line> {
        let left = std::mem::take(&mut self.partial);
        (!left.is_empty()).then(|| line(&left, false))
    }

    fn grow(&mut self, bytes: &[u8], lines: &mut Vec<Line>) {
        self.partial.extend_from_slice(bytes);
        while self.partial.len() > MAX_LINE {
            let rest = self.partial.split_off(boundary(&self.partial));
            lines.push(line(&std::mem::replace(&mut self.partial, rest), true));
        }
    }
}

/// The last place up to [`MAX_LINE`] at which no UTF-8 character is cut.
fn boundary(bytes: &[u8]) -> usize {
    let is_start = |at: &usize| {
        bytes
            .get(*at)
            .is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000)
    };
    (MAX_LINE - 3..=MAX_LINE).rev().find(is_start).unwrap_or(MAX_LINE)
}

fn line(bytes: &[u8], goes_on: bool) -> Line {
    Line {
        text: String::from_utf8_lossy(bytes).into_owned(),
        goes_on,
    }
}

/// Looks again at what is kept in a file no later than this, should a notice have been missed.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut lines: Vec<Line> = chunks.iter().flat_map(|chunk| splitter.push(chunk)).collect();
        lines.extend(splitter.finish());
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn reads_are_not_lines() {
        assert_eq!(
            texts(&[b"on", b"e\ntwo\r\n", b"\nth\xc3", b"\xa9"]),
            ["one", "two", "", "thé"]
        );
        assert_eq!(texts(&[b"\xff\n"]), ["\u{fffd}"]);
        assert!(texts(&[]).is_empty());
    }

    #[test]
    fn long_lines_come_in_pieces_that_cut_no_character() {
        let long = "é".repeat(MAX_LINE);
        let mut splitter = Splitter::default();
        let mut lines = splitter.push(b"x");
        lines.extend(splitter.push(long.as_bytes()));
        lines.extend(splitter.push(b"\n"));
        assert!(lines.iter().rev().skip(1).all(|line| line.goes_on));
        let joined: String = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(joined, format!("x{long}"));
    }

    proptest! {
        #[test]
        fn however_it_is_read_the_lines_are_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(texts(&[head, tail]), texts(&[&bytes]));
        }
    }
}
