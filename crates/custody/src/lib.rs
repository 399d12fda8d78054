//! The one room where a copy of an object is claimed, written to, and looked after while nobody runs it.
//!
//! It decides nothing by itself: rules and records are core's, files are store's, marks are depot's. Who calls: the
//! runtime in its machine, `up`, and every command that writes. They call the same functions, so that the same act gets
//! the same answer whoever asks.

mod causes;
pub mod clock;
pub mod holding;
pub mod patch;
mod sys;
pub mod witness;

pub use causes::chain;
