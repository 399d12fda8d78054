//! What others ask of an object beside proposals by strangers: each request is accepted, queued, ignored or denied at
//! once, and one that is queued is answered later, once.
//!
//! [`judge`] is the table; [`Queue`] keeps who waits. Nothing is performed here. Who calls: the actor of the object, with
//! each request and after each transition.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Activation, HostStop, Phase, Run};
use crate::witness::Mono;

/// The caller's number for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An owner wakes the object.
    Wake,
    /// The object is asked to fall asleep.
    Sleep,
    /// The object is asked to fall asleep in a machine that is suspended.
    Suspend,
    /// The host stops the object for good.
    Stop,
    /// Memory is written.
    Write,
    /// A new definition is proposed.
    Amend,
    /// The end is proposed.
    Terminate,
    /// How is it?
    Status,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Wake,
        Self::Sleep,
        Self::Suspend,
        Self::Stop,
        Self::Write,
        Self::Amend,
        Self::Terminate,
        Self::Status,
    ];

    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wake => "wake",
            Self::Sleep => "sleep",
            Self::Suspend => "suspend",
            Self::Stop => "stop",
            Self::Write => "write",
            Self::Amend => "amend",
            Self::Terminate => "terminate",
            Self::Status => "status",
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done now, in this way.
    Accept(Way),
    /// It waits; meanwhile this has to be done, once.
    Queue(Meanwhile),
    /// It is so already, or is about to be.
    Ignore,
    /// It cannot be done.
    Deny(Denial),
}

/// How an accepted request is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Where the door decides, it does; then [`Event::Proposed`](super::Event::Proposed), by an owner. The answer to the
    /// proposal is the answer to the request.
    Propose,
    /// By [`Event::Stop`](super::Event::Stop).
    Stop,
    /// By custody: the store is ours.
    AtRest,
    /// The runtime is asked. Say [`Queue::answered`] when it has replied.
    Runtime(Run),
    /// From what is known.
    Answer,
}

/// What has to be done while a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing.
    Nothing,
    /// A suspended machine holds the store: an owner's wake is proposed to the door, and where it refuses, the machine is
    /// given up ([`Event::GiveUp`](super::Event::GiveUp)).
    Unlock,
    /// A suspended machine runs under the old definition, or is not needed any more: it is given up.
    GiveUp,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denial {
    /// It needs the object at rest.
    #[error("the object is awake: put it to sleep first")]
    Awake,
    /// It needs the object awake.
    #[error("the object is falling asleep: wake it first")]
    FallsAsleep,
    /// It needs a machine.
    #[error("the object is not running: wake it first")]
    NotRunning,
    /// The host stops the object.
    #[error("the host is stopping this object: start it again first")]
    Stopping,
    /// This copy is not the object.
    #[error("another copy holds the object: ask that one")]
    NotTheObject,
    /// Too many requests wait.
    #[error("too many requests are waiting for this object: try again later")]
    Full,
    /// It waited too long.
    #[error("the object did not get ready in time: try again later")]
    Late,
    /// The machine ended, or did not reply in time; what was asked may have been done.
    #[error("the machine did not answer: check whether it was done before you try again")]
    Unanswered,
}

/// What becomes of a request of this kind in this phase.
#[must_use]
pub const fn judge(kind: Kind, phase: Phase, host_stop: HostStop, machine: Option<Run>) -> Verdict {
    match (kind, host_stop, phase) {
        (Kind::Status, ..) => Verdict::Accept(Way::Answer),
        (Kind::Stop, HostStop::Done, _) => Verdict::Ignore,
        (Kind::Stop, ..) => Verdict::Accept(Way::Stop),
        (_, _, Phase::Lost) => Verdict::Deny(Denial::NotTheObject),
        (Kind::Sleep, HostStop::UnderWay | HostStop::Done, _) => Verdict::Ignore,
        (_, HostStop::UnderWay | HostStop::Done, _) => Verdict::Deny(Denial::Stopping),
        (Kind::Wake, HostStop::None, _) => wake(phase),
        (Kind::Sleep, HostStop::None, _) => sleep(phase, machine),
        (Kind::Suspend, HostStop::None, _) => suspend(phase, machine),
        (Kind::Write, HostStop::None, _) => write(phase, machine),
        (Kind::Amend, HostStop::None, _) => amend(phase),
        (Kind::Terminate, HostStop::None, _) => terminate(phase, machine),
    }
}

const fn runtime(machine: Option<Run>) -> Verdict {
    match machine {
        Some(run) => Verdict::Accept(Way::Runtime(run)),
        None => Verdict::Queue(Meanwhile::Nothing),
    }
}

const fn wake(phase: Phase) -> Verdict {
    match phase {
        Phase::Running => Verdict::Ignore,
        _ => Verdict::Accept(Way::Propose),
    }
}

const fn sleep(phase: Phase, machine: Option<Run>) -> Verdict {
    match phase {
        Phase::Running => runtime(machine),
        Phase::Starting | Phase::Resuming => Verdict::Queue(Meanwhile::Nothing),
        _ => Verdict::Ignore,
    }
}

const fn suspend(phase: Phase, machine: Option<Run>) -> Verdict {
    match phase {
        Phase::Running => runtime(machine),
        Phase::Starting | Phase::Resuming => Verdict::Queue(Meanwhile::Nothing),
        Phase::Suspending | Phase::Suspended => Verdict::Ignore,
        Phase::Draining => Verdict::Deny(Denial::FallsAsleep),
        Phase::Resting | Phase::BackingOff | Phase::Stopping | Phase::Settling | Phase::Lost => {
            Verdict::Deny(Denial::NotRunning)
        }
    }
}

const fn write(phase: Phase, machine: Option<Run>) -> Verdict {
    match phase {
        Phase::Resting | Phase::BackingOff => Verdict::Accept(Way::AtRest),
        Phase::Running => runtime(machine),
        Phase::Suspended => Verdict::Queue(Meanwhile::Unlock),
        _ => Verdict::Queue(Meanwhile::Nothing),
    }
}

const fn amend(phase: Phase) -> Verdict {
    match phase {
        Phase::Resting | Phase::BackingOff => Verdict::Accept(Way::AtRest),
        Phase::Starting | Phase::Running | Phase::Resuming => Verdict::Deny(Denial::Awake),
        Phase::Suspended => Verdict::Queue(Meanwhile::GiveUp),
        _ => Verdict::Queue(Meanwhile::Nothing),
    }
}

const fn terminate(phase: Phase, machine: Option<Run>) -> Verdict {
    match phase {
        Phase::Resting | Phase::BackingOff => Verdict::Accept(Way::AtRest),
        Phase::Running => runtime(machine),
        Phase::Suspended => Verdict::Queue(Meanwhile::GiveUp),
        _ => Verdict::Queue(Meanwhile::Nothing),
    }
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Requests that wait, and requests that a runtime has not answered, at most each.
    pub max: usize,
    /// How long each of them waits.
    pub wait_within: Duration,
}

impl Terms {
    /// The terms of a host on which nothing was configured.
    pub const DEFAULT: Self = Self {
        max: 64,
        // Longer than a runtime that leaves, and then its machine, may take.
        wait_within: Duration::from_secs(60),
    };
}

/// What is due of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A request that waited gets its answer, which is not [`Verdict::Queue`]; or one that a runtime had does.
    Answer(RequestId, Kind, Verdict),
    /// Something is to be done for those who go on waiting.
    Meanwhile(Meanwhile),
}

/// Requests of one object that are not answered yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    sent: VecDeque<Waiting>,
    /// What was already done for those who wait, in this suspension.
    done: Option<Meanwhile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    id: RequestId,
    kind: Kind,
    until: Mono,
    /// The machine that was asked.
    run: Option<Run>,
}

impl Queue {
    /// Judges a new request. After [`Verdict::Queue`] its answer comes from [`Queue::next`], and so does what is to be done
    /// meanwhile.
    pub fn offer(
        &mut self,
        id: RequestId,
        kind: Kind,
        activation: &Activation,
        now: Mono,
        terms: &Terms,
    ) -> Verdict {
        let verdict = of(kind, activation);
        let until = now.after(terms.wait_within);
        let (line, run) = match verdict {
            Verdict::Queue(_) => (&mut self.waiting, None),
            Verdict::Accept(Way::Runtime(run)) => (&mut self.sent, Some(run)),
            _ => return verdict,
        };
        if line.len() >= terms.max {
            return Verdict::Deny(Denial::Full);
        }
        line.push_back(Waiting { id, kind, until, run });
        verdict
    }

    /// The runtime replied to a request; whether that request was still waiting for it.
    pub fn answered(&mut self, id: RequestId) -> bool {
        let before = self.sent.len();
        self.sent.retain(|sent| sent.id != id);
        self.sent.len() < before
    }

    /// Whoever asked has left.
    pub fn forget(&mut self, id: RequestId) {
        self.waiting.retain(|waiting| waiting.id != id);
        self.answered(id);
    }

    /// What is due now, one thing a call, in the order of arrival: after each transition, and when [`Queue::deadline`] has
    /// passed, until there is nothing more.
    pub fn next(&mut self, activation: &Activation, now: Mono, terms: &Terms) -> Option<Due> {
        if activation.phase() != Phase::Suspended {
            self.done = None;
        }
        self.unanswered(activation, now)
            .or_else(|| self.ready(activation, now, terms))
            .or_else(|| self.meanwhile(activation))
    }

    /// When a request that waits is to be denied.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.waiting
            .iter()
            .chain(&self.sent)
            .map(|waiting| waiting.until)
            .min()
    }

    fn unanswered(&mut self, activation: &Activation, now: Mono) -> Option<Due> {
        let lost = activation.phase() == Phase::Lost;
        let machine = activation.machine().filter(|_| !lost);
        let over = |sent: &Waiting| sent.run != machine || sent.until <= now;
        let at = self.sent.iter().position(over)?;
        let sent = self.sent.remove(at)?;
        let verdict = Verdict::Deny(Denial::Unanswered);
        Some(Due::Answer(sent.id, sent.kind, verdict))
    }

    fn ready(&mut self, activation: &Activation, now: Mono, terms: &Terms) -> Option<Due> {
        let verdict = |waiting: &Waiting| match of(waiting.kind, activation) {
            Verdict::Queue(_) if waiting.until <= now => Some(Verdict::Deny(Denial::Late)),
            Verdict::Queue(_) => None,
            verdict => Some(verdict),
        };
        let (at, verdict) = self
            .waiting
            .iter()
            .enumerate()
            .find_map(|(at, waiting)| Some((at, verdict(waiting)?)))?;
        let ready = self.waiting.remove(at)?;
        let verdict = match verdict {
            Verdict::Accept(Way::Runtime(_)) if self.sent.len() >= terms.max => Verdict::Deny(Denial::Full),
            Verdict::Accept(Way::Runtime(run)) => {
                let run = Some(run);
                let until = now.after(terms.wait_within);
                self.sent.push_back(Waiting { run, until, ..ready });
                verdict
            }
            other => other,
        };
        Some(Due::Answer(ready.id, ready.kind, verdict))
    }

    /// Giving up serves those too who wait for an unlocking.
    fn meanwhile(&mut self, activation: &Activation) -> Option<Due> {
        let wants = |waiting: &Waiting| match of(waiting.kind, activation) {
            Verdict::Queue(meanwhile) => meanwhile,
            _ => Meanwhile::Nothing,
        };
        let wanted = self
            .waiting
            .iter()
            .map(wants)
            .max_by_key(|meanwhile| meanwhile.weight())?;
        let done = self.done.map_or(0, Meanwhile::weight);
        (wanted.weight() > done).then(|| {
            self.done = Some(wanted);
            Due::Meanwhile(wanted)
        })
    }
}

impl Meanwhile {
    const fn weight(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Unlock => 1,
            Self::GiveUp => 2,
        }
    }
}

const fn of(kind: Kind, activation: &Activation) -> Verdict {
    judge(
        kind,
        activation.phase(),
        activation.host_stop(),
        activation.machine(),
    )
}
