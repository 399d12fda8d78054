//! Reports of what happens, to whoever owns the machine; without one, as JSON lines on standard error.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;

use suijuris_api::control::{FromRuntime, Reply};
use suijuris_api::event::Stamped;
use suijuris_api::{Event, Problem};
use tokio::sync::mpsc;

use suijuris_custody::chain;
use suijuris_custody::clock::Clock;

/// Reports that wait for the owner at most; further ones are dropped and counted, since nobody reads.
const WAITING: usize = 4_096;

/// Where reports go. Clones go to the same place.
#[derive(Debug, Clone)]
pub struct Reports {
    to: Option<mpsc::Sender<FromRuntime>>,
    clock: Rc<Clock>,
    dropped: Rc<RefCell<u64>>,
}

impl Reports {
    /// Reports for an owner, and the queue that a task sends from.
    #[must_use]
    pub fn to_owner(clock: Rc<Clock>) -> (Self, mpsc::Receiver<FromRuntime>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (
            Self {
                to: Some(sender),
                clock,
                dropped: Rc::default(),
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
        }
    }

    /// Reports an event.
    pub fn event(&self, event: Event) {
        let at = self.clock.reading().wall.to_string();
        self.send(FromRuntime::Event(Stamped { at, event }));
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
        self.send(FromRuntime::Reply { id, reply });
    }

    /// Says that the runtime leaves, and what its gate answered where it refused everybody.
    pub fn leaving(&self, how: &str, problem: Option<Problem>) {
        let (how, problem) = (how.to_owned(), problem.map(Box::new));
        self.send(FromRuntime::Leaving { how, problem });
    }

    fn send(&self, message: FromRuntime) {
        match &self.to {
            Some(to) => {
                if to.try_send(message).is_err() {
                    *self.dropped.borrow_mut() += 1;
                }
            }
            None => {
                let mut line = serde_json::to_vec(&message).unwrap_or_default();
                line.push(b'\n');
                // Nobody to tell when standard error is gone.
                let _ = std::io::stderr().write_all(&line);
            }
        }
    }
}
