//! What a program answers, and the same in words.

use serde::{Deserialize, Serialize};

use crate::memory::Freshness;
use crate::time::Span;

/// Rules of a program at most.
pub const MAX_RULES: usize = 256;

/// The answer of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Some rule permits, none forbids, none erred.
    Permit,
    /// All else.
    Refuse,
}

/// A set of rules by index, without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RuleSet([u64; MAX_RULES / 64]);

impl RuleSet {
    /// Adds rule `index`.
    #[inline]
    pub fn insert(&mut self, index: u8) {
        if let Some(word) = self.0.get_mut(usize::from(index >> 6)) {
            *word |= 1 << (index & 63);
        }
    }

    /// Whether rule `index` is in.
    #[must_use]
    pub fn contains(&self, index: u8) -> bool {
        self.0
            .get(usize::from(index >> 6))
            .is_some_and(|word| word >> (index & 63) & 1 == 1)
    }

    /// Whether no rule is in.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|index| self.contains(*index))
    }
}

/// Why a rule could not be evaluated. Any of these refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An integer, instant or length of time left its 64 bits.
    #[error("a number left the range of 64 bits")]
    Overflow,
    /// A fact was read that is not there.
    #[error("a fact is missing")]
    Missing,
    /// A fact or value is of another type than the rule expects: program and memory do not belong together.
    #[error("a fact has another type than the rule expects")]
    Type,
    /// Comparing collections took more steps than a decision may.
    #[error("comparing collections took too many steps")]
    Work,
}

/// The answer of a program, allocation-free; [`super::Program::explain`] puts it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The answer.
    pub outcome: Outcome,
    /// Rules that decided: satisfied permits of a permit; satisfied forbids of a refusal, none if nothing permits.
    pub deciding: RuleSet,
    /// Rules that erred; any refuses.
    pub erring: RuleSet,
}

/// A deciding rule, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// `@id`, or `rule<N>` by its place in the text.
    pub rule: String,
    /// `@reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A rule that erred, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erred {
    /// The rule.
    pub rule: String,
    /// What went wrong.
    pub fault: Fault,
}

/// A field that rules wanted fresh and that is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotFresh {
    /// The field.
    pub field: String,
    /// Why it is not fresh.
    pub freshness: Freshness,
}

/// A permit that did not apply, and the first of its conditions that was false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearMiss {
    /// The permit.
    pub rule: String,
    /// Source text of the false condition.
    pub condition: String,
    /// Conditions of the rule that did hold.
    pub held: u32,
    /// Conditions of the rule.
    pub of: u32,
}

/// A judgement in words: for refusals, `why` and `what-if`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// The answer.
    pub outcome: Outcome,
    /// Deciding rules.
    pub reasons: Vec<Reason>,
    /// Longest `@retry_after` of the deciding rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Span>,
    /// `@status` of the first deciding rule that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Rules that erred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erred: Vec<Erred>,
    /// Fields that the deciding rules, or those that came nearest, want fresh and that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_fresh: Vec<NotFresh>,
    /// Where nothing permits: the permits that came nearest, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near_misses: Vec<NearMiss>,
}
