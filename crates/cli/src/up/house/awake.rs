//! The house while a machine runs or is frozen: what it says is heard, who arrives is handed over, its end is noticed.

use std::time::Duration;

use anyhow::Context as _;
use suijuris_api::Event;
use suijuris_api::channel::Packet;
use suijuris_api::control::{FromRuntime, ToRuntime};
use suijuris_core::governance::Action;
use suijuris_runtime::config::Launch;
use suijuris_store::{Depth, Reader};
use suijuris_vehicle::Driver as _;
use suijuris_vehicle::machine::{Exit, Signal};

use crate::up::door::Visitor;

use super::{House, LEAVE_WITHIN, Stay};

impl House {
    pub(super) async fn hand_over(&mut self, visitor: Visitor) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &self.stay else {
            return Ok(());
        };
        let (socket, bytes) = visitor.into_parts()?;
        let descriptor = std::os::fd::AsFd::as_fd(&socket);
        // A runtime that has just left closes the channel: the connection ends, as it would have a moment later.
        let _ = awake
            .running
            .channel
            .send(&ToRuntime::Connection, &bytes, Some(descriptor))
            .await;
        Ok(())
    }

    pub(super) async fn packet(
        &mut self,
        packet: std::io::Result<Option<Packet<FromRuntime>>>,
    ) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        let Ok(Some(packet)) = packet else {
            // The runtime closed its end; what became of the machine follows.
            let exit = awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            return self.machine_ended(exit).await;
        };
        match packet.message {
            FromRuntime::Leaving { how } if how == "suspend" => self.freeze().await?,
            message => awake.note(message, &self.say),
        }
        Ok(())
    }

    pub(super) async fn freeze(&mut self) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        if self.ending {
            // Dormant already, and nobody would thaw it again.
            awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            return Ok(());
        }
        match awake.running.machine.suspend().await {
            Ok(()) => {
                // The frozen runtime keeps the lock; its last record is durable, so that anybody can read on from it.
                let reader = Reader::open(&self.home, Depth::Tail)?;
                awake.frozen = Some(Box::new(reader.state().head().clone()));
                let detail = self.driver.describe().to_string();
                self.say.event(Event::Machine {
                    state: "suspended".to_owned(),
                    detail,
                });
            }
            Err(error) => {
                self.say.error(
                    "machine_failed",
                    &format!("the machine cannot be frozen, so it is stopped: {error}"),
                );
                awake.running.machine.signal(Signal::TERM)?;
            }
        }
        Ok(())
    }

    pub(super) async fn thaw(&mut self, launch: Launch, detail: &str) -> anyhow::Result<()> {
        self.say.proposal(
            Action::Wake,
            &launch.by,
            Some(launch.trigger.kind.as_str()),
            detail,
        );
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        awake
            .running
            .machine
            .resume()
            .await
            .context("the machine cannot be resumed")?;
        awake.frozen = None;
        // The runtime holds its gate since it announced the pause; now it decides again.
        let _ = awake
            .running
            .channel
            .send(&ToRuntime::Thawed(Box::new(launch)), &[], None)
            .await;
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
        // What the runtime said before it left is still in the channel.
        while let Ok(Ok(Some(packet))) = tokio::time::timeout(
            Duration::from_millis(100),
            awake.running.channel.receive::<FromRuntime>(),
        )
        .await
        {
            awake.note(packet.message, &self.say);
        }
        let _ = tokio::time::timeout(Duration::from_millis(500), awake.output.join_next()).await;
        self.say.event(Event::Machine {
            state: "stopped".to_owned(),
            detail: exit.to_string(),
        });
        self.stay = Stay::Moving;
        self.fall_asleep()
    }
}
