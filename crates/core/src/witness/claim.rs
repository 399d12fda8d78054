//! Asking for the object: read the mark, see whether our history contains it and whether anybody holds it, take it.
//!
//! Whatever is found out is found out about one version of the mark, and taken by a swap that expects that very version;
//! so a claim that was overtaken fails and begins again.

use super::hold::Hold;
use super::keeper::{Phase, Traces, Turn, Wrote};
use super::mark::Mark;
use super::terms::{CLAIM_PATIENCE, Mono, Terms};
use super::words::{Ask, Effect, Failure, Input, Notice, Purpose, Swapped, Verdict};
use crate::id::RecordId;
use crate::manifest;

/// Swaps that may be overtaken before a claim gives way to those who overtake it.
const MAX_TRIES: u32 = 16;

/// A claim under way.
#[derive(Debug, Clone)]
pub(super) struct Claim<V> {
    purpose: Purpose,
    /// Whoever asked was told to go on without.
    without: bool,
    /// When the depot answered last, or the claim began.
    heard: Mono,
    tries: u32,
    /// Questions in a row that were not answered.
    failures: u32,
    /// Our last write, where its answer was lost.
    unsure: Option<Wrote>,
    /// A record that our history was found to contain, or to give up.
    found: Option<(u64, RecordId)>,
    step: Step<V>,
}

/// A mark that was read.
#[derive(Debug, Clone)]
struct Seen<V> {
    mark: Mark,
    version: V,
    /// It changed while we watched: whoever it names runs.
    alive: bool,
}

#[derive(Debug, Clone)]
enum Step<V> {
    Reading(Ask),
    /// In our own history.
    Finding(Ask, Seen<V>),
    /// Among what we wrote.
    Recalling(Ask, Seen<V>),
    /// For its holder.
    Looking(Ask, Seen<V>),
    /// Waiting for the end of its holder's lease, or a sign of life.
    Watching(Watch<V>),
    Swapping(Ask, Wrote),
    /// Until the next try.
    Resting(Mono),
}

#[derive(Debug, Clone)]
struct Watch<V> {
    seen: Seen<V>,
    over: Mono,
    look_at: Mono,
    asked: Option<Ask>,
}

impl<V: Clone + PartialEq> Claim<V> {
    pub(super) fn begin(turn: &mut Turn<'_, V>, purpose: Purpose) -> Phase<V> {
        let ask = turn.ask(Effect::Read);
        Phase::Claiming(Self {
            purpose,
            without: false,
            heard: turn.now.mono,
            tries: 0,
            failures: 0,
            unsure: None,
            found: None,
            step: Step::Reading(ask),
        })
    }

    pub(super) fn on(mut self, turn: &mut Turn<'_, V>, input: Input<V>) -> Phase<V> {
        let step = std::mem::replace(&mut self.step, Step::Resting(turn.now.mono));
        match (step, input) {
            (Step::Reading(asked), Input::Read(ask, answer)) if asked == ask => match answer {
                Ok(present) => self.present(turn, present, false),
                Err(failure) => self.failed(turn, failure),
            },
            (Step::Finding(asked, seen), Input::Found(ask, found)) if asked == ask => {
                if found {
                    self.found = Some((seen.mark.seq, seen.mark.head));
                    self.holder(turn, seen)
                } else {
                    self.refuse_older(turn, seen.mark)
                }
            }
            (Step::Recalling(asked, seen), Input::Recalled(ask, ours)) if asked == ask => {
                if ours {
                    self.swap(turn, Some(&seen))
                } else {
                    self.stranger(turn, seen)
                }
            }
            (Step::Looking(asked, seen), Input::Looked(ask, runs)) if asked == ask => match runs {
                Some(true) => self.refuse_live(turn, seen.mark),
                Some(false) => self.swap(turn, Some(&seen)),
                None => self.watch(turn, seen),
            },
            (Step::Watching(watch), Input::Read(ask, answer)) if watch.asked == Some(ask) => {
                self.watched(turn, watch, answer)
            }
            (Step::Swapping(asked, wrote), Input::Swapped(ask, answer)) if asked == ask => {
                self.swapped(turn, wrote, answer)
            }
            (step, _) => {
                self.step = step;
                self.tick(turn)
            }
        }
    }

    fn tick(mut self, turn: &mut Turn<'_, V>) -> Phase<V> {
        let now = turn.now.mono;
        match &mut self.step {
            Step::Watching(watch) if now >= watch.over => {
                let seen = watch.seen.clone();
                return self.swap(turn, Some(&seen));
            }
            Step::Watching(watch) if watch.asked.is_none() && now >= watch.look_at => {
                watch.asked = Some(turn.ask(Effect::Read));
            }
            Step::Resting(until) if now >= *until => {
                self.step = Step::Reading(turn.ask(Effect::Read));
            }
            _ => {}
        }
        Phase::Claiming(self)
    }

    /// What stands in the depot, as it was just answered.
    fn present(mut self, turn: &mut Turn<'_, V>, present: Option<(Mark, V)>, watched: bool) -> Phase<V> {
        self.heard = turn.now.mono;
        self.failures = 0;
        let Some((mark, version)) = present else {
            return self.swap(turn, None);
        };
        if mark.object != turn.me.object {
            return self.failed(turn, Failure::Denied);
        }
        if let Some(wrote) = self.unsure.take_if(|wrote| wrote.mark == mark)
            && self.is_fresh(turn, &wrote)
        {
            return self.hold(turn, wrote, version);
        }
        let seen = Seen {
            mark,
            version,
            alive: watched,
        };
        self.contain(turn, seen)
    }

    /// First of all our history must contain what was witnessed, or give it up with its controllers' word.
    fn contain(mut self, turn: &mut Turn<'_, V>, seen: Seen<V>) -> Phase<V> {
        let ours = turn.me.newest;
        let (seq, head) = (seen.mark.seq, seen.mark.head);
        if (seq, head) == (ours.seq, ours.record) || self.found == Some((seq, head)) {
            return self.holder(turn, seen);
        }
        let ask = turn.ask(|ask, _| Effect::Find(ask, seq, head));
        self.step = Step::Finding(ask, seen);
        Phase::Claiming(self)
    }

    /// Then nobody else may hold it.
    fn holder(mut self, turn: &mut Turn<'_, V>, seen: Seen<V>) -> Phase<V> {
        if seen.mark.holder.is_none() {
            return self.swap(turn, Some(&seen));
        }
        let mark = Box::new(seen.mark.clone());
        let ask = turn.ask(|ask, within| Effect::Recall(ask, mark, within));
        self.step = Step::Recalling(ask, seen);
        Phase::Claiming(self)
    }

    /// Held, and not by what we wrote.
    fn stranger(mut self, turn: &mut Turn<'_, V>, seen: Seen<V>) -> Phase<V> {
        if seen.alive {
            return self.refuse_live(turn, seen.mark);
        }
        let Some(id) = seen.mark.holder.as_ref().map(|holder| holder.id) else {
            return self.swap(turn, Some(&seen));
        };
        if id == turn.me.id {
            // A copy of ourselves under our name: that we run says nothing of it.
            return self.watch(turn, seen);
        }
        let ask = turn.ask(|ask, within| Effect::Look(ask, id, within));
        self.step = Step::Looking(ask, seen);
        Phase::Claiming(self)
    }

    /// Waits for the lease of whoever may or may not run, from now: the mark stood when its answer came.
    fn watch(mut self, turn: &mut Turn<'_, V>, seen: Seen<V>) -> Phase<V> {
        let lease = seen.mark.holder.as_ref().map(|holder| holder.lease);
        let lease = lease.unwrap_or_default();
        let now = turn.now.mono;
        self.step = Step::Watching(Watch {
            seen,
            over: now.after(Terms::outlives(lease)),
            look_at: now.after(Terms::look(lease)),
            asked: None,
        });
        Phase::Claiming(self)
    }

    fn watched(
        mut self,
        turn: &mut Turn<'_, V>,
        mut watch: Watch<V>,
        answer: Result<Option<(Mark, V)>, Failure>,
    ) -> Phase<V> {
        match answer {
            Ok(present) if present.as_ref().map(|(_, version)| version) != Some(&watch.seen.version) => {
                return self.present(turn, present, true);
            }
            Ok(_) => self.heard = turn.now.mono,
            // The swap at the end of the wait will tell.
            Err(_) => {}
        }
        let lease = watch.seen.mark.holder.as_ref().map(|holder| holder.lease);
        watch.look_at = turn.now.mono.after(Terms::look(lease.unwrap_or_default()));
        watch.asked = None;
        self.step = Step::Watching(watch);
        self.tick(turn)
    }

    fn swap(mut self, turn: &mut Turn<'_, V>, seen: Option<&Seen<V>>) -> Phase<V> {
        let mark = seen.map(|seen| &seen.mark);
        let ours = mark
            .and_then(|mark| mark.holder.as_ref())
            .filter(|holder| holder.id == turn.me.id);
        turn.me.beat = turn.me.beat.max(ours.map_or(0, |holder| holder.beat));
        let epoch = mark.map_or(0, |mark| mark.epoch).max(turn.me.newest.epoch);
        let epoch = match self.purpose {
            Purpose::Rest => epoch,
            Purpose::Wake => epoch.saturating_add(1),
        };
        let wrote = Wrote {
            mark: turn.mark(epoch, true),
            sent: turn.now.mono,
        };
        let (mark, expected) = (
            Box::new(wrote.mark.clone()),
            seen.map(|seen| seen.version.clone()),
        );
        let ask = turn.ask(|ask, within| Effect::Swap(ask, mark, expected, within));
        self.step = Step::Swapping(ask, wrote);
        Phase::Claiming(self)
    }

    fn swapped(
        mut self,
        turn: &mut Turn<'_, V>,
        wrote: Wrote,
        answer: Result<Swapped<V>, Failure>,
    ) -> Phase<V> {
        self.tries = self.tries.saturating_add(1);
        match answer {
            Ok(Swapped::Done(version)) if self.is_fresh(turn, &wrote) => self.hold(turn, wrote, version),
            // So late that little is left of the lease: once more.
            Ok(Swapped::Done(version)) => self.present(turn, Some((wrote.mark, version)), false),
            Ok(Swapped::Conflict(Some((mark, _)))) if self.tries >= MAX_TRIES => self.refuse_live(turn, mark),
            Ok(Swapped::Conflict(None)) if self.tries >= MAX_TRIES => self.failed(turn, Failure::Denied),
            Ok(Swapped::Conflict(present)) => self.present(turn, present, false),
            Err(failure) => {
                if failure == Failure::Unknown {
                    self.unsure = Some(wrote);
                }
                self.failed(turn, failure)
            }
        }
    }

    /// Whether enough of a lease is left to begin with.
    fn is_fresh(&self, turn: &Turn<'_, V>, wrote: &Wrote) -> bool {
        self.tries >= MAX_TRIES || turn.now.mono.since(wrote.sent) <= turn.me.terms.renewal()
    }

    fn hold(self, turn: &mut Turn<'_, V>, wrote: Wrote, version: V) -> Phase<V> {
        turn.say(Notice::Covered(wrote.mark.seq));
        turn.say(if self.without {
            Notice::Renewed
        } else {
            Notice::Verdict(Verdict::Agrees(wrote.mark.epoch))
        });
        // One that was told to go on without is awake.
        let rests = self.purpose == Purpose::Rest && !self.without;
        Hold::begin(wrote, version, rests).on(turn, Input::Tick)
    }

    fn failed(mut self, turn: &mut Turn<'_, V>, failure: Failure) -> Phase<V> {
        let now = turn.now.mono;
        let silent = failure == Failure::Denied || now.since(self.heard) > CLAIM_PATIENCE;
        if silent && !self.without {
            if turn.me.terms.strength() == manifest::Witness::Required {
                return self.refuse(turn, Verdict::Missing);
            }
            turn.say(Notice::Verdict(Verdict::Absent));
            self.without = true;
            // It raises no epoch later that it has long begun.
            self.purpose = Purpose::Rest;
        }
        let terms = &turn.me.terms;
        let rest = if self.without {
            terms.renewal()
        } else {
            terms.retry(self.failures)
        };
        self.failures = self.failures.saturating_add(1);
        self.step = Step::Resting(now.after(rest));
        Phase::Claiming(self)
    }

    fn refuse_older(self, turn: &mut Turn<'_, V>, mark: Mark) -> Phase<V> {
        let is_newer = mark.seq > turn.me.newest.seq;
        let evidence = turn.evidence(Some(mark));
        self.refuse(
            turn,
            if is_newer {
                Verdict::Newer(evidence)
            } else {
                Verdict::Diverged(evidence)
            },
        )
    }

    fn refuse_live(self, turn: &mut Turn<'_, V>, mark: Mark) -> Phase<V> {
        let evidence = turn.evidence(Some(mark));
        self.refuse(turn, Verdict::Live(evidence))
    }

    fn refuse(self, turn: &mut Turn<'_, V>, verdict: Verdict) -> Phase<V> {
        match verdict.evidence() {
            Some(evidence) if self.without => {
                let evidence = Box::new(evidence.clone());
                turn.say(Notice::Lost(evidence.clone()));
                Phase::Lost(evidence)
            }
            _ => {
                turn.say(Notice::Verdict(verdict));
                Phase::Idle(self.traces())
            }
        }
    }

    pub(super) fn wait_until(&self) -> Option<Mono> {
        match &self.step {
            Step::Watching(watch) if watch.asked.is_none() => Some(watch.over.min(watch.look_at)),
            Step::Watching(watch) => Some(watch.over),
            Step::Resting(until) => Some(*until),
            Step::Reading(_)
            | Step::Finding(..)
            | Step::Recalling(..)
            | Step::Looking(..)
            | Step::Swapping(..) => None,
        }
    }

    pub(super) const fn is_without(&self) -> bool {
        self.without
    }

    pub(super) const fn traces(&self) -> Traces {
        if self.unsure.is_some() || matches!(self.step, Step::Swapping(..)) {
            Traces::Left
        } else {
            Traces::None
        }
    }
}
