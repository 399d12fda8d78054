//! Evaluation of expressions: total and without allocation.
//!
//! Depth is bounded by verification, and work on collections by [`Eval::WORK`], so that no program and no memory can
//! keep a decision busy. Collection literals are evaluated where they are looked at; what could err in them is
//! evaluated first, as Cedar does.

use std::cell::Cell;

use super::facts::Facts;
use super::judgement::Fault;
use super::node::{Attribute, Const, IpTest, Node, NodeId};
use super::operand::{self, Items, Operand, Parts};

const DAY_MS: i64 = 86_400_000;

/// One evaluation over one set of facts.
pub(super) struct Eval<'a> {
    nodes: &'a [Node],
    fallible: &'a [bool],
    facts: &'a Facts<'a>,
    work: Cell<u32>,
}

type Value<'a> = Result<Operand<'a>, Fault>;

impl<'a> Eval<'a> {
    /// Items of collections that one decision looks at, at most: some milliseconds.
    pub(super) const WORK: u32 = 200_000;

    #[inline]
    pub(super) const fn new(nodes: &'a [Node], fallible: &'a [bool], facts: &'a Facts<'a>) -> Self {
        Self {
            nodes,
            fallible,
            facts,
            work: Cell::new(Self::WORK),
        }
    }

    #[inline]
    pub(super) const fn facts(&self) -> &'a Facts<'a> {
        self.facts
    }

    /// One more item looked at.
    fn spend(&self) -> Result<(), Fault> {
        let left = self.work.get().checked_sub(1).ok_or(Fault::Work)?;
        self.work.set(left);
        Ok(())
    }

    pub(super) fn bool(&self, id: NodeId) -> Result<bool, Fault> {
        self.node(id)?.bool()
    }

    fn number(&self, id: NodeId) -> Result<i64, Fault> {
        self.node(id)?.number()
    }

    fn numbers(&self, a: NodeId, b: NodeId) -> Result<(i64, i64), Fault> {
        Ok((self.number(a)?, self.number(b)?))
    }

    fn operands(&self, a: NodeId, b: NodeId) -> Result<(Operand<'a>, Operand<'a>), Fault> {
        Ok((self.node(a)?, self.node(b)?))
    }

    fn at(&self, id: NodeId) -> Result<&'a Node, Fault> {
        let index = usize::try_from(id).map_err(|_| Fault::Type)?;
        self.nodes.get(index).ok_or(Fault::Type)
    }

    /// The value of expression `id`.
    pub(super) fn node(&self, id: NodeId) -> Value<'a> {
        let number = |value: Option<i64>| value.map(Operand::Number).ok_or(Fault::Overflow);
        match self.at(id)? {
            Node::Const(value) => Ok(Operand::of_const(value)),
            Node::Fail(fault) => Err(*fault),
            Node::Slot(slot) => slot.operand(self.facts),
            Node::Has(slot) => Ok(Operand::Bool(slot.present(self.facts))),
            Node::Not(a) => self.bool(*a).map(|v| Operand::Bool(!v)),
            Node::All(items) => self.every(items).map(Operand::Bool),
            Node::Any(items) => self.some(items).map(Operand::Bool),
            Node::If(test, then, or) => self.node(if self.bool(*test)? { *then } else { *or }),
            Node::Less(a, b) => self.numbers(*a, *b).map(|(a, b)| Operand::Bool(a < b)),
            Node::AtMost(a, b) => self.numbers(*a, *b).map(|(a, b)| Operand::Bool(a <= b)),
            Node::Add(a, b) => self.numbers(*a, *b).and_then(|(a, b)| number(a.checked_add(b))),
            Node::Subtract(a, b) => self.numbers(*a, *b).and_then(|(a, b)| number(a.checked_sub(b))),
            Node::Multiply(a, b) => self.numbers(*a, *b).and_then(|(a, b)| number(a.checked_mul(b))),
            Node::Negate(a) => self.number(*a).and_then(|a| number(a.checked_neg())),
            Node::Divide(a, by) => self.number(*a).and_then(|a| number(a.checked_div(*by))),
            Node::StartOfDay(a) => self
                .number(*a)
                .and_then(|at| number(at.checked_sub(at.rem_euclid(DAY_MS)))),
            Node::TimeOfDay(a) => self.number(*a).map(|at| Operand::Number(at.rem_euclid(DAY_MS))),
            node => self.structured(node),
        }
    }

    /// Expressions over texts, entities, addresses and collections.
    fn structured(&self, node: &'a Node) -> Value<'a> {
        let yes = |value: bool| Ok(Operand::Bool(value));
        match node {
            Node::Equal(a, b) => {
                let (a, b) = self.operands(*a, *b)?;
                self.equal(a, b).map(Operand::Bool)
            }
            Node::Contains(set, item) => {
                let (set, item) = self.operands(*set, *item)?;
                self.contains(set.set()?, item).map(Operand::Bool)
            }
            Node::ContainsAll(set, of) => {
                let (set, of) = self.operands(*set, *of)?;
                self.covers(set.set()?, of.set()?).map(Operand::Bool)
            }
            Node::ContainsAny(set, of) => {
                let (set, of) = self.operands(*set, *of)?;
                let set = set.set()?;
                self.any(of.set()?, |item| self.contains(set, item))
                    .map(Operand::Bool)
            }
            Node::IsEmpty(set) => yes(self.node(*set)?.set()?.is_empty()),
            Node::Attribute(record, name) => self
                .attribute(self.node(*record)?.record()?, name)?
                .ok_or(Fault::Missing),
            Node::HasAttribute(record, name) => {
                let record = self.node(*record)?.record()?;
                yes(self.attribute(record, name)?.is_some())
            }
            Node::Like(text, pieces) => match self.node(*text)? {
                Operand::Text(text) => yes(operand::is_like(text, pieces)),
                Operand::Bytes(bytes) => yes(operand::is_base64_like(bytes, pieces)),
                _ => Err(Fault::Type),
            },
            Node::Is(entity, kind) => match self.node(*entity)? {
                Operand::Entity(found, _) => yes(found == *kind),
                _ => Err(Fault::Type),
            },
            Node::Ip(test, addr) => {
                let net = self.node(*addr)?.ip()?;
                yes(match test {
                    IpTest::V4 => net.addr.is_ipv4(),
                    IpTest::V6 => net.addr.is_ipv6(),
                    IpTest::Loopback => net.is_loopback(),
                    IpTest::Multicast => net.is_multicast(),
                })
            }
            Node::InRange(addr, range) => {
                let (addr, range) = self.operands(*addr, *range)?;
                yes(addr.ip()?.is_in(&range.ip()?))
            }
            Node::Set(items) => {
                items.iter().try_for_each(|item| self.check_item(*item))?;
                Ok(Operand::Set(Items::Nodes(items)))
            }
            Node::Record(attributes) => {
                attributes
                    .iter()
                    .try_for_each(|part| self.check_item(part.value))?;
                Ok(Operand::Record(Parts::Nodes(attributes)))
            }
            _ => Err(Fault::Type),
        }
    }

    fn every(&self, items: &[NodeId]) -> Result<bool, Fault> {
        for item in items {
            if !self.bool(*item)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn some(&self, items: &[NodeId]) -> Result<bool, Fault> {
        for item in items {
            if self.bool(*item)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Evaluates an item of a literal for its error alone.
    fn check_item(&self, item: NodeId) -> Result<(), Fault> {
        let index = usize::try_from(item).map_err(|_| Fault::Type)?;
        if self.fallible.get(index).copied().unwrap_or(true) {
            self.spend()?;
            self.node(item)?;
        }
        Ok(())
    }

    /// Whether `test` holds for some item.
    fn any(
        &self,
        items: Items<'a>,
        test: impl Fn(Operand<'a>) -> Result<bool, Fault>,
    ) -> Result<bool, Fault> {
        let found = |item: Value<'a>| -> Result<bool, Fault> {
            self.spend()?;
            test(item?)
        };
        macro_rules! search {
            ($items:expr, $of:expr) => {{
                for item in $items {
                    if found($of(item))? {
                        return Ok(true);
                    }
                }
            }};
        }
        match items {
            Items::Consts(items) => search!(items, |item| Ok(Operand::of_const(item))),
            Items::Values(items) => search!(items, Operand::of),
            Items::List(items) => search!(items, Operand::of),
            Items::Map(items) => search!(items, |(key, value): (&'a String, &'a _)| entry(key, value)),
            Items::Names(items) => search!(items, |item: &'a &'a str| Ok(Operand::Text(item))),
            Items::Nodes(items) => search!(items, |item: &NodeId| self.node(*item)),
        }
        Ok(false)
    }

    pub(super) fn contains(&self, items: Items<'a>, item: Operand<'a>) -> Result<bool, Fault> {
        match (items, item) {
            (Items::Consts(items), Operand::Text(text)) => Ok(has_text(items, text)),
            _ => self.any(items, |have| self.equal(have, item)),
        }
    }

    /// Whether `set` has every item of `of`.
    fn covers(&self, set: Items<'a>, of: Items<'a>) -> Result<bool, Fault> {
        self.any(of, |item| self.contains(set, item).map(|has| !has))
            .map(|lacks| !lacks)
    }

    /// Equality; values of different types are unequal.
    fn equal(&self, a: Operand<'a>, b: Operand<'a>) -> Result<bool, Fault> {
        match (a, b) {
            (Operand::Bool(a), Operand::Bool(b)) => Ok(a == b),
            (Operand::Number(a), Operand::Number(b)) => Ok(a == b),
            (Operand::Text(a), Operand::Text(b)) => Ok(a == b),
            (Operand::Bytes(a), Operand::Bytes(b)) => Ok(a == b),
            (Operand::Bytes(bytes), Operand::Text(text)) | (Operand::Text(text), Operand::Bytes(bytes)) => {
                let same = |(index, b)| operand::base64_at(bytes, index) == Some(b);
                Ok(text.len() == operand::base64_len(bytes) && text.bytes().enumerate().all(same))
            }
            (Operand::Ip(a), Operand::Ip(b)) => Ok(a == b),
            (Operand::Entity(a, a_id), Operand::Entity(b, b_id)) => Ok(a == b && a_id == b_id),
            (Operand::Set(a), Operand::Set(b)) => Ok(self.covers(a, b)? && self.covers(b, a)?),
            (Operand::Record(a), Operand::Record(b)) => self.same_record(a, b),
            _ => Ok(false),
        }
    }

    fn same_record(&self, a: Parts<'a>, b: Parts<'a>) -> Result<bool, Fault> {
        self.within(a, b)
            .and_then(|within| Ok(within && self.count(a)? == self.count(b)?))
    }

    /// Whether every attribute of `a` is in `b` with the same value.
    fn within(&self, a: Parts<'a>, b: Parts<'a>) -> Result<bool, Fault> {
        let same = |name: &str, value: Value<'a>| -> Result<bool, Fault> {
            self.spend()?;
            let value = value?;
            self.attribute(b, name)?
                .map_or(Ok(false), |other| self.equal(value, other))
        };
        macro_rules! all {
            ($parts:expr) => {{
                for (name, value) in $parts {
                    if !same(name, value)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }};
        }
        match a {
            Parts::Consts(parts) => all!(parts.iter().map(|(k, v)| (k.as_str(), Ok(Operand::of_const(v))))),
            Parts::Values(parts) => all!(parts.iter().map(|(k, v)| (k.as_str(), Operand::of(v)))),
            Parts::Entry(key, value) => {
                all!([("key", Ok(Operand::Text(key))), ("value", Operand::of(value))])
            }
            Parts::Nodes(parts) => {
                for part in parts {
                    if self.is_present(part)? && !same(&part.name, self.node(part.value))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    fn count(&self, parts: Parts<'a>) -> Result<usize, Fault> {
        Ok(match parts {
            Parts::Consts(parts) => parts.len(),
            Parts::Values(parts) => parts.len(),
            Parts::Entry(..) => 2,
            Parts::Nodes(parts) => {
                let mut count = 0;
                for part in parts {
                    count += usize::from(self.is_present(part)?);
                }
                count
            }
        })
    }

    fn is_present(&self, part: &Attribute) -> Result<bool, Fault> {
        part.present.map_or(Ok(true), |present| self.bool(present))
    }

    fn attribute(&self, parts: Parts<'a>, name: &str) -> Result<Option<Operand<'a>>, Fault> {
        match parts {
            Parts::Consts(parts) => Ok(parts.get(name).map(Operand::of_const)),
            Parts::Values(parts) => parts.get(name).map(Operand::of).transpose(),
            Parts::Entry(key, value) => match name {
                "key" => Ok(Some(Operand::Text(key))),
                "value" => Operand::of(value).map(Some),
                _ => Ok(None),
            },
            Parts::Nodes(parts) => {
                let found = parts.iter().find(|part| part.name == name);
                match found {
                    Some(part) if self.is_present(part)? => {
                        self.spend()?;
                        self.node(part.value).map(Some)
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// A value of its own, for specializing.
    pub(super) fn constant(&self, value: Operand<'a>) -> Result<Const, Fault> {
        Ok(match value {
            Operand::Bool(v) => Const::Bool(v),
            Operand::Number(v) => Const::Number(v),
            Operand::Text(v) => Const::Text(v.to_owned()),
            Operand::Bytes(v) => {
                let text = (0..operand::base64_len(v)).filter_map(|index| operand::base64_at(v, index));
                Const::Text(text.map(char::from).collect())
            }
            Operand::Ip(v) => Const::Ip(v),
            Operand::Entity(kind, id) => Const::Entity(kind, id.to_owned()),
            Operand::Set(items) => {
                let all = std::cell::RefCell::new(std::collections::BTreeSet::new());
                self.any(items, |item| {
                    all.borrow_mut().insert(self.constant(item)?);
                    Ok(false)
                })?;
                Const::Set(all.into_inner().into_iter().collect())
            }
            Operand::Record(parts) => Const::Record(self.constant_parts(parts)?),
        })
    }

    fn constant_parts(&self, parts: Parts<'a>) -> Result<std::collections::BTreeMap<String, Const>, Fault> {
        let own = |name: &str, value: Value<'a>| Ok((name.to_owned(), self.constant(value?)?));
        match parts {
            Parts::Consts(parts) => Ok(parts.clone()),
            Parts::Values(parts) => parts.iter().map(|(k, v)| own(k, Operand::of(v))).collect(),
            Parts::Entry(key, value) => [("key", Ok(Operand::Text(key))), ("value", Operand::of(value))]
                .into_iter()
                .map(|(k, v)| own(k, v))
                .collect(),
            Parts::Nodes(parts) => parts
                .iter()
                .filter_map(|part| match self.is_present(part) {
                    Ok(true) => Some(own(&part.name, self.node(part.value))),
                    Ok(false) => None,
                    Err(fault) => Some(Err(fault)),
                })
                .collect(),
        }
    }
}

fn entry<'a>(key: &'a str, value: &'a crate::memory::Value) -> Value<'a> {
    Ok(Operand::Record(Parts::Entry(key, value)))
}

/// Whether a sorted set of constants has this text.
pub(super) fn has_text(items: &[Const], text: &str) -> bool {
    let order = |item: &Const| match item {
        Const::Text(have) => have.as_str().cmp(text),
        // The order of variants: what sorts before texts, and what behind.
        Const::Bool(_) | Const::Number(_) => std::cmp::Ordering::Less,
        _ => std::cmp::Ordering::Greater,
    };
    items.binary_search_by(order).is_ok()
}
