//! The portable form of a program: rules, and a table of typed expressions that they share.
//!
//! This is what stands in a bundle, canonically encoded; `spec/program.md` gives the bytes. A listing is only data:
//! [`super::Program::new`] verifies it and links it for judging.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::action::{Action, PrincipalKind};
use super::judgement::Fault;
use super::operand::{EntityKind, Net};
use super::slot::Slot;
use crate::time::Span;

/// Index of an expression in [`Listing::nodes`].
pub type NodeId = u32;

/// A constant. Sets are sorted and hold each item once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Const {
    /// Yes or no.
    Bool(bool),
    /// An integer; a decimal in ten-thousandths; an instant or a length of time in milliseconds.
    Number(i64),
    /// Text.
    Text(String),
    /// An address or range of addresses.
    Ip(Net),
    /// An entity.
    Entity(EntityKind, String),
    /// A set.
    Set(Vec<Const>),
    /// A record.
    Record(BTreeMap<String, Const>),
}

/// An attribute of a record literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// A bool: whether it is there. Absent for an attribute that always is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<NodeId>,
    /// Its value.
    pub value: NodeId,
}

/// What to ask of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpTest {
    /// `isIpv4`
    V4,
    /// `isIpv6`
    V6,
    /// `isLoopback`
    Loopback,
    /// `isMulticast`
    Multicast,
}

/// An expression. Operands stand before it in the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// A constant.
    Const(Const),
    /// What always errs, such as an overflow among constants.
    Fail(Fault),
    /// A fact.
    Slot(Slot),
    /// Whether an optional fact is there.
    Has(Slot),
    /// Negation.
    Not(NodeId),
    /// All are true; stops at the first that is not.
    All(Vec<NodeId>),
    /// Some is true; stops at the first that is.
    Any(Vec<NodeId>),
    /// Condition, then, else.
    If(NodeId, NodeId, NodeId),
    /// Equality of any values.
    Equal(NodeId, NodeId),
    /// `<` of numbers.
    Less(NodeId, NodeId),
    /// `<=` of numbers.
    AtMost(NodeId, NodeId),
    /// Checked addition; also `offset`.
    Add(NodeId, NodeId),
    /// Checked subtraction; also `durationSince`.
    Subtract(NodeId, NodeId),
    /// Checked multiplication.
    Multiply(NodeId, NodeId),
    /// Checked negation.
    Negate(NodeId),
    /// Division by a positive constant, towards zero: `toSeconds` and its like.
    Divide(NodeId, i64),
    /// `toDate`: the instant at which the day began (UTC).
    StartOfDay(NodeId),
    /// `toTime`: time since the day began (UTC).
    TimeOfDay(NodeId),
    /// The set has the item.
    Contains(NodeId, NodeId),
    /// The first set has all items of the second.
    ContainsAll(NodeId, NodeId),
    /// The sets share an item.
    ContainsAny(NodeId, NodeId),
    /// The set has no item.
    IsEmpty(NodeId),
    /// An attribute of a record value.
    Attribute(NodeId, String),
    /// Whether a record value has an attribute.
    HasAttribute(NodeId, String),
    /// The text matches these pieces with anything between them.
    Like(NodeId, Vec<String>),
    /// The entity is of this sort.
    Is(NodeId, EntityKind),
    /// A test of an address.
    Ip(IpTest, NodeId),
    /// The first address or range lies in the second.
    InRange(NodeId, NodeId),
    /// A set literal.
    Set(Vec<NodeId>),
    /// A record literal, attributes sorted by name.
    Record(Vec<Attribute>),
}

impl Node {
    /// Whether the operator itself can err, its operands aside.
    #[must_use]
    pub const fn can_err(&self) -> bool {
        matches!(
            self,
            Self::Fail(_)
                | Self::Add(..)
                | Self::Subtract(..)
                | Self::Multiply(..)
                | Self::Negate(_)
                | Self::StartOfDay(_)
        )
    }

    /// The operands, in evaluation order.
    pub fn operands(&self, mut each: impl FnMut(NodeId)) {
        match self {
            Self::Const(_) | Self::Fail(_) | Self::Slot(_) | Self::Has(_) => {}
            Self::Not(a)
            | Self::Negate(a)
            | Self::Divide(a, _)
            | Self::StartOfDay(a)
            | Self::TimeOfDay(a)
            | Self::IsEmpty(a)
            | Self::Attribute(a, _)
            | Self::HasAttribute(a, _)
            | Self::Like(a, _)
            | Self::Is(a, _)
            | Self::Ip(_, a) => each(*a),
            Self::Equal(a, b)
            | Self::Less(a, b)
            | Self::AtMost(a, b)
            | Self::Add(a, b)
            | Self::Subtract(a, b)
            | Self::Multiply(a, b)
            | Self::Contains(a, b)
            | Self::ContainsAll(a, b)
            | Self::ContainsAny(a, b)
            | Self::InRange(a, b) => [*a, *b].into_iter().for_each(each),
            Self::If(a, b, c) => [*a, *b, *c].into_iter().for_each(each),
            Self::All(items) | Self::Any(items) | Self::Set(items) => items.iter().copied().for_each(each),
            Self::Record(attributes) => attributes
                .iter()
                .flat_map(|attribute| attribute.present.into_iter().chain([attribute.value]))
                .for_each(each),
        }
    }

    /// The same expression over other operands, mapped in evaluation order.
    pub(super) fn map(&self, mut to: impl FnMut(NodeId) -> NodeId) -> Self {
        let mut node = self.clone();
        match &mut node {
            Self::Const(_) | Self::Fail(_) | Self::Slot(_) | Self::Has(_) => {}
            Self::Not(a)
            | Self::Negate(a)
            | Self::Divide(a, _)
            | Self::StartOfDay(a)
            | Self::TimeOfDay(a)
            | Self::IsEmpty(a)
            | Self::Attribute(a, _)
            | Self::HasAttribute(a, _)
            | Self::Like(a, _)
            | Self::Is(a, _)
            | Self::Ip(_, a) => *a = to(*a),
            Self::Equal(a, b)
            | Self::Less(a, b)
            | Self::AtMost(a, b)
            | Self::Add(a, b)
            | Self::Subtract(a, b)
            | Self::Multiply(a, b)
            | Self::Contains(a, b)
            | Self::ContainsAll(a, b)
            | Self::ContainsAny(a, b)
            | Self::InRange(a, b) => (*a, *b) = (to(*a), to(*b)),
            Self::If(a, b, c) => (*a, *b, *c) = (to(*a), to(*b), to(*c)),
            Self::All(items) | Self::Any(items) | Self::Set(items) => {
                items.iter_mut().for_each(|item| *item = to(*item));
            }
            Self::Record(attributes) => {
                for attribute in attributes {
                    attribute.present = attribute.present.map(&mut to);
                    attribute.value = to(attribute.value);
                }
            }
        }
        node
    }
}

/// What a satisfied rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Permits, unless some rule forbids.
    Permit,
    /// Refuses, whatever permits.
    Forbid,
}

/// A stretch of the governance text, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpan {
    /// First byte.
    pub start: u32,
    /// Byte behind the last.
    pub end: u32,
}

/// A condition of a rule as it stands in the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clause {
    /// Where it stands.
    pub span: TextSpan,
    /// What it says.
    pub text: String,
}

/// One rule as people know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `@id`, or `rule<N>` by its place in the text, counted from 1.
    pub id: String,
    /// Permit or forbid.
    pub effect: Effect,
    /// `@reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `@retry_after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Span>,
    /// `@status`: the HTTP status of a refusal, 400 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Where it stands in the text.
    pub span: TextSpan,
    /// Its conditions: all must hold. Conditions of the scope are among them.
    pub clauses: Vec<Clause>,
}

/// A rule as it applies to some actions and principals: the conditions still to be tested there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Index of the rule.
    pub rule: u8,
    /// Expression of each condition and its index in [`Rule::clauses`].
    pub clauses: Vec<(NodeId, u16)>,
}

/// The rules that can apply to one action by one sort of principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Action.
    pub action: Action,
    /// Sort of principal.
    pub principal: PrincipalKind,
    /// Indices of bodies.
    pub bodies: Vec<u16>,
}

/// A whole program as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Version of this form: [`Listing::VERSION`].
    pub version: u8,
    /// Rules in text order.
    pub rules: Vec<Rule>,
    /// Expressions.
    pub nodes: Vec<Node>,
    /// Bodies, shared by groups.
    pub bodies: Vec<Body>,
    /// Groups; where one is missing, no rule can apply.
    pub groups: Vec<Group>,
}

impl Listing {
    /// The version written.
    pub const VERSION: u8 = 1;
}
