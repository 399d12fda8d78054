//! Waiting for a directory to change: one thread with inotify, started by the first who waits.
//!
//! Where the system has no more watches to give, waiting is a short pause: callers look again anyway.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::oneshot;

/// Callers that wait at once at most: one for each object whose inbox a process follows.
const MAX_WAITING: usize = 100_000;

/// How long to wait where no watch can be had.
const WITHOUT_WATCH: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Waiter {
    until: Instant,
    /// `None`: only for the time.
    watch: Option<WatchDescriptor>,
    changed: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    inotify: Option<Inotify>,
    wake: EventFd,
    waiters: Mutex<(Vec<Waiter>, bool)>,
}

/// The thread and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Watcher(Mutex<Option<Arc<Shared>>>);

impl Watcher {
    /// Resolves when an entry of `directory` is made, moved or removed from now on, or after `at_most`.
    pub(crate) fn changed(&self, directory: &Path, at_most: Duration) -> oneshot::Receiver<()> {
        let (changed, wait) = oneshot::channel();
        // Dropping the sender resolves the wait: at once, where nothing else can be done.
        if let Some(shared) = self.shared() {
            shared.add(directory, at_most, changed);
        }
        wait
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            let shared = Arc::new(Shared {
                inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok(),
                wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok()?,
                waiters: Mutex::default(),
            });
            let theirs = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name("depot-watch".to_owned())
                .stack_size(256 << 10)
                .spawn(move || theirs.run());
            thread.ok()?;
            *slot = Some(shared);
        }
        slot.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let slot = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = slot.take() {
            shared.lock().1 = true;
            let _ = shared.wake.write(1);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Vec<Waiter>, bool)> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, directory: &Path, at_most: Duration, changed: oneshot::Sender<()>) {
        let mut waiters = self.lock();
        if waiters.0.len() >= MAX_WAITING {
            return;
        }
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let watch = self
            .inotify
            .as_ref()
            .and_then(|inotify| inotify.add_watch(directory, flags).ok());
        let wait = if watch.is_some() {
            at_most
        } else {
            at_most.min(WITHOUT_WATCH)
        };
        let now = Instant::now();
        let until = now
            .checked_add(wait)
            .unwrap_or_else(|| now + Duration::from_secs(3_600));
        waiters.0.push(Waiter {
            until,
            watch,
            changed,
        });
        drop(waiters);
        let _ = self.wake.write(1);
    }

    fn run(&self) {
        loop {
            let next = {
                let waiters = self.lock();
                if waiters.1 {
                    return;
                }
                waiters.0.iter().map(|waiter| waiter.until).min()
            };
            self.pause(next);
            let changed = self.events();
            let now = Instant::now();
            let mut waiters = self.lock();
            let over = |waiter: &mut Waiter| {
                waiter.until <= now
                    || waiter.changed.is_closed()
                    || waiter.watch.is_some_and(|watch| changed.contains(&watch))
            };
            let done: Vec<Waiter> = waiters.0.extract_if(.., over).collect();
            self.unwatch(&done, &waiters.0);
            drop(waiters);
            for waiter in done {
                let _ = waiter.changed.send(());
            }
        }
    }

    /// Until something happens or `next` has come.
    fn pause(&self, next: Option<Instant>) {
        let timeout = next.map_or(PollTimeout::NONE, |next| {
            let left = next.saturating_duration_since(Instant::now()).as_millis() + 1;
            i32::try_from(left)
                .ok()
                .and_then(|left| left.try_into().ok())
                .unwrap_or(PollTimeout::MAX)
        });
        let mut polled = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        polled.extend(
            self.inotify
                .iter()
                .map(|inotify| PollFd::new(inotify.as_fd(), PollFlags::POLLIN)),
        );
        let _ = poll(&mut polled, timeout);
        let _ = self.wake.read();
    }

    /// Watches in which something happened.
    fn events(&self) -> HashSet<WatchDescriptor> {
        let mut changed = HashSet::new();
        while let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) {
            changed.extend(events.into_iter().map(|event| event.wd));
        }
        changed
    }

    /// Removes the watches of `done` that nobody else waits for.
    fn unwatch(&self, done: &[Waiter], left: &[Waiter]) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let needed: HashSet<WatchDescriptor> = left.iter().filter_map(|waiter| waiter.watch).collect();
        for watch in done.iter().filter_map(|waiter| waiter.watch) {
            if !needed.contains(&watch) {
                // EINVAL: removed already, with its directory or for another of `done`.
                let _: Result<(), Errno> = inotify.rm_watch(watch);
            }
        }
    }
}
