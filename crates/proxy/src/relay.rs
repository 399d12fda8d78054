//! Raw connections that outlive this process: a small process of its own, the relay, has their two sockets and copies between them.
//! Whoever serves next on the same directory finds it, counts what it carries, and gives it more.
//!
//! ```text
//! client ── socket ─┐                      ┌─ socket ── machine
//!                   └─ relay (own session) ┘
//! proxy ── messages: carry (two descriptors) → · ← has, took, ended
//! ```
//!
//! It is started with the first raw connection, and ends with the last one once no proxy is there. Connections whose TLS ends at the
//! proxy are not carried: what is needed to go on with them is in the memory of this process.

mod process;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use suijuris_sys::descriptors::{poll, watch};
use suijuris_sys::sockets;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::fleet::Fleet;
use crate::load::Taken;
use crate::metrics::{InFlight, Metrics};

pub use process::main;

/// Its socket's name.
const SOCKET: &str = "relay.sock";
/// Longest message, bytes.
const MESSAGE_BYTES: usize = 4_096;
/// Connections that wait to be handed over.
const WAITING: usize = 64;
/// How long the relay may take to say what it carries, milliseconds.
const LIST_MS: i32 = 2_000;
/// As that, where it has yet to start.
const START_MS: i32 = 10_000;
/// How long it may take to take a connection.
const TAKE_WITHIN: Duration = Duration::from_secs(2);

/// How the relay is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where its socket is; its owner's alone.
    pub directory: PathBuf,
    /// The program that calls [`main`] when it is executed with these arguments.
    pub program: PathBuf,
    /// See `program`.
    pub arguments: Vec<String>,
}

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leads {
    pub(crate) app: String,
    pub(crate) machine: String,
    /// The machine's.
    pub(crate) port: u16,
}

/// What a proxy says to the relay; two descriptors come along, the client's and the machine's.
#[derive(Debug, Serialize, Deserialize)]
struct Carry {
    id: u64,
    leads: Leads,
}

/// What the relay says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// It carries this since an earlier proxy.
    Has { id: u64, leads: Leads },
    /// That was all; it carries so many at most.
    Ready { most: usize },
    /// It begins with this one now. What it was given and has not said this of, it has moved no byte of.
    Took { id: u64 },
    /// This one has ended.
    Ended { id: u64 },
}

/// What became of a connection.
#[derive(Debug)]
pub(crate) enum Carried {
    /// It has ended.
    Ended,
    /// The relay does not take it.
    Refused(TcpStream, TcpStream),
}

/// A connection on its way to the relay.
#[derive(Debug)]
struct Order {
    client: OwnedFd,
    machine: OwnedFd,
    leads: Leads,
    /// None: it has ended. The descriptors: they come back, and no byte was moved.
    outcome: oneshot::Sender<Option<(OwnedFd, OwnedFd)>>,
}

/// The way to the relay.
#[derive(Debug, Clone)]
pub(crate) struct Relay(mpsc::Sender<Order>);

impl Relay {
    /// The way, and what has to run for it. What a relay of an earlier proxy carries counts from here on.
    pub(crate) fn new(
        setup: Setup,
        fleet: &dyn Fleet,
        metrics: &Arc<Metrics>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, orders) = mpsc::channel(WAITING);
        let mut owner = Owner {
            setup,
            channel: None,
            most: 0,
            next: 0,
            carried: HashMap::new(),
            child: None,
        };
        // One that is not there, or does not answer, is started anew when it is needed.
        if let Ok((channel, has)) = owner.setup.connect(LIST_MS) {
            owner.most = has.most;
            owner.next = has
                .connections
                .iter()
                .map(|(id, _)| id + 1)
                .max()
                .unwrap_or_default();
            let counted =
                |(id, leads): (u64, Leads)| (id, Held::Found(taken(fleet, &leads), metrics.begin()));
            owner.carried = has.connections.into_iter().map(counted).collect();
            owner.channel = Some(channel);
        }
        (Self(sender), owner.run(orders))
    }

    /// Has the relay carry a connection, and waits for its end.
    pub(crate) async fn carry(
        &self,
        client: TcpStream,
        machine: TcpStream,
        leads: Leads,
    ) -> io::Result<Carried> {
        let (outcome, ended) = oneshot::channel();
        let order = Order {
            client: client.into_std()?.into(),
            machine: machine.into_std()?.into(),
            leads,
            outcome,
        };
        let back = match self.0.send(order).await {
            // The relay is gone, and the connection with it.
            Ok(()) => ended.await.unwrap_or(None),
            Err(mpsc::error::SendError(order)) => Some((order.client, order.machine)),
        };
        Ok(match back {
            None => Carried::Ended,
            Some((client, machine)) => Carried::Refused(stream(client)?, stream(machine)?),
        })
    }
}

fn stream(socket: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(socket))
}

/// A place in the load of the machine that a connection leads to, whatever its limit: it is there.
fn taken(fleet: &dyn Fleet, leads: &Leads) -> Option<Taken> {
    let now = fleet.now();
    let machines = &now.apps.get(leads.app.as_str())?.machines;
    let machine = machines.iter().find(|machine| *machine.id == *leads.machine)?;
    let service = machine
        .services
        .iter()
        .find(|service| service.internal_port == leads.port)?;
    service.load.take(None)
}

/// What an open connection has here until it ends.
#[derive(Debug)]
enum Held {
    /// Its own task waits; the two sockets are here until the relay says that it took them.
    Ours(
        oneshot::Sender<Option<(OwnedFd, OwnedFd)>>,
        Option<(OwnedFd, OwnedFd)>,
    ),
    /// An earlier proxy's: its place in the load.
    Found(
        #[expect(dead_code, reason = "held")] Option<Taken>,
        #[expect(dead_code, reason = "held")] InFlight,
    ),
}

/// What a relay says at first.
struct Has {
    connections: Vec<(u64, Leads)>,
    most: usize,
}

/// Hears what a relay carries.
fn greeted(socket: OwnedFd, within_ms: i32) -> io::Result<(AsyncFd<OwnedFd>, Has)> {
    let mut connections = Vec::new();
    loop {
        if !poll(&[socket.as_fd()], within_ms)?.contains(&true) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let message = sockets::receive(socket.as_fd(), MESSAGE_BYTES)?.ok_or(io::ErrorKind::BrokenPipe)?;
        match serde_json::from_slice(&message.bytes)? {
            Said::Has { id, leads } => connections.push((id, leads)),
            // It was told of by this one's predecessor only.
            Said::Ended { id } => connections.retain(|(known, _)| *known != id),
            Said::Took { .. } => {}
            Said::Ready { most } => {
                return Ok((
                    watch(socket, Interest::READABLE | Interest::WRITABLE)?,
                    Has { connections, most },
                ));
            }
        }
    }
}

impl Setup {
    /// Does something with the path of the socket, however deep the directory lies: an address has 108 bytes.
    fn at<T>(&self, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let directory = File::open(&self.directory)?;
        act(&PathBuf::from(format!(
            "/proc/self/fd/{}/{SOCKET}",
            directory.as_raw_fd()
        )))
    }

    /// Comes to a relay that is there.
    fn connect(&self, within_ms: i32) -> io::Result<(AsyncFd<OwnedFd>, Has)> {
        let socket = self.at(sockets::connect)?;
        greeted(socket, within_ms)
    }

    /// Starts the relay, and connects to it.
    fn start(&self) -> io::Result<(AsyncFd<OwnedFd>, Has, Child)> {
        let listener = self.at(|path| match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sockets::listen(path),
        })?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn()?;
        let (channel, has) = self.connect(START_MS)?;
        Ok((channel, has, child))
    }
}

/// What has the channel to the relay.
struct Owner {
    setup: Setup,
    channel: Option<AsyncFd<OwnedFd>>,
    most: usize,
    next: u64,
    carried: HashMap<u64, Held>,
    /// The relay, where this process started it.
    child: Option<Child>,
}

impl Owner {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => return,
                },
                said = hear(self.channel.as_ref()) => match said {
                    Ok(said) => self.heard(&said),
                    Err(_) => self.lost(),
                },
            }
        }
    }

    fn heard(&mut self, said: &Said) {
        match said {
            Said::Took { id } => {
                if let Some(Held::Ours(_, kept)) = self.carried.get_mut(id) {
                    *kept = None;
                }
            }
            Said::Ended { id } => match self.carried.remove(id) {
                // Nobody may wait for it any more.
                Some(Held::Ours(outcome, _)) => drop(outcome.send(None)),
                Some(Held::Found(..)) | None => {}
            },
            Said::Has { .. } | Said::Ready { .. } => {}
        }
    }

    /// The relay is gone, and with it what it carried. What it had not taken comes back.
    fn lost(&mut self) {
        self.channel = None;
        for (_, held) in self.carried.drain() {
            if let Held::Ours(outcome, kept) = held {
                // Nobody may wait for it any more.
                let _gone = outcome.send(kept);
            }
        }
        if let Some(mut child) = self.child.take() {
            // It has hung up, so it ends, if it has not; what does not is no use to anybody.
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }

    async fn take(&mut self, order: Order) {
        if self.channel.is_none() {
            let setup = self.setup.clone();
            let started = tokio::task::spawn_blocking(move || setup.start()).await;
            if let Ok(Ok((channel, has, child))) = started {
                self.most = has.most;
                self.channel = Some(channel);
                self.child = Some(child);
            }
        }
        let sent = match &self.channel {
            Some(channel) if self.carried.len() < self.most => send(channel, self.next, &order).await,
            _ => Err(io::ErrorKind::NotConnected.into()),
        };
        if sent.is_ok() {
            let kept = Some((order.client, order.machine));
            self.carried.insert(self.next, Held::Ours(order.outcome, kept));
            self.next += 1;
        } else {
            // Nobody may wait for it any more.
            let _gone = order.outcome.send(Some((order.client, order.machine)));
        }
    }
}

async fn hear(channel: Option<&AsyncFd<OwnedFd>>) -> io::Result<Said> {
    let Some(channel) = channel else {
        return std::future::pending().await;
    };
    let read = |socket: &OwnedFd| sockets::receive(socket.as_fd(), MESSAGE_BYTES);
    let message = channel.async_io(Interest::READABLE, read).await?;
    Ok(serde_json::from_slice(
        &message.ok_or(io::ErrorKind::BrokenPipe)?.bytes,
    )?)
}

async fn send(channel: &AsyncFd<OwnedFd>, id: u64, order: &Order) -> io::Result<()> {
    let leads = order.leads.clone();
    let message = serde_json::to_vec(&Carry { id, leads })?;
    let both = [order.client.as_fd(), order.machine.as_fd()];
    let write = |socket: &OwnedFd| sockets::send(socket.as_fd(), &message, &both);
    timeout(TAKE_WITHIN, channel.async_io(Interest::WRITABLE, write)).await??;
    Ok(())
}
