//! The runtime's start, idle memory and size, beside a bare tokio listener that is linked the same way.
//!
//! A start is measured from spawning the program until its line about the matter arrives: for the bare listener that it
//! listens; for `suijuris-init`, whose gate listens before anything else, that the bundle is verified and `wake` is
//! decided. Every start finds the same fresh copy of the object. A start from a standby is measured from its assignment, until when it
//! was told nothing, beside a cold one that is told the same. With `serve PORT` this is the object's workload.

use std::cell::Cell;
use std::error::Error;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use suijuris_core::codec;
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_guest::assignment::Assignment;
use suijuris_guest::standby;
use suijuris_link::launch::{Cause, DepotRoute, Launch, Listen, Unattended};
use suijuris_link::{ActivationId, Nonce, Secret, SupervisorLink, ToSupervisor};
use suijuris_store::{ObjectDir, Stamps};
use suijuris_sys::descriptors;
use suijuris_testkit::bench::{
    Better, Events, Object, Report, Round, Row, Running, Settings, free_port, governed, interleave_many,
    process_cpu, says, server,
};
use tokio::task::{JoinSet, LocalSet};

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
    let told: Round<'_, STEPS> = Box::new(|| figures(linked(object, &fresh, false)));
    let standby: Round<'_, STEPS> = Box::new(|| figures(linked(object, &fresh, true)));
    let bare: Round<'_, STEPS> = Box::new(|| figures(bare()));
    let samples = interleave_many(
        settings.scale(ROUNDS),
        &mut [
            ("ours", ours),
            ("verified before, cold", told),
            ("standby", standby),
            ("bare listener", bare),
        ],
    );
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    let [ours, told, standby, bare] = samples.as_slice() else {
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
    // Both as `up` starts them: the files were verified before.
    for (index, (what, (standby, cold))) in steps.iter().zip(standby.iter().zip(told)).enumerate() {
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

/// A start as `up` does it: told over a link, of an object whose files were verified while it slept; of a runtime that stood by,
/// measured from its assignment, or of one that is executed then.
fn linked(object: &Object, fresh: &Path, is_ahead: bool) -> io::Result<[f64; STEPS]> {
    if object.data().exists() {
        std::fs::remove_dir_all(object.data())?;
    }
    copy(fresh, &object.data())?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let launch = launch(object)?;
    LocalSet::new().block_on(&tokio, async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = tokio::net::UnixStream::from_std(ours)?;
        let nonce = Nonce::fresh().map_err(io::Error::other)?;
        let (link, moves) = SupervisorLink::launch(ours, launch, nonce).map_err(io::Error::other)?;
        let mut moving = JoinSet::new();
        moving.spawn_local(moves);
        // What it says waits for it.
        tokio::task::yield_now().await;
        let cold = object.init_command(Path::new(INIT), 0);
        let (running, before, begin) = if is_ahead {
            let (running, shim) = standby()?;
            let before = process_cpu(running.pid())?;
            let (assignment, null) = (assignment(&cold)?, descriptors::null()?);
            let files = [null.as_fd(), null.as_fd(), theirs.as_fd()];
            let begin = Instant::now();
            shim.assign(&assignment, &files, ANSWER_MS)
                .map_err(io::Error::other)?;
            (running, before, begin)
        } else {
            let number = passed_on(theirs.as_fd())?;
            let mut command = Command::new(INIT);
            command.args(["--link-fd", &number.as_raw_fd().to_string()]);
            let begin = Instant::now();
            let running = Running(command.stdin(Stdio::null()).spawn()?);
            (running, Duration::ZERO, begin)
        };
        drop(theirs);
        let decided = told(&link, begin, |event| says(event, "/event/event", "verdict")).await?;
        let spent = process_cpu(running.pid())?.saturating_sub(before);
        Ok([
            spent.as_secs_f64() * 1e6,
            decided,
            told(&link, begin, |event| says(event, "/event/event", "woke")).await?,
            told(&link, begin, |event| says(event, "/event/step", "serve")).await?,
        ])
    })
}

/// Time since `begin` until an event is `wanted`, µs.
async fn told(
    link: &SupervisorLink,
    begin: Instant,
    wanted: impl Fn(&serde_json::Value) -> bool,
) -> io::Result<f64> {
    while let Some(message) = link.receive().await.map_err(io::Error::other)? {
        if let ToSupervisor::Event(event) = message
            && wanted(&serde_json::json!({ "event": event.0 }))
        {
            return Ok(micros(begin));
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// A runtime that stands by, asleep as it would be for long, and the shim's end.
fn standby() -> io::Result<(Running, standby::Standby)> {
    let (shim, theirs) = standby::pair()?;
    let theirs = passed_on(theirs.as_fd())?;
    let program = found(INIT).map_err(|error| io::Error::other(error.to_string()))?;
    let mut command = Command::new(program);
    command.args(["--standby-fd", &theirs.as_raw_fd().to_string()]);
    let running = Running(command.env_clear().stdin(Stdio::null()).spawn()?);
    drop(theirs);
    descriptors::poll(&[shim.as_fd()], -1)?;
    if !shim.is_ready() {
        return Err(io::Error::other("the runtime does not stand by"));
    }
    std::thread::sleep(STANDS_BY);
    Ok((running, shim))
}

/// A copy that the next program inherits, above the numbers that a standby keeps free.
fn passed_on(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let copy = descriptors::copy_above(file, standby::SOCKET)?;
    fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(copy)
}

/// What `up` tells a runtime.
fn launch(object: &Object) -> io::Result<Launch<OwnedFd>> {
    let object_dir = ObjectDir::at(object.data());
    let stamps = Stamps::verify(&object_dir).map_err(io::Error::other)?;
    let vehicle = Vehicle {
        provider: "process",
        class: "",
    };
    Ok(Launch {
        secret: Secret::fresh().map_err(io::Error::other)?,
        activation: ActivationId::fresh().map_err(io::Error::other)?,
        cause: Cause::boot(Host::of(vehicle, None, "")),
        data: object.data(),
        object_dir: object.dir(),
        agent_socket: object.data().join("run/agent.sock"),
        listen: Listen::Descriptor(std::net::TcpListener::bind("127.0.0.1:0")?.into()),
        depot: DepotRoute::None,
        unattended: Unattended::Stop,
        presence: None,
        holder: None,
        granted: false,
        server: None,
        verified: stamps
            .and_then(|stamps| codec::encode(&stamps).ok())
            .map(Into::into),
        served_as: None,
        image: None,
        places: Vec::new(),
        egress: false,
        files: None,
        requests: None,
    })
}

/// What a standby has to be told to become what `up` starts.
fn assignment(cold: &Command) -> io::Result<Assignment> {
    let env = cold.get_envs().filter_map(|(name, value)| {
        let whole = [name.as_bytes(), b"=", value?.as_bytes()].concat();
        Some(CString::new(whole))
    });
    // Of its own environment, the search path alone.
    let path = std::env::var_os("PATH").map(|path| CString::new([b"PATH=", path.as_bytes()].concat()));
    Ok(Assignment {
        argv: vec![c"suijuris-init".into(), c"--link-fd".into(), c"3".into()],
        env: env.chain(path).collect::<Result<_, _>>()?,
        cwd: c"/".to_owned(),
        numbers: vec![3],
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
