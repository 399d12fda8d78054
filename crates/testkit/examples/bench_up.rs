//! `suijuris up`: from a request to a sleeping object until the first byte of its answer, beside the start of the same
//! workload without any of ours. The difference is what deciding, recording and the machine cost.
//!
//! With `serve PORT` this is the workload. `up` puts the object into a machine as it does by default here, and runs
//! the static runtime that lies beside it.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use suijuris_testkit::bench::{
    Better, Contender, Events, Report, Row, Running, Samples, Settings, address_of, free_port, governed,
    interleave, says, server,
};

/// Activations measured of each.
const ROUNDS: usize = 25;
/// Between an activation's end and the next request: `up` prepares the next machine meanwhile, and starts a runtime ahead once nobody
/// has asked for a machine for 250 ms.
const PAUSE: Duration = Duration::from_millis(600);
/// When the object goes back to sleep.
const REMAIN: &str = r#"context.activity.in_flight > 0 || context.activity.idle < duration("20ms")"#;
/// What the design asks for, ms.
const BUDGET_MS: f64 = 5.0;

fn main() -> Result<(), Box<dyn Error>> {
    match server::as_asked() {
        Some(served) => Ok(served?),
        None => measure(&Settings::from_env()),
    }
}

/// A running `up`.
struct Up {
    address: SocketAddr,
    object: String,
    events: RefCell<Events>,
    machine: String,
    _up: Running,
}

fn measure(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let mut report = Report::new("up", settings);
    let gate = "protocol = \"http\"";
    let private = governed(&["serve", "{port}"], "network = \"private\"", gate, REMAIN)?;
    let shared = governed(&["serve", "{port}"], "network = \"host\"", gate, REMAIN)?;
    let plain = governed(&["serve", "{port}"], "network = \"host\"", gate, REMAIN)?;
    let ups = [
        start(private.up(&[])?)?,
        start(shared.up(&[])?)?,
        start(plain.up(&["--plain"])?)?,
    ];
    let (_door, door) = private.door()?;
    let door = address_of(&door)?;
    let [first, ..] = &ups;
    let failed: Cell<Option<io::Error>> = Cell::new(None);
    let figure = |result: io::Result<f64>| {
        result.unwrap_or_else(|error| {
            failed.set(Some(error));
            f64::NAN
        })
    };
    let mut contenders = vec![Contender::new("own", || figure(own()))];
    for (name, up) in ["private network", "the host's network", "plain processes"]
        .iter()
        .zip(&ups)
    {
        contenders.push(Contender::new(name, || figure(wake(up))));
    }
    contenders.push(Contender::new("behind a door", || {
        figure(wake_behind(door, first))
    }));
    let samples = interleave(settings.scale(ROUNDS), &mut contenders);
    drop(contenders);
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    let (Some(own), ways) = (samples.first(), samples.iter().skip(1)) else {
        return Ok(());
    };
    for (way, up) in ways.zip(&ups).take(ups.len()) {
        rows(&mut report, way, own);
        report.note(format!("{}: {}", way.name, up.machine));
    }
    if let (Some(direct), Some(behind)) = (samples.get(1), samples.last()) {
        report.row(Row {
            what: "a wake behind a door, request to first byte".to_owned(),
            unit: "ms",
            better: Better::Lower,
            ours: behind.median(),
            peer: "the same wake without it".to_owned(),
            theirs: direct.median(),
            budget: None,
        });
    }
    report.note(format!(
        "the workload's own start, spawn to first byte: median {:.2} ms",
        own.median()
    ));
    report.publish(settings)?;
    Ok(())
}

fn rows(report: &mut Report, way: &Samples, own: &Samples) {
    report.row(Row {
        what: format!("{}, request to first byte", way.name),
        unit: "ms",
        better: Better::Lower,
        ours: way.median(),
        peer: "the workload alone".to_owned(),
        theirs: own.median(),
        budget: None,
    });
    report.row(Row {
        what: format!("{}, over the workload's own start", way.name),
        unit: "ms",
        better: Better::Lower,
        ours: way.median() - own.median(),
        peer: "budget".to_owned(),
        theirs: BUDGET_MS,
        budget: Some(1.0),
    });
}

fn start((up, events, listening): (Running, Events, serde_json::Value)) -> Result<Up, Box<dyn Error>> {
    let machine = listening.get("machine").and_then(serde_json::Value::as_str);
    let object = listening.get("object").and_then(serde_json::Value::as_str);
    Ok(Up {
        address: address_of(&listening)?,
        object: object.unwrap_or_default().to_owned(),
        events: RefCell::new(events),
        machine: machine.unwrap_or_default().to_owned(),
        _up: up,
    })
}

/// Asks a door as a proxy does, then wakes the sleeping object: ms to the first byte.
fn wake_behind(door: SocketAddr, up: &Up) -> io::Result<f64> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(door)?;
    let question = format!(
        "GET /ext_authz/public/page HTTP/1.1\r\nHost: x\r\nX-Suijuris-Object: {}\r\n\r\n",
        up.object
    );
    stream.write_all(question.as_bytes())?;
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer)?;
    let answer = String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).to_ascii_lowercase();
    if !answer.contains("x-suijuris-passed: permitted") {
        return Err(io::Error::other(answer));
    }
    wake_since(begin, up)
}

/// Wakes the sleeping object with a request, then waits until it sleeps again: ms to the first byte.
fn wake(up: &Up) -> io::Result<f64> {
    wake_since(Instant::now(), up)
}

fn wake_since(begin: Instant, up: &Up) -> io::Result<f64> {
    let mut stream = TcpStream::connect(up.address)?;
    first_byte(&mut stream)?;
    let took = begin.elapsed();
    drop(stream);
    up.events
        .borrow_mut()
        .until(|event| says(event, "/event", "dormant"))?;
    std::thread::sleep(PAUSE);
    Ok(took.as_secs_f64() * 1e3)
}

/// Starts the workload alone: ms from spawning it to the first byte of its answer.
fn own() -> io::Result<f64> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", &port.to_string()]).stdin(Stdio::null());
    let begin = Instant::now();
    let _running = Running(command.spawn()?);
    while begin.elapsed() < Duration::from_secs(5) {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            first_byte(&mut stream)?;
            return Ok(begin.elapsed().as_secs_f64() * 1e3);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Err(ErrorKind::TimedOut.into())
}

fn first_byte(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET /public/page HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer)?;
    if answer
        .get(..read)
        .is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
    {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).into_owned(),
    ))
}
