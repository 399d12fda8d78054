//! Rules at run time: the decision program, the facts it looks at, and the judgement it gives.
//!
//! Rules are written in Cedar and compiled when the bundle is built (crate `suijuris-policy`); no Cedar runs here. A
//! [`Program`] is typed, total, allocation-free and fails closed: an error, a missing fact or an overflow refuses.
//! The invariants that no rule can override are checked by the caller, before.

mod action;
mod eval;
mod explain;
mod facts;
#[cfg(test)]
mod fuzz;
mod judgement;
mod node;
mod operand;
mod program;
mod slot;
mod specialize;
mod steady;
mod steps;
mod verify;
mod vocabulary;
mod watch;

pub use action::{Action, PrincipalKind, Protocol, TriggerKind, WordError};
pub use facts::{
    Activity, Caller, Changed, ClientCert, Facts, Founding, Holds, Host, Instance, Lineage, Object,
    Principal, Request, Tls, Trigger,
};
pub use judgement::{
    Erred, Explanation, Fault, Judgement, MAX_RULES, NearMiss, NotFresh, Outcome, Reason, RuleSet,
};
pub use node::{
    Attribute, Body, Clause, Const, Effect, Group, IpTest, Listing, Node, NodeId, Rule, TextSpan,
};
pub use operand::{EntityKind, Net};
pub use program::Program;
pub use slot::Slot;
pub use specialize::Residual;
pub use verify::{MAX_BYTES, ProgramError};
pub use vocabulary::{MAX_WORDS, Vocabulary, VocabularyError};
pub use watch::Watches;
