//! Random vocabularies, memories and facts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use suijuris_core::governance::{
    Action, Activity, Caller, Changed, ClientCert, Facts, Founding, Holds, Host, Instance, Lineage, Object,
    Principal, PrincipalKind, Protocol, Request, Tls, Trigger, TriggerKind, Vocabulary,
};
use suijuris_core::memory::{Change, Decimal, Field, Kind, Memory, Name, Schema, Value, Write};
use suijuris_core::rates::{Per, Rate};
use suijuris_core::time::{Now, Quality, Span, Timestamp};

use super::random::{DECIMALS, Random};
use super::rules::Focus;

fn kind(random: &mut Random, depth: u32) -> Kind {
    if depth == 2 && random.one_in(8) {
        return Kind::Counter { window: Span(60_000) };
    }
    match random.below(if depth == 0 { 8 } else { 13 }) {
        0 => Kind::Bool,
        1 => Kind::INT,
        2 => Kind::Decimal,
        3 => Kind::String,
        4 => Kind::Bytes,
        5 => Kind::Timestamp,
        6 => Kind::Duration,
        7 => Kind::Enum(vec!["on".into(), "off".into(), "a".into()]),
        8 | 9 => Kind::Set(Box::new(kind(random, depth - 1))),
        10 => Kind::List(Box::new(kind(random, depth - 1))),
        11 => Kind::Map(Box::new(kind(random, depth - 1))),
        _ => {
            let names = ["x", "y", "z"].into_iter().take(1 + random.below(3));
            let parts = names.map(|name| (Name::new(name).unwrap(), kind(random, depth - 1)));
            Kind::Record(parts.collect())
        }
    }
}

fn value(random: &mut Random, kind: &Kind) -> Value {
    let count = random.below(4);
    match kind {
        Kind::Bool => Value::Bool(random.one_in(2)),
        Kind::Int { .. } => Value::Int(random.long()),
        Kind::Counter { .. } => Value::Int(random.long().clamp(1, 1_000)),
        Kind::Decimal => Value::Decimal(Decimal(*random.pick(DECIMALS))),
        Kind::String => Value::String(random.text().to_owned()),
        Kind::Bytes => Value::Bytes([1u8, 2, 3].into_iter().take(random.below(4)).collect()),
        Kind::Timestamp => Value::Timestamp(Timestamp(random.instant())),
        Kind::Duration => Value::Duration(Span(random.span())),
        Kind::Enum(symbols) => Value::Enum(random.pick(symbols).clone()),
        Kind::Set(item) => Value::Set((0..count).map(|_| value(random, item)).collect::<BTreeSet<_>>()),
        Kind::List(item) => Value::List((0..count).map(|_| value(random, item)).collect()),
        Kind::Map(item) => {
            let entry = |_| (random.text().to_owned(), value(random, item));
            Value::Map((0..count).map(entry).collect())
        }
        Kind::Record(parts) => {
            let part = |(name, kind): (&Name, &Kind)| (name.as_str().to_owned(), value(random, kind));
            Value::Record(parts.iter().map(part).collect())
        }
    }
}

/// Words of a random bundle.
pub(crate) fn vocabulary(random: &mut Random) -> Vocabulary {
    let fields: BTreeMap<Name, Field> = (0..1 + random.below(6))
        .map(|index| {
            let mut field = Field::new(kind(random, 2));
            if matches!(field.kind, Kind::Counter { .. }) {
                // It begins at zero, and is no secret.
            } else if random.one_in(2) {
                field.default = Some(value(random, &field.kind));
            } else {
                field.secret = random.one_in(8);
            }
            field.fresh_for = random.one_in(2).then_some(Span(60_000));
            (Name::new(format!("f{index}")).unwrap(), field)
        })
        .collect();
    let rate = Rate {
        per: Per::Object,
        window: Span(60_000),
    };
    let rates: BTreeMap<_, _> = (0..random.below(3))
        .map(|index| (Name::new(format!("r{index}")).unwrap(), rate))
        .collect();
    let claims = (0..random.below(3)).map(|index| (Name::new(format!("c{index}")).unwrap(), kind(random, 1)));
    Vocabulary {
        memory: Schema::try_from(fields).unwrap(),
        claims: claims.collect(),
        headers: ["x-team", "accept"]
            .into_iter()
            .take(random.below(3))
            .map(str::to_owned)
            .collect(),
        class: random.one_in(2),
        rates,
    }
}

fn write(random: &mut Random, field: &Field) -> Write {
    match value(random, &field.kind) {
        Value::Int(more) if matches!(field.kind, Kind::Counter { .. }) => Write::Add(more),
        value => Write::Set(value),
    }
}

/// Some fields with what a write would leave in them: nothing only where a field may be empty.
fn written(random: &mut Random, vocabulary: &Vocabulary) -> Vec<(u16, Option<Value>)> {
    let mut written = Vec::new();
    for (position, (_, field)) in (0u16..).zip(vocabulary.memory.iter()) {
        if field.secret || random.one_in(3) {
            continue;
        }
        let may_be_empty = field.default.is_none() && !matches!(field.kind, Kind::Counter { .. });
        let empty = may_be_empty && random.one_in(4);
        written.push((position, (!empty).then(|| value(random, &field.kind))));
    }
    written
}

/// Facts with what they borrow.
#[derive(Debug)]
pub(crate) struct World {
    memory: Memory,
    claims: Vec<Option<Value>>,
    headers: Vec<Option<&'static str>>,
    names: Vec<&'static str>,
    rates: Vec<i64>,
    /// What a write would leave, by position.
    written: Vec<(u16, Option<Value>)>,
    random: Random,
    class: bool,
    pub(crate) action: Action,
    pub(crate) kind: PrincipalKind,
}

impl World {
    pub(crate) fn new(random: &mut Random, vocabulary: &Vocabulary, focus: Focus) -> Self {
        let mut memory = Memory::new(Arc::new(vocabulary.memory.clone()));
        for (name, field) in vocabulary.memory.iter() {
            if random.one_in(4) || field.secret {
                continue;
            }
            let change = Change::from([(name.clone(), write(random, field))]);
            let at = 1_795_420_800_000 - i64::try_from(random.below(120_000)).unwrap();
            memory.apply(&change, Timestamp(at)).unwrap();
        }
        let claims: Vec<_> = vocabulary
            .claims
            .values()
            .map(|kind| (!random.one_in(3)).then(|| value(random, kind)))
            .collect();
        let (action, kind) = focus.of(random);
        let written = written(random, vocabulary);
        Self {
            written,
            claims,
            headers: vocabulary
                .headers
                .iter()
                .map(|_| (!random.one_in(3)).then(|| random.text()))
                .collect(),
            names: super::random::TEXTS
                .iter()
                .copied()
                .filter(|_| random.one_in(5))
                .collect(),
            rates: vocabulary.rates.keys().map(|_| random.long()).collect(),
            kind,
            action,
            memory,
            class: vocabulary.class,
            random: random.clone(),
        }
    }

    fn principal<'a>(&'a self, random: &mut Random) -> Principal<'a> {
        match self.kind {
            PrincipalKind::Caller => Principal::Caller(Caller {
                authenticated: random.one_in(2),
                subject: random.one_in(2).then(|| random.text()),
                issuer: random.one_in(2).then(|| random.text()),
                audience: &self.names,
                scopes: self.names.get(1..).unwrap_or(&[]),
                claims: &self.claims,
            }),
            PrincipalKind::Host => Principal::Host,
            PrincipalKind::Timer => Principal::Timer,
            PrincipalKind::Peer => Principal::Peer(random.text()),
            PrincipalKind::Controller => Principal::Controller(&self.names),
            PrincipalKind::Workload => Principal::Workload,
            PrincipalKind::Own => Principal::Own,
        }
    }

    /// The changes of a write, for facts to borrow.
    pub(crate) fn changes(&self) -> Vec<Changed<'_>> {
        self.written
            .iter()
            .map(|(position, new)| Changed {
                position: *position,
                new: new.as_ref(),
            })
            .collect()
    }

    pub(crate) fn facts<'a>(&'a self, changes: &'a [Changed<'a>]) -> Facts<'a> {
        let random = &mut self.random.clone();
        let host = |random: &mut Random| Host {
            region: random.text(),
            provider: random.text(),
            class: random.text(),
            id: random.text(),
        };
        let object = Object {
            id: random.text(),
            name: random.text(),
            memory: &self.memory,
            lineage: Lineage {
                length: random.long(),
                epoch: random.long(),
                unsealed: random.one_in(2),
                born: Timestamp(random.instant()),
                last_woke: random.one_in(2).then(|| Timestamp(random.instant())),
                last_dormant: random.one_in(2).then(|| Timestamp(random.instant())),
                refused: random.long(),
                crashes: random.long(),
                awake: Span(random.span()),
                awake_since: random.one_in(2).then(|| Timestamp(random.instant())),
            },
            instance: (self.class || random.one_in(3)).then(|| Instance {
                class: random.text(),
                key: random.text(),
            }),
        };
        let quality = *random.pick(&[Quality::Unknown, Quality::Host, Quality::Synced]);
        let at = if random.one_in(4) {
            random.instant()
        } else {
            1_795_420_800_000
        };
        let now = Now {
            at: Timestamp(at),
            quality,
        };
        let mut facts = Facts::new(self.principal(random), object, now, host(random));
        facts.holds = Holds { names: &self.names };
        facts.messages = random.long();
        self.sections(random, &mut facts);
        if self.action == Action::Mutate {
            facts.changes = changes;
        }
        facts
    }

    fn sections<'a>(&'a self, random: &mut Random, facts: &mut Facts<'a>) {
        let peer_ip: IpAddr = random.ip();
        let request = Request {
            protocol: *random.pick(Protocol::ALL),
            peer_ip,
            method: random.text(),
            path: random.text(),
            query: random.text(),
            host: random.text(),
            port: random.one_in(2).then(|| random.long()),
            content_length: random.one_in(2).then(|| random.long()),
            headers: &self.headers,
            tls: random.one_in(2).then(|| Tls {
                version: random.text(),
                sni: random.one_in(2).then(|| random.text()),
            }),
            client_cert: random.one_in(2).then(|| ClientCert {
                name: random.one_in(2).then(|| random.text()),
                subject: random.text(),
                issuer: random.text(),
                fingerprint: random.text(),
                not_after: Timestamp(random.instant()),
            }),
        };
        match self.action {
            Action::Wake => {
                facts.trigger = Some(Trigger {
                    kind: *random.pick(TriggerKind::ALL),
                    name: random.one_in(2).then(|| random.text()),
                    topic: random.one_in(2).then(|| random.text()),
                    field: random.one_in(2).then(|| random.text()),
                    missed: random.long(),
                });
                facts.request = random.one_in(2).then_some(request);
                facts.rates = &self.rates;
            }
            Action::Admit => {
                facts.request = Some(request);
                facts.rates = &self.rates;
            }
            Action::Remain | Action::Sleep => {
                facts.activity = Some(Activity {
                    active: Span(random.span()),
                    idle: Span(random.span()),
                    connections: random.long(),
                    in_flight: random.long(),
                });
            }
            Action::Mutate => facts.fields = &self.names,
            Action::Migrate => {
                facts.target = Some(Host {
                    region: random.text(),
                    ..Host::default()
                });
            }
            Action::Fork => {
                facts.scope = Some(random.text());
                facts.warm = random.below(2) == 0;
            }
            Action::Read => facts.field = Some(random.text()),
            Action::Instantiate => {
                facts.founding = Some(Founding {
                    instances: random.long(),
                    max_instances: random.long(),
                    peer_rate: random.long(),
                    class_rate: random.long(),
                });
                facts.request = random.one_in(2).then_some(request);
            }
            Action::Amend | Action::Terminate => {}
        }
    }
}
