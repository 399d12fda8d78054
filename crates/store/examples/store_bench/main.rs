//! What durability costs: appends beside raw writes, SQLite and redb in the same run; reopening and verifying 100,000
//! records; the identity after a mutation. The directory to work in is the argument, else the current one; it must be on
//! a real disk. With `--child DIR` it appends until killed, for the kill -9 at the end.
#![expect(clippy::print_stdout, reason = "the child's lines are read by its parent")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use suijuris_core::governance::{Action, Listing, Program};
use suijuris_core::id::{BlobId, BundleId};
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Decision, Inception, Mutated, Outcome, State, Unsealed, Woke};
use suijuris_core::manifest::{Gate, Manifest, Network, Protocol, Ready, SleepMode, Witness, Workload};
use suijuris_core::memory::{Field, Kind, Name, Schema, Value, Write};
use suijuris_core::time::{Span, Timestamp};
use suijuris_store::frame::FRAME_BYTES;
use suijuris_store::{
    BundleFiles, Depth, Draft, Founding, Home, Reader, Sign, Sizes, StageError, Writer, found,
};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Samples, Settings, interleave, process_cpu};

type Outcomes<T> = Result<T, Box<dyn Error>>;

/// Writers that share a group: as many tasks as a runtime's event loop serves.
const WRITERS: usize = 64;

fn schema(fields: usize) -> Outcomes<Schema> {
    let field = |n| Ok((Name::new(format!("field{n:04}"))?, Field::new(Kind::INT)));
    let fields: Outcomes<BTreeMap<_, _>> = (0..fields).map(field).collect();
    Ok(Schema::try_from(fields?)?)
}

fn bundle() -> Outcomes<BundleFiles> {
    let none = Listing {
        version: Listing::VERSION,
        rules: vec![],
        nodes: vec![],
        bodies: vec![],
        groups: vec![],
    };
    let program = Program::new(none)?.encode()?;
    let governance = b"// nothing is permitted\n".to_vec();
    let manifest = Manifest {
        v: 1,
        name: "bench".to_owned(),
        workload: Workload {
            image: None,
            argv: vec!["true".to_owned()],
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            port: 0,
            ready: Ready::Spawned,
            ready_within: Span(1_000),
            stop_signal: 15,
            stop_within: Span(1_000),
            network: Network::Private,
        },
        gate: Gate {
            protocol: Protocol::Tcp,
            headers: vec![],
            max_held: 16,
            hold: Span(1_000),
            max_connections: 16,
            drain: Span(1_000),
            linger: Span(1_000),
        },
        memory: schema(10)?,
        governance: BlobId::of(&governance),
        program: BlobId::of(&program),
        triggers: suijuris_core::trigger::Triggers::default(),
        callers: vec![],
        claims: BTreeMap::new(),
        sleep: SleepMode::Stop,
        witness: Witness::Optional,
        seal_within: Span(1_000),
    };
    Ok(BundleFiles {
        manifest: manifest.encode()?,
        governance,
        program,
    })
}

fn mutation(fields: usize, n: usize) -> Outcomes<Draft> {
    let name = Name::new(format!("field{:04}", n % fields))?;
    let change = [(name, Write::Set(Value::Int(i64::try_from(n)?)))].into();
    Ok(Draft {
        body: Body::Mutated(Mutated {
            by: "workload".to_owned(),
            change,
        }),
        at: Timestamp(2_000),
        bundle: None,
        sign: Sign::Later,
    })
}

fn wake(writer: &Writer, seed: u8) -> Outcomes<()> {
    if writer.published().head().key.is_some() {
        let (mutations, sealed) = writer.staged(|state| (state.head().uncovered(), state.head().sealed));
        let body = Body::Unsealed(Unsealed { mutations, sealed });
        writer
            .stage(Draft {
                body,
                at: Timestamp(2_000),
                bundle: None,
                sign: Sign::Now,
            })?
            .wait()?;
    }
    let decision = Decision {
        action: Action::Wake,
        outcome: Outcome::Permit,
        explanation: None,
        inputs: Inputs::timeless(Principal::Workload),
    };
    let body = |_: &State, next| {
        Ok::<_, StageError>(Body::Woke(Box::new(Woke {
            decision,
            next,
            fired: BTreeMap::new(),
        })))
    };
    writer.wake(&[seed; 32], Timestamp(2_000), body)?;
    Ok(())
}

fn object(path: &Path) -> Outcomes<Writer> {
    let home = Home::at(path);
    let founding = Founding {
        name: "bench".to_owned(),
        controllers: vec![SecretKey::from_seed(&[9; 32]).public()],
        threshold: 1,
        nonce: vec![0; 16],
        parent: None,
        at: Timestamp(1_000),
        bundle: bundle()?,
        seed: [1; 32].into(),
    };
    found(&home, founding)?;
    let (writer, _) = Writer::open(&home, Depth::Tail, Sizes::default())?;
    wake(&writer, 2)?;
    Ok(writer)
}

/// Appends `count` records in groups of `group`; microseconds a group.
fn ours(writer: &Writer, count: usize, group: usize) -> Outcomes<f64> {
    timed(count / group, |round| {
        let mut last = None;
        for n in 0..group {
            last = Some(writer.stage(mutation(10, round + n)?)?);
        }
        Ok(last.map_or(Ok(()), |ticket| ticket.wait())?)
    })
}

/// Size of one framed mutation.
fn record_bytes(writer: &Writer) -> Outcomes<usize> {
    let ticket = writer.stage(mutation(10, 1_000_000)?)?;
    ticket.wait()?;
    let reader = Reader::open(writer.home(), Depth::Tail)?;
    let stored = reader.find(&ticket.id())?.ok_or("the record is not found")?;
    Ok(FRAME_BYTES + stored.bytes.len())
}

struct Raw {
    file: File,
    at: u64,
    allocated: u64,
    record_bytes: usize,
}

impl Raw {
    fn new(path: &Path, bytes: usize, record_bytes: usize) -> Outcomes<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let zeros = vec![0; 1 << 20];
        let allocated = bytes.next_multiple_of(1 << 20) as u64;
        for at in (0..allocated).step_by(1 << 20) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_data()?;
        Ok(Self {
            file,
            at: 0,
            allocated,
            record_bytes,
        })
    }

    fn append(&mut self, count: usize, group: usize) -> Outcomes<f64> {
        let bytes = vec![7; self.record_bytes * group];
        timed(count / group, |_| {
            if self.at + bytes.len() as u64 > self.allocated {
                self.at = 0;
            }
            self.file.write_all_at(&bytes, self.at)?;
            self.at += bytes.len() as u64;
            Ok(self.file.sync_data()?)
        })
    }
}

fn sqlite(path: &Path, record_bytes: usize, count: usize, group: usize) -> Outcomes<f64> {
    let mut db = rusqlite::Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute(
        "CREATE TABLE IF NOT EXISTS r (seq INTEGER PRIMARY KEY, bytes BLOB)",
        (),
    )?;
    let bytes = vec![7_u8; record_bytes];
    timed(count / group, |_| {
        let all = db.transaction()?;
        for _ in 0..group {
            all.prepare_cached("INSERT INTO r (bytes) VALUES (?1)")?
                .execute((&bytes,))?;
        }
        Ok(all.commit()?)
    })
}

fn redb(
    db: &redb::Database,
    next: &mut u64,
    record_bytes: usize,
    count: usize,
    group: usize,
) -> Outcomes<f64> {
    const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("r");
    let bytes = vec![7_u8; record_bytes];
    timed(count / group, |_| {
        let all = db.begin_write()?;
        {
            let mut table = all.open_table(TABLE)?;
            for _ in 0..group {
                *next += 1;
                table.insert(*next, bytes.as_slice())?;
            }
        }
        Ok(all.commit()?)
    })
}

/// Median duration of `run`, µs.
fn timed(rounds: usize, mut run: impl FnMut(usize) -> Outcomes<()>) -> Outcomes<f64> {
    let mut took = Vec::with_capacity(rounds);
    for round in 0..rounds.max(1) {
        let start = Instant::now();
        run(round)?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took.get(took.len() / 2).copied().unwrap_or(f64::NAN))
}

fn look<T>(opened: Result<T, suijuris_store::OpenError>) -> Outcomes<()> {
    black_box(opened?);
    Ok(())
}

fn or_nan(result: Outcomes<f64>) -> f64 {
    result.unwrap_or(f64::NAN)
}

fn row(what: &str, unit: &'static str, ours: f64, peer: &str, theirs: f64, budget: Option<f64>) -> Row {
    let what = what.to_owned();
    Row {
        what,
        unit,
        better: Better::Lower,
        ours,
        peer: peer.to_owned(),
        theirs,
        budget,
    }
}

fn appends(dir: &Path, settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let rounds = settings.scale(30);
    let writer = object(&dir.join("object"))?;
    let record_bytes = record_bytes(&writer)?;
    report.note(format!(
        "a framed mutation has {record_bytes} bytes; the peers write as many"
    ));
    let mut raw = Raw::new(&dir.join("raw"), 64 << 20, record_bytes)?;
    let db = redb::Database::create(dir.join("redb"))?;
    let mut next = 0;
    for group in [1, WRITERS] {
        let count = 40 * group;
        let samples = interleave(
            rounds,
            &mut [
                Contender::new("store", || or_nan(ours(&writer, count, group))),
                Contender::new("raw write + fdatasync", || or_nan(raw.append(count, group))),
                Contender::new("SQLite FULL/WAL", || {
                    or_nan(sqlite(&dir.join("sqlite"), record_bytes, count, group))
                }),
                Contender::new("redb", || {
                    or_nan(redb(&db, &mut next, record_bytes, count, group))
                }),
            ],
        );
        let what = format!("durable append, {group} at once");
        if let [first, peers @ ..] = samples.as_slice() {
            for (peer, budget) in peers.iter().zip([Some(0.9), Some(1.0), Some(1.0)]) {
                report.row(row(
                    &what,
                    "µs",
                    first.median(),
                    &peer.name,
                    peer.median(),
                    budget,
                ));
            }
            let rate = |samples: &Samples| 1e6 * group as f64 / samples.median();
            let spread = format!(
                "{group} at once: {:.0} records/s, p99 of the rounds {:.0} µs",
                rate(first),
                first.at(99)
            );
            report.note(spread);
        }
        let me = std::process::id();
        let cpu = |run: &mut dyn FnMut() -> Outcomes<f64>| -> Outcomes<f64> {
            let start = process_cpu(me)?;
            for _ in 0..rounds {
                run()?;
            }
            Ok((process_cpu(me)? - start).as_secs_f64() * 1e6 / (rounds * count) as f64)
        };
        let our_cpu = cpu(&mut || ours(&writer, count, group))?;
        let raw_cpu = cpu(&mut || raw.append(count, group))?;
        report.row(row(
            &format!("CPU a record, {group} at once"),
            "µs",
            our_cpu,
            "raw write + fdatasync",
            raw_cpu,
            Some(1.0 / 1.2),
        ));
    }
    Ok(writer.close()?)
}

fn reopening(dir: &Path, settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let path = dir.join("long");
    let writer = object(&path)?;
    let records = settings.scale(100_000);
    for n in 0..records {
        let ticket = writer.stage(mutation(10, n)?)?;
        if n % 1_000 == 999 {
            ticket.wait()?;
        }
    }
    writer.close()?;
    let home = Home::at(&path);
    let tail = timed(settings.scale(200), |_| look(Reader::open(&home, Depth::Tail)))?;
    report.row(row(
        &format!("reopen, {records} records, checkpoint"),
        "µs",
        tail,
        "budget",
        1_000.0,
        Some(1.0),
    ));
    let write = timed(settings.scale(50), |_| {
        look(Writer::open(&home, Depth::Tail, Sizes::default()))
    })?;
    report.row(row(
        &format!("reopen for writing, {records} records"),
        "µs",
        write,
        "budget",
        1_000.0,
        Some(1.0),
    ));
    let whole = timed(3, |_| look(Reader::verify(&home, |_| {})))?;
    report.note(format!(
        "full verify of {records} records: {:.0} ms",
        whole / 1_000.0
    ));
    Ok(())
}

fn identity(settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let schema = Arc::new(schema(1_000)?);
    let key = SecretKey::from_seed(&[1; 32]);
    let woken = SecretKey::from_seed(&[2; 32]);
    let id = BundleId::of(b"bench");
    let inception = Inception {
        name: "bench".to_owned(),
        controllers: vec![key.public()],
        threshold: 1,
        next: key.public().commitment(),
        nonce: vec![0; 16],
        parent: None,
    };
    let (mut state, _) = State::found(inception, Timestamp(0), id, Arc::clone(&schema), &key)?;
    let bundles = |_: &BundleId| Some(Arc::clone(&schema));
    let decision = Decision {
        action: Action::Wake,
        outcome: Outcome::Permit,
        explanation: None,
        inputs: Inputs::timeless(Principal::Workload),
    };
    let woke = Woke {
        decision,
        next: woken.public().commitment(),
        fired: BTreeMap::new(),
    };
    state.extend(
        Body::Woke(Box::new(woke)),
        Timestamp(0),
        None,
        Some(&key),
        &bundles,
    )?;
    let batch = 1_000;
    let drafts: Vec<Draft> = (0..batch).map(|n| mutation(1_000, n)).collect::<Outcomes<_>>()?;
    let took = timed(settings.scale(100), |_| {
        for draft in &drafts {
            black_box(state.extend(draft.body.clone(), draft.at, None, None, &bundles)?);
        }
        Ok(())
    })?;
    let each = took / batch as f64;
    report.row(row(
        "mutate + root + chain, 1,000 fields, before fsync",
        "µs",
        each,
        "budget",
        2.0,
        Some(1.0),
    ));
    Ok(())
}

fn append_until_killed(path: &Path) -> Outcomes<()> {
    let (writer, _) = Writer::open(&Home::at(path), Depth::Tail, Sizes::default())?;
    wake(&writer, 77)?;
    for n in 0.. {
        let ticket = writer.stage(mutation(10, n)?)?;
        ticket.wait()?;
        println!("{}", ticket.seq());
    }
    Ok(())
}

fn kill_and_verify(dir: &Path, report: &mut Report) -> Outcomes<()> {
    let path = dir.join("long");
    let mut child = Command::new(std::env::current_exe()?)
        .args([Path::new("--child"), &path])
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
    let found = Reader::verify(&Home::at(&path), |_| {})?.state().head().seq;
    if found < acknowledged {
        return Err(format!("record {acknowledged} was acknowledged, the history ends at {found}").into());
    }
    report.note(format!(
        "killed after record {acknowledged} was acknowledged: verified up to {found}"
    ));
    Ok(())
}

fn main() -> Outcomes<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [flag, path] = arguments.as_slice()
        && flag == "--child"
    {
        return append_until_killed(Path::new(path));
    }
    let settings = Settings::from_env();
    let base = arguments
        .first()
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let mut report = Report::new("store", &settings);
    appends(dir.path(), &settings, &mut report)?;
    reopening(dir.path(), &settings, &mut report)?;
    kill_and_verify(dir.path(), &mut report)?;
    identity(&settings, &mut report)?;
    Ok(report.publish(&settings)?)
}
