//! Reports of what happens, to whoever owns the machine; without one, as JSON lines on standard error.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::rc::Rc;

use serde_json::{Value, json};
use suijuris_api::control::Reply;
use suijuris_api::event::Stamped;
use suijuris_api::{Event, Problem};
use suijuris_link::ToSupervisor;
use suijuris_link::message::{How, Json};
use tokio::sync::mpsc;

use suijuris_custody::chain;
use suijuris_custody::clock::Clock;

/// Reports that wait for the owner at most; further ones are dropped and counted, since nobody reads.
const WAITING: usize = 4_096;

/// Where reports go. Clones go to the same place.
#[derive(Debug, Clone)]
pub struct Reports {
    to: Option<mpsc::Sender<ToSupervisor>>,
    clock: Rc<Clock>,
    dropped: Rc<RefCell<u64>>,
    /// How often the machine was resumed.
    generation: Rc<Cell<u64>>,
}

impl Reports {
    /// Reports for an owner, and the queue that a task sends from.
    #[must_use]
    pub fn to_owner(clock: Rc<Clock>) -> (Self, mpsc::Receiver<ToSupervisor>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (
            Self {
                to: Some(sender),
                clock,
                dropped: Rc::default(),
                generation: Rc::default(),
            },
            receiver,
        )
    }

    /// Reports on standard error, for a machine that nobody listens to.
    #[must_use]
    pub fn to_stderr(clock: Rc<Clock>) -> Self {
        Self {
            to: None,
            clock,
            dropped: Rc::default(),
            generation: Rc::default(),
        }
    }

    /// The machine was resumed, for the so-and-so-many-th time; whether it was not known yet.
    pub fn resumed(&self, generation: u64) -> bool {
        self.generation.replace(self.generation.get().max(generation)) < generation
    }

    /// Reports an event.
    pub fn event(&self, event: Event) {
        let at = self.clock.reading().wall.to_string();
        self.send(ToSupervisor::Event(Box::new(Json(Stamped { at, event }))));
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
            Some(to) => {
                if to.try_send(message).is_err() {
                    *self.dropped.borrow_mut() += 1;
                }
            }
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
