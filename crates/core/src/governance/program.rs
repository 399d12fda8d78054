//! A verified, linked program, and how it judges.

use super::action::{Action, PrincipalKind};
use super::eval::Eval;
use super::facts::Facts;
use super::judgement::{Judgement, Outcome, RuleSet};
use super::node::{Body, Effect, Group, Listing, Node, Rule};
use super::steps::{Label, Steps, TRUE, TooManySteps};
use super::verify::{self, MAX_BYTES, ProgramError};
use crate::codec;

/// Actions times sorts of principals.
const GROUPS: usize = Action::ALL.len() * PrincipalKind::ALL.len();

/// The rules of a bundle, ready to judge. Shared by all objects of the bundle.
#[derive(Debug, Clone)]
pub struct Program {
    listing: Listing,
    linked: Linked,
}

/// Expressions and tests, with what must be run for each action and principal.
#[derive(Debug, Clone)]
pub(super) struct Linked {
    pub(super) nodes: Vec<Node>,
    pub(super) fallible: Vec<bool>,
    pub(super) steps: Steps,
    pub(super) plans: Vec<Plan>,
}

/// What decides one action by one sort of principal.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) forbids: Vec<(u8, Label)>,
    pub(super) permits: Vec<(u8, Label)>,
    /// Rules whose answer is already known.
    pub(super) known: Known,
}

/// Rules by what is known of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) forbidding: RuleSet,
    pub(super) permitting: RuleSet,
    pub(super) erring: RuleSet,
}

impl Known {
    /// Forbid wins, an error counts against, and nothing is permitted unless some rule permits it.
    #[inline]
    fn judgement(self) -> Judgement {
        let refused = !self.forbidding.is_empty() || !self.erring.is_empty() || self.permitting.is_empty();
        Judgement {
            outcome: if refused { Outcome::Refuse } else { Outcome::Permit },
            deciding: if refused { self.forbidding } else { self.permitting },
            erring: self.erring,
        }
    }
}

impl Plan {
    #[inline]
    pub(super) fn judge(&self, steps: &Steps, eval: &Eval<'_>) -> Judgement {
        let mut known = self.known;
        for (rule, entry) in &self.forbids {
            match steps.run(*entry, eval) {
                Ok(true) => known.forbidding.insert(*rule),
                Ok(false) => {}
                Err(_) => known.erring.insert(*rule),
            }
        }
        for (rule, entry) in &self.permits {
            match steps.run(*entry, eval) {
                Ok(true) => known.permitting.insert(*rule),
                Ok(false) => {}
                Err(_) => known.erring.insert(*rule),
            }
        }
        known.judgement()
    }
}

const fn plan_index(action: Action, principal: PrincipalKind) -> usize {
    action as usize * PrincipalKind::ALL.len() + principal as usize
}

impl From<TooManySteps> for ProgramError {
    fn from(_: TooManySteps) -> Self {
        Self::TooLarge("tests")
    }
}

impl Program {
    /// Verifies a listing and links it.
    ///
    /// # Errors
    /// [`ProgramError`] if it is too large or unsound.
    pub fn new(listing: Listing) -> Result<Self, ProgramError> {
        let fallible = verify::verify(&listing)?;
        let linked = Linked::new(&listing, fallible)?;
        Ok(Self { listing, linked })
    }

    /// Reads a program from its canonical bytes.
    ///
    /// # Errors
    /// [`ProgramError`] for bytes that are not exactly those of a sound program.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProgramError> {
        let listing = codec::decode::<Listing>(bytes, MAX_BYTES);
        Self::new(listing.map_err(|error| ProgramError::Encoding(error.to_string()))?)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// [`ProgramError::TooLarge`] beyond [`MAX_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, ProgramError> {
        let bytes =
            codec::encode(&self.listing).map_err(|error| ProgramError::Encoding(error.to_string()))?;
        if bytes.len() > MAX_BYTES {
            return Err(ProgramError::TooLarge("bytes"));
        }
        Ok(bytes)
    }

    /// The portable form.
    #[must_use]
    pub const fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Rules in text order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.listing.rules
    }

    /// The rule at `index`, as [`RuleSet`] counts.
    #[must_use]
    pub fn rule(&self, index: u8) -> Option<&Rule> {
        self.listing.rules.get(usize::from(index))
    }

    /// Judges `action`. Total, allocation-free, fail-closed; rules that erred are named and refuse.
    #[must_use]
    pub fn judge(&self, action: Action, facts: &Facts<'_>) -> Judgement {
        self.linked.judge(action, facts)
    }

    pub(super) const fn linked(&self) -> &Linked {
        &self.linked
    }

    /// Permits of `action` that name the object itself: they apply to no other sort of principal.
    #[must_use]
    pub fn naming_self(&self, action: Action) -> RuleSet {
        let mut named = RuleSet::default();
        for body in self.bodies(action, PrincipalKind::Own) {
            let others = PrincipalKind::ALL
                .iter()
                .filter(|kind| **kind != PrincipalKind::Own);
            let mut others = others.flat_map(|kind| self.bodies(action, *kind));
            let permits = self
                .rule(body.rule)
                .is_some_and(|rule| rule.effect == Effect::Permit);
            if permits && !others.any(|other| other.rule == body.rule) {
                named.insert(body.rule);
            }
        }
        named
    }

    /// The rules that can apply to `action` by this sort of principal.
    pub(super) fn bodies(&self, action: Action, principal: PrincipalKind) -> impl Iterator<Item = &Body> {
        let listing = &self.listing;
        let group = |group: &&Group| group.action == action && group.principal == principal;
        listing
            .groups
            .iter()
            .find(group)
            .into_iter()
            .flat_map(|group| &group.bodies)
            .filter_map(|body| listing.bodies.get(usize::from(*body)))
    }
}

impl Linked {
    fn new(listing: &Listing, fallible: Vec<bool>) -> Result<Self, ProgramError> {
        let mut steps = Steps::default();
        let lower = |body: &Body| {
            let conditions = body.clauses.iter().map(|(node, _)| *node);
            steps.lower(&listing.nodes, conditions)
        };
        let entries: Vec<Label> = listing.bodies.iter().map(lower).collect::<Result<_, _>>()?;
        let mut plans = vec![Plan::default(); GROUPS];
        for group in &listing.groups {
            if let Some(plan) = plans.get_mut(plan_index(group.action, group.principal)) {
                for body in &group.bodies {
                    let body = usize::from(*body);
                    if let (Some(body), Some(entry)) = (listing.bodies.get(body), entries.get(body)) {
                        plan.add(listing, body.rule, *entry);
                    }
                }
            }
        }
        Ok(Self {
            nodes: listing.nodes.clone(),
            fallible,
            steps,
            plans,
        })
    }

    #[inline]
    fn judge(&self, action: Action, facts: &Facts<'_>) -> Judgement {
        let eval = Eval::new(&self.nodes, &self.fallible, facts);
        match self.plans.get(plan_index(action, facts.principal.kind())) {
            Some(plan) => plan.judge(&self.steps, &eval),
            None => Known::default().judgement(),
        }
    }
}

impl Plan {
    /// Adds a rule that is entered at `entry`.
    pub(super) fn add(&mut self, listing: &Listing, rule: u8, entry: Label) {
        let forbids = listing
            .rules
            .get(usize::from(rule))
            .is_some_and(|rule| rule.effect == Effect::Forbid);
        match (forbids, entry) {
            (true, TRUE) => self.known.forbidding.insert(rule),
            (false, TRUE) => self.known.permitting.insert(rule),
            (true, _) => self.forbids.push((rule, entry)),
            (false, _) => self.permits.push((rule, entry)),
        }
    }
}
