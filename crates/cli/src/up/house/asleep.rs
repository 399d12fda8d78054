//! The house while the object sleeps: proposals are decided at the door, and a permit starts a machine.

use anyhow::Context as _;
use suijuris_api::{Event, verdict};
use suijuris_core::codec;
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::lineage::{Decision, Fired, Refused};
use suijuris_custody::claim::Answer;
use suijuris_door::proposal::dealt_with;
use suijuris_door::{Proposal, problems};
use suijuris_link::ToRuntime;
use suijuris_store::{Depth, Sizes, Writer};
use suijuris_vehicle::Driver as _;
use tokio::time::Instant;

use crate::up::awake::Awake;
use crate::up::door::Visitor;
use crate::up::dormant::Asleep;
use crate::up::machine;
use crate::{claiming, here};

use super::{House, Stay, cause};

impl House {
    pub(super) async fn visitor(&mut self, visitor: Visitor) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        let Some(door) = self.door() else {
            return self.hand_over(visitor).await;
        };
        match door.authenticate(visitor.credentials(), |_| Ok(visitor.request.clone()), reading) {
            Ok(proposal) => {
                let detail = visitor.summary();
                self.propose(proposal, detail, Some(visitor)).await.map(drop)
            }
            Err(problem) => {
                self.turn_away(visitor, problem);
                Ok(())
            }
        }
    }

    /// Decides a proposal to wake; begins the activation, or goes on with it, or turns the visitor away. Nothing while
    /// awake.
    pub(super) async fn propose(
        &mut self,
        proposal: Proposal,
        detail: String,
        visitor: Option<Visitor>,
    ) -> anyhow::Result<Option<suijuris_api::event::Verdict>> {
        let Some(verdict) = self.decide(&proposal) else {
            return Ok(None);
        };
        self.say.proposal(
            Action::Wake,
            proposal.principal.as_str(),
            Some(proposal.trigger.kind.as_str()),
            &detail,
        );
        let words = verdict::verdict(verdict.decision(), "door");
        self.say.event(Event::Verdict(words.clone()));
        match verdict {
            Verdict::Permit(_, _) if self.frozen().is_some() => {
                self.thaw(cause(proposal)).await?;
                if let Some(visitor) = visitor {
                    self.hand_over(visitor).await?;
                }
            }
            Verdict::Permit(_, _) => match (self.backoff_remaining(), visitor) {
                // Those whom a machine left behind are tried again at once, a bounded number of times.
                (Some(left), Some(visitor)) if visitor.machines == 0 => {
                    let problem = problems::backing_off(self.claim.object(), left);
                    self.turn_away(visitor, problem);
                }
                (_, visitor) => Box::pin(self.wake(proposal, visitor)).await?,
            },
            Verdict::Refuse(decision) => self.refuse(&decision, proposal.fired, visitor)?,
        }
        Ok(Some(words))
    }

    /// The verdict of the dormant object; none while awake.
    pub(super) fn decide(&mut self, proposal: &Proposal) -> Option<Verdict> {
        let reading = self.clock.reading();
        match &mut self.stay {
            Stay::Asleep(asleep) => Some(asleep.decide(proposal, reading)),
            Stay::Awake(awake) => awake
                .frozen
                .as_mut()
                .map(|frozen| frozen.decide(proposal, reading)),
            Stay::Moving => None,
        }
    }

    /// A refusal is recorded, or kept while the machine is frozen, and the visitor is turned away.
    fn refuse(&mut self, decision: &Decision, fired: Fired, visitor: Option<Visitor>) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        let problem = self.door().map(|door| door.problem(decision));
        if let Stay::Asleep(asleep) = &mut self.stay {
            let recorded = asleep.refused(decision, fired, reading)?;
            self.say_refused(&recorded);
        } else if let Some(frozen) = self.frozen() {
            frozen.refused(decision, fired, reading);
        }
        if let (Some(visitor), Some(problem)) = (visitor, problem) {
            self.turn_away(visitor, problem);
        }
        Ok(())
    }

    pub(super) fn say_refused(&self, recorded: &[Refused]) {
        for refused in recorded {
            self.say.event(verdict::refused(refused));
        }
    }

    pub(super) async fn wake(&mut self, proposal: Proposal, visitor: Option<Visitor>) -> anyhow::Result<()> {
        let Stay::Asleep(asleep) = std::mem::replace(&mut self.stay, Stay::Moving) else {
            return Ok(());
        };
        self.post.pause();
        // The runtime takes the lock; what is not recorded yet is recorded before.
        let mut asleep = asleep;
        let recorded = asleep.record_refusals(Fired::new(), self.clock.reading(), true)?;
        self.say_refused(&recorded);
        self.began = Some(asleep.look(|state| state.head().epoch));
        drop(asleep);
        let grant = self.claim.lend(&self.clock, &self.relay).await?;
        let claims = grant.holder.is_some();
        let network = self.bundle.manifest.workload.network;
        let starting = machine::start(
            &self.driver,
            &self.place,
            &self.inherited,
            network,
            (cause(proposal), self.server),
            grant,
        );
        // The claim is won beside the machine's start, and before its workload's.
        let (started, granted) = tokio::join!(starting, self.claim.claim_for(&self.clock));
        match started {
            Ok(running) => {
                let detail = self.driver.describe().to_string();
                self.say.event(Event::Machine {
                    state: "started".to_owned(),
                    detail,
                });
                let output = running.forward_output(&self.say);
                if claims {
                    let grant = granted.as_ref().map(codec::encode).transpose()?.map(Into::into);
                    // A runtime that has just left asks nothing either: the end of its machine follows.
                    let _ = running.link.queue(ToRuntime::Granted { grant });
                }
                let awake = Awake::new(running, output);
                self.stay = Stay::Awake(Box::new(awake));
                if let Some(visitor) = visitor {
                    self.hand_over(visitor).await?;
                }
                Ok(())
            }
            Err(error) => {
                self.say.error("machine_failed", &format!("{error:#}"));
                self.fall_asleep().await?;
                if let Some(visitor) = visitor {
                    let problem =
                        suijuris_api::Problem::new(503, "machine_failed", "The machine cannot be started");
                    let detail = "its owner finds the cause in the events of `up`";
                    self.turn_away(visitor, problem.with_detail(detail));
                }
                Ok(())
            }
        }
    }

    pub(super) async fn timer(&mut self) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        if let Stay::Asleep(asleep) = &mut self.stay {
            let recorded = asleep.record_refusals(Fired::new(), reading, false)?;
            self.say_refused(&recorded);
        }
        let due = self.pending().due;
        if due.is_empty() || self.backoff_remaining().is_some() {
            return Ok(());
        }
        if let Some(proposal) = Proposal::timers(&due) {
            let names: Vec<_> = due.iter().map(|(name, _)| name.to_string()).collect();
            return self.propose(proposal, names.join(", "), None).await.map(drop);
        }
        // Missed occurrences that do not fire are only noted.
        if let Some(frozen) = self.frozen() {
            frozen.skip(dealt_with(&due));
        } else if let Stay::Asleep(asleep) = &mut self.stay {
            asleep.record_refusals(dealt_with(&due), reading, false)?;
        }
        Ok(())
    }

    /// The machine is gone; the object sleeps, or is found to have been left.
    pub(super) async fn fall_asleep(&mut self) -> anyhow::Result<()> {
        let (writer, _recovery) = Writer::open(&self.home, Depth::Tail, Sizes::default())
            .context("the object cannot be opened after its machine ended")?;
        let reading = self.clock.reading();
        self.claim.take_back(&self.clock).await?;
        match self.claim.rest(&writer, reading.wall).await? {
            Answer::Ours => {}
            Answer::Unasked(why) => claiming::say_unasked(&self.say, &why),
            Answer::Refused(copy) => {
                self.say.event(copy.event());
                self.lost = true;
                return Ok(());
            }
        }
        let witnessed = self.claim.witnessed();
        let asleep = Asleep::new(writer, self.prepared.clone(), here::host(), witnessed, reading)?;
        let epoch = asleep.look(|state| state.head().epoch);
        match self.began.take() {
            Some(began) if epoch == began => drop(self.back_off.failed(Instant::now(), None)),
            _ => self.back_off.succeeded(),
        }
        self.stay = Stay::Asleep(Box::new(asleep));
        self.prewarm();
        self.publish();
        self.ask_again();
        Ok(())
    }
}
