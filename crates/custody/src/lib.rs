//! The one room where a copy of an object is claimed, opened at rest, written to, published, shut away, and found to have
//! crashed.
//!
//! It decides nothing by itself: rules and records are core's, files are store's, marks are depot's. Who calls: the
//! runtime in its machine, `up`, and every command that writes. They call the same functions, so that the same act gets
//! the same answer whoever asks: [`host`] and [`owner`] make the facts, [`mod@write`] and [`record`] make records, and
//! [`claim::Claim`] says when anybody may be told.

pub mod amend;
pub mod at_rest;
pub mod caller_api;
mod causes;
pub mod claim;
pub mod clock;
pub mod deliveries;
mod event_loop;
pub mod host;
pub mod migrate;
pub mod owner;
pub mod patch;
pub mod rates;
pub mod record;
pub mod relay;
pub mod terminate;
pub mod witness;
pub mod write;

pub use causes::chain;
