//! Whether a raw connection that was admitted may go on: asked again whenever the control says so.
//!
//! Requests are judged one by one; a raw connection is judged once, at connect, and may live for days. So each change
//! of phase and each [`Control::ask_again`](crate::Control::ask_again) puts it before the authorizer anew: refused, it
//! is cut; held (a machine that was suspended decides whether to wake again), nothing of it moves.

use std::cell::{Cell, RefCell};

use crate::control::{Control, Phase};
use crate::forward::Origin;
use crate::gate::Shared;
use crate::{Admission, Authorizer};

/// What a raw connection may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionStatus {
    /// Bytes pass.
    Good,
    /// No verdict: bytes wait.
    Held,
    /// Cut it.
    Revoked,
}

/// Answers for one connection as long as it lives.
pub(crate) trait StatusSource {
    /// Looks whether something has changed; cheap where nothing has.
    fn status(&self) -> ConnectionStatus;
}

/// A connection that its authorizer can be asked about.
pub(crate) struct Reviewed<'x, A: Authorizer> {
    gate: &'x Shared<A>,
    origin: &'x Origin,
    /// The newest permit; held for as long as the connection lives.
    permit: RefCell<A::Permit>,
    asked: Cell<u64>,
    last: Cell<ConnectionStatus>,
}

impl<'x, A: Authorizer> Reviewed<'x, A> {
    /// A connection of `origin` that has just got `permit`.
    pub(crate) fn new(gate: &'x Shared<A>, origin: &'x Origin, permit: A::Permit) -> Self {
        Self {
            asked: Cell::new(gate.control.round()),
            gate,
            origin,
            permit: RefCell::new(permit),
            last: Cell::new(ConnectionStatus::Good),
        }
    }

    fn ask(&self) -> ConnectionStatus {
        match self.gate.control.phase() {
            Phase::Holding => ConnectionStatus::Held,
            // What was admitted may finish; the bound of draining cuts it.
            Phase::LastTurn | Phase::Draining | Phase::Closed => ConnectionStatus::Good,
            Phase::Open => match self.gate.connect(self.origin.peer()) {
                Admission::Forward(permit) => {
                    self.permit.replace(permit);
                    ConnectionStatus::Good
                }
                Admission::Hold => ConnectionStatus::Held,
                Admission::Refuse(_) | Admission::Later(_) | Admission::Answer(_) => {
                    ConnectionStatus::Revoked
                }
            },
        }
    }
}

impl<A: Authorizer> StatusSource for Reviewed<'_, A> {
    fn status(&self) -> ConnectionStatus {
        let round = self.gate.control.round();
        if self.asked.get() != round && self.last.get() != ConnectionStatus::Revoked {
            self.asked.set(round);
            self.last.set(self.ask());
        }
        self.last.get()
    }
}

/// A connection whose request was judged and cannot be shown again, as after an upgrade: it is only held.
pub(crate) struct Unreviewed<'x>(pub(crate) &'x Control);

impl StatusSource for Unreviewed<'_> {
    fn status(&self) -> ConnectionStatus {
        match self.0.phase() {
            Phase::Holding => ConnectionStatus::Held,
            _ => ConnectionStatus::Good,
        }
    }
}
