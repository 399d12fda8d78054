//! One reader's watch over an inbox, which misses nothing: it begins to wait, then looks, then waits on.
//!
//! A reader that looks and then asks to be told of changes misses what comes between the two. Called by whoever reads an
//! inbox again and again: the runtime, `up`.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use suijuris_core::ObjectId;

use crate::{Depot, Error, Waiting};

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

    /// Waiting messages, oldest first, as [`Depot::inbox`]. What comes from now on is told by [`InboxWatch::changed`].
    ///
    /// # Errors
    /// As [`Depot::inbox`].
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
    /// As [`Depot::inbox_changed`]; whether anything has changed is unknown then.
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
