//! Waiting until a staged record is durable, by blocking or as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use suijuris_core::id::RecordId;

use crate::writer::{CommitError, Shared};

/// How long the committing thread waits for more to commit.
const IDLE: Duration = Duration::from_secs(2);

/// How far commits have come. Whoever waits and finds nobody at it commits for all.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    state: Mutex<Durable>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Durable {
    /// Positions below this are durable and published.
    below: u64,
    /// Records that the last commit made durable.
    group: u64,
    poisoned: Option<CommitError>,
    leading: bool,
    wanted: bool,
    closed: bool,
    /// The committing thread runs.
    serving: bool,
    wakers: Vec<(u64, Waker)>,
}

impl Durable {
    fn answer(&self, seq: u64) -> Option<Result<(), CommitError>> {
        if seq < self.below {
            return Some(Ok(()));
        }
        self.poisoned.clone().map(Err)
    }
}

impl Progress {
    pub(crate) fn starting(below: u64) -> Self {
        let state = Durable {
            below,
            ..Durable::default()
        };
        Self {
            state: Mutex::new(state),
            moved: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Durable> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, Durable>) -> MutexGuard<'a, Durable> {
        self.moved.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything below `below` is durable and published. Whoever led is free to, so that those who wait are woken once:
    /// to their answer, or to lead in turn.
    pub(crate) fn advance(&self, below: u64) {
        let mut state = self.lock();
        state.group = below.saturating_sub(state.below);
        state.below = below;
        state.leading = false;
        self.tell(state);
    }

    pub(crate) fn poison(&self, error: CommitError) {
        let mut state = self.lock();
        state.poisoned.get_or_insert(error);
        self.tell(state);
    }

    pub(crate) fn check(&self) -> Result<(), CommitError> {
        self.lock().poisoned.clone().map_or(Ok(()), Err)
    }

    /// Ends [`Progress::serve`].
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.tell(state);
    }

    fn tell(&self, mut state: MutexGuard<'_, Durable>) {
        let (all, below) = (state.poisoned.is_some() || state.closed, state.below);
        let ready: Vec<_> = state
            .wakers
            .extract_if(.., |(seq, _)| all || *seq < below)
            .collect();
        drop(state);
        self.moved.notify_all();
        ready.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn lead(&self, mut state: MutexGuard<'_, Durable>, shared: &Shared) {
        state.leading = true;
        let crowd = state.group > 1;
        drop(state);
        if crowd {
            // Those whose records the last commit made durable together have just been woken with us: let them stage
            // first, or the first to run commits alone and the others wait for two syncs.
            std::thread::yield_now();
        }
        if !shared.commit() {
            let mut state = self.lock();
            state.leading = false;
            drop(state);
            self.moved.notify_all();
        }
    }

    fn block(&self, seq: u64, shared: &Shared) -> Result<(), CommitError> {
        loop {
            let state = self.lock();
            if let Some(answer) = state.answer(seq) {
                return answer;
            }
            if state.leading {
                drop(self.wait(state));
            } else {
                self.lead(state, shared);
            }
        }
    }

    fn poll(&self, seq: u64, waker: &Waker) -> Poll<Result<(), CommitError>> {
        let mut state = self.lock();
        if let Some(answer) = state.answer(seq) {
            return Poll::Ready(answer);
        }
        match state
            .wakers
            .iter_mut()
            .find(|(at, old)| *at == seq && old.will_wake(waker))
        {
            Some(_) => {}
            None => state.wakers.push((seq, waker.clone())),
        }
        state.wanted = true;
        drop(state);
        self.moved.notify_all();
        Poll::Pending
    }

    /// Whether the committing thread is to be started: it does not run.
    pub(crate) fn begins_to_serve(&self) -> bool {
        !std::mem::replace(&mut self.lock().serving, true)
    }

    /// The committing thread could not be started.
    pub(crate) fn does_not_serve(&self) {
        self.lock().serving = false;
    }

    /// Commits for those who poll, until closed, or until nobody has for a while: the body of the committing thread. A
    /// process may have thousands of objects, of which few write.
    pub(crate) fn serve(&self, shared: &Shared) {
        loop {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            if state.leading || !state.wanted {
                let waited = self.moved.wait_timeout(state, IDLE);
                let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                if timeout.timed_out() && !state.wanted {
                    state.serving = false;
                    return;
                }
            } else {
                state.wanted = false;
                self.lead(state, shared);
            }
        }
    }
}

/// A staged record on its way to the disk. It gets there whether or not anybody waits, with the next group at the
/// latest when the writer is closed.
///
/// As a future it is cancel safe: dropping it gives up the waiting, not the record.
#[derive(Debug)]
#[must_use = "a record is durable only once its ticket says so"]
pub struct Ticket {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: RecordId,
    pub(crate) seq: u64,
}

impl Ticket {
    /// The record.
    #[must_use]
    pub const fn id(&self) -> RecordId {
        self.id
    }

    /// Its position.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Blocks until the record is durable and published. The caller commits itself if nobody else is at it, so that
    /// one alone waits for nobody.
    ///
    /// # Errors
    /// [`CommitError`]: the record may or may not be found at the next opening.
    pub fn wait(&self) -> Result<(), CommitError> {
        self.shared.progress.block(self.seq, &self.shared)
    }
}

impl Future for Ticket {
    type Output = Result<(), CommitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.shared.progress.poll(self.seq, context.waker()) {
            Poll::Pending => match Shared::serve(&self.shared) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
            ready @ Poll::Ready(_) => ready,
        }
    }
}
