//! The streams of a machine's channel, the same at both ends: each carries bytes between the channel and a local socket or
//! pipe, under a window, so that one that nobody reads holds up no other.
//!
//! Whoever owns the channel writes what [`Session::new`] gives it and passes each frame that comes to [`Session::take`].

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

use crate::wire::{Frame, MAX_DATA, WINDOW};

/// Frames that wait to be written; tasks wait beyond.
const QUEUE: usize = 64;

/// The other end sends more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the machine's channel does not keep to its window")]
pub struct Violation;

/// The streams of one channel. Clones are the same.
#[derive(Debug, Clone)]
pub struct Session(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    out: mpsc::Sender<Vec<u8>>,
    streams: Mutex<HashMap<u32, Arc<Stream>>>,
}

/// One stream: what came for it, and how much of it may be sent.
#[derive(Debug)]
struct Stream {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    came: Vec<u8>,
    /// Nothing more comes.
    ended: bool,
    /// Broken off.
    cut: bool,
    credit: usize,
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something.
    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            // Before the look: what changes in between wakes it.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }
}

impl Session {
    /// A session, and what it wants written, in this order.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (out, wanted) = mpsc::channel(QUEUE);
        let streams = Mutex::default();
        (Self(Arc::new(Inside { out, streams })), wanted)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Arc<Stream>>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame, as soon as there is room. Whether anybody writes it is not told: an owner that has gone ends everything.
    pub async fn send(&self, frame: Frame) {
        let _ = self.0.out.send(frame.encode()).await;
    }

    /// Sends bytes that are no frame, by which the other end knows where to begin.
    pub async fn send_bytes(&self, bytes: Vec<u8>) {
        let _ = self.0.out.send(bytes).await;
    }

    /// Breaks off all streams here: whoever was at their other ends has gone.
    pub fn cut_all(&self) {
        for stream in self.streams().values() {
            stream.change(|state| state.cut = true);
        }
    }

    /// Begins a stream; what comes for it waits, within its window. It is there until `carry`, `carry_out` or
    /// `carry_in` ends.
    #[must_use]
    pub fn begin(&self, id: u32) -> StreamEnd {
        let stream = Arc::new(Stream {
            state: Mutex::new(State {
                came: Vec::new(),
                ended: false,
                cut: false,
                credit: WINDOW,
            }),
            changed: Notify::new(),
        });
        self.streams().insert(id, stream.clone());
        StreamEnd {
            session: self.clone(),
            id,
            stream,
        }
    }

    /// Takes a frame of a stream; any other is given back.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn take(&self, frame: Frame) -> Result<Option<Frame>, Violation> {
        // One that is over here may still be spoken of there.
        let find = |id: u32| self.streams().get(&id).cloned();
        match frame {
            Frame::Data(id, bytes) => {
                let Some(stream) = find(id) else { return Ok(None) };
                if stream.lock().came.len() + bytes.len() > WINDOW {
                    return Err(Violation);
                }
                stream.change(|state| state.came.extend_from_slice(&bytes));
            }
            Frame::End(id) => {
                if let Some(stream) = find(id) {
                    stream.change(|state| state.ended = true);
                }
            }
            Frame::Cut(id) => {
                if let Some(stream) = find(id) {
                    stream.change(|state| state.cut = true);
                }
            }
            Frame::Credit(id, bytes) => {
                if let Some(stream) = find(id) {
                    let credit = stream.lock().credit + usize::try_from(bytes).map_err(|_| Violation)?;
                    if credit > WINDOW {
                        return Err(Violation);
                    }
                    stream.change(|state| state.credit = credit);
                }
            }
            other @ (Frame::Words(_) | Frame::Open(_)) => return Ok(Some(other)),
        }
        Ok(None)
    }

    /// The channel is over: streams end once what came for them has been read.
    pub fn end(&self) {
        for stream in self.streams().values() {
            stream.change(|state| state.ended = true);
        }
    }

    /// Whether no stream is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.streams().is_empty()
    }
}

/// A stream that was begun. Dropped, it is over here.
#[derive(Debug)]
pub struct StreamEnd {
    session: Session,
    id: u32,
    stream: Arc<Stream>,
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.session.streams().remove(&self.id);
    }
}

impl StreamEnd {
    /// Carries bytes both ways until both have ended; what breaks one side cuts the other.
    pub async fn carry(self, socket: UnixStream) {
        let (reader, writer) = socket.into_split();
        let both = async { tokio::try_join!(self.outward(reader), self.inward(writer)) };
        let broken = tokio::select! {
            carried = both => carried.is_err(),
            () = self.cut() => false,
        };
        if broken {
            self.session.send(Frame::Cut(self.id)).await;
        }
    }

    /// Carries what `reader` gives to the other end.
    pub async fn carry_out(self, reader: impl AsyncRead + Unpin) {
        tokio::select! {
            _ = self.outward(reader) => {}
            () = self.cut() => {}
        }
    }

    /// Carries what the other end says to `writer`.
    pub async fn carry_in(self, writer: impl AsyncWrite + Unpin) {
        let broken = tokio::select! {
            carried = self.inward(writer) => carried.is_err(),
            () = self.cut() => false,
        };
        if broken {
            self.session.send(Frame::Cut(self.id)).await;
        }
    }

    /// Breaks it off: nobody is here for it.
    pub async fn cut_off(self) {
        self.session.send(Frame::Cut(self.id)).await;
    }

    async fn cut(&self) {
        self.stream.wait(|state| state.cut.then_some(())).await;
    }

    async fn outward(&self, mut reader: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut buffer = vec![0; MAX_DATA];
        loop {
            let credit = |state: &mut State| Some(state.credit).filter(|credit| *credit > 0);
            let room = self.stream.wait(credit).await.min(MAX_DATA);
            let read = reader.read(buffer.get_mut(..room).unwrap_or_default()).await?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            self.stream
                .change(|state| state.credit = state.credit.saturating_sub(read));
            self.session.send(Frame::Data(self.id, bytes.to_vec())).await;
        }
        self.session.send(Frame::End(self.id)).await;
        Ok(())
    }

    async fn inward(&self, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
        loop {
            let came = |state: &mut State| match (state.came.is_empty(), state.ended) {
                (false, _) => Some(std::mem::take(&mut state.came)),
                (true, true) => Some(Vec::new()),
                (true, false) => None,
            };
            let bytes = self.stream.wait(came).await;
            if bytes.is_empty() {
                return writer.shutdown().await;
            }
            writer.write_all(&bytes).await?;
            // At most a window.
            let credit = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.session.send(Frame::Credit(self.id, credit)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Decoder;

    /// Two sessions over a pipe in memory.
    fn pair(tasks: &mut tokio::task::JoinSet<()>) -> [Session; 2] {
        let (one, from_one) = Session::new();
        let (two, from_two) = Session::new();
        for (mut wanted, to) in [(from_one, two.clone()), (from_two, one.clone())] {
            tasks.spawn(async move {
                let mut decoder = Decoder::default();
                while let Some(bytes) = wanted.recv().await {
                    decoder.feed(&bytes);
                    while let Some(frame) = decoder.next_frame().unwrap() {
                        assert_eq!(to.take(frame).unwrap(), None);
                    }
                }
            });
        }
        [one, two]
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_stream_that_nobody_reads_holds_up_no_other() {
        let mut tasks = tokio::task::JoinSet::new();
        let [one, two] = pair(&mut tasks);
        let mut ends = Vec::new();
        for id in [16, 17] {
            let (near, inside) = UnixStream::pair().unwrap();
            let (far, outside) = UnixStream::pair().unwrap();
            tasks.spawn(one.begin(id).carry(inside));
            tasks.spawn(two.begin(id).carry(outside));
            ends.push((near, far));
        }
        let (mut near, mut far) = ends.pop().unwrap();
        let (stuck, _unread) = ends.pop().unwrap();
        // More than window and sockets hold.
        tasks.spawn(async move {
            let mut stuck = stuck;
            let _ = stuck.write_all(&vec![7; 4 << 20]).await;
        });
        let sent: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
        let copy = sent.clone();
        tasks.spawn(async move {
            near.write_all(&copy).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"thanks");
        });
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, sent);
        far.write_all(b"thanks").await.unwrap();
    }

    #[tokio::test]
    async fn more_than_the_window_is_a_violation() {
        let (session, _out) = Session::new();
        let _end = session.begin(16);
        for _ in 0..WINDOW / MAX_DATA {
            session.take(Frame::Data(16, vec![0; MAX_DATA])).unwrap();
        }
        assert_eq!(session.take(Frame::Data(16, vec![0])), Err(Violation));
        assert_eq!(session.take(Frame::Credit(16, 1)), Err(Violation));
        assert_eq!(session.take(Frame::Data(99, vec![0])), Ok(None));
    }
}
