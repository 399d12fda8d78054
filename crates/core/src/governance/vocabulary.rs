//! The typed words that the rules of one bundle may use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::memory::{Kind, Name, Schema};
use crate::rates::Rate;

/// Claims and headers that a vocabulary lists at most.
pub const MAX_WORDS: usize = 256;

/// What the rules of a bundle may speak of beyond the words every object has.
///
/// Two programs over the same vocabulary read facts by the same positions: memory fields by name order, claims by
/// name order, headers by the order listed here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Fields of `resource.memory` and `resource.fresh`.
    pub memory: Schema,
    /// Token claims, typed: `principal.claims.<name>` of a `Caller`.
    #[serde(default)]
    pub claims: BTreeMap<Name, Kind>,
    /// Request headers exposed as `context.request.headers["<name>"]`, lower case.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The bundle is a class: rules may speak of `instantiate`, and every object has `resource.class` and
    /// `resource.key`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub class: bool,
    /// How often somebody asked in the running window: `context.rate.<name>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<Name, Rate>,
}

/// Why words do not make a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// Not the lower-case name of a header.
    #[error("`{0}` is not a header name: use lower-case letters, digits and `-`")]
    Header(String),
    /// A header listed twice.
    #[error("header `{0}` is listed twice")]
    HeaderTwice(String),
    /// A claim that counts: tokens are not added to.
    #[error("claim `{0}` cannot be a counter: only fields of memory are")]
    CounterClaim(Name),
    /// More than [`MAX_WORDS`].
    #[error("more than {MAX_WORDS} claims or headers")]
    TooMany,
}

impl Vocabulary {
    /// A vocabulary of memory fields alone.
    #[must_use]
    pub fn of_memory(memory: Schema) -> Self {
        Self {
            memory,
            ..Self::default()
        }
    }

    /// Whether headers and claims are within bounds; the memory schema has been checked by its type.
    ///
    /// # Errors
    /// The first [`VocabularyError`].
    pub fn check(&self) -> Result<(), VocabularyError> {
        if self.claims.len() > MAX_WORDS || self.headers.len() > MAX_WORDS {
            return Err(VocabularyError::TooMany);
        }
        if let Some((name, _)) = self.claims.iter().find(|(_, kind)| kind.counts()) {
            return Err(VocabularyError::CounterClaim(name.clone()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for header in &self.headers {
            let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            if header.is_empty() || header.len() > 128 || !header.bytes().all(word) {
                return Err(VocabularyError::Header(header.clone()));
            }
            if !seen.insert(header) {
                return Err(VocabularyError::HeaderTwice(header.clone()));
            }
        }
        Ok(())
    }

    /// Position of a claim, by which facts carry its value.
    #[must_use]
    pub fn claim_position(&self, name: &str) -> Option<usize> {
        self.claims.keys().position(|have| have.as_str() == name)
    }

    /// Position of a header, by which facts carry its value.
    #[must_use]
    pub fn header_position(&self, name: &str) -> Option<usize> {
        self.headers.iter().position(|have| have == name)
    }
}
