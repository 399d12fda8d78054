//! What machines write: the driver keeps the newest MiB of a life, and of the last life before that it is kept here. Read as lines of
//! JSON, and followed from life to life.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use suijuris_vehicle::process;
use suijuris_vehicle::{Machine as _, Since};
use tokio::sync::mpsc;

use crate::machine::actor::Handle;
use crate::pieces::Pieces;

/// Bytes of an ended life that are kept.
const MAX_KEPT: usize = 1 << 20;
/// Lines that wait for their reader.
const WAITING: usize = 64;

fn file(of_machine: &Path) -> PathBuf {
    of_machine.join("output")
}

/// Keeps what an ended life has written, in place of what the one before had.
pub(crate) async fn keep(processes: &process::Machine, of_machine: &Path) {
    let Ok(mut lines) = processes.output(Since::Kept) else {
        return;
    };
    let mut text = Vec::new();
    while let Some(line) = lines.next().await {
        text.extend_from_slice(line.text.as_bytes());
        text.push(b'\n');
    }
    let newest = text.len().saturating_sub(MAX_KEPT);
    // A log that cannot be kept stops no machine.
    let _ = tokio::fs::write(file(of_machine), text.get(newest..).unwrap_or_default()).await;
}

/// Lines on their way to a reader, as a body.
type Body = Pieces<std::convert::Infallible>;
type Sender = mpsc::Sender<Result<Bytes, std::convert::Infallible>>;

/// One machine whose lines are read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) handle: Handle,
    pub(crate) directory: PathBuf,
}

/// What machines have written, and what they write from now on where it is followed; and what has to run for that.
pub(crate) fn read(sources: Vec<Source>, follow: bool) -> (Body, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let all = async move {
        let mut tasks = tokio::task::JoinSet::new();
        for source in sources {
            tasks.spawn(source.send(follow, sender.clone()));
        }
        // Ends with the last of them, or once nobody reads.
        tokio::select! {
            () = sender.closed() => {}
            () = async { while tasks.join_next().await.is_some() {} } => {}
        }
    };
    (Pieces(receiver), all)
}

impl Source {
    async fn send(mut self, follow: bool, to: Sender) {
        let id = self.handle.now().id.clone();
        let line = |text: &str| Ok(Bytes::from(format!("{}\n", json!({"machine": id, "line": text}))));
        let before = tokio::fs::read(file(&self.directory)).await.unwrap_or_default();
        for text in String::from_utf8_lossy(&before).lines() {
            if to.send(line(text)).await.is_err() {
                return;
            }
        }
        loop {
            let life = self.handle.processes.borrow_and_update().clone();
            if let Some(mut lines) = life.as_ref().and_then(|life| life.output(Since::Kept).ok()) {
                let mut read = Reading::new(life.as_ref(), follow);
                while let Some(text) = read.next(&mut lines).await {
                    if to.send(line(&text)).await.is_err() {
                        return;
                    }
                }
            }
            if !follow || self.handle.processes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// How far lines are read: to the end, or to what is there.
struct Reading {
    to_the_end: bool,
}

/// How long the next line of what is there already may take.
const AT_HAND: std::time::Duration = std::time::Duration::from_millis(200);

impl Reading {
    fn new(life: Option<&Arc<process::Machine>>, follow: bool) -> Self {
        let has_ended = life.is_some_and(|life| matches!(life.state(), suijuris_vehicle::State::Exited(_)));
        Self {
            to_the_end: follow || has_ended,
        }
    }

    async fn next(&mut self, lines: &mut suijuris_vehicle::Lines) -> Option<String> {
        if self.to_the_end {
            return lines.next().await.map(|line| line.text);
        }
        tokio::time::timeout(AT_HAND, lines.next())
            .await
            .ok()
            .flatten()
            .map(|line| line.text)
    }
}
