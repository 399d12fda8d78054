//! Connections on their way to the runtime: each is kept until the gate has taken it, so that whoever was handed over
//! to a machine that ended first is answered here or decided about again. Nobody is lost between two processes.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_link::ToRuntime;
use suijuris_link::message::Carrier;
use suijuris_link::mux::QueueError;

use crate::up::door::Visitor;

use super::{House, Stay};

/// Machines that a visitor is handed over to at most; one that ends each time is not tried for ever.
const MAX_MACHINES: u8 = 3;

/// Time for those who are being turned away when `up` ends.
const SHUT_DOWN_WITHIN: Duration = Duration::from_secs(1);

impl House {
    /// Hands a visitor over to the running machine, and keeps it until its gate has taken it.
    pub(super) async fn hand_over(&mut self, mut visitor: Visitor) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            self.turn_away(visitor, ended());
            return Ok(());
        };
        visitor.machines += 1;
        let id = awake.number();
        let message = ToRuntime::Connection {
            id,
            carrier: Carrier::Descriptor(visitor.socket.as_fd().try_clone_to_owned()?),
            read: visitor.said().into(),
        };
        match awake.running.link.queue(message) {
            Err(QueueError::TooLarge { .. }) => {
                let problem = Problem::new(431, "head_too_large", "The request head is too large");
                self.turn_away(
                    visitor,
                    problem.with_detail("send fewer or shorter header fields"),
                );
            }
            Err(QueueError::Full) => {
                let problem = Problem::new(503, "held_full", "Too many requests wait for the object");
                self.turn_away(visitor, problem.with_detail("ask again in a moment"));
            }
            // A runtime that has just left has not taken it either: the end of its machine follows.
            Ok(()) | Err(_) => drop(awake.handed.insert(id, visitor)),
        }
        Ok(())
    }

    /// Answers a visitor that it goes no further, without keeping others waiting.
    pub(super) fn turn_away(&mut self, visitor: Visitor, problem: Problem) {
        self.turned_away.spawn_local(visitor.refuse(problem));
    }

    /// Visitors that the running machine has not taken.
    pub(super) fn take_handed(&mut self) -> BTreeMap<u64, Visitor> {
        match &mut self.stay {
            Stay::Awake(awake) => std::mem::take(&mut awake.handed),
            _ => BTreeMap::new(),
        }
    }

    /// The machine ended, or was frozen, with these visitors not taken: they are told what everybody there was told, or their
    /// proposals are decided again.
    pub(super) async fn redirect(
        &mut self,
        handed: BTreeMap<u64, Visitor>,
        problem: Option<Box<Problem>>,
    ) -> anyhow::Result<()> {
        for visitor in handed.into_values() {
            match &problem {
                Some(problem) => self.turn_away(visitor, (**problem).clone()),
                None if self.ending || visitor.machines >= MAX_MACHINES => self.turn_away(visitor, ended()),
                None => Box::pin(self.visitor(visitor)).await?,
            }
        }
        Ok(())
    }

    /// Lets those who are being turned away read their answers.
    pub(super) async fn shut_down(&mut self) {
        let turned_away = &mut self.turned_away;
        let out = async { while turned_away.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SHUT_DOWN_WITHIN, out).await;
    }
}

fn ended() -> Problem {
    Problem::new(503, "machine_failed", "The machine ended")
        .with_detail("the machine ended, or was frozen, before it took the request: ask again")
}
