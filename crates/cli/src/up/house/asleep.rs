//! The house while the object sleeps: proposals are decided at the door, and a permit starts a machine.

use anyhow::Context as _;
use suijuris_api::{Event, verdict};
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::lineage::{Fired, Refused};
use suijuris_core::time::Now;
use suijuris_store::{Depth, Sizes, Writer};
use suijuris_vehicle::Driver as _;

use crate::up::awake::Awake;
use crate::up::door::{self, Asleep, Proposal, Visitor};
use crate::up::machine;

use super::{House, Stay, host, launch};

impl House {
    pub(super) async fn visitor(&mut self, visitor: Visitor) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        let now = match &mut self.stay {
            Stay::Asleep(asleep) => asleep.now(reading),
            Stay::Awake(awake) if awake.frozen.is_some() => Now {
                at: reading.wall,
                quality: reading.quality,
            },
            _ => return self.hand_over(visitor).await,
        };
        let proposal = match door::hear(&visitor, &self.bundle, &self.callers, &self.id, now) {
            Ok(proposal) => proposal,
            Err(problem) => {
                visitor.refuse(problem).await;
                return Ok(());
            }
        };
        if self.is_frozen() {
            self.thaw(launch(proposal), &visitor.summary()).await?;
            return self.hand_over(visitor).await;
        }
        self.propose(proposal, visitor.summary(), Some(visitor))
            .await
            .map(drop)
    }

    /// Decides a proposal to wake; begins the activation or turns the visitor away.
    pub(super) async fn propose(
        &mut self,
        proposal: Proposal,
        detail: String,
        visitor: Option<Visitor>,
    ) -> anyhow::Result<Option<suijuris_api::event::Verdict>> {
        let reading = self.clock.reading();
        let Stay::Asleep(asleep) = &mut self.stay else {
            return Ok(None);
        };
        self.say.proposal(
            Action::Wake,
            proposal.principal.as_str(),
            Some(proposal.trigger.kind.as_str()),
            &detail,
        );
        let verdict = asleep.decide(&proposal, reading);
        let words = verdict::verdict(verdict.decision(), "door");
        self.say.event(Event::Verdict(words.clone()));
        match verdict {
            Verdict::Permit(_, _) => self.wake(proposal, visitor).await?,
            Verdict::Refuse(decision) => {
                let problem = asleep.problem(&decision);
                let recorded = asleep.refused(*decision, proposal.fired, reading)?;
                self.say_refused(&recorded);
                if let Some(visitor) = visitor {
                    visitor.refuse(problem).await;
                }
            }
        }
        Ok(Some(words))
    }

    pub(super) fn say_refused(&self, recorded: &[Refused]) {
        for refused in recorded {
            self.say.event(suijuris_runtime::remain::refused_event(refused));
        }
    }

    pub(super) async fn wake(&mut self, proposal: Proposal, visitor: Option<Visitor>) -> anyhow::Result<()> {
        let Stay::Asleep(asleep) = std::mem::replace(&mut self.stay, Stay::Moving) else {
            return Ok(());
        };
        // The runtime takes the lock; what is not recorded yet is recorded before.
        let mut asleep = asleep;
        let recorded = asleep.record_refusals(Fired::new(), self.clock.reading(), true)?;
        self.say_refused(&recorded);
        drop(asleep);
        let launch = launch(proposal);
        let network = self.bundle.manifest.workload.network;
        let started = machine::start(&self.driver, &self.place, &self.inherited, network, &launch).await;
        match started {
            Ok(mut running) => {
                let detail = self.driver.describe().to_string();
                self.say.event(Event::Machine {
                    state: "started".to_owned(),
                    detail,
                });
                let output = running.forward_output(&self.say);
                let awake = Awake::new(running, output);
                self.stay = Stay::Awake(Box::new(awake));
                if let Some(visitor) = visitor {
                    self.hand_over(visitor).await?;
                }
                Ok(())
            }
            Err(error) => {
                self.say.error("machine_failed", &format!("{error:#}"));
                self.fall_asleep()?;
                if let Some(visitor) = visitor {
                    let problem =
                        suijuris_api::Problem::new(503, "machine_failed", "The machine cannot be started");
                    visitor.refuse(problem.with_detail(format!("{error:#}"))).await;
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
        if due.is_empty() {
            return Ok(());
        }
        let proposal = Proposal::timers(&due);
        let detail = due
            .iter()
            .map(|(name, _)| name.to_string())
            .collect::<Vec<_>>()
            .join(", ");
        let skipped = due.iter().all(|(_, due)| due.fire.is_empty());
        match &mut self.stay {
            // Missed occurrences that do not fire are only noted.
            Stay::Asleep(asleep) if skipped => {
                asleep.record_refusals(proposal.fired, reading, false).map(drop)
            }
            Stay::Asleep(_) => self.propose(proposal, detail, None).await.map(drop),
            _ => self.thaw(launch(proposal), &detail).await,
        }
    }

    /// The machine is gone; the object sleeps, or is found to have been left.
    pub(super) fn fall_asleep(&mut self) -> anyhow::Result<()> {
        let (writer, _recovery) = Writer::open(&self.home, Depth::Tail, Sizes::default())
            .context("the object cannot be opened after its machine ended")?;
        let asleep = Asleep::new(writer, self.bundle.clone(), host(), self.clock.reading())?;
        self.stay = Stay::Asleep(Box::new(asleep));
        self.settle_down();
        Ok(())
    }
}
