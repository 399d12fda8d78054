//! What the lifecycle wants recorded, as records; each is durable before the next effect.

use suijuris_api::Event as Report;
use suijuris_core::lifecycle::Commit;
use suijuris_core::lineage::{Body, Decision, Dormant, Fired, Refused, Resumed, Seal, Woke};
use suijuris_core::manifest::SleepMode;
use suijuris_core::time::Span;
use suijuris_custody::terminate;
use suijuris_words::verdict;

use crate::lineage_writer::{self, Sign};

use super::LifecycleDriver;

/// What was counted is lost.
const CODE_RATES: &str = "rates_lost";

impl LifecycleDriver {
    pub(super) async fn commit(&mut self, commit: Commit) -> Result<(), lineage_writer::Error> {
        let resident = self.resident.clone();
        let (lineage, at) = (resident.lineage(), resident.now().at);
        match commit {
            Commit::Woke(decision) => {
                resident.reports().event(Report::Boot {
                    step: "commit".to_owned(),
                });
                let fired = std::mem::take(&mut self.fired);
                let done = lineage.begin(at, |next| {
                    Body::Woke(Box::new(Woke {
                        decision: *decision,
                        next,
                        fired,
                    }))
                })?;
                self.await_mark(done.seq);
                resident.reports().event(Report::Woke {
                    epoch: done.epoch,
                    seq: done.seq,
                });
            }
            Commit::Resumed(decision) => {
                resident.restore_rates();
                let (paused, fired) = (resident.paused(), resident.launch_fired());
                let body = |next| {
                    Body::Resumed(Box::new(Resumed {
                        decision: *decision,
                        next,
                        paused,
                        fired,
                    }))
                };
                let done = lineage.begin(at, body)?;
                self.await_mark(done.seq);
                resident.reports().event(Report::Resumed {
                    epoch: done.epoch,
                    seq: done.seq,
                    paused_ms: paused.0,
                });
            }
            Commit::Refused(decision) => {
                let mut fired = std::mem::take(&mut self.fired);
                fired.extend(resident.launch_fired());
                let refused = Refused {
                    decision: *decision,
                    times: 1,
                    window: Span(0),
                    at: "runtime".to_owned(),
                    fired,
                };
                self.say_refused(&refused);
                if lineage.published(|state| state.head().phase.is_closed()) {
                    return Ok(());
                }
                lineage
                    .commit(Body::Refused(Box::new(refused)), at, Sign::Now)
                    .await?;
            }
            Commit::Dormant(decision, workload) => self.commit_dormancy(decision, workload).await?,
            Commit::Terminated(decision) => self.commit_end(&decision).await?,
            Commit::Seal => {
                self.keep_rates();
                let body = Seal {
                    fired: Fired::new(),
                    admitted: resident.take_admitted(),
                };
                lineage.commit(Body::Seal(body), at, Sign::Now).await?;
            }
        }
        Ok(())
    }

    /// Lets the mark of a durable activation follow beside what comes next, with the gate shut until it is there. One that
    /// never will be goes no further: the end of its lease ends the machine.
    fn await_mark(&mut self, seq: u64) {
        let resident = self.resident.clone();
        resident.activation_witnessed(false);
        self.tasks.spawn_local(async move {
            if resident.claim().may_serve_from(seq).await.is_ok() {
                resident.activation_witnessed(true);
            }
        });
    }

    async fn commit_dormancy(
        &self,
        decision: Box<Decision>,
        workload: String,
    ) -> Result<(), lineage_writer::Error> {
        let resident = &self.resident;
        let at = resident.now().at;
        self.record_refusals(true).await?;
        self.keep_rates();
        let reason = verdict::sleep_reason(&decision);
        let body = Dormant {
            decision: *decision,
            workload,
            admitted: resident.take_admitted(),
            suspend: self.sleep == SleepMode::Suspend,
        };
        let body = Body::Dormant(Box::new(body));
        let done = resident.lineage().commit(body, at, Sign::Now).await?;
        let seq = done.seq;
        resident.claim().await_mark(seq).await;
        let cut = resident.take_cut();
        resident.reports().event(Report::Dormant { seq, reason, cut });
        Ok(())
    }

    /// Nothing follows it, so all that is only counted comes before it.
    async fn commit_end(&self, decision: &Decision) -> Result<(), lineage_writer::Error> {
        let resident = &self.resident;
        self.record_refusals(true).await?;
        let (fired, admitted) = (Fired::new(), resident.take_admitted());
        if !admitted.is_empty() {
            let seal = Body::Seal(Seal { fired, admitted });
            let at = resident.now().at;
            resident.lineage().commit(seal, at, Sign::Now).await?;
        }
        let body = terminate::body(decision, resident.take_approvals());
        let at = resident.now().at;
        let done = resident.lineage().commit(body, at, Sign::Now).await?;
        resident.claim().await_mark(done.seq).await;
        resident.reports().event(Report::Terminated { seq: done.seq });
        resident.ended();
        Ok(())
    }

    fn keep_rates(&self) {
        if let Err(error) = self.resident.keep_rates() {
            self.resident.reports().event(Report::Error {
                code: CODE_RATES.to_owned(),
                message: format!("rates begin anew: what was counted cannot be written: {error}"),
            });
        }
    }

    async fn record_refusals(&self, all: bool) -> Result<(), lineage_writer::Error> {
        for refused in self.resident.take_refusals(all) {
            self.say_refused(&refused);
            let at = self.resident.now().at;
            self.resident
                .lineage()
                .commit(Body::Refused(Box::new(refused)), at, Sign::Now)
                .await?;
        }
        Ok(())
    }

    fn say_refused(&self, refused: &Refused) {
        self.resident.reports().event(verdict::refused(refused));
    }
}
