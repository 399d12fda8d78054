//! The proxy of the plain platform: apps by `Host`, machines that rest are started, `fly-replay` is followed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::{PATIENCE, Request, World, wait};

/// Replays of one request at most.
const MAX_REPLAYS: usize = 10;

/// Where a request goes, in the words of `fly-replay`.
type Goal = BTreeMap<String, String>;

pub(super) fn visit(world: &Arc<World>, mut stream: TcpStream) {
    let Some(request) = Request::read(&stream) else {
        return;
    };
    let host = request.field("host").unwrap_or_default();
    let app = host.split('.').next().unwrap_or_default().to_owned();
    let mut goal = Goal::from([("app".to_owned(), app)]);
    let mut source = None;
    for _ in 0..=MAX_REPLAYS {
        let Some((app, machine)) = choose(world, &goal) else {
            break;
        };
        let Some(answer) = ask(world, (&app, &machine), &request, source.as_deref()) else {
            break;
        };
        let Some(next) = replay(&answer) else {
            let _gone = stream.write_all(&answer);
            return;
        };
        let state = next
            .get("state")
            .map_or(String::new(), |state| format!(";state={state}"));
        source = Some(format!("instance={machine};region=fra;t=0{state}"));
        goal = next;
        goal.entry("app".to_owned()).or_insert(app);
    }
    let _gone = stream.write_all(b"HTTP/1.1 502 -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

/// A machine of the app, in the region or of the id that is wanted.
fn choose(world: &World, goal: &Goal) -> Option<(String, String)> {
    let apps = world.apps();
    let fits = |key: &str, text: &str| goal.get(key).is_none_or(|wanted| wanted == text);
    let (name, app) = apps.get_key_value(goal.get("app")?)?;
    let mut all = app.machines.iter();
    let found = all.find(|(id, machine)| {
        fits("instance", id) && fits("region", machine.shown()["region"].as_str().unwrap_or_default())
    });
    found.map(|(id, _)| (name.clone(), id.clone()))
}

/// What the machine answers, once it is up and takes connections.
fn ask(world: &Arc<World>, at: (&str, &str), request: &Request, source: Option<&str>) -> Option<Vec<u8>> {
    let mut answer = Vec::new();
    world.with(at, |machine| machine.load += 1)?;
    let port = world.with(at, |machine| {
        machine.config["services"][0]["internal_port"].as_u64()
    })?;
    let port = u16::try_from(port.unwrap_or(8080)).ok()?;
    let answered = || {
        world.start(at.0, at.1);
        let pid = world.with(at, |machine| machine.pid()).flatten();
        let stream = pid.and_then(|pid| connect(pid, port));
        stream.is_some_and(|mut stream| {
            let sent = stream.write_all(&forwarded(request, source)).is_ok();
            answer.clear();
            sent && stream.read_to_end(&mut answer).is_ok() && !answer.is_empty()
        })
    };
    let came = wait(answered, PATIENCE);
    world.with(at, |machine| {
        machine.load -= 1;
        machine.last = std::time::Instant::now();
    });
    came.then_some(answer)
}

/// Connects inside the network of a process.
fn connect(pid: u32, port: u16) -> Option<TcpStream> {
    let inside = File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let there = std::thread::spawn(move || {
        setns(inside, CloneFlags::CLONE_NEWNET).ok()?;
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let stream = there.join().ok()??;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// Listens inside the network of a process.
pub(super) fn listen(pid: u32, port: u16) -> Option<std::net::TcpListener> {
    let inside = File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let there = std::thread::spawn(move || {
        setns(inside, CloneFlags::CLONE_NEWNET).ok()?;
        std::net::TcpListener::bind(("0.0.0.0", port)).ok()
    });
    there.join().ok()?
}

/// The request with what the proxy says; what only it may say is taken off.
fn forwarded(request: &Request, source: Option<&str>) -> Vec<u8> {
    let mut text = format!("{}\r\n", request.first);
    let kept = |name: &str| !name.starts_with("fly-") && name != "connection";
    for (name, value) in request.fields.iter().filter(|(name, _)| kept(name)) {
        text += &format!("{name}: {value}\r\n");
    }
    text += "fly-client-ip: 127.0.0.1\r\nfly-region: fra\r\nconnection: close\r\n";
    if let Some(source) = source {
        text += &format!("fly-replay-src: {source}\r\n");
    }
    [format!("{text}\r\n").into_bytes(), request.body.clone()].concat()
}

/// Where the answer sends the request instead.
fn replay(answer: &[u8]) -> Option<Goal> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let field = |wanted: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        let mut found = fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    if field("content-type").as_deref() == Some("application/vnd.fly.replay+json") {
        let body: Value = serde_json::from_slice(&answer[end + 4..]).ok()?;
        let keys = body.as_object()?.iter();
        return Some(
            keys.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
        );
    }
    let header = field("fly-replay")?;
    let pairs = header.split(';').filter_map(|pair| pair.split_once('='));
    Some(
        pairs
            .map(|(key, value)| (key.trim().to_owned(), value.trim_matches('"').to_owned()))
            .collect(),
    )
}
