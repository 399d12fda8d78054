//! What the proxy is told of machines, by whoever runs them: a snapshot that costs a request one pointer, and three things that
//! can be asked.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::load::Load;

/// A future that may move between threads.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whoever runs machines.
pub trait Fleet: Debug + Send + Sync + 'static {
    /// The apps as they are now. Called for each request: it shares what it made before where nothing has changed.
    fn now(&self) -> Arc<Snapshot>;
    /// Starts a machine that is stopped or suspended, and waits until it is started. May be asked again meanwhile, and goes on
    /// where nobody waits any more.
    fn start(&self, machine: &str) -> Boxed<Result<(), StartError>>;
    /// Stops or suspends a machine that is started; one that cannot be suspended is stopped.
    fn rest(&self, machine: &str, how: Rest) -> Boxed<Result<(), StartError>>;
    /// A connection to a port of a machine.
    fn connect(&self, machine: &str, port: u16) -> Boxed<io::Result<TcpStream>>;
}

/// Why a machine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// How a machine rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Its memory goes.
    Stop,
    /// Its memory stays.
    Suspend,
}

/// All apps at one instant.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub apps: HashMap<Arc<str>, Arc<App>>,
    /// Apps by an address that is theirs alone.
    pub addresses: HashMap<IpAddr, Arc<str>>,
    /// Apps by names of their own.
    pub hostnames: HashMap<Arc<str>, Arc<str>>,
    /// Whether any service has a hook.
    pub hooked: bool,
}

/// An app.
#[derive(Debug)]
pub struct App {
    /// Its name, which is also a name below the proxy's domain.
    pub name: Arc<str>,
    /// Requests are replayed inside an org only,
    pub org: Arc<str>,
    /// and inside a network of it.
    pub network: Arc<str>,
    /// Its machines, destroyed ones left out.
    pub machines: Vec<Arc<Machine>>,
}

/// Where a machine is, as far as the proxy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Started,
    /// It is on its way there.
    Starting,
    /// It can be started.
    Resting,
    /// It will rest in a moment.
    Moving,
    /// Neither runs nor can be started.
    Away,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Its id.
    pub id: Arc<str>,
    /// Its region's code.
    pub region: Arc<str>,
    /// Where it is.
    pub state: State,
    /// Gets no traffic.
    pub cordoned: bool,
    /// The region in which `min_machines_running` counts.
    pub primary_region: Arc<str>,
    /// What of it is served.
    pub services: Vec<Arc<Service>>,
}

/// A service of one machine.
#[derive(Debug)]
pub struct Service {
    /// Where the machine listens.
    pub internal_port: u16,
    /// Where the proxy serves it.
    pub ports: Vec<Port>,
    /// What is counted.
    pub counts: Counts,
    /// Above this it is used only where all are.
    pub soft: usize,
    /// Above this it is not used.
    pub hard: Option<usize>,
    /// A request starts its machine.
    pub autostart: bool,
    /// What becomes of its machine without traffic.
    pub autostop: Option<Rest>,
    /// Machines that stay in the primary region.
    pub min_running: usize,
    /// Its checks pass, or there are none.
    pub healthy: bool,
    /// Who is asked before a request passes to it, beside the operator's hook: `http://APP.internal:PORT/PATH`, an app of the same org
    /// and network. What is no such address lets nothing pass.
    pub hook: Option<Arc<str>>,
    /// It is told what TLS came to, and which certificate a client showed.
    pub tells_tls: bool,
    /// What is on its way there now. The same for as long as the machine is.
    pub load: Arc<Load>,
}

/// What a service's load is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// Connections: a request has one of its own.
    Connections,
    /// Requests: connections to the machine are kept for a few seconds.
    Requests,
}

/// A port, or some, at which the proxy serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Port {
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
    /// HTTP is spoken.
    pub http: bool,
    /// TLS ends at the proxy.
    pub tls: bool,
    /// The same after PostgreSQL's question.
    pub pg_tls: bool,
    /// The machine gets a PROXY header of this version.
    pub proxy_proto: Option<u8>,
    /// Clear text is sent to https.
    pub force_https: bool,
    /// The machine speaks HTTP/2 in clear text.
    pub h2c: bool,
    /// Answers pass as they are.
    pub pristine: bool,
    /// Fields that answers get: name in lower case, values; none removes it.
    pub response_headers: Vec<(String, Vec<String>)>,
    /// Replays that are remembered.
    pub replay_cache: Vec<CacheRule>,
}

/// Which replays are remembered, by what of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRule {
    /// The path begins with this.
    pub path_prefix: String,
    /// For how long, seconds.
    pub ttl_s: u64,
    /// A cookie of this name; a header otherwise.
    pub cookie: bool,
    /// The cookie's or header's name.
    pub name: String,
    /// A client may ask for it to be left out.
    pub allow_bypass: bool,
}

impl Service {
    /// The port of the service that is `port`.
    #[must_use]
    pub fn port(&self, port: u16) -> Option<(usize, &Port)> {
        let mut ports = self.ports.iter().enumerate();
        ports.find(|(_, served)| (served.from..=served.to).contains(&port))
    }
}

impl Machine {
    /// The service at `port`, and which of its ports that is.
    #[must_use]
    pub fn service(&self, port: u16) -> Option<(&Arc<Service>, usize)> {
        self.services
            .iter()
            .find_map(|service| Some((service, service.port(port)?.0)))
    }
}

impl App {
    /// How the app serves `port`: what the first of its machines that does says.
    #[must_use]
    pub fn port(&self, port: u16) -> Option<&Port> {
        self.machines
            .iter()
            .flat_map(|machine| &machine.services)
            .find_map(|service| Some(service.port(port)?.1))
    }
}
