//! What `check` tells the author of valid rules: what likely was not meant.

mod canonical;
mod spellings;

use std::collections::{BTreeMap, BTreeSet};

use suijuris_core::governance::{
    Action, Body, Const, Effect, Listing, Node, NodeId, PrincipalKind, Program, Rule, Slot, Vocabulary,
};
use suijuris_core::memory::Kind;

use crate::compile::permitted;
use crate::diagnostic::{Diagnostic, Severity};

/// Conditions whose combinations are tried out, at most.
const MAX_ATOMS: usize = 16;

/// All findings; `warnings` are Cedar's own.
pub(crate) fn all(vocabulary: &Vocabulary, program: &Program, warnings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let listing = program.listing();
    let mut all = warnings;
    all.extend(never(listing, &all));
    all.extend(unpermitted(vocabulary, program));
    all.extend(unknown_symbols(vocabulary, listing));
    all.extend(without_fresh_for(vocabulary, listing));
    all.extend(unused(vocabulary, listing));
    all.extend(not_kept(program));
    all.extend(locked_out(program));
    all.extend(canonical::all(listing));
    all.extend(spellings::all(listing));
    all
}

fn at_rule(finding: Diagnostic, rule: &Rule) -> Diagnostic {
    finding.at(offset(rule.span.start), offset(rule.span.end), None)
}

fn offset(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn node(listing: &Listing, id: NodeId) -> Option<&Node> {
    usize::try_from(id).ok().and_then(|id| listing.nodes.get(id))
}

/// Rules that can never apply: no condition left to test, or conditions that contradict each other.
fn never(listing: &Listing, known: &[Diagnostic]) -> Vec<Diagnostic> {
    let applies = |index: usize| {
        let own = |body: &&Body| usize::from(body.rule) == index;
        listing
            .bodies
            .iter()
            .filter(own)
            .any(|body| !contradicts(listing, body))
    };
    let known_at = |rule: &Rule| {
        let start = offset(rule.span.start);
        known.iter().any(|finding| {
            finding.code == "rules.never" && finding.labels.iter().any(|label| label.start == start)
        })
    };
    listing
        .rules
        .iter()
        .enumerate()
        .filter(|(index, rule)| !applies(*index) && !known_at(rule))
        .map(|(_, rule)| {
            let message = format!(
                "rule `{}` can never apply: its conditions exclude each other",
                rule.id
            );
            at_rule(Diagnostic::new(Severity::Warning, "rules.never", message), rule)
                .help("remove the rule, or the condition that is not meant")
        })
        .collect()
}

/// What a condition asks of one fact.
enum Ask<'a> {
    Is(Slot, &'a Const),
    Between(Slot, i64, i64),
    Truth(NodeId, bool),
}

fn ask(listing: &Listing, id: NodeId) -> Ask<'_> {
    let at = |id: &NodeId| node(listing, *id);
    match node(listing, id) {
        // Cedar reads `a > b` as `!(a <= b)`.
        Some(Node::Not(inner)) => match ask(listing, *inner) {
            Ask::Between(slot, i64::MIN, high) => Ask::Between(slot, high.saturating_add(1), i64::MAX),
            Ask::Between(slot, low, i64::MAX) => Ask::Between(slot, i64::MIN, low.saturating_sub(1)),
            _ => Ask::Truth(*inner, false),
        },
        Some(Node::Equal(a, b)) => match (at(a), at(b)) {
            (Some(Node::Slot(slot)), Some(Node::Const(value)))
            | (Some(Node::Const(value)), Some(Node::Slot(slot))) => Ask::Is(*slot, value),
            _ => Ask::Truth(id, true),
        },
        Some(Node::Less(a, b)) => between(id, at(a), at(b), 1),
        Some(Node::AtMost(a, b)) => between(id, at(a), at(b), 0),
        _ => Ask::Truth(id, true),
    }
}

fn between<'a>(id: NodeId, left: Option<&Node>, right: Option<&Node>, gap: i64) -> Ask<'a> {
    match (left, right) {
        (Some(Node::Slot(slot)), Some(Node::Const(Const::Number(most)))) => {
            Ask::Between(*slot, i64::MIN, most.saturating_sub(gap))
        }
        (Some(Node::Const(Const::Number(least))), Some(Node::Slot(slot))) => {
            Ask::Between(*slot, least.saturating_add(gap), i64::MAX)
        }
        _ => Ask::Truth(id, true),
    }
}

/// Whether two conditions of a body can never hold together.
fn contradicts(listing: &Listing, body: &Body) -> bool {
    let mut is: BTreeMap<Slot, &Const> = BTreeMap::new();
    let mut ranges: BTreeMap<Slot, (i64, i64)> = BTreeMap::new();
    let mut truths: BTreeMap<NodeId, bool> = BTreeMap::new();
    body.clauses.iter().any(|(id, _)| match ask(listing, *id) {
        Ask::Is(slot, value) => {
            let number = match value {
                Const::Number(value) => Some((*value, *value)),
                _ => None,
            };
            *is.entry(slot).or_insert(value) != value
                || number.is_some_and(|(low, high)| narrowed(&mut ranges, slot, low, high))
        }
        Ask::Between(slot, low, high) => narrowed(&mut ranges, slot, low, high),
        Ask::Truth(id, value) => *truths.entry(id).or_insert(value) != value,
    })
}

/// Narrows the range of a slot; whether nothing is left.
fn narrowed(ranges: &mut BTreeMap<Slot, (i64, i64)>, slot: Slot, low: i64, high: i64) -> bool {
    let range = ranges.entry(slot).or_insert((i64::MIN, i64::MAX));
    *range = (range.0.max(low), range.1.min(high));
    range.0 > range.1
}

fn unpermitted(vocabulary: &Vocabulary, program: &Program) -> Vec<Diagnostic> {
    let permitted = permitted(program);
    let instantiate = permitted.contains(&Action::Instantiate);
    let useless = (vocabulary.class && !instantiate).then(|| {
        let message = "no rule permits instantiate: no instance of this class is ever created";
        Diagnostic::new(Severity::Warning, "rules.no_instance", message).help(
            "add to governance.cedar: permit (principal, action == Action::\"instantiate\", resource) when { … };",
        )
    });
    useless.into_iter().chain(never_permitted(&permitted)).collect()
}

fn never_permitted(permitted: &BTreeSet<Action>) -> Vec<Diagnostic> {
    let missing: Vec<&str> = Action::ALL
        .iter()
        .filter(|action| **action != Action::Instantiate && !permitted.contains(action))
        .map(|action| action.as_str())
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let message = format!("no rule permits {}: each is always refused", missing.join(", "));
    vec![
        Diagnostic::new(Severity::Advice, "rules.no_permit", message)
            .help("fine where it is meant; otherwise add a permit for the action"),
    ]
}

/// The rules and places at which `found` holds of an expression.
fn places(listing: &Listing, found: &dyn Fn(&Node) -> Option<String>) -> BTreeSet<(u8, u16, String)> {
    let mut out = BTreeSet::new();
    for body in &listing.bodies {
        for (id, clause) in &body.clauses {
            let mut open = vec![*id];
            while let Some(id) = open.pop() {
                if let Some(node) = node(listing, id) {
                    out.extend(found(node).map(|what| (body.rule, *clause, what)));
                    node.operands(|operand| open.push(operand));
                }
            }
        }
    }
    out
}

fn at_places(
    listing: &Listing,
    severity: Severity,
    code: &str,
    help: &str,
    found: &dyn Fn(&Node) -> Option<String>,
) -> Vec<Diagnostic> {
    let finding = |(rule, clause, message): (u8, u16, String)| {
        let rule = listing.rules.get(usize::from(rule))?;
        let span = rule.clauses.get(usize::from(clause))?.span;
        let finding = Diagnostic::new(severity, code, message);
        Some(finding.at(offset(span.start), offset(span.end), None).help(help))
    };
    places(listing, found).into_iter().filter_map(finding).collect()
}

fn unknown_symbols(vocabulary: &Vocabulary, listing: &Listing) -> Vec<Diagnostic> {
    let symbols = |id: &NodeId| match node(listing, *id)? {
        Node::Slot(Slot::Memory(position) | Slot::ChangeOld(position) | Slot::ChangeNew(position)) => {
            let (name, field) = vocabulary.memory.at(usize::from(*position))?;
            match &field.kind {
                Kind::Enum(symbols) => Some((name, symbols)),
                _ => None,
            }
        }
        _ => None,
    };
    let texts = |id: &NodeId| match node(listing, *id) {
        Some(Node::Const(Const::Text(text))) => vec![text.clone()],
        Some(Node::Const(Const::Set(items))) => items
            .iter()
            .filter_map(|item| match item {
                Const::Text(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let unknown = |field: &NodeId, value: &NodeId| {
        let (name, symbols) = symbols(field)?;
        let text = texts(value).into_iter().find(|text| !symbols.contains(text))?;
        Some(format!(
            "`{text}` is not a symbol of `{name}`, which is one of {}",
            symbols.join(", ")
        ))
    };
    at_places(
        listing,
        Severity::Warning,
        "rules.unknown_symbol",
        "write one of the symbols, or add this one to the field",
        &|node| match node {
            Node::Equal(a, b) => unknown(a, b).or_else(|| unknown(b, a)),
            Node::Contains(set, item) => unknown(item, set),
            _ => None,
        },
    )
}

fn without_fresh_for(vocabulary: &Vocabulary, listing: &Listing) -> Vec<Diagnostic> {
    at_places(
        listing,
        Severity::Warning,
        "rules.no_fresh_for",
        "give the field a fresh_for; without one it is fresh for ever once written",
        &|node| match node {
            Node::Slot(Slot::Fresh(position)) => {
                let (name, field) = vocabulary.memory.at(usize::from(*position))?;
                let missing = field.fresh_for.is_none();
                missing.then(|| format!("`{name}` has no fresh_for"))
            }
            _ => None,
        },
    )
}

fn unused(vocabulary: &Vocabulary, listing: &Listing) -> Vec<Diagnostic> {
    let used: BTreeSet<usize> = listing
        .nodes
        .iter()
        .filter_map(|node| match node {
            Node::Slot(
                Slot::Memory(position)
                | Slot::Counter(position)
                | Slot::Fresh(position)
                | Slot::ChangeOld(position)
                | Slot::ChangeNew(position),
            )
            | Node::Has(
                Slot::Memory(position)
                | Slot::Changed(position)
                | Slot::ChangeOld(position)
                | Slot::ChangeNew(position),
            ) => Some(usize::from(*position)),
            _ => None,
        })
        .collect();
    let unused: Vec<&str> = vocabulary
        .memory
        .iter()
        .enumerate()
        .filter(|(position, _)| !used.contains(position))
        .map(|(_, (name, _))| name.as_str())
        .collect();
    if unused.is_empty() {
        return Vec::new();
    }
    let message = format!("no rule looks at {}", unused.join(", "));
    vec![Diagnostic::new(Severity::Advice, "rules.unused_field", message)]
}

/// A `wake` that no `remain` would keep: the object would wake and go dormant at once.
fn not_kept(program: &Program) -> Vec<Diagnostic> {
    let permitted = permitted(program);
    if !permitted.contains(&Action::Wake) {
        return Vec::new();
    }
    if !permitted.contains(&Action::Remain) {
        let message = "`wake` is permitted, `remain` never: the object goes dormant as soon as it is awake";
        return vec![
            Diagnostic::new(Severity::Warning, "rules.wake_not_kept", message)
                .help("add a permit for action `remain` that says when to stay awake"),
        ];
    }
    let remain = Judge::of(program, Action::Remain, PrincipalKind::Workload);
    let mut kept: BTreeMap<u8, bool> = BTreeMap::new();
    for kind in PrincipalKind::ALL {
        let wake = Judge::of(program, Action::Wake, *kind);
        for permit in &wake.permits {
            let keeps = can_be_kept(program.listing(), &wake, permit, &remain);
            *kept.entry(permit.rule).or_default() |= keeps;
        }
    }
    kept.into_iter()
        .filter(|(_, kept)| !kept)
        .filter_map(|(rule, _)| {
            let rule = program.rule(rule)?;
            let message = format!(
                "whenever rule `{}` permits a wake, `remain` is refused at once",
                rule.id
            );
            let finding = Diagnostic::new(Severity::Warning, "rules.wake_not_kept", message);
            Some(at_rule(finding, rule).help("let some `remain` rule hold under the same conditions"))
        })
        .collect()
}

/// The rules of one action by one sort of principal.
struct Judge<'a> {
    permits: Vec<&'a Body>,
    forbids: Vec<&'a Body>,
}

impl<'a> Judge<'a> {
    fn of(program: &'a Program, action: Action, kind: PrincipalKind) -> Self {
        let listing = program.listing();
        let group = listing
            .groups
            .iter()
            .find(|group| group.action == action && group.principal == kind);
        let bodies = group.into_iter().flat_map(|group| &group.bodies);
        let bodies = bodies.filter_map(|body| listing.bodies.get(usize::from(*body)));
        let permits = |body: &&Body| {
            program
                .rule(body.rule)
                .is_some_and(|rule| rule.effect == Effect::Permit)
        };
        let (permits, forbids) = bodies.partition(permits);
        Self { permits, forbids }
    }
}

/// Rules that no owner can ever change.
fn locked_out(program: &Program) -> Vec<Diagnostic> {
    let amend = Judge::of(program, Action::Amend, PrincipalKind::Controller);
    let can_be = |permit: &&Body| can_be_permitted(program.listing(), permit, &amend.forbids);
    if amend.permits.iter().any(can_be) {
        return Vec::new();
    }
    let message = "no rule ever lets an owner amend: once in force, these rules stay for ever";
    vec![
        Diagnostic::new(Severity::Warning, "rules.owner_locked_out", message).help(
            "add: permit (principal is Controller, action == Action::\"amend\", resource); or leave it, if that is meant",
        ),
    ]
}

/// Whether some assignment of the atoms lets `permit` hold and none of `forbids`. Says yes where there are too many to try.
fn can_be_permitted(listing: &Listing, permit: &Body, forbids: &[&Body]) -> bool {
    let mut atoms = BTreeSet::new();
    for body in forbids.iter().copied().chain([permit]) {
        for (id, _) in &body.clauses {
            collect_atoms(listing, *id, &mut atoms);
        }
    }
    if atoms.len() > MAX_ATOMS {
        return true;
    }
    let atoms: Vec<NodeId> = atoms.into_iter().collect();
    (0u32..1 << atoms.len()).any(|bits| {
        let truth = |id: NodeId| {
            let index = atoms.iter().position(|atom| *atom == id);
            index.is_some_and(|index| bits >> index & 1 == 1)
        };
        let holds = |body: &Body| body.clauses.iter().all(|(id, _)| value(listing, *id, &truth));
        consistent(listing, &atoms, &truth) && holds(permit) && !forbids.iter().any(|body| holds(body))
    })
}

/// Whether some assignment of the atoms lets `permit` wake the object and `remain` keep it. Says yes where there are
/// too many atoms to try, and where atoms only `remain` knows might be true.
fn can_be_kept(listing: &Listing, wake: &Judge<'_>, permit: &Body, remain: &Judge<'_>) -> bool {
    let bodies = || {
        wake.forbids
            .iter()
            .chain(&remain.permits)
            .chain(&remain.forbids)
            .copied()
    };
    let mut atoms = BTreeSet::new();
    for body in bodies().chain([permit]) {
        for (id, _) in &body.clauses {
            collect_atoms(listing, *id, &mut atoms);
        }
    }
    if atoms.len() > MAX_ATOMS {
        return true;
    }
    let atoms: Vec<NodeId> = atoms.into_iter().collect();
    (0u32..1 << atoms.len()).any(|bits| {
        let truth = |id: NodeId| {
            atoms
                .iter()
                .position(|atom| *atom == id)
                .is_some_and(|index| bits >> index & 1 == 1)
        };
        let holds = |body: &&Body| body.clauses.iter().all(|(id, _)| value(listing, *id, &truth));
        consistent(listing, &atoms, &truth)
            && holds(&permit)
            && !wake.forbids.iter().any(holds)
            && remain.permits.iter().any(holds)
            && !remain.forbids.iter().any(holds)
    })
}

fn collect_atoms(listing: &Listing, id: NodeId, atoms: &mut BTreeSet<NodeId>) {
    match node(listing, id) {
        Some(Node::Not(a)) => collect_atoms(listing, *a, atoms),
        Some(Node::All(items) | Node::Any(items)) => {
            items.iter().for_each(|item| collect_atoms(listing, *item, atoms));
        }
        Some(Node::If(a, b, c)) => [a, b, c]
            .into_iter()
            .for_each(|id| collect_atoms(listing, *id, atoms)),
        Some(Node::Const(_)) => {}
        _ => drop(atoms.insert(id)),
    }
}

fn value(listing: &Listing, id: NodeId, truth: &dyn Fn(NodeId) -> bool) -> bool {
    match node(listing, id) {
        Some(Node::Not(a)) => !value(listing, *a, truth),
        Some(Node::All(items)) => items.iter().all(|item| value(listing, *item, truth)),
        Some(Node::Any(items)) => items.iter().any(|item| value(listing, *item, truth)),
        Some(Node::If(a, b, c)) => value(listing, if value(listing, *a, truth) { *b } else { *c }, truth),
        Some(Node::Const(value)) => *value == Const::Bool(true),
        _ => truth(id),
    }
}

/// Whether one fact could give these atoms these truths: equal to one constant at most, within its ranges.
fn consistent(listing: &Listing, atoms: &[NodeId], truth: &dyn Fn(NodeId) -> bool) -> bool {
    let mut is: BTreeMap<Slot, &Const> = BTreeMap::new();
    let mut ranges: BTreeMap<Slot, (i64, i64)> = BTreeMap::new();
    atoms
        .iter()
        .all(|atom| match (ask(listing, *atom), truth(*atom)) {
            (Ask::Is(slot, value), true) => {
                let fits = match value {
                    Const::Number(value) => !narrowed(&mut ranges, slot, *value, *value),
                    _ => true,
                };
                fits && *is.entry(slot).or_insert(value) == value
            }
            (Ask::Between(slot, low, high), true) => !narrowed(&mut ranges, slot, low, high),
            (Ask::Between(slot, i64::MIN, high), false) => {
                !narrowed(&mut ranges, slot, high.saturating_add(1), i64::MAX)
            }
            (Ask::Between(slot, low, i64::MAX), false) => {
                !narrowed(&mut ranges, slot, i64::MIN, low.saturating_sub(1))
            }
            _ => true,
        })
}
