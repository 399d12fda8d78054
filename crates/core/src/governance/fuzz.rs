//! Foreign programs: whatever the bytes, decoding answers, and what it accepts judges, folds and explains in bounded
//! time without a panic.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::memory::{Field, Kind, Memory, Name, Schema, Value};
use crate::time::{Now, Quality, Span, Timestamp};

fn memory() -> Memory {
    let field = |kind: Kind, default: Value| Field {
        default: Some(default),
        fresh_for: Some(Span(1_000)),
        ..Field::new(kind)
    };
    let numbers = Value::List((0..5_000).map(Value::Int).collect());
    let fields = BTreeMap::from([
        (Name::new("a").unwrap(), field(Kind::Bool, Value::Bool(true))),
        (
            Name::new("b").unwrap(),
            field(Kind::List(Box::new(Kind::INT)), numbers),
        ),
        (
            Name::new("c").unwrap(),
            field(Kind::Bytes, Value::Bytes(vec![1, 2])),
        ),
        (Name::new("d").unwrap(), Field::new(Kind::String)),
    ]);
    Memory::new(Arc::new(Schema::try_from(fields).unwrap()))
}

/// The fuzz body: bytes as a program.
fn run(bytes: &[u8]) -> bool {
    let Ok(program) = Program::decode(bytes) else {
        return false;
    };
    assert_eq!(program.encode().unwrap(), bytes);
    let memory = memory();
    let object = Object {
        id: "o",
        name: "o",
        memory: &memory,
        lineage: Lineage::default(),
        instance: None,
    };
    let now = Now {
        at: Timestamp(5),
        quality: Quality::Host,
    };
    let principal = Principal::Caller(Caller::default());
    let facts = Facts::new(principal, object, now, Host::default());
    for action in Action::ALL {
        let judgement = program.judge(*action, &facts);
        assert!(judgement.erring.is_empty() || judgement.outcome == Outcome::Refuse);
        let _ = program.explain(*action, &facts, &judgement);
        let _ = program.watches(*action);
        if let Ok(residual) = program.specialize(*action, object, now) {
            let _ = residual.judge(&facts);
        }
    }
    true
}

/// Expressions that refer to earlier ones, and sometimes do not.
fn node(kind: u8, a: u32, b: u32) -> Node {
    let slots = [
        Slot::Memory(0),
        Slot::Memory(1),
        Slot::Memory(2),
        Slot::Memory(9),
        Slot::Fresh(3),
        Slot::Now,
        Slot::PeerIp,
    ];
    let slot = slots[b as usize % slots.len()];
    let consts = [
        Const::Bool(true),
        Const::Number(i64::MAX),
        Const::Text("AQ".into()),
        Const::Set(vec![Const::Number(1), Const::Text("x".into())]),
        Const::Record([("k".to_owned(), Const::Number(2))].into()),
        Const::Entity(EntityKind::Caller, String::new()),
    ];
    match kind % 26 {
        0..=3 => Node::Slot(slot),
        4 | 5 => Node::Const(consts[a as usize % consts.len()].clone()),
        6 => Node::Has(slot),
        7 => Node::Not(a),
        8 => Node::All(vec![a, b]),
        9 => Node::Any(vec![a, b, a]),
        10 => Node::If(a, b, a),
        11 => Node::Equal(a, b),
        12 => Node::Less(a, b),
        13 => Node::Add(a, b),
        14 => Node::Negate(a),
        15 => Node::StartOfDay(a),
        16 => Node::Contains(a, b),
        17 => Node::ContainsAll(a, b),
        18 => Node::ContainsAny(a, b),
        19 => Node::Attribute(a, "k".into()),
        20 => Node::Like(a, vec!["A".into(), String::new()]),
        21 => Node::Set(vec![a, b]),
        22 => Node::Record(vec![Attribute {
            name: "k".into(),
            present: Some(b),
            value: a,
        }]),
        23 => Node::Ip(IpTest::V4, a),
        24 => Node::Divide(a, i64::from(b) - 1),
        _ => Node::Fail(Fault::Overflow),
    }
}

fn listing(shape: &[(u8, u8, u8)]) -> Listing {
    let nodes: Vec<Node> = shape
        .iter()
        .zip(0u32..)
        .map(|((kind, a, b), index)| {
            let back = |by: u8| index.saturating_sub(1 + u32::from(by) % 6);
            node(*kind, back(*a), back(*b))
        })
        .collect();
    let last = u32::try_from(nodes.len()).unwrap();
    let rule = Rule {
        id: "r".into(),
        effect: Effect::Permit,
        reason: None,
        retry_after: None,
        status: None,
        span: TextSpan { start: 0, end: 0 },
        clauses: vec![Clause {
            span: TextSpan { start: 0, end: 0 },
            text: String::new(),
        }],
    };
    Listing {
        version: Listing::VERSION,
        rules: vec![rule],
        nodes,
        bodies: (0..last)
            .rev()
            .take(4)
            .map(|node| Body {
                rule: 0,
                clauses: vec![(node, 0)],
            })
            .collect(),
        groups: Action::ALL
            .iter()
            .map(|action| Group {
                action: *action,
                principal: PrincipalKind::Caller,
                bodies: vec![0],
            })
            .collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        run(&bytes);
    }

    #[test]
    fn any_listing_is_answered(shape in proptest::collection::vec(any::<(u8, u8, u8)>(), 1..24)) {
        run(&crate::codec::encode(&listing(&shape)).unwrap());
    }
}

#[test]
fn sharing_without_end_is_refused_and_not_run() {
    for (kind, what) in [(8, "a condition"), (13, "a sum"), (21, "a set")] {
        let shape: Vec<(u8, u8, u8)> = std::iter::once((if kind == 8 { 6 } else { 4 }, 1, 0))
            .chain(std::iter::repeat_n((kind, 0, 0), 60))
            .collect();
        assert!(!run(&crate::codec::encode(&listing(&shape)).unwrap()), "{what}");
    }
}

#[test]
fn quadratic_work_on_memory_ends_in_a_refusal() {
    let mut all = listing(&[(0, 0, 0), (17, 0, 0)]);
    all.bodies.truncate(1);
    all.nodes = vec![Node::Slot(Slot::Memory(1)), Node::ContainsAll(0, 0)];
    let program = Program::new(all).unwrap();
    let memory = memory();
    let object = Object {
        id: "o",
        name: "o",
        memory: &memory,
        lineage: Lineage::default(),
        instance: None,
    };
    let now = Now {
        at: Timestamp(5),
        quality: Quality::Host,
    };
    let facts = Facts::new(Principal::Caller(Caller::default()), object, now, Host::default());
    let judgement = program.judge(Action::Wake, &facts);
    let words = program.explain(Action::Wake, &facts, &judgement);
    assert_eq!(words.erred.first().map(|erred| erred.fault), Some(Fault::Work));
}
