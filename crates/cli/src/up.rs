//! `suijuris up`: one object on this machine, from its directory to its port.
//!
//! It is the supervisor (`suijuris_supervisor`) with one object: here the object is opened, the socket is made, the control
//! socket is served and events are printed. `creation` opens, `front` accepts, `control_server` hears other commands.

mod amending;
mod control_server;
pub(crate) mod creation;
mod front;
mod places;
mod watching;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use suijuris_api::Event;
use suijuris_core::activation::{Stop, requests};
use suijuris_core::lineage::Phase as Recorded;
use suijuris_core::manifest::{Manifest, Protocol};
use suijuris_core::owner_request::Ask;
use suijuris_custody::claim::Answer;
use suijuris_custody::owner::no_content;
use suijuris_custody::relay;
use suijuris_door::PreparedBundle;
use suijuris_supervisor::output_logs::OutputLogs;
use suijuris_supervisor::services::{STOP_WITHIN, SpentRequests, fresh_server};
use suijuris_supervisor::{Ended, Front, Input, ObjectActor, ObjectHandle, Resting, Services};
use suijuris_vehicle::Driver;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::access_log::AccessLogArg;
use crate::depots::DepotArg;
use crate::event_printer::EventPrinter;
use crate::object_paths::{self, ObjectPaths, make_socket_dir};
use crate::runtime_program::runtime_program;
use crate::server::data_folder;
use crate::vehicle::{Kind, VehicleArg};
use crate::{claiming, control, here, images, private, registry, terminal, vehicle};

use creation::{Created, Opened};
use watching::{Watch, Watched};

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  suijuris up examples/hello\n  curl http://127.0.0.1:PORT/\n\nCtrl-C puts the object to sleep and ends `up`. Exit codes: 0 asleep, 1 it refused to sleep or to be\namended, or this copy is not the object, 2 usage, 3 broken input or environment."
)]
pub(crate) struct Args {
    /// Directory with object.toml and governance.cedar
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Port on loopback; any free one where absent
    #[arg(long, conflicts_with = "listen")]
    pub port: Option<u16>,
    /// Address to listen on, with its port (0: any free one); may be given several times [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<SocketAddr>,
    /// The object's data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub depot: DepotArg,
    /// Another owner's approval of the changed definition, from `suijuris approve`; may be given several times
    #[arg(long = "approval", value_name = "FILE")]
    pub approvals: Vec<PathBuf>,
    /// When the definition is saved, check it and show which recorded decisions would come out otherwise; `a` and Enter propose it
    /// to the object, `--watch=amend` does at once
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "ask", require_equals = true)]
    pub watch: Option<Watch>,
    /// Begin another object where one was whose data directory is gone
    #[arg(long)]
    pub anew: bool,
    /// Run the definition in force where the object refuses the one in the files
    #[arg(long)]
    pub in_force: bool,
    /// Places that the object may move to of its own accord, as JSON [default: destinations.json in its data directory]
    #[arg(long, value_name = "FILE")]
    pub destinations: Option<PathBuf>,
    #[command(flatten)]
    pub access_log: AccessLogArg,
    /// One JSON event a line on standard output
    #[arg(long)]
    pub json: bool,
    /// Run machines as plain processes, without namespaces
    #[arg(long)]
    pub plain: bool,
    #[command(flatten)]
    pub vehicle: VehicleArg,
}

/// Runs `up` to its end.
///
/// # Errors
/// Whatever keeps it from starting; later trouble is told as events.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    // It signs with the owner's key, and workloads may run as the same user.
    suijuris_sys::confine::hide_memory();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&tokio, up(args))
}

/// Whoever runs `up` chooses what carries the machine; else it is what did last.
async fn up(args: Args) -> anyhow::Result<ExitCode> {
    let paths = object_paths::locate(Some(&args.dir), args.data.as_deref())?;
    let kind = match args.vehicle.vehicle {
        Some(kind) => kind,
        None => vehicle::noted(&paths.data)?,
    };
    match kind {
        Kind::Process => {
            let driver = vehicle::processes(args.plain).await?;
            let driver = driver.starting_ahead(args.vehicle.ahead(1));
            up_on(args, paths, kind, driver).await
        }
        Kind::Qemu | Kind::Firecracker => {
            let (inner, state) = (vehicle::processes(false).await?, data_folder()?.join("vm"));
            let driver = vehicle::virtual_machines(kind, &args.vehicle, inner, state)?;
            up_on(args, paths, kind, driver).await
        }
    }
}

async fn up_on<D: Driver>(args: Args, paths: ObjectPaths, kind: Kind, driver: D) -> anyhow::Result<ExitCode> {
    if let Some(control::Running { pid, url, .. }) = control::running(&paths) {
        anyhow::bail!(
            "{} runs already, at {url}: end it first (Ctrl-C, or `kill -INT {pid}`), or name other data with --data",
            paths.name()
        );
    }
    let printer = Rc::new(EventPrinter::new(args.json));
    // What is saved from here on is noticed, however long the start takes.
    let seen = paths.object_dir.as_deref().map(watching::fingerprint);
    if let Some(dir) = &paths.object_dir {
        images::pin(dir, images::Lookup::All).await?;
    }
    let places = places::known(args.destinations.as_deref(), &paths.data)?;
    let opened = creation::open(&paths, args.anew, &printer)?;
    let has_descriptors = driver.describe().descriptors;
    vehicle::fits(driver.describe(), opened.manifest())?;
    if let Some(warning) = driver.describe().warning() {
        terminal::note(&warning);
    }
    let listeners = listen(&args)?;
    let url = url(&opened, &listeners)?;
    let mut claim = claiming::open(&args.depot, opened.manifest(), &opened.writer, &printer).await?;
    let mut listening = listening(&paths, &opened, &driver, &url);
    // Before the first record: a copy that is not the object writes none.
    let now = opened.clock.reading().wall;
    let answer = claim.rest(&opened.writer, now).await?;
    if let Answer::Unasked(why) = &answer {
        claiming::say_unasked(&printer, why);
    }
    if let Answer::Refused(copy) = answer {
        if args.json {
            // What scripts read first.
            printer.event(listening);
        }
        printer.event(copy.event());
        let name = terminal::quoted(&paths.data.display().to_string());
        terminal::note(&format!(
            "nothing was served: one copy of an object runs at a time, and only the newest. `suijuris restore {name}` makes this one \
             the object again and gives up what the other recorded; `suijuris fork` makes a second object"
        ));
        return Ok(ExitCode::from(1));
    }
    let proposed = opened.manifest().clone();
    let created = match creation::settle(opened, &args.approvals, &printer)? {
        creation::Prepared::Ready(created) => *created,
        creation::Prepared::Refused(created) if args.in_force => {
            let bundle = &created.bundle;
            if bundle.manifest.gate.protocol != proposed.gate.protocol {
                anyhow::bail!(
                    "the definition in force has another gate.protocol than the files: write the same there to run it with --in-force"
                );
            }
            if let Event::Listening { bundle: shown, .. } = &mut listening {
                *shown = bundle.id().to_string();
            }
            if !same_witness(&bundle.manifest, &proposed) {
                // The claim was asked for in the terms of the files.
                if let Err(why) = claim.leave(None).await {
                    printer.error(claiming::CODE_DEPOT, &why);
                }
                claim = claiming::open(&args.depot, &bundle.manifest, &created.writer, &printer).await?;
                let now = created.clock.reading().wall;
                if let Answer::Refused(copy) = claim.rest(&created.writer, now).await? {
                    printer.event(copy.event());
                    return Ok(ExitCode::from(1));
                }
            }
            terminal::note(
                "the definition in force is run: `suijuris diff` shows how that in the files differs",
            );
            *created
        }
        creation::Prepared::Refused(_) => {
            terminal::note(
                "the object goes on as it was: `suijuris diff` shows both definitions, --in-force runs the one in force",
            );
            if let Err(why) = claim.leave(None).await {
                printer.error(claiming::CODE_DEPOT, &why);
            }
            return Ok(ExitCode::from(1));
        }
    };
    vehicle::note(&paths.data, kind)?;
    let access_log = args.access_log.open()?;
    let Created {
        writer,
        bundle,
        clock,
    } = created;
    let services = Rc::new(Services {
        driver,
        clock: Arc::new(clock),
        relay: relay::Service::start()?,
        server: fresh_server().context("the system gives no randomness")?,
        spent: SpentRequests::default(),
        host: here::host_on(kind.facts()),
        runtime: runtime_program(),
        sink: printer.clone(),
        terms: vehicle::terms(has_descriptors),
        request_terms: requests::Terms::DEFAULT,
        logs: OutputLogs::default(),
        access_log: access_log.clone(),
        private: private::places(&args.depot, None),
        // Machines of `up` end with it.
        machines: None,
        depot: None,
        images: images::store().ok(),
        destinations: places.clone(),
        // Whoever runs `up` is the owner where their key is, and the host elsewhere.
        verifying: tokio::sync::Semaphore::new(1),
        publishing: tokio::sync::Semaphore::new(suijuris_supervisor::services::PUBLISHING),
        sign_sleep: Some(Box::new(|head, server| {
            here::sign(&here::SigningContext::of(head), Ask::Sleep, no_content(), server)
                .ok()
                .flatten()
        })),
    });
    let (id, name) = {
        let state = writer.published();
        (state.head().object.to_string(), state.head().name.clone())
    };
    let protocol = bundle.manifest.gate.protocol;
    if matches!(protocol, Protocol::Http | Protocol::H2c) {
        defer(&listeners);
    }
    let (front, accepting) = fronts(listeners, has_descriptors)?;
    let started = bundle.clone();
    let server = services.server;
    let resting = Resting {
        paths: paths.clone(),
        writer,
        prepared: Arc::new(PreparedBundle::new(bundle)?),
        claim,
        front,
        url: url.clone(),
        instance: None,
        served_as: None,
        foreign: None,
    };
    let (actor, object) = ObjectActor::new(services, resting)?;
    let looks = object.clone();
    make_socket_dir(&paths.control_socket())?;
    let control = control_server::bind(&paths.control_socket())?;
    // Whoever reads `listening` may end this program.
    let signals = hear_signals(object.clone())?;
    registry::note(&paths, &id, &name, &url);
    printer.event(listening);
    // It may have departed before this was started, and have been cut off then.
    places::hand_out(&paths, &places, &args.depot, &printer).await;
    let mut beside = JoinSet::new();
    beside.spawn_local(control_server::serve(control, object.clone()));
    let mut fronts = JoinSet::new();
    for (listener, always) in accepting {
        fronts.spawn_local(front::accept(listener, always, protocol, object.clone()));
    }
    beside.spawn_local(signals);
    if let Some(how) = args.watch {
        let watched = Watched {
            how,
            paths: paths.clone(),
            approvals: args.approvals,
            object: object.clone(),
            server,
            seen: seen.unwrap_or_default(),
            started,
            printer: printer.clone(),
        };
        beside.spawn_local(watched.run());
    }
    let ended = actor.run().await;
    // Whoever was accepted last is told; that is bounded.
    while fronts.join_next().await.is_some() {}
    beside.shutdown().await;
    let _ = std::fs::remove_file(paths.control_socket());
    registry::forget_run(&paths);
    access_log.close();
    let Ended {
        lost,
        refused_to_sleep,
    } = ended?;
    let has_departed = looks.closed() == Some(Recorded::Departed.as_str());
    let stays = has_departed && !places::hand_out(&paths, &places, &args.depot, &printer).await;
    Ok(ExitCode::from(u8::from(lost || refused_to_sleep || stays)))
}

/// Ctrl-C, SIGTERM and the end of the terminal ask the object to sleep; a second one stops its machine.
fn hear_signals(object: ObjectHandle) -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Under nohup it stays ignored.
    let mut hangup = match suijuris_sys::signals::is_ignored(SignalKind::hangup().as_raw_value()) {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    Ok(async move {
        let mut stop = Stop::Graceful(STOP_WITHIN);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = heard(&mut hangup) => {}
            }
            // The actor has ended already where it takes nothing.
            let _ = object.send(Input::Stop(stop)).await;
            stop = Stop::Now;
        }
    })
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The sockets that were asked for.
fn listen(args: &Args) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port.unwrap_or(0)));
    let addresses = if args.listen.is_empty() {
        vec![loopback]
    } else {
        args.listen.clone()
    };
    let bind = |address: SocketAddr| {
        let listener = std::net::TcpListener::bind(address).with_context(|| {
            format!("cannot listen on {address}: choose another port with --port or --listen; port 0 is any free one")
        })?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    addresses.into_iter().map(bind).collect()
}

/// Time for a client to ask something, before its connection is accepted without.
const ASKED_WITHIN_S: i32 = 10;

/// Has the kernel keep who has not asked yet, so that nobody waits unheard in a machine whose object falls asleep meanwhile.
fn defer(listeners: &[std::net::TcpListener]) {
    for listener in listeners {
        // Where the kernel does not do it, who asks at that moment is told to ask again.
        let _told_to_ask_again = suijuris_sys::sockets::defer_accept(listener.as_fd(), ASKED_WITHIN_S);
    }
}

/// Where the object's connections come from, and what this process listens on: all the time where there are several
/// sockets, of which its runtime could not inherit each, or where it can inherit none.
fn fronts(
    listeners: Vec<std::net::TcpListener>,
    inherited: bool,
) -> anyhow::Result<(Front, Vec<(TcpListener, bool)>)> {
    let shared = listeners.len() != 1 || !inherited;
    let front = match listeners.first().filter(|_| !shared) {
        Some(listener) => Front::Own(listener.try_clone()?),
        None => Front::Shared,
    };
    let listen = |listener| anyhow::Ok((TcpListener::from_std(listener)?, shared));
    let listeners = listeners.into_iter().map(listen).collect::<Result<_, _>>()?;
    Ok((front, listeners))
}

/// Whether a claim in the terms of one is one in those of the other.
fn same_witness(one: &Manifest, other: &Manifest) -> bool {
    (one.witness, one.lease, one.grace) == (other.witness, other.lease, other.grace)
}

/// Where callers reach the object: at the first socket, by a name of this host where it listens on every address.
fn url(opened: &Opened, listeners: &[std::net::TcpListener]) -> anyhow::Result<String> {
    let listener = listeners.first().context("nothing to listen on")?;
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(match opened.manifest().gate.protocol {
        Protocol::Http | Protocol::H2c => format!("http://{address}/"),
        Protocol::Tcp | Protocol::FdPassing => format!("tcp://{address}"),
    })
}

/// The first event.
fn listening(paths: &ObjectPaths, opened: &Opened, driver: &impl Driver, url: &str) -> Event {
    let state = opened.writer.published();
    Event::Listening {
        url: url.to_owned(),
        object: state.head().object.to_string(),
        name: state.head().name.clone(),
        agent_socket: paths.agent_socket().display().to_string(),
        bundle: opened.bundle_id().to_string(),
        machine: driver.describe().to_string(),
    }
}
