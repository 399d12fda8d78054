//! What it costs to put an object into one file and to make one of it, beside `tar` and a copy of the directory in the
//! same run; and how fast a history is verified. The directory to work in is the argument, else the current one; it must
//! be on a real disk.

#[path = "../tests/it/object.rs"]
mod object;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use suijuris_core::governance::Action;
use suijuris_core::id::Digest;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Mutated, Seal, Woke};
use suijuris_core::memory::{Field, Kind, Name, Schema, Value, Write};
use suijuris_core::time::Timestamp;
use suijuris_store::capsule::{export, import, verify};
use suijuris_store::{
    BundleFiles, Creation, Depth, Draft, ObjectDir, Reader, Sign, Sizes, StageError, Writer, create,
};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Samples, Settings, interleave};

type Outcomes<T> = Result<T, Box<dyn Error>>;

/// Mutations that one signature covers, as with a seal each second under some load.
const SEAL_EVERY: usize = 64;

fn bundle() -> Outcomes<BundleFiles> {
    let fields: BTreeMap<_, _> = [(Name::new("note")?, Field::new(Kind::String))].into();
    object::bundle_of("bench", Schema::try_from(fields)?)
}

fn draft(body: Body, sign: Sign) -> Draft {
    Draft {
        body,
        at: Timestamp(2_000),
        bundle: None,
        sign,
    }
}

/// An object with so many mutations that write `value_bytes` each.
fn object(path: &Path, mutations: usize, value_bytes: usize) -> Outcomes<ObjectDir> {
    let object_dir = ObjectDir::at(path);
    let creation = Creation {
        name: "bench".to_owned(),
        controllers: vec![SecretKey::from_seed(&[9; 32]).public()],
        threshold: 1,
        nonce: vec![1; 16],
        parent: None,
        class: None,
        at: Timestamp(1_000),
        bundle: bundle()?,
        seed: [1; 32].into(),
    };
    create(&object_dir, creation)?;
    let (writer, _) = Writer::open(&object_dir, Depth::Tail, Sizes::default())?;
    let decision = object::decision(Action::Wake);
    let fired = BTreeMap::new();
    writer.wake::<StageError>(&[2; 32], Timestamp(2_000), |_, next| {
        Ok(Body::Woke(Box::new(Woke {
            decision,
            next,
            fired,
        })))
    })?;
    for n in 0..mutations {
        let value = format!("{n:>value_bytes$}");
        let change = [(Name::new("note")?, Write::Set(Value::String(value)))].into();
        let by = "workload".to_owned();
        let mut ticket = writer.stage(draft(
            Body::Mutated(Mutated {
                by,
                principal: None,
                change,
            }),
            Sign::Later,
        ))?;
        if n % SEAL_EVERY == SEAL_EVERY - 1 {
            ticket = writer.stage(draft(Body::Seal(Seal::default()), Sign::Now))?;
        }
        if n % 1_024 == 1_023 {
            ticket.wait()?;
        }
    }
    writer.close()?;
    Ok(object_dir)
}

/// Copies a directory with everything in it, synced: what an import has to write, without looking at it.
fn copy_synced(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_synced(&entry.path(), &there)?;
        } else {
            fs::copy(entry.path(), &there)?;
            File::open(&there)?.sync_all()?;
        }
    }
    File::open(to)?.sync_all()
}

fn tar(dir: &Path, object: &str, out: &Path) -> Outcomes<()> {
    let status = Command::new("tar")
        .arg("-C")
        .arg(dir)
        .arg("-cf")
        .arg(out)
        .arg(object)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err("tar failed".into())
    }
}

/// Megabytes a second of `bytes`; not a number where `run` fails, which spoils the row for all to see.
fn rate(bytes: u64, run: impl FnOnce() -> Outcomes<()>) -> f64 {
    let start = Instant::now();
    match run() {
        Ok(()) => bytes as f64 / 1e6 / start.elapsed().as_secs_f64(),
        Err(_) => f64::NAN,
    }
}

fn rows(report: &mut Report, what: &str, unit: &'static str, samples: &[Samples]) {
    let [ours, peers @ ..] = samples else { return };
    for peer in peers {
        report.row(Row {
            what: what.to_owned(),
            unit,
            better: Better::Higher,
            ours: ours.median(),
            peer: peer.name.clone(),
            theirs: peer.median(),
            budget: None,
        });
    }
}

fn exports(dir: &Path, object_dir: &ObjectDir, bytes: u64, rounds: usize, report: &mut Report) {
    let (capsule, archive) = (dir.join("object.sui"), dir.join("object.tar"));
    let ours = || {
        let reader = Reader::open(object_dir, Depth::Tail)?;
        let file = File::create(&capsule)?;
        export(&reader, &file, None, |_| {})?;
        Ok(())
    };
    let samples = interleave(
        rounds,
        &mut [
            Contender::new("capsule", || rate(bytes, ours)),
            Contender::new("tar", || rate(bytes, || tar(dir, "object", &archive))),
        ],
    );
    rows(report, "export", "MB/s", &samples);
}

fn imports(dir: &Path, object_dir: &ObjectDir, bytes: u64, rounds: usize, report: &mut Report) {
    let (capsule, copy, plain) = (dir.join("object.sui"), dir.join("copy"), dir.join("plain"));
    let ours = || {
        let keyless = |_: Option<&[u8]>| Ok::<_, Infallible>(None);
        import(
            File::open(&capsule)?,
            &ObjectDir::at(&copy),
            Sizes::default(),
            keyless,
            |_| {},
        )?;
        Ok(())
    };
    let gone = |path: &Path| fs::remove_dir_all(path).is_ok();
    let samples = interleave(
        rounds,
        &mut [
            Contender::new("capsule", || {
                let _first_has_none = gone(&copy);
                rate(bytes, ours)
            }),
            Contender::new("copy of the directory, synced", || {
                let _first_has_none = gone(&plain);
                rate(bytes, || Ok(copy_synced(object_dir.path(), &plain)?))
            }),
        ],
    );
    rows(report, "import, every signature verified", "MB/s", &samples);
}

fn verifications(dir: &Path, object_dir: &ObjectDir, records: u64, rounds: usize, report: &mut Report) {
    let capsule = dir.join("object.sui");
    let each = |run: &dyn Fn() -> Outcomes<()>| {
        let start = Instant::now();
        match run() {
            Ok(()) => records as f64 / start.elapsed().as_secs_f64(),
            Err(_) => f64::NAN,
        }
    };
    let samples = interleave(
        rounds,
        &mut [
            Contender::new("capsule", || {
                each(&|| {
                    verify(File::open(&capsule)?, |_| {})?;
                    Ok(())
                })
            }),
            Contender::new("directory", || {
                each(&|| {
                    Reader::verify(object_dir, |_| {})?;
                    Ok(())
                })
            }),
            Contender::new("SHA-256 of the file alone", || {
                each(&|| {
                    let mut bytes = Vec::new();
                    File::open(&capsule)?.read_to_end(&mut bytes)?;
                    std::hint::black_box(Digest::of(&bytes));
                    Ok(())
                })
            }),
        ],
    );
    rows(report, "verify", "records/s", &samples);
}

/// The most memory this process ever held, MiB.
fn peak_mib() -> Outcomes<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1_024)
}

/// Records of some kilobytes: what is held does not grow with the history.
fn memory(dir: &Path, settings: &Settings, report: &mut Report) -> Outcomes<()> {
    let object_dir = object(&dir.join("large"), settings.scale(16_384), 32 << 10)?;
    let reader = Reader::open(&object_dir, Depth::Tail)?;
    let before = peak_mib()?;
    let path = dir.join("large.sui");
    let exported = export(&reader, File::create(&path)?, None, |_| {})?;
    verify(File::open(&path)?, |_| {})?;
    report.note(format!(
        "a capsule of {} MiB, written and verified: peak memory {before} MiB before, {} MiB after",
        exported.bytes >> 20,
        peak_mib()?
    ));
    Ok(())
}

fn main() -> Outcomes<()> {
    let settings = Settings::from_env();
    let base = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let dir = dir.path();
    let mut report = Report::new("capsule", &settings);
    memory(dir, &settings, &mut report)?;
    let object_dir = object(&dir.join("object"), settings.scale(100_000), 64)?;
    let reader = Reader::open(&object_dir, Depth::Tail)?;
    let exported = export(&reader, io::sink(), None, |_| {})?;
    report.note(format!(
        "{} records, one in {SEAL_EVERY} signed, in a capsule of {:.1} MB; rates count the capsule's bytes for all",
        exported.seq + 1,
        exported.bytes as f64 / 1e6
    ));
    let rounds = settings.scale(10);
    exports(dir, &object_dir, exported.bytes, rounds, &mut report);
    imports(dir, &object_dir, exported.bytes, rounds, &mut report);
    verifications(dir, &object_dir, exported.seq + 1, rounds, &mut report);
    Ok(report.publish(&settings)?)
}
