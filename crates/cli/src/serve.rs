//! `suijuris serve`: the daemon of many objects. Here its sockets are made, its events printed, its end heard; all else is
//! the supervisor's (`suijuris_supervisor::serve`).

mod listen;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use suijuris_api::event::Stamped;
use suijuris_core::activation::requests;
use suijuris_core::key::PublicKey;
use suijuris_core::owner_request::Ask;
use suijuris_custody::clock::Clock;
use suijuris_custody::owner::no_content;
use suijuris_custody::{relay, witness};
#[cfg(feature = "tls")]
use suijuris_edge::tls::Source;
use suijuris_edge::tls::Tls;
use suijuris_edge::trust::{MAX_TRUSTED, Trust, network};
use suijuris_supervisor::Services;
use suijuris_supervisor::destinations;
use suijuris_supervisor::events::{EventSink, Origin};
use suijuris_supervisor::machine_notes::MachineNotes;
use suijuris_supervisor::output_logs::OutputLogs;
use suijuris_supervisor::serve::catalog::Catalog;
use suijuris_supervisor::serve::edge::{Edge, Entrance};
use suijuris_supervisor::serve::feed::{Feed, object_event};
use suijuris_supervisor::serve::receiving::Receive;
use suijuris_supervisor::serve::roster::{Roster, Setup};
use suijuris_supervisor::serve::{api, front};
use suijuris_supervisor::services::{SpentRequests, fresh_server};
use suijuris_vehicle::Driver;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::access_log::AccessLogArg;
use crate::depots::DepotArg;
use crate::event_printer::EventPrinter;
use crate::runtime_program::runtime_program;
#[cfg(feature = "tls")]
use crate::trust;
use crate::vehicle::{Kind, VehicleArg};
use crate::{Usage, carrier, here, images, key_wrap, private, server, systemd, terminal, vehicle};
use listen::{Listen, Listening, listen};

/// Threads that wait for disks, at most: one gains nothing from more.
const BLOCKING_THREADS: usize = 4;

/// What hosts of objects end with.
const DOMAIN: &str = "localhost";

/// Serve many objects from one process, until Ctrl-C puts them to sleep
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Objects and classes lie under one directory; `suijuris add DIR` adds one. Callers reach an instance of a class at
http://KEY.CLASS.localhost:8080/ or http://127.0.0.1:8080/o/CLASS/KEY/, an object at http://NAME.localhost:8080/ or
http://127.0.0.1:8080/o/NAME/. Awake objects outlive a daemon that is killed or sent SIGHUP: the next one on the same
directory takes them over. Exit codes: 0 ended, 2 usage, 3 broken input or environment.

Example:
  suijuris serve &
  suijuris add examples/hello && curl http://hello.localhost:8080/")]
pub(crate) struct Args {
    /// Directory of objects and classes [default: suijuris/serve under your data folder]
    root: Option<PathBuf>,
    /// Address to listen on, with its port (0: any free one); `https://ADDR` for TLS, `proxy://ADDR` and
    /// `proxy+https://ADDR` where a trusted proxy begins each connection with a PROXY header; may be given several times
    /// [default: `127.0.0.1:8080` and `[::1]:8080`]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Listen>,
    /// Network of your own proxies, whose X-Forwarded-For and PROXY headers count, as in 10.0.0.0/8; may be given
    /// several times
    #[arg(long, value_name = "CIDR", value_parser = network)]
    trust: Vec<ipnet::IpNet>,
    /// Certificate chain for https://, PEM; read again when it changes [default: made by `suijuris trust`'s authority]
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Authorities whose certificates clients may show, PEM [default: none; those of the development authority with its
    /// own certificates]
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Address of the control API, for who shows a token (`suijuris token api`); may be given several times
    #[arg(long, value_name = "ADDR", value_parser = api_address)]
    api: Vec<SocketAddr>,
    /// Path of the control socket [default: ROOT/run/control.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(flatten)]
    depot: DepotArg,
    /// Receive objects of this owner from other servers (`suijuris key` prints it); may be given several times
    #[arg(long, value_name = "KEY")]
    receive: Vec<PublicKey>,
    /// Program of this host that such objects may run, as their command names it; may be given several times
    #[arg(long, value_name = "PROGRAM")]
    receive_command: Vec<String>,
    /// Let such objects have this host's network where they want it (`network = "host"`)
    #[arg(long)]
    receive_network: bool,
    #[command(flatten)]
    access_log: AccessLogArg,
    /// One JSON event a line on standard output
    #[arg(long)]
    json: bool,
    /// Run machines as plain processes, without namespaces
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    vehicle: VehicleArg,
}

impl Args {
    /// From whom objects are received.
    fn receiving(&self) -> Receive {
        Receive {
            receive: self.receive.clone(),
            commands: self.receive_command.clone(),
            network: self.receive_network,
        }
    }
}

/// `HOST:PORT`, or `:PORT` on loopback.
fn api_address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    full.parse()
        .map_err(|_| format!("`{text}` is no address: write 127.0.0.1:9000, [::1]:9000 or :9000"))
}

/// A socket of the control API.
fn api_listener(address: &SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let wrong =
        || format!("cannot listen on {address}: another program may have it; choose another one with --api");
    bind().with_context(wrong)
}

/// Runs the daemon to its end.
///
/// # Errors
/// Whatever keeps it from starting; later trouble is told as events.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // It signs with the owner's key, and workloads may run as the same user.
    suijuris_sys::confine::hide_memory();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&tokio, serve(args))
}

async fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    let root = match &args.root {
        Some(root) => std::path::absolute(root)?,
        None => server::default_root()?,
    };
    let catalog = Catalog::open(&root)?;
    let root = root.canonicalize()?;
    let processes = vehicle::processes(args.plain)
        .await?
        .keeping_in(&root.join("machines"))
        .context("machines that outlive the daemon cannot be kept")?;
    match args.vehicle.vehicle.unwrap_or(Kind::Process) {
        Kind::Process => {
            let driver = processes.starting_ahead(args.vehicle.ahead(2));
            serve_on(args, root, catalog, driver).await
        }
        kind => {
            let driver = vehicle::virtual_machines(kind, &args.vehicle, processes, root.join("vm"))?;
            serve_on(args, root, catalog, driver).await
        }
    }
}

async fn serve_on<D: Driver>(
    args: &Args,
    root: PathBuf,
    catalog: Catalog,
    driver: D,
) -> anyhow::Result<ExitCode> {
    let printer = Rc::new(ServePrinter(EventPrinter::new(args.json)));
    let depot = args.depot.open().await?;
    if let Some(warning) = driver.describe().warning() {
        terminal::note(&warning);
    }
    let access_log = args.access_log.open()?;
    let machines = MachineNotes::open(&root.join("machine-notes"))?;
    let listeners = listen(&args.listen)?;
    let edge = Rc::new(edge(args, &listeners)?);
    // Callers come by themselves where no proxy is required.
    let (proxied, direct): (Vec<_>, Vec<_>) = listeners.iter().partition(|at| at.entrance.proxy);
    let of = |listeners: Vec<&Listening>| listeners.into_iter().filter_map(Listening::url).collect();
    let (urls, proxied): (Vec<String>, Vec<String>) = (of(direct), of(proxied));
    let control = args
        .control
        .clone()
        .unwrap_or_else(|| Catalog::control_socket(&root));
    let feed = Feed::new(printer.clone());
    let terms = vehicle::terms(driver.describe().descriptors);
    let services = Rc::new(Services {
        driver,
        clock: Arc::new(Clock::start_at_rest(None).context("the clock's pulse cannot be started")?),
        relay: relay::Service::start()?,
        server: fresh_server().context("the system gives no randomness")?,
        spent: SpentRequests::default(),
        host: here::host(),
        runtime: runtime_program(),
        sink: Rc::new(feed.clone()),
        terms,
        request_terms: requests::Terms::DEFAULT,
        logs: OutputLogs::default(),
        access_log: access_log.clone(),
        private: private::places(&args.depot, Some(&root)),
        machines: Some(machines),
        depot: Some(depot.clone()),
        images: images::store().ok(),
        destinations: destinations::read(&root.join(destinations::FILE))?,
        // Whoever runs the daemon is the owner where their key is, and the host elsewhere.
        verifying: tokio::sync::Semaphore::new(1),
        publishing: tokio::sync::Semaphore::new(suijuris_supervisor::services::PUBLISHING),
        sign_sleep: Some(Box::new(|head, server| {
            here::sign_quietly(&here::SigningContext::of(head), Ask::Sleep, no_content(), server)
                .ok()
                .flatten()
        })),
    });
    let roster = Roster::new(Setup {
        services,
        catalog,
        depot: Some(depot),
        witness: witness::Service::start()?,
        domain: DOMAIN.to_owned(),
        wrap: Arc::new(key_wrap::Age),
        receive: Receive::read(&root, args.receiving())?,
    })?;
    roster.set_urls(urls.clone());
    let host = listeners
        .iter()
        .find_map(|at| Some(at.socket.local_addr().ok()?.ip()));
    roster.set_edge(edge.clone(), host);
    let on_address = args.api.iter().map(api_listener);
    let on_address = on_address.collect::<anyhow::Result<Vec<TcpListener>>>()?;
    let addresses: Vec<String> = on_address
        .iter()
        .filter_map(|listener| Some(format!("http://{}", listener.local_addr().ok()?)))
        .collect();
    let socket = api::bind(&control).with_context(|| format!("cannot make {}", control.display()))?;
    // Whoever reads `listening` may end this program.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    printer.listening((&urls, &proxied), (&control, &addresses), &root);
    roster.load()?;
    let mut beside = JoinSet::new();
    let api = api::Api::new(roster.clone(), feed, carrier::compiles)?;
    beside.spawn_local(api::serve(api.clone(), socket));
    for listener in on_address {
        beside.spawn_local(api::serve_address(api.clone(), listener));
    }
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let Listening { socket, entrance } = listener;
        accepting.spawn_local(front::accept(
            roster.clone(),
            edge.clone(),
            socket,
            entrance,
            front::Way::Http,
        ));
    }
    systemd::notify("READY=1");
    beside.spawn_local(systemd::beat());
    let mut stopping = false;
    let ended = async {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {
                    // The next daemon goes on with the machines that run.
                    systemd::notify("STOPPING=1");
                    roster.detach();
                    roster.close_all_ports();
                    stopping = true;
                    continue;
                }
                () = roster.ended(), if stopping => return,
            }
            if !stopping {
                systemd::notify("STOPPING=1");
            }
            roster.stop(stopping);
            roster.close_all_ports();
            stopping = true;
        }
    };
    ended.await;
    // Whoever was accepted last is told; that is bounded.
    while accepting.join_next().await.is_some() {}
    beside.shutdown().await;
    access_log.close();
    let _ = std::fs::remove_file(&control);
    Ok(ExitCode::SUCCESS)
}

/// What connections pass before the objects.
fn edge(args: &Args, listening: &[Listening]) -> anyhow::Result<Edge> {
    let wants = |wanted: fn(&Entrance) -> bool| listening.iter().any(|at| wanted(&at.entrance));
    if args.trust.len() > MAX_TRUSTED {
        anyhow::bail!(Usage(format!(
            "more than {MAX_TRUSTED} networks are trusted: name larger ones"
        )));
    }
    if wants(|entrance| entrance.proxy) && args.trust.is_empty() {
        anyhow::bail!(Usage(
            "no proxy is trusted, so that nobody may come to proxy://: name the network of your proxies with --trust".to_owned()
        ));
    }
    let trust = Trust::new(args.trust.clone());
    Ok(Edge::new(trust, tls(args, wants(|entrance| entrance.tls))?))
}

#[cfg(not(feature = "tls"))]
fn tls(args: &Args, needed: bool) -> anyhow::Result<Option<Tls>> {
    if needed || args.certificate.is_some() || args.client_ca.is_some() {
        anyhow::bail!("this program was built without TLS: build it with `cargo build --release`");
    }
    Ok(None)
}

#[cfg(feature = "tls")]
fn tls(args: &Args, needed: bool) -> anyhow::Result<Option<Tls>> {
    Ok(match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.clone(), key.clone());
            let source = Source::Files { certificate, key };
            Some(Tls::new(source, args.client_ca.clone())?)
        }
        // Raw connections by TLS may come later.
        _ => match trust::load() {
            Ok(Some(own)) => {
                let client_ca = args.client_ca.clone().unwrap_or(own.certificate);
                Some(Tls::new(Source::Development(own.authority), Some(client_ca))?)
            }
            Ok(None) if needed => anyhow::bail!(
                "there is no certificate for https://: name one with --certificate and --key, or make an authority for development with `suijuris trust`"
            ),
            Err(error) if needed => return Err(error),
            Ok(None) | Err(_) => None,
        },
    })
}

/// Prints the events of all objects, each with whose it is.
struct ServePrinter(EventPrinter);

impl EventSink for ServePrinter {
    fn event(&self, origin: &Origin, event: Stamped) {
        if self.0.is_json() {
            if let Ok(line) = serde_json::to_string(&object_event(origin, event)) {
                self.0.raw(line);
            }
        } else {
            let label = match &origin.instance {
                Some((class, key)) => format!("{class}/{key}"),
                None => origin.name.clone(),
            };
            self.0.labelled(&label, &event);
        }
    }
}

impl ServePrinter {
    /// The first event.
    fn listening(
        &self,
        (urls, proxied): (&[String], &[String]),
        (control, api): (&std::path::Path, &[String]),
        root: &std::path::Path,
    ) {
        if self.0.is_json() {
            let event = serde_json::json!({
                "event": "listening",
                "at": format!("{:.3}", jiff::Timestamp::now()),
                "urls": urls,
                "proxied": proxied,
                "control": control,
                "api": api,
                "root": root,
                "pid": std::process::id(),
            });
            self.0.raw(event.to_string());
            return;
        }
        let all: Vec<&str> = urls.iter().chain(proxied).map(String::as_str).collect();
        self.0.raw(format!("listening  {}", all.join("  ")));
        self.0.raw(format!("control    {}", control.display()));
        if !api.is_empty() {
            self.0.raw(format!("api        {}", api.join("  ")));
        }
        self.0.raw(format!("objects    {}", root.display()));
        self.0.raw("Ctrl-C     puts them to sleep and ends".to_owned());
    }
}
