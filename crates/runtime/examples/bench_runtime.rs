//! The runtime's start, idle memory and size, beside a bare tokio listener that is linked the same way.
//!
//! A start is measured from spawning the program until its line about the matter arrives: for the bare listener that it
//! listens; for `suijuris-init`, whose gate listens before anything else, that the bundle is verified and `wake` is
//! decided. Every start finds the same fresh copy of the object. A start from a standby is measured from its assignment, until when it
//! was told nothing. With `serve PORT` this is the object's workload.

use std::cell::Cell;
use std::error::Error;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use suijuris_guest::assignment::Assignment;
use suijuris_guest::standby;
use suijuris_sys::descriptors;
use suijuris_testkit::bench::{
    Better, Events, Object, Report, Round, Row, Running, Settings, free_port, governed, interleave_many,
    process_cpu, says, server,
};

/// Starts of each.
const ROUNDS: usize = 60;
/// Until a started program has done what it does without being asked.
const SETTLED: Duration = Duration::from_secs(2);
/// Between a standby's word that it is ready and its assignment: it sleeps, as it would for long.
const STANDS_BY: Duration = Duration::from_millis(5);
/// How long it may take to answer.
const ANSWER_MS: i32 = 10_000;
/// Figures of a start: CPU time until `wake` is decided, then times until three steps.
const STEPS: usize = 4;
/// What a standby may take from its assignment until `wake` is decided, µs.
const STANDBY_US: f64 = 300.0;
const INIT: &str = "suijuris-init";
const BARE: &str = "bare-listener";

fn main() -> Result<(), Box<dyn Error>> {
    match server::as_asked() {
        Some(served) => Ok(served?),
        None => measure(&Settings::from_env()),
    }
}

fn measure(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let mut report = Report::new("runtime", settings);
    let object = governed(
        &["serve", "{port}"],
        "network = \"host\"",
        "protocol = \"http\"",
        "true",
    )?;
    object.create()?;
    object.live_once()?;
    starts(&mut report, &object, settings)?;
    memory(&mut report, &object)?;
    size(&mut report)?;
    report.note("both linked statically with the C library that `cargo xtask init` finds: musl, else glibc");
    report.note(
        "a start includes fork and exec; the object has seven rules for `wake` and ten fields of memory",
    );
    report.publish(settings)?;
    Ok(())
}

fn starts(report: &mut Report, object: &Object, settings: &Settings) -> Result<(), Box<dyn Error>> {
    let fresh = object.dir().join("fresh");
    std::fs::rename(object.data(), &fresh)?;
    let failed: Cell<Option<io::Error>> = Cell::new(None);
    let figures = |result: io::Result<[f64; STEPS]>| {
        result.unwrap_or_else(|error| {
            failed.set(Some(error));
            [f64::NAN; STEPS]
        })
    };
    let ours: Round<'_, STEPS> = Box::new(|| figures(ours(object, &fresh)));
    let standby: Round<'_, STEPS> = Box::new(|| figures(from_standby(object, &fresh)));
    let bare: Round<'_, STEPS> = Box::new(|| figures(bare()));
    let samples = interleave_many(
        settings.scale(ROUNDS),
        &mut [("cold start", ours), ("standby", standby), ("bare listener", bare)],
    );
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    let [ours, standby, bare] = samples.as_slice() else {
        return Ok(());
    };
    let steps = [
        "listening, verified, `wake` decided: CPU time",
        "listening, verified, `wake` decided",
        "`woke` durable",
        "workload ready, gate open",
    ];
    for (index, (what, (ours, bare))) in steps.iter().zip(ours.iter().zip(bare)).enumerate() {
        report.row(Row {
            what: format!("exec to {what}"),
            unit: "µs",
            better: Better::Lower,
            ours: ours.median(),
            peer: bare.name.clone(),
            theirs: bare.median(),
            budget: (index <= 1).then_some(0.5),
        });
    }
    for (index, (what, (standby, cold))) in steps.iter().zip(standby.iter().zip(ours)).enumerate() {
        let mut row = |peer: &str, theirs, budget| {
            report.row(Row {
                what: format!("standby assigned to {what}"),
                unit: "µs",
                better: Better::Lower,
                ours: standby.median(),
                peer: peer.to_owned(),
                theirs,
                budget,
            });
        };
        row(&cold.name, cold.median(), None);
        if index == 1 {
            row("budget", STANDBY_US, Some(1.0));
        }
    }
    Ok(())
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

/// One start of the runtime on a fresh copy of the object.
fn ours(object: &Object, fresh: &Path) -> io::Result<[f64; STEPS]> {
    if object.data().exists() {
        std::fs::remove_dir_all(object.data())?;
    }
    copy(fresh, &object.data())?;
    let port = free_port()?;
    let begin = Instant::now();
    let (running, mut events) = object.init(port)?;
    let mut step = |wanted: fn(&serde_json::Value) -> bool| {
        events.until(wanted)?;
        Ok::<_, io::Error>(micros(begin))
    };
    let decided = step(|event| says(event, "/event/event", "verdict"))?;
    let spent = process_cpu(running.pid())?.as_secs_f64() * 1e6;
    Ok([
        spent,
        decided,
        step(|event| says(event, "/event/event", "woke"))?,
        step(|event| says(event, "/event/step", "serve"))?,
    ])
}

/// The same of a runtime that stood by.
fn from_standby(object: &Object, fresh: &Path) -> io::Result<[f64; STEPS]> {
    if object.data().exists() {
        std::fs::remove_dir_all(object.data())?;
    }
    copy(fresh, &object.data())?;
    let cold = object.init_command(Path::new(INIT), free_port()?);
    let (shim, theirs) = standby::pair()?;
    let theirs = descriptors::copy_above(theirs.as_fd(), standby::SOCKET)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut command = Command::new(found(INIT).map_err(|error| io::Error::other(error.to_string()))?);
    command.args(["--standby-fd", &theirs.as_raw_fd().to_string()]);
    let running = Running(command.env_clear().stdin(Stdio::null()).spawn()?);
    drop(theirs);
    descriptors::poll(&[shim.as_fd()], -1)?;
    if !shim.is_ready() {
        return Err(io::Error::other("the runtime does not stand by"));
    }
    std::thread::sleep(STANDS_BY);
    let assignment = assignment(&cold)?;
    let (said, errors) = io::pipe()?;
    let null = descriptors::null()?;
    let before = process_cpu(running.pid())?;
    let begin = Instant::now();
    shim.assign(&assignment, &[null.as_fd(), errors.as_fd()], ANSWER_MS)
        .map_err(io::Error::other)?;
    drop(errors);
    let mut events = Events::of(Some(said))?;
    let mut step = |wanted: fn(&serde_json::Value) -> bool| {
        events.until(wanted)?;
        Ok::<_, io::Error>(micros(begin))
    };
    let decided = step(|event| says(event, "/event/event", "verdict"))?;
    let spent = process_cpu(running.pid())?.saturating_sub(before);
    Ok([
        spent.as_secs_f64() * 1e6,
        decided,
        step(|event| says(event, "/event/event", "woke"))?,
        step(|event| says(event, "/event/step", "serve"))?,
    ])
}

/// What a standby has to be told to become what `command` starts.
fn assignment(command: &Command) -> io::Result<Assignment> {
    let word = |word: &OsStr| CString::new(word.as_bytes());
    let argv = [command.get_program()].into_iter().chain(command.get_args());
    let env = command.get_envs().filter_map(|(name, value)| {
        let whole = [name.as_bytes(), b"=", value?.as_bytes()].concat();
        Some(CString::new(whole))
    });
    // Of its own environment, the search path alone.
    let path = std::env::var_os("PATH").map(|path| CString::new([b"PATH=", path.as_bytes()].concat()));
    Ok(Assignment {
        argv: argv.map(word).collect::<Result<_, _>>()?,
        env: env.chain(path).collect::<Result<_, _>>()?,
        cwd: c"/".to_owned(),
        may_mount: true,
        ..Assignment::default()
    })
}

fn bare() -> io::Result<[f64; STEPS]> {
    let port = free_port()?;
    let begin = Instant::now();
    let running = start_bare(port)?;
    let took = micros(begin);
    let spent = process_cpu(running.pid())?.as_secs_f64() * 1e6;
    Ok([spent, took, took, took])
}

fn start_bare(port: u16) -> io::Result<Running> {
    let mut command = Command::new(BARE);
    command
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut running = Running(command.spawn()?);
    Events::of(running.0.stderr.take())?.until(|event| event.get("listening").is_some())?;
    Ok(running)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()? {
            kind if kind.is_dir() => copy(&from, &to)?,
            kind if kind.is_file() => std::fs::copy(&from, &to).map(drop)?,
            _ => {}
        }
    }
    Ok(())
}

/// Resident memory of the idle programs.
fn memory(report: &mut Report, object: &Object) -> Result<(), Box<dyn Error>> {
    let (running, mut events) = object.init(free_port()?)?;
    events.until(|event| says(event, "/event/step", "serve"))?;
    events.drain();
    let bare = start_bare(free_port()?)?;
    std::thread::sleep(SETTLED);
    let rows = [
        ("VmRSS:", "idle, resident", Some(3.0)),
        ("RssAnon:", "idle, of that its own data", None),
    ];
    for (field, what, budget_mib) in rows {
        let (ours, theirs) = (status_mib(running.pid(), field)?, status_mib(bare.pid(), field)?);
        let mut row = |peer: &str, theirs, budget| {
            report.row(Row {
                what: what.to_owned(),
                unit: "MiB",
                better: Better::Lower,
                ours,
                peer: peer.to_owned(),
                theirs,
                budget,
            });
        };
        row("bare listener", theirs, None);
        if let Some(budget) = budget_mib {
            row("budget", budget, Some(1.0));
        }
    }
    Ok(())
}

/// A size of `/proc/PID/status`, MiB.
fn status_mib(pid: u32, field: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.ok_or("no such field")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<f64>()? / 1024.0)
}

fn size(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let mib = |program: &str| -> Result<f64, Box<dyn Error>> {
        let bytes = std::fs::metadata(found(program)?)?.len();
        Ok(f64::from(u32::try_from(bytes)?) / f64::from(1 << 20))
    };
    report.row(Row {
        what: "size of the program".to_owned(),
        unit: "MiB",
        better: Better::Lower,
        ours: mib(INIT)?,
        peer: "bare listener".to_owned(),
        theirs: mib(BARE)?,
        budget: None,
    });
    Ok(())
}

fn found(program: &str) -> Result<PathBuf, Box<dyn Error>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(program));
    Ok(candidates
        .find(|path| path.is_file())
        .ok_or("a program is not in PATH")?)
}
