//! The witness: what remembers, outside the object, its newest head and the one copy that may extend it.
//!
//! A [`Mark`] stands in a depot and is changed only by compare-and-swap. A [`Keeper`] is one copy's side of the protocol,
//! a pure state machine: it is told what the depot answered and what time it is, and returns what to ask next.
//!
//! ```text
//!         claim             contained, nobody else            answered
//!  Idle ────────▶ Claiming ─────────────────────▶ Holding ◀──────────────┐
//!   ▲              │   │                           │ │ └── renew, follow ┘
//!   │   refused    │   │ no depot, optional        │ │ no answer until the lease ends
//!   └──────────────┘   └▶ goes on without,         │ └▶ Expired ▶ Over: serves nothing, still tries
//!   ▲                     keeps claiming           │
//!   └───────────────────────────── released ◀──────┼──▶ Lost: another has it; final
//! ```
//! Rules and guarantees: `spec/witness.md`. Not here: where marks are kept (depot); clocks, waiting, files (runtime).

mod claim;
mod hold;
mod keeper;
mod mark;
mod terms;
mod words;
mod written;

pub use keeper::{Keeper, LeaseStatus, Lent};
pub use mark::{Error, Holder, HolderId, MAX_BYTES, MAX_LEASE, MAX_WHO, Mark, VERSION};
pub use terms::{CLAIM_PATIENCE, Moment, Mono, Terms};
pub use words::{Ask, Effect, Evidence, Failure, Input, Notice, Point, Purpose, Swapped, Verdict};
pub use written::Written;

pub use crate::inputs::Witnessed;
