//! The life of one resident object as a pure state machine.
//!
//! ```text
//!            wake permitted        committed, ready        remain refused / sleep permitted
//!  Dormant ────────────────▶ Waking ─────────────▶ Active ─────────────────────────────▶ Draining
//!     ▲  ▲                     │                     │ ▲                                     │
//!     │  └─── workload failed ─┘       clock jumped  ▼ │ wake permitted again                │ drained,
//!     │                                            Resuming                                  │ workload gone
//!     └───────────────────────────────────────── Settling ◀──────────────────────────────────┘
//!                   dormancy is durable; a machine that is suspended, not stopped, keeps its workload
//! ```
//! [`Lifecycle::on`] takes an event and returns the next state and the effects that a shell performs, in order. What
//! needs a decision carries the [`Permit`] of it, so that no path changes state without one; the two exceptions are
//! named in the events: the workload ended, and the host stops the machine (which is found at the next boot). Each
//! state owns exactly its own data. Who calls: the runtime.

use crate::decide::Permit;
use crate::governance::Action;
use crate::lineage::{Decision, Outcome};
use crate::manifest::SleepMode;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// `wake` (while dormant or resuming), or `sleep` or `terminate` (while active) was permitted.
    Permitted(Permit, Box<Decision>),
    /// `wake` was refused.
    WakeRefused(Box<Decision>),
    /// `remain` was refused.
    RemainRefused(Box<Decision>),
    /// The last [`Effect::Commit`] is durable.
    Durable,
    /// The workload can serve.
    Ready,
    /// The workload ended, in these words; or could not be started.
    WorkloadEnded(String, Box<Decision>),
    /// No request is in flight, or the drain took as long as it may.
    Drained,
    /// The clocks disagree: the machine was suspended and runs again.
    Resumed,
    /// The host asks the machine to stop. No decision of the object's: nothing but a seal is recorded.
    HostStops,
}

/// What a shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Commit this to lineage and say [`Event::Durable`].
    Commit(Commit),
    /// Start the workload and say [`Event::Ready`] or [`Event::WorkloadEnded`].
    SpawnWorkload,
    /// Forward traffic.
    OpenGate,
    /// Hold traffic until the next word.
    HoldGate,
    /// Answer what is held, and what comes, with this refusal.
    RefuseGate(Box<Decision>),
    /// Let requests in flight finish and say [`Event::Drained`].
    DrainGate,
    /// Ask the workload to stop, then make it, and say [`Event::WorkloadEnded`].
    StopWorkload,
    /// Tell those who listen on the agent socket.
    Tell(Notice),
    /// Ask for the machine to be suspended; what follows is [`Event::Resumed`].
    Suspend,
    /// Decide `wake` again, for the machine that was suspended.
    DecideAgain,
    /// Leave: the machine is no longer needed, in this way.
    Leave(Leave),
}

/// What to commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Commit {
    /// `woke`.
    Woke(Box<Decision>),
    /// `resumed`.
    Resumed(Box<Decision>),
    /// `refused`.
    Refused(Box<Decision>),
    /// `dormant`, with what became of the workload.
    Dormant(Box<Decision>, String),
    /// `terminated`, in place of it.
    Terminated(Box<Decision>),
    /// `seal`.
    Seal,
}

/// What listeners on the agent socket are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// An activation began.
    Woke,
    /// It began again.
    Resumed,
    /// It is about to end.
    Draining,
}

/// How the runtime leaves its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Dormant: stop the machine.
    Stop,
    /// Refused: stop after the linger.
    Refused,
    /// The host asked.
    HostStop,
}

/// Why an activation ends.
#[derive(Debug)]
struct Ending {
    decision: Box<Decision>,
    workload: Option<String>,
    drained: bool,
}

/// The state of a resident object.
#[derive(Debug)]
pub struct Lifecycle {
    sleep: SleepMode,
    state: State,
}

#[derive(Debug)]
enum State {
    Dormant,
    /// `woke` is being made durable.
    Committing,
    /// The workload starts.
    Starting,
    Active,
    /// Suspended and running again; nothing is forwarded until it is decided. Lineage says dormant where the object
    /// had announced it, and active where nobody had asked it.
    Resuming {
        announced: bool,
    },
    /// `resumed` is being made durable.
    Reviving,
    Draining(Ending),
    /// `dormant` is being made durable; whether the workload lives on, suspended.
    Settling {
        suspend: bool,
    },
    /// Dormant in a machine that is suspended.
    Suspended,
    /// A seal is being made durable because the host stops the machine.
    Sealing,
    /// The runtime has nothing more to do.
    Left,
}

/// Phase of a [`Lifecycle`], for people and the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asleep: nothing was decided yet.
    Dormant,
    /// Waking: decided, not yet serving.
    Waking,
    /// Serving.
    Active,
    /// Suspended, running again, not yet decided.
    Resuming,
    /// Ending.
    Draining,
    /// Dormant in a suspended machine.
    Suspended,
    /// Ended.
    Left,
}

impl Lifecycle {
    /// A machine that has just booted, whose object sleeps in this way.
    #[must_use]
    pub const fn dormant(sleep: SleepMode) -> Self {
        Self {
            sleep,
            state: State::Dormant,
        }
    }

    /// The same, with another end of its next sleep: whoever would suspend the machine is not there.
    #[must_use]
    pub fn sleeping(self, sleep: SleepMode) -> Self {
        Self { sleep, ..self }
    }

    /// The phase.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self.state {
            State::Dormant => Phase::Dormant,
            State::Committing | State::Starting => Phase::Waking,
            State::Active => Phase::Active,
            State::Resuming { .. } | State::Reviving => Phase::Resuming,
            State::Draining(_) | State::Settling { .. } | State::Sealing => Phase::Draining,
            State::Suspended => Phase::Suspended,
            State::Left => Phase::Left,
        }
    }

    /// The next state and what to do. Events that mean nothing in a state change nothing: a shell's tasks may race.
    #[must_use]
    pub fn on(self, event: Event) -> (Self, Vec<Effect>) {
        let sleep = self.sleep;
        let (state, effects) = match event {
            Event::Permitted(permit, decision) => permitted(self.state, &permit, decision),
            Event::WakeRefused(decision) => wake_refused(self.state, decision),
            Event::RemainRefused(decision) => match self.state {
                State::Active => drain(decision, None),
                other => (other, vec![]),
            },
            Event::Durable => durable(self.state),
            Event::Ready => match self.state {
                State::Starting => (State::Active, vec![Effect::OpenGate]),
                other => (other, vec![]),
            },
            Event::WorkloadEnded(how, decision) => workload_ended(self.state, how, decision),
            Event::Drained => drained(self.state, sleep),
            Event::Resumed => resumed(self.state),
            Event::HostStops => host_stops(self.state),
        };
        (Self { sleep, state }, effects)
    }
}

fn permitted(state: State, permit: &Permit, decision: Box<Decision>) -> (State, Vec<Effect>) {
    match (state, permit.action()) {
        (State::Dormant, Action::Wake) => (State::Committing, vec![Effect::Commit(Commit::Woke(decision))]),
        (State::Resuming { .. }, Action::Wake) => {
            (State::Reviving, vec![Effect::Commit(Commit::Resumed(decision))])
        }
        (State::Active | State::Starting, Action::Sleep | Action::Terminate) => drain(decision, None),
        // It falls asleep already: it ends instead.
        (State::Draining(ending), Action::Terminate) => {
            (State::Draining(Ending { decision, ..ending }), vec![])
        }
        (other, _) => (other, vec![]),
    }
}

fn wake_refused(state: State, decision: Box<Decision>) -> (State, Vec<Effect>) {
    match state {
        State::Dormant => {
            let refuse = Effect::RefuseGate(decision.clone());
            (
                State::Left,
                vec![
                    refuse,
                    Effect::Commit(Commit::Refused(decision)),
                    Effect::Leave(Leave::Refused),
                ],
            )
        }
        // The workload holds the state of before the pause: it may not see another byte, so nothing is drained.
        State::Resuming { announced: true } => {
            let refuse = Effect::RefuseGate(decision.clone());
            let commit = Effect::Commit(Commit::Refused(decision));
            (
                State::Left,
                vec![
                    refuse,
                    Effect::StopWorkload,
                    commit,
                    Effect::Leave(Leave::Refused),
                ],
            )
        }
        State::Resuming { announced: false } => {
            let refuse = Effect::RefuseGate(decision.clone());
            let ending = Ending {
                decision,
                workload: None,
                drained: true,
            };
            (State::Draining(ending), vec![refuse, Effect::StopWorkload])
        }
        other => (other, vec![]),
    }
}

fn drain(decision: Box<Decision>, workload: Option<String>) -> (State, Vec<Effect>) {
    let ending = Ending {
        decision,
        workload,
        drained: false,
    };
    (
        State::Draining(ending),
        vec![Effect::Tell(Notice::Draining), Effect::DrainGate],
    )
}

fn durable(state: State) -> (State, Vec<Effect>) {
    match state {
        State::Committing => (
            State::Starting,
            vec![Effect::Tell(Notice::Woke), Effect::SpawnWorkload],
        ),
        State::Reviving => (
            State::Active,
            vec![Effect::Tell(Notice::Resumed), Effect::OpenGate],
        ),
        State::Settling { suspend: true } => (State::Suspended, vec![Effect::HoldGate, Effect::Suspend]),
        State::Settling { suspend: false } => (State::Left, vec![Effect::Leave(Leave::Stop)]),
        State::Sealing => (State::Left, vec![Effect::Leave(Leave::HostStop)]),
        other => (other, vec![]),
    }
}

fn commit_dormancy(decision: Box<Decision>, how: String) -> (State, Vec<Effect>) {
    let commit = if ends(&decision) {
        Commit::Terminated(decision)
    } else {
        Commit::Dormant(decision, how)
    };
    (State::Settling { suspend: false }, vec![Effect::Commit(commit)])
}

/// Whether this decision ends not the activation alone, but the object.
fn ends(decision: &Decision) -> bool {
    decision.action == Action::Terminate && decision.outcome == Outcome::Permit
}

fn workload_ended(state: State, how: String, decision: Box<Decision>) -> (State, Vec<Effect>) {
    match state {
        State::Starting => {
            let (state, mut effects) = commit_dormancy(decision.clone(), how);
            effects.insert(0, Effect::RefuseGate(decision));
            (state, effects)
        }
        State::Active | State::Resuming { announced: false } | State::Reviving => drain(decision, Some(how)),
        State::Draining(ending) if ending.drained => commit_dormancy(ending.decision, how),
        State::Draining(ending) => (
            State::Draining(Ending {
                workload: Some(how),
                ..ending
            }),
            vec![],
        ),
        State::Sealing => (State::Sealing, vec![Effect::Commit(Commit::Seal)]),
        State::Suspended | State::Resuming { announced: true } => {
            (State::Left, vec![Effect::Leave(Leave::Stop)])
        }
        other => (other, vec![]),
    }
}

fn drained(state: State, sleep: SleepMode) -> (State, Vec<Effect>) {
    match state {
        State::Draining(Ending {
            decision,
            workload: None,
            drained: false,
        }) if sleep == SleepMode::Suspend && !ends(&decision) => {
            let commit = Effect::Commit(Commit::Dormant(decision, "suspended".to_owned()));
            (State::Settling { suspend: true }, vec![commit])
        }
        State::Draining(Ending {
            decision,
            workload: Some(how),
            ..
        }) => commit_dormancy(decision, how),
        State::Draining(ending) if !ending.drained => (
            State::Draining(Ending {
                drained: true,
                ..ending
            }),
            vec![Effect::StopWorkload],
        ),
        other => (other, vec![]),
    }
}

fn resumed(state: State) -> (State, Vec<Effect>) {
    let announced = match state {
        State::Active => false,
        State::Suspended => true,
        other => return (other, vec![]),
    };
    (
        State::Resuming { announced },
        vec![Effect::HoldGate, Effect::DecideAgain],
    )
}

fn host_stops(state: State) -> (State, Vec<Effect>) {
    match state {
        State::Dormant => (State::Left, vec![Effect::Leave(Leave::HostStop)]),
        State::Suspended => (
            State::Left,
            vec![Effect::StopWorkload, Effect::Leave(Leave::HostStop)],
        ),
        State::Starting | State::Active | State::Resuming { .. } => (
            State::Sealing,
            vec![
                Effect::Tell(Notice::Draining),
                Effect::DrainGate,
                Effect::StopWorkload,
            ],
        ),
        // Already on the way out by the object's own decision, or within one commit of a state that answers.
        other => (other, vec![]),
    }
}
