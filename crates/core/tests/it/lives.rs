//! Lives for tests: an object with three controllers, two bundles and keys that follow from the epoch.
//!
//! A [`Life`] holds a state and the records that made it. Keys are a function of name and epoch, so that a test can
//! take the place of the object, of a copy of it, or of a stranger.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use suijuris_core::governance::Action;
use suijuris_core::id::{BundleId, Digest, ObjectId, RecordId};
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{
    Amended, Approval, Arrived, Body, Bundles, ChainError, Decision, Departed, Dormant, Fault, Fired, Forked,
    Head, Inception, Mutated, Outcome, Phase, Quarantined, Refused, Restoration, Restored, Resumed, Seal,
    State, Statement, Stored, Terminated, Unsealed, Woke,
};
use suijuris_core::manifest::Manifest;
use suijuris_core::memory::{Change, Field, Kind, Name, Schema, Value, Write};
use suijuris_core::time::{Span, Timestamp};

use crate::manifest::manifest;

/// The key of `epoch` of the object called `name`.
pub(crate) fn epoch_key(name: &str, epoch: u64) -> SecretKey {
    SecretKey::from_seed(&Digest::of_parts(&[b"epoch", name.as_bytes(), &epoch.to_be_bytes()]).0)
}

/// Controller number `index`; those from 3 on own nothing.
pub(crate) fn controller(index: u8) -> SecretKey {
    SecretKey::from_seed(&[0xc0 | index; 32])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn schema(fields: impl IntoIterator<Item = (&'static str, Field)>) -> Schema {
    let fields: BTreeMap<_, _> = fields.into_iter().map(|(n, field)| (name(n), field)).collect();
    Schema::try_from(fields).unwrap()
}

/// Every type and every attribute.
pub(crate) fn rich_schema() -> Schema {
    let enumeration = || Kind::Enum(vec!["idle".into(), "busy".into()]);
    let point = Kind::Record([(name("x"), Kind::INT), (name("y"), Kind::Decimal)].into());
    let bounded = Kind::Int {
        min: Some(0),
        max: Some(1_000),
    };
    schema([
        (
            "budget",
            Field {
                default: Some(Value::Int(100)),
                ..Field::new(bounded)
            },
        ),
        (
            "consent",
            Field {
                fresh_for: Some(Span(3_600_000)),
                ..Field::new(Kind::Bool)
            },
        ),
        (
            "jobs",
            Field {
                wakes: true,
                ..Field::new(Kind::Set(Box::new(Kind::String)))
            },
        ),
        (
            "journal",
            Field {
                append_only: true,
                ..Field::new(Kind::List(Box::new(Kind::String)))
            },
        ),
        (
            "marks",
            Field {
                append_only: true,
                ..Field::new(Kind::Map(Box::new(Kind::INT)))
            },
        ),
        (
            "mode",
            Field {
                default: Some(Value::Enum("idle".into())),
                ..Field::new(enumeration())
            },
        ),
        (
            "note",
            Field {
                max_bytes: Some(16),
                ..Field::new(Kind::String)
            },
        ),
        (
            "once",
            Field {
                append_only: true,
                ..Field::new(Kind::Timestamp)
            },
        ),
        ("pause", Field::new(Kind::Duration)),
        ("point", Field::new(point)),
        ("price", Field::new(Kind::Decimal)),
        (
            "raw",
            Field {
                max_bytes: Some(Field::LARGEST_MAX_BYTES),
                ..Field::new(Kind::Bytes)
            },
        ),
        (
            "raw_too",
            Field {
                max_bytes: Some(Field::LARGEST_MAX_BYTES),
                ..Field::new(Kind::Bytes)
            },
        ),
        (
            "seen",
            Field {
                append_only: true,
                ..Field::new(Kind::Set(Box::new(Kind::INT)))
            },
        ),
        (
            "token",
            Field {
                secret: true,
                ..Field::new(Kind::String)
            },
        ),
    ])
}

/// What the rules are amended to: one field gone, one of another type, one new.
pub(crate) fn amended_schema() -> Schema {
    let title = Field {
        default: Some(Value::String("new".into())),
        ..Field::new(Kind::String)
    };
    let mut fields: BTreeMap<Name, Field> = rich_schema().into();
    fields.remove("note");
    fields.insert(name("mode"), Field::new(Kind::String));
    fields.insert(name("title"), title);
    Schema::try_from(fields).unwrap()
}

/// The bundles of every life: even ones have the rich schema, odd ones the amended.
pub(crate) fn manifests() -> &'static [(BundleId, Manifest)] {
    static MANIFESTS: OnceLock<Vec<(BundleId, Manifest)>> = OnceLock::new();
    let make = |index: usize| {
        let memory = if index.is_multiple_of(2) {
            rich_schema()
        } else {
            amended_schema()
        };
        let manifest = Manifest {
            name: format!("rules-{index}"),
            memory,
            ..manifest()
        };
        Manifest::decode(&manifest.encode().unwrap()).unwrap()
    };
    MANIFESTS.get_or_init(|| (0..3).map(make).collect())
}

/// The id of bundle `index`; of one that is not at hand from 3 on.
pub(crate) fn bundle(index: u8) -> BundleId {
    manifests()
        .get(usize::from(index))
        .map_or_else(|| BundleId::of(&[index]), |(id, _)| *id)
}

pub(crate) fn bundles() -> impl Bundles {
    let schemas = [rich_schema(), amended_schema()].map(Arc::new);
    move |id: &BundleId| {
        let index = manifests().iter().position(|(known, _)| known == id)?;
        schemas.get(index % 2).cloned()
    }
}

pub(crate) fn decision(action: Action, outcome: Outcome) -> Decision {
    Decision {
        action,
        outcome,
        explanation: None,
        inputs: Inputs::timeless(Principal::Host),
    }
}

/// Approvals of a statement by these controllers.
pub(crate) fn approvals(
    object: ObjectId,
    action: Action,
    content: Digest,
    by: impl IntoIterator<Item = u8>,
) -> Vec<Approval> {
    let statement = Statement {
        object,
        action,
        content,
    };
    by.into_iter()
        .map(|index| statement.approve(&controller(index)).unwrap())
        .collect()
}

pub(crate) fn change<const N: usize>(writes: [(&str, Write); N]) -> Change {
    writes
        .into_iter()
        .map(|(field, write)| (name(field), write))
        .collect()
}

pub(crate) fn mutated(change: Change) -> Body {
    Body::Mutated(Mutated {
        by: "workload".into(),
        principal: None,
        change,
    })
}

/// A mutation that any state with either schema takes.
pub(crate) fn plain_mutation() -> Body {
    mutated(change([("budget", Write::Set(Value::Int(7)))]))
}

pub(crate) fn fault_of<T: std::fmt::Debug>(result: Result<T, ChainError>) -> Fault {
    result.unwrap_err().fault
}

/// Every kind of record but inception, as [`Life::body`] takes it.
pub(crate) const KINDS: [&str; 14] = [
    "woke",
    "resumed",
    "mutated",
    "seal",
    "dormant",
    "refused",
    "departed",
    "arrived",
    "forked",
    "amended",
    "unsealed",
    "quarantined",
    "terminated",
    "restored",
];

fn restored(head: &Head) -> Body {
    let (abandoned, seq, epoch) = (RecordId::of(b"abandoned"), head.seq + 5, head.epoch + 2);
    let restoration = Restoration::of(head, abandoned, seq, epoch);
    let approve = |index| restoration.approve(&controller(index)).unwrap();
    Body::Restored(Restored {
        abandoned,
        seq,
        epoch,
        approvals: [0, 2].map(approve).into(),
    })
}

/// A state, and the chain that made it.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) name: &'static str,
    pub(crate) state: State,
    pub(crate) chain: Vec<Stored>,
}

pub(crate) fn inception(life: &str) -> Inception {
    Inception {
        name: life.to_owned(),
        controllers: (0..3).map(|index| controller(index).public()).collect(),
        threshold: 2,
        next: epoch_key(life, 1).public().commitment(),
        nonce: vec![7; 16],
        parent: None,
        class: None,
        ticket: None,
    }
}

impl Life {
    pub(crate) fn new(life: &'static str) -> Self {
        let (at, rules) = (Timestamp(1_000), bundle(0));
        let schema = Arc::new(rich_schema());
        let (state, first) = State::create(inception(life), at, rules, schema, &epoch_key(life, 1)).unwrap();
        Self {
            name: life,
            state,
            chain: vec![first],
        }
    }

    /// A life whose last record leaves it in `phase`, by the shortest way.
    pub(crate) fn in_phase(phase: Phase) -> Self {
        let mut life = Self::new("life");
        match phase {
            Phase::Dormant => {}
            Phase::Active => life.live("woke"),
            Phase::Departed => life.live("departed"),
            Phase::Quarantined => life.live("quarantined"),
            Phase::Terminated => life.live("terminated"),
        }
        assert_eq!(life.state.head().phase, phase);
        life
    }

    /// The key of the running epoch.
    pub(crate) fn running(&self) -> SecretKey {
        self.key_where(|key| Some(key.public()) == self.state.head().key)
    }

    /// The newest key of which `it` holds; of the present epoch where it holds of none. A restored history goes on with
    /// the key of an epoch before.
    fn key_where(&self, it: impl Fn(&SecretKey) -> bool) -> SecretKey {
        let epoch = self.state.head().epoch;
        let keys = (0..=epoch + 1).rev().map(|epoch| epoch_key(self.name, epoch));
        keys.into_iter()
            .find(it)
            .unwrap_or_else(|| epoch_key(self.name, epoch))
    }

    /// The key that the chain has committed to.
    pub(crate) fn waiting(&self) -> SecretKey {
        self.key_where(|key| key.public().commitment() == self.state.head().next)
    }

    /// The key that an honest object signs `body` with.
    pub(crate) fn signer(&self, body: &Body) -> SecretKey {
        let next = matches!(body, Body::Woke(_) | Body::Resumed(_) | Body::Unsealed(_));
        if self.state.head().phase == Phase::Active && !next {
            self.running()
        } else {
            self.waiting()
        }
    }

    /// The rules that an `amended` body of this life changes to.
    pub(crate) fn other_rules(&self) -> BundleId {
        if self.state.head().bundle == bundle(0) {
            bundle(1)
        } else {
            bundle(0)
        }
    }

    fn beginning(&self) -> (Decision, Digest) {
        let after_next = epoch_key(self.name, self.state.head().epoch + 2)
            .public()
            .commitment();
        (decision(Action::Wake, Outcome::Permit), after_next)
    }

    /// A well-formed body of `kind`, with the approvals it needs.
    pub(crate) fn body(&self, kind: &str) -> Body {
        let head = self.state.head();
        let signed = |action, content| approvals(head.object, action, content, [0, 2]);
        let (woken, next) = self.beginning();
        let fired = Fired::from([(name("tick"), head.at)]);
        match kind {
            "inception" => Body::Inception(Box::new(inception(self.name))),
            "woke" => Body::Woke(Box::new(Woke {
                decision: woken,
                next,
                fired,
            })),
            "resumed" => Body::Resumed(Box::new(Resumed {
                decision: woken,
                next,
                paused: Span(5),
                fired,
            })),
            "mutated" => plain_mutation(),
            "seal" => Body::Seal(Seal {
                fired,
                admitted: Vec::new(),
            }),
            "dormant" => Body::Dormant(Box::new(Dormant {
                decision: decision(Action::Remain, Outcome::Refuse(None)),
                workload: "exited 0".into(),
                admitted: Vec::new(),
                suspend: false,
            })),
            "refused" => Body::Refused(Box::new(Refused {
                decision: decision(Action::Wake, Outcome::Refuse(None)),
                times: 3,
                window: Span(250),
                at: "door".into(),
                fired: Fired::new(),
            })),
            "departed" => Body::Departed(Departed {
                decision: decision(Action::Migrate, Outcome::Permit),
                to: "host-2".into(),
            }),
            "arrived" => Body::Arrived(Arrived {
                inputs: Inputs::timeless(Principal::Host),
            }),
            "forked" => {
                let child = ObjectId::of(b"child");
                let decision = decision(Action::Fork, Outcome::Permit);
                Body::Forked(Forked {
                    decision,
                    child,
                    approvals: signed(Action::Fork, *child.digest()),
                })
            }
            "amended" => Body::Amended(Amended {
                decision: decision(Action::Amend, Outcome::Permit),
                from: head.bundle,
                approvals: signed(Action::Amend, head.amendment(&self.other_rules())),
            }),
            "unsealed" => Body::Unsealed(Unsealed {
                mutations: head.uncovered(),
                sealed: head.sealed,
            }),
            "quarantined" => Body::Quarantined(Quarantined {
                reason: "twin".into(),
            }),
            "terminated" => Body::Terminated(Terminated {
                decision: decision(Action::Terminate, Outcome::Permit),
                approvals: signed(Action::Terminate, *head.object.digest()),
            }),
            "restored" => restored(head),
            kind => panic!("no such kind: {kind}"),
        }
    }

    /// Extends with `body`, signed by `signer`; a refusal must leave the state as it was.
    pub(crate) fn try_extend(&mut self, body: Body, signer: Option<&SecretKey>) -> Result<(), ChainError> {
        let amends = matches!(body, Body::Amended(_)).then(|| self.other_rules());
        self.try_extend_to(body, amends, signer)
    }

    /// As [`Life::try_extend`], with the bundle that the record names.
    pub(crate) fn try_extend_to(
        &mut self,
        body: Body,
        rules: Option<BundleId>,
        signer: Option<&SecretKey>,
    ) -> Result<(), ChainError> {
        let before = self.state.clone();
        let at = before.head().at.saturating_add(Span(10));
        match self.state.extend(body, at, rules, signer, &bundles()) {
            Ok(stored) => self.chain.push(stored),
            Err(broken) => {
                assert_same(&before, &self.state);
                return Err(broken);
            }
        }
        Ok(())
    }

    /// Extends with a well-formed body of `kind` by the right key.
    pub(crate) fn try_live(&mut self, kind: &str) -> Result<(), ChainError> {
        let body = self.body(kind);
        let signer = self.signer(&body);
        self.try_extend(body, Some(&signer))
    }

    pub(crate) fn live(&mut self, kind: &str) {
        self.try_live(kind).unwrap();
    }

    pub(crate) fn write(&mut self, change: Change, signed: bool) -> Result<(), ChainError> {
        let body = mutated(change);
        let signer = self.signer(&body);
        self.try_extend(body, signed.then_some(&signer))
    }

    /// One step of a random life; what is impossible now is refused and changes nothing.
    pub(crate) fn step(&mut self, step: &Step) {
        let active = self.state.head().phase == Phase::Active;
        let _refused_here = match step {
            Step::Live(kind) => self.try_live(kind),
            Step::Write { change, signed } => self.write(change.clone(), *signed || !active),
            Step::Crash => self.try_live("unsealed").and_then(|()| self.try_live("woke")),
        };
    }
}

/// Reads a chain back from its bytes.
pub(crate) fn read_back<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Result<State, ChainError> {
    let bundles = bundles();
    let mut state: Option<State> = None;
    for (seq, bytes) in (0u64..).zip(chain) {
        let stored = Stored::decode(bytes.to_vec()).map_err(|error| ChainError {
            seq,
            fault: error.into(),
        })?;
        match &mut state {
            Some(state) => state.apply(&stored, &bundles)?,
            None => state = Some(State::begin(&stored, &bundles)?),
        }
    }
    Ok(state.unwrap())
}

/// The bytes of each record.
pub(crate) fn bytes_of(chain: &[Stored]) -> Vec<Vec<u8>> {
    chain.iter().map(|stored| stored.bytes.clone()).collect()
}

/// Reads back a chain given as owned bytes.
pub(crate) fn fold(chain: &[Vec<u8>]) -> Result<State, ChainError> {
    read_back(chain.iter().map(Vec::as_slice))
}

/// Equal in head, root and every cell.
pub(crate) fn assert_same(left: &State, right: &State) {
    assert_eq!(left.head(), right.head());
    assert_eq!(left.memory().root(), right.memory().root());
    assert!(left.memory().iter().eq(right.memory().iter()));
}

/// One step of a random life.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Live(&'static str),
    Write { change: Change, signed: bool },
    Crash,
}

fn any_write() -> impl Strategy<Value = (Name, Write)> {
    let text = |text: String| Value::String(text);
    let texts = prop::collection::btree_set("[a-z]{0,3}", 0..4);
    prop_oneof![
        (-50i64..1_050).prop_map(|v| (name("budget"), Write::Set(Value::Int(v)))),
        any::<bool>().prop_map(|v| (name("consent"), Write::Set(Value::Bool(v)))),
        texts.prop_map(move |v| (
            name("jobs"),
            Write::Append(Value::Set(v.into_iter().map(text).collect()))
        )),
        "[a-z]{0,4}".prop_map(|v| (
            name("journal"),
            Write::Append(Value::List(vec![Value::String(v)]))
        )),
        ("[a-c]", any::<i64>()).prop_map(|(k, v)| (
            name("marks"),
            Write::Append(Value::Map([(k, Value::Int(v))].into()))
        )),
        "[a-z]{0,20}".prop_map(|v| (name("note"), Write::Set(Value::String(v)))),
        any::<i64>().prop_map(|v| (name("once"), Write::Set(Value::Timestamp(Timestamp(v))))),
        any::<[u8; 32]>().prop_map(|v| (name("token"), Write::Set(Value::Commitment(Digest(v))))),
        Just((name("pause"), Write::Unset)),
        Just((name("nowhere"), Write::Unset)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let write =
        (prop::collection::vec(any_write(), 1..4), any::<bool>()).prop_map(|(writes, signed)| Step::Write {
            change: writes.into_iter().collect(),
            signed,
        });
    prop_oneof![
        8 => write,
        3 => Just(Step::Live("woke")),
        2 => Just(Step::Live("dormant")),
        3 => prop::sample::select(
            &["seal", "refused", "resumed", "departed", "arrived", "forked", "amended", "restored"][..]
        ).prop_map(Step::Live),
        1 => Just(Step::Crash),
        1 => prop::sample::select(&KINDS[..]).prop_map(Step::Live),
    ]
}

/// A random life of some records, mostly lived awake.
pub(crate) fn any_life() -> impl Strategy<Value = Life> {
    prop::collection::vec(any_step(), 1..24).prop_map(|steps| {
        let mut life = Life::new("life");
        life.live("woke");
        for step in &steps {
            life.step(step);
        }
        life
    })
}

impl std::fmt::Debug for Life {
    /// The kinds of its records: what a failed property shows.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.chain.iter().map(|stored| stored.record.body.kind()))
            .finish()
    }
}
