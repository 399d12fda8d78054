//! An object that is lent to a machine: what that inherits, and how it comes back.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use suijuris_core::id::Digest;
use suijuris_core::time::{Quality, Reading, Timestamp};
use suijuris_core::witness::{HolderId, Lent, Mark, Mono, Purpose, Verdict};
use suijuris_depot::{PresenceGuard, Version};

use super::{Claim, Since, fresh_id};
use crate::clock::{Clock, Continuity};
use crate::relay;

/// What a machine is given of a claim.
#[derive(Debug)]
pub struct LeaseGrant {
    /// The name under which it goes on; none without a depot.
    pub holder: Option<HolderId>,
    /// Its way to the depot.
    pub relay: Option<OwnedFd>,
    /// What keeps the object held until the machine has ended, by the word of the kernel.
    pub presence: Option<Arc<dyn PresenceGuard>>,
}

/// What a machine goes on with whose starter claimed the object for it: the claim's result, and never a verdict of rules.
/// It holds for a machine that has the starter's clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    #[serde(with = "serde_bytes")]
    mark: Vec<u8>,
    #[serde(with = "serde_bytes")]
    version: Vec<u8>,
    /// An instant of `CLOCK_BOOTTIME` before the mark was sent, nanoseconds.
    sent_ns: u64,
    /// The clocks before the claim: a pause since then is found by whoever goes on.
    wall_ms: i64,
    mono_ns: u64,
    boot_ns: u64,
}

/// What whoever starts a machine has done for it beside its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handoff {
    /// The claim's result; none where the machine has to ask for itself.
    pub claim: Option<Granted>,
    /// The commitment to a key that is durable in the object's directory, for the epoch after the one that begins.
    pub spare: Option<Digest>,
}

impl Granted {
    /// The clocks before the claim.
    #[must_use]
    pub const fn reading(&self) -> Reading {
        Reading {
            wall: Timestamp(self.wall_ms),
            quality: Quality::Unknown,
            mono_ns: self.mono_ns,
            boot_ns: self.boot_ns,
        }
    }

    /// What the witness's task goes on with; nothing where the mark cannot be read.
    pub(super) fn lent(&self) -> Option<Lent<Version>> {
        Some(Lent {
            mark: Mark::decode(&self.mark).ok()?,
            version: Version(self.version.clone()),
            sent: Mono(self.sent_ns),
        })
    }
}

impl Claim {
    /// Claims the object for the machine that has just been lent it, beside its start, and leaves it the answer: nothing
    /// where that machine has to ask for itself, which it does as if nobody had.
    ///
    /// Dropping the future leaves the mark with whoever asks next.
    pub async fn claim_for(&self, clock: &Clock) -> Option<Granted> {
        let shared = self.depot.as_ref()?;
        if !self.agrees() {
            // A witness that does not answer is waited for once, by the machine.
            shared.witness.hand_over().await;
            return None;
        }
        let reading = clock.reading();
        let claimed = shared.witness.claim(Purpose::Wake).await;
        let lent = shared.witness.hand_over().await;
        let (Ok(claimed), Some(lent)) = (claimed, lent) else {
            return None;
        };
        matches!(claimed.verdict, Verdict::Agrees(_)).then_some(())?;
        Some(Granted {
            mark: lent.mark.encode().ok()?,
            version: lent.version.0,
            sent_ns: lent.sent.0,
            wall_ms: reading.wall.0,
            mono_ns: reading.mono_ns,
            boot_ns: reading.boot_ns,
        })
    }

    /// Lends the object to a machine that is about to run: it goes on under the same name, over `relay`, which serves it as
    /// long as it runs. [`Claim::claim_for`] follows, beside its start, and leaves the mark to it.
    ///
    /// # Errors
    /// The system makes no socket.
    pub async fn lend(&self, clock: &Clock, relay: &relay::Service) -> std::io::Result<LeaseGrant> {
        self.known().lent = Some(Since::now(clock));
        let Some(shared) = &self.depot else {
            return Ok(LeaseGrant {
                holder: None,
                relay: None,
                presence: None,
            });
        };
        let (ours, theirs) = UnixStream::pair()?;
        let presence = shared
            .session
            .presence_guard()
            .await
            .map_err(std::io::Error::other)?;
        relay.serve(ours, shared.session.clone(), self.object)?;
        Ok(LeaseGrant {
            holder: Some(self.known().id),
            relay: Some(theirs.into()),
            presence,
        })
    }

    /// Leaves the mark to the machine that was suspended and goes on now.
    pub async fn lend_again(&self, clock: &Clock) {
        self.known().lent = Some(Since::now(clock));
        if let Some(shared) = &self.depot {
            shared.witness.hand_over().await;
        }
    }

    /// The machine has ended or is suspended: goes on by the name that it took, if it found that it had been suspended. Where only
    /// we find that out, a copy of us may serve under our name, so that we take a fresh one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub async fn take_back(&self, clock: &Clock) -> Result<(), getrandom::Error> {
        let lent = self.known().lent.take();
        let Some((shared, mut lent)) = self.depot.as_ref().zip(lent) else {
            return Ok(());
        };
        let former = self.known().id;
        let mut name = shared.session.name().unwrap_or(former);
        let (_, continuity) = clock.check(&mut lent.detector);
        if name == former && continuity != Continuity::Continuous {
            name = fresh_id()?;
        }
        if name != former {
            self.known().id = name;
            shared.witness.resumed(name).await;
        }
        Ok(())
    }

    /// In the machine that was suspended, before anything is recorded and the object is claimed again: what was held counts no
    /// more, so that no mark is sent over what whoever held the object meanwhile wrote.
    pub async fn set_aside(&self) {
        if let Some(shared) = &self.depot {
            let _left = shared.witness.hand_over().await;
        }
    }

    /// The pause that is found next was announced: whoever started the machine suspended it, asleep.
    pub fn announce_pause(&self) {
        self.known().announced = true;
    }

    /// The machine was suspended: what was held counts no more. Unless that was announced, this copy goes on under a fresh
    /// name, since another may be running under the old one, and serving.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub async fn resumed(&self) -> Result<(), getrandom::Error> {
        let Some(shared) = &self.depot else {
            return Ok(());
        };
        let id = {
            let mut known = self.known();
            if !std::mem::take(&mut known.announced) {
                known.id = fresh_id()?;
            }
            known.id
        };
        shared.witness.resumed(id).await;
        Ok(())
    }
}
