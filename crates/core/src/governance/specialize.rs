//! Partial evaluation: what is known between two memory changes is worked into the program once.
//!
//! A residual program holds for one action and one state of the object (memory, freshness, lineage). Where rules depend on
//! nothing else they are known when it is made; what is left is judged as the whole program would judge it. Specializing
//! never hides an error: an operand that errs becomes an expression that errs at the same place.

use std::collections::HashMap;

use super::action::{Action, PrincipalKind};
use super::eval::Eval;
use super::facts::{Facts, Host, Object, Principal};
use super::judgement::{Fault, Judgement};
use super::node::{Attribute, Const, Node, NodeId};
use super::program::{Linked, Plan, Program};
use super::slot::Slot;
use super::steps::{FALSE, Steps};
use super::verify::{self, ProgramError};
use crate::time::{Now, Quality, Span, Timestamp};

/// A program narrowed to one action and one state of an object.
#[derive(Debug, Clone)]
pub struct Residual {
    linked: Linked,
    from: Timestamp,
    /// First instant at which some field consulted has become stale, or some counter has begun anew.
    until: Option<Timestamp>,
    /// Whether the clock's quality was known, where that counts.
    clock_known: Option<bool>,
}

impl Residual {
    /// Judges as the whole program would; `None` once time or clock quality have left what was worked in: specialize again.
    ///
    /// The object in `facts` must stand as it stood when it was specialized; its memory and lineage are not looked at.
    #[inline]
    #[must_use]
    pub fn judge(&self, facts: &Facts<'_>) -> Option<Judgement> {
        if !self.is_valid(facts.now) {
            return None;
        }
        let eval = Eval::new(&self.linked.nodes, &self.linked.fallible, facts);
        let plan = self.linked.plans.get(facts.principal.kind() as usize)?;
        Some(plan.judge(&self.linked.steps, &eval))
    }

    /// Whether this still holds at `now`.
    #[inline]
    #[must_use]
    pub fn is_valid(&self, now: Now) -> bool {
        now.at >= self.from
            && self.until.is_none_or(|until| now.at < until)
            && self
                .clock_known
                .is_none_or(|known| known == (now.quality != Quality::Unknown))
    }

    /// When it stops holding by the clock alone.
    #[must_use]
    pub const fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Whether every rule is known for this sort of principal: the judgement is the same whatever is asked.
    #[must_use]
    pub fn is_known(&self, principal: PrincipalKind) -> bool {
        self.linked
            .plans
            .get(principal as usize)
            .is_some_and(|plan| plan.forbids.is_empty() && plan.permits.is_empty())
    }
}

impl Program {
    /// Works what is known of `object` at `now` into the rules of `action`.
    ///
    /// # Errors
    /// [`ProgramError::TooLarge`] where the rest has more tests than a program may; judge the whole program then.
    pub fn specialize(&self, action: Action, object: Object<'_>, now: Now) -> Result<Residual, ProgramError> {
        let facts = Facts::new(Principal::Host, object, now, Host::default());
        let mut specializer = Specializer {
            program: &self.listing().nodes,
            facts: &facts,
            nodes: Vec::new(),
            fallible: Vec::new(),
            index: HashMap::new(),
            known: vec![None; self.listing().nodes.len()],
        };
        let mut steps = Steps::default();
        let mut plans = vec![Plan::default(); PrincipalKind::ALL.len()];
        for kind in PrincipalKind::ALL {
            for body in self.bodies(action, *kind) {
                let conditions: Vec<NodeId> = body
                    .clauses
                    .iter()
                    .map(|(node, _)| specializer.node(*node))
                    .collect();
                let Some(plan) = plans.get_mut(*kind as usize) else {
                    continue;
                };
                match specializer.known_outcome(&conditions) {
                    Some(Err(_)) => plan.known.erring.insert(body.rule),
                    Some(Ok(false)) => {}
                    _ => {
                        let entry = steps.lower(&specializer.nodes, conditions.into_iter())?;
                        if entry != FALSE {
                            plan.add(self.listing(), body.rule, entry);
                        }
                    }
                }
            }
        }
        let (until, clock_known) = self.validity(action, &facts);
        Ok(Residual {
            linked: Linked {
                nodes: specializer.nodes,
                fallible: specializer.fallible,
                steps,
                plans,
            },
            from: now.at,
            until,
            clock_known,
        })
    }

    /// Until when the freshness and the counters consulted by `action` stay as they are, and whether it hangs on the clock's quality.
    fn validity(&self, action: Action, facts: &Facts<'_>) -> (Option<Timestamp>, Option<bool>) {
        let memory = facts.object.memory;
        let (mut until, mut clock_known) = (None::<Timestamp>, None);
        for slot in self.slots(action, None) {
            let mut ends = |at: Timestamp| until = Some(until.map_or(at, |until| until.min(at)));
            let position = match slot {
                Slot::Counter(position) => {
                    if let Some(reset) = memory.reset_at(usize::from(position), facts.now.at) {
                        ends(reset);
                    }
                    continue;
                }
                Slot::Fresh(position) => usize::from(position),
                _ => continue,
            };
            let span = memory
                .schema()
                .at(position)
                .and_then(|(_, field)| field.fresh_for);
            let written = memory.cell_at(position).and_then(|cell| cell.as_of);
            if let (Some(span), Some(written)) = (span, written) {
                clock_known = Some(facts.now.quality != Quality::Unknown);
                let stale_at = written.saturating_add(span).saturating_add(Span(1));
                if stale_at > facts.now.at {
                    ends(stale_at);
                }
            }
        }
        (until, clock_known)
    }
}

/// One specialization under way.
struct Specializer<'a> {
    program: &'a [Node],
    facts: &'a Facts<'a>,
    nodes: Vec<Node>,
    fallible: Vec<bool>,
    index: HashMap<Node, NodeId>,
    /// Specialized form of each expression of the program.
    known: Vec<Option<NodeId>>,
}

/// Whether a slot is known from the object alone.
const fn is_known(slot: Slot) -> bool {
    matches!(
        slot,
        Slot::Resource
            | Slot::ObjectId
            | Slot::ObjectName
            | Slot::Class
            | Slot::Key
            | Slot::Memory(_)
            | Slot::Counter(_)
            | Slot::Fresh(_)
            | Slot::Length
            | Slot::Epoch
            | Slot::Unsealed
            | Slot::Born
            | Slot::LastWoke
            | Slot::LastDormant
            | Slot::Refused
            | Slot::Crashes
    )
}

impl Specializer<'_> {
    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.index.get(&node) {
            return *id;
        }
        let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        self.push(node.clone());
        self.index.insert(node, id);
        id
    }

    fn push(&mut self, node: Node) {
        self.fallible.push(verify::can_err(&node, &self.fallible));
        self.nodes.push(node);
    }

    fn at(&self, id: NodeId) -> Option<&Node> {
        usize::try_from(id).ok().and_then(|id| self.nodes.get(id))
    }

    fn literal(&self, id: NodeId) -> Option<Result<&Const, Fault>> {
        match self.at(id)? {
            Node::Const(value) => Some(Ok(value)),
            Node::Fail(fault) => Some(Err(*fault)),
            _ => None,
        }
    }

    fn truth(&self, id: NodeId) -> Option<Result<bool, Fault>> {
        match self.literal(id)? {
            Ok(Const::Bool(value)) => Some(Ok(*value)),
            Ok(_) => Some(Err(Fault::Type)),
            Err(fault) => Some(Err(fault)),
        }
    }

    /// The answer of conditions in order, where it hangs on nothing more.
    fn known_outcome(&self, conditions: &[NodeId]) -> Option<Result<bool, Fault>> {
        for condition in conditions {
            match self.truth(*condition)? {
                Ok(true) => {}
                decided => return Some(decided),
            }
        }
        Some(Ok(true))
    }

    /// Folds expression `id` of the program. Recursion is as deep as the expression, which verification bounds.
    fn node(&mut self, id: NodeId) -> NodeId {
        let program = self.program;
        let Some((index, node)) = usize::try_from(id)
            .ok()
            .and_then(|index| Some((index, program.get(index)?)))
        else {
            return self.add(Node::Fail(Fault::Type));
        };
        if let Some(Some(known)) = self.known.get(index) {
            return *known;
        }
        let residual = match node {
            Node::Slot(slot) if is_known(*slot) => self.evaluated(node.clone()),
            Node::Has(slot) if is_known(*slot) => self.evaluated(node.clone()),
            Node::Const(_) | Node::Fail(_) | Node::Slot(_) | Node::Has(_) => self.add(node.clone()),
            Node::All(items) => self.junction(items, true),
            Node::Any(items) => self.junction(items, false),
            Node::If(test, then, or) => self.conditional(*test, *then, *or),
            Node::Record(parts) => {
                let parts = self.present(parts);
                self.strict(&Node::Record(parts), |_, id| id)
            }
            _ => self.strict(node, Self::node),
        };
        if let Some(place) = self.known.get_mut(index) {
            *place = Some(residual);
        }
        residual
    }

    /// An operator that evaluates all its operands, left to right.
    fn strict(&mut self, node: &Node, specialize: fn(&mut Self, NodeId) -> NodeId) -> NodeId {
        let mut failed = None;
        let mut all_known = true;
        let node = node.map(|operand| {
            let residual = specialize(self, operand);
            match self.literal(residual) {
                Some(Ok(_)) => {}
                Some(Err(fault)) if all_known && failed.is_none() => failed = Some(fault),
                _ => all_known = false,
            }
            residual
        });
        match failed {
            Some(fault) => self.add(Node::Fail(fault)),
            None if all_known => self.evaluated(node),
            None => self.add(node),
        }
    }

    /// The attributes of a record that are there, or may be, specialized.
    fn present(&mut self, parts: &[Attribute]) -> Vec<Attribute> {
        let mut kept = Vec::new();
        for part in parts {
            let present = part.present.map(|present| self.node(present));
            let truth = present.and_then(|present| self.truth(present));
            if truth != Some(Ok(false)) {
                kept.push(Attribute {
                    name: part.name.clone(),
                    present: present.filter(|_| truth != Some(Ok(true))),
                    value: self.node(part.value),
                });
            }
        }
        kept
    }

    fn junction(&mut self, items: &[NodeId], neutral: bool) -> NodeId {
        let mut kept = Vec::new();
        for item in items {
            let residual = self.node(*item);
            match self.truth(residual) {
                Some(Ok(value)) if value == neutral => {}
                Some(_) => {
                    kept.push(residual);
                    break;
                }
                None => kept.push(residual),
            }
        }
        match (kept.as_slice(), neutral) {
            ([], _) => self.add(Node::Const(Const::Bool(neutral))),
            ([only], _) => *only,
            (_, true) => self.add(Node::All(kept)),
            (_, false) => self.add(Node::Any(kept)),
        }
    }

    fn conditional(&mut self, test: NodeId, then: NodeId, or: NodeId) -> NodeId {
        let test = self.node(test);
        match self.truth(test) {
            Some(Ok(true)) => self.node(then),
            Some(Ok(false)) => self.node(or),
            Some(Err(fault)) => self.add(Node::Fail(fault)),
            None => {
                let (then, or) = (self.node(then), self.node(or));
                self.add(Node::If(test, then, or))
            }
        }
    }

    /// The value of an expression whose operands are known.
    fn evaluated(&mut self, node: Node) -> NodeId {
        let last = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        self.push(node.clone());
        let eval = Eval::new(&self.nodes, &self.fallible, self.facts);
        let value = eval.node(last).and_then(|value| eval.constant(value));
        self.nodes.pop();
        self.fallible.pop();
        match value {
            Ok(value) => self.add(Node::Const(value)),
            // Too large to copy is no error of the rule: it is looked at in place.
            Err(Fault::Work) => self.add(node),
            Err(fault) => self.add(Node::Fail(fault)),
        }
    }
}
