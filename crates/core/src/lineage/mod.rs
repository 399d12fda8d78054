//! The chain of records: an object's tamper-evident history, and the state that is its fold.
//!
//! [`Record`] is one link, [`State`] the fold of all so far. A record enters a state by [`State::apply`] (it was read)
//! or [`State::extend`] (it is being made); both run the same checks, one function for each invariant, so that
//! recovery and first writing cannot differ. Bytes: `spec/records.md`. Not here: files (store), who may (decide).

mod announcement;
mod approval;
mod body;
mod checkpoint;
mod checks;
mod parentage;
mod record;
pub mod segment;
mod state;

pub use announcement::{Announcement, AnnouncementError, MAX_ANNOUNCEMENT};
pub use approval::{Approval, Restoration, Statement};
pub use body::{
    Amended, Arrived, Body, Count, Decision, Departed, Dormant, Fired, Forked, Inception, Invariant, Mutated,
    Outcome, Parent, Quarantined, Refused, Restored, Resumed, Seal, Terminated, Unsealed, Woke,
};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use checks::{ChainError, Fault};
pub use parentage::{MAX_PARENT_PROOF, ParentProof, ParentProofError, VerifiedParent};
pub use record::{MAX_BYTES, Record, Stored, VERSION};
pub use state::{Advance, Bundles, Head, Phase, State};
