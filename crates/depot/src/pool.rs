//! A few threads for work that blocks, so that no caller's event loop waits for a disk. Under any executor.
//!
//! Threads start when there is work and end when there has been none for a while. Called by the local directory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::{Answer, Error};

/// Threads at most: a disk that syncs gains nothing from more.
const THREADS: usize = 4;

/// Operations that wait for a thread at most.
const WAITING: usize = 1_024;

/// How long a thread waits for more work.
const IDLE: Duration = Duration::from_secs(5);

/// Enough for every operation, with room; the default of 2 MiB would show in small machines.
const STACK_BYTES: usize = 512 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

/// The threads. Dropping it lets them finish what is queued.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    name: String,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// No thread yet; `name` is what errors call the depot.
    pub(crate) fn new(name: String) -> Self {
        Self {
            shared: Arc::default(),
            name,
        }
    }

    /// Runs `work` on a thread, from now on: whether or not the answer is waited for.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T> {
        let (done, answer) = oneshot::channel();
        let job = Box::new(move || {
            let _ = done.send(work());
        });
        let name = self.name.clone();
        let queued = self.enqueue(job);
        Box::pin(async move {
            queued?;
            let lost = |_| Error::Unreachable(name, Some("the operation was cut off".into()));
            answer.await.map_err(lost)?
        })
    }

    fn enqueue(&self, job: Job) -> Result<(), Error> {
        let busy = |why: String| Error::Unreachable(self.name.clone(), Some(why.into()));
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= WAITING {
            return Err(busy(format!("{WAITING} operations are waiting already")));
        }
        if queue.jobs.len() >= queue.idle && queue.threads < THREADS {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new()
                .name("depot".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || shared.work());
            match thread {
                Ok(_detached) => queue.threads += 1,
                Err(_) if queue.threads > 0 => {}
                Err(error) => return Err(busy(format!("no thread: {error}"))),
            }
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.more.notify_one();
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A panic answers the one who waits (its sender is dropped) and leaves the thread to others.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                queue = self.lock();
                continue;
            }
            if queue.closed {
                break;
            }
            queue.idle += 1;
            let (back, waited) = self
                .more
                .wait_timeout(queue, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            queue = back;
            queue.idle -= 1;
            if waited.timed_out() && queue.jobs.is_empty() {
                break;
            }
        }
        queue.threads -= 1;
    }
}
