//! A fleet that is played, web servers in its machines, and a client that knows nothing but bytes.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use suijuris_proxy::fleet::{
    App, Boxed, Counts, Fleet, Machine, Port, Rest, Service, Snapshot, StartError, State,
};
use suijuris_proxy::load::Load;
use suijuris_proxy::{Entry, Key, Options, Proxy};

/// Longer than any of these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a machine answers to a head and a body: a whole response; none closes the connection.
type Answer = dyn Fn(&str, &[u8]) -> Option<String> + Send + Sync;

/// A machine that is played.
#[derive(Clone)]
pub(crate) struct Played {
    pub(crate) id: &'static str,
    pub(crate) app: &'static str,
    pub(crate) region: &'static str,
    pub(crate) state: State,
    pub(crate) soft: usize,
    pub(crate) hard: Option<usize>,
    pub(crate) counts: Counts,
    pub(crate) ports: Vec<Port>,
    pub(crate) autostart: bool,
    pub(crate) autostop: Option<Rest>,
    /// Where it listens; none: nowhere.
    pub(crate) at: Option<SocketAddr>,
    load: Arc<Load>,
}

pub(crate) fn web() -> Vec<Port> {
    let port = |from, tls| Port {
        from,
        to: from,
        http: true,
        tls,
        ..Port::default()
    };
    vec![port(80, false), port(443, true)]
}

/// A started machine of the app `a` in `fra`.
pub(crate) fn machine(id: &'static str, at: impl Into<Option<SocketAddr>>) -> Played {
    Played {
        id,
        app: "a",
        region: "fra",
        state: State::Started,
        soft: 20,
        hard: None,
        counts: Counts::Connections,
        ports: web(),
        autostart: true,
        autostop: None,
        at: at.into(),
        load: Arc::new(Load::default()),
    }
}

/// The fleet.
#[derive(Default)]
pub(crate) struct Fake {
    machines: Mutex<Vec<Played>>,
    now: Mutex<Arc<Snapshot>>,
    pub(crate) starts: AtomicUsize,
    pub(crate) connects: AtomicUsize,
    pub(crate) never_starts: AtomicBool,
    pub(crate) fails_to_start: AtomicBool,
    /// Names of apps' own.
    names: Mutex<Vec<(&'static str, &'static str)>>,
    /// Orgs of apps; `o` where none is said.
    orgs: HashMap<&'static str, &'static str>,
    /// Itself, for what is started.
    itself: std::sync::OnceLock<std::sync::Weak<Fake>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    fn see(&self) {
        let machines = self.machines.lock().unwrap();
        let mut apps: HashMap<Arc<str>, Vec<Arc<Machine>>> = HashMap::new();
        for played in &*machines {
            let service = Service {
                internal_port: 1,
                ports: played.ports.clone(),
                counts: played.counts,
                soft: played.soft,
                hard: played.hard,
                autostart: played.autostart,
                autostop: played.autostop,
                min_running: 0,
                healthy: true,
                hook: None,
                tells_tls: false,
                load: Arc::clone(&played.load),
            };
            apps.entry(played.app.into()).or_default().push(Arc::new(Machine {
                id: played.id.into(),
                region: played.region.into(),
                state: played.state,
                cordoned: false,
                primary_region: "fra".into(),
                services: vec![Arc::new(service)],
            }));
        }
        let mut now = Snapshot::default();
        now.hostnames.insert("h".into(), "a".into());
        for (name, app) in &*self.names.lock().unwrap() {
            now.hostnames.insert((*name).into(), (*app).into());
        }
        for (name, machines) in apps {
            let app = App {
                name: Arc::clone(&name),
                org: self.orgs.get(&*name).copied().unwrap_or("o").into(),
                network: "default".into(),
                machines,
            };
            now.apps.insert(name, Arc::new(app));
        }
        *self.now.lock().unwrap() = Arc::new(now);
    }

    pub(crate) fn change(&self, id: &str, change: impl Fn(&mut Played)) {
        for played in self.machines.lock().unwrap().iter_mut() {
            if played.id == id {
                change(played);
            }
        }
        self.see();
    }

    pub(crate) fn name(&self, name: &'static str, app: &'static str) {
        self.names.lock().unwrap().push((name, app));
        self.see();
    }

    pub(crate) fn state(&self, id: &str) -> State {
        let machines = self.machines.lock().unwrap();
        machines.iter().find(|played| played.id == id).unwrap().state
    }
}

impl Fleet for Fake {
    fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now.lock().unwrap())
    }

    fn start(&self, machine: &str) -> Boxed<Result<(), StartError>> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        let itself = self.itself.get().unwrap().upgrade().unwrap();
        let id = machine.to_owned();
        Box::pin(async move {
            if itself.never_starts.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            if itself.fails_to_start.load(Ordering::SeqCst) {
                return Err(StartError("no room".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
            itself.change(&id, |played| played.state = State::Started);
            Ok(())
        })
    }

    fn rest(&self, machine: &str, _how: Rest) -> Boxed<Result<(), StartError>> {
        self.change(machine, |played| played.state = State::Resting);
        Box::pin(async { Ok(()) })
    }

    fn connect(&self, machine: &str, _port: u16) -> Boxed<io::Result<tokio::net::TcpStream>> {
        self.connects.fetch_add(1, Ordering::SeqCst);
        let machines = self.machines.lock().unwrap();
        let at = machines
            .iter()
            .find(|played| played.id == machine)
            .and_then(|played| played.at);
        Box::pin(async move {
            match at {
                Some(at) => tokio::net::TcpStream::connect(at).await,
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

/// A proxy in front of a fleet.
pub(crate) struct Rig {
    pub(crate) fleet: Arc<Fake>,
    pub(crate) at: SocketAddr,
    pub(crate) proxy: Option<Proxy>,
    handle: tokio::runtime::Handle,
    _ends: tokio::sync::oneshot::Sender<()>,
}

impl Rig {
    pub(crate) fn new(machines: Vec<Played>) -> Self {
        Self::with(machines, |_| {})
    }

    pub(crate) fn with(machines: Vec<Played>, set: impl FnOnce(&mut Options)) -> Self {
        Self::at_port(machines, None, set)
    }

    pub(crate) fn at_port(machines: Vec<Played>, port: Option<u16>, set: impl FnOnce(&mut Options)) -> Self {
        Self::entered(machines, (port, false), set)
    }

    pub(crate) fn entered(
        machines: Vec<Played>,
        (port, proxy_header): (Option<u16>, bool),
        set: impl FnOnce(&mut Options),
    ) -> Self {
        let fleet = Arc::new(Fake {
            machines: Mutex::new(machines),
            orgs: HashMap::from([("foreign", "other")]),
            ..Fake::default()
        });
        fleet.itself.set(Arc::downgrade(&fleet)).unwrap();
        fleet.see();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut options = Options::new(Key::new([7; 32]), Duration::from_secs(1_800_000_000));
        options.hold = Duration::from_secs(20);
        options.autostop = None;
        set(&mut options);
        let entry = Entry {
            listener,
            port,
            region: "fra".into(),
            proxy_header,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap();
        let handle = runtime.handle().clone();
        let (ends, ended) = tokio::sync::oneshot::channel::<()>();
        // Ends with the rig.
        thread::spawn(move || drop(runtime.block_on(ended)));
        let guard = handle.enter();
        let proxy = Proxy::serve(Arc::clone(&fleet) as Arc<dyn Fleet>, options, &[entry]).unwrap();
        drop(guard);
        Self {
            fleet,
            at,
            proxy: Some(proxy),
            handle,
            _ends: ends,
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Whatever comes back to these bytes until the connection ends.
    pub(crate) fn send(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read(stream)
    }

    pub(crate) fn get(&self, host: &str, path: &str, fields: &str) -> Reply {
        self.send(
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n").as_bytes(),
        )
    }

    pub(crate) fn starts(&self) -> usize {
        self.fleet.starts.load(Ordering::SeqCst)
    }

    pub(crate) fn metrics(&self) -> String {
        self.proxy.as_ref().unwrap().metrics()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            self.handle.block_on(proxy.close());
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn has(&self, part: &str) -> bool {
        self.head.contains(part) || self.body.contains(part)
    }
}

pub(crate) fn read(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A reset ends it, too.
    let _ended = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Reply {
        status: status.unwrap_or_default(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// A response with this body.
pub(crate) fn ok(fields: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    ))
}

/// A web server for as long as the test runs.
pub(crate) fn server(answer: impl Fn(&str, &[u8]) -> Option<String> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let answer: Arc<Answer> = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || serve(stream, &*answer));
        }
    });
    at
}

/// A server that answers with its name, the head and the body that it got.
pub(crate) fn echo(name: &'static str) -> SocketAddr {
    server(move |head, body| ok("", &format!("{name}\n{head}\n{}", String::from_utf8_lossy(body))))
}

fn serve(mut stream: TcpStream, answer: &Answer) {
    let mut bytes = Vec::new();
    loop {
        let Some(head) = until(&mut stream, &mut bytes, b"\r\n\r\n") else {
            return;
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let lower = head.to_lowercase();
        let mut body = Vec::new();
        if let Some(length) = lower.split("content-length: ").nth(1) {
            let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
            while bytes.len() < length {
                if more(&mut stream, &mut bytes).is_none() {
                    return;
                }
            }
            body = bytes.drain(..length).collect();
        } else if lower.contains("transfer-encoding: chunked") {
            loop {
                let Some(line) = until(&mut stream, &mut bytes, b"\r\n") else {
                    return;
                };
                let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
                while bytes.len() < size + 2 {
                    if more(&mut stream, &mut bytes).is_none() {
                        return;
                    }
                }
                body.extend(bytes.drain(..size));
                bytes.drain(..2);
                if size == 0 {
                    break;
                }
            }
        }
        let Some(response) = answer(&head, &body) else {
            let _ended = stream.shutdown(Shutdown::Both);
            return;
        };
        if stream.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut part = [0; 16 * 1024];
    let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
    bytes.extend_from_slice(&part[..read]);
    Some(())
}

fn until(stream: &mut TcpStream, bytes: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = bytes.windows(end.len()).position(|part| part == end) {
            return Some(bytes.drain(..at + end.len()).collect());
        }
        more(stream, bytes)?;
    }
}

/// Waits until `is_so`.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < limit, "not so in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
