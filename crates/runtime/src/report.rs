//! Reports of what happens, to whoever owns the machine; without one, as JSON lines on standard error.
//!
//! While nobody is at the other end of the link the newest are kept for whoever comes next. Answers are for whoever asked.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::rc::Rc;

use serde_json::{Value, json};
use suijuris_api::access::{Access, Detail};
use suijuris_api::control::Reply;
use suijuris_api::event::Stamped;
use suijuris_api::{Event, Problem};
use suijuris_core::time::Timestamp;
use suijuris_link::message::{How, Json};
use suijuris_link::{RuntimeLink, Secret, ToSupervisor};
use tokio::sync::Notify;

use crate::resident::platform::Platform;
use crate::supervision::Attached;
use suijuris_custody::chain;
use suijuris_custody::clock::Clock;

/// Reports that wait for the owner at most: one more pushes the oldest out.
const WAITING: usize = 4_096;

/// Reports that wait for the owner while requests are still told.
const WAITING_WITH_REQUESTS: usize = WAITING / 2;

/// Where reports go. Clones go to the same place.
#[derive(Debug, Clone)]
pub struct Reports {
    to: Option<Rc<Outbox>>,
    clock: Rc<Clock>,
    /// How often the machine was resumed.
    generation: Rc<Cell<u64>>,
    /// What is told of each request.
    requests: Rc<Cell<Option<Detail>>>,
    /// What carries a machine that nobody else sees to, where it can be asked.
    platform: Option<Option<Rc<Platform>>>,
}

/// What waits to be said over the link, and the link.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: RefCell<VecDeque<ToSupervisor>>,
    attached: RefCell<Option<Attached>>,
    /// How many owners there were before this one.
    turn: Cell<u64>,
    /// Nothing follows.
    closed: Cell<bool>,
    changed: Notify,
    /// The holds in force, if they changed since they were told.
    holds: RefCell<Option<BTreeMap<String, u64>>>,
    /// Requests that were not told since the last that was.
    lost: Cell<u64>,
}

impl Outbox {
    /// Sends what waits, until it is closed and all has left. Run it as a task.
    pub(crate) async fn send(self: Rc<Self>) {
        loop {
            match (self.link(), self.closed.get()) {
                (Some(link), closed) => match self.next() {
                    Some(message) => {
                        let turn = self.turn.get();
                        // One that is gone takes nothing with it but what was on its way.
                        if link.send(message).await.is_err() && self.turn.get() == turn {
                            self.attached.replace(None);
                        }
                    }
                    None if closed => return link.flushed().await,
                    None => self.changed.notified().await,
                },
                (None, true) => return,
                (None, false) => self.changed.notified().await,
            }
        }
    }

    fn link(&self) -> Option<RuntimeLink> {
        let attached = self.attached.borrow();
        attached.as_ref().map(|attached| attached.link.clone())
    }

    fn next(&self) -> Option<ToSupervisor> {
        let holds = self.holds.take().map(|left| ToSupervisor::Holds { left });
        holds.or_else(|| self.waiting.borrow_mut().pop_front())
    }

    /// Tells of a request, unless so much waits that it would push out what happened.
    fn put_request(&self, mut access: Access) {
        if self.waiting.borrow().len() >= WAITING_WITH_REQUESTS {
            return self.lost.set(self.lost.get().saturating_add(1));
        }
        access.lost = self.lost.take();
        self.put(ToSupervisor::Request(Box::new(Json(access))));
    }

    fn put(&self, message: ToSupervisor) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING {
            waiting.pop_front();
        }
        waiting.push_back(message);
        drop(waiting);
        self.changed.notify_one();
    }
}

impl Reports {
    /// Reports for an owner, and what a task sends them from.
    #[must_use]
    pub(crate) fn to_owner(clock: Rc<Clock>, owner: Attached) -> (Self, Rc<Outbox>) {
        let outbox = Rc::new(Outbox::default());
        outbox.attached.replace(Some(owner));
        let reports = Self {
            to: Some(outbox.clone()),
            clock,
            generation: Rc::default(),
            requests: Rc::default(),
            platform: None,
        };
        (reports, outbox)
    }

    /// Reports on standard error, for a machine that nobody listens to.
    #[must_use]
    pub fn to_stderr(clock: Rc<Clock>) -> Self {
        Self {
            to: None,
            clock,
            generation: Rc::default(),
            requests: Rc::default(),
            platform: None,
        }
    }

    /// From now on this owner hears what happens. What was reported while nobody was there comes first; answers to what
    /// another one asked do not.
    pub(crate) fn attach(&self, owner: Attached) {
        if let Some(outbox) = &self.to {
            let mut waiting = outbox.waiting.borrow_mut();
            waiting.retain(|message| !matches!(message, ToSupervisor::Reply { .. }));
            drop(waiting);
            outbox.turn.set(outbox.turn.get() + 1);
            outbox.attached.replace(Some(owner));
            outbox.changed.notify_one();
        }
    }

    /// The owner is gone, or is to go: its link is closed.
    pub(crate) fn detach(&self) {
        if let Some(outbox) = &self.to {
            outbox.attached.replace(None);
        }
    }

    /// Lets go of the owner, for the one who reports from here on.
    pub(crate) fn take_owner(&self) -> Option<Attached> {
        self.to.as_ref().and_then(|outbox| outbox.attached.take())
    }

    /// The link to the owner of now.
    pub(crate) fn link(&self) -> Option<RuntimeLink> {
        self.to.as_ref().and_then(|outbox| outbox.link())
    }

    /// Of a machine that carries its object by itself, on this platform where it can be asked.
    #[must_use]
    pub(crate) fn on(self, platform: Option<Platform>) -> Self {
        Self {
            platform: Some(platform.map(Rc::new)),
            ..self
        }
    }

    /// What carries a machine that nobody else sees to, where it can be asked.
    #[must_use]
    pub(crate) fn platform(&self) -> Option<Rc<Platform>> {
        self.platform.clone().flatten()
    }

    /// Whether anybody is there who could see to the machine once it sleeps. Whoever reads standard error is, and so is a
    /// platform that can be asked.
    #[must_use]
    pub fn is_attended(&self) -> bool {
        match (&self.to, &self.platform) {
            (Some(outbox), _) => outbox.attached.borrow().is_some(),
            (None, Some(platform)) => platform.is_some(),
            (None, None) => true,
        }
    }

    /// The time as the machine's clock has it.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.reading().wall
    }

    /// Nothing more is reported.
    pub(crate) fn close(&self) {
        if let Some(outbox) = &self.to {
            outbox.closed.set(true);
            outbox.changed.notify_one();
        }
    }

    /// The machine was resumed, for the so-and-so-many-th time; whether it was not known yet.
    pub fn resumed(&self, generation: u64) -> bool {
        self.generation.replace(self.generation.get().max(generation)) < generation
    }

    /// How often the machine was resumed.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Reports an event.
    pub fn event(&self, event: Event) {
        let at = self.clock.reading().wall.to_string();
        self.send(ToSupervisor::Event(Box::new(Json(Stamped { at, event }))));
    }

    /// From now on so much is told of each request.
    pub(crate) fn tell_requests(&self, detail: Option<Detail>) {
        self.requests.set(detail);
    }

    /// What is told of each request, where it is.
    pub(crate) fn requests(&self) -> Option<Detail> {
        self.requests.get().filter(|_| self.to.is_some())
    }

    /// Tells which holds are in force, and for how many milliseconds; only the newest is told where they change often.
    pub(crate) fn holds(&self, left: BTreeMap<String, u64>) {
        if let Some(outbox) = &self.to {
            outbox.holds.replace(Some(left));
            outbox.changed.notify_one();
        }
    }

    /// Tells that a caller's request ended.
    pub(crate) fn request(&self, mut access: Access) {
        if let Some(outbox) = &self.to {
            access.at = self.now().to_string();
            outbox.put_request(access);
        }
    }

    /// Reports that something is wrong.
    pub fn error(&self, code: &str, error: &dyn std::error::Error) {
        self.event(Event::Error {
            code: code.to_owned(),
            message: chain(error),
        });
    }

    /// Answers a request of the owner.
    pub fn reply(&self, id: u64, reply: Reply) {
        let reply = Box::new(Json(reply));
        self.send(ToSupervisor::Reply { id, reply });
    }

    /// Gives the object's waiting key to the owner, to be kept.
    pub(crate) fn give_key(&self, seed: &[u8; 32]) {
        let seed = Secret::from_bytes(*seed);
        self.send(ToSupervisor::Key { seed });
    }

    /// Says that the runtime leaves, and what its gate answered where it refused everybody.
    pub fn leaving(&self, how: How, problem: Option<Problem>) {
        let problem = problem.map(|problem| Box::new(Json(problem)));
        self.send(ToSupervisor::Leaving {
            how,
            generation: self.generation.get(),
            problem,
        });
    }

    fn send(&self, message: ToSupervisor) {
        match &self.to {
            Some(outbox) => outbox.put(message),
            None => {
                let mut line = line(&message).to_string().into_bytes();
                line.push(b'\n');
                // Nobody to tell when standard error is gone.
                let _ = std::io::stderr().write_all(&line);
            }
        }
    }
}

/// A report as a line for whoever reads standard error; nobody asks there, so that nothing else is said.
fn line(message: &ToSupervisor) -> Value {
    match message {
        ToSupervisor::Event(event) => json!({ "event": event.0 }),
        ToSupervisor::Leaving { how, problem, .. } => match problem {
            Some(problem) => json!({ "leaving": { "how": how, "problem": problem.0 } }),
            None => json!({ "leaving": { "how": how } }),
        },
        _ => Value::Null,
    }
}
