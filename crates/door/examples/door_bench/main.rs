//! What a sleeping object costs: a decision, the bytes it takes, loading it, and a refusal over HTTP.
//!
//! Objects have ten fields of memory; their bundle has seven rules for `wake` and seven for `admit`, those of the decision
//! bench. Each proposal is a request of a caller; `wake` is decided, and where it is permitted `admit` as well.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

#[expect(dead_code, reason = "shared with the tests")]
#[path = "../../tests/door/life.rs"]
mod life;
#[expect(dead_code, reason = "shared with the decision bench, which has more peers")]
#[path = "../../../policy/examples/decide_bench/rules.rs"]
mod rules;
mod sys;
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use suijuris_core::ObjectId;
use suijuris_core::decide::{self, View};
use suijuris_core::governance::{Action, Protocol, TriggerKind, Vocabulary};
use suijuris_core::inputs::{Caller, Host, Inputs, Principal, Request, Trigger, Vehicle, Witnessed};
use suijuris_core::lineage::{Announcement, Outcome, State};
use suijuris_core::memory::{Change, Decimal, Field, Kind, Name, Plain, Schema, Value, Write};
use suijuris_core::time::{Now, Quality, Reading, Span, Timestamp};
use suijuris_core::witness::Mark;
use suijuris_depot::Depot;
use suijuris_depot::memory::Memory;
use suijuris_door::config::{Limits, Location};
use suijuris_door::heads::Trust;
use suijuris_door::sleepers::QuickDecision;
use suijuris_door::waker::Elsewhere;
use suijuris_door::{Door, Sleepers};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Settings, interleave, thread_cpu};

use life::{Built, Definition, Life};

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Objects asleep.
const OBJECTS: usize = 100_000;
/// Objects that peers decide for, with their whole states.
const WHOLE: usize = 500;
/// Proposals.
const REQUESTS: usize = 20;
/// Rounds that alternate.
const ROUNDS: usize = 11;
/// Requests over HTTP of a round.
const ASKED: usize = 4_000;
/// A GiB has to hold two and a half millions.
const BYTES_BUDGET: f64 = 429.0;

fn vocabulary() -> Vocabulary {
    let words = |words: &[&str]| Kind::Enum(words.iter().map(|word| (*word).to_owned()).collect());
    let mut consent = Field::new(Kind::String);
    consent.fresh_for = Some(Span(60_000));
    let with = |kind: Kind, default: Value| {
        let mut field = Field::new(kind);
        field.default = Some(default);
        field
    };
    let text = |text: &str| Value::String(text.to_owned());
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
            with(Kind::Set(Box::new(Kind::String)), Value::Set(BTreeSet::new())),
        ),
        ("owner", with(Kind::String, text("ann"))),
        ("consent", consent),
        ("region", with(Kind::String, text("fra"))),
        ("priority", with(Kind::INT, Value::Int(1))),
        (
            "plan",
            with(words(&["free", "paid", "suspended"]), Value::Enum("paid".into())),
        ),
        // Looked at by no rule: not kept.
        ("price", with(Kind::Decimal, Value::Decimal(Decimal(15_000)))),
        (
            "notes",
            with(
                Kind::String,
                text("nothing that a rule looks at, and longer than the rest of it all"),
            ),
        ),
    ];
    let fields = fields
        .into_iter()
        .map(|(name, field)| (Name::new(name).unwrap(), field));
    Vocabulary::of_memory(Schema::try_from(fields.collect::<BTreeMap<_, _>>()).unwrap())
}

const NOW: Timestamp = Timestamp(life::BORN.0 + 130_000);

fn memory(i: usize) -> (Change, Timestamp) {
    let pick = |words: &[&str], by: usize| words[(i / by) % words.len()].to_owned();
    let number = |n: usize| Value::Int(i64::try_from(n).unwrap());
    let jobs = ["index", "mail", "urgent"].iter().take(1 + i % 3);
    let values = [
        ("enabled", Value::Bool(!i.is_multiple_of(5))),
        (
            "status",
            Value::Enum(pick(&["ready", "ready", "busy", "closed"], 1)),
        ),
        ("budget", number(10)),
        ("spent", number(i % 12)),
        (
            "jobs",
            Value::Set(jobs.map(|job| Value::String((*job).to_owned())).collect()),
        ),
        ("owner", Value::String(format!("owner-{i}@example.test"))),
        ("consent", Value::String("yes".into())),
        ("region", Value::String(pick(&["fra", "fra", "ams"], 3))),
        ("priority", number(i % 9)),
        (
            "plan",
            Value::Enum(pick(&["paid", "free", "free", "suspended"], 2)),
        ),
    ];
    let old = if i.is_multiple_of(4) { 120_000 } else { 5_000 };
    let change = values.map(|(name, value)| (Name::new(name).unwrap(), Write::Set(value)));
    (Change::from(change), Timestamp(NOW.0 - old))
}

fn object(built: &Built, i: usize) -> Life {
    let mut life = Life::create(&built.bundle, &format!("object-{i}"));
    let (change, at) = memory(i);
    life.write(change, at);
    life
}

fn inputs(j: usize) -> Inputs {
    let scopes: [&[&str]; 4] = [&[], &["read"], &["write"], &["profile", "read", "write"]];
    let caller = Caller {
        authenticated: j % 3 != 2,
        subject: [Some("ann"), Some("eve"), None][j % 3].map(str::to_owned),
        scopes: scopes[j % 4].iter().map(|scope| (*scope).to_owned()).collect(),
        ..Caller::default()
    };
    let now = Now {
        at: NOW,
        quality: Quality::Synced,
    };
    let vehicle = Vehicle {
        provider: "",
        class: "",
    };
    let host = Host::of(vehicle, Some("fra"), "");
    let mut inputs = Inputs::new(now, Principal::Caller(Box::new(caller)), host);
    inputs.conditions.witness = Witnessed::Agrees;
    inputs.trigger = Some(Trigger::new(TriggerKind::Request));
    inputs.request = Some(Request {
        method: ["GET", "POST", "GET", "HEAD"][j % 4].to_owned(),
        path: ["/public/logo.svg", "/", "/api/items/17", "/public/"][j / 4 % 4].to_owned(),
        query: String::new(),
        host: "bench.test".to_owned(),
        port: None,
        protocol: Protocol::Http1,
        peer_ip: [10, 0, 0, 1].into(),
        content_length: j.is_multiple_of(5).then(|| u64::try_from(j).unwrap() << 17),
        headers: BTreeMap::new(),
        tls: None,
        client_cert: None,
    });
    inputs
}

const fn reading() -> Reading {
    Reading {
        wall: NOW,
        quality: Quality::Synced,
        mono_ns: 0,
        boot_ns: 0,
    }
}

/// The facts as Rego takes them.
fn document(state: &State, inputs: &Inputs) -> serde_json::Value {
    let memory: serde_json::Map<_, _> = state
        .memory()
        .iter()
        .filter_map(|(name, _, cell)| {
            let value = serde_json::to_value(Plain(cell.value.as_ref()?)).unwrap();
            Some((name.as_str().to_owned(), value))
        })
        .collect();
    let fresh = state.memory().freshness("consent", inputs.now);
    let fresh = fresh == Some(suijuris_core::memory::Freshness::Fresh);
    let Principal::Caller(caller) = &inputs.principal else {
        return json!({});
    };
    let mut principal = json!({"authenticated": caller.authenticated, "scopes": caller.scopes});
    if let Some(subject) = &caller.subject {
        principal["subject"] = json!(subject);
    }
    let request = inputs.request.as_ref().unwrap();
    let mut asked = json!({"method": request.method, "path": request.path});
    if let Some(length) = request.content_length {
        asked["content_length"] = json!(length);
    }
    json!({
        "memory": memory, "fresh": {"consent": fresh}, "principal": principal,
        "host": {"region": inputs.host.region, "id": inputs.host.id},
        "trigger": {"kind": "request"}, "request": asked,
    })
}

fn main() -> Result<()> {
    let settings = Settings::from_env();
    let mut report = Report::new("door", &settings);
    let built = Definition::of(&vocabulary(), rules::CEDAR)
        .build()
        .ok_or("the rules compile")?;
    let count = settings.scale(OBJECTS);
    report.note(format!(
        "{count} objects of one bundle; ten fields that rules look at, seven rules for each action"
    ));

    let (sleepers, ids) = fill(&built, count, &mut report);
    decisions(&built, &sleepers, &ids, &settings, &mut report)?;
    drop(sleepers);
    load(&built, count, &mut report)?;
    over_http(&built, &settings, &mut report)?;
    report.publish(&settings)?;
    Ok(())
}

fn row(
    what: &str,
    unit: &'static str,
    better: Better,
    ours: f64,
    peer: &str,
    theirs: f64,
    budget: Option<f64>,
) -> Row {
    Row {
        what: what.to_owned(),
        unit,
        better,
        ours,
        peer: peer.to_owned(),
        theirs,
        budget,
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn fill(built: &Built, count: usize, report: &mut Report) -> (Sleepers, Vec<ObjectId>) {
    let sleepers = Sleepers::new(usize::MAX);
    let mut ids = Vec::with_capacity(count);
    let before = sys::alive();
    for i in 0..count {
        let life = object(built, i);
        sleepers.keep(&life.state, &built.bundle, NOW, 0).unwrap();
        ids.push(life.state.head().object);
    }
    let bytes = (sys::alive() - before) as f64 / count as f64;
    let packed = sleepers.bytes() as f64 / count as f64;
    report.note(format!(
        "packed form alone: {packed:.0} bytes an object, the bundle included"
    ));
    let what = "memory of a sleeping object, index and allocator included";
    report.row(row(
        what,
        "bytes",
        Better::Lower,
        bytes,
        "budget",
        BYTES_BUDGET,
        Some(1.0),
    ));
    (sleepers, ids)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn decisions(
    built: &Built,
    sleepers: &Sleepers,
    ids: &[ObjectId],
    settings: &Settings,
    report: &mut Report,
) -> Result<()> {
    let whole: Vec<Life> = (0..WHOLE).map(|i| object(built, i)).collect();
    let proposals: Vec<Inputs> = (0..REQUESTS).map(inputs).collect();
    let mut rego = regorus::Engine::new();
    rego.add_policy("s.rego".into(), rules::REGO.into())?;
    let documents: Vec<regorus::Value> = whole
        .iter()
        .flat_map(|life| proposals.iter().map(|inputs| document(&life.state, inputs)))
        .map(|document| regorus::Value::from_json_str(&document.to_string()))
        .collect::<std::result::Result<_, _>>()?;
    agree(built, sleepers, &whole, &proposals, &documents, &mut rego)?;

    let per = |count: usize, run: &mut dyn FnMut()| {
        let before = thread_cpu().unwrap();
        run();
        thread_cpu().unwrap().saturating_sub(before).as_secs_f64() * 1e9 / count as f64
    };
    let mut ours = proposals.clone();
    // A stride that meets every object, in an order that no cache foresees.
    let (many, mut at) = (settings.scale(400_000), 0usize);
    let mut rego_again = rego.clone();
    let mut contenders = [
        Contender::new("door", || {
            per(many, &mut || {
                for n in 0..many {
                    at = (at + 61_803_399) % ids.len();
                    std::hint::black_box(sleepers.evaluate_quick(
                        ids[at],
                        &mut ours[n % REQUESTS],
                        reading(),
                    ));
                }
            })
        }),
        Contender::new("whole state, in words", || {
            per(WHOLE * REQUESTS, &mut || {
                for life in &whole {
                    for inputs in &proposals {
                        std::hint::black_box(in_words(built, life, inputs));
                    }
                }
            })
        }),
        Contender::new("regorus", || {
            per(documents.len(), &mut || {
                for document in &documents {
                    std::hint::black_box(by_rego(&mut rego_again, document));
                }
            })
        }),
    ];
    let samples = interleave(settings.scale(ROUNDS), &mut contenders);
    let ns: Vec<f64> = samples
        .iter()
        .map(suijuris_testkit::bench::Samples::median)
        .collect();
    let what = "decide wake and admit by id, CPU";
    let rates: Vec<f64> = ns.iter().map(|ns| 1e9 / ns).collect();
    report.row(row(
        what,
        "/s a core",
        Better::Higher,
        rates[0],
        "budget",
        1e6,
        Some(1.0),
    ));
    report.row(row(
        what,
        "ns",
        Better::Lower,
        ns[0],
        "regorus, inputs ready",
        ns[2],
        Some(8.0),
    ));
    report.row(row(
        what,
        "ns",
        Better::Lower,
        ns[0],
        "core::decide in words",
        ns[1],
        None,
    ));
    Ok(())
}

fn in_words(built: &Built, life: &Life, inputs: &Inputs) -> bool {
    let view = View::new(&life.state, &built.bundle.rules);
    let wake = decide::evaluate(view, Action::Wake, inputs.clone());
    wake.outcome == Outcome::Permit
        && decide::evaluate_as_if_awake(view, Action::Admit, inputs.clone()).outcome == Outcome::Permit
}

fn by_rego(rego: &mut regorus::Engine, document: &regorus::Value) -> bool {
    let yes = regorus::Value::Bool(true);
    rego.set_input(document.clone());
    rego.eval_rule("data.s.wake".to_owned()).unwrap() == yes
        && rego.eval_rule("data.s.admit".to_owned()).unwrap() == yes
}

/// All give the same answer, and not always the same one.
fn agree(
    built: &Built,
    sleepers: &Sleepers,
    whole: &[Life],
    proposals: &[Inputs],
    documents: &[regorus::Value],
    rego: &mut regorus::Engine,
) -> Result<()> {
    let (mut permitted, mut documents) = (0, documents.iter());
    for life in whole {
        let known = Sleepers::new(usize::MAX);
        known.keep(&life.state, &built.bundle, NOW, 0)?;
        let object = life.state.head().object;
        for inputs in proposals {
            let quick = matches!(
                known.evaluate_quick(object, &mut inputs.clone(), reading()),
                QuickDecision::Permit(_)
            );
            let (words, theirs) = (
                in_words(built, life, inputs),
                by_rego(rego, documents.next().unwrap()),
            );
            if quick != words || quick != theirs {
                return Err(format!("{inputs:?}: door {quick}, core {words}, regorus {theirs}").into());
            }
            permitted += usize::from(quick);
        }
    }
    let all = whole.len() * proposals.len();
    if sleepers.is_empty() || permitted * 20 < all || permitted * 20 > all * 19 {
        return Err(format!("{permitted} of {all} permitted: the bench has gone dull").into());
    }
    Ok(())
}

fn door(depot: &Memory) -> Arc<Door> {
    let limits = Limits {
        // Nothing changes here: looks are not part of what is measured.
        fresh_for: Duration::from_secs(3_600),
        ..Limits::default()
    };
    let clock = Arc::new(reading);
    let depot: Arc<dyn Depot> = Arc::new(depot.clone());
    let waker = Box::new(Elsewhere);
    let trust = Trust::Mark;
    Arc::new(Door::with_waker(
        depot,
        waker,
        limits,
        trust,
        &Location::default(),
        clock,
        None,
    ))
}

async fn publish(depot: &Memory, built: &Built, life: &Life) -> Result<()> {
    let head = life.state.head();
    let mark = Mark {
        v: suijuris_core::witness::VERSION,
        object: head.object,
        epoch: head.epoch,
        seq: head.seq,
        head: head.record,
        holder: None,
    };
    depot.swap(&mark, None).await?;
    depot.put_bundle(built.bundle.id(), &built.bytes).await?;
    depot.announce(head.object, &life.announcement(), None).await?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn load(built: &Built, count: usize, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let depot = Memory::new();
    let mut floor = Duration::ZERO;
    for i in 0..count {
        let life = object(built, i);
        runtime.block_on(publish(&depot, built, &life))?;
        if i < 2_000.min(count) {
            let (announcement, schema) = (life.announcement(), Arc::clone(built.bundle.schema()));
            let began = Instant::now();
            Announcement::open(&announcement, &move |_: &suijuris_core::BundleId| {
                Some(Arc::clone(&schema))
            })?;
            floor += began.elapsed();
        }
    }
    let door = door(&depot);
    let began = Instant::now();
    let loaded = runtime.block_on(door.preload())?;
    let seconds = began.elapsed().as_secs_f64();
    if loaded != count {
        return Err(format!("{loaded} of {count} were loaded").into());
    }
    let each = floor.as_secs_f64() / 2_000.min(count) as f64 * count as f64;
    let what = format!("load and verify {count} heads, one thread");
    report.row(row(
        &what,
        "s",
        Better::Lower,
        seconds,
        "verifying alone",
        each,
        None,
    ));
    Ok(())
}

fn over_http(built: &Built, settings: &Settings, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let depot = Memory::new();
    // Suspended: nothing may wake it.
    let life = object(built, 6);
    let refused = life.state.head().object;
    runtime.block_on(publish(&depot, built, &life))?;
    let address = web::serve(door(&depot))?;
    let nginx = web::Nginx::start()?;
    let mut clients = [
        web::Client::of_door(address, refused, 503)?,
        web::Client::of_nginx(nginx.address())?,
    ];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=settings.scale(ROUNDS) {
        for (client, times) in clients.iter_mut().zip(&mut times) {
            for _ in 0..settings.scale(ASKED) {
                let us = client.ask()?;
                if round > 0 {
                    times.push(us);
                }
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let at = |times: &[f64], percent: usize| times[(times.len() - 1) * percent / 100];
    let peer = "nginx, auth_request to its own 200";
    for (percent, budget) in [(50, None), (99, None)] {
        let what = format!("refusal over HTTP with words, one kept connection, p{percent}");
        let (ours, theirs) = (at(&times[0], percent), at(&times[1], percent));
        report.row(row(&what, "µs", Better::Lower, ours, peer, theirs, budget));
    }
    let what = "refusal over HTTP, p99";
    report.row(row(
        what,
        "µs",
        Better::Lower,
        at(&times[0], 99),
        "budget",
        1_000.0,
        Some(1.0),
    ));
    report.note("zero machines started: the waker of this bench cannot start any".to_owned());
    Ok(())
}
