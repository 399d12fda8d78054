//! What the other commands ask of the house: wake, sleep, write, how is it. Owners sign what they ask; whatever nobody
//! signed is asked by the host.

use suijuris_api::Problem;
use suijuris_api::agent::Patch;
use suijuris_api::control::{Reply, ToUp};
use suijuris_core::decide::Verdict;
use suijuris_core::id::Digest;
use suijuris_core::inputs::Principal;
use suijuris_core::lineage::{Fired, Head};
use suijuris_core::owner_request::{Ask, SignedRequest};
use suijuris_core::time::Reading;
use suijuris_custody::claim::Claim;
use suijuris_custody::owner::{Asking, content_of, no_content, not_an_owner};
use suijuris_custody::write::{WriteError, Written, unwitnessed};
use suijuris_door::Proposal;
use suijuris_link::ToRuntime;
use suijuris_link::message::Json;
use suijuris_store::{Depth, Reader};
use suijuris_vehicle::{Machine as _, Signal};
use tokio::sync::oneshot;

use crate::event_printer::EventPrinter;
use crate::up::desk::{CODE_BAD_REQUEST, Errand};
use crate::up::dormant::Asleep;

use super::{House, LEAVE_WITHIN, Stay, cause};

/// What is asked, and who signed it.
struct Asked {
    what: What,
    signed: Option<Box<SignedRequest>>,
}

enum What {
    Wake,
    Sleep,
    Write(Patch),
}

impl Asked {
    /// What a request asks; nothing where it only wants to know how the house is.
    fn of(request: ToUp) -> Result<Option<Self>, Reply> {
        let unsigned = |what| Ok(Some(Self { what, signed: None }));
        let (signed, patch) = match request {
            ToUp::Status => return Ok(None),
            ToUp::Wake => return unsigned(What::Wake),
            ToUp::Sleep => return unsigned(What::Sleep),
            ToUp::Patch(patch) => return unsigned(What::Write(patch)),
            ToUp::Owner { signed, patch } => (signed, patch),
        };
        let what = match (signed.request.ask, patch) {
            (Ask::Wake, None) => What::Wake,
            (Ask::Sleep, None) => What::Sleep,
            (Ask::Write, Some(patch)) => What::Write(patch),
            _ => {
                return Err(Reply::Error {
                    code: CODE_BAD_REQUEST.to_owned(),
                    message: "`up` is asked for a wake, a sleep or a write".to_owned(),
                });
            }
        };
        let signed = Some(signed);
        Ok(Some(Self { what, signed }))
    }

    fn content(&self) -> (Ask, Digest) {
        match &self.what {
            What::Wake => (Ask::Wake, no_content()),
            What::Sleep => (Ask::Sleep, no_content()),
            What::Write(patch) => (Ask::Write, content_of(patch)),
        }
    }
}

impl House {
    pub(super) async fn errand(&mut self, errand: Errand) -> anyhow::Result<()> {
        let Errand { request, answer } = errand;
        let asked = match Asked::of(request) {
            Ok(Some(asked)) => asked,
            Ok(None) => {
                let _ = answer.send(self.status());
                return Ok(());
            }
            Err(reply) => {
                let _ = answer.send(reply);
                return Ok(());
            }
        };
        let by = match self.principal(&asked)? {
            Ok(by) => by,
            Err(problem) => {
                let _ = answer.send(error(problem));
                return Ok(());
            }
        };
        if matches!(asked.what, What::Write(_)) {
            self.unlock(by.clone()).await?;
        }
        self.ask(asked, by, answer).await
    }

    async fn ask(
        &mut self,
        asked: Asked,
        by: Principal,
        answer: oneshot::Sender<Reply>,
    ) -> anyhow::Result<()> {
        let is_frozen = self.frozen().is_some();
        let Asked { what, signed } = asked;
        match (&mut self.stay, what) {
            (Stay::Awake(awake), What::Sleep) if !is_frozen => {
                let id = awake.expect(answer);
                awake.ask(id, ToRuntime::Sleep { id, signed });
            }
            (Stay::Awake(awake), What::Write(patch)) => {
                let id = awake.expect(answer);
                let patch = Json(patch);
                awake.ask(id, ToRuntime::Patch { id, signed, patch });
            }
            (Stay::Awake(_), What::Wake) if !is_frozen => {
                let _ = answer.send(self.status());
            }
            (Stay::Asleep(_) | Stay::Awake(_), What::Wake) => {
                self.woken(Proposal::manual(by), answer).await?;
            }
            (Stay::Asleep(_) | Stay::Awake(_), What::Sleep) => {
                let _ = answer.send(self.status());
            }
            (Stay::Asleep(asleep), What::Write(patch)) => {
                let wakes = wakes(asleep, &patch);
                let written = write_asleep(
                    asleep,
                    &self.claim,
                    by.clone(),
                    &patch,
                    self.clock.reading(),
                    &self.say,
                )
                .await;
                let reply = match &written {
                    Ok(Written { seq, root, .. }) => Reply::Patched {
                        seq: *seq,
                        root: root.clone(),
                    },
                    Err(problem) => error(problem.clone()),
                };
                let _ = answer.send(reply);
                if let Some(field) = wakes.filter(|_| written.is_ok()) {
                    self.propose(Proposal::memory(by, field.clone()), field, None)
                        .await?;
                }
            }
            (Stay::Moving, _) => {}
        }
        Ok(())
    }

    /// Whoever asks: the owners who signed, or the host. What they signed is good for one use.
    fn principal(&mut self, asked: &Asked) -> anyhow::Result<Result<Principal, Problem>> {
        let (ask, content) = asked.content();
        let asking = Asking {
            ask,
            content,
            signed: asked.signed.as_deref(),
            server: self.server,
            now: self.clock.reading().wall,
        };
        let head = self.head()?;
        let mut spend = |by| match &asking.signed {
            Some(signed) => self.spent.spend(&signed.request, asking.now).map(|()| by),
            None => Ok(by),
        };
        let by = asking.principal(&head).and_then(&mut spend);
        Ok(by.map_err(|error| not_an_owner(&error)))
    }

    /// The object's last record, whoever has its writer.
    pub(super) fn head(&self) -> anyhow::Result<Head> {
        if let Stay::Asleep(asleep) = &self.stay {
            return Ok(asleep.look(|state| state.head().clone()));
        }
        Ok(Reader::open(&self.home, Depth::Tail)?.state().head().clone())
    }

    /// Somebody wakes the object; answered once the object has decided and the record is durable.
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

    /// Before a write: a frozen machine holds the lock. ObjectArg the object lets whoever writes wake it, it is thawed and
    /// writes itself; otherwise the machine is given up, which is all that its runtime would do.
    async fn unlock(&mut self, by: Principal) -> anyhow::Result<()> {
        if self.frozen().is_none() {
            return Ok(());
        }
        let proposal = Proposal::manual(by);
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
            server: self.server,
        }
    }
}

fn error(problem: Problem) -> Reply {
    Reply::Error {
        code: problem.code,
        message: problem.detail,
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

/// A write while the object sleeps: decided, recorded, acknowledged; a refusal is counted.
async fn write_asleep(
    asleep: &mut Asleep,
    claim: &Claim,
    by: Principal,
    patch: &Patch,
    reading: Reading,
    say: &EventPrinter,
) -> Result<Written, Problem> {
    let id = claim.object().to_string();
    match asleep.write(claim, by, patch, reading) {
        Ok(durable) => {
            say.event(durable.event());
            claim.acknowledge_write(durable).await.map_err(unwitnessed)
        }
        Err(error) => {
            let problem = error.problem(&id);
            if let WriteError::Refused(decision) = error
                && let Err(wrong) = asleep.refused(&decision, Fired::new(), reading)
            {
                return Err(
                    Problem::new(507, CODE_NOT_DURABLE, "The refusal could not be recorded")
                        .with_detail(format!("{wrong:#}")),
                );
            }
            Err(problem)
        }
    }
}

/// What is to be recorded could not be made durable.
const CODE_NOT_DURABLE: &str = "not_durable";
