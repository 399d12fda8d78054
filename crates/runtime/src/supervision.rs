//! Who runs this machine: the link to them, and the way in for whoever comes next where the machine may outlive them.
//!
//! The newest link that proves the secret of the activation counts. Who does not prove it in time disturbs nothing: what
//! was said before a proof is read by the link's decoder alone. Not here: what a supervisor asks (`boot/owner`), what it is
//! told (`report`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use suijuris_link::transport::Bytes;
use suijuris_link::{ActivationId, HEARTBEAT_EVERY, Nonce, RuntimeLink, Secret, ToRuntime};
use suijuris_sys::link::Inlet;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// How long whoever says to be a supervisor may take to prove it: two short messages each way.
const PROVE_WITHIN: Duration = Duration::from_secs(5);

/// How long the next supervisor waits for what the one before had asked: it may wait for what only the next one brings.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// How many may be proving themselves at one time; one more pushes the oldest out.
const MOST_PROVING: usize = 4;

/// A supervisor at the other end of a link. Dropped, the link is closed.
#[derive(Debug)]
pub(crate) struct Attached {
    /// What it is told and asks over.
    pub(crate) link: RuntimeLink,
    _tasks: JoinSet<()>,
}

impl Attached {
    /// Over a link whose bytes `tasks` moves; from now on it is told that this runtime lives.
    pub(crate) fn new(link: RuntimeLink, mut tasks: JoinSet<()>) -> Self {
        tasks.spawn_local(beat(link.clone()));
        Self { link, _tasks: tasks }
    }
}

/// Says again and again that this runtime's event loop turns.
async fn beat(link: RuntimeLink) {
    let mut beats = tokio::time::interval(HEARTBEAT_EVERY);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 1.. {
        beats.tick().await;
        link.beat(number);
    }
}

/// What both ends of an activation know.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) activation: ActivationId,
    pub(crate) secret: Secret,
}

/// The supervisor as those hear it who do what it asks.
#[derive(Debug)]
pub(crate) struct Supervision {
    link: RuntimeLink,
    successors: Option<Successors>,
}

impl Supervision {
    pub(crate) const fn new(link: RuntimeLink, successors: Option<Successors>) -> Self {
        Self { link, successors }
    }

    /// The link that counts, or the last one that did.
    pub(crate) const fn link(&self) -> &RuntimeLink {
        &self.link
    }

    /// Whether the machine goes on when nobody is at the other end.
    pub(crate) const fn is_outlived(&self) -> bool {
        self.successors.is_some()
    }

    /// What the supervisor says next; none when it is gone and all that it said was taken, or the next one has waited long
    /// enough. `replaced` is called when that one has proved itself and is to close the link. Cancel safe.
    pub(crate) async fn receive(&self, replaced: impl Fn()) -> Option<ToRuntime<OwnedFd>> {
        let mut is_replaced = false;
        loop {
            tokio::select! {
                biased;
                () = arrived(self.successors.as_ref()), if !is_replaced => {
                    is_replaced = true;
                    replaced();
                }
                () = self.pressed() => return None,
                message = self.link.receive() => return message.ok().flatten(),
            }
        }
    }

    /// From here on this is the activation: whoever comes proves its secret.
    pub(crate) fn become_activation(&self, identity: Identity) {
        if let Some(successors) = &self.successors {
            successors.identity.replace(identity);
        }
    }

    /// Whether another supervisor waits.
    pub(crate) fn has_successor(&self) -> bool {
        let waits = |successors: &Successors| successors.arrivals.newest.borrow().is_some();
        self.successors.as_ref().is_some_and(waits)
    }

    /// Resolves when the next supervisor has waited for as long as it may have to. Cancel safe.
    pub(crate) async fn pressed(&self) {
        arrived(self.successors.as_ref()).await;
        if let Some(successors) = &self.successors
            && let Some(since) = successors.arrivals.since.get()
        {
            tokio::time::sleep_until(since + FINISH_WITHIN).await;
        }
    }

    /// The next supervisor, whose link counts from now on; none where nobody can come any more. Cancel safe.
    pub(crate) async fn successor(&mut self) -> Option<Attached> {
        let successor = self.successors.as_ref()?.next().await?;
        self.link = successor.link.clone();
        Some(successor)
    }
}

async fn arrived(successors: Option<&Successors>) {
    match successors {
        Some(successors) => {
            let somebody = |arrivals: &Arrivals| arrivals.newest.borrow().is_some();
            successors.arrivals.wait(somebody).await;
        }
        None => std::future::pending().await,
    }
}

/// Where later supervisors come in.
#[derive(Debug)]
pub(crate) struct Successors {
    arrivals: Rc<Arrivals>,
    identity: Rc<RefCell<Identity>>,
    _admitting: JoinSet<()>,
}

/// The one who proved itself last, until somebody asks.
#[derive(Debug, Default)]
struct Arrivals {
    newest: RefCell<Option<Attached>>,
    /// When the first came whom nobody has asked for yet.
    since: Cell<Option<Instant>>,
    /// Nobody comes any more.
    over: Cell<bool>,
    changed: Notify,
}

impl Arrivals {
    fn put(&self, attached: Attached) {
        if self.newest.replace(Some(attached)).is_none() {
            self.since.set(Some(Instant::now()));
        }
        self.changed.notify_waiters();
    }

    fn end(&self) {
        self.over.set(true);
        self.changed.notify_waiters();
    }

    async fn wait(&self, until: impl Fn(&Self) -> bool) {
        loop {
            // Before the look: what changes in between wakes it.
            let changed = self.changed.notified();
            if until(self) {
                return;
            }
            changed.await;
        }
    }
}

impl Successors {
    /// Lets in, over the inherited `inlet`, whoever proves to know this activation's secret. Whether descriptors come along is as it was
    /// with the first.
    pub(crate) fn new(inlet: Inlet, identity: Identity, passes_descriptors: bool) -> Self {
        let arrivals: Rc<Arrivals> = Rc::default();
        let mut admitting = JoinSet::new();
        let identity = Rc::new(RefCell::new(identity));
        admitting.spawn_local(admit(
            inlet,
            identity.clone(),
            passes_descriptors,
            arrivals.clone(),
        ));
        Self {
            identity,
            arrivals,
            _admitting: admitting,
        }
    }

    async fn next(&self) -> Option<Attached> {
        let somebody = |arrivals: &Arrivals| arrivals.newest.borrow().is_some() || arrivals.over.get();
        self.arrivals.wait(somebody).await;
        self.arrivals.newest.take()
    }
}

async fn admit(
    inlet: Inlet,
    identity: Rc<RefCell<Identity>>,
    passes_descriptors: bool,
    arrivals: Rc<Arrivals>,
) {
    let mut proofs = JoinSet::new();
    let mut proving: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            came = inlet.accept() => match came {
                Ok(Some(socket)) => {
                    proving.retain(|proof| !proof.is_finished());
                    if proving.len() >= MOST_PROVING && let Some(oldest) = proving.pop_front() {
                        oldest.abort();
                    }
                    proving.push_back(proofs.spawn_local(prove(socket, identity.borrow().clone(), passes_descriptors)));
                    // Whoever is quick is heard before the next one can push it out.
                    tokio::task::yield_now().await;
                }
                // Not a link.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => break,
            },
            Some(proved) = proofs.join_next() => {
                if let Ok(Some(attached)) = proved {
                    arrivals.put(attached);
                }
            }
        }
    }
    while let Some(proved) = proofs.join_next().await {
        if let Ok(Some(attached)) = proved {
            arrivals.put(attached);
        }
    }
    arrivals.end();
}

/// A supervisor, if it proves within [`PROVE_WITHIN`] that it is one.
async fn prove(
    socket: std::os::unix::net::UnixStream,
    identity: Identity,
    passes_descriptors: bool,
) -> Option<Attached> {
    socket.set_nonblocking(true).ok()?;
    let socket = UnixStream::from_std(socket).ok()?;
    let nonce = Nonce::fresh().ok()?;
    let Identity { activation, secret } = identity;
    let (link, driver) = match passes_descriptors {
        true => RuntimeLink::attach(socket, activation, secret, nonce),
        false => RuntimeLink::attach(Bytes(socket), activation, secret, nonce),
    };
    let mut tasks = JoinSet::new();
    // How it ended is for whoever receives.
    tasks.spawn_local(async { drop(driver.await) });
    tokio::time::timeout(PROVE_WITHIN, link.established())
        .await
        .ok()?
        .ok()?;
    Some(Attached::new(link, tasks))
}
