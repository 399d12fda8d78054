//! From Cedar's typed syntax tree to the expressions of a program.
//!
//! The tree is typed for one action and one sort of principal, so every attribute path resolves to one slot, and what
//! cannot apply is gone already. Equal expressions share one node.

use std::collections::{BTreeMap, HashMap};

use cedar_policy_core::ast::{BinaryOp, EntityUID, Expr, ExprKind, Literal, PatternElem, UnaryOp, Var};
use cedar_policy_core::validator::types::Type;
use suijuris_core::governance::{
    Action, Attribute, Const, EntityKind, Fault, IpTest, Net, Node, NodeId, PrincipalKind, Slot,
};

use crate::literal;
use crate::words::{Parts, Word};

/// An expression that Cedar typed.
pub(crate) type Typed = Expr<Option<Type>>;

/// What a program cannot express, and where.
#[derive(Debug)]
pub(crate) struct Unsupported {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

type Lowered = Result<NodeId, Unsupported>;

/// The expressions of a program, each once.
#[derive(Debug, Default)]
pub(crate) struct Table {
    nodes: Vec<Node>,
    fallible: Vec<bool>,
    index: HashMap<Node, NodeId>,
}

impl Table {
    pub(crate) fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    fn at(&self, id: NodeId) -> Option<&Node> {
        usize::try_from(id).ok().and_then(|id| self.nodes.get(id))
    }

    pub(crate) fn literal(&self, id: NodeId) -> Option<&Const> {
        match self.at(id) {
            Some(Node::Const(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether evaluating `id` can err.
    pub(crate) fn can_err(&self, id: NodeId) -> bool {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.fallible.get(id).copied())
            .unwrap_or(true)
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.index.get(&node) {
            return *id;
        }
        let mut can_err = node.can_err();
        node.operands(|id| can_err |= self.can_err(id));
        let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        self.nodes.push(node.clone());
        self.fallible.push(can_err);
        self.index.insert(node, id);
        id
    }

    fn constant(&mut self, value: Const) -> NodeId {
        self.add(Node::Const(value))
    }

    fn bool(&mut self, value: bool) -> NodeId {
        self.constant(Const::Bool(value))
    }

    /// Conjunction (`neutral` true) or disjunction, simplified where no error could be lost.
    fn junction(&mut self, items: Vec<NodeId>, neutral: bool) -> NodeId {
        let mut kept = Vec::new();
        for item in items {
            match self.literal(item) {
                Some(Const::Bool(value)) if *value == neutral => {}
                Some(Const::Bool(_)) => {
                    kept.push(item);
                    break;
                }
                _ => kept.push(item),
            }
        }
        let decided = kept.last().filter(|last| self.literal(**last).is_some()).copied();
        if let Some(last) = decided
            && kept.iter().all(|item| !self.can_err(*item))
        {
            return last;
        }
        match (kept.as_slice(), neutral) {
            ([], _) => self.bool(neutral),
            ([only], _) => *only,
            (_, true) => self.add(Node::All(kept)),
            (_, false) => self.add(Node::Any(kept)),
        }
    }

    fn not(&mut self, id: NodeId) -> NodeId {
        match self.at(id) {
            Some(Node::Const(Const::Bool(value))) => {
                let value = !*value;
                self.bool(value)
            }
            Some(Node::Not(inner)) => *inner,
            _ => self.add(Node::Not(id)),
        }
    }
}

/// Lowers the conditions of one rule for one action by one sort of principal.
pub(crate) struct Lower<'a> {
    pub(crate) table: &'a mut Table,
    pub(crate) action: Action,
    pub(crate) kind: PrincipalKind,
    pub(crate) principal: &'a Word,
    pub(crate) resource: &'a Word,
    pub(crate) context: &'a Word,
}

/// The top-level conditions of a rule, left to right.
pub(crate) fn conjuncts(expr: &Typed) -> Vec<&Typed> {
    let mut out = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match expr.expr_kind() {
            ExprKind::And { left, right } => open.extend([&**right, &**left]),
            _ => out.push(expr),
        }
    }
    out
}

fn disjuncts(expr: &Typed) -> Vec<&Typed> {
    let mut out = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match expr.expr_kind() {
            ExprKind::Or { left, right } => open.extend([&**right, &**left]),
            _ => out.push(expr),
        }
    }
    out
}

fn unsupported(expr: &Typed, message: impl Into<String>, help: &'static str) -> Unsupported {
    let (start, end) = expr.source_loc().map_or((0, 0), |loc| (loc.start(), loc.end()));
    Unsupported {
        start,
        end,
        message: message.into(),
        help,
    }
}

impl Lower<'_> {
    /// The word that a path stands for.
    fn word(&self, expr: &Typed) -> Option<&Word> {
        match expr.expr_kind() {
            ExprKind::Var(Var::Principal) => Some(self.principal),
            ExprKind::Var(Var::Resource) => Some(self.resource),
            ExprKind::Var(Var::Context) => Some(self.context),
            ExprKind::GetAttr { expr, attr } => match self.word(expr)? {
                Word::Branch { parts, .. } => parts.get(attr.as_str()),
                Word::Fact { .. } => None,
            },
            _ => None,
        }
    }

    pub(crate) fn expr(&mut self, expr: &Typed) -> Lowered {
        match expr.expr_kind() {
            ExprKind::Lit(value) => self.literal(expr, value),
            ExprKind::Var(var) => Ok(self.var(*var)),
            ExprKind::If {
                test_expr,
                then_expr,
                else_expr,
            } => self.conditional(test_expr, then_expr, else_expr),
            ExprKind::And { .. } => {
                let items = self.until(&conjuncts(expr), false)?;
                Ok(self.table.junction(items, true))
            }
            ExprKind::Or { .. } => {
                let items = self.until(&disjuncts(expr), true)?;
                Ok(self.table.junction(items, false))
            }
            ExprKind::UnaryApp { op, arg } => self.unary(*op, arg),
            ExprKind::BinaryApp { op, arg1, arg2 } => self.binary(expr, *op, arg1, arg2),
            ExprKind::ExtensionFunctionApp { fn_name, args } => self.call(expr, &fn_name.to_string(), args),
            ExprKind::GetAttr { expr: base, attr } => self.attribute(expr, base, attr),
            ExprKind::HasAttr { expr: base, attr } => self.has(expr, base, &[attr.as_str()]),
            ExprKind::ExtHasAttr { expr: base, attrs } => {
                let attrs: Vec<&str> = attrs.iter().map(|attr| attr.as_str()).collect();
                self.has(expr, base, &attrs)
            }
            ExprKind::Like { expr: text, pattern } => {
                let text = self.expr(text)?;
                Ok(self.table.add(Node::Like(text, pieces(pattern.get_elems()))))
            }
            ExprKind::Is {
                expr: entity,
                entity_type,
            } => self.is(entity, &entity_type.to_string()),
            ExprKind::Set(items) => self.set(items),
            ExprKind::Record(parts) => self.record(parts),
            _ => Err(unsupported(
                expr,
                "this cannot be compiled",
                "rules cannot contain templates or unknowns",
            )),
        }
    }

    /// Lowers items up to the first that is the literal `stop`: what stands behind it is never evaluated.
    fn until(&mut self, items: &[&Typed], stop: bool) -> Result<Vec<NodeId>, Unsupported> {
        let mut out = Vec::new();
        for item in items {
            let id = self.expr(item)?;
            out.push(id);
            if self.table.literal(id) == Some(&Const::Bool(stop)) {
                break;
            }
        }
        Ok(out)
    }

    fn literal(&mut self, expr: &Typed, value: &Literal) -> Lowered {
        let value = match value {
            Literal::Bool(v) => Const::Bool(*v),
            Literal::Long(v) => Const::Number(*v),
            Literal::String(v) => Const::Text(v.to_string()),
            Literal::EntityUID(uid) => entity(uid).ok_or_else(|| {
                unsupported(
                    expr,
                    format!("`{uid}` has no known type"),
                    "use the entity types of docs/rules.md",
                )
            })?,
        };
        Ok(self.table.constant(value))
    }

    fn var(&mut self, var: Var) -> NodeId {
        match var {
            Var::Principal => self.table.add(Node::Slot(Slot::Principal)),
            Var::Resource => self.table.add(Node::Slot(Slot::Resource)),
            Var::Action => {
                let id = self.action.as_str().to_owned();
                self.table.constant(Const::Entity(EntityKind::Action, id))
            }
            Var::Context => {
                let word = self.context;
                value_of(self.table, word)
            }
        }
    }

    fn conditional(&mut self, test: &Typed, then: &Typed, or: &Typed) -> Lowered {
        let test = self.expr(test)?;
        match self.table.literal(test) {
            Some(Const::Bool(true)) => self.expr(then),
            Some(Const::Bool(false)) => self.expr(or),
            _ => {
                let (then, or) = (self.expr(then)?, self.expr(or)?);
                Ok(self.table.add(Node::If(test, then, or)))
            }
        }
    }

    fn unary(&mut self, op: UnaryOp, arg: &Typed) -> Lowered {
        let arg = self.expr(arg)?;
        Ok(match op {
            UnaryOp::Not => self.table.not(arg),
            UnaryOp::IsEmpty => self.table.add(Node::IsEmpty(arg)),
            UnaryOp::Neg => {
                let known = match self.table.literal(arg) {
                    Some(Const::Number(value)) => Some(value.checked_neg()),
                    _ => None,
                };
                match known {
                    Some(Some(value)) => self.table.constant(Const::Number(value)),
                    Some(None) => self.table.add(Node::Fail(Fault::Overflow)),
                    None => self.table.add(Node::Negate(arg)),
                }
            }
        })
    }

    fn binary(&mut self, whole: &Typed, op: BinaryOp, left: &Typed, right: &Typed) -> Lowered {
        let (a, b) = (self.expr(left)?, self.expr(right)?);
        Ok(match op {
            BinaryOp::Eq => self.equal(a, b),
            BinaryOp::Less => self.table.add(Node::Less(a, b)),
            BinaryOp::LessEq => self.table.add(Node::AtMost(a, b)),
            BinaryOp::Add => self.table.add(Node::Add(a, b)),
            BinaryOp::Sub => self.table.add(Node::Subtract(a, b)),
            BinaryOp::Mul => self.table.add(Node::Multiply(a, b)),
            // No entity has parents, so `in` is equality with the entity or with one of the set.
            BinaryOp::In if matches!(right.data(), Some(Type::Set { .. })) => self.member(a, b),
            BinaryOp::In => self.equal(a, b),
            BinaryOp::Contains => self.table.add(Node::Contains(a, b)),
            BinaryOp::ContainsAll => self.table.add(Node::ContainsAll(a, b)),
            BinaryOp::ContainsAny => self.table.add(Node::ContainsAny(a, b)),
            BinaryOp::GetTag | BinaryOp::HasTag => {
                return Err(unsupported(
                    whole,
                    "entities have no tags",
                    "use resource.memory instead",
                ));
            }
        })
    }

    /// The sort of entity, where it is known.
    fn sort(&self, id: NodeId) -> Option<EntityKind> {
        match self.table.at(id)? {
            Node::Slot(Slot::Principal) => Some(self.kind.into()),
            Node::Slot(Slot::Resource) => Some(EntityKind::Object),
            Node::Const(Const::Entity(kind, _)) => Some(*kind),
            _ => None,
        }
    }

    fn equal(&mut self, a: NodeId, b: NodeId) -> NodeId {
        let differ = matches!((self.sort(a), self.sort(b)), (Some(a), Some(b)) if a != b);
        match (self.table.literal(a), self.table.literal(b)) {
            (Some(a), Some(b)) => {
                let same = a == b;
                self.table.bool(same)
            }
            _ if differ => self.table.bool(false),
            _ if a == b && !self.table.can_err(a) => self.table.bool(true),
            _ => self.table.add(Node::Equal(a, b)),
        }
    }

    fn member(&mut self, item: NodeId, set: NodeId) -> NodeId {
        let known = match (self.table.literal(set), self.sort(item)) {
            (Some(Const::Set(items)), Some(kind)) => {
                let of_kind = |item: &&Const| matches!(item, Const::Entity(have, _) if *have == kind);
                let left: Vec<Const> = items.iter().filter(of_kind).cloned().collect();
                match self.table.literal(item) {
                    Some(item) => Some(Const::Bool(left.contains(item))),
                    None if left.is_empty() => Some(Const::Bool(false)),
                    None => None,
                }
            }
            _ => None,
        };
        match known {
            Some(value) => self.table.constant(value),
            None => self.table.add(Node::Contains(set, item)),
        }
    }

    fn is(&mut self, entity: &Typed, of: &str) -> Lowered {
        let entity = self.expr(entity)?;
        let kind: Option<EntityKind> = of.parse().ok();
        Ok(match (self.sort(entity), kind) {
            (Some(have), kind) => self.table.bool(Some(have) == kind),
            (None, Some(kind)) => self.table.add(Node::Is(entity, kind)),
            (None, None) => self.table.bool(false),
        })
    }

    fn attribute(&mut self, whole: &Typed, base: &Typed, attr: &str) -> Lowered {
        if let Some(word) = self.word(whole).cloned() {
            return Ok(value_of(self.table, &word));
        }
        if matches!(base.data(), Some(Type::Entity(_))) {
            return Err(unsupported(
                whole,
                "attributes can be read of `principal` and `resource` only",
                "compare the entity first, as in `principal == Caller::\"ann\"`, and then read of `principal`",
            ));
        }
        let base = self.expr(base)?;
        Ok(self.table.add(Node::Attribute(base, attr.to_owned())))
    }

    fn has(&mut self, whole: &Typed, base: &Typed, attrs: &[&str]) -> Lowered {
        let mut tests = Vec::new();
        let mut word = self.word(base).cloned();
        let mut node = None;
        for attr in attrs {
            match (word.take(), node) {
                (Some(Word::Branch { parts, .. }), _) => match parts.get(*attr) {
                    None => return Ok(self.refuted(tests)),
                    Some(next) => {
                        tests.extend(presence(self.table, next));
                        word = Some(next.clone());
                    }
                },
                (Some(fact), None) => {
                    let record = value_of(self.table, &fact);
                    node = Some(self.step(record, attr, &mut tests));
                }
                (None, None) if matches!(base.data(), Some(Type::Entity(_))) => {
                    return Err(unsupported(
                        whole,
                        "attributes can be tested of `principal` and `resource` only",
                        "test for the attribute on `principal` or `resource`",
                    ));
                }
                (None, None) => {
                    let record = self.expr(base)?;
                    node = Some(self.step(record, attr, &mut tests));
                }
                (_, Some(record)) => node = Some(self.step(record, attr, &mut tests)),
            }
        }
        Ok(self.table.junction(tests, true))
    }

    /// `tests` and then false.
    fn refuted(&mut self, mut tests: Vec<NodeId>) -> NodeId {
        tests.push(self.table.bool(false));
        self.table.junction(tests, true)
    }

    /// Tests `record` for an attribute, and gives the attribute for the next test.
    fn step(&mut self, record: NodeId, attr: &str, tests: &mut Vec<NodeId>) -> NodeId {
        tests.push(self.table.add(Node::HasAttribute(record, attr.to_owned())));
        self.table.add(Node::Attribute(record, attr.to_owned()))
    }

    fn set(&mut self, items: &[Typed]) -> Lowered {
        let ids: Vec<NodeId> = items
            .iter()
            .map(|item| self.expr(item))
            .collect::<Result<_, _>>()?;
        let known: Option<std::collections::BTreeSet<Const>> =
            ids.iter().map(|id| self.table.literal(*id).cloned()).collect();
        Ok(match known {
            Some(items) => self.table.constant(Const::Set(items.into_iter().collect())),
            None => self.table.add(Node::Set(ids)),
        })
    }

    fn record(&mut self, parts: &BTreeMap<impl AsRef<str> + Ord, Typed>) -> Lowered {
        let mut attributes = Vec::new();
        for (name, value) in parts {
            attributes.push(Attribute {
                name: name.as_ref().to_owned(),
                present: None,
                value: self.expr(value)?,
            });
        }
        Ok(record_of(self.table, attributes))
    }

    fn call(&mut self, whole: &Typed, name: &str, args: &[Typed]) -> Lowered {
        if let [arg] = args
            && matches!(name, "decimal" | "ip" | "datetime" | "duration")
        {
            return self.constructed(whole, name, arg);
        }
        let ids: Vec<NodeId> = args.iter().map(|arg| self.expr(arg)).collect::<Result<_, _>>()?;
        let node = match (name, ids.as_slice()) {
            ("lessThan", [a, b]) => Node::Less(*a, *b),
            ("lessThanOrEqual", [a, b]) => Node::AtMost(*a, *b),
            // Operands keep their order, since the first to err is the one to err.
            ("greaterThan", [a, b]) => return Ok(self.negated(Node::AtMost(*a, *b))),
            ("greaterThanOrEqual", [a, b]) => return Ok(self.negated(Node::Less(*a, *b))),
            ("isIpv4", [a]) => Node::Ip(IpTest::V4, *a),
            ("isIpv6", [a]) => Node::Ip(IpTest::V6, *a),
            ("isLoopback", [a]) => Node::Ip(IpTest::Loopback, *a),
            ("isMulticast", [a]) => Node::Ip(IpTest::Multicast, *a),
            ("isInRange", [a, b]) => Node::InRange(*a, *b),
            ("offset", [a, b]) => Node::Add(*a, *b),
            ("durationSince", [a, b]) => Node::Subtract(*a, *b),
            ("toDate", [a]) => Node::StartOfDay(*a),
            ("toTime", [a]) => Node::TimeOfDay(*a),
            ("toMilliseconds", [a]) => return Ok(*a),
            ("toSeconds", [a]) => Node::Divide(*a, 1_000),
            ("toMinutes", [a]) => Node::Divide(*a, 60_000),
            ("toHours", [a]) => Node::Divide(*a, 3_600_000),
            ("toDays", [a]) => Node::Divide(*a, 86_400_000),
            _ => {
                return Err(unsupported(
                    whole,
                    format!("`{name}` cannot be compiled"),
                    "docs/rules.md lists the functions that rules may use",
                ));
            }
        };
        Ok(self.table.add(node))
    }

    fn negated(&mut self, node: Node) -> NodeId {
        let id = self.table.add(node);
        self.table.not(id)
    }

    fn constructed(&mut self, whole: &Typed, name: &str, arg: &Typed) -> Lowered {
        let ExprKind::Lit(Literal::String(text)) = arg.expr_kind() else {
            return Err(unsupported(
                whole,
                format!("`{name}` takes a literal string"),
                "declare the memory field or claim with that type instead of as a string",
            ));
        };
        let value = match name {
            "decimal" => literal::decimal(text).map(Const::Number),
            "ip" => literal::ip(text).map(|(addr, prefix)| Const::Ip(Net { addr, prefix })),
            _ => literal::milliseconds(name, text).map(Const::Number),
        };
        match value {
            Some(value) => Ok(self.table.constant(value)),
            None => Err(unsupported(
                whole,
                format!("`{text}` is not a valid {name}"),
                "docs/rules.md shows how to write it",
            )),
        }
    }
}

fn entity(uid: &EntityUID) -> Option<Const> {
    let kind = uid.entity_type().to_string().parse().ok()?;
    let id: &str = uid.eid().as_ref();
    Some(Const::Entity(kind, id.to_owned()))
}

/// The value of a word: a fact, or the record of all words under a branch.
fn value_of(table: &mut Table, word: &Word) -> NodeId {
    match word {
        Word::Fact { slot, .. } => table.add(Node::Slot(*slot)),
        Word::Branch { parts, .. } => branch_value(table, parts),
    }
}

fn branch_value(table: &mut Table, parts: &Parts) -> NodeId {
    let attributes = parts
        .iter()
        .map(|(name, word)| Attribute {
            name: name.clone(),
            present: presence(table, word),
            value: value_of(table, word),
        })
        .collect();
    record_of(table, attributes)
}

/// The test whether an optional word is there.
fn presence(table: &mut Table, word: &Word) -> Option<NodeId> {
    match word {
        Word::Fact {
            slot, optional: true, ..
        }
        | Word::Branch {
            present: Some(slot), ..
        } => Some(table.add(Node::Has(*slot))),
        _ => None,
    }
}

fn record_of(table: &mut Table, attributes: Vec<Attribute>) -> NodeId {
    let known: Option<BTreeMap<String, Const>> = attributes
        .iter()
        .map(|part| match part.present {
            None => Some((part.name.clone(), table.literal(part.value)?.clone())),
            Some(_) => None,
        })
        .collect();
    match known {
        Some(parts) => table.constant(Const::Record(parts)),
        None => table.add(Node::Record(attributes)),
    }
}

/// The texts between the wildcards of a pattern.
fn pieces(pattern: &[PatternElem]) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for element in pattern {
        match (element, pieces.last_mut()) {
            (PatternElem::Char(c), Some(piece)) => piece.push(*c),
            _ => pieces.push(String::new()),
        }
    }
    pieces
}
