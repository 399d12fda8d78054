//! What happens next in a world: by time, and in the order in which it was planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::chance::Ns;

/// Events that are to come.
pub(crate) struct Schedule<E> {
    queue: BinaryHeap<Reverse<(Ns, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    order: u64,
}

impl<E> Schedule<E> {
    pub(crate) const fn new() -> Self {
        Self {
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            order: 0,
        }
    }

    pub(crate) fn plan(&mut self, at: Ns, event: E) {
        self.order += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.queue.push(Reverse((at, self.order, place)));
    }

    /// The next event and its time; none at `end` or where nothing is to come.
    pub(crate) fn next(&mut self, end: Ns) -> Option<(Ns, E)> {
        let Reverse((at, _, place)) = self.queue.pop().filter(|Reverse((at, ..))| *at <= end)?;
        self.free.push(place);
        self.events[place].take().map(|event| (at, event))
    }

    /// Everything that is to come, in no order.
    pub(crate) fn planned(&self) -> impl Iterator<Item = (Ns, &E)> {
        self.queue
            .iter()
            .filter_map(|Reverse((at, _, place))| Some((*at, self.events.get(*place)?.as_ref()?)))
    }
}
