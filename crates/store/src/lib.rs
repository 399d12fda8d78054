//! The object on disk: lineage segments, checkpoint, waiting key, bundles, secrets; and how they survive a crash.
//!
//! [`create`] begins an object in an [`ObjectDir`]. One [`Writer`] at a time extends it; any number of [`Reader`]s look.
//! Bytes and recovery rules: `spec/segments.md`. Not here: what records mean (core), who may write them (the runtime's
//! decisions), when to seal (the runtime; [`Writer::uncovered`] tells it how much is open).
//!
//! The store blocks; a shell with an event loop awaits [`Ticket`]s, which a thread of the store then serves.

pub mod bundle_store;
pub mod capsule;
mod creation;
pub mod disk;
pub mod fork;
pub mod frame;
mod keys;
mod lineage_reader;
mod object_dir;
mod opening;
mod queue;
mod reader;
pub mod restore;
pub mod secrets;
mod staging;
mod stamps;
mod ticket;
mod writer;

pub use bundle_store::{BundleFiles, BundleStore};
pub use creation::{CreateError, Creation, create, create_by_ticket, create_telling};
pub use lineage_reader::frames_of;
pub use object_dir::{Damage, ObjectDir, OpenError, Position};
pub use opening::Depth;
pub use reader::{Reader, Verified};
pub use secrets::Secret;
pub use staging::StagingError;
pub use stamps::Stamps;
pub use ticket::Ticket;
pub use writer::{CommitError, Draft, Fresh, Recovery, Sign, Sizes, StageError, Writer};
