//! Conditions lowered to tests with jumps: what is actually run.
//!
//! `&&`, `||`, `!` and `if` become jumps; a comparison of one fact with a constant becomes one fused test; all else is
//! an expression evaluated by [`Eval`]. A jump always goes to an earlier step, so a run ends.

use super::eval::{Eval, has_text};
use super::facts::Facts;
use super::judgement::Fault;
use super::node::{Const, Node, NodeId};
use super::operand::{self, Operand};
use super::slot::Slot;

/// Where a run goes on: [`FALSE`], [`TRUE`], or the step at this index plus two.
pub(super) type Label = u32;
pub(super) const FALSE: Label = 0;
pub(super) const TRUE: Label = 1;

/// So many texts are looked through one by one.
const FEW: usize = 8;

/// Steps of a program at most.
const MAX_STEPS: usize = 1 << 16;

/// One test of facts.
#[derive(Debug, Clone)]
enum Test {
    Flag(Slot),
    Has(Slot),
    /// The number lies between these, both included.
    Within(Slot, i64, i64),
    /// The difference of two numbers lies between these, both included.
    Gap(Slot, Slot, i64, i64),
    /// The first number is less than the second, or at most it.
    Order(Slot, Slot, bool),
    TextIs(Slot, Box<str>),
    /// Two texts are the same.
    TextsSame(Slot, Slot, NodeId),
    TextLike(Slot, Box<[String]>),
    /// The text is one of these, sorted.
    TextIn(Slot, Box<[Const]>),
    /// The names have this one.
    Names(Slot, Box<str>),
    Expression(NodeId),
}

#[derive(Debug, Clone)]
struct Step {
    test: Test,
    yes: Label,
    no: Label,
}

/// Lowered conditions.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(Vec<Step>);

/// The program has more tests than [`MAX_STEPS`].
#[derive(Debug)]
pub(super) struct TooManySteps;

impl Steps {
    /// Runs from `label` to the end.
    #[inline]
    pub(super) fn run(&self, mut label: Label, eval: &Eval<'_>) -> Result<bool, Fault> {
        loop {
            let index = match label {
                FALSE => return Ok(false),
                TRUE => return Ok(true),
                _ => usize::try_from(label - 2).map_err(|_| Fault::Type)?,
            };
            let step = self.0.get(index).ok_or(Fault::Type)?;
            label = if step.test.holds(eval)? { step.yes } else { step.no };
        }
    }

    /// Adds the condition that all of `conditions` hold, and gives its entry.
    pub(super) fn lower(
        &mut self,
        nodes: &[Node],
        conditions: impl DoubleEndedIterator<Item = NodeId>,
    ) -> Result<Label, TooManySteps> {
        conditions
            .rev()
            .try_fold(TRUE, |next, condition| self.branch(nodes, condition, next, FALSE))
    }

    /// Adds a condition with the labels to go on at, later tests first.
    fn branch(&mut self, nodes: &[Node], id: NodeId, yes: Label, no: Label) -> Result<Label, TooManySteps> {
        let at = |id: NodeId| usize::try_from(id).ok().and_then(|index| nodes.get(index));
        let literal = |id: NodeId| match at(id) {
            Some(Node::Const(value)) => Some(value),
            _ => None,
        };
        match at(id) {
            Some(Node::Const(Const::Bool(value))) => Ok(if *value { yes } else { no }),
            Some(Node::Not(a)) => self.branch(nodes, *a, no, yes),
            Some(Node::All(items)) => items
                .iter()
                .rev()
                .try_fold(yes, |next, item| self.branch(nodes, *item, next, no)),
            Some(Node::Any(items)) => items
                .iter()
                .rev()
                .try_fold(no, |next, item| self.branch(nodes, *item, yes, next)),
            Some(Node::If(test, then, or)) => {
                let or = self.branch(nodes, *or, yes, no)?;
                let then = self.branch(nodes, *then, yes, no)?;
                self.branch(nodes, *test, then, or)
            }
            Some(Node::Equal(a, b)) => match (literal(*a), literal(*b)) {
                (None, Some(Const::Bool(true))) => self.branch(nodes, *a, yes, no),
                (None, Some(Const::Bool(false))) => self.branch(nodes, *a, no, yes),
                (Some(Const::Bool(true)), None) => self.branch(nodes, *b, yes, no),
                (Some(Const::Bool(false)), None) => self.branch(nodes, *b, no, yes),
                _ => self.push(fused(nodes, id), yes, no),
            },
            _ => self.push(fused(nodes, id), yes, no),
        }
    }

    fn push(&mut self, test: Test, yes: Label, no: Label) -> Result<Label, TooManySteps> {
        if self.0.len() >= MAX_STEPS {
            return Err(TooManySteps);
        }
        self.0.push(Step { test, yes, no });
        u32::try_from(self.0.len() + 1).map_err(|_| TooManySteps)
    }
}

/// The tightest test for an atomic condition.
fn fused(nodes: &[Node], id: NodeId) -> Test {
    let at = |id: &NodeId| usize::try_from(*id).ok().and_then(|index| nodes.get(index));
    let test = match at(&id) {
        Some(Node::Slot(slot)) => Some(Test::Flag(*slot)),
        Some(Node::Has(slot)) => Some(Test::Has(*slot)),
        Some(Node::Equal(a, b)) => match (at(a), at(b)) {
            (Some(Node::Const(value)), Some(node)) | (Some(node), Some(Node::Const(value))) => {
                equal_to(at, node, value)
            }
            (Some(Node::Slot(a)), Some(Node::Slot(b))) => Some(Test::TextsSame(*a, *b, id)),
            _ => None,
        },
        Some(Node::Less(a, b)) => compared(at, at(a), at(b), 1),
        Some(Node::AtMost(a, b)) => compared(at, at(a), at(b), 0),
        Some(Node::Like(text, pieces)) => match at(text) {
            Some(Node::Slot(slot)) => Some(Test::TextLike(*slot, pieces.clone().into())),
            _ => None,
        },
        Some(Node::Contains(set, item)) => match (at(set), at(item)) {
            (Some(Node::Const(Const::Set(items))), Some(Node::Slot(slot))) if all_text(items) => {
                Some(Test::TextIn(*slot, items.clone().into()))
            }
            (Some(Node::Slot(slot)), Some(Node::Const(Const::Text(text)))) => {
                Some(Test::Names(*slot, text.as_str().into()))
            }
            _ => None,
        },
        _ => None,
    };
    test.unwrap_or(Test::Expression(id))
}

fn all_text(items: &[Const]) -> bool {
    items.iter().all(|item| matches!(item, Const::Text(_)))
}

fn equal_to<'n>(at: impl Fn(&NodeId) -> Option<&'n Node>, node: &Node, value: &Const) -> Option<Test> {
    match (node, value) {
        (Node::Slot(slot), Const::Text(text)) => Some(Test::TextIs(*slot, text.as_str().into())),
        (_, Const::Number(number)) => between(at, node, *number, *number),
        _ => None,
    }
}

/// `left < right` for a `gap` of one, `left <= right` for none.
fn compared<'n>(
    at: impl Fn(&NodeId) -> Option<&'n Node>,
    left: Option<&Node>,
    right: Option<&Node>,
    gap: i64,
) -> Option<Test> {
    match (left?, right?) {
        (Node::Slot(left), Node::Slot(right)) => Some(Test::Order(*left, *right, gap == 0)),
        (node, Node::Const(Const::Number(most))) => between(at, node, i64::MIN, most.checked_sub(gap)?),
        (Node::Const(Const::Number(least)), node) => between(at, node, least.checked_add(gap)?, i64::MAX),
        _ => None,
    }
}

fn between<'n>(at: impl Fn(&NodeId) -> Option<&'n Node>, node: &Node, low: i64, high: i64) -> Option<Test> {
    match node {
        Node::Slot(slot) => Some(Test::Within(*slot, low, high)),
        Node::Subtract(a, b) => match (at(a)?, at(b)?) {
            (Node::Slot(a), Node::Slot(b)) => Some(Test::Gap(*a, *b, low, high)),
            _ => None,
        },
        _ => None,
    }
}

#[inline]
fn number(slot: Slot, facts: &Facts<'_>) -> Result<i64, Fault> {
    match slot.number(facts) {
        Some(number) => Ok(number),
        None => slot.operand(facts)?.number(),
    }
}

impl Test {
    #[inline]
    fn holds(&self, eval: &Eval<'_>) -> Result<bool, Fault> {
        let facts = eval.facts();
        match self {
            Self::Flag(slot) => match slot.flag(facts) {
                Some(flag) => Ok(flag),
                None => slot.operand(facts)?.bool(),
            },
            Self::Has(slot) => Ok(slot.present(facts)),
            Self::Within(slot, low, high) => number(*slot, facts).map(|v| *low <= v && v <= *high),
            Self::Gap(a, b, low, high) => {
                let gap = number(*a, facts)?.checked_sub(number(*b, facts)?);
                gap.map(|v| *low <= v && v <= *high).ok_or(Fault::Overflow)
            }
            Self::Order(a, b, or_equal) => {
                let (a, b) = (number(*a, facts)?, number(*b, facts)?);
                Ok(a < b || (*or_equal && a == b))
            }
            Self::TextsSame(a, b, id) => match (a.text(facts), b.text(facts)) {
                (Some(a), Some(b)) => Ok(operand::same(a, b)),
                _ => eval.bool(*id),
            },
            Self::TextIs(slot, text) => match slot.text(facts) {
                Some(have) => Ok(operand::same(have, text)),
                None => bytes_or_fault(*slot, facts, |at| at.eq(text.bytes())),
            },
            Self::TextLike(slot, pieces) => match slot.text(facts) {
                Some(have) => Ok(operand::is_like(have, pieces)),
                None => match slot.operand(facts)? {
                    Operand::Bytes(bytes) => Ok(operand::is_base64_like(bytes, pieces)),
                    _ => Err(Fault::Type),
                },
            },
            Self::TextIn(slot, texts) => match slot.text(facts) {
                Some(have) if texts.len() <= FEW => {
                    let is = |text: &Const| matches!(text, Const::Text(text) if operand::same(text, have));
                    Ok(texts.iter().any(is))
                }
                Some(have) => Ok(has_text(texts, have)),
                None => {
                    let is = |text: &Const, at: &mut dyn Iterator<Item = u8>| matches!(text, Const::Text(text) if at.eq(text.bytes()));
                    texts.iter().try_fold(false, |found, text| {
                        Ok(found || bytes_or_fault(*slot, facts, |mut at| is(text, &mut at))?)
                    })
                }
            },
            Self::Names(slot, text) => match slot.names(facts) {
                Some(names) => Ok(names.iter().any(|name| operand::same(name, text))),
                None => eval.contains(slot.operand(facts)?.set()?, Operand::Text(text)),
            },
            Self::Expression(id) => eval.bool(*id),
        }
    }
}

/// Tests the base64url text of a field of bytes; any other type is a fault.
#[cold]
fn bytes_or_fault(
    slot: Slot,
    facts: &Facts<'_>,
    test: impl FnOnce(Base64<'_>) -> bool,
) -> Result<bool, Fault> {
    match slot.operand(facts)? {
        Operand::Bytes(bytes) => Ok(test(Base64 { bytes, next: 0 })),
        _ => Err(Fault::Type),
    }
}

/// The characters of a base64url text, one by one.
struct Base64<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl Iterator for Base64<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = operand::base64_at(self.bytes, self.next);
        self.next += 1;
        byte
    }
}
