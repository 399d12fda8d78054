//! The events of all objects, for whoever follows them: a ring that each reader reads at its own pace. A reader that is too
//! slow misses events, and is told how many.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use suijuris_api::daemon::ObjectEvent;
use suijuris_api::event::Stamped;
use tokio::sync::{mpsc, watch};

use super::api::Answer;
use crate::events::{EventSink, Origin};

/// Events that are kept for readers.
const KEPT: usize = 4_096;

/// Events on their way to one reader.
const AHEAD: usize = 16;

/// The feed of a daemon, in front of another sink. Clones are the same feed.
#[derive(Clone)]
pub struct Feed {
    kept: Rc<RefCell<VecDeque<Rc<str>>>>,
    /// Number of the next event; the first is 1.
    next: watch::Sender<u64>,
    beside: Rc<dyn EventSink>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// An event as readers get it.
#[must_use]
pub fn object_event(origin: &Origin, event: Stamped) -> ObjectEvent {
    ObjectEvent {
        object: origin.object.to_string(),
        name: origin.name.clone(),
        class: origin.instance.as_ref().map(|(class, _)| class.clone()),
        key: origin.instance.as_ref().map(|(_, key)| key.clone()),
        event,
    }
}

impl EventSink for Feed {
    fn event(&self, origin: &Origin, event: Stamped) {
        let text = serde_json::to_string(&object_event(origin, event.clone())).unwrap_or_default();
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(text.into());
        drop(kept);
        self.next.send_modify(|next| *next += 1);
        self.beside.event(origin, event);
    }
}

impl Feed {
    /// A feed that tells `beside` too.
    #[must_use]
    pub fn new(beside: Rc<dyn EventSink>) -> Self {
        Self {
            kept: Rc::default(),
            next: watch::Sender::new(1),
            beside,
        }
    }

    /// The events after number `after`, or from now on, until `over` resolves.
    pub(super) fn stream(&self, after: Option<u64>, over: impl Future<Output = ()> + 'static) -> Answer {
        let (sender, events) = mpsc::channel(AHEAD);
        let (feed, next) = (self.clone(), self.next.subscribe());
        let from = after.map_or_else(|| *next.borrow(), |after| after.saturating_add(1));
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = feed.send(from, next, sender) => {}
                () = over => {}
            }
        });
        let mut answer = Response::new(Events(events).boxed_unsync());
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    async fn send(self, mut from: u64, mut next: watch::Receiver<u64>, to: mpsc::Sender<Bytes>) {
        loop {
            let (number, text) = {
                let end = *next.borrow_and_update();
                let kept = self.kept.borrow();
                let oldest = end.saturating_sub(u64::try_from(kept.len()).unwrap_or(0));
                if from < oldest {
                    // It was too slow, or comes back late.
                    let missed = oldest - from;
                    (
                        oldest - 1,
                        Some(format!("event: missed\ndata: {{\"events\":{missed}}}\n\n")),
                    )
                } else {
                    let at = usize::try_from(from - oldest).unwrap_or(usize::MAX);
                    let text = kept.get(at).map(|text| format!("id: {from}\ndata: {text}\n\n"));
                    (from, text)
                }
            };
            match text {
                Some(text) => {
                    from = number + 1;
                    if to.send(text.into()).await.is_err() {
                        return;
                    }
                }
                None => {
                    tokio::select! {
                        changed = next.changed() => if changed.is_err() { return },
                        () = to.closed() => return,
                    }
                }
            }
        }
    }
}

/// A body of events.
struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
