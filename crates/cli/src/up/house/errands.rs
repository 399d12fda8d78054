//! What the other commands ask of the house: wake, sleep, write, how is it.

use suijuris_api::agent::Patch;
use suijuris_api::control::{Reply, ToRuntime, ToUp};
use suijuris_api::{Event, verdict};
use suijuris_core::inputs::Principal;
use suijuris_core::lineage::Fired;
use suijuris_core::time::Reading;

use crate::sleeping::{self, Written};
use crate::up::desk::Errand;
use crate::up::door::{Asleep, Proposal};
use crate::up::say::Say;

use super::{House, Stay, launch};

impl House {
    pub(super) async fn errand(&mut self, errand: Errand) -> anyhow::Result<()> {
        let Errand { request, answer } = errand;
        if self.is_frozen() && matches!(request, ToUp::Wake | ToUp::Patch(_)) {
            let owner = Principal::Controller(
                self.frozen()
                    .map(|head| head.controllers.clone())
                    .unwrap_or_default(),
            );
            self.thaw(launch(Proposal::manual(owner)), "").await?;
        }
        match (&mut self.stay, request) {
            (_, ToUp::Status) => {
                let _ = answer.send(self.status());
            }
            (Stay::Awake(awake), ToUp::Sleep) => {
                let id = awake.expect(answer);
                let message = ToRuntime::Sleep {
                    id,
                    by: "controller".to_owned(),
                };
                let _ = awake.running.channel.send(&message, &[], None).await;
            }
            (Stay::Awake(awake), ToUp::Patch(patch)) => {
                let id = awake.expect(answer);
                let _ = awake
                    .running
                    .channel
                    .send(&ToRuntime::Patch { id, patch }, &[], None)
                    .await;
            }
            (Stay::Awake(_), ToUp::Wake) | (Stay::Asleep(_), ToUp::Sleep) => {
                let _ = answer.send(self.status());
            }
            (Stay::Asleep(asleep), ToUp::Wake) => {
                let proposal = Proposal::manual(owner(asleep));
                let words = self.propose(proposal, String::new(), None).await?;
                match &mut self.stay {
                    // Permitted at the door; answered once the object has decided and the record is durable.
                    Stay::Awake(awake) => awake.waking.push(answer),
                    _ => {
                        let _ = answer.send(words.map_or_else(|| self.status(), Reply::Verdict));
                    }
                }
            }
            (Stay::Asleep(asleep), ToUp::Patch(patch)) => {
                let wakes = wakes(asleep, &patch);
                let owner = owner(asleep);
                let reply = write_asleep(asleep, &patch, self.clock.reading(), &self.say);
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

fn owner(asleep: &Asleep) -> Principal {
    Principal::Controller(asleep.look(|state| state.head().controllers.clone()))
}

/// The first field of the patch whose changes propose a wake.
fn wakes(asleep: &Asleep, patch: &Patch) -> Option<String> {
    let schema = &asleep.bundle().manifest.memory;
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
