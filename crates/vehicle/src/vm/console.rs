//! What a machine writes to its serial line: the kernel's last words, and what the first process complains about.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::output::Splitter;

/// Lines of the console that are kept for whoever reads the output.
const CONSOLE_LINES: usize = 64;

/// What a kernel says last.
const PANIC: &str = "Kernel panic";

/// What the machine writes to its console, which the driver keeps.
#[derive(Debug, Default)]
pub(super) struct Console {
    lines: Mutex<VecDeque<String>>,
    pub(super) changed: Notify,
    /// The kernel has given up.
    pub(super) panicked: AtomicBool,
}

impl Console {
    pub(super) fn push(&self, line: String) {
        if line.contains(PANIC) {
            self.panicked.store(true, Ordering::Relaxed);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= CONSOLE_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.changed.notify_one();
    }

    pub(super) fn take(&self) -> Option<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// The lines of a run.
    pub(super) async fn read(self: Arc<Self>, socket: std::os::unix::net::UnixStream) {
        let Ok(mut socket) = UnixStream::from_std(socket) else {
            return;
        };
        let (mut splitter, mut buffer) = (Splitter::default(), vec![0; 4096]);
        while let Ok(read @ 1..) = socket.read(&mut buffer).await {
            for line in splitter.push(buffer.get(..read).unwrap_or_default()) {
                self.push(line.text);
            }
        }
        splitter
            .finish()
            .into_iter()
            .for_each(|line| self.push(line.text));
    }

    /// What is on it, for an error.
    pub(super) fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let tail: Vec<&str> = lines
            .iter()
            .map(String::as_str)
            .filter(|line| !line.trim().is_empty())
            .collect();
        tail.join("; ")
    }
}
