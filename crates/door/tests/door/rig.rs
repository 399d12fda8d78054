//! A door with a real server on a free port, over a depot that can be made to fail, and a waker that can be watched.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use suijuris_api::event::Event;
use suijuris_core::ObjectId;
use suijuris_core::time::{Quality, Reading, Timestamp};
use suijuris_core::witness::Mark;
use suijuris_depot::faults::Faulty;
use suijuris_depot::memory::Memory;
use suijuris_depot::{Depot, Swap};
use suijuris_door::config::{Limits, Location};
use suijuris_door::heads::Trust;
use suijuris_door::waker::{Error, Starting, Waker};
use suijuris_door::{Clock, Door};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::life::{BORN, Built, Life};

/// What the rig's machines do when they are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// The object wakes.
    Wakes,
    /// It comes up, and the object refuses: it records that and sleeps on.
    Refuses,
    /// It does not come up.
    Fails,
}

/// Starts machines that do as they are told, and counts them.
#[derive(Debug)]
pub(crate) struct Starter {
    depot: Arc<Faulty>,
    pub(crate) starts: AtomicUsize,
    pub(crate) machine: Mutex<Machine>,
    lives: Mutex<HashMap<ObjectId, LifeCell>>,
}

struct LifeCell(Life, Built);

impl std::fmt::Debug for LifeCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.state.head().object)
    }
}

#[derive(Debug, Clone)]
struct Shared(Arc<Starter>);

impl Waker for Shared {
    fn start(&self, object: ObjectId) -> Starting<'_> {
        Box::pin(async move {
            self.0.starts.fetch_add(1, Ordering::SeqCst);
            let machine = *self.0.machine.lock().unwrap();
            let (life, built) = {
                let mut lives = self.0.lives.lock().unwrap();
                let LifeCell(life, built) = lives.get_mut(&object).unwrap();
                let at = Timestamp(life.state.head().at.0 + 1);
                match machine {
                    Machine::Fails => return Err(Error::Url("no machine in this test".to_owned())),
                    Machine::Wakes => life.wake(at),
                    Machine::Refuses => life.refuse(at),
                }
                (life.clone(), built.clone())
            };
            mark(&*self.0.depot, &life).await;
            if machine == Machine::Refuses {
                announce(&*self.0.depot, &built, &life, None).await;
            }
            Ok(())
        })
    }
}

/// Swaps the mark to the head of `life`.
pub(crate) async fn mark(depot: &dyn Depot, life: &Life) {
    let head = life.state.head();
    let mark = Mark {
        v: suijuris_core::witness::VERSION,
        object: head.object,
        epoch: head.epoch,
        seq: head.seq,
        head: head.record,
        holder: None,
    };
    swap(depot, &mark).await;
}

pub(crate) async fn swap(depot: &dyn Depot, mark: &Mark) {
    let version = depot.mark(mark.object).await.unwrap().map(|(_, version)| version);
    let swapped = depot.swap(mark, version.as_ref()).await.unwrap();
    assert!(matches!(swapped, Swap::Done(_)));
}

/// Publishes what an object at rest does, but for its mark.
pub(crate) async fn announce(depot: &dyn Depot, built: &Built, life: &Life, due: Option<Timestamp>) {
    depot.put_bundle(built.bundle.id(), &built.bytes).await.unwrap();
    let object = life.state.head().object;
    let there = depot.segments(object).await.unwrap();
    let from = there.last().map_or(0, |last| last.end() + 1);
    let new = life.chain.iter().filter(|stored| stored.record.seq >= from);
    let bytes = suijuris_core::lineage::segment::encode(new);
    if !bytes.is_empty() {
        let positions = from..=life.state.head().seq;
        depot.put_segment(object, positions, &bytes).await.unwrap();
    }
    depot.announce(object, &life.announcement(), due).await.unwrap();
}

/// Publishes all of an object at rest.
pub(crate) async fn rest(depot: &dyn Depot, built: &Built, life: &Life, due: Option<Timestamp>) {
    mark(depot, life).await;
    announce(depot, built, life, due).await;
}

/// A door that serves.
pub(crate) struct Rig {
    pub(crate) memory: Memory,
    pub(crate) depot: Arc<Faulty>,
    pub(crate) door: Arc<Door>,
    pub(crate) address: SocketAddr,
    pub(crate) starter: Arc<Starter>,
    pub(crate) events: Arc<Mutex<Vec<(ObjectId, Event)>>>,
    clock: Arc<AtomicI64>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinSet<()>,
}

pub(crate) fn limits() -> Limits {
    Limits {
        fresh_for: Duration::from_millis(1),
        depot_within: Duration::from_millis(300),
        ..Limits::default()
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(limits(), Trust::Mark).await
    }

    pub(crate) async fn with(limits: Limits, trust: Trust) -> Self {
        let memory = Memory::new();
        let depot = Arc::new(Faulty::new(Arc::new(memory.clone())));
        let starter = Arc::new(Starter {
            depot: Arc::clone(&depot),
            starts: AtomicUsize::new(0),
            machine: Mutex::new(Machine::Wakes),
            lives: Mutex::default(),
        });
        let clock = Arc::new(AtomicI64::new(BORN.0 + 60_000));
        let events = Arc::new(Mutex::new(Vec::new()));
        let (told, ticking) = (Arc::clone(&events), Arc::clone(&clock));
        let read: Clock = Arc::new(move || reading(Timestamp(ticking.load(Ordering::SeqCst))));
        let door = Arc::new(Door::with_waker(
            Arc::clone(&depot) as Arc<dyn Depot>,
            Box::new(Shared(Arc::clone(&starter))),
            limits,
            trust,
            &Location::default(),
            read,
            Some(Arc::new(move |object, event| {
                told.lock().unwrap().push((object, event));
            })),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = suijuris_door::serve_door(vec![listener], Arc::clone(&door), BTreeMap::new(), async {
            drop(stopped.await);
        });
        let mut server = JoinSet::new();
        server.spawn(serving);
        Self {
            server,
            memory,
            depot,
            door,
            address,
            starter,
            events,
            clock,
            stop: Some(stop),
        }
    }

    /// An object at rest, in the depot and known to the starter.
    pub(crate) async fn sleeper(&self, built: &Built, name: &str) -> ObjectId {
        let life = Life::create(&built.bundle, name);
        self.lay_to_rest(built, life, None).await
    }

    pub(crate) async fn lay_to_rest(&self, built: &Built, life: Life, due: Option<Timestamp>) -> ObjectId {
        rest(&self.memory, built, &life, due).await;
        let object = life.state.head().object;
        let cell = LifeCell(life, built.clone());
        self.starter.lives.lock().unwrap().insert(object, cell);
        object
    }

    pub(crate) fn machine(&self, machine: Machine) {
        *self.starter.machine.lock().unwrap() = machine;
    }

    pub(crate) fn starts(&self) -> usize {
        self.starter.starts.load(Ordering::SeqCst)
    }

    pub(crate) fn pass(&self, ms: i64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.clock.load(Ordering::SeqCst))
    }

    /// Asks as Envoy does.
    pub(crate) async fn ask(&self, object: ObjectId, method: &str, path: &str) -> Answer {
        self.send(
            &format!("{method} /ext_authz{path} HTTP/1.1\r\nhost: {object}.test"),
            b"",
        )
        .await
    }

    /// Sends a head, without the line that ends it, and a body.
    pub(crate) async fn send(&self, head: &str, body: &[u8]) -> Answer {
        send(self.address, head, body).await
    }

    pub(crate) async fn end(mut self) {
        drop(self.stop.take());
        self.server.join_next().await.unwrap().unwrap();
    }
}

pub(crate) fn reading(wall: Timestamp) -> Reading {
    Reading {
        wall,
        quality: Quality::Host,
        mono_ns: 0,
        boot_ns: 0,
    }
}

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let line = |line: &str| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        self.head.lines().find_map(line)
    }
}

pub(crate) async fn send(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head = format!("{head}\r\n{length}connection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    // A door that refuses early may close before it has read all.
    let _ = socket.write_all(body).await;
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    parse(&bytes)
}

pub(crate) fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_default(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Waits until `check` holds.
pub(crate) async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
