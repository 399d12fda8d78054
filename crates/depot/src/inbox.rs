//! Messages that wait for objects, and a reader's watch over one inbox, which misses nothing.
//!
//! A reader that looks and then asks to be told of changes misses what comes between the two. [`InboxWatch`] begins to wait,
//! then looks, then waits on; whoever reads an inbox again and again uses it: the runtime, `up`.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::message::{Message, MessageKey};

use crate::{Answer, Depot, Error};

/// Bytes of messages that one look into an inbox returns at most, if it is more than one message.
pub const MAX_READ: usize = 8 << 20;

/// Messages that wait for one object at most.
pub const MAX_WAITING: usize = 10_000;

/// A message and its place in the inbox: later ones have greater places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Orders messages of one object; opaque, at most 64 bytes, printable.
    pub place: String,
    /// The message.
    pub message: Message,
}

/// The outcome of posting a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is stored durably.
    Stored,
    /// A message with the same source and id was accepted before; nothing was changed.
    Duplicate,
}

/// Messages that wait for objects.
pub trait Inbox: fmt::Debug + Send + Sync {
    /// Stores a message for `object`, once.
    fn post<'a>(&'a self, object: ObjectId, message: &'a Message) -> Answer<'a, Posted>;

    /// Waiting messages of `object`, oldest first, at most `limit` and about [`MAX_READ`] bytes.
    fn inbox(&self, object: ObjectId, limit: usize) -> Answer<'_, Vec<Waiting>>;

    /// Takes messages out of the inbox for good; their keys are remembered, so that duplicates stay dropped. Keys that are
    /// not there are no error.
    fn acknowledge<'a>(&'a self, object: ObjectId, messages: &'a [MessageKey]) -> Answer<'a, ()>;

    /// Resolves when the inbox of `object` may have changed since this was first polled, or after `at_most`. Whoever looks
    /// and then waits misses what comes between: poll this, look, then await it, which [`InboxWatch`] does. Nothing more is
    /// asked of the backend for an answer that was dropped.
    fn inbox_changed(&self, object: ObjectId, at_most: Duration) -> Answer<'_, ()>;
}

/// The inbox of one object, as one reader follows it.
pub struct InboxWatch {
    depot: Arc<dyn Depot>,
    object: ObjectId,
    at_most: Duration,
    /// Begun before the last look; none where there was no look, or it was told already.
    changed: Option<Begun<'static, Result<(), Error>>>,
}

impl fmt::Debug for InboxWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxWatch")
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}

impl InboxWatch {
    /// Watches the inbox of `object`. Nothing is asked before the first look; a wait lasts `at_most` so long.
    #[must_use]
    pub fn new(depot: Arc<dyn Depot>, object: ObjectId, at_most: Duration) -> Self {
        Self {
            depot,
            object,
            at_most,
            changed: None,
        }
    }

    /// Waiting messages, oldest first, as [`Inbox::inbox`]. What comes from now on is told by [`InboxWatch::changed`].
    ///
    /// # Errors
    /// As [`Inbox::inbox`].
    pub async fn look(&mut self, limit: usize) -> Result<Vec<Waiting>, Error> {
        let (depot, object, at_most) = (Arc::clone(&self.depot), self.object, self.at_most);
        let changed = Box::pin(async move { depot.inbox_changed(object, at_most).await });
        self.changed = Some(begin(changed).await);
        self.depot.inbox(self.object, limit).await
    }

    /// Resolves when the inbox may have changed since the last look began, or the time is over; at once before the first
    /// look, and where it has told so already. Cancel safe.
    ///
    /// # Errors
    /// As [`Inbox::inbox_changed`]; whether anything has changed is unknown then.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let Some(changed) = &mut self.changed else {
            return Ok(());
        };
        let told = changed.await;
        self.changed = None;
        told
    }
}

/// Something asked, that is answered some time later.
type Asked<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What was asked once already, and is perhaps answered.
pub(crate) enum Begun<'a, T> {
    Under(Asked<'a, T>),
    Over(Option<T>),
}

/// Polls what is asked once, which begins it.
pub(crate) async fn begin<T>(mut asked: Asked<'_, T>) -> Begun<'_, T> {
    let early = poll_fn(|context| {
        Poll::Ready(match asked.as_mut().poll(context) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        })
    });
    match early.await {
        Some(over) => Begun::Over(Some(over)),
        None => Begun::Under(asked),
    }
}

impl<T: Unpin> Future for Begun<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.get_mut() {
            Self::Under(asked) => asked.as_mut().poll(context),
            // Polled after its end: as of any future, nothing comes any more.
            Self::Over(over) => over.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}
