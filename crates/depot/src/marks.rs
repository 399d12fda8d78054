//! Marks of the witness, and who runs: which head of an object is the newest, and who may extend it.
//!
//! When a mark may change, and what a presence means, is `core::witness`.

use std::fmt;
use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_core::witness::{HolderId, Mark};

use crate::{Answer, Version};

/// The outcome of a compare-and-swap that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The mark is now the new one.
    Done(Version),
    /// The mark was another; it was not changed. This is the present one, if there is any.
    Conflict(Option<(Mark, Version)>),
}

/// What a depot knows of a holder beyond the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Presence {
    /// It runs: it holds something that ends with it.
    Here,
    /// It is known to have ended; nobody needs to wait for its lease.
    Gone,
    /// The depot cannot tell: only waiting for the lease says.
    Unknown,
}

/// Something held as long as a holder runs; dropping it, or the end of every process that has it, ends the presence.
pub trait PresenceGuard: fmt::Debug + Send + Sync {
    /// A descriptor that, inherited by a machine, keeps the presence until the machine ends too. Close-on-exec must stay set
    /// towards workloads.
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    /// Whether the process holds it for many at once, and no machine can inherit it ([`Marks::share`]).
    fn is_shared(&self) -> bool {
        false
    }
}

/// Marks, and the presence of those who hold objects.
pub trait Marks: fmt::Debug + Send + Sync {
    /// The mark of `object`, where there is one.
    fn mark(&self, object: ObjectId) -> Answer<'_, Option<(Mark, Version)>>;

    /// Replaces the mark of `mark.object` if its version still is `expected` (`None`: there is none yet).
    fn swap<'a>(&'a self, mark: &'a Mark, expected: Option<&'a Version>) -> Answer<'a, Swap>;

    /// Says that `holder` of `object` runs, until what is returned is dropped. `None` where the backend has no means.
    fn register(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Option<Arc<dyn PresenceGuard>>>;

    /// Gives the presence of `former`, which `held` holds, to `holder`: whoever inherited it keeps that one up. Nobody is
    /// called `former` then. A backend whose presence nobody inherits takes a new one.
    fn rename(
        &self,
        object: ObjectId,
        former: HolderId,
        held: Arc<dyn PresenceGuard>,
        holder: HolderId,
    ) -> Answer<'_, Option<Arc<dyn PresenceGuard>>> {
        let _ = (former, held);
        self.register(object, holder)
    }

    /// Lets the presence of `holder`, which `held` holds and nobody inherited, be held by this process for many at once: it
    /// has no descriptor of its own then. What to hold instead; `held` where that saves nothing. Whatever becomes of the
    /// answer, `holder` stays here.
    fn share(
        &self,
        object: ObjectId,
        holder: HolderId,
        held: Arc<dyn PresenceGuard>,
    ) -> Answer<'_, Arc<dyn PresenceGuard>> {
        let _ = (object, holder);
        Box::pin(std::future::ready(Ok(held)))
    }

    /// The way back: what to hold instead of `held`, for a machine to inherit.
    fn part(
        &self,
        object: ObjectId,
        holder: HolderId,
        held: Arc<dyn PresenceGuard>,
    ) -> Answer<'_, Arc<dyn PresenceGuard>> {
        let _ = (object, holder);
        Box::pin(std::future::ready(Ok(held)))
    }

    /// Whether this copy of the object sent that mark, as far as it remembers. A backend remembers nothing: see [`crate::Session`].
    fn is_own_write<'a>(&'a self, mark: &'a Mark) -> Answer<'a, bool> {
        let _ = mark;
        Box::pin(std::future::ready(Ok(false)))
    }

    /// What is known of `holder` of `object`.
    fn presence(&self, object: ObjectId, holder: HolderId) -> Answer<'_, Presence>;
}
