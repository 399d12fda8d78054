//! What the other commands ask of the house: wake, sleep, write, how is it.

use suijuris_api::agent::Patch;
use suijuris_api::control::{Reply, ToUp};
use suijuris_api::{Event, verdict};
use suijuris_core::decide::Verdict;
use suijuris_core::lineage::Fired;
use suijuris_core::time::Reading;
use suijuris_door::Proposal;
use suijuris_link::ToRuntime;
use suijuris_link::message::Json;
use suijuris_vehicle::machine::Signal;
use tokio::sync::oneshot;

use crate::sleeping::{self, Written};
use crate::up::desk::Errand;
use crate::up::dormant::Asleep;
use crate::up::say::Say;

use super::{House, LEAVE_WITHIN, Stay, cause};

impl House {
    pub(super) async fn errand(&mut self, errand: Errand) -> anyhow::Result<()> {
        let Errand { request, answer } = errand;
        if matches!(request, ToUp::Patch(_)) {
            self.unlock().await?;
        }
        let is_frozen = self.frozen().is_some();
        match (&mut self.stay, request) {
            (_, ToUp::Status) => {
                let _ = answer.send(self.status());
            }
            (Stay::Awake(_), ToUp::Sleep) if is_frozen => {
                let _ = answer.send(self.status());
            }
            (Stay::Awake(awake), ToUp::Sleep) => {
                let id = awake.expect(answer);
                let by = awake.owner.clone();
                awake.ask(id, ToRuntime::Sleep { id, by });
            }
            (Stay::Awake(awake), ToUp::Patch(patch)) => {
                let id = awake.expect(answer);
                let (by, patch) = (awake.owner.clone(), Json(patch));
                awake.ask(id, ToRuntime::Patch { id, by, patch });
            }
            (Stay::Asleep(asleep), ToUp::Wake) => {
                let proposal = Proposal::manual(asleep.owner());
                self.woken(proposal, answer).await?;
            }
            (Stay::Awake(awake), ToUp::Wake) => match &awake.frozen {
                Some(frozen) => {
                    let proposal = Proposal::manual(frozen.owner());
                    self.woken(proposal, answer).await?;
                }
                None => {
                    let _ = answer.send(self.status());
                }
            },
            (Stay::Asleep(_), ToUp::Sleep) => {
                let _ = answer.send(self.status());
            }
            (Stay::Asleep(asleep), ToUp::Patch(patch)) => {
                let wakes = wakes(asleep, &patch);
                let owner = asleep.owner();
                let mut reply = write_asleep(asleep, &patch, self.clock.reading(), &self.say);
                if let Reply::Patched { seq, .. } = reply
                    && !self.holding.acknowledged(seq, &self.bundle.manifest).await
                {
                    reply = Reply::Error {
                        code: "unwitnessed".to_owned(),
                        message:
                            "the write is durable here, but the witness does not know it: it may be lost"
                                .to_owned(),
                    };
                }
                let written = matches!(reply, Reply::Patched { .. });
                let _ = answer.send(reply);
                if let Some(field) = wakes.filter(|_| written) {
                    self.propose(Proposal::memory(owner, field.clone()), field, None)
                        .await?;
                }
            }
            (Stay::Moving, _) => {}
        }
        Ok(())
    }

    /// An owner wakes the object; answered once the object has decided and the record is durable.
    async fn woken(&mut self, proposal: Proposal, answer: oneshot::Sender<Reply>) -> anyhow::Result<()> {
        let words = self.propose(proposal, String::new(), None).await?;
        match &mut self.stay {
            // Permitted at the door.
            Stay::Awake(awake) if awake.frozen.is_none() => awake.waking.push(answer),
            _ => {
                let _ = answer.send(words.map_or_else(|| self.status(), Reply::Verdict));
            }
        }
        Ok(())
    }

    /// Before an owner's write: a frozen machine holds the lock. Where the object lets the owner wake it, it is thawed
    /// and writes itself; otherwise the machine is given up, which is all that its runtime would do.
    async fn unlock(&mut self) -> anyhow::Result<()> {
        let Some(frozen) = self.frozen() else {
            return Ok(());
        };
        let proposal = Proposal::manual(frozen.owner());
        if let Some(Verdict::Permit(..)) = self.decide(&proposal) {
            return self.thaw(cause(proposal)).await;
        }
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        let exit = awake.running.machine.stop(Signal::KILL, LEAVE_WITHIN).await;
        self.machine_ended(exit).await
    }

    pub(super) fn status(&self) -> Reply {
        let phase = match &self.stay {
            Stay::Asleep(_) => "dormant",
            Stay::Awake(awake) if awake.frozen.is_some() => "suspended",
            _ => "active",
        };
        Reply::Status {
            phase: phase.to_owned(),
            pid: std::process::id(),
            url: self.url.clone(),
        }
    }
}

/// The first field of the patch whose changes propose a wake.
fn wakes(asleep: &mut Asleep, patch: &Patch) -> Option<String> {
    let schema = &asleep.door().bundle().manifest.memory;
    let names = patch.set.keys().chain(patch.append.keys()).chain(&patch.unset);
    names
        .filter(|name| schema.field(name).is_some_and(|field| field.wakes))
        .min()
        .cloned()
}

/// An owner's write while the object sleeps: decided, recorded, durable.
fn write_asleep(asleep: &mut Asleep, patch: &Patch, reading: Reading, say: &Say) -> Reply {
    let error = |code: &str, message: String| Reply::Error {
        code: code.to_owned(),
        message,
    };
    match asleep.write(patch, reading) {
        Ok(Written::Done { seq, root, fields }) => {
            say.event(Event::Mutated {
                fields,
                by: "controller".to_owned(),
                seq,
            });
            Reply::Patched { seq, root }
        }
        Ok(Written::Refused(decision)) => {
            let message = verdict::reasons(&decision).join("; ");
            match asleep.refused(*decision, Fired::new(), reading) {
                Ok(_recorded) => error("refused", message),
                Err(wrong) => error("not_durable", format!("{wrong:#}")),
            }
        }
        Err(sleeping::Error::Patch(wrong)) => error(wrong.status().1, wrong.to_string()),
        Err(sleeping::Error::System(wrong)) => error("not_durable", format!("{wrong:#}")),
    }
}
