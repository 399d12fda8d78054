//! The events of all objects, for whoever follows them: a ring that each reader reads at its own pace. A reader that is too
//! slow misses events, and is told how many.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use suijuris_api::daemon::ObjectEvent;
use suijuris_api::event::Stamped;
use tokio::sync::watch;

use super::stream::Outlet;
use crate::events::{EventSink, Origin};

/// Events that are kept for readers.
const KEPT: usize = 4_096;

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

    /// Tells the events after number `after`, or from now on, until the reader is gone.
    pub(super) async fn tell(self, after: Option<u64>, to: Outlet) -> Option<()> {
        let mut next = self.next.subscribe();
        let mut from = after.map_or_else(|| *next.borrow(), |after| after.saturating_add(1));
        loop {
            let (oldest, text) = {
                let end = *next.borrow_and_update();
                let kept = self.kept.borrow();
                let oldest = end.saturating_sub(u64::try_from(kept.len()).unwrap_or(0));
                let at = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
                (oldest, kept.get(at).cloned())
            };
            if from < oldest {
                // It was too slow, or comes back late.
                to.missed(oldest - from).await.ok()?;
                from = oldest;
                continue;
            }
            match text {
                Some(text) => {
                    to.event(from, &text).await.ok()?;
                    from += 1;
                }
                None => {
                    tokio::select! {
                        changed = next.changed() => changed.ok()?,
                        idle = to.idle() => idle.ok()?,
                    }
                }
            }
        }
    }
}
