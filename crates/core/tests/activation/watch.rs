//! What must hold of one activation at every step, seen from outside: which events went in, which effects came out.

use std::collections::BTreeMap;

use suijuris_core::activation::{
    Activation, Answer, Ask, Attached, Claimed, Effect, Event, Phase, ProposalId, Refusal, Run, Terms, Word,
};
use suijuris_core::witness::Purpose;

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    /// The machine that was ordered or attached to, until its end was told.
    alive: Option<Machine>,
    /// Proposals that are not answered; whether they were delivered.
    pub(crate) open: BTreeMap<ProposalId, bool>,
    lost: bool,
    stopped: bool,
}

#[derive(Debug, Clone)]
struct Machine {
    run: Run,
    attached: bool,
    started: bool,
    claim: Option<Ask>,
    won: bool,
    may_wake: bool,
    woke: bool,
}

impl Watch {
    /// An event is about to be told; whether it makes sense to tell it: a proposal is not made twice.
    pub(crate) fn event(&mut self, event: Event) -> bool {
        match event {
            Event::Proposed(proposal) => return self.open.insert(proposal.id, false).is_none(),
            Event::Gone(id) => drop(self.open.remove(&id)),
            Event::Stop(_) => self.stopped = true,
            Event::Exited(run) | Event::StartFailed(run) | Event::Attached(run, Attached::Nothing) => {
                let ended = self.alive.take_if(|machine| machine.run == run).is_some();
                // What it was handed and had not taken is ours again.
                self.open.values_mut().for_each(|delivered| *delivered &= !ended);
            }
            Event::Started(run) => self.with(run, |machine| machine.started = true),
            Event::Claimed(ask, Claimed::Won) => {
                if let Some(machine) = &mut self.alive
                    && machine.claim == Some(ask)
                {
                    machine.won = true;
                }
            }
            Event::Attached(run, attached) => self.with(run, |machine| {
                if std::mem::replace(&mut machine.attached, true) {
                    return;
                }
                machine.started = true;
                machine.may_wake = !matches!(attached, Attached::Waiting | Attached::Suspended);
                machine.woke = matches!(attached, Attached::Serving | Attached::Draining);
            }),
            Event::Heard(run, Word::Woke | Word::Serving) => self.with(run, |machine| {
                machine.woke |= machine.may_wake;
            }),
            Event::Heard(run, Word::Taken(id)) => {
                let here = self.alive.as_ref().is_some_and(|machine| machine.run == run);
                if here && self.open.get(&id) == Some(&true) {
                    self.open.remove(&id);
                }
            }
            _ => {}
        }
        true
    }

    fn with(&mut self, run: Run, then: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.alive.as_mut().filter(|machine| machine.run == run) {
            then(machine);
        }
    }

    /// What came of it.
    pub(crate) fn effects(
        &mut self,
        activation: &Activation,
        effects: &[Effect],
        terms: &Terms,
    ) -> Result<(), String> {
        let claim = effects.iter().find_map(|effect| match effect {
            Effect::Claim(ask, Purpose::Wake) => Some(*ask),
            _ => None,
        });
        for effect in effects {
            self.effect(*effect, claim, terms)
                .map_err(|why| format!("{effect:?}: {why}"))?;
        }
        self.lost |= activation.phase() == Phase::Lost;
        self.agrees(activation)
    }

    fn effect(&mut self, effect: Effect, claim: Option<Ask>, terms: &Terms) -> Result<(), String> {
        let allowed = match effect {
            Effect::Kill(_) | Effect::Report(_) | Effect::Answer(_, Answer::Refused(_)) => true,
            _ => !self.lost,
        };
        if !allowed {
            return Err("done for an object that is lost".to_owned());
        }
        match effect {
            Effect::Start(run, _) | Effect::Attach(run) => self.begins(effect, run, claim),
            Effect::Resume(run, _) => {
                let machine = self.machine(run)?;
                (machine.claim, machine.won) = (claim, false);
                (machine.started, machine.may_wake, machine.woke) = (false, false, false);
                claim.map(drop).ok_or_else(|| "without a claim".to_owned())
            }
            // For a machine that was attached to.
            Effect::Claim(ask, Purpose::Wake) => {
                if let Some(machine) = self.alive.as_mut().filter(|machine| machine.claim.is_none()) {
                    machine.claim = Some(ask);
                }
                Ok(())
            }
            Effect::Claim(_, Purpose::Rest) => Ok(()),
            Effect::HandOver(run) => {
                let machine = self.machine(run)?;
                let ready = machine.won && machine.started;
                machine.may_wake = true;
                ready
                    .then_some(())
                    .ok_or_else(|| "before claim and machine are there".to_owned())
            }
            Effect::Deliver(run, id) => {
                let woke = self.machine(run)?.woke;
                let before = self.open.insert(id, true);
                (woke && before == Some(false))
                    .then_some(())
                    .ok_or_else(|| format!("woke {woke}, open {before:?}"))
            }
            Effect::Kill(run)
            | Effect::Stop(run)
            | Effect::Sleep(run)
            | Effect::Suspend(run)
            | Effect::Probe(run) => self.machine(run).map(drop),
            Effect::Answer(proposal, answer) => self.answered(proposal.id, answer, terms),
            Effect::RecordEnd(_) if self.alive.is_some() => Err(format!("{:?} is alive", self.alive)),
            Effect::RecordEnd(_) | Effect::Publish(_) | Effect::Look | Effect::Report(_) => Ok(()),
        }
    }

    fn begins(&mut self, effect: Effect, run: Run, claim: Option<Ask>) -> Result<(), String> {
        if let Some(before) = &self.alive {
            return Err(format!("{before:?} is alive"));
        }
        if self.stopped {
            return Err("after the host's stop".to_owned());
        }
        self.alive = Some(Machine {
            run,
            attached: matches!(effect, Effect::Start(..)),
            started: false,
            claim,
            won: false,
            may_wake: false,
            woke: false,
        });
        let needed = matches!(effect, Effect::Start(..));
        (claim.is_some() || !needed)
            .then_some(())
            .ok_or_else(|| "without a claim".to_owned())
    }

    fn machine(&mut self, run: Run) -> Result<&mut Machine, String> {
        let alive = self.alive.as_mut().filter(|machine| machine.run == run);
        alive.ok_or_else(|| "no such machine".to_owned())
    }

    fn answered(&mut self, id: ProposalId, answer: Answer, terms: &Terms) -> Result<(), String> {
        if self.open.remove(&id).is_none() {
            return Err("nobody waits under that number".to_owned());
        }
        if let Answer::Refused(refusal @ (Refusal::Paused(_) | Refusal::NotRecorded(_))) = answer
            && refusal.retry_after() > Some(terms.pace.cap.max(terms.record_within))
        {
            return Err("longer than any pause".to_owned());
        }
        Ok(())
    }

    /// The machine's own view agrees with what was seen.
    fn agrees(&mut self, activation: &Activation) -> Result<(), String> {
        let phase = activation.phase();
        let forgotten =
            matches!(phase, Phase::Resting | Phase::Suspended | Phase::Lost) && !self.open.is_empty();
        if forgotten {
            return Err(format!("{phase:?}, and {:?} wait", self.open));
        }
        if !self.open.is_empty() && activation.deadline().is_none() {
            return Err(format!("{phase:?}, {:?} wait, and nothing is due", self.open));
        }
        if activation.is_over() {
            // Abandoned, if it had not ended.
            self.alive = None;
        }
        let (seen, said) = (
            self.alive.as_ref().map(|machine| machine.run),
            activation.machine(),
        );
        if seen != said {
            return Err(format!("{phase:?}: {seen:?} was seen, {said:?} is said"));
        }
        if activation.store_is_ours() && seen.is_some() {
            return Err("the store is ours, and a machine has it".to_owned());
        }
        Ok(())
    }

    /// Whether a machine is alive.
    pub(crate) const fn has_machine(&self) -> bool {
        self.alive.is_some()
    }
}
