//! A judgement in words: which rules decided and why, what was not fresh, which permits came nearest.
//!
//! May allocate; called for refusals, `why` and `what-if`, not on the path of a permitted request.

use super::action::Action;
use super::eval::Eval;
use super::facts::Facts;
use super::judgement::{Erred, Explanation, Fault, Judgement, NearMiss, NotFresh, Outcome, Reason, RuleSet};
use super::node::{Body, Effect, NodeId, Rule};
use super::program::Program;
use super::slot::Slot;
use crate::memory::Freshness;

/// Permits named as near misses, at most.
const MAX_NEAR_MISSES: usize = 5;

impl Program {
    /// Puts `judgement` of `action` over `facts` in words.
    #[must_use]
    pub fn explain(&self, action: Action, facts: &Facts<'_>, judgement: &Judgement) -> Explanation {
        let nothing_decided = judgement.deciding.is_empty() && judgement.erring.is_empty();
        let near_misses = if judgement.outcome == Outcome::Refuse && nothing_decided {
            self.near_misses(action, facts)
        } else {
            Vec::new()
        };
        let rules = |set: &RuleSet| {
            set.iter()
                .filter_map(|index| self.rule(index))
                .collect::<Vec<_>>()
        };
        let deciding = rules(&judgement.deciding);
        let not_fresh = self.not_fresh(&self.explaining(action, facts, judgement), facts);
        Explanation {
            outcome: judgement.outcome,
            retry_after: deciding.iter().filter_map(|rule| rule.retry_after).max(),
            status: deciding.iter().find_map(|rule| rule.status),
            reasons: deciding.into_iter().map(reason).collect(),
            erred: self.erred(action, facts, judgement),
            not_fresh,
            near_misses,
        }
    }

    fn erred(&self, action: Action, facts: &Facts<'_>, judgement: &Judgement) -> Vec<Erred> {
        let bodies = self.bodies(action, facts.principal.kind());
        let erring = bodies.filter(|body| judgement.erring.contains(body.rule));
        let fault = |body: &Body| {
            let eval = self.eval(facts);
            let mut conditions = body.clauses.iter().map(|(node, _)| eval.bool(*node));
            conditions.find_map(Result::err).unwrap_or(Fault::Type)
        };
        erring
            .filter_map(|body| {
                Some(Erred {
                    rule: self.rule(body.rule)?.id.clone(),
                    fault: fault(body),
                })
            })
            .collect()
    }

    /// The rules that explain the answer: those that decided or erred; where there are none, the permits that came
    /// nearest, up to the condition that failed. What other rules look at explains nothing.
    fn explaining(&self, action: Action, facts: &Facts<'_>, judgement: &Judgement) -> Vec<NodeId> {
        let bodies = || self.bodies(action, facts.principal.kind());
        let took_part =
            |body: &&Body| judgement.deciding.contains(body.rule) || judgement.erring.contains(body.rule);
        let mut nodes: Vec<NodeId> = bodies()
            .filter(took_part)
            .flat_map(|body| body.clauses.iter().map(|(node, _)| *node))
            .collect();
        if nodes.is_empty() && judgement.outcome == Outcome::Refuse {
            let misses = bodies().filter_map(|body| Some((self.near_miss(body, facts)?, body)));
            let nearest = misses.min_by_key(|(miss, _)| miss.of.saturating_sub(miss.held));
            let failed = nearest.and_then(|(miss, body)| body.clauses.get(usize::try_from(miss.held).ok()?));
            nodes.extend(failed.map(|(node, _)| *node));
        }
        nodes
    }

    fn not_fresh(&self, explaining: &[NodeId], facts: &Facts<'_>) -> Vec<NotFresh> {
        let consulted = self.slots_of(explaining.iter().copied());
        let positions = consulted.into_iter().filter_map(|slot| match slot {
            Slot::Fresh(position) => Some(usize::from(position)),
            _ => None,
        });
        let memory = facts.object.memory;
        positions
            .filter_map(|position| {
                let freshness = memory.freshness_at(position, facts.now)?;
                let (name, _) = memory.schema().at(position)?;
                (freshness != Freshness::Fresh).then(|| NotFresh {
                    field: name.as_str().to_owned(),
                    freshness,
                })
            })
            .collect()
    }

    /// The permits that could have applied, nearest first: fewest conditions left to hold.
    fn near_misses(&self, action: Action, facts: &Facts<'_>) -> Vec<NearMiss> {
        let mut all: Vec<NearMiss> = self
            .bodies(action, facts.principal.kind())
            .filter_map(|body| self.near_miss(body, facts))
            .collect();
        all.sort_by_key(|miss| miss.of.saturating_sub(miss.held));
        all.truncate(MAX_NEAR_MISSES);
        all
    }

    fn near_miss(&self, body: &Body, facts: &Facts<'_>) -> Option<NearMiss> {
        let rule = self
            .rule(body.rule)
            .filter(|rule| rule.effect == Effect::Permit)?;
        let eval = self.eval(facts);
        let held = body
            .clauses
            .iter()
            .take_while(|(node, _)| eval.bool(*node) == Ok(true))
            .count();
        let (_, clause) = body.clauses.get(held)?;
        Some(NearMiss {
            rule: rule.id.clone(),
            condition: rule.clauses.get(usize::from(*clause))?.text.clone(),
            held: u32::try_from(held).ok()?,
            of: u32::try_from(body.clauses.len()).ok()?,
        })
    }

    fn eval<'a>(&'a self, facts: &'a Facts<'a>) -> Eval<'a> {
        let linked = self.linked();
        Eval::new(&linked.nodes, &linked.fallible, facts)
    }
}

fn reason(rule: &Rule) -> Reason {
    Reason {
        rule: rule.id.clone(),
        reason: rule.reason.clone(),
    }
}
