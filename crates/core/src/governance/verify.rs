//! What must hold of a listing before it is run, so that no foreign program can panic, loop or work without bound.

use super::judgement::MAX_RULES;
use super::node::{Const, Listing, Node, NodeId};

/// Bytes of an encoded program at most.
pub const MAX_BYTES: usize = 1 << 20;

const MAX_NODES: usize = 1 << 16;
const MAX_BODIES: usize = 1 << 13;
/// Nesting of expressions at most: evaluation recurses this deep.
const MAX_DEPTH: u32 = 128;
/// Nesting of constants at most.
const MAX_CONST_DEPTH: u32 = 16;
/// Expressions that a condition evaluates at most, shared ones counted at each use.
const MAX_SIZE: u32 = 1 << 20;

/// Why a listing is no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// Not canonical bytes of a listing.
    #[error("the program cannot be read: build the bundle again")]
    Encoding(String),
    /// A version that this build does not know.
    #[error("the program has version {0}: build the bundle again, or update suijuris")]
    Version(u8),
    /// Too many rules, expressions or tests, or too deep.
    #[error("the program has too many or too deep {0}: split or simplify the rules")]
    TooLarge(&'static str),
    /// An index that points nowhere, or not backwards.
    #[error("the program is not valid: {0}")]
    Unsound(&'static str),
}

/// What an expression yields, as far as it can be known without a vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Bool,
    Number,
    Text,
    Ip,
    Entity,
    Set,
    Record,
    /// Depends on the vocabulary.
    Open,
}

/// What is known of an expression.
#[derive(Clone, Copy)]
struct Seen {
    depth: u32,
    size: u32,
    sort: Sort,
}

/// Checks `listing`; `Ok` gives for each expression whether it can err.
pub(super) fn verify(listing: &Listing) -> Result<Vec<bool>, ProgramError> {
    if listing.version != Listing::VERSION {
        return Err(ProgramError::Version(listing.version));
    }
    for (what, len, max) in [
        ("rules", listing.rules.len(), MAX_RULES),
        ("expressions", listing.nodes.len(), MAX_NODES),
        ("conditions", listing.bodies.len(), MAX_BODIES),
    ] {
        if len > max {
            return Err(ProgramError::TooLarge(what));
        }
    }
    let seen = verify_nodes(&listing.nodes)?;
    verify_bodies(listing, &seen)?;
    verify_groups(listing)?;
    Ok(fallible(&listing.nodes))
}

fn verify_nodes(nodes: &[Node]) -> Result<Vec<Seen>, ProgramError> {
    let mut seen: Vec<Seen> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let (mut depth, mut size, mut sound) = (0, 1u32, true);
        node.operands(|id| match usize::try_from(id).ok().and_then(|id| seen.get(id)) {
            Some(operand) => {
                depth = depth.max(operand.depth);
                size = size.saturating_add(operand.size);
            }
            None => sound = false,
        });
        if !sound {
            return Err(ProgramError::Unsound(
                "an expression refers to one that is not before it",
            ));
        }
        if depth >= MAX_DEPTH || size > MAX_SIZE {
            return Err(ProgramError::TooLarge("expressions"));
        }
        verify_constant(node)?;
        seen.push(Seen {
            depth: depth + 1,
            size,
            sort: sort(node, &seen)?,
        });
    }
    Ok(seen)
}

fn verify_constant(node: &Node) -> Result<(), ProgramError> {
    match node {
        Node::Const(value) if !is_sound(value, 0) => Err(ProgramError::Unsound(
            "a constant is too deep, out of range or not sorted",
        )),
        Node::Divide(_, by) if *by <= 0 => {
            Err(ProgramError::Unsound("a division is not by a positive number"))
        }
        Node::Like(_, pieces) if pieces.is_empty() => Err(ProgramError::Unsound("a pattern has no piece")),
        Node::Record(parts)
            if !parts
                .windows(2)
                .all(|pair| matches!(pair, [a, b] if a.name < b.name)) =>
        {
            Err(ProgramError::Unsound("the attributes of a record are not sorted"))
        }
        _ => Ok(()),
    }
}

fn is_sound(value: &Const, depth: u32) -> bool {
    depth < MAX_CONST_DEPTH
        && match value {
            Const::Set(items) => {
                items.windows(2).all(|pair| matches!(pair, [a, b] if a < b))
                    && items.iter().all(|item| is_sound(item, depth + 1))
            }
            Const::Record(parts) => parts.values().all(|part| is_sound(part, depth + 1)),
            Const::Ip(net) => net.is_sound(),
            _ => true,
        }
}

/// What `node` yields, or that its operands cannot be what it needs.
fn sort(node: &Node, seen: &[Seen]) -> Result<Sort, ProgramError> {
    let of = |id: &NodeId| {
        let found = usize::try_from(*id).ok().and_then(|id| seen.get(id));
        found.map_or(Sort::Open, |operand| operand.sort)
    };
    let need = |want: Sort, ids: &[&NodeId], yields: Sort| {
        let fits = |id: &&NodeId| of(id) == want || of(id) == Sort::Open;
        if ids.iter().all(fits) {
            Ok(yields)
        } else {
            Err(ProgramError::Unsound(
                "an operand has a type that its operator cannot take",
            ))
        }
    };
    match node {
        Node::Const(value) => Ok(sort_of(value)),
        Node::Fail(_) | Node::Slot(_) => Ok(Sort::Open),
        Node::Has(_) | Node::Equal(..) => Ok(Sort::Bool),
        Node::Not(a) => need(Sort::Bool, &[a], Sort::Bool),
        Node::All(items) | Node::Any(items) => {
            need(Sort::Bool, &items.iter().collect::<Vec<_>>(), Sort::Bool)
        }
        Node::If(test, then, or) => need(
            Sort::Bool,
            &[test],
            if of(then) == of(or) { of(then) } else { Sort::Open },
        ),
        Node::Less(a, b) | Node::AtMost(a, b) => need(Sort::Number, &[a, b], Sort::Bool),
        Node::Add(a, b) | Node::Subtract(a, b) | Node::Multiply(a, b) => {
            need(Sort::Number, &[a, b], Sort::Number)
        }
        Node::Negate(a) | Node::Divide(a, _) | Node::StartOfDay(a) | Node::TimeOfDay(a) => {
            need(Sort::Number, &[a], Sort::Number)
        }
        Node::Contains(set, _) => need(Sort::Set, &[set], Sort::Bool),
        Node::ContainsAll(a, b) | Node::ContainsAny(a, b) => need(Sort::Set, &[a, b], Sort::Bool),
        Node::IsEmpty(a) => need(Sort::Set, &[a], Sort::Bool),
        Node::Attribute(a, _) => need(Sort::Record, &[a], Sort::Open),
        Node::HasAttribute(a, _) => need(Sort::Record, &[a], Sort::Bool),
        Node::Like(a, _) => need(Sort::Text, &[a], Sort::Bool),
        Node::Is(a, _) => need(Sort::Entity, &[a], Sort::Bool),
        Node::Ip(_, a) => need(Sort::Ip, &[a], Sort::Bool),
        Node::InRange(a, b) => need(Sort::Ip, &[a, b], Sort::Bool),
        Node::Set(_) => Ok(Sort::Set),
        Node::Record(parts) => {
            let present: Vec<_> = parts.iter().filter_map(|part| part.present.as_ref()).collect();
            need(Sort::Bool, &present, Sort::Record)
        }
    }
}

const fn sort_of(value: &Const) -> Sort {
    match value {
        Const::Bool(_) => Sort::Bool,
        Const::Number(_) => Sort::Number,
        Const::Text(_) => Sort::Text,
        Const::Ip(_) => Sort::Ip,
        Const::Entity(..) => Sort::Entity,
        Const::Set(_) => Sort::Set,
        Const::Record(_) => Sort::Record,
    }
}

fn verify_bodies(listing: &Listing, seen: &[Seen]) -> Result<(), ProgramError> {
    let mut total = 0u32;
    for body in &listing.bodies {
        let rule = listing
            .rules
            .get(usize::from(body.rule))
            .ok_or(ProgramError::Unsound("a condition belongs to no rule"))?;
        for (node, clause) in &body.clauses {
            let condition = usize::try_from(*node).ok().and_then(|node| seen.get(node));
            let known = condition.filter(|condition| matches!(condition.sort, Sort::Bool | Sort::Open));
            if known.is_none() || usize::from(*clause) >= rule.clauses.len() {
                return Err(ProgramError::Unsound("a condition is not a bool or has no text"));
            }
            total = total.saturating_add(known.map_or(0, |condition| condition.size));
        }
    }
    if total > MAX_SIZE {
        return Err(ProgramError::TooLarge("expressions"));
    }
    Ok(())
}

fn verify_groups(listing: &Listing) -> Result<(), ProgramError> {
    let key = |group: &super::node::Group| (group.action, group.principal);
    let ordered = |pair: &[super::node::Group]| matches!(pair, [a, b] if key(a) < key(b));
    if !listing.groups.windows(2).all(ordered) {
        return Err(ProgramError::Unsound("groups are not in order"));
    }
    let sound = listing.groups.iter().all(|group| {
        group.bodies.len() <= MAX_RULES
            && group
                .bodies
                .iter()
                .all(|body| usize::from(*body) < listing.bodies.len())
            && group.action.applies_to(group.principal)
    });
    if sound {
        Ok(())
    } else {
        Err(ProgramError::Unsound(
            "a group names a condition that is not there",
        ))
    }
}

/// For each expression whether it can err other than by a missing fact.
fn fallible(nodes: &[Node]) -> Vec<bool> {
    let mut fallible: Vec<bool> = Vec::with_capacity(nodes.len());
    for node in nodes {
        fallible.push(can_err(node, &fallible));
    }
    fallible
}

/// Whether `node` can err, given the same of the expressions before it.
pub(super) fn can_err(node: &Node, before: &[bool]) -> bool {
    let mut can_err = node.can_err();
    node.operands(|id| {
        can_err |= usize::try_from(id)
            .ok()
            .and_then(|id| before.get(id).copied())
            .unwrap_or(true);
    });
    can_err
}
