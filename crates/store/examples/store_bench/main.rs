//! What durability costs: appends beside raw writes, SQLite and redb in the same run, by one writer and by 64; reopening
//! and verifying 100,000 records, also after kill -9; the identity after a mutation.
//!
//! `store_bench [DIR [PART…]]`: the directory to work in, the current one where none is named, must be on a real disk;
//! parts are `appends`, `writers`, `reopen` (with the kill) and `identity`, all where none is named. `--child DIR` appends
//! until killed: the program runs itself so. `--mutations N` makes N records in memory, in thousands, for a profiler.
#![expect(clippy::print_stdout, reason = "the child's lines are read by its parent")]

#[path = "../../tests/it/object.rs"]
mod object;
mod ours;
mod peers;

use std::cell::RefCell;
use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use suijuris_core::governance::Action;
use suijuris_core::id::BundleId;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Bundles, Inception, State, Woke};
use suijuris_core::time::Timestamp;
use suijuris_store::{Depth, ObjectDir, Reader, Sizes, Writer};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Settings, interleave, thread_cpu};

use crate::ours::{FIELDS, Ours, Shared, mutation, object, record_bytes, schema, wake};
use crate::peers::{Append, Grouped, Peer, Raw, Redb, Sqlite};

type Outcomes<T> = Result<T, Box<dyn Error>>;

/// Writers at once: as many tasks as a runtime's event loop serves.
const WRITERS: usize = 64;
/// Space that the raw file has; it begins again at its end.
const RAW_BYTES: u64 = 64 << 20;
/// Asked of ours against each peer.
const PEERS: [(&str, f64); 3] = [
    ("raw write + fdatasync", 0.9),
    ("SQLite FULL/WAL", 1.0),
    ("redb", 1.0),
];

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Median duration of `run`, µs.
fn timed(rounds: usize, mut run: impl FnMut() -> Outcomes<()>) -> Outcomes<f64> {
    let once = |_| {
        let start = Instant::now();
        run()?;
        Ok(microseconds(start.elapsed()))
    };
    Ok(median((0..rounds.max(1)).map(once).collect::<Outcomes<_>>()?))
}

fn look<T>(opened: Result<T, suijuris_store::OpenError>) -> Outcomes<()> {
    black_box(opened?);
    Ok(())
}

fn row(what: &str, unit: &'static str, ours: f64, peer: &str, theirs: f64, budget: Option<f64>) -> Row {
    Row {
        what: what.to_owned(),
        unit,
        better: Better::Lower,
        ours,
        peer: peer.to_owned(),
        theirs,
        budget,
    }
}

/// What one contender took: wall time by the rounds of `interleave`, CPU time here.
struct Measured<'a> {
    name: &'a str,
    run: Box<dyn FnMut() -> Outcomes<(f64, f64)> + 'a>,
}

/// Medians of (wall, CPU) by contender.
fn measure(rounds: usize, contenders: Vec<Measured<'_>>) -> Vec<(String, f64, f64)> {
    let cpu: Vec<_> = contenders.iter().map(|_| RefCell::new(Vec::new())).collect();
    let mut running: Vec<_> = contenders
        .into_iter()
        .zip(&cpu)
        .map(|(mut contender, cpu)| {
            Contender::new(contender.name, move || {
                let (wall, used) = (contender.run)().unwrap_or((f64::NAN, f64::NAN));
                cpu.borrow_mut().push(used);
                wall
            })
        })
        .collect();
    let samples = interleave(rounds, &mut running);
    drop(running);
    let result = samples.iter().zip(cpu);
    result
        .map(|(samples, cpu)| (samples.name.clone(), samples.median(), median(cpu.into_inner())))
        .collect()
}

fn report_appends(what: &str, measured: &[(String, f64, f64)], report: &mut Report) {
    let [(_, wall, cpu), peers @ ..] = measured else {
        return;
    };
    for ((peer, their_wall, _), (_, budget)) in peers.iter().zip(PEERS) {
        report.row(row(
            &format!("durable append, {what}"),
            "µs",
            *wall,
            peer,
            *their_wall,
            Some(budget),
        ));
    }
    let budgets = [Some(1.0 / 1.2), None, None];
    for ((peer, _, their_cpu), budget) in peers.iter().zip(budgets) {
        report.row(row(
            &format!("CPU a record, {what}"),
            "µs",
            *cpu,
            peer,
            *their_cpu,
            budget,
        ));
    }
}

/// Groups of `group` by one thread: µs a group, CPU µs a record.
fn groups(peer: &mut dyn Peer, count: usize, group: usize) -> Outcomes<(f64, f64)> {
    peer.prepare(count * group)?;
    let cpu = thread_cpu()?;
    let wall = timed(count, || peer.commit(group))?;
    let used = thread_cpu()?.saturating_sub(cpu);
    Ok((wall, microseconds(used) / (count * group) as f64))
}

fn appends(dir: &Path, settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let writer = object(&dir.join("object"))?;
    let bytes = record_bytes(&writer)?;
    report.note(format!(
        "a framed mutation has {bytes} bytes; the peers write as many"
    ));
    let mut peers: [Box<dyn Peer>; 4] = [
        Box::new(Ours::new(&writer)),
        Box::new(Raw::new(&dir.join("raw"), RAW_BYTES, bytes)?),
        Box::new(Sqlite::new(&dir.join("sqlite"), bytes)?),
        Box::new(Redb::new(&dir.join("redb"), bytes)?),
    ];
    for group in [1, WRITERS] {
        let names = ["store"].into_iter().chain(PEERS.map(|(name, _)| name));
        let contenders = peers.iter_mut().zip(names).map(|(peer, name)| Measured {
            name,
            run: Box::new(move || groups(&mut **peer, 20, group)),
        });
        let measured = measure(settings.scale(30), contenders.collect());
        report_appends(&format!("one writer, groups of {group}"), &measured, report);
    }
    drop(peers);
    Ok(writer.close()?)
}

/// `WRITERS` threads that each append `each` records, one after the other: µs and CPU µs a record.
fn crowd(shared: &dyn Append, each: usize) -> Outcomes<(f64, f64)> {
    let barrier = Barrier::new(WRITERS + 1);
    let work = || -> Result<Duration, String> {
        barrier.wait();
        let cpu = thread_cpu().map_err(|error| error.to_string())?;
        for _ in 0..each {
            shared.append().map_err(|error| error.to_string())?;
        }
        let end = thread_cpu().map_err(|error| error.to_string())?;
        Ok(end.saturating_sub(cpu))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(work)).collect();
        barrier.wait();
        let start = Instant::now();
        let mut cpu = Duration::ZERO;
        for thread in threads {
            cpu += thread.join().map_err(|_| "a writer panicked")??;
        }
        let records = (WRITERS * each) as f64;
        Ok((
            microseconds(start.elapsed()) / records,
            microseconds(cpu) / records,
        ))
    })
}

fn writers(dir: &Path, settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let writer = object(&dir.join("crowded"))?;
    let bytes = record_bytes(&writer)?;
    let peers: [Box<dyn Append + '_>; 4] = [
        Box::new(Shared::new(&writer)),
        Box::new(Grouped::new(Raw::new(&dir.join("raw64"), RAW_BYTES, bytes)?)),
        Box::new(Grouped::new(Sqlite::new(&dir.join("sqlite64"), bytes)?)),
        Box::new(Grouped::new(Redb::new(&dir.join("redb64"), bytes)?)),
    ];
    let names = ["store"].into_iter().chain(PEERS.map(|(name, _)| name));
    let contenders = peers.iter().zip(names).map(|(peer, name)| Measured {
        name,
        run: Box::new(move || crowd(&**peer, 20)),
    });
    let measured = measure(settings.scale(15), contenders.collect());
    report_appends(
        &format!("{WRITERS} writers (threads), a record"),
        &measured,
        report,
    );
    for (name, wall, _) in &measured {
        report.note(format!("{WRITERS} writers, {name}: {:.0} records/s", 1e6 / wall));
    }
    drop(peers);
    Ok(writer.close()?)
}

fn reopening(dir: &Path, settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let path = dir.join("long");
    let writer = object(&path)?;
    let records = settings.scale(100_000);
    for n in 0..records {
        let ticket = writer.stage(mutation(FIELDS, n)?)?;
        if n % 1_000 == 999 {
            ticket.wait()?;
        }
    }
    writer.close()?;
    let object_dir = ObjectDir::at(&path);
    let tail = timed(settings.scale(200), || {
        look(Reader::open(&object_dir, Depth::Tail))
    })?;
    let writing = timed(settings.scale(50), || {
        look(Writer::open(&object_dir, Depth::Tail, Sizes::default()))
    })?;
    for (what, took) in [("reopen", tail), ("reopen for writing", writing)] {
        let what = format!("{what}, {records} records");
        report.row(row(&what, "µs", took, "budget", 1_000.0, Some(1.0)));
    }
    let mut cpu = Vec::new();
    let whole = timed(5, || {
        let start = thread_cpu()?;
        look(Reader::verify(&object_dir, |_| {}))?;
        cpu.push(microseconds(thread_cpu()?.saturating_sub(start)));
        Ok(())
    })?;
    report.note(format!(
        "full verify of {records} records: {:.0} ms, {:.0} ms of CPU",
        whole / 1_000.0,
        median(cpu) / 1_000.0
    ));
    kill_and_verify(&path, report)
}

/// A state in memory that is awake, over so many fields, and where it finds its schema.
fn awake(fields: usize) -> Outcomes<(State, impl Bundles)> {
    let schema = Arc::new(schema(fields)?);
    let key = SecretKey::from_seed(&[1; 32]);
    let inception = Inception {
        name: "bench".to_owned(),
        controllers: vec![key.public()],
        threshold: 1,
        next: key.public().commitment(),
        nonce: vec![0; 16],
        parent: None,
        class: None,
        ticket: None,
    };
    let bundle = BundleId::of(b"bench");
    let (mut state, _) = State::create(inception, Timestamp(0), bundle, Arc::clone(&schema), &key)?;
    let bundles = move |_: &BundleId| Some(Arc::clone(&schema));
    let woke = Body::Woke(Box::new(Woke {
        decision: object::decision(Action::Wake),
        next: SecretKey::from_seed(&[2; 32]).public().commitment(),
        fired: std::collections::BTreeMap::new(),
    }));
    state.extend(woke, Timestamp(0), None, Some(&key), &bundles)?;
    Ok((state, bundles))
}

/// Makes so many records in memory; CPU µs for each.
fn mutations(count: usize, rounds: usize) -> Outcomes<f64> {
    let (mut state, bundles) = awake(1_000)?;
    let mut took = Vec::new();
    for _ in 0..rounds {
        let drafts = (0..count)
            .map(|n| mutation(1_000, n))
            .collect::<Outcomes<Vec<_>>>()?;
        let start = thread_cpu()?;
        for draft in drafts {
            black_box(state.extend(draft.body, draft.at, None, None, &bundles)?);
        }
        took.push(microseconds(thread_cpu()?.saturating_sub(start)) / count as f64);
    }
    Ok(median(took))
}

fn identity(settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let each = mutations(1_000, settings.scale(100))?;
    let what = "mutate + root + chain, 1,000 fields, before fsync (CPU)";
    report.row(row(what, "µs", each, "budget", 2.0, Some(1.0)));
    Ok(())
}

fn append_until_killed(path: &Path) -> Outcomes<()> {
    let (writer, _) = Writer::open(&ObjectDir::at(path), Depth::Tail, Sizes::default())?;
    wake(&writer, 77)?;
    for n in 0.. {
        let ticket = writer.stage(mutation(FIELDS, n)?)?;
        ticket.wait()?;
        println!("{}", ticket.seq());
    }
    Ok(())
}

fn kill_and_verify(path: &Path, report: &mut Report) -> Outcomes<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([Path::new("--child"), path])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output of the child")?;
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    let acknowledged = lines
        .take(2_000)
        .last()
        .ok_or("nothing was acknowledged")?
        .parse::<u64>()?;
    child.kill()?;
    child.wait()?;
    let found = Reader::verify(&ObjectDir::at(path), |_| {})?.state().head().seq;
    if found < acknowledged {
        return Err(format!("record {acknowledged} was acknowledged, the history ends at {found}").into());
    }
    report.note(format!(
        "killed by SIGKILL after record {acknowledged} was acknowledged: verified up to {found}"
    ));
    Ok(())
}

fn main() -> Outcomes<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [flag, value] = arguments.as_slice() {
        if flag == "--child" {
            return append_until_killed(Path::new(value));
        }
        if flag == "--mutations" {
            let count: usize = value.to_string_lossy().parse()?;
            black_box(mutations(1_000, count / 1_000)?);
            return Ok(());
        }
    }
    let settings = Settings::from_env();
    let (base, parts) = match arguments.split_first() {
        Some((base, parts)) => (PathBuf::from(base), parts),
        None => (PathBuf::from("."), [].as_slice()),
    };
    let asked = |part: &str| parts.is_empty() || parts.iter().any(|other| other == part);
    let dir = tempfile::tempdir_in(base)?;
    let mut report = Report::new("store", &settings);
    if asked("appends") {
        appends(dir.path(), &settings, &mut report)?;
    }
    if asked("writers") {
        writers(dir.path(), &settings, &mut report)?;
    }
    if asked("reopen") {
        reopening(dir.path(), &settings, &mut report)?;
    }
    if asked("identity") {
        identity(&settings, &mut report)?;
    }
    Ok(report.publish(&settings)?)
}
