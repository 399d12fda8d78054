//! The house while a machine runs or is frozen: what it says is heard, who arrives is handed over, its end is noticed.

use std::time::Duration;

use anyhow::Context as _;
use suijuris_api::Event;
use suijuris_custody::at_rest::Unrecorded;
use suijuris_custody::chain;
use suijuris_custody::claim::Answer;
use suijuris_link::message::How;
use suijuris_link::{Cause, LinkError, ToRuntime, ToSupervisor};
use suijuris_store::{Depth, Reader};
use suijuris_vehicle::{Driver as _, Exit, Machine as _, Signal};

use crate::up::dormant::Frozen;
use crate::up::machine;
use crate::{claiming, here};

use super::{House, LEAVE_WITHIN, Stay};

/// How the runtime ends that does not know what it is asked.
const NOT_UNDERSTOOD: i32 = 2;

impl House {
    pub(super) async fn said(&mut self, said: Result<Option<ToSupervisor>, LinkError>) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        let message = match said {
            Ok(Some(message)) => message,
            Ok(None) => return self.link_ended().await,
            Err(error) => {
                self.say.error("machine_failed", &chain(&error));
                return self.link_ended().await;
            }
        };
        match message {
            ToSupervisor::Leaving {
                how: How::Suspend,
                generation,
                ..
            } => {
                // What was said before the machine was resumed the last time is over.
                if generation == awake.generation {
                    self.freeze().await?;
                }
            }
            message => awake.note(message, &self.say),
        }
        Ok(())
    }

    /// The runtime closed its end; what became of the machine follows.
    async fn link_ended(&mut self) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        let exit = awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
        self.machine_ended(exit).await
    }

    pub(super) async fn freeze(&mut self) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        if self.ending {
            // Dormant already, and nobody would thaw it again; whether it would sleep once more is no question.
            let exit = awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            return self.machine_ended(exit).await;
        }
        match awake.running.machine.suspend().await {
            Ok(()) => {
                // The frozen runtime keeps the lock; its last record is durable, so that anybody can read on from it.
                let reader = Reader::open(&self.home, Depth::Tail)?;
                let newest = reader.state().head().into();
                self.claim.take_back(&self.clock).await?;
                match self.claim.rest_at(newest).await? {
                    Answer::Ours => {}
                    Answer::Unasked(why) => claiming::say_unasked(&self.say, &why),
                    Answer::Refused(copy) => {
                        self.say.event(copy.event());
                        awake.running.machine.stop(Signal::KILL, LEAVE_WITHIN).await;
                        self.lost = true;
                        return Ok(());
                    }
                }
                let witnessed = self.claim.witnessed();
                let frozen = Frozen::new(reader, self.prepared.clone(), here::host(), witnessed);
                awake.frozen = Some(Box::new(frozen));
                let detail = self.driver.describe().to_string();
                self.say.event(Event::Machine {
                    state: "suspended".to_owned(),
                    detail,
                });
                self.ask_again();
                // Whom its gate has not taken is decided about at the door.
                let handed = self.take_handed();
                self.redirect(handed, None).await?;
            }
            Err(error) => {
                self.say.error(
                    "machine_failed",
                    &format!("the machine cannot be frozen, so it is stopped: {error}"),
                );
                awake.running.machine.signal(Signal::TERM).await?;
            }
        }
        Ok(())
    }

    /// Lets the frozen machine run on for this reason. What was refused meanwhile is recorded by its runtime first.
    pub(super) async fn thaw(&mut self, mut cause: Cause) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        self.post.pause();
        self.claim.lend_again(&self.clock).await;
        let unrecorded = awake.unrecorded(reading);
        let mut fired = unrecorded.fired;
        fired.append(&mut cause.fired);
        cause.fired = fired;
        for refused in unrecorded.refused {
            let id = awake.number();
            awake.told.insert(id, refused.clone());
            // What does not arrive stays unrecorded, and is recorded here when the machine ends.
            let refused = Box::new(refused);
            let _ = awake.running.link.queue(ToRuntime::Record { id, refused });
        }
        // The runtime holds its gate since it announced the pause; now it decides again, whether it hears of it first from
        // us or from its clocks.
        awake.generation += 1;
        let (generation, cause) = (awake.generation, Box::new(cause));
        let _ = awake.running.link.queue(ToRuntime::Resumed { generation, cause });
        let machine = &awake.running.machine;
        machine.resume().await.context("the machine cannot be resumed")?;
        self.say.event(Event::Machine {
            state: "resumed".to_owned(),
            detail: String::new(),
        });
        Ok(())
    }

    pub(super) async fn machine_ended(&mut self, exit: Exit) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        // What the runtime said before it left is still in the link.
        let patience = Duration::from_millis(100);
        while let Ok(Ok(Some(message))) = tokio::time::timeout(patience, awake.running.link.receive()).await {
            awake.note(message, &self.say);
        }
        let unrecorded = awake.unrecorded(self.clock.reading());
        let (handed, problem) = (std::mem::take(&mut awake.handed), awake.problem.take());
        let _ = tokio::time::timeout(Duration::from_millis(500), awake.output.join_next()).await;
        self.say.event(Event::Machine {
            state: "stopped".to_owned(),
            detail: exit.to_string(),
        });
        if exit == Exit::Code(NOT_UNDERSTOOD) {
            self.say.error("machine_failed", &machine::another_version());
        }
        self.stay = Stay::Moving;
        let settled = match self.fall_asleep().await {
            Ok(()) => self.record(unrecorded),
            Err(error) => Err(error),
        };
        match settled {
            Ok(()) => self.redirect(handed, problem).await,
            Err(error) => {
                // Nobody can decide about the object any more, and `up` ends.
                self.ending = true;
                self.redirect(handed, problem).await?;
                Err(error)
            }
        }
    }

    /// Records what the machine left unrecorded.
    fn record(&mut self, unrecorded: Unrecorded) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        if let Stay::Asleep(asleep) = &mut self.stay {
            let recorded = asleep.record(unrecorded, reading)?;
            self.say_refused(&recorded);
        }
        Ok(())
    }
}
