//! A depot that fails on demand, in front of any other: lost requests and answers, delays, no space, no permission.
//!
//! For the tests of this crate and of every crate that uses a depot; not part of the product (feature `testing`).

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use suijuris_core::ObjectId;
use suijuris_core::witness::{HolderId, Mark};
use tokio::sync::oneshot;

pub use crate::Call;
use crate::pass::Passes;
use crate::{Answer, Depot, Error, Marks, Presence, PresenceGuard, Swap, Version};

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request does not arrive: nothing happens, [`Error::Unreachable`].
    LostRequest,
    /// It happens, the answer does not arrive: [`Error::Unreachable`] all the same.
    LostAnswer,
    /// It happens after this time of the real clock.
    DelayBefore(Duration),
    /// It happens at once, the answer comes after this time of the real clock.
    DelayAfter(Duration),
    /// Never answered, and never happens.
    Silence,
    /// Writes are [`Error::ReadOnly`]; reads go through.
    ReadOnly,
    /// Writes are [`Error::Full`]; reads go through.
    Full,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<(Option<Call>, Fault)>,
    always: Option<Fault>,
    calls: Vec<Call>,
}

/// A depot with faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Depot>,
    script: Mutex<Script>,
}

impl Faulty {
    /// In front of `inner`, without faults so far.
    #[must_use]
    pub fn new(inner: Arc<dyn Depot>) -> Self {
        Self {
            inner,
            script: Mutex::default(),
        }
    }

    /// The next call, or the next one of the given method, fails so; later ones queue behind it.
    pub fn once(&self, call: Option<Call>, fault: Fault) {
        self.script().next.push_back((call, fault));
    }

    /// From now on every call for which [`Faulty::once`] has nothing fails so; `None` ends it.
    pub fn always(&self, fault: Option<Fault>) {
        self.script().always = fault;
    }

    /// Methods called so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, call: Call) -> Option<Fault> {
        let mut script = self.script();
        script.calls.push(call);
        let found = script
            .next
            .iter()
            .position(|(wanted, _)| wanted.is_none_or(|wanted| wanted == call));
        found
            .and_then(|at| script.next.remove(at))
            .map(|(_, fault)| fault)
            .or(script.always)
    }
}

impl Passes for Faulty {
    fn pass<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        run: impl FnOnce(&'a dyn Depot) -> Answer<'a, T> + Send + 'a,
    ) -> Answer<'a, T> {
        let fault = self.draw(call);
        let inner = &*self.inner;
        Box::pin(async move {
            let lost = || Error::Unreachable(inner.describe(), Some("a fault of the test".into()));
            match fault {
                None => run(inner).await,
                Some(Fault::LostRequest) => Err(lost()),
                Some(Fault::LostAnswer) => {
                    let _ = run(inner).await;
                    Err(lost())
                }
                Some(Fault::DelayBefore(time)) => {
                    after(time).await;
                    run(inner).await
                }
                Some(Fault::DelayAfter(time)) => {
                    let answer = run(inner).await;
                    after(time).await;
                    answer
                }
                Some(Fault::Silence) => pending().await,
                Some(Fault::ReadOnly) if call.writes() => Err(Error::ReadOnly(inner.describe(), None)),
                Some(Fault::Full) if call.writes() => Err(Error::Full(inner.describe())),
                Some(Fault::ReadOnly | Fault::Full) => run(inner).await,
            }
        })
    }
}

/// Resolves after `time` of the real clock, under any executor.
async fn after(time: Duration) {
    let (done, wait) = oneshot::channel::<()>();
    let _detached = std::thread::spawn(move || {
        std::thread::sleep(time);
        let _ = done.send(());
    });
    let _ = wait.await;
}

impl Depot for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn pace(&self) -> Duration {
        self.inner.pace()
    }

    fn presence_is_a_lock(&self) -> bool {
        self.inner.presence_is_a_lock()
    }
}

impl Marks for Faulty {
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>> {
        self.pass(Call::Mark, move |depot| depot.mark(object))
    }

    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap> {
        self.pass(Call::Swap, move |depot| depot.swap(mark, expected))
    }

    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        self.pass(Call::Register, move |depot| depot.register(object, holder))
    }

    fn rename(
        &self,
        object: ObjectId,
        former: HolderId,
        held: Arc<dyn PresenceGuard>,
        holder: HolderId,
    ) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        self.pass(Call::Rename, move |depot| {
            depot.rename(object, former, held, holder)
        })
    }

    fn share(
        &self,
        object: ObjectId,
        holder: HolderId,
        held: Arc<dyn PresenceGuard>,
    ) -> Answer<'_, Arc<dyn PresenceGuard>> {
        self.pass(Call::Share, move |depot| depot.share(object, holder, held))
    }

    fn part(
        &self,
        object: ObjectId,
        holder: HolderId,
        held: Arc<dyn PresenceGuard>,
    ) -> Answer<'_, Arc<dyn PresenceGuard>> {
        self.pass(Call::Part, move |depot| depot.part(object, holder, held))
    }

    fn is_own_write<'a>(&'a self, mark: &'a Mark) -> Answer<'a, bool> {
        self.pass(Call::IsOwnWrite, move |depot| depot.is_own_write(mark))
    }

    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence> {
        self.pass(Call::Presence, move |depot| depot.presence(object, holder))
    }
}
