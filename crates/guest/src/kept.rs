//! What is kept outside while no driver is there: a program's output, line by line, and how it ended.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;

use crate::port::Port;
use crate::wire::{Ended, Mark};

/// Bytes of a line that wait for its end at most.
const LINE: usize = 16 << 10;

/// The way out for it. Whoever writes has the port until a line is whole.
#[derive(Debug)]
pub(crate) struct Kept(Mutex<Port>);

impl Kept {
    /// Opens it, once it is there.
    pub(crate) fn open() -> io::Result<Self> {
        Port::open_kept().map(|port| Self(Mutex::new(port)))
    }

    /// Carries what `reader` gives, until it ends.
    pub(crate) async fn carry(self: std::rc::Rc<Self>, mut reader: pipe::Receiver) {
        let mut waiting = Vec::with_capacity(LINE);
        while let Ok(1..) = reader.read_buf(&mut waiting).await {
            let whole = waiting.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
            let mut lines: Vec<u8> = match whole {
                Some(whole) => waiting.drain(..whole).collect(),
                None if waiting.len() >= LINE => std::mem::take(&mut waiting),
                None => continue,
            };
            if !lines.ends_with(b"\n") {
                lines.push(b'\n');
            }
            if self.0.lock().await.write(&lines).await.is_err() {
                return;
            }
        }
        if !waiting.is_empty() {
            waiting.push(b'\n');
            let _ = self.0.lock().await.write(&waiting).await;
        }
    }

    /// Tells how the program ended, as the last line.
    pub(crate) async fn exit(&self, mark: &Mark, ended: Ended) -> io::Result<()> {
        let mut line = mark.line();
        line.push_str(&serde_json::to_string(&ended)?);
        line.push('\n');
        self.0.lock().await.write(line.as_bytes()).await
    }
}
