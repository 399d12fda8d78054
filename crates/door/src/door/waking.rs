//! Waking: one start for all who ask, and proposals that nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::inputs::Inputs;
use tokio::time::Instant;

use super::{Door, Passed, in_full};
use crate::problems;
use crate::single_flight::{Ended, Turn};
use crate::sleepers::Known;

/// First and longest pause between two looks for the mark of an object that wakes.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

impl Door {
    /// Wakes `object`, together with everybody else who asks for it now.
    pub(super) async fn wake(self: &Arc<Self>, object: ObjectId) -> Result<Passed, Problem> {
        if !self.waker.starts() {
            return Ok(Passed::Permitted);
        }
        let mut ended = match self.wakes.ask(object, Instant::now()) {
            Turn::First(sender, receiver) => {
                let door = Arc::clone(self);
                self.aside(async move {
                    let ended = door.start(object).await;
                    door.wakes.end(object, &ended, Instant::now());
                    sender.send_replace(Some(ended));
                });
                receiver
            }
            Turn::Waits(receiver) => receiver,
            Turn::BackingOff { until } => {
                self.metrics.wake("rests");
                return Err(problems::backing_off(
                    object,
                    until.saturating_duration_since(Instant::now()),
                ));
            }
            Turn::Full => {
                self.metrics.wake("full");
                return Err(problems::full(object));
            }
        };
        let ended = ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|ended| ended.clone());
        match ended {
            Some(Ended::Woke) => Ok(Passed::Woken),
            Some(Ended::Refused(_)) => Err(problems::refused_inside(object)),
            Some(Ended::Failed(_)) => Err(problems::not_started(object)),
            None => Err(problems::leaving(object)),
        }
    }

    /// Starts the machine and waits until the mark says that the object woke.
    async fn start(&self, object: ObjectId) -> Ended {
        let began = Instant::now();
        let waking = async {
            let _turn = self.running.acquire().await;
            let before = self.sleepers.known(object);
            self.waker.start(object).await.map_err(|error| in_full(&error))?;
            let mut pause = LOOKS.0;
            loop {
                if let Some(ended) = self.has_woken(object, before.as_ref()).await {
                    return Ok(ended);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOKS.1);
            }
        };
        let late = || Ok(Ended::Failed("it did not wake in time".into()));
        let ended: Result<Ended, String> = tokio::time::timeout(self.limits.wake_within, waking)
            .await
            .unwrap_or_else(|_| late());
        let ended = ended.unwrap_or_else(|why| Ended::Failed(why.into()));
        match &ended {
            Ended::Woke => {
                self.metrics.wake("woke");
                self.metrics.woken.observe(began.elapsed().as_secs_f64());
            }
            Ended::Refused(_) => self.metrics.wake("refused"),
            Ended::Failed(why) => {
                self.metrics.wake("failed");
                self.tell(object, "wake_failed", why);
            }
        }
        ended
    }

    /// Whether the mark has moved on from `before`, and by a wake or a refusal.
    async fn has_woken(&self, object: ObjectId, before: Option<&Known>) -> Option<Ended> {
        let (mark, _) = self.depot.mark(object).await.ok()??;
        let before = before?;
        if mark.head == before.head {
            return None;
        }
        // Epochs count wakes: a head that moved without one is a refusal that the object recorded, or a write.
        self.read(object).await.ok()?;
        let known = self.sleepers.known(object)?;
        match (known.epoch > before.epoch, known.asleep) {
            (true, _) => Some(Ended::Woke),
            (false, true) => Some(Ended::Refused(None)),
            (false, false) => None,
        }
    }

    /// Proposes a wake that nobody waits for; what is refused is noted.
    pub(super) async fn propose(
        self: &Arc<Self>,
        object: ObjectId,
        mut inputs: Inputs,
    ) -> Result<Passed, Problem> {
        self.count_pending(object, &mut inputs).await?;
        match self.evaluate_quick(object, &mut inputs) {
            Ok(true) => self.wake(object).await,
            Ok(false) => Ok(Passed::Awake),
            Err(problem) => Err(problem),
        }
    }
}
