//! Forbids that a caller evades by another spelling: queries and header values have no canonical form (docs/rules.md, "One
//! request, one spelling"), so that a `forbid` of one spelling lets all others pass.

use std::collections::BTreeSet;

use suijuris_core::governance::{Effect, Listing, Node, NodeId, Slot};

use super::{node, offset};
use crate::diagnostic::{Diagnostic, Severity};

/// The findings.
pub(super) fn all(listing: &Listing) -> Vec<Diagnostic> {
    let mut found = BTreeSet::new();
    for body in &listing.bodies {
        let forbids = listing.rules.get(usize::from(body.rule));
        if forbids.is_none_or(|rule| rule.effect != Effect::Forbid) {
            continue;
        }
        for (id, clause) in &body.clauses {
            let word = compared(listing, *id, true);
            found.extend(word.map(|word| (body.rule, *clause, word)));
        }
    }
    let finding = |(rule, clause, word): (u8, u16, &str)| {
        let rule = listing.rules.get(usize::from(rule))?;
        let span = rule.clauses.get(usize::from(clause))?.span;
        let message = format!(
            "`{}` forbids one spelling of {word}, and callers choose the spelling",
            rule.id
        );
        let finding = Diagnostic::new(Severity::Advice, "rules.many_spellings", message);
        let help = "forbid all but what may pass: `unless` in place of `when`, or a narrower permit";
        Some(finding.at(offset(span.start), offset(span.end), None).help(help))
    };
    found.into_iter().filter_map(finding).collect()
}

/// What of a request an expression compares with a text so that it holds where they are the same; `holds` is turned over by
/// each negation.
fn compared(listing: &Listing, id: NodeId, holds: bool) -> Option<&'static str> {
    let word = |id: &NodeId| match node(listing, *id)? {
        Node::Slot(Slot::Query) => Some("the query (`a=1` is `%61=1` too)"),
        Node::Slot(Slot::Header(_)) => Some("a header (letter case, spaces, lists)"),
        _ => None,
    };
    match node(listing, id)? {
        Node::Not(inner) => compared(listing, *inner, !holds),
        Node::All(items) | Node::Any(items) => items.iter().find_map(|item| compared(listing, *item, holds)),
        Node::If(_, then, or) => compared(listing, *then, holds).or_else(|| compared(listing, *or, holds)),
        Node::Equal(a, b) | Node::Contains(a, b) if holds => word(a).or_else(|| word(b)),
        Node::Like(text, pieces) if holds && pieces.iter().any(|piece| !piece.is_empty()) => word(text),
        _ => None,
    }
}
