//! `suijuris serve` with many objects: what sleepers cost, first uses, refusals by name, a planned restart, a stop while machines start.
//!
//! The program is the `suijuris` of the path (`cargo xtask bench --programs DIR serve`). `SUIJURIS_BENCH_SLEEPERS` says how many
//! objects lie in one process in the last part (20,000 unless told otherwise), whose files are in memory (`/dev/shm`). With `serve PORT`
//! this is the workload of those that wake.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use suijuris_testkit::bench::{Better, Events, Report, Row, Running, Settings, process_cpu, says, server};

/// Sleepers of the first part, and those of its objects that are awake when the daemon is started again.
const SLEEPERS: usize = 1_000;
const AWAKE: usize = 50;

/// Machines that start when the daemon is told to stop.
const STARTING: usize = 100;

/// Sleepers of the last part unless told otherwise.
const MANY: usize = 20_000;

/// Callers at once.
const AT_ONCE: usize = 16;

/// How long a daemon is given to become idle.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Founded for everybody.
const FOUND: &str = r#"@id("found") permit (principal, action == Action::"instantiate", resource);
"#;

/// Awake for everybody, until told otherwise.
const OPEN: &str = r#"@id("open") permit (principal, action in [Action::"wake", Action::"admit", Action::"remain", Action::"sleep"], resource);
"#;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    match server::as_asked() {
        Some(served) => Ok(served?),
        None => measure(&Settings::from_env()),
    }
}

fn measure(settings: &Settings) -> Outcome<()> {
    let mut report = Report::new("serve", settings);
    let sleepers = settings.scale(SLEEPERS);
    thousand(&mut report, sleepers)?;
    stop_while_starting(&mut report)?;
    let many = std::env::var("SUIJURIS_BENCH_SLEEPERS").ok();
    let many = many.map_or(Ok(settings.scale(MANY)), |text| text.parse())?;
    many_sleepers(&mut report, many)?;
    report.note("a refused first use decides, founds, records the refusal and makes all of it durable");
    report.note("CPU in the door by id: `cargo xtask bench door`; due timers over played machines: `cargo xtask bench actors`");
    Ok(report.publish(settings)?)
}

/// A row that is held against a target without a peer.
fn target(what: String, unit: &'static str, better: Better, ours: f64, target: f64) -> Row {
    Row {
        what,
        unit,
        better,
        ours,
        peer: "target".to_owned(),
        theirs: target,
        budget: Some(1.0),
    }
}

/// A row that stands beside something else.
fn beside(what: String, unit: &'static str, better: Better, ours: f64, peer: &str, theirs: f64) -> Row {
    Row {
        what,
        unit,
        better,
        ours,
        peer: peer.to_owned(),
        theirs,
        budget: None,
    }
}

/// Adds a row, and tells it at once: the whole takes minutes.
fn tell(report: &mut Report, row: Row) {
    // Whoever reads the table alone does not read this.
    let _ = writeln!(io::stderr(), "{}: {:.2} {}", row.what, row.ours, row.unit);
    report.row(row);
}

/// A directory with a depot, an owner's key, and the root of a daemon.
struct Home {
    dir: tempfile::TempDir,
}

/// A running daemon.
struct Served {
    process: Running,
    address: SocketAddr,
    events: Events,
}

impl Home {
    fn new(base: &Path) -> io::Result<Self> {
        let dir = tempfile::tempdir_in(base)?;
        Ok(Self { dir })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("suijuris");
        let dir = self.dir.path();
        command.current_dir(dir).stdin(Stdio::null());
        for (name, path) in [
            ("HOME", dir.to_owned()),
            ("SUIJURIS_DEPOT", dir.join("depot")),
            ("SUIJURIS_OWNER_KEY", dir.join("owner.key")),
            ("SUIJURIS_SERVER", dir.join("root")),
        ] {
            command.env(name, path);
        }
        command
    }

    fn serve(&self) -> io::Result<Served> {
        let mut serve = self.command();
        serve.args(["serve", "root", "--listen", "127.0.0.1:0", "--json"]);
        let mut process = Running(serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let mut events = Events::of(process.0.stdout.take())?;
        let listening = events.until(|event| says(event, "/event", "listening"))?;
        let url = listening
            .pointer("/urls/0")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let address = url.trim_start_matches("http://").trim_end_matches('/').parse();
        Ok(Served {
            process,
            address: address.map_err(|_| ErrorKind::InvalidData)?,
            events,
        })
    }

    /// Adds a class whose workload is `command`.
    fn class(&self, name: &str, command: &[&str], rules: &str) -> Outcome<()> {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir)?;
        let class = "[class]\nmax_instances = 1000000\nper_peer = 100000\nper_class = 100000\n";
        let toml =
            format!("name = \"{name}\"\n[workload]\ncommand = {command:?}\nnetwork = \"host\"\n{class}");
        fs::write(dir.join("object.toml"), toml)?;
        fs::write(dir.join("governance.cedar"), rules)?;
        let added = self.command().arg("add").arg(name).output()?;
        match added.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&added.stderr).into()),
        }
    }

    /// Objects in this phase.
    fn count(&self, phase: &str) -> Outcome<usize> {
        let listed = self.command().args(["ps", "--phase", phase, "--json"]).output()?;
        let listed: Value = serde_json::from_slice(&listed.stdout)?;
        Ok(listed.as_array().map_or(0, Vec::len))
    }
}

impl Served {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid()).map_err(|_| ErrorKind::InvalidData)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Threads, open descriptors, memory of its own in KiB.
    fn cost(&self) -> io::Result<(f64, f64, f64)> {
        let pid = self.pid();
        let entries =
            |what: &str| Ok::<_, io::Error>(figure(fs::read_dir(format!("/proc/{pid}/{what}"))?.count()));
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let own = own.and_then(|own| own.trim().strip_suffix(" kB")?.parse::<u32>().ok());
        Ok((
            entries("task")?,
            entries("fd")?,
            f64::from(own.ok_or(ErrorKind::InvalidData)?),
        ))
    }
}

fn figure(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// One request to an instance, over a connection of its own: the status of its answer.
fn ask(address: SocketAddr, class: &str, key: usize) -> io::Result<u16> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let head = format!("GET / HTTP/1.1\r\nHost: k{key}.{class}.localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// What a series of requests took.
struct Took {
    sorted: Vec<Duration>,
    all: Duration,
}

impl Took {
    fn at(&self, thousandths: usize) -> f64 {
        let place = self.sorted.len() * thousandths / 1_000;
        self.sorted
            .get(place)
            .or(self.sorted.last())
            .map_or(f64::NAN, |took| ms(*took))
    }

    fn rate(&self) -> f64 {
        figure(self.sorted.len()) / self.all.as_secs_f64()
    }
}

/// Asks for these keys, so many at once, and expects this status.
fn series(
    served: &Served,
    class: &str,
    keys: std::ops::Range<usize>,
    at_once: usize,
    status: u16,
) -> Outcome<Took> {
    let (next, begun) = (AtomicUsize::new(keys.start), Instant::now());
    let (address, end) = (served.address, keys.end);
    let one = || {
        let mut took = Vec::new();
        loop {
            let key = next.fetch_add(1, Ordering::Relaxed);
            if key >= end {
                return Ok::<_, io::Error>(took);
            }
            let begun = Instant::now();
            let found = ask(address, class, key)?;
            if found != status {
                return Err(io::Error::other(format!(
                    "k{key}.{class} answered {found}, not {status}"
                )));
            }
            took.push(begun.elapsed());
        }
    };
    let taken: Vec<io::Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..at_once).map(|_| scope.spawn(one)).collect();
        let joined =
            |asking: std::thread::ScopedJoinHandle<'_, _>| asking.join().unwrap_or_else(|_| Ok(Vec::new()));
        asking.into_iter().map(joined).collect()
    });
    let all = begun.elapsed();
    let taken = taken.into_iter().collect::<io::Result<Vec<_>>>()?;
    let mut sorted: Vec<Duration> = taken.into_iter().flatten().collect();
    sorted.sort_unstable();
    Ok(Took { sorted, all })
}

/// What a database would do at the least: a file of the size of an inception, synced, put in place, its directory synced. The median, ms.
fn by_hand(dir: &Path) -> io::Result<f64> {
    let mut took = Vec::new();
    for number in 0..200 {
        let begun = Instant::now();
        let draft = dir.join("peer.tmp");
        let mut file = fs::File::create(&draft)?;
        file.write_all(&[7; 500])?;
        file.sync_data()?;
        fs::rename(&draft, dir.join(format!("peer.{number}")))?;
        fs::File::open(dir)?.sync_all()?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok(took.get(took.len() / 2).map_or(f64::NAN, |took| ms(*took)))
}

/// Waits until something holds; how long that took.
fn until(begun: Instant, mut holds: impl FnMut() -> Outcome<bool>) -> Outcome<Duration> {
    while !holds()? {
        if begun.elapsed() > PATIENCE {
            return Err("it took too long".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begun.elapsed())
}

/// Waits until the daemon has been nearly idle for a second, so that what was founded is published; for a minute at most.
fn settle(served: &Served) -> Outcome<()> {
    let (begun, mut before, mut quiet) = (Instant::now(), process_cpu(served.pid())?, 0);
    while quiet < 5 && begun.elapsed() < SETTLES_WITHIN {
        std::thread::sleep(Duration::from_millis(200));
        let now = process_cpu(served.pid())?;
        let idle = now.saturating_sub(before) < Duration::from_millis(10);
        (quiet, before) = (if idle { quiet + 1 } else { 0 }, now);
    }
    Ok(())
}

/// A thousand sleepers: first uses, refusals, what they cost, and a planned restart beside some that are awake.
fn thousand(report: &mut Report, sleepers: usize) -> Outcome<()> {
    let home = Home::new(&std::env::temp_dir())?;
    let hand = by_hand(home.dir.path())?;
    let served = home.serve()?;
    home.class("many", &["sleep", "1000"], FOUND)?;
    let alone = sleepers / 5;
    let first = series(&served, "many", 0..alone, 1, 403)?;
    let what = format!("first use, {alone} one after the other, p50");
    tell(report, target(what, "ms", Better::Lower, first.at(500), 5.0));
    let what = "the same, beside one file made durable by hand".to_owned();
    tell(
        report,
        beside(what, "ms", Better::Lower, first.at(500), "by hand", hand),
    );
    settle(&served)?;
    let mut rested = Vec::new();
    for key in alone..alone + 20 {
        std::thread::sleep(Duration::from_millis(250));
        rested.push(series(&served, "many", key..key + 1, 1, 403)?.at(500));
    }
    rested.sort_by(f64::total_cmp);
    let median = rested.get(rested.len() / 2).copied().unwrap_or(f64::NAN);
    tell(
        report,
        target(
            "first use, the disk at rest, p50".to_owned(),
            "ms",
            Better::Lower,
            median,
            5.0,
        ),
    );
    let grouped = series(&served, "many", alone + 20..sleepers, AT_ONCE, 403)?;
    let what = format!("first uses, {AT_ONCE} at once");
    tell(
        report,
        target(what, "/s", Better::Higher, grouped.rate(), 1_000.0),
    );
    settle(&served)?;
    cost(report, &served, sleepers, "after founding")?;
    refusals(report, &served, sleepers)?;
    home.class(
        "awake",
        &own(&["serve", "{port}"])?.each_ref().map(String::as_str),
        &[FOUND, OPEN].concat(),
    )?;
    series(&served, "awake", 0..AWAKE, 8, 200)?;
    restart(report, &home, served, sleepers)
}

/// This program, started with these arguments.
fn own(arguments: &[&str; 2]) -> io::Result<[String; 3]> {
    let exe = std::env::current_exe()?;
    let exe = exe.to_str().ok_or(ErrorKind::InvalidFilename)?.to_owned();
    let [first, second] = arguments.map(str::to_owned);
    Ok([exe, first, second])
}

fn cost(report: &mut Report, served: &Served, sleepers: usize, when: &str) -> Outcome<()> {
    let (threads, descriptors, own) = served.cost()?;
    let count = figure(sleepers);
    let what = |what: &str| format!("{sleepers} sleepers {when}, {what}");
    tell(report, target(what("threads"), "", Better::Lower, threads, 16.0));
    tell(
        report,
        target(
            what("descriptors each"),
            "",
            Better::Lower,
            descriptors / count,
            3.0,
        ),
    );
    tell(
        report,
        target(what("memory each"), "KiB", Better::Lower, own / count, 64.0),
    );
    Ok(())
}

fn refusals(report: &mut Report, served: &Served, sleepers: usize) -> Outcome<()> {
    let before = process_cpu(served.pid())?;
    let refused = series(served, "many", 0..sleepers, 1, 403)?;
    let spent = process_cpu(served.pid())?.saturating_sub(before);
    let what = format!("refuse by name among {sleepers} over HTTP, p99");
    tell(report, target(what, "ms", Better::Lower, refused.at(990), 1.0));
    let each = spent.as_secs_f64() * 1e6 / figure(sleepers);
    let what = "the same, CPU of the daemon for connection, head, decision, record and answer".to_owned();
    tell(
        report,
        beside(what, "µs", Better::Lower, each, "the door's share", 2.0),
    );
    Ok(())
}

/// Ended with SIGHUP, which leaves those that are awake to the next daemon.
fn restart(report: &mut Report, home: &Home, served: Served, sleepers: usize) -> Outcome<()> {
    let Served {
        mut process, events, ..
    } = served;
    events.drain();
    let begun = Instant::now();
    kill(Pid::from_raw(i32::try_from(process.pid())?), Signal::SIGHUP)?;
    process.0.wait()?;
    let served = home.serve()?;
    let listening = begun.elapsed();
    until(begun, || Ok(ask(served.address, "awake", 0)? == 200))?;
    let answered = begun.elapsed();
    let open = until(begun, || {
        Ok(home.count("dormant")? >= sleepers && home.count("active")? >= AWAKE)
    })?;
    let what = |what: &str| format!("restart with {sleepers} objects asleep and {AWAKE} awake, {what}");
    tell(
        report,
        target(
            what("listening"),
            "s",
            Better::Lower,
            listening.as_secs_f64(),
            2.0,
        ),
    );
    tell(
        report,
        target(
            what("an awake one answers"),
            "s",
            Better::Lower,
            answered.as_secs_f64(),
            2.0,
        ),
    );
    tell(
        report,
        target(what("all there"), "s", Better::Lower, open.as_secs_f64(), 2.0),
    );
    settle(&served)?;
    cost(report, &served, sleepers, "after a restart")?;
    let Served {
        mut process, events, ..
    } = served;
    events.drain();
    kill(Pid::from_raw(i32::try_from(process.pid())?), Signal::SIGTERM)?;
    process.0.wait()?;
    Ok(())
}

/// Machines whose workload never gets ready, and a daemon that is told to stop: when it says so to whoever comes, and when it has ended.
fn stop_while_starting(report: &mut Report) -> Outcome<()> {
    let home = Home::new(&std::env::temp_dir())?;
    let mut served = home.serve()?;
    home.class("slow", &["sleep", "1000"], &[FOUND, OPEN].concat())?;
    let address = served.address;
    for key in 0..STARTING {
        // Whoever waits for an object that never gets ready is not waited for.
        std::thread::spawn(move || ask(address, "slow", key));
    }
    let mut started = 0;
    while started < STARTING {
        served
            .events
            .until(|event| says(event, "/event", "machine") && says(event, "/state", "started"))?;
        started += 1;
    }
    let begun = Instant::now();
    served.signal(Signal::SIGTERM)?;
    let answered = until_told(begun, address)?;
    let Served {
        mut process, events, ..
    } = served;
    events.drain();
    process.0.wait()?;
    let ended = begun.elapsed();
    let what = |what: &str| format!("SIGTERM while {STARTING} machines start, {what}");
    tell(
        report,
        target(
            what("until whoever comes is told"),
            "ms",
            Better::Lower,
            ms(answered),
            100.0,
        ),
    );
    tell(
        report,
        beside(
            what("until all have ended"),
            "ms",
            Better::Lower,
            ms(ended),
            "target of the answer",
            100.0,
        ),
    );
    Ok(())
}

/// Until a caller of a new instance is turned away, or nobody listens any more.
fn until_told(begun: Instant, address: SocketAddr) -> Outcome<Duration> {
    loop {
        match ask(address, "slow", 1_000_000) {
            Ok(503) | Err(_) => return Ok(begun.elapsed()),
            Ok(_) => {}
        }
        if begun.elapsed() > PATIENCE {
            return Err("nobody was told".into());
        }
    }
}

/// Many sleepers, their files in memory: what they cost, and how soon the next daemon listens.
fn many_sleepers(report: &mut Report, sleepers: usize) -> Outcome<()> {
    let base = Some(PathBuf::from("/dev/shm")).filter(|base| base.is_dir());
    let home = Home::new(&base.unwrap_or_else(std::env::temp_dir))?;
    let served = home.serve()?;
    home.class("many", &["sleep", "1000"], FOUND)?;
    let founded = series(&served, "many", 0..sleepers, AT_ONCE, 403)?;
    let what = format!("first uses, {AT_ONCE} at once, files in memory, {sleepers} of them");
    tell(
        report,
        target(what, "/s", Better::Higher, founded.rate(), 1_000.0),
    );
    settle(&served)?;
    refusals(report, &served, sleepers)?;
    let Served {
        mut process, events, ..
    } = served;
    events.drain();
    kill(Pid::from_raw(i32::try_from(process.pid())?), Signal::SIGKILL)?;
    process.0.wait()?;
    let begun = Instant::now();
    let served = home.serve()?;
    let listening = begun.elapsed();
    until(begun, || Ok(ask(served.address, "many", sleepers - 1)? == 403))?;
    let answered = begun.elapsed();
    let open = until(begun, || Ok(home.count("dormant")? >= sleepers))?;
    let what = |what: &str| format!("killed and started again with {sleepers} sleepers, {what}");
    tell(
        report,
        target(
            what("listening"),
            "s",
            Better::Lower,
            listening.as_secs_f64(),
            10.0,
        ),
    );
    tell(
        report,
        target(
            what("one answers"),
            "s",
            Better::Lower,
            answered.as_secs_f64(),
            10.0,
        ),
    );
    tell(
        report,
        beside(
            what("all there"),
            "s",
            Better::Lower,
            open.as_secs_f64(),
            "target of listening",
            10.0,
        ),
    );
    settle(&served)?;
    cost(report, &served, sleepers, "after a restart, files in memory")?;
    let Served {
        mut process, events, ..
    } = served;
    events.drain();
    kill(Pid::from_raw(i32::try_from(process.pid())?), Signal::SIGTERM)?;
    process.0.wait()?;
    Ok(())
}
