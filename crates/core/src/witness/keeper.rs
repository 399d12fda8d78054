//! One copy's side of the protocol: which phase it is in, and what each phase owns.
//!
//! [`Keeper::on`] takes what happened and returns the next keeper and what to do. `claim` and `hold` are the two phases
//! that talk to the depot. Who calls: the runtime's witness thread, `up`, and the simulation of the tests.

use super::claim::Claim;
use super::hold::Hold;
use super::mark::{Holder, HolderId, MAX_WHO, Mark, VERSION};
use super::terms::{Moment, Mono, Terms};
use super::words::{Ask, Effect, Evidence, Input, Notice, Point, Purpose, Verdict};
use crate::id::ObjectId;

/// One copy of an object and what it may do. `V` is the depot's name for a mark's present content.
#[derive(Debug, Clone)]
pub struct Keeper<V> {
    me: Me,
    phase: Phase<V>,
}

/// What does not depend on the phase.
#[derive(Debug, Clone)]
pub(super) struct Me {
    pub(super) object: ObjectId,
    pub(super) id: HolderId,
    pub(super) who: String,
    pub(super) terms: Terms,
    /// The newest durable record.
    pub(super) newest: Point,
    /// Of the last mark written.
    pub(super) beat: u64,
    asks: u64,
}

/// Whether a mark that this copy wrote may stand in the depot, and keep others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traces {
    Left,
    None,
}

#[derive(Debug, Clone)]
pub(super) enum Phase<V> {
    /// Nobody wants the object, or the last claim was refused.
    Idle(Traces),
    Claiming(Claim<V>),
    Holding(Hold<V>),
    Lost(Box<Evidence>),
}

/// What a keeper is about, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseStatus {
    /// Not asked for the object, or refused.
    Idle,
    /// Asking.
    Claiming,
    /// Went on without a depot, and keeps asking.
    Without,
    /// Holding.
    Holding,
    /// Its lease ran out; it keeps asking.
    Expired,
    /// Another copy has the object.
    Lost,
}

/// A mark that one process wrote and another goes on with: the one asks, the other need not ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent<V> {
    /// The mark as it stands in the depot.
    pub mark: Mark,
    /// Its version there.
    pub version: V,
    /// An instant before it was sent: its lease counts from here. Of the clock that both processes have.
    pub sent: Mono,
}

/// A write whose outcome is not known, or that is on its way.
#[derive(Debug, Clone)]
pub(super) struct Wrote {
    pub(super) mark: Mark,
    /// An instant before it was sent.
    pub(super) sent: Mono,
}

/// What a phase works with while it takes one input.
pub(super) struct Turn<'a, V> {
    pub(super) me: &'a mut Me,
    pub(super) now: Moment,
    pub(super) effects: &'a mut Vec<Effect<V>>,
}

impl<V: Clone + PartialEq> Keeper<V> {
    /// A copy of `object` under the name `id`, whose newest durable record is `newest`. `who` is for people: host and
    /// process; what is beyond [`MAX_WHO`] bytes is cut off.
    #[must_use]
    pub fn new(object: ObjectId, id: HolderId, who: &str, terms: Terms, newest: Point) -> Self {
        let end = (0..=MAX_WHO.min(who.len())).rfind(|end| who.is_char_boundary(*end));
        let who = who.get(..end.unwrap_or(0)).unwrap_or_default().to_owned();
        let me = Me {
            object,
            id,
            who,
            terms,
            newest,
            beat: 0,
            asks: 0,
        };
        Self {
            me,
            phase: Phase::Idle(Traces::None),
        }
    }

    /// A copy that goes on, awake, with what was [`Lent`]: as if it had claimed the object itself.
    #[must_use]
    pub fn from_lent(
        object: ObjectId,
        id: HolderId,
        who: &str,
        terms: Terms,
        newest: Point,
        lent: Lent<V>,
    ) -> Self {
        let mut keeper = Self::new(object, id, who, terms, newest);
        keeper.me.beat = lent.mark.holder.as_ref().map_or(0, |holder| holder.beat);
        let Lent { mark, version, sent } = lent;
        keeper.phase = Phase::Holding(Hold::begin(Wrote { mark, sent }, version, false));
        keeper
    }

    /// What another process can go on with once this one is told [`Input::HandOver`]: nothing where the object is not held
    /// to be awake, or where it is not known what stands in the depot.
    #[must_use]
    pub fn lent(&self) -> Option<Lent<V>> {
        match &self.phase {
            Phase::Holding(hold) => hold.lent(),
            Phase::Idle(_) | Phase::Claiming(_) | Phase::Lost(_) => None,
        }
    }

    /// Takes one input. Answers to questions that nobody waits for any more change nothing.
    #[must_use]
    pub fn on(self, now: Moment, input: Input<V>) -> (Self, Vec<Effect<V>>) {
        let Self { mut me, phase } = self;
        let mut effects = Vec::new();
        let mut turn = Turn {
            me: &mut me,
            now,
            effects: &mut effects,
        };
        let phase = phase.on(&mut turn, input);
        (Self { me, phase }, effects)
    }

    /// When to say [`Input::Tick`] at the latest.
    #[must_use]
    pub fn wait_until(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Claiming(claim) => claim.wait_until(),
            Phase::Holding(hold) => hold.wait_until(&self.me),
            Phase::Idle(_) | Phase::Lost(_) => None,
        }
    }

    /// The object may serve and acknowledge strictly before this instant; `None`: not at all. Binding for an object that is
    /// awake by this keeper's verdict.
    #[must_use]
    pub fn good_until(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Claiming(claim) => claim.is_without().then_some(Mono(u64::MAX)),
            Phase::Holding(hold) => Some(hold.serves_until(&self.me.terms)),
            Phase::Idle(_) | Phase::Lost(_) => None,
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn lease_status(&self) -> LeaseStatus {
        match &self.phase {
            Phase::Idle(_) => LeaseStatus::Idle,
            Phase::Claiming(claim) if claim.is_without() => LeaseStatus::Without,
            Phase::Claiming(_) => LeaseStatus::Claiming,
            Phase::Holding(hold) if hold.is_good() => LeaseStatus::Holding,
            Phase::Holding(_) => LeaseStatus::Expired,
            Phase::Lost(_) => LeaseStatus::Lost,
        }
    }

    /// The name it goes by.
    #[must_use]
    pub const fn id(&self) -> HolderId {
        self.me.id
    }

    /// The newest durable record it was told of.
    #[must_use]
    pub const fn newest(&self) -> Point {
        self.me.newest
    }
}

impl<V: Clone + PartialEq> Phase<V> {
    fn on(self, turn: &mut Turn<'_, V>, input: Input<V>) -> Self {
        match input {
            Input::Claim(purpose) => self.claim(turn, purpose),
            Input::Note(point) => {
                if point.seq > turn.me.newest.seq {
                    turn.me.newest = point;
                }
                self.answered(turn, Input::Tick)
            }
            Input::Resumed(id) => self.resumed(turn, id),
            Input::HandOver => match self {
                Self::Lost(evidence) => Self::Lost(evidence),
                // It is for the other to remove.
                _ => Self::Idle(Traces::None),
            },
            Input::Release(within) => self.release(turn, within),
            answer => self.answered(turn, answer),
        }
    }

    fn answered(self, turn: &mut Turn<'_, V>, input: Input<V>) -> Self {
        match self {
            Self::Claiming(claim) => claim.on(turn, input),
            Self::Holding(hold) => hold.on(turn, input),
            Self::Idle(_) | Self::Lost(_) => self,
        }
    }

    fn claim(self, turn: &mut Turn<'_, V>, purpose: Purpose) -> Self {
        match self {
            // A claim for more than the one under way: what that may have written is recalled.
            Self::Idle(_) | Self::Claiming(_) => Claim::begin(turn, purpose),
            Self::Holding(hold) => hold.claim(turn, purpose),
            Self::Lost(evidence) => {
                turn.say(Notice::Verdict(Verdict::Live(evidence.clone())));
                Self::Lost(evidence)
            }
        }
    }

    fn resumed(self, turn: &mut Turn<'_, V>, id: HolderId) -> Self {
        let traces = match self {
            Self::Lost(evidence) => return Self::Lost(evidence),
            Self::Idle(traces) => traces,
            Self::Claiming(claim) => claim.traces(),
            Self::Holding(hold) => {
                if hold.is_leaving() {
                    turn.say(Notice::Released(false));
                }
                Traces::Left
            }
        };
        turn.me.id = id;
        Self::Idle(traces)
    }

    fn release(self, turn: &mut Turn<'_, V>, within: std::time::Duration) -> Self {
        let clean = match &self {
            Self::Holding(_) => None,
            Self::Idle(traces) => Some(*traces == Traces::None),
            Self::Claiming(claim) => Some(claim.traces() == Traces::None),
            Self::Lost(_) => Some(false),
        };
        match (self, clean) {
            (Self::Holding(hold), _) => hold.release(turn, within),
            (lost @ Self::Lost(_), _) => {
                turn.say(Notice::Released(false));
                lost
            }
            (_, clean) => {
                turn.say(Notice::Released(clean.unwrap_or(false)));
                Self::Idle(Traces::None)
            }
        }
    }
}

impl<V> Turn<'_, V> {
    pub(super) fn ask(&mut self, effect: impl FnOnce(Ask, std::time::Duration) -> Effect<V>) -> Ask {
        self.me.asks = self.me.asks.wrapping_add(1);
        let ask = Ask(self.me.asks);
        self.effects.push(effect(ask, self.me.terms.within()));
        ask
    }

    pub(super) fn say(&mut self, notice: Notice) {
        self.effects.push(Effect::Say(notice));
    }

    /// The mark that this copy would have written now: with its newest head, held by it or by nobody.
    pub(super) fn mark(&mut self, epoch: u64, held: bool) -> Mark {
        let me = &mut *self.me;
        // By the clock, so that two copies of one memory do not write the same.
        me.beat = self.now.mono.0.max(me.beat.saturating_add(1));
        let holder = Holder {
            id: me.id,
            who: me.who.clone(),
            lease: me.terms.stated(),
            at: self.now.wall,
            beat: me.beat,
        };
        Mark {
            v: VERSION,
            object: me.object,
            epoch: epoch.max(me.newest.epoch),
            seq: me.newest.seq,
            head: me.newest.record,
            holder: held.then_some(holder),
        }
    }

    pub(super) fn evidence(&self, witnessed: Option<Mark>) -> Box<Evidence> {
        Box::new(Evidence {
            ours: self.me.newest,
            witnessed,
        })
    }
}
