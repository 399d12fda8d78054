//! What a decision costs: ours, ours residual, Cedar's authorizer, CEL, regorus and Rust by hand, over the same 1,000
//! pairs of memory and request, with equal verdicts required.
//!
//! `cargo run --release -p suijuris-policy --features peers --example decide_bench` prints CPU nanoseconds per decision
//! (median of interleaved rounds), allocations, and instructions where valgrind is installed; then the budgets. With
//! `-- --one ACTION NAME N` it runs one contender N times over all pairs: itself under callgrind. Peers get their inputs
//! ready-made: entities and request for Cedar, contexts for CEL, input documents for regorus.

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
    Action, Caller, Facts, Host, Lineage, Object, Outcome, Principal, Program, Protocol, Request, Residual,
    Trigger, TriggerKind, Vocabulary,
};
use suijuris_core::memory::{Change, Field, Kind, Memory, Name, Schema, Value, Write};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_policy::{compile, oracle};
use suijuris_testkit::bench::{Better, Report, Row, Settings, instructions_per_iteration, thread_cpu};

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
        instance: None,
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
            port: None,
            content_length: (j % 5 == 0).then(|| i64::try_from(j).unwrap() << 17),
            headers: &[],
            tls: None,
            client_cert: None,
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

/// What all contenders decide about.
struct Setting<'a> {
    action: Action,
    vocabulary: &'a Vocabulary,
    program: &'a Program,
    facts: &'a [Facts<'a>],
}

/// Decides all pairs, adds each verdict.
type Decide<'a> = Box<dyn FnMut(&mut Vec<bool>) + 'a>;

/// A contender: its name, and how it gets ready.
type Contender = (&'static str, for<'a> fn(&Setting<'a>) -> Decide<'a>);

/// All of them: the floor first, ours before the peers.
const CONTENDERS: [Contender; 6] = [
    ("by hand", by_hand),
    ("ours residual", residual),
    ("ours", ours),
    ("cel", cel),
    ("regorus", regorus),
    ("cedar", cedar),
];

fn by_hand<'a>(setting: &Setting<'a>) -> Decide<'a> {
    let (action, facts) = (setting.action, setting.facts);
    let own: Vec<ByHand<'a>> = facts.iter().map(ByHand::new).collect();
    Box::new(move |out| {
        let decide = if action == Action::Wake {
            ByHand::wake
        } else {
            ByHand::admit
        };
        out.extend(own.iter().zip(facts).map(|(own, facts)| decide(own, facts)));
    })
}

fn residual<'a>(setting: &Setting<'a>) -> Decide<'a> {
    let (action, facts, program) = (setting.action, setting.facts, setting.program);
    let residuals: Vec<Residual> = facts
        .iter()
        .step_by(REQUESTS)
        .map(|facts| program.specialize(action, facts.object, facts.now).unwrap())
        .collect();
    Box::new(move |out| {
        let judge = |(index, facts): (usize, &Facts<'_>)| residuals[index / REQUESTS].judge(facts);
        out.extend(
            facts
                .iter()
                .enumerate()
                .map(|pair| judge(pair).is_some_and(|judgement| judgement.outcome == Outcome::Permit)),
        );
    })
}

fn ours<'a>(setting: &Setting<'a>) -> Decide<'a> {
    let (action, facts, program) = (setting.action, setting.facts, setting.program);
    Box::new(move |out| {
        out.extend(
            facts
                .iter()
                .map(|facts| program.judge(action, facts).outcome == Outcome::Permit),
        );
    })
}

fn cel<'a>(setting: &Setting<'a>) -> Decide<'a> {
    let sources = if setting.action == Action::Wake {
        rules::CEL_WAKE
    } else {
        rules::CEL_ADMIT
    };
    let programs = |sources: &[&str]| -> Vec<cel::Program> {
        sources
            .iter()
            .map(|source| cel::Program::compile(source).unwrap())
            .collect()
    };
    let (permits, forbids) = (programs(sources.0), programs(sources.1));
    let context = |facts: &Facts<'_>| {
        let mut context = cel::Context::default();
        for (name, value) in document(facts).as_object().unwrap() {
            context.add_variable(name.clone(), value.clone()).unwrap();
        }
        context
    };
    let contexts: Vec<cel::Context<'static, 'static>> = setting.facts.iter().map(context).collect();
    let count = |programs: &[cel::Program], context: &cel::Context<'_, '_>| {
        programs
            .iter()
            .filter(|program| program.execute(context) == Ok(cel::Value::Bool(true)))
            .count()
    };
    Box::new(move |out| {
        out.extend(
            contexts
                .iter()
                .map(|context| (count(&permits, context), count(&forbids, context)))
                .map(|(permitting, forbidding)| permitting > 0 && forbidding == 0),
        );
    })
}

fn regorus<'a>(setting: &Setting<'a>) -> Decide<'a> {
    let mut rego = regorus::Engine::new();
    rego.add_policy("s.rego".into(), rules::REGO.into()).unwrap();
    let input = |facts| regorus::Value::from_json_str(&document(facts).to_string()).unwrap();
    let inputs: Vec<regorus::Value> = setting.facts.iter().map(input).collect();
    let rule = format!("data.s.{}", setting.action);
    Box::new(move |out| {
        for input in &inputs {
            rego.set_input(input.clone());
            out.push(rego.eval_rule(rule.clone()).unwrap() == regorus::Value::Bool(true));
        }
    })
}

fn cedar<'a>(setting: &Setting<'a>) -> Decide<'a> {
    let cedar = oracle::Oracle::new(rules::CEDAR).unwrap();
    let (action, vocabulary) = (setting.action, setting.vocabulary);
    let asked: Vec<_> = setting
        .facts
        .iter()
        .map(|facts| {
            (
                oracle::request(vocabulary, action, facts).unwrap(),
                oracle::entities(vocabulary, facts).unwrap(),
            )
        })
        .collect();
    Box::new(move |out| {
        out.extend(
            asked
                .iter()
                .map(|(request, entities)| cedar.decide(request, entities).allowed),
        );
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How often a contender runs over all pairs in one round: ours and the floor are too quick for once.
const fn repeats(index: usize) -> usize {
    if index < 3 { 100 } else { 1 }
}

/// Median CPU nanoseconds and allocations of a decision, by contender.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn measure(setting: &Setting<'_>, rounds: usize, expected: &[bool]) -> Vec<(f64, f64)> {
    let mut contenders = CONTENDERS.map(|(name, ready)| (name, ready(setting)));
    let mut times = vec![Vec::new(); contenders.len()];
    let mut allocations = vec![0.0; contenders.len()];
    let mut out = Vec::with_capacity(expected.len());
    for _ in 0..rounds {
        for (index, (name, run)) in contenders.iter_mut().enumerate() {
            let repeat = repeats(index);
            let (start, before) = (thread_cpu().unwrap(), sys::allocations());
            for _ in 0..repeat {
                out.clear();
                run(&mut out);
            }
            let decisions = (expected.len() * repeat) as f64;
            let took = thread_cpu().unwrap().saturating_sub(start);
            times[index].push(took.as_nanos() as f64 / decisions);
            allocations[index] = (sys::allocations() - before) as f64 / decisions;
            assert_eq!(out, expected, "{name} decides otherwise");
        }
    }
    times.into_iter().map(median).zip(allocations).collect()
}

/// Instructions of a decision; nothing where valgrind is not installed.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn instructions(action: Action, name: &str, pairs: usize, repeat: u64) -> Option<f64> {
    let arguments = |times: u64| {
        let (action, times) = (action.to_string(), times.to_string());
        vec!["--one".to_owned(), action, name.to_owned(), times]
    };
    let program = std::env::current_exe().unwrap();
    let all = instructions_per_iteration(&program, arguments, 1, 1 + repeat).unwrap();
    all.map(|all| all / pairs as f64)
}

fn compare(setting: &Setting<'_>, settings: &Settings, report: &mut Report) {
    let action = setting.action;
    let mut expected = Vec::new();
    by_hand(setting)(&mut expected);
    let measured = measure(setting, settings.scale(ROUNDS), &expected);
    let permitted = expected.iter().filter(|permitted| **permitted).count();
    println!("{action}: {} pairs, {permitted} permitted", expected.len());
    println!(
        "{:<12} {:>12} {:>12} {:>14} {:>10} {:>12}",
        "", "CPU ns", "allocations", "instructions", "x by hand", "ours is x"
    );
    let (floor, residual, ours) = (measured[0].0, measured[1].0, measured[2].0);
    for (index, ((name, _), (ns, allocations))) in CONTENDERS.iter().zip(&measured).enumerate() {
        let count = instructions(action, name, expected.len(), repeats(index) as u64);
        let count = count.map_or("?".to_owned(), |count| format!("{count:.0}"));
        println!(
            "{name:<12} {ns:>12.1} {allocations:>12.2} {count:>14} {:>10.2} {:>12.1}",
            ns / floor,
            ns / ours
        );
    }
    let mut row = |what: &str, figure: f64, peer: usize, budget: f64| {
        report.row(Row {
            what: format!("{action}, {what}"),
            unit: "ns",
            better: Better::Lower,
            ours: figure,
            peer: CONTENDERS[peer].0.to_owned(),
            theirs: measured[peer].0,
            budget: Some(budget),
        });
    };
    row("to ship", ours, 5, 50.0);
    row("to ship", ours, 3, 8.0);
    row("moonshot", ours, 5, 200.0);
    row("moonshot", ours, 0, 0.25);
    row("moonshot, residual", residual, 5, 200.0);
    row("moonshot, residual", residual, 0, 0.25);
}

fn main() {
    let vocabulary = vocabulary();
    let program = compile(&vocabulary, rules::CEDAR).unwrap().program;
    let schema = Arc::new(vocabulary.memory.clone());
    let memories: Vec<Memory> = (0..MEMORIES).map(|i| memory(&schema, i)).collect();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let settings = Settings::from_env();
    let mut report = Report::new("decide", &settings);
    for action in [Action::Wake, Action::Admit] {
        let facts: Vec<Facts<'_>> = memories
            .iter()
            .flat_map(|memory| (0..REQUESTS).map(move |j| facts(action, memory, j)))
            .collect();
        let setting = Setting {
            action,
            vocabulary: &vocabulary,
            program: &program,
            facts: &facts,
        };
        match arguments.as_slice() {
            [flag, wanted, name, times] if flag == "--one" => {
                if *wanted == action.to_string() {
                    let (_, ready) = CONTENDERS.iter().find(|(have, _)| have == name).unwrap();
                    let (mut run, mut out) = (ready(&setting), Vec::new());
                    (0..times.parse::<usize>().unwrap()).for_each(|_| {
                        out.clear();
                        run(&mut out);
                    });
                }
            }
            _ => compare(&setting, &settings, &mut report),
        }
    }
    if arguments.is_empty() {
        report.publish(&settings).unwrap();
    }
}
