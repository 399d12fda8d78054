//! How the house ends: the object is asked to sleep, and only then its machine is stopped.

use std::process::ExitCode;

use suijuris_api::control::Reply;
use suijuris_core::lineage::Fired;
use suijuris_core::owner_request::Ask;
use suijuris_custody::owner::no_content;
use suijuris_link::ToRuntime;
use suijuris_vehicle::{Machine as _, Signal};
use tokio::sync::oneshot;

use crate::{claiming, here};

use super::{House, LEAVE_WITHIN, Stay, hear};

/// The object was asked to sleep because `up` ends, and refused.
const CODE_SLEEP_REFUSED: &str = "sleep_refused";

impl House {
    /// Ctrl-C: asks the object to sleep; a second one stops its machine.
    pub(super) async fn interrupted(&mut self) -> anyhow::Result<()> {
        let again = std::mem::replace(&mut self.ending, true);
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        if awake.frozen.is_some() || again {
            awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            return Ok(());
        }
        // Whoever runs `up` is the owner where their key is, and the host elsewhere.
        let head = self.head()?;
        let signed = here::sign(&head, Ask::Sleep, no_content(), self.server)?.map(Box::new);
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        let (answer, answered) = oneshot::channel();
        let id = awake.expect(answer);
        let sent = awake.running.link.queue(ToRuntime::Sleep { id, signed }).is_ok();
        let refused = sent && self.slept(answered).await?;
        if refused {
            self.refused_to_sleep = true;
            self.say.error(
                CODE_SLEEP_REFUSED,
                "the object refuses to sleep; its machine is stopped without a dormancy record",
            );
            if let Stay::Awake(awake) = &mut self.stay {
                awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            }
        }
        Ok(())
    }

    /// Waits for the answer to a sleep while the runtime talks; whether it refused.
    pub(super) async fn slept(&mut self, mut answered: oneshot::Receiver<Reply>) -> anyhow::Result<bool> {
        let deadline = tokio::time::sleep(LEAVE_WITHIN);
        tokio::pin!(deadline);
        loop {
            if !matches!(self.stay, Stay::Awake(_)) {
                return Ok(false);
            }
            let said = tokio::select! {
                reply = &mut answered => return Ok(matches!(reply, Ok(Reply::Error { .. }))),
                said = hear(&self.stay) => said,
                () = &mut deadline => return Ok(true),
            };
            self.said(said).await?;
        }
    }

    pub(super) async fn end(&mut self) -> anyhow::Result<ExitCode> {
        let reading = self.clock.reading();
        let due = self.due();
        if let Stay::Asleep(mut asleep) = std::mem::replace(&mut self.stay, Stay::Moving) {
            let recorded = asleep.record_refusals(Fired::new(), reading, true)?;
            self.say_refused(&recorded);
        }
        if let Err(why) = self.claim.leave(due).await {
            self.say.error(claiming::CODE_DEPOT, &why);
        }
        Ok(ExitCode::from(u8::from(self.refused_to_sleep)))
    }
}
