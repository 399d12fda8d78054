//! Lines on standard output or error, written by a thread of their own: printing never waits for a reader.

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that wait for their reader at most; further ones are dropped, and how many is said in their place.
const WAITING: usize = 8_192;

/// Time for what waits to be read at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Where lines go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Output,
    Error,
}

/// The lines of one process. The thread starts with the first of them.
#[derive(Debug)]
pub(crate) struct LineWriter {
    writing: RefCell<Option<Writing>>,
    place: Place,
    /// What stands in the place of so many lines that were dropped.
    lost: fn(u64) -> String,
}

#[derive(Debug)]
struct Writing {
    lines: SyncSender<String>,
    over: Receiver<()>,
    dropped: u64,
}

impl LineWriter {
    /// Lines of this place; `lost` is the line that says how many were dropped.
    pub(crate) fn new(place: Place, lost: fn(u64) -> String) -> Self {
        Self {
            writing: RefCell::default(),
            place,
            lost,
        }
    }

    /// Prints a line, soon.
    pub(crate) fn line(&self, line: String) {
        let mut writing = self.writing.borrow_mut();
        let writing = writing.get_or_insert_with(|| Writing::start(self.place));
        if writing.dropped > 0 && writing.lines.try_send((self.lost)(writing.dropped)).is_ok() {
            writing.dropped = 0;
        }
        match writing.lines.try_send(line) {
            Err(TrySendError::Full(_)) => writing.dropped += 1,
            // Nobody to tell when standard output is gone; the object does not depend on it.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

/// For people: so many lines were dropped.
pub(crate) fn lost_words(lines: u64) -> String {
    format!("suijuris: {lines} lines were dropped: the reader was too slow")
}

impl Writing {
    fn start(place: Place) -> Self {
        let (lines, waiting) = sync_channel::<String>(WAITING);
        let (end, over) = sync_channel(1);
        let write = move || {
            let mut out: Box<dyn std::io::Write> = match place {
                Place::Output => Box::new(std::io::stdout()),
                Place::Error => Box::new(std::io::stderr()),
            };
            while let Ok(mut line) = waiting.recv() {
                line.push('\n');
                if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
                    break;
                }
            }
            let _ = end.send(());
        };
        // Without a thread nothing is printed, and all else goes on.
        let _ = std::thread::Builder::new()
            .name("print".to_owned())
            .stack_size(128 << 10)
            .spawn(write);
        let dropped = 0;
        Self { lines, over, dropped }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if let Some(Writing { lines, over, .. }) = self.writing.take() {
            drop(lines);
            let _ = over.recv_timeout(FLUSH_WITHIN);
        }
    }
}
