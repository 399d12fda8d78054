//! The machine's port, outside: what comes is taken apart, what is wanted is written, across several runs of the emulator.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use suijuris_guest::session::Session;
use suijuris_guest::wire::{Copied, Decoder, Finder, Frame, Mark, Now, Order, Report, words};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Reports that wait to be heard at most.
const REPORTS: usize = 16;

/// Bytes read at a time.
const CHUNK: usize = 32 << 10;

/// How long an emulator that ends may take to give what the machine said last.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);

/// Whether anything but a pause may be said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Open,
    Paused,
    /// Open again; this is said first.
    Resumed(Box<Now>),
    /// The same, to a machine that begins as a copy.
    Copied(Box<Copied>),
}

/// The port. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Channel {
    session: Session,
    wanted: Arc<tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>>,
    decoder: Arc<Mutex<Decoder>>,
    mode: watch::Sender<Mode>,
    heard: mpsc::Sender<Report>,
    /// What the machine reports.
    reports: mpsc::Receiver<Report>,
    reading: JoinSet<()>,
    writing: JoinSet<()>,
}

impl Channel {
    pub(super) fn new() -> Self {
        let (session, wanted) = Session::new();
        let (heard, reports) = mpsc::channel(REPORTS);
        Self {
            session,
            wanted: Arc::new(tokio::sync::Mutex::new(wanted)),
            decoder: Arc::default(),
            mode: watch::channel(Mode::Open).0,
            heard,
            reports,
            reading: JoinSet::new(),
            writing: JoinSet::new(),
        }
    }

    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    /// Goes on over this socket.
    pub(super) fn connect(&mut self, socket: StdStream) -> io::Result<()> {
        self.go_on(socket, None)
    }

    /// Goes on over this socket with a machine that spoke with another driver: what either said to that is of the past.
    pub(super) fn connect_again(&mut self, socket: StdStream, mark: Mark) -> io::Result<()> {
        self.go_on(socket, Some(mark))
    }

    fn go_on(&mut self, socket: StdStream, mark: Option<Mark>) -> io::Result<()> {
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let (decoder, session, heard) = (self.decoder.clone(), self.session.clone(), self.heard.clone());
        self.reading
            .spawn(async move { read(reader, &decoder, &session, &heard, mark).await });
        let (wanted, mode) = (self.wanted.clone(), self.mode.subscribe());
        // One that fails is told by the emulator's end.
        self.writing
            .spawn(async move { drop(write(writer, &wanted, mode, mark).await) });
        Ok(())
    }

    /// The next report. Cancel safe.
    pub(super) async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// Asks the machine to be ready for its suspension, and says nothing more.
    pub(super) fn pause(&self) {
        self.mode.send_replace(Mode::Paused);
    }

    /// What is said from now on is this, and then whatever waits.
    pub(super) fn resume(&self, now: Now) {
        self.mode.send_replace(Mode::Resumed(Box::new(now)));
    }

    /// What is said first is this, and then whatever waits.
    pub(super) fn begin_copy(&self, copied: Copied) {
        self.mode.send_replace(Mode::Copied(Box::new(copied)));
    }

    /// The emulator has ended: takes in what it said last, and lets go of it.
    pub(super) async fn disconnect(&mut self) {
        let last = async { while self.reading.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS_WITHIN, last).await;
        self.reading.shutdown().await;
        self.writing.shutdown().await;
    }
}

async fn read(
    mut reader: OwnedReadHalf,
    decoder: &Mutex<Decoder>,
    session: &Session,
    heard: &mpsc::Sender<Report>,
    mut mark: Option<Mark>,
) {
    let (mut buffer, mut finder) = (vec![0; CHUNK], Finder::default());
    while let Ok(read @ 1..) = reader.read(&mut buffer).await {
        let mut bytes = buffer.get(..read).unwrap_or_default();
        if let Some(awaited) = &mark {
            match finder.after(awaited, bytes) {
                Some(after) => (bytes, mark) = (after, None),
                None => continue,
            }
        }
        let mut reports = Vec::new();
        {
            let mut decoder = decoder.lock().unwrap_or_else(PoisonError::into_inner);
            decoder.feed(bytes);
            loop {
                let frame = match decoder.next_frame() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(_not_a_frame) => return,
                };
                match session.take(frame) {
                    Ok(Some(Frame::Words(words))) => match serde_json::from_slice(&words) {
                        Ok(report) => reports.push(report),
                        Err(_nonsense) => return,
                    },
                    Ok(_) => {}
                    Err(_violation) => return,
                }
            }
        }
        for report in reports {
            if heard.send(report).await.is_err() {
                return;
            }
        }
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    wanted: &tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>,
    mut mode: watch::Receiver<Mode>,
    mark: Option<Mark>,
) -> io::Result<()> {
    let mut wanted = wanted.lock().await;
    if let Some(mark) = mark {
        writer.write_all(mark.bytes()).await?;
    }
    // What is said first over this socket, where the machine goes on.
    mode.mark_changed();
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            changed = mode.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = mode.borrow_and_update().clone();
                let order = match now {
                    Mode::Open => { open = true; continue }
                    Mode::Paused => { open = false; Order::Pause }
                    Mode::Resumed(now) => { open = true; Order::Resumed(*now) }
                    Mode::Copied(copied) => { open = true; Order::Copied(copied) }
                };
                let frame = words(&order).map_err(io::Error::other)?;
                writer.write_all(&frame.encode()).await?;
            }
            bytes = wanted.recv(), if open => match bytes {
                Some(bytes) => writer.write_all(&bytes).await?,
                None => return Ok(()),
            },
        }
    }
}
