//! Who comes: clients, timers, owners; and what owners ask for beside.

use suijuris_core::activation::requests::{self, Due, Kind, Meanwhile, RequestId, Verdict, Way};
use suijuris_core::activation::{Activation, By, Event as Told, Proposal, ProposalId};
use suijuris_core::witness::Mono;

use super::bugs::Bug;
use super::machine::Lock;
use super::plan::SECOND;
use super::world::{Event, World};

const BYS: [By; 6] = [
    By::Request,
    By::Request,
    By::Request,
    By::Timer,
    By::Message,
    By::Memory,
];
const TERMS: requests::Terms = requests::Terms::DEFAULT;

/// Proposals of owners have numbers from here.
const OWNERS: u64 = 1 << 40;

impl World {
    pub(crate) const fn is_owners(id: ProposalId) -> bool {
        id.0 >= OWNERS
    }

    pub(crate) fn client(&mut self, at: usize) {
        if self.is_quiet() {
            return;
        }
        let every = if self.is_faulty() {
            self.plan.clients_every
        } else {
            20 * SECOND
        };
        let delay = self.chance.within(every / 10, every);
        self.after(delay, Event::Client(at));
        let by = BYS[self.chance.below(BYS.len())];
        self.propose(at, by);
    }

    /// The door permits somebody.
    pub(crate) fn propose(&mut self, at: usize, by: By) {
        if self.objects[at].activation.is_none() {
            return;
        }
        self.ids += 1;
        let number = if by == By::Owner {
            OWNERS + self.ids
        } else {
            self.ids
        };
        let proposal = Proposal::new(number, by);
        self.objects[at].clients.insert(proposal.id, self.now);
        self.tell(at, Told::Proposed(proposal));
        if self.faulty(20) {
            self.objects[at].clients.remove(&proposal.id);
            self.told_soon(at, Told::Gone(proposal.id));
        }
    }

    /// Whoever is to be decided about again is let in again, or not.
    pub(crate) fn returns(&mut self, at: usize, proposal: Proposal) {
        let refused = proposal.by != By::Owner && self.faulty(100);
        if refused || !self.objects[at].clients.contains_key(&proposal.id) {
            self.objects[at].clients.remove(&proposal.id);
            return;
        }
        self.tell(at, Told::Proposed(proposal));
    }

    /// An owner asks for something.
    pub(crate) fn request(&mut self, at: usize) {
        if self.is_quiet() {
            return;
        }
        let every = if self.is_faulty() {
            self.plan.requests_every
        } else {
            60 * SECOND
        };
        let delay = self.chance.within(every / 10, every);
        self.after(delay, Event::Request(at));
        let kinds = [
            Kind::Wake,
            Kind::Sleep,
            Kind::Write,
            Kind::Write,
            Kind::Amend,
            Kind::Status,
        ];
        let kind = kinds[self.chance.below(kinds.len())];
        self.ids += 1;
        let id = RequestId(self.ids);
        let object = &mut self.objects[at];
        let Some(activation) = &object.activation else {
            return;
        };
        let verdict = object.queue.offer(id, kind, activation, Mono(self.now), &TERMS);
        self.say(|_| format!("{at}: {kind:?} {id:?}: {verdict:?}"));
        if self.bug == Some(Bug::WritesAnywhere) && kind == Kind::Write {
            return self.write_at_rest(at);
        }
        self.objects[at].requests.insert(id, self.now);
        self.judged(at, id, kind, verdict);
        self.requests_due(at);
    }

    fn judged(&mut self, at: usize, id: RequestId, kind: Kind, verdict: Verdict) {
        match verdict {
            Verdict::Queue(_) => return,
            Verdict::Accept(Way::Runtime(run)) => {
                let Some(machine) = self.called(at, run).filter(|machine| !machine.hung) else {
                    return;
                };
                let machine = machine.id;
                if kind == Kind::Write {
                    self.write(at, machine);
                } else {
                    self.drain(at, machine);
                }
                if self.faulty(100) || !self.objects[at].queue.answered(id) {
                    return;
                }
            }
            Verdict::Accept(Way::AtRest) => self.write_at_rest(at),
            Verdict::Accept(Way::Propose) => self.propose(at, By::Owner),
            Verdict::Accept(Way::Stop | Way::Answer) | Verdict::Ignore | Verdict::Deny(_) => {}
        }
        if self.objects[at].requests.remove(&id).is_none() && self.objects[at].activation.is_some() {
            self.break_by(format!("{at}: {id:?} is answered a second time"));
        }
        self.tally.requests += 1;
    }

    fn write_at_rest(&mut self, at: usize) {
        let disk = &mut self.objects[at].disk;
        if disk.lock == Lock::Process {
            disk.writes += 1;
            self.tally.acknowledged += 1;
        } else {
            let lock = disk.lock;
            self.break_by(format!("{at}: written at rest while {lock:?} has the store"));
        }
    }

    /// What the queue has to say now.
    pub(crate) fn requests_due(&mut self, at: usize) {
        for _ in 0..1_000 {
            let object = &mut self.objects[at];
            let Some(activation) = &object.activation else {
                return;
            };
            let Some(due) = object.queue.next(activation, Mono(self.now), &TERMS) else {
                return;
            };
            self.say(|_| format!("{at}: {due:?}"));
            match due {
                Due::Answer(id, kind, verdict) => self.judged(at, id, kind, verdict),
                Due::Meanwhile(Meanwhile::Unlock) if self.chance.happens(500) => self.propose(at, By::Owner),
                Due::Meanwhile(_) => self.tell(at, Told::GiveUp),
            }
        }
        let phase = self.objects[at].activation.as_ref().map(Activation::phase);
        self.break_by(format!("{at}: the queue has no end in {phase:?}"));
    }
}
