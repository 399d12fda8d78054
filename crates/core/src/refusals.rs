//! Refusals, coalesced: the first of each kind at once and in full, then one record a window that counts.
//!
//! Traffic cannot grow the lineage without bound: at most [`MAX_KINDS`] kinds are told apart in a window, and each
//! gives at most one record a window. Called by the runtime and by doors.

use std::collections::BTreeMap;

use crate::id::{BundleId, Digest, ObjectId};
use crate::lineage::{Decision, Fired, Outcome, Refused};
use crate::time::{Span, Timestamp};

/// What a refused caller quotes, and the owner finds the record by: the same for all that one record counts.
///
/// Made from what the record keeps, so that it stands nowhere else: object, rules in force, kind of refusal, and the time of
/// the first. Whoever does not know the rules learns nothing of them from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RefusalId(String);

impl RefusalId {
    /// Characters of the digest that are shown: 60 bits.
    const CHARACTERS: usize = 12;
    const PREFIX: &'static str = "r-";

    /// The id of the refusal that stands for all of its kind; `first` is the decision that its record keeps.
    #[must_use]
    pub fn of(object: ObjectId, bundle: BundleId, first: &Decision) -> Self {
        let at = first.inputs.now.at.0.to_be_bytes();
        let digest = Digest::of_parts(&[
            b"suijuris refusal",
            &object.digest().0,
            &bundle.digest().0,
            &at,
            kind(first).as_bytes(),
        ]);
        let letters = digest
            .0
            .iter()
            .map(|byte| b"abcdefghijklmnopqrstuvwxyz234567".get(usize::from(byte & 31)));
        let letters = letters
            .flatten()
            .map(|letter| char::from(*letter))
            .take(Self::CHARACTERS);
        Self(Self::PREFIX.chars().chain(letters).collect())
    }

    /// Reads what a caller quotes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let letters = text.strip_prefix(Self::PREFIX)?;
        let known = letters
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        (known && letters.len() == Self::CHARACTERS).then(|| Self(text.to_owned()))
    }

    /// As callers see it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Kinds told apart; further ones count with the last.
pub const MAX_KINDS: usize = 16;

/// Length of a window.
pub const WINDOW: Span = Span(60_000);

/// Refusals of one kind within a window.
#[derive(Debug)]
struct Kind {
    first: Decision,
    opened: Timestamp,
    last: Timestamp,
    /// Not yet recorded.
    times: u64,
    /// The first has been recorded.
    begun: bool,
}

/// Refusals not yet recorded.
#[derive(Debug, Default)]
pub struct Refusals(BTreeMap<String, Kind>);

/// Action, invariant and rules: what makes two refusals the same.
fn kind(decision: &Decision) -> String {
    let mut kind = decision.action.to_string();
    if let Outcome::Refuse(Some(invariant)) = decision.outcome {
        kind.push('/');
        kind.push_str(invariant.as_str());
    }
    if let Some(explanation) = &decision.explanation {
        for reason in &explanation.reasons {
            kind.push('/');
            kind.push_str(&reason.rule);
        }
    }
    kind
}

impl Refusals {
    /// Takes note of one refusal; the decision that the record keeps for all of its kind.
    pub fn add(&mut self, decision: &Decision, at: Timestamp) -> &Decision {
        let key = self.key(decision);
        let fresh = || Kind {
            first: decision.clone(),
            opened: at,
            last: at,
            times: 0,
            begun: false,
        };
        let entry = self.0.entry(key).or_insert_with(fresh);
        entry.times = entry.times.saturating_add(1);
        entry.last = at;
        &entry.first
    }

    /// The decision that the record of this refusal keeps, once it is added.
    #[must_use]
    pub fn first<'a>(&'a self, decision: &'a Decision) -> &'a Decision {
        self.0
            .get(&self.key(decision))
            .map_or(decision, |kind| &kind.first)
    }

    fn key(&self, decision: &Decision) -> String {
        let key = kind(decision);
        if self.0.len() >= MAX_KINDS && !self.0.contains_key(&key) {
            return "others".to_owned();
        }
        key
    }

    /// Whether nothing is known: no window is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to be recorded now: the first of each kind, and the counts of windows that are over; everything where
    /// `all` is asked for.
    pub fn take(&mut self, now: Timestamp, all: bool) -> Vec<Refused> {
        let mut records = Vec::new();
        self.0.retain(|_, kind| {
            let over = now.since(kind.opened) >= WINDOW;
            if kind.times > 0 && (!kind.begun || over || all) {
                records.push(Refused {
                    decision: kind.first.clone(),
                    times: kind.times,
                    window: kind.last.since(kind.opened),
                    at: "gate".to_owned(),
                    fired: Fired::new(),
                });
                kind.times = 0;
                kind.begun = true;
            }
            // Kept until its window is over, so that the next of its kind is counted and not recorded at once.
            !(over && kind.times == 0)
        });
        records
    }
}

#[cfg(test)]
mod tests {
    use crate::governance::Action;
    use crate::inputs::{Inputs, Principal};

    use super::*;

    fn refused(action: Action) -> Decision {
        let inputs = Inputs::timeless(Principal::Host);
        Decision {
            action,
            outcome: Outcome::Refuse(None),
            explanation: None,
            inputs,
        }
    }

    #[test]
    fn the_first_is_recorded_at_once_and_a_flood_is_counted() {
        let mut refusals = Refusals::default();
        refusals.add(&refused(Action::Admit), Timestamp(0));
        assert_eq!(
            refusals
                .take(Timestamp(0), false)
                .iter()
                .map(|r| r.times)
                .collect::<Vec<_>>(),
            [1]
        );
        for n in 1..=10_000 {
            refusals.add(&refused(Action::Admit), Timestamp(n));
            assert!(refusals.take(Timestamp(n), false).is_empty());
        }
        refusals.add(&refused(Action::Mutate), Timestamp(10_001));
        assert_eq!(
            refusals.take(Timestamp(10_001), false).len(),
            1,
            "another kind is told apart"
        );
        let counted = refusals.take(Timestamp(WINDOW.0), false);
        assert_eq!(
            counted.iter().map(|r| (r.times, r.window)).collect::<Vec<_>>(),
            [(10_000, Span(10_000))]
        );
        refusals.add(&refused(Action::Admit), Timestamp(WINDOW.0 + 1));
        assert_eq!(
            refusals.take(Timestamp(WINDOW.0 + 1), false).len(),
            1,
            "a new window begins"
        );
    }

    #[test]
    fn all_that_one_record_counts_have_its_id_and_no_other() {
        let (object, bundle) = (ObjectId::of(b"object"), BundleId::of(b"bundle"));
        let at = |action, ms| {
            let mut decision = refused(action);
            decision.inputs.now.at = Timestamp(ms);
            decision
        };
        let mut refusals = Refusals::default();
        let mut id = |action, ms| {
            let first = refusals.add(&at(action, ms), Timestamp(ms));
            RefusalId::of(object, bundle, first)
        };
        let first = id(Action::Admit, 1);
        assert_eq!(id(Action::Admit, 2), first);
        assert_ne!(id(Action::Wake, 2), first);
        assert_eq!(RefusalId::parse(first.as_str()), Some(first.clone()));
        assert_eq!(RefusalId::parse("r-short"), None);
        let recorded = refusals.take(Timestamp(3), false);
        let found = recorded
            .iter()
            .filter(|refused| RefusalId::of(object, bundle, &refused.decision) == first);
        assert_eq!(found.map(|refused| refused.times).collect::<Vec<_>>(), [2]);
        let later = at(Action::Admit, 9);
        assert_eq!(RefusalId::of(object, bundle, refusals.first(&later)), first);
    }

    #[test]
    fn at_the_end_everything_is_recorded() {
        let mut refusals = Refusals::default();
        for n in 0..5 {
            refusals.add(&refused(Action::Admit), Timestamp(n));
        }
        assert_eq!(
            refusals.take(Timestamp(5), true).first().map(|r| r.times),
            Some(5)
        );
        assert!(refusals.take(Timestamp(6), true).is_empty());
    }
}
