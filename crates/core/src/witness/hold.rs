//! Holding the object: renew the lease, let the mark follow the records, notice the end.
//!
//! One write is on its way at most. One whose answer was lost is sent again as it was, so that there is little to
//! recognise when the depot shows its mark; a lease counts from the first sending then.

use std::time::Duration;

use super::keeper::{Lent, Me, Phase, Traces, Turn, Wrote};
use super::mark::Mark;
use super::terms::{CLAIM_PATIENCE, Mono, Terms};
use super::words::{Ask, Effect, Failure, Input, Notice, Purpose, Swapped, Verdict};
use crate::manifest;

/// Later than any instant.
const NEVER: Mono = Mono(u64::MAX);

/// An object that is held.
#[derive(Debug, Clone)]
pub(super) struct Hold<V> {
    /// The mark as the depot has it, by all that is known.
    mark: Mark,
    version: V,
    /// An instant before the mark was sent: its lease counts from here.
    sent: Mono,
    /// Epoch that the mark is to have.
    epoch: u64,
    /// Epoch of the mark while the object only rests; a claim to wake raises it.
    rest: Option<u64>,
    /// A claim to be answered, until when.
    owed: Option<Mono>,
    asked: Option<(Ask, Wrote)>,
    /// Writes whose answer was lost: of each sort (following, waking, leaving) one. All expect the present version, so
    /// that one of them can have happened.
    unsure: Vec<Wrote>,
    /// Questions in a row that were not answered, and when to try again.
    failures: u32,
    retry_at: Mono,
    told: Told,
    /// Giving it up, until when.
    leaving: Option<Mono>,
}

/// How far the end of the lease was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Good,
    /// Serving was found to be over at this instant.
    Expired(Mono),
    Over,
}

impl<V: Clone + PartialEq> Hold<V> {
    pub(super) fn begin(wrote: Wrote, version: V, rests: bool) -> Self {
        Self {
            epoch: wrote.mark.epoch,
            rest: rests.then_some(wrote.mark.epoch),
            mark: wrote.mark,
            version,
            sent: wrote.sent,
            owed: None,
            asked: None,
            unsure: Vec::new(),
            failures: 0,
            retry_at: Mono(0),
            told: Told::Good,
            leaving: None,
        }
    }

    pub(super) fn claim(mut self, turn: &mut Turn<'_, V>, purpose: Purpose) -> Phase<V> {
        if self.leaving.is_some() {
            turn.say(Notice::Verdict(Verdict::Missing));
            return Phase::Holding(self);
        }
        self.owed = Some(turn.now.mono.after(CLAIM_PATIENCE));
        if purpose == Purpose::Wake {
            self.epoch = self.epoch.max(turn.me.newest.epoch).saturating_add(1);
        }
        self.tick(turn)
    }

    pub(super) fn release(mut self, turn: &mut Turn<'_, V>, within: Duration) -> Phase<V> {
        self.leaving = Some(turn.now.mono.after(within));
        self.tick(turn)
    }

    pub(super) fn on(mut self, turn: &mut Turn<'_, V>, input: Input<V>) -> Phase<V> {
        match (self.asked.take(), input) {
            (Some((asked, wrote)), Input::Swapped(ask, answer)) if asked == ask => {
                self.swapped(turn, wrote, answer)
            }
            (asked, _) => {
                self.asked = asked;
                self.tick(turn)
            }
        }
    }

    fn tick(mut self, turn: &mut Turn<'_, V>) -> Phase<V> {
        let now = turn.now.mono;
        self.tell(turn);
        if self.owed.take_if(|until| now >= *until).is_some() {
            turn.say(Notice::Verdict(match turn.me.terms.strength() {
                manifest::Witness::Required => Verdict::Missing,
                manifest::Witness::Optional => Verdict::Absent,
            }));
        }
        if self.leaving.is_some_and(|until| now >= until) {
            turn.say(Notice::Released(false));
            return Phase::Idle(Traces::Left);
        }
        if self.asked.is_none() && now >= self.due(turn.me) {
            self.write(turn);
        }
        Phase::Holding(self)
    }

    /// When the next write is due.
    fn due(&self, me: &Me) -> Mono {
        let terms = &me.terms;
        let due = if self.leaving.is_some() || self.owed.is_some() {
            Mono(0)
        } else if me.newest.seq > self.mark.seq {
            self.sent.after(terms.pace())
        } else if self.rests(terms) {
            NEVER
        } else {
            self.sent.after(terms.renewal())
        };
        due.max(self.retry_at)
    }

    fn write(&mut self, turn: &mut Turn<'_, V>) {
        let held = self.leaving.is_none();
        let again = |wrote: &&Wrote| wrote.mark.holder.is_some() == held && wrote.mark.epoch >= self.epoch;
        let mark = match self.unsure.iter().find(again) {
            Some(wrote) => wrote.mark.clone(),
            None => turn.mark(self.epoch, held),
        };
        let wrote = Wrote {
            mark: mark.clone(),
            sent: turn.now.mono,
        };
        let expected = Some(self.version.clone());
        let ask = turn.ask(|ask, within| Effect::Swap(ask, Box::new(mark), expected, within));
        self.asked = Some((ask, wrote));
    }

    fn swapped(
        mut self,
        turn: &mut Turn<'_, V>,
        wrote: Wrote,
        answer: Result<Swapped<V>, Failure>,
    ) -> Phase<V> {
        match answer {
            Ok(Swapped::Done(version)) => self.confirm(turn, wrote, version),
            Ok(Swapped::Conflict(Some((mark, version)))) => {
                match self.unsure.iter().find(|wrote| wrote.mark == mark).cloned() {
                    Some(wrote) => self.confirm(turn, wrote, version),
                    None => self.lose(turn, Some(mark)),
                }
            }
            Ok(Swapped::Conflict(None)) => self.lose(turn, None),
            Err(failure) => {
                let first = self.unsure.iter().all(|unsure| unsure.mark != wrote.mark);
                if failure == Failure::Unknown && first {
                    self.unsure.push(wrote);
                }
                self.retry_at = turn.now.mono.after(turn.me.terms.retry(self.failures));
                self.failures = self.failures.saturating_add(1);
                self.tick(turn)
            }
        }
    }

    fn confirm(mut self, turn: &mut Turn<'_, V>, wrote: Wrote, version: V) -> Phase<V> {
        let covered = wrote.mark.seq > self.mark.seq;
        self.mark = wrote.mark;
        self.sent = wrote.sent;
        self.version = version;
        self.unsure.clear();
        self.failures = 0;
        self.retry_at = Mono(0);
        if covered {
            turn.say(Notice::Covered(self.mark.seq));
        }
        if self.mark.holder.is_none() {
            turn.say(Notice::Released(true));
            return Phase::Idle(Traces::None);
        }
        let now = turn.now.mono;
        if now < self.sent.after(turn.me.terms.lease()) {
            if self.told != Told::Good {
                turn.say(Notice::Renewed);
            }
            self.told = Told::Good;
            if self.mark.epoch >= self.epoch && self.owed.take().is_some() {
                turn.say(Notice::Verdict(Verdict::Agrees(self.mark.epoch)));
            }
        }
        self.tick(turn)
    }

    fn lose(self, turn: &mut Turn<'_, V>, mark: Option<Mark>) -> Phase<V> {
        let evidence = turn.evidence(mark);
        if self.owed.is_some() {
            turn.say(Notice::Verdict(Verdict::Live(evidence.clone())));
        }
        turn.say(Notice::Lost(evidence.clone()));
        if self.leaving.is_some() {
            turn.say(Notice::Released(false));
        }
        Phase::Lost(evidence)
    }

    /// Tells of the end of the lease and of the grace behind it, each stage once. The last stage leaves time for one more try from when it was
    /// noticed that serving is over, not from when it was: the process may have been paused.
    fn tell(&mut self, turn: &mut Turn<'_, V>) {
        if self.owed.is_some() && turn.me.terms.rests_on_presence() {
            // It rested without a lease: the answer to the claim tells.
            return;
        }
        let now = turn.now.mono;
        if self.told == Told::Good && now >= self.serves_until(&turn.me.terms) {
            self.told = Told::Expired(now);
            turn.say(Notice::Expired);
        }
        if let Told::Expired(at) = self.told
            && now >= at.after(turn.me.terms.last_try())
        {
            self.told = Told::Over;
            turn.say(Notice::Over);
        }
    }

    pub(super) fn wait_until(&self, me: &Me) -> Option<Mono> {
        let told = match self.told {
            Told::Good => Some(self.serves_until(&me.terms)),
            Told::Expired(at) => Some(at.after(me.terms.last_try())),
            Told::Over => None,
        };
        let due = self.asked.is_none().then(|| self.due(me));
        let next = [told, due, self.owed, self.leaving].into_iter().flatten().min();
        next.filter(|next| *next < NEVER)
    }

    pub(super) fn serves_until(&self, terms: &Terms) -> Mono {
        if self.rests(terms) {
            return NEVER;
        }
        self.sent.after(terms.serves())
    }

    /// Whether presence alone holds the object: it rests, and the depot knows by a lock that this copy runs. From a claim
    /// to wake on, answered or not, the lease counts.
    fn rests(&self, terms: &Terms) -> bool {
        terms.rests_on_presence() && self.rest == Some(self.epoch)
    }

    /// What another process can go on with.
    pub(super) fn lent(&self) -> Option<Lent<V>> {
        let is_settled = self.asked.is_none() && self.unsure.is_empty() && self.owed.is_none();
        let is_awake = self.rest != Some(self.mark.epoch) && self.leaving.is_none();
        (is_settled && is_awake && self.is_good()).then(|| Lent {
            mark: self.mark.clone(),
            version: self.version.clone(),
            sent: self.sent,
        })
    }

    pub(super) const fn is_good(&self) -> bool {
        matches!(self.told, Told::Good)
    }

    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}
