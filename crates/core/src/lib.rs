//! The pure heart of an object: ids, codec, memory, lineage, governance programs, decisions, lifecycle.
//!
//! No I/O, no clock, no randomness: time, keys and bytes are arguments, effects are return values. Every shell
//! (runtime, door, command line) performs what this crate decides, and so all of them decide alike.

pub mod activation;
pub mod bundle;
pub mod class;
pub mod codec;
pub mod decide;
pub mod governance;
pub mod id;
pub mod inputs;
pub mod key;
pub mod lifecycle;
pub mod lineage;
pub mod manifest;
pub mod memory;
pub mod message;
pub mod owner_request;
pub mod rates;
pub mod refusals;
pub mod replay;
pub mod ticket;
pub mod time;
pub mod trigger;
pub mod witness;

pub use id::{BlobId, BundleId, ClassId, ObjectId, RecordId};
