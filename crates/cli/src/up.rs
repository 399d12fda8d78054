//! `suijuris up`: one object on this machine, from its directory to its port.
//!
//! `up` owns what outlives every activation: the listening socket, the timers, the requests that arrive while the
//! object sleeps. It decides nothing for the object: asleep, it asks the object's own rules at the `door`; awake, the
//! runtime in the machine has the socket and decides. `house` is the loop, `machine` starts machines, `desk` hears
//! the other commands, `say` prints.

mod amending;
mod awake;
pub(crate) mod creation;
mod desk;
mod door;
mod dormant;
mod house;
mod machine;
mod post;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context as _;
use suijuris_api::Event;
use suijuris_core::BundleId;
use suijuris_core::manifest::Protocol;
use suijuris_custody::claim::Answer;
use suijuris_store::Writer;
use suijuris_vehicle::process::{Process, Shim, Want};
use suijuris_vehicle::{Driver as _, Isolation};

use crate::depots::DepotArg;
use crate::object_paths::ObjectPaths;
use crate::{claiming, control, object_paths, terminal};

use creation::Opened;

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
    #[arg(long)]
    pub port: Option<u16>,
    /// The object's data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub depot: DepotArg,
    /// Another owner's approval of the changed definition, from `suijuris approve`; may be given several times
    #[arg(long = "approval", value_name = "FILE")]
    pub approvals: Vec<PathBuf>,
    /// One JSON event a line on standard output
    #[arg(long)]
    pub json: bool,
    /// Run machines as plain processes, without namespaces
    #[arg(long)]
    pub plain: bool,
}

/// Runs `up` to its end.
///
/// # Errors
/// Whatever keeps it from starting; later trouble is told as events.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&tokio, up(args))
}

async fn up(args: Args) -> anyhow::Result<ExitCode> {
    let place = object_paths::locate(Some(&args.dir), args.data.as_deref())?;
    if let Some(control::Running { pid, url, .. }) = control::running(&place) {
        anyhow::bail!(
            "{} runs already, at {url}: end it first (Ctrl-C, or `kill -INT {pid}`), or name other data with --data",
            place.name()
        );
    }
    let say = Rc::new(crate::event_printer::EventPrinter::new(args.json));
    let opened = creation::open(&place, &say)?;
    let isolation = args.plain.then_some(Isolation::Plain);
    let driver = Process::detect(
        Shim::itself("__shim"),
        Want {
            isolation,
            ..Want::default()
        },
    )
    .await
    .context("machines cannot be started on this host")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port.unwrap_or(0)));
    let listener = std::net::TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}: choose another port with --port, or leave it out for a free one")
    })?;
    listener.set_nonblocking(true)?;
    let url = url(&opened, listener.local_addr()?);
    let claim = claiming::open(&args.depot, opened.manifest(), &opened.writer, &say).await?;
    // Before the first record: a copy that is not the object writes none.
    let now = opened.clock.reading().wall;
    let answer = claim.rest(&opened.writer, now).await?;
    if let Answer::Unasked(why) = &answer {
        claiming::say_unasked(&say, why);
    }
    if let Answer::Refused(copy) = answer {
        if args.json {
            // What scripts read first.
            let (writer, bundle) = (&opened.writer, opened.bundle_id());
            say.event(listening(&place, writer, bundle, &driver, &url));
        }
        say.event(copy.event());
        let name = place.data.display();
        terminal::note(&format!(
            "nothing was served: one copy of an object runs at a time, and only the newest. `suijuris restore {name}` makes this one \
             the object again and gives up what the other recorded; `suijuris fork` makes a second object"
        ));
        return Ok(ExitCode::from(1));
    }
    let created = match creation::settle(opened, &args.approvals, &say)? {
        creation::Prepared::Ready(created) => *created,
        creation::Prepared::Refused => {
            if let Err(why) = claim.leave(None).await {
                say.error(claiming::CODE_DEPOT, &why);
            }
            return Ok(ExitCode::from(1));
        }
    };
    let house = house::House::new(place, created, claim, driver, listener, url, say)?;
    Box::pin(house.run()).await
}

/// ObjectArg callers reach the object.
fn url(opened: &Opened, address: SocketAddr) -> String {
    match opened.manifest().gate.protocol {
        Protocol::Http | Protocol::H2c => format!("http://{address}/"),
        Protocol::Tcp | Protocol::FdPassing => format!("tcp://{address}"),
    }
}

/// The first event.
fn listening(place: &ObjectPaths, writer: &Writer, bundle: BundleId, driver: &Process, url: &str) -> Event {
    let state = writer.published();
    Event::Listening {
        url: url.to_owned(),
        object: state.head().object.to_string(),
        name: state.head().name.clone(),
        agent_socket: place.agent_socket().display().to_string(),
        bundle: bundle.to_string(),
        machine: driver.describe().to_string(),
    }
}
