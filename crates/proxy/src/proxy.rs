//! The proxy as a whole: its threads, each with a gate for every listener, and the loop that puts machines to rest.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use suijuris_edge::handshakes::Handshakes;
use suijuris_edge::tls::{Names, Source, Tls, TlsError};
use suijuris_edge::trust::Trust;
use suijuris_gate::limits::MAX_CONNECTIONS;
use suijuris_gate::{Control, Gate, Handoff, Limits, Phase, Protocol, Traffic, Upstream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use crate::acme::{self, Acme};
use crate::asked::Entrance;
use crate::authorizer::EdgeAuthorizer;
use crate::autostop;
use crate::fleet::Fleet;
use crate::hook::Hook;
use crate::ids::Ids;
use crate::listener::{Listening, accept};
use crate::metrics::Metrics;
use crate::relay::{self, Relay};
use crate::replay::state::Key;
use crate::router::Router;
use crate::starts::Starts;

/// How long a request waits for its machine.
pub const HOLD: Duration = Duration::from_secs(60);
/// How long a machine is tried that runs and takes no connections.
pub const UNREACHABLE: Duration = Duration::from_secs(5);
/// Between two passes of autostop.
pub const AUTOSTOP: Duration = Duration::from_secs(120);
/// What is under way when the proxy ends may take this long.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections between a listener and its gate.
const HANDED: usize = 64;
/// Connections that a gate has at least, however few descriptors there are.
const LEAST: usize = 64;
/// How much longer a gate waits for a verdict than the router does.
const SLACK_MS: u64 = 5_000;

/// How a proxy is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads, each with its own gates; 1 at least.
    pub threads: usize,
    /// Connections of clients at one time that this process has descriptors for. All gates share them alike, and at its share a gate
    /// closes the one that is idle for longest.
    pub connections: usize,
    /// See [`HOLD`].
    pub hold: Duration,
    /// See [`UNREACHABLE`].
    pub unreachable: Duration,
    /// See [`AUTOSTOP`]; none: no machine is put to rest.
    pub autostop: Option<Duration>,
    /// Who is asked before a request of an app passes, by `APP`, or by `APP:PORT` for one of its ports.
    pub hooks: HashMap<Arc<str>, Hook>,
    /// Certificates; without them TLS does not end here.
    pub tls: Option<Source>,
    /// Authorities whose certificates clients may show.
    pub client_ca: Option<PathBuf>,
    /// Certificates for names of apps; the others are those of `tls`.
    pub acme: Option<Acme>,
    /// Proxies whose word counts.
    pub trust: Trust,
    /// What states of replays are signed with.
    pub key: Key,
    /// The clock now, since 1970.
    pub now: Duration,
    /// Who has raw connections, so that they outlive this process; none: they end with it.
    pub relay: Option<relay::Setup>,
    /// Who is told of requests.
    #[cfg(feature = "traces")]
    pub tracer: Option<crate::traces::Tracer>,
}

impl Options {
    /// The defaults, with this key and clock.
    #[must_use]
    pub fn new(key: Key, now: Duration) -> Self {
        Self {
            threads: 1,
            connections: usize::MAX,
            hold: HOLD,
            unreachable: UNREACHABLE,
            autostop: Some(AUTOSTOP),
            hooks: HashMap::new(),
            tls: None,
            client_ca: None,
            acme: None,
            relay: None,
            trust: Trust::default(),
            key,
            now,
            #[cfg(feature = "traces")]
            tracer: None,
        }
    }
}

/// A socket to serve at.
#[derive(Debug)]
pub struct Entry {
    /// Bound and listening.
    pub listener: TcpListener,
    /// The inbound port that it stands for; none: 80, and 443 for what begins with TLS.
    pub port: Option<u16>,
    /// The region whose edge it is.
    pub region: Arc<str>,
    /// Each connection begins with a PROXY header, and comes from a trusted proxy.
    pub proxy_header: bool,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket or thread.
    #[error("the proxy's sockets and threads cannot be set up")]
    Io(#[from] io::Error),
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Proxy {
    router: Arc<Router>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Serves `entries` from threads of its own. Starts and stops of machines run on the calling runtime.
    ///
    /// # Errors
    /// [`ServeError`], before any thread was started.
    pub fn serve(fleet: Arc<dyn Fleet>, options: Options, entries: &[Entry]) -> Result<Self, ServeError> {
        let names = Arc::<Names>::default();
        let mut tls = options.tls;
        if options.acme.is_some() {
            tls = Some(Source::Named {
                names: Arc::clone(&names),
                otherwise: tls.map(Box::new),
            });
        }
        if let Some(source) = &tls {
            let _usable = Tls::new(source.clone(), options.client_ca.clone())?;
        }
        let metrics = Arc::<Metrics>::default();
        let mut tasks = JoinSet::new();
        let relay = options.relay.map(|setup| {
            let (relay, runs) = Relay::new(setup, &*fleet, &metrics);
            tasks.spawn(runs);
            relay
        });
        let starts = Starts::new(Arc::clone(&fleet), Arc::clone(&metrics), Handle::current());
        let router = Arc::new(Router {
            fleet: Arc::clone(&fleet),
            hold: options.hold,
            unreachable: options.unreachable,
            hooks: options.hooks,
            cache: crate::replay::cache::ReplayCache::default(),
            key: options.key,
            ids: Arc::new(Ids::new(options.now)),
            challenges: Arc::default(),
            metrics: Arc::clone(&metrics),
            starts: Arc::new(starts),
            relay,
            #[cfg(feature = "traces")]
            tracer: options.tracer,
        });
        let gates = options.threads.max(1).saturating_mul(entries.len().max(1) * 2);
        let share = (options.connections / gates).clamp(LEAST, MAX_CONNECTIONS);
        let (stop, stopped) = watch::channel(false);
        let mut workers = Vec::new();
        for _ in 0..options.threads.max(1) {
            let copies = entries.iter().map(|entry| {
                Ok(Entry {
                    listener: entry.listener.try_clone()?,
                    port: entry.port,
                    region: Arc::clone(&entry.region),
                    proxy_header: entry.proxy_header,
                })
            });
            workers.push(Worker {
                router: Arc::clone(&router),
                share,
                entries: copies.collect::<io::Result<_>>()?,
                tls: tls.clone(),
                client_ca: options.client_ca.clone(),
                trust: options.trust.clone(),
                stopped: stopped.clone(),
            });
        }
        let mut proxy = Self {
            router,
            stop,
            threads: Vec::new(),
            tasks,
        };
        for worker in workers {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new().name("proxy".to_owned());
            let run = move || runtime.block_on(LocalSet::new().run_until(worker.run()));
            proxy.threads.push(thread.spawn(run)?);
        }
        if let Some(acme) = options.acme {
            let (challenges, ids) = (
                Arc::clone(&proxy.router.challenges),
                Arc::clone(&proxy.router.ids),
            );
            proxy
                .tasks
                .spawn(acme::run(acme, Arc::clone(&fleet), names, challenges, ids));
        }
        if let Some(every) = options.autostop {
            proxy.tasks.spawn(async move {
                loop {
                    sleep(every).await;
                    autostop::pass(&fleet, &metrics).await;
                }
            });
        }
        Ok(proxy)
    }

    /// Counters, in the text format of Prometheus.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.router.metrics.text(&self.router.fleet.now())
    }

    /// Something that reads the counters, whoever has the proxy; empty once that has ended.
    pub fn metrics_reader(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let router = Arc::downgrade(&self.router);
        move || {
            let router = router.upgrade();
            router.map_or_else(String::new, |router| router.metrics.text(&router.fleet.now()))
        }
    }

    /// Ends serving: what is under way has a moment to finish.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
        self.stop.send_replace(true);
        let threads = std::mem::take(&mut self.threads);
        // Their last moment is bounded.
        let join = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _panicked = thread.join();
            }
        });
        let _joined = join.await;
        self.router.starts.abort();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// One thread.
struct Worker {
    router: Arc<Router>,
    /// Connections of each gate at most.
    share: usize,
    entries: Vec<Entry>,
    tls: Option<Source>,
    client_ca: Option<PathBuf>,
    trust: Trust,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self) {
        let control = Control::new(Phase::Open);
        let mut gates = JoinSet::new();
        let mut accepting = JoinSet::new();
        let mut traffic = Vec::new();
        // It was tried before the thread was started.
        let tls = self
            .tls
            .clone()
            .and_then(|source| Tls::new(source, self.client_ca.clone()).ok())
            .map(Rc::new);
        for entry in std::mem::take(&mut self.entries) {
            let Ok(listener) = listening(&entry.listener) else {
                continue;
            };
            let mut gate = |tls: bool| {
                let entrance = Entrance {
                    edge: Arc::clone(&entry.region),
                    port: entry.port.unwrap_or(if tls { 443 } else { 80 }),
                    tls,
                };
                let (handed, counted) = self.gate(entrance, &control, &mut gates);
                traffic.push(counted);
                handed
            };
            let (plain, secured) = (gate(false), gate(true));
            let listening = Listening {
                router: Arc::clone(&self.router),
                edge: entry.region,
                port: entry.port,
                proxy_header: entry.proxy_header,
                trust: self.trust.clone(),
                tls: tls.clone(),
                handshakes: Handshakes::default(),
                plain,
                secured,
            };
            accepting.spawn_local(accept(Rc::new(listening), listener));
        }
        // It ends with the proxy, too.
        let _ended = self.stopped.wait_for(|stopped| *stopped).await;
        control.begin_drain();
        accepting.shutdown().await;
        control.last_turn().await;
        let quiet = async {
            for traffic in traffic {
                traffic.quiet().await;
            }
        };
        let _cut = timeout(DRAIN, quiet).await;
        control.set(Phase::Closed);
        while gates.join_next().await.is_some() {}
    }

    fn gate(
        &self,
        entrance: Entrance,
        control: &Control,
        gates: &mut JoinSet<()>,
    ) -> (mpsc::Sender<Handoff>, Rc<Traffic>) {
        let hold_ms = u64::try_from(self.router.hold.as_millis()).unwrap_or(u64::MAX);
        let limits = Limits {
            hold_ms: hold_ms.saturating_add(SLACK_MS),
            max_connections: self.share,
            ..Limits::default()
        };
        let authorizer = EdgeAuthorizer {
            router: Arc::clone(&self.router),
            entrance,
        };
        // Each permit has a route of its own.
        let nowhere = Upstream::Unix(PathBuf::new());
        let gate = Gate::new(authorizer, nowhere, Protocol::Http, limits, control.clone());
        let traffic = gate.traffic();
        let (handed, takes) = mpsc::channel(HANDED);
        gates.spawn_local(async move {
            // Without a listener of its own nothing keeps it from serving.
            let _served = gate.serve(None, takes).await;
        });
        (handed, traffic)
    }
}

fn listening(listener: &TcpListener) -> io::Result<tokio::net::TcpListener> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// The address that a client reaches a listener at.
///
/// # Errors
/// Where the socket has none.
pub fn address(entry: &Entry) -> io::Result<SocketAddr> {
    entry.listener.local_addr()
}
