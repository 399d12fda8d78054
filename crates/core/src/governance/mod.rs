//! Rules at run time: the decision program, the facts it looks at, and the judgement it gives.
//!
//! Rules are written in Cedar and compiled when the bundle is built (crate `suijuris-policy`); no Cedar runs here. A
//! [`Program`] is typed, total, allocation-free and fails closed: an error, a missing fact or an overflow refuses.
//! [`crate`]'s deciding module adds the invariants that no rule can override.

mod action;
mod facts;
mod judgement;
mod vocabulary;

pub use action::{Action, PrincipalKind, Protocol, TriggerKind, WordError};
pub use facts::{Activity, Caller, Facts, Holds, Host, Lineage, Object, Principal, Request, Trigger};
pub use judgement::{
    Erred, Explanation, Fault, Judgement, MAX_RULES, NearMiss, NotFresh, Outcome, Reason, RuleSet,
};
pub use vocabulary::{MAX_WORDS, Vocabulary, VocabularyError};
