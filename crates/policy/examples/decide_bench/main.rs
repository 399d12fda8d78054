//! What a decision costs: ours, ours folded, Cedar's authorizer, CEL, regorus and Rust by hand, over the same 1,000
//! pairs of memory and request, with equal verdicts required.
//!
//! `cargo run --release -p suijuris-policy --features peers --example decide_bench` prints CPU nanoseconds per decision
//! (median of interleaved rounds) and allocations; `-- --one NAME N` runs one contender N times over all pairs, for
//! instruction counts under callgrind. Peers get their inputs ready-made: entities and request for Cedar, contexts for
//! CEL, input documents for regorus.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark"
)]

mod rules;
mod sys;

use std::sync::Arc;

use serde_json::json;
use suijuris_core::governance::{
    Action, Caller, Facts, Folded, Host, Lineage, Object, Outcome, Principal, Program, Protocol, Request,
    Trigger, TriggerKind, Vocabulary,
};
use suijuris_core::memory::{Change, Field, Kind, Memory, Name, Schema, Value, Write};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_policy::{compile, oracle};

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

const MEMORIES: usize = 50;
const REQUESTS: usize = 20;
const ROUNDS: usize = 15;
const NOW: i64 = 1_795_420_800_000;

fn vocabulary() -> Vocabulary {
    let words = |words: &[&str]| Kind::Enum(words.iter().map(|word| (*word).to_owned()).collect());
    let mut consent = Field::new(Kind::String);
    consent.fresh_for = Some(Span(60_000));
    let with = |kind: Kind, default: Value| {
        let mut field = Field::new(kind);
        field.default = Some(default);
        field
    };
    let fields = [
        ("enabled", with(Kind::Bool, Value::Bool(true))),
        (
            "status",
            with(words(&["ready", "busy", "closed"]), Value::Enum("ready".into())),
        ),
        ("budget", with(Kind::INT, Value::Int(10))),
        ("spent", with(Kind::INT, Value::Int(0))),
        (
            "jobs",
            with(Kind::Set(Box::new(Kind::String)), Value::Set([].into())),
        ),
        ("owner", with(Kind::String, Value::String("ann".into()))),
        ("consent", consent),
        ("region", with(Kind::String, Value::String("fra".into()))),
        ("priority", with(Kind::INT, Value::Int(1))),
        (
            "plan",
            with(words(&["free", "paid", "suspended"]), Value::Enum("paid".into())),
        ),
    ];
    let fields = fields
        .into_iter()
        .map(|(name, field)| (Name::new(name).unwrap(), field));
    Vocabulary::of_memory(Schema::try_from(fields.collect::<std::collections::BTreeMap<_, _>>()).unwrap())
}

fn memory(schema: &Arc<Schema>, i: usize) -> Memory {
    let pick = |words: &[&str], by: usize| words[(i / by) % words.len()].to_owned();
    let number = |n: usize| Value::Int(i64::try_from(n).unwrap());
    let jobs: [&str; 3] = ["index", "mail", "urgent"];
    let jobs = jobs
        .iter()
        .take(1 + i % 3)
        .map(|job| Value::String((*job).to_owned()));
    let mut memory = Memory::new(schema.clone());
    let old = if i % 4 == 0 { 120_000 } else { 5_000 };
    let values = [
        ("enabled", Value::Bool(i % 5 != 0)),
        (
            "status",
            Value::Enum(pick(&["ready", "ready", "busy", "closed"], 1)),
        ),
        ("budget", number(10)),
        ("spent", number(i % 12)),
        ("jobs", Value::Set(jobs.collect())),
        ("owner", Value::String(pick(&["ann", "bob"], 2))),
        ("consent", Value::String("yes".into())),
        ("region", Value::String(pick(&["fra", "fra", "ams"], 3))),
        ("priority", number(i % 9)),
        (
            "plan",
            Value::Enum(pick(&["paid", "free", "free", "suspended"], 2)),
        ),
    ];
    for (name, value) in values {
        let change = Change::from([(Name::new(name).unwrap(), Write::Set(value))]);
        memory.apply(&change, Timestamp(NOW - old)).unwrap();
    }
    memory
}

const SCOPES: [&[&str]; 4] = [&[], &["read"], &["write"], &["profile", "read", "write"]];
const PATHS: [&str; 4] = ["/public/logo.svg", "/", "/api/items/17", "/public/"];
const METHODS: [&str; 4] = ["GET", "POST", "GET", "HEAD"];
const SUBJECTS: [Option<&str>; 3] = [Some("ann"), Some("eve"), None];

fn facts(action: Action, memory: &Memory, j: usize) -> Facts<'_> {
    let caller = Caller {
        authenticated: j % 3 != 2,
        subject: SUBJECTS[j % 3],
        scopes: SCOPES[j % 4],
        ..Caller::default()
    };
    let object = Object {
        id: "object",
        name: "bench",
        memory,
        lineage: Lineage::default(),
    };
    let host = Host {
        region: "fra",
        provider: "local",
        class: "shared",
        id: if j % 2 == 0 { "ann" } else { "h1" },
    };
    let now = Now {
        at: Timestamp(NOW),
        quality: Quality::Synced,
    };
    let mut facts = Facts::new(Principal::Caller(caller), object, now, host);
    if action == Action::Wake {
        facts.trigger = Some(Trigger {
            kind: [TriggerKind::Timer, TriggerKind::Manual, TriggerKind::Message][j % 3],
            name: None,
            topic: None,
            field: None,
            missed: 0,
        });
    } else {
        facts.request = Some(Request {
            protocol: Protocol::Http1,
            peer_ip: [10, 0, 0, 1].into(),
            method: METHODS[j % 4],
            path: PATHS[j / 4 % 4],
            query: "",
            host: "bench.localhost",
            content_length: (j % 5 == 0).then(|| i64::try_from(j).unwrap() << 17),
            headers: &[],
        });
    }
    facts
}

/// The facts as peers take them.
fn document(facts: &Facts<'_>) -> serde_json::Value {
    let memory: serde_json::Map<_, _> = facts
        .object
        .memory
        .iter()
        .filter_map(|(name, _, cell)| {
            let value = cell.value.as_ref()?;
            let value = serde_json::to_value(suijuris_core::memory::Plain(value)).unwrap();
            Some((name.as_str().to_owned(), value))
        })
        .collect();
    let fresh =
        facts.object.memory.freshness("consent", facts.now) == Some(suijuris_core::memory::Freshness::Fresh);
    let Principal::Caller(caller) = facts.principal else {
        return json!({});
    };
    let mut principal = json!({"authenticated": caller.authenticated, "scopes": caller.scopes});
    if let Some(subject) = caller.subject {
        principal["subject"] = json!(subject);
    }
    let mut out = json!({
        "memory": memory,
        "fresh": {"consent": fresh},
        "principal": principal,
        "host": {"region": facts.host.region, "id": facts.host.id},
    });
    if let Some(trigger) = facts.trigger {
        out["trigger"] = json!({"kind": trigger.kind.as_str()});
    }
    if let Some(request) = facts.request {
        out["request"] = json!({"method": request.method, "path": request.path});
        if let Some(length) = request.content_length {
            out["request"]["content_length"] = json!(length);
        }
    }
    out
}

/// The floor: what somebody would write who knows the rules when compiling.
struct ByHand<'a> {
    enabled: bool,
    status: &'a str,
    budget: i64,
    spent: i64,
    jobs: Vec<&'a str>,
    owner: &'a str,
    fresh: bool,
    region: &'a str,
    priority: i64,
    plan: &'a str,
}

impl<'a> ByHand<'a> {
    fn new(facts: &Facts<'a>) -> Self {
        let memory = facts.object.memory;
        let text = |name: &str| match memory.value(name) {
            Some(Value::String(v) | Value::Enum(v)) => v.as_str(),
            _ => "",
        };
        let number = |name: &str| match memory.value(name) {
            Some(Value::Int(v)) => *v,
            _ => 0,
        };
        let jobs = match memory.value("jobs") {
            Some(Value::Set(v)) => v
                .iter()
                .filter_map(|v| {
                    if let Value::String(v) = v {
                        Some(v.as_str())
                    } else {
                        None
                    }
                })
                .collect(),
            _ => Vec::new(),
        };
        Self {
            enabled: memory.value("enabled") == Some(&Value::Bool(true)),
            status: text("status"),
            budget: number("budget"),
            spent: number("spent"),
            jobs,
            owner: text("owner"),
            fresh: memory.freshness("consent", facts.now) == Some(suijuris_core::memory::Freshness::Fresh),
            region: text("region"),
            priority: number("priority"),
            plan: text("plan"),
        }
    }

    #[inline(never)]
    fn wake(&self, facts: &Facts<'_>) -> bool {
        let Some(trigger) = &facts.trigger else {
            return false;
        };
        let permits = u8::from(self.status == "ready" && self.budget > 0 && self.fresh)
            | u8::from(self.jobs.contains(&"urgent") && self.priority >= 5) << 1
            | u8::from(trigger.kind == TriggerKind::Timer && self.enabled) << 2
            | u8::from(trigger.kind == TriggerKind::Manual && self.owner == facts.host.id) << 3;
        let forbids = u8::from(self.spent >= self.budget)
            | u8::from(self.region != facts.host.region) << 1
            | u8::from(self.plan == "suspended") << 2;
        forbids == 0 && permits != 0
    }

    #[inline(never)]
    fn admit(&self, facts: &Facts<'_>) -> bool {
        let (Some(request), Principal::Caller(caller)) = (&facts.request, &facts.principal) else {
            return false;
        };
        let permits =
            u8::from(self.enabled && request.method == "GET" && request.path.starts_with("/public/"))
                | u8::from(
                    caller.authenticated
                        && caller.scopes.contains(&"read")
                        && matches!(request.method, "GET" | "HEAD"),
                ) << 1
                | u8::from(caller.authenticated && caller.scopes.contains(&"write") && self.fresh) << 2
                | u8::from(caller.authenticated && caller.subject == Some(self.owner)) << 3;
        let forbids = u8::from(self.status == "closed")
            | u8::from(self.spent >= self.budget && request.method != "GET") << 1
            | u8::from(request.content_length.is_some_and(|length| length > 1_048_576)) << 2;
        forbids == 0 && permits != 0
    }
}

/// One contender: decides all pairs, adds each verdict.
type Contender<'a> = (&'static str, Box<dyn FnMut(&mut Vec<bool>) + 'a>);

fn cel_programs((permits, forbids): (&[&str], &[&str])) -> (Vec<cel::Program>, Vec<cel::Program>) {
    let all = |sources: &[&str]| {
        sources
            .iter()
            .map(|source| cel::Program::compile(source).unwrap())
            .collect()
    };
    (all(permits), all(forbids))
}

fn count(programs: &[cel::Program], context: &cel::Context<'_, '_>) -> usize {
    programs
        .iter()
        .filter(|program| program.execute(context) == Ok(cel::Value::Bool(true)))
        .count()
}

fn contenders<'a>(
    action: Action,
    vocabulary: &'a Vocabulary,
    program: &'a Program,
    facts: &'a [Facts<'a>],
) -> Vec<Contender<'a>> {
    let folds: Vec<Folded> = facts
        .iter()
        .step_by(REQUESTS)
        .map(|facts| program.fold(action, facts.object, facts.now).unwrap())
        .collect();
    let cedar = oracle::Oracle::new(rules::CEDAR).unwrap();
    let asked: Vec<_> = facts
        .iter()
        .map(|facts| {
            (
                oracle::request(vocabulary, action, facts).unwrap(),
                oracle::entities(vocabulary, facts).unwrap(),
            )
        })
        .collect();
    let documents: Vec<serde_json::Value> = facts.iter().map(document).collect();
    let (permits, forbids) = cel_programs(if action == Action::Wake {
        rules::CEL_WAKE
    } else {
        rules::CEL_ADMIT
    });
    let contexts: Vec<cel::Context<'static, 'static>> = documents
        .iter()
        .map(|document| {
            let mut context = cel::Context::default();
            for (name, value) in document.as_object().unwrap() {
                context.add_variable(name.clone(), value.clone()).unwrap();
            }
            context
        })
        .collect();
    let mut rego = regorus::Engine::new();
    rego.add_policy("s.rego".into(), rules::REGO.into()).unwrap();
    let inputs: Vec<regorus::Value> = documents
        .iter()
        .map(|document| regorus::Value::from_json_str(&document.to_string()).unwrap())
        .collect();
    let rule = format!("data.s.{action}");
    let by_hand: Vec<ByHand<'a>> = facts.iter().map(ByHand::new).collect();
    vec![
        (
            "by hand",
            Box::new(move |out| {
                let decide = if action == Action::Wake {
                    ByHand::wake
                } else {
                    ByHand::admit
                };
                out.extend(by_hand.iter().zip(facts).map(|(own, facts)| decide(own, facts)));
            }),
        ),
        (
            "ours folded",
            Box::new(move |out| {
                let fold = |(index, facts): (usize, &Facts<'_>)| folds[index / REQUESTS].judge(facts);
                out.extend(
                    facts
                        .iter()
                        .enumerate()
                        .map(|pair| fold(pair).is_some_and(|j| j.outcome == Outcome::Permit)),
                );
            }),
        ),
        (
            "ours",
            Box::new(move |out| {
                out.extend(
                    facts
                        .iter()
                        .map(|facts| program.judge(action, facts).outcome == Outcome::Permit),
                );
            }),
        ),
        (
            "cel",
            Box::new(move |out| {
                out.extend(
                    contexts
                        .iter()
                        .map(|context| (count(&permits, context), count(&forbids, context)))
                        .map(|(p, f)| p > 0 && f == 0),
                );
            }),
        ),
        (
            "regorus",
            Box::new(move |out| {
                for input in &inputs {
                    rego.set_input(input.clone());
                    out.push(rego.eval_rule(rule.clone()).unwrap() == regorus::Value::Bool(true));
                }
            }),
        ),
        (
            "cedar",
            Box::new(move |out| {
                out.extend(
                    asked
                        .iter()
                        .map(|(request, entities)| cedar.decide(request, entities).allowed),
                );
            }),
        ),
    ]
}

fn cpu_ns() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn compare(action: Action, contenders: &mut [Contender<'_>]) {
    let mut expected = Vec::new();
    contenders[0].1(&mut expected);
    let pairs = expected.len();
    let mut times = vec![Vec::new(); contenders.len()];
    let mut allocations = vec![0.0; contenders.len()];
    let mut out = Vec::with_capacity(pairs);
    for _ in 0..ROUNDS {
        for (index, (name, run)) in contenders.iter_mut().enumerate() {
            let repeat = if index < 3 { 100 } else { 1 };
            let (start, before) = (cpu_ns(), sys::allocations());
            for _ in 0..repeat {
                out.clear();
                run(&mut out);
            }
            let decisions = (pairs * repeat) as f64;
            times[index].push((cpu_ns() - start) as f64 / decisions);
            allocations[index] = (sys::allocations() - before) as f64 / decisions;
            assert_eq!(out, expected, "{name} decides otherwise");
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let permitted = expected.iter().filter(|permitted| **permitted).count();
    println!("{action}: {pairs} pairs, {permitted} permitted");
    println!(
        "{:<12} {:>12} {:>14} {:>10} {:>12}",
        "", "ns/decision", "allocs/decision", "x by hand", "ours is x"
    );
    for (index, (name, _)) in contenders.iter().enumerate() {
        let (ns, floor, ours) = (medians[index], medians[0], medians[2]);
        println!(
            "{name:<12} {ns:>12.1} {:>14.2} {:>10.2} {:>12.1}",
            allocations[index],
            ns / floor,
            ns / ours
        );
    }
}

fn main() {
    let vocabulary = vocabulary();
    let program = compile(&vocabulary, rules::CEDAR).unwrap().program;
    let schema = Arc::new(vocabulary.memory.clone());
    let memories: Vec<Memory> = (0..MEMORIES).map(|i| memory(&schema, i)).collect();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for action in [Action::Wake, Action::Admit] {
        let facts: Vec<Facts<'_>> = memories
            .iter()
            .flat_map(|memory| (0..REQUESTS).map(move |j| facts(action, memory, j)))
            .collect();
        let mut contenders = contenders(action, &vocabulary, &program, &facts);
        if let [flag, name, times] = arguments.as_slice()
            && flag == "--one"
        {
            let (_, run) = contenders.iter_mut().find(|(have, _)| have == name).unwrap();
            let mut out = Vec::new();
            (0..times.parse::<usize>().unwrap()).for_each(|_| {
                out.clear();
                run(&mut out);
            });
        } else {
            compare(action, &mut contenders);
        }
    }
}
