//! When whatever is durable may be told: as the object's witness setting says, whoever tells it.
//!
//! | witness | no depot | mark there in time | mark late | another copy has it |
//! |---|---|---|---|---|
//! | `required` | refused | acknowledged | refused | refused |
//! | `optional` | acknowledged | acknowledged | acknowledged | refused |

use std::time::Duration;

use suijuris_core::manifest::Witness as Strength;
use suijuris_core::witness::Verdict;

use super::{Claim, Shared};
use crate::witness::{LeaseEvent, Uncovered};
use crate::write::{Durable, Written};

/// Time that a write waits for the mark where the witness is optional and marks cost nothing. Then it is acknowledged all the
/// same, as the bundle says.
const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

/// Time that a write waits for the mark where the witness is required: as long as a depot may stay silent.
const REQUIRED_WITHIN: Duration = Duration::from_secs(5);

/// How far what was acknowledged has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The witness has it: every copy that will be accepted has it too.
    Witnessed,
    /// It is durable here, and the witness is optional.
    Durable,
}

/// Why what is durable here may not be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwitnessed {
    /// No depot.
    #[error(
        "the object requires a witness, and there is no depot: name one with --depot, or repair the default one"
    )]
    NoDepot,
    /// No answer.
    #[error("the object requires a witness, and its depot does not answer: try again when it does")]
    NoAnswer,
    /// Too late.
    #[error("the witness did not accept it in time")]
    Late,
    /// Another copy.
    #[error("another copy holds the object")]
    Lost,
    /// The lease, or whoever asks the witness, has ended.
    #[error("the lease has expired")]
    Over,
}

impl From<Uncovered> for Unwitnessed {
    fn from(uncovered: Uncovered) -> Self {
        match uncovered {
            Uncovered::Lost => Self::Lost,
            Uncovered::Ended => Self::Over,
        }
    }
}

impl Claim {
    /// Whether it is of any use to write now: what can be foreseen not to be acknowledged is better not written.
    ///
    /// # Errors
    /// [`Unwitnessed`]: nothing that is written now would be acknowledged.
    pub fn may_write(&self) -> Result<(), Unwitnessed> {
        match (self.strength, &self.depot) {
            (Strength::Optional, _) => Ok(()),
            (Strength::Required, None) => Err(Unwitnessed::NoDepot),
            (Strength::Required, Some(_)) if self.agrees() => Ok(()),
            (Strength::Required, Some(_)) => Err(Unwitnessed::NoAnswer),
        }
    }

    /// Waits until what stands at `seq` may be told, for some seconds at most.
    ///
    /// # Errors
    /// [`Unwitnessed`]: it is durable here, and may be lost.
    pub async fn acknowledge(&self, seq: u64) -> Result<Acknowledged, Unwitnessed> {
        match (self.strength, &self.depot) {
            (Strength::Optional, None) => Ok(Acknowledged::Durable),
            (Strength::Optional, Some(shared)) => shared.optional(seq, self.agrees()).await,
            (Strength::Required, None) => Err(Unwitnessed::NoDepot),
            (Strength::Required, Some(shared)) => shared.required(seq).await,
        }
    }

    /// Acknowledges a write: the one way to what it says.
    ///
    /// # Errors
    /// As [`Claim::acknowledge`].
    pub async fn acknowledge_write(&self, durable: Durable) -> Result<Written, Unwitnessed> {
        let Durable { written } = durable;
        self.acknowledge(written.seq).await.map(|_how_far| written)
    }

    /// Waits for the mark to follow to `seq`, for some seconds at most: before a machine leaves. What it does not say by then
    /// is found at the next claim.
    pub async fn await_mark(&self, seq: u64) {
        if let Some(shared) = self.depot.as_ref().filter(|_| self.agrees()) {
            let _ = tokio::time::timeout(super::LEAVE_WITHIN, shared.witness.covered(seq)).await;
        }
    }

    /// Waits until an activation that began at `seq` may serve: where a witness is required, until the mark covers it.
    ///
    /// # Errors
    /// [`Unwitnessed`]: it never may.
    pub async fn may_serve_from(&self, seq: u64) -> Result<(), Unwitnessed> {
        match (self.strength, &self.depot) {
            (Strength::Required, None) => Err(Unwitnessed::NoDepot),
            (Strength::Required, Some(shared)) => shared.covered(seq).await,
            (Strength::Optional, _) => self.acknowledge(seq).await.map(drop),
        }
    }

    /// The witness's newest verdict, for tests of who agrees.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.known().verdict.clone()
    }
}

impl Shared {
    async fn required(&self, seq: u64) -> Result<Acknowledged, Unwitnessed> {
        match tokio::time::timeout(REQUIRED_WITHIN, self.covered(seq)).await {
            Ok(covered) => covered.map(|()| Acknowledged::Witnessed),
            Err(_late) => Err(Unwitnessed::Late),
        }
    }

    async fn optional(&self, seq: u64, agrees: bool) -> Result<Acknowledged, Unwitnessed> {
        if !agrees || !self.prompt {
            let lost = matches!(&*self.witness.news().borrow(), LeaseEvent::Lost(_));
            return if lost {
                Err(Unwitnessed::Lost)
            } else {
                Ok(Acknowledged::Durable)
            };
        }
        match tokio::time::timeout(FOLLOW_WITHIN, self.witness.covered(seq)).await {
            Ok(Ok(())) => Ok(Acknowledged::Witnessed),
            Ok(Err(Uncovered::Lost)) => Err(Unwitnessed::Lost),
            Ok(Err(Uncovered::Ended)) | Err(_) => Ok(Acknowledged::Durable),
        }
    }

    /// Until the mark covers `seq`, or serving is over.
    async fn covered(&self, seq: u64) -> Result<(), Unwitnessed> {
        let mut events = self.witness.news();
        let over = events.wait_for(|event| matches!(event, LeaseEvent::Over));
        tokio::select! {
            biased;
            covered = self.witness.covered(seq) => Ok(covered?),
            _over = over => Err(Unwitnessed::Over),
        }
    }
}
