//! Server-sent events to those who listen on the agent socket.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

/// Events that a slow listener may lag behind; then it is cut and reads again.
const LAG: usize = 256;

/// Listeners at most.
const MAX_LISTENERS: usize = 32;

/// Sends events to all listeners.
#[derive(Debug, Clone, Default)]
pub struct Feed(Rc<RefCell<Vec<mpsc::Sender<Bytes>>>>);

impl Feed {
    /// Sends one event; a listener that does not keep up is cut off.
    pub fn send(&self, event: &str, data: &impl serde::Serialize) {
        let Ok(data) = serde_json::to_string(data) else {
            return;
        };
        let bytes = Bytes::from(format!("event: {event}\ndata: {data}\n\n"));
        self.0
            .borrow_mut()
            .retain(|listener| listener.try_send(bytes.clone()).is_ok());
    }

    /// A new listener's body; `None` where there are too many. `first` is sent at once.
    pub(super) fn listen(&self, first: Option<Bytes>) -> Option<Events> {
        let mut listeners = self.0.borrow_mut();
        listeners.retain(|listener| !listener.is_closed());
        if listeners.len() >= MAX_LISTENERS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(LAG);
        listeners.push(sender);
        Some(Events { first, receiver })
    }
}

/// Body of a stream of events.
pub(super) struct Events {
    first: Option<Bytes>,
    receiver: mpsc::Receiver<Bytes>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.receiver
            .poll_recv(context)
            .map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}
