//! Rules at run time.

mod action;
mod judgement;

pub use action::{Action, PrincipalKind, Protocol, TriggerKind, WordError};
pub use judgement::{
    Erred, Explanation, Fault, Judgement, MAX_RULES, NearMiss, NotFresh, Outcome, Reason, RuleSet,
};
