//! Server-sent events to one reader of the control API. What is on its way to a reader is bounded, and so are readers: who takes nothing
//! for a while loses its connection, and resumes where it was.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use suijuris_api::Problem;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::api::Answer;

/// Readers of a daemon at once at most; who asks something else has room beside them.
const MAX_READERS: usize = 64;

/// Events on their way to one reader, beside what its connection holds.
const AHEAD: usize = 2;

/// How long a reader may take nothing of what is there for it.
const STALLED_AFTER: Duration = Duration::from_secs(20);

/// Between two comments to a reader for whom there is nothing, so that it is found out who is gone.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Ends a client's connection.
pub(super) type Cut = Rc<Notify>;

/// Room for readers.
#[derive(Debug)]
pub(super) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_READERS)))
    }
}

impl Readers {
    /// A stream to one more reader: what it is answered, and where its events go.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn open(&self, cut: Cut) -> Result<(Answer, Outlet), Problem> {
        let room = self.0.clone().try_acquire_owned().map_err(|_full| {
            let mut problem = Problem::new(503, "not_now", "Too many readers follow this daemon");
            problem.detail = format!("{MAX_READERS} do: end one of them, or ask again later");
            problem.retry_after = Some(5);
            problem
        })?;
        let (to, events) = mpsc::channel(AHEAD);
        let mut answer = Response::new(Events { events, _room: room }.boxed_unsync());
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let outlet = Outlet {
            to,
            cut,
            stalled_after: STALLED_AFTER,
            sent: Cell::new(tokio::time::Instant::now()),
        };
        Ok((answer, outlet))
    }
}

/// The reader is gone, or takes nothing.
#[derive(Debug)]
pub(super) struct Gone;

/// The way to one reader.
#[derive(Debug)]
pub(super) struct Outlet {
    to: mpsc::Sender<Bytes>,
    cut: Cut,
    stalled_after: Duration,
    sent: Cell<tokio::time::Instant>,
}

impl Outlet {
    /// Sends an event with its number, which a reader resumes behind.
    pub(super) async fn event(&self, number: u64, text: &str) -> Result<(), Gone> {
        self.send(format!("id: {number}\ndata: {text}\n\n")).await
    }

    /// Says how many events the reader missed.
    pub(super) async fn missed(&self, events: u64) -> Result<(), Gone> {
        self.send(format!("event: missed\ndata: {{\"events\":{events}}}\n\n"))
            .await
    }

    /// Says that the stream lives, where it said nothing for long.
    pub(super) async fn alive(&self) -> Result<(), Gone> {
        if self.sent.get().elapsed() < ALIVE_EVERY {
            return Ok(());
        }
        self.send(": alive\n\n".to_owned()).await
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        let sent = tokio::time::timeout(self.stalled_after, self.to.send(text.into())).await;
        self.sent.set(tokio::time::Instant::now());
        match sent {
            Ok(sent) => sent.map_err(|_gone| Gone),
            Err(_stalled) => {
                // Its connection would stand as long as it likes.
                self.cut.notify_one();
                Err(Gone)
            }
        }
    }

    /// Waits until the next comment is due, or the reader is gone.
    pub(super) async fn idle(&self) -> Result<(), Gone> {
        tokio::select! {
            () = self.to.closed() => Err(Gone),
            () = tokio::time::sleep_until(self.sent.get() + ALIVE_EVERY) => self.alive().await,
        }
    }

    /// Waits until the reader is gone.
    pub(super) async fn gone(&self) {
        self.to.closed().await;
    }
}

/// A body of events.
struct Events {
    events: mpsc::Receiver<Bytes>,
    _room: OwnedSemaphorePermit,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.events
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_cut_and_readers_are_bounded() {
        let (readers, cut) = (Readers::default(), Cut::default());
        let (stalled, mut outlet) = readers.open(cut.clone()).unwrap();
        outlet.stalled_after = Duration::from_millis(1);
        for number in 0..AHEAD as u64 {
            outlet.event(number, "{}").await.unwrap();
        }
        assert!(outlet.event(9, "{}").await.is_err());
        cut.notified().await;
        let others: Vec<_> = (1..MAX_READERS)
            .map(|_| readers.open(Cut::default()).unwrap())
            .collect();
        assert_eq!(readers.open(Cut::default()).unwrap_err().status, 503);
        drop(stalled);
        let (answer, outlet) = readers.open(Cut::default()).unwrap();
        outlet.missed(3).await.unwrap();
        outlet.event(4, "{\"a\":1}").await.unwrap();
        drop(outlet);
        let read = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            read,
            "event: missed\ndata: {\"events\":3}\n\nid: 4\ndata: {\"a\":1}\n\n"
        );
        drop(others);
    }
}
