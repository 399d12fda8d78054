//! `suijuris serve`: the daemon of many objects. Here its sockets are made, its events printed, its end heard; all else is
//! the supervisor's (`suijuris_supervisor::serve`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context as _;
use suijuris_api::event::Stamped;
use suijuris_core::activation::{Terms, requests};
use suijuris_core::owner_request::Ask;
use suijuris_custody::clock::Clock;
use suijuris_custody::owner::no_content;
use suijuris_custody::{relay, witness};
use suijuris_supervisor::Services;
use suijuris_supervisor::events::{EventSink, Origin};
use suijuris_supervisor::machine_notes::MachineNotes;
use suijuris_supervisor::output_logs::OutputLogs;
use suijuris_supervisor::serve::catalog::Catalog;
use suijuris_supervisor::serve::feed::{Feed, object_event};
use suijuris_supervisor::serve::roster::{Roster, Setup};
use suijuris_supervisor::serve::{api, front};
use suijuris_supervisor::services::fresh_server;
use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::{Driver as _, Isolation};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::depots::DepotArg;
use crate::event_printer::EventPrinter;
use crate::runtime_program::runtime_program;
use crate::{here, private, server, systemd, terminal};

/// Where it listens unless told otherwise.
const LISTEN: [&str; 2] = ["127.0.0.1:8080", "[::1]:8080"];

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
    /// Address to listen on, with its port (0: any free one); may be given several times
    /// [default: `127.0.0.1:8080` and `[::1]:8080`]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Vec<SocketAddr>,
    /// Path of the control socket [default: ROOT/run/control.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(flatten)]
    depot: DepotArg,
    /// One JSON event a line on standard output
    #[arg(long)]
    json: bool,
    /// Run machines as plain processes, without namespaces
    #[arg(long)]
    plain: bool,
}

/// `HOST:PORT`, or `:PORT` on loopback.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    full.parse()
        .map_err(|_| format!("`{text}` is no address: write 127.0.0.1:8080, [::1]:8080 or :8080"))
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
    let printer = Rc::new(ServePrinter(EventPrinter::new(args.json)));
    let depot = args.depot.open().await?;
    let isolation = args.plain.then_some(Isolation::Plain);
    let want = Want {
        isolation,
        ..Want::default()
    };
    let driver = Process::detect(Shim::itself("__shim"), want)
        .await
        .context("machines cannot be started on this host")?
        .keeping_in(&root.join("machines"))
        .context("machines that outlive the daemon cannot be kept")?;
    if let Some(warning) = driver.describe().warning() {
        terminal::note(&warning);
    }
    let machines = MachineNotes::open(&root.join("machine-notes"))?;
    let listeners = listen(&args.listen)?;
    let urls: Vec<String> = listeners
        .iter()
        .filter_map(|listener| Some(format!("http://{}", listener.local_addr().ok()?)))
        .collect();
    let control = args
        .control
        .clone()
        .unwrap_or_else(|| Catalog::control_socket(&root));
    let feed = Feed::new(printer.clone());
    let services = Rc::new(Services {
        driver,
        clock: Clock::start(None).context("the clock's pulse cannot be started")?,
        relay: relay::Service::start()?,
        server: fresh_server().context("the system gives no randomness")?,
        host: here::host(),
        runtime: runtime_program(),
        sink: Rc::new(feed.clone()),
        terms: Terms::DEFAULT,
        request_terms: requests::Terms::DEFAULT,
        logs: OutputLogs::default(),
        private: private::places(&args.depot, Some(&root)),
        machines: Some(machines),
        depot: Some(depot.clone()),
        // Whoever runs the daemon is the owner where their key is, and the host elsewhere.
        sign_sleep: Some(Box::new(|head, server| {
            here::sign_quietly(head, Ask::Sleep, no_content(), server)
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
    })?;
    roster.set_urls(urls.clone());
    let socket = api::bind(&control).with_context(|| format!("cannot make {}", control.display()))?;
    // Whoever reads `listening` may end this program.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    printer.listening(&urls, &control, &root);
    roster.load()?;
    let mut beside = JoinSet::new();
    beside.spawn_local(api::serve(roster.clone(), feed, socket));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn_local(front::accept(roster.clone(), listener));
    }
    systemd::notify("READY=1");
    let mut stopping = false;
    let ended = async {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {
                    // The next daemon goes on with the machines that run.
                    systemd::notify("STOPPING=1");
                    accepting.abort_all();
                    roster.detach();
                    stopping = true;
                    continue;
                }
                () = roster.ended(), if stopping => return,
            }
            if !stopping {
                systemd::notify("STOPPING=1");
                accepting.abort_all();
            }
            roster.stop(stopping);
            stopping = true;
        }
    };
    ended.await;
    beside.shutdown().await;
    let _ = std::fs::remove_file(&control);
    Ok(ExitCode::SUCCESS)
}

/// The sockets that were asked for; of the default ones those that this host has.
fn listen(asked: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |address: SocketAddr| -> std::io::Result<TcpListener> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let wrong = |address: &SocketAddr| {
        format!(
            "cannot listen on {address}: another program may have it; choose with --listen 127.0.0.1:PORT (0: any free one)"
        )
    };
    if !asked.is_empty() {
        let bound = asked
            .iter()
            .map(|address| bind(*address).with_context(|| wrong(address)));
        return bound.collect();
    }
    let mut bound = Vec::new();
    for text in LISTEN {
        let address: SocketAddr = text.parse()?;
        match bind(address) {
            Ok(listener) => bound.push(listener),
            // A host without IPv6 has no such address.
            Err(_none) if address.is_ipv6() && !bound.is_empty() => {}
            Err(error) => return Err(anyhow::Error::new(error).context(wrong(&address))),
        }
    }
    Ok(bound)
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
    fn listening(&self, urls: &[String], control: &std::path::Path, root: &std::path::Path) {
        if self.0.is_json() {
            let event = serde_json::json!({
                "event": "listening",
                "at": format!("{:.3}", jiff::Timestamp::now()),
                "urls": urls,
                "control": control,
                "root": root,
                "pid": std::process::id(),
            });
            self.0.raw(event.to_string());
            return;
        }
        self.0.raw(format!("listening  {}", urls.join("  ")));
        self.0.raw(format!("control    {}", control.display()));
        self.0.raw(format!("objects    {}", root.display()));
        self.0.raw("Ctrl-C     puts them to sleep and ends".to_owned());
    }
}
