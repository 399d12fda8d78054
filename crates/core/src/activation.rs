//! The activations of one object by whoever runs it on a host: a pure machine, one for each object.
//!
//! ```text
//!              permitted               claim and machine there,
//!              at the door             runtime said woke            runtime wants to be suspended
//!   Resting ───────────────▶ Starting ─────────────────▶ Running ────────────────────▶ Suspending
//!    ▲ ▲  ▲                     │                         ▲   │                             │ suspended and
//!    │ │  │ pause over,         │ refused,                │   │ falls asleep, crashed,      ▼ claimed to rest
//!    │ │  │ owner               │ failed, late            │   │ stuck, host stops       Suspended
//!    │ │ BackingOff             │                         │   │                             │ permitted at the door
//!    │ │  ▲                     ▼                         │   ▼                             ▼
//!    │ └──┴── Settling ◀──── Stopping ◀───────────────────┼───────────────────────────── Resuming
//!    │      recorded   exited                             └────────────────────────────────┘ woke
//!    │
//!    └── no machine runs; the door decides                Lost: another copy has the object; from everywhere, final
//! ```
//! [`Activation::on`] takes an event and returns the next activation and what is to be done, in order. No effect is
//! awaited: its answer is an event, and carries the number of what was asked ([`Ask`]) or of the machine ([`Run`]), so
//! that an answer that comes too late changes nothing. Time is an argument; [`Activation::deadline`] says when
//! [`Event::Tick`] is due. Every transition: `docs/activation.md`, generated from this machine.
//!
//! - The claim runs beside the machine's start. Only when both are there, the result is handed over
//!   ([`Effect::HandOver`]), and only then the runtime may commit `woke` and spawn the workload. The object decides inside.
//! - One machine at a time: the next is started when the end of the last is known and recorded.
//! - Who waits is delivered, decided about again, or refused, in bounded time, whatever does not answer.
//! - [`pace`] is the one account of failures; [`requests`] is the queue of what others ask for beside proposals.
//!
//! Not here: the object's own life ([`lifecycle`](crate::lifecycle), inside the machine), the rules of claims
//! ([`witness`](crate::witness)), descriptors, and who proposes what. Who calls: the supervisor, one actor for each object.

mod lost;
pub mod pace;
mod phase;
pub mod requests;
mod resting;
mod running;
mod settling;
mod stopping;
mod terms;
mod turn;
mod waking;
mod words;

pub use lost::Lost;
pub use phase::{HostStop, Phase};
pub use resting::{BackingOff, Resting};
pub use running::{Running, Suspended, Suspending};
pub use settling::Settling;
pub use stopping::Stopping;
pub use terms::{Facts, Terms};
pub use waking::Waking;
pub use words::{
    Answer, Ask, Attached, By, Claimed, Effect, Event, Failure, Leave, Loss, Proposal, ProposalId, Recorded,
    Refusal, Report, Run, Stop, Word,
};

use self::pace::Pace;
use self::turn::{Me, Turn};
use crate::witness::Mono;

/// One object as its host runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    me: Me,
    state: State,
}

/// Where its activation stands. Each state owns exactly its own data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No machine runs; its store is ours; the door decides.
    Resting(Resting),
    /// A machine starts, and the object is claimed for it.
    Starting(Box<Waking>),
    /// The object is awake, or falls asleep in a machine that runs.
    Running(Box<Running>),
    /// The object is dormant and its machine is being suspended.
    Suspending(Box<Suspending>),
    /// The machine is suspended; the door decides.
    Suspended(Suspended),
    /// The machine is being resumed, and the object is claimed for it.
    Resuming(Box<Waking>),
    /// The machine is ending.
    Stopping(Box<Stopping>),
    /// The machine has ended: that is recorded, and the object taken back. Or it is looked for after a restart.
    Settling(Box<Settling>),
    /// As resting; after a failure only an owner wakes it before a pause is over.
    BackingOff(Box<BackingOff>),
    /// Another copy has the object.
    Lost(Lost),
}

/// What a new [`Activation`] begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The object rests, recorded and claimed.
    AtRest,
    /// No machine runs, and the object has not been taken back yet: after a crash, or at the first opening.
    Untaken,
    /// A machine that an earlier process started.
    Machine,
}

impl Activation {
    /// An object as it is found, and what to do about it.
    #[must_use]
    pub fn new(found: Found, facts: Facts<'_>) -> (Self, Vec<Effect>) {
        let mut me = Me::default();
        let mut turn = Turn::new(&mut me, facts);
        let state = match found {
            Found::AtRest => State::Resting(Resting::default()),
            Found::Untaken => Settling::take_back(&mut turn),
            Found::Machine => Settling::attach(&mut turn),
        };
        let effects = turn.effects;
        (Self { me, state }, effects)
    }

    /// The next activation and what to do. Total: an event that means nothing in a state changes nothing, since tasks of
    /// a shell race.
    #[must_use]
    pub fn on(self, event: Event, facts: Facts<'_>) -> (Self, Vec<Effect>) {
        let Self { mut me, state } = self;
        let mut turn = Turn::new(&mut me, facts);
        let state = match event {
            Event::Lost(loss) => state.lose(loss, &mut turn),
            Event::Stop(stop) => state.stop(stop, &mut turn),
            Event::Gone(id) => state.forget(id),
            event => {
                let event = state.plainly(event);
                state.happen(event, &mut turn)
            }
        };
        let state = state.end_in_time(&mut turn);
        let effects = turn.effects;
        (Self { me, state }, effects)
    }

    /// When [`Event::Tick`] is due, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let stop = self.me.stop.filter(|_| !self.state.is_final());
        let own = self.state.deadline();
        own.into_iter().chain(stop.map(|stop| stop.over_at)).min()
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The state's name.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match &self.state {
            State::Resting(_) => Phase::Resting,
            State::Starting(_) => Phase::Starting,
            State::Running(running) if running.is_draining() => Phase::Draining,
            State::Running(_) => Phase::Running,
            State::Suspending(_) => Phase::Suspending,
            State::Suspended(_) => Phase::Suspended,
            State::Resuming(_) => Phase::Resuming,
            State::Stopping(_) => Phase::Stopping,
            State::Settling(_) => Phase::Settling,
            State::BackingOff(_) => Phase::BackingOff,
            State::Lost(_) => Phase::Lost,
        }
    }

    /// The machine that runs, is suspended, starts or ends.
    #[must_use]
    pub const fn machine(&self) -> Option<Run> {
        self.state.machine()
    }

    /// Whether a proposal goes to the door before it comes here. Elsewhere it comes here at once: it waits, or goes to the
    /// gate, which decides about it.
    #[must_use]
    pub const fn door_decides(&self) -> bool {
        matches!(
            self.state,
            State::Resting(_) | State::BackingOff(_) | State::Suspended(_)
        )
    }

    /// Whether the store is the caller's to write to: nothing else has it open.
    #[must_use]
    pub const fn store_is_ours(&self) -> bool {
        matches!(self.state, State::Resting(_) | State::BackingOff(_))
    }

    /// How far a stop by the host has come.
    #[must_use]
    pub const fn host_stop(&self) -> HostStop {
        match self.me.stop {
            None => HostStop::None,
            Some(_) if self.state.is_final() => HostStop::Done,
            Some(_) => HostStop::UnderWay,
        }
    }

    /// Whether nothing will happen here any more: stopped, or lost and no machine is left.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        let lost = matches!(self.state, State::Lost(_)) && self.state.is_final();
        lost || matches!(self.host_stop(), HostStop::Done)
    }

    /// The account of failures.
    #[must_use]
    pub const fn pace(&self) -> &Pace {
        &self.me.pace
    }

    /// Ends this activation where it stands and leaves its machine running, for a process that is about to be replaced:
    /// whoever waits here is refused. The next process finds the machine and attaches to it.
    #[must_use]
    pub fn detach(self, facts: Facts<'_>) -> Vec<Effect> {
        let Self { mut me, state } = self;
        let mut turn = Turn::new(&mut me, facts);
        let waiting = state.into_waiting();
        turn.refuse(waiting, Refusal::Stopping);
        turn.effects
    }
}

impl State {
    /// That there is no machine means the same as its end, where nobody waits to hear it.
    const fn plainly(&self, event: Event) -> Event {
        match event {
            Event::StartFailed(run) if !matches!(self, Self::Starting(_)) => Event::Exited(run),
            Event::Attached(run, Attached::Nothing) if !matches!(self, Self::Settling(_)) => {
                Event::Exited(run)
            }
            event => event,
        }
    }

    fn happen(self, event: Event, turn: &mut Turn<'_>) -> Self {
        match self {
            Self::Resting(resting) => resting.on(event, turn),
            Self::Starting(waking) => waking.on(event, turn, Self::Starting),
            Self::Running(running) => running.on(event, turn),
            Self::Suspending(suspending) => suspending.on(event, turn),
            Self::Suspended(suspended) => suspended.on(event, turn),
            Self::Resuming(waking) => waking.on(event, turn, Self::Resuming),
            Self::Stopping(stopping) => stopping.on(event, turn),
            Self::Settling(settling) => settling.on(event, turn),
            Self::BackingOff(backing_off) => backing_off.on(event, turn),
            Self::Lost(lost) => lost.on(event, turn),
        }
    }

    const fn machine(&self) -> Option<Run> {
        match self {
            Self::Resting(_) | Self::BackingOff(_) => None,
            Self::Starting(waking) | Self::Resuming(waking) => Some(waking.run()),
            Self::Running(running) => Some(running.run()),
            Self::Suspending(suspending) => Some(suspending.run()),
            Self::Suspended(suspended) => Some(suspended.run()),
            Self::Stopping(stopping) => Some(stopping.run()),
            Self::Settling(settling) => settling.machine(),
            Self::Lost(lost) => lost.machine(),
        }
    }

    fn deadline(&self) -> Option<Mono> {
        match self {
            Self::Resting(_) => None,
            Self::Suspended(suspended) => suspended.deadline(),
            Self::Starting(waking) | Self::Resuming(waking) => Some(waking.deadline()),
            Self::Running(running) => Some(running.deadline()),
            Self::Suspending(suspending) => Some(suspending.deadline()),
            Self::Stopping(stopping) => Some(stopping.deadline()),
            Self::Settling(settling) => settling.deadline(),
            Self::BackingOff(backing_off) => Some(backing_off.deadline()),
            Self::Lost(lost) => lost.deadline(),
        }
    }

    /// Whether nothing is left to be done or awaited.
    const fn is_final(&self) -> bool {
        match self {
            Self::Resting(_) => true,
            Self::Lost(lost) => lost.machine().is_none(),
            _ => false,
        }
    }

    /// Whoever waits here: not delivered, or delivered and not taken.
    fn into_waiting(self) -> Vec<Proposal> {
        match self {
            Self::Resting(_) | Self::Suspended(_) | Self::Lost(_) => Vec::new(),
            Self::Starting(waking) | Self::Resuming(waking) => waking.into_waiting(),
            Self::Running(running) => running.into_waiting(),
            Self::Suspending(suspending) => suspending.into_waiting(),
            Self::Stopping(stopping) => stopping.into_waiting(),
            Self::Settling(settling) => settling.into_waiting(),
            Self::BackingOff(backing_off) => backing_off.into_waiting(),
        }
    }

    fn forget(mut self, id: ProposalId) -> Self {
        let forget = |waiting: &mut Vec<Proposal>| waiting.retain(|proposal| proposal.id != id);
        match &mut self {
            Self::Resting(_) | Self::Suspended(_) | Self::Lost(_) => {}
            Self::Starting(waking) | Self::Resuming(waking) => forget(waking.waiting()),
            Self::Running(running) => running.waiting().into_iter().for_each(forget),
            Self::Suspending(suspending) => suspending.waiting().into_iter().for_each(forget),
            Self::Stopping(stopping) => stopping.waiting().into_iter().for_each(forget),
            Self::Settling(settling) => forget(settling.waiting()),
            Self::BackingOff(backing_off) => forget(backing_off.waiting()),
        }
        self
    }

    /// Another copy has the object: what runs here is killed, and nothing else is done any more.
    fn lose(self, loss: Loss, turn: &mut Turn<'_>) -> Self {
        if matches!(self, Self::Lost(_)) {
            return self;
        }
        let machine = self.machine();
        let waiting = self.into_waiting();
        turn.refuse(waiting, Refusal::NotTheObject(loss));
        turn.report(Report::Lost(loss));
        Self::Lost(Lost::new(loss, machine, turn))
    }

    /// The host stops the object.
    fn stop(self, stop: Stop, turn: &mut Turn<'_>) -> Self {
        let first = turn.note_stop(stop);
        let now = turn.me.stop.is_some_and(|stop| stop.kill_at <= turn.now);
        match self {
            Self::Resting(_) if first => Settling::leave(turn, Vec::new()),
            Self::BackingOff(backing_off) => Settling::leave(turn, backing_off.into_waiting()),
            Self::Starting(waking) => {
                // Before the hand-over nothing can have begun: there is no workload to be gentle to.
                let kill = now || !waking.is_handed_over();
                waking.stop(turn, kill)
            }
            Self::Resuming(waking) => waking.stop(turn, now),
            Self::Running(running) => running.stop(turn, now),
            Self::Suspending(suspending) => suspending.stop(turn, now),
            Self::Suspended(suspended) => suspended.stop(turn, now),
            Self::Stopping(stopping) => Self::Stopping(stopping.stop(turn, now)),
            Self::Settling(settling) => settling.stop(turn, now),
            over @ (Self::Resting(_) | Self::Lost(_)) => over,
        }
    }

    /// The end of a host's stop, whatever has not answered by then.
    fn end_in_time(self, turn: &mut Turn<'_>) -> Self {
        let over = turn.me.stop.is_some_and(|stop| stop.over_at <= turn.now);
        if !over || self.is_final() {
            return self;
        }
        if let Some(run) = self.machine() {
            turn.report(Report::Abandoned(run));
        }
        turn.report(Report::Stopped(false));
        match self {
            Self::Lost(lost) => Self::Lost(lost.abandoned()),
            other => {
                let waiting = other.into_waiting();
                turn.refuse(waiting, Refusal::Stopping);
                Self::Resting(Resting::default())
            }
        }
    }
}
