//! From exec to serving, in the order that C1 asks for: open, verify, hydrate, witness, decide, commit, spawn, serve.
//!
//! Whatever is wrong before `commit` means that nothing runs: the gate answers, the machine ends.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use suijuris_api::channel::{Channel, Packet};
use suijuris_api::control::{FromRuntime, Reply, ToRuntime};
use suijuris_api::{Event as Report, Problem};
use suijuris_core::bundle::Bundle;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lifecycle::Event;
use suijuris_core::lineage::{Body, Quarantined};
use suijuris_core::manifest::{self, Manifest};
use suijuris_core::trigger::Timers;
use suijuris_gate::{Control, Gate, HandedOver, Limits, Phase as GatePhase, Protocol, Upstream};
use suijuris_store::{Home, OpenError};
use tokio::sync::mpsc;

use crate::agent;
use crate::callers::Callers;
use crate::clock::Clock;
use crate::config::Config;
use crate::judge::GateJudge;
use crate::ledger::{BootError, Ledger, Sign};
use crate::pid1::{self, Role, Signal, Signals};
use crate::report::{Reports, chain};
use crate::resident::{Parts, Resident};
use crate::shell::{Left, Shell};
use crate::workload::{Placement, free_port};
use crate::{remain, sys};

/// Lifecycle events that wait at most; tasks say a handful each.
const EVENTS: usize = 256;

/// Connections handed over that wait at most.
const HANDED_OVER: usize = 1_024;

/// Time to end what is left in the machine when the runtime leaves.
const TEARDOWN: Duration = Duration::from_secs(5);

/// Why the runtime cannot run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An inherited descriptor is not one.
    #[error("descriptor {0} was not inherited: start the machine again")]
    Descriptor(i32),
    /// The gate's address.
    #[error("cannot listen on {0}: is the port in use?")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// Something of the system.
    #[error("the runtime cannot {0}")]
    System(&'static str, #[source] std::io::Error),
}

/// Runs the object to the end of this activation.
///
/// # Errors
/// [`Error`] before anything is opened; everything later is reported and told by the exit code.
pub(crate) async fn run(config: Config) -> Result<ExitCode, Error> {
    let role = pid1::adopt();
    let signals = Signals::new().map_err(|error| Error::System("take signals", error))?;
    let listener = listener(&config)?;
    let channel = config.control_fd.map(descriptor).transpose()?;
    let channel = channel
        .map(Channel::new)
        .transpose()
        .map_err(|error| Error::System("use its channel", error))?;
    let clock = Rc::new(Clock::start(None).map_err(|error| Error::System("start its pulse", error))?);
    let (reports, queue) = match &channel {
        Some(_) => {
            let (reports, queue) = Reports::to_owner(clock.clone());
            (reports, Some(queue))
        }
        None => (Reports::to_stderr(clock.clone()), None),
    };
    let channel = channel.map(Rc::new);
    let mut sending = tokio::task::JoinSet::new();
    if let (Some(channel), Some(queue)) = (&channel, queue) {
        sending.spawn_local(send_reports(channel.clone(), queue));
    }
    let left = Box::pin(live(
        config,
        role,
        listener,
        channel,
        clock,
        reports.clone(),
        signals,
    ))
    .await;
    pid1::teardown(role, TEARDOWN).await;
    reports.leaving(left_word(left));
    drop(reports);
    // What was reported is sent before the channel closes; an owner that does not read is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), sending.join_next()).await;
    Ok(ExitCode::from(exit_code(left)))
}

const fn left_word(left: Left) -> &'static str {
    match left {
        Left::Dormant => "stop",
        Left::Refused => "refused",
        Left::HostStopped => "host_stop",
        Left::Broken => "failed",
    }
}

const fn exit_code(left: Left) -> u8 {
    match left {
        Left::Dormant => 0,
        Left::Refused => 1,
        Left::Broken => 3,
        Left::HostStopped => 4,
    }
}

async fn send_reports(channel: Rc<Channel>, mut queue: mpsc::Receiver<FromRuntime>) {
    while let Some(message) = queue.recv().await {
        if channel.send(&message, &[], None).await.is_err() {
            return;
        }
    }
}

fn descriptor(number: i32) -> Result<OwnedFd, Error> {
    sys::inherited(number).ok_or(Error::Descriptor(number))
}

fn listener(config: &Config) -> Result<TcpListener, Error> {
    match (config.listen_fd, config.listen) {
        (Some(number), _) => descriptor(number).map(TcpListener::from),
        (None, Some(address)) => TcpListener::bind(address).map_err(|error| Error::Listen(address, error)),
        (None, None) => Err(Error::Descriptor(-1)),
    }
}

async fn live(
    config: Config,
    role: Role,
    listener: TcpListener,
    channel: Option<Rc<Channel>>,
    clock: Rc<Clock>,
    reports: Reports,
    signals: Signals,
) -> Left {
    let say = reports.clone();
    let step = |step: &str| {
        say.event(Report::Boot {
            step: step.to_owned(),
        });
    };
    if role == Role::BareMachine {
        for mount in pid1::mount_missing(role, Path::new("/")) {
            if mount.result.is_err() {
                reports.event(Report::Error {
                    code: CODE_MOUNT.to_owned(),
                    message: mount.to_string(),
                });
            }
        }
    }
    step("open");
    let home = Home::at(&config.data);
    let opened = Ledger::open(&home);
    let (ledger, bundle) = match opened {
        Ok(opened) => opened,
        Err(error) => return refuse_all(listener, channel, &reports, &error).await,
    };
    step("verify");
    let house = House {
        config,
        home,
        listener,
        channel: channel.clone(),
        clock,
        reports,
        signals,
    };
    match house.furnish(ledger, bundle).await {
        Ok(left) => left,
        Err((reports, listener, error)) => refuse_all(listener, channel, &reports, &error).await,
    }
}

/// A host that lacks what the runtime would mount.
const CODE_MOUNT: &str = "mount_failed";
/// The object on disk cannot be used.
const CODE_BROKEN_OBJECT: &str = "broken_object";

/// Time to answer whoever waits for an object that cannot be used.
const REFUSE_WITHIN: Duration = Duration::from_millis(500);

/// Answers whoever waits, at the listener or handed over, that nothing runs here, and why, then ends.
async fn refuse_all(
    listener: TcpListener,
    channel: Option<Rc<Channel>>,
    reports: &Reports,
    error: &BootError,
) -> Left {
    reports.error(CODE_BROKEN_OBJECT, error);
    let judge = Rc::new(GateJudge::default());
    judge
        .refuse(Problem::new(503, CODE_BROKEN_OBJECT, "The object cannot be used").with_detail(chain(error)));
    let nowhere = Upstream::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let gate = Gate::new(
        judge,
        nowhere,
        Protocol::Http,
        Limits::default(),
        Control::new(GatePhase::Open),
    );
    let (hand_over, handed_over) = mpsc::channel(HANDED_OVER);
    let answered = async {
        let _ = tokio::join!(gate.serve(listener, handed_over), let_in(channel, hand_over));
    };
    let _ = tokio::time::timeout(REFUSE_WITHIN, answered).await;
    Left::Broken
}

/// Takes connections of the owner and hears nothing else; nobody is there to answer.
async fn let_in(channel: Option<Rc<Channel>>, hand_over: mpsc::Sender<HandedOver>) {
    let Some(channel) = channel else { return };
    while let Ok(Some(packet)) = channel.receive::<ToRuntime>().await {
        let_through(packet, &hand_over).await;
    }
}

/// Hands a connection of the owner to the gate; other packets have none.
async fn let_through(packet: Packet<ToRuntime>, hand_over: &mpsc::Sender<HandedOver>) {
    if let Some(descriptor) = packet.descriptor {
        let stream = std::net::TcpStream::from(descriptor);
        let prefix = packet.raw;
        // A gate that has ended takes nobody: the connection ends with it.
        let _ = hand_over.send(HandedOver { stream, prefix }).await;
    }
}

/// Everything that outlives the boot.
struct House {
    config: Config,
    home: Home,
    listener: TcpListener,
    channel: Option<Rc<Channel>>,
    clock: Rc<Clock>,
    reports: Reports,
    signals: Signals,
}

impl House {
    async fn furnish(
        self,
        ledger: Ledger,
        bundle: std::sync::Arc<Bundle>,
    ) -> Result<Left, (Reports, TcpListener, BootError)> {
        let say = self.reports.clone();
        let step = |step: &str| {
            say.event(Report::Boot {
                step: step.to_owned(),
            });
        };
        let now = ledger.now(self.clock.reading());
        match ledger.settle_crash(now.at).await {
            Ok(true) => self.reports.event(Report::Boot {
                step: "unsealed".to_owned(),
            }),
            Ok(false) => {}
            Err(error) => return Err((self.reports, self.listener, error.into())),
        }
        step("hydrate");
        let port = match bundle.manifest.workload.port {
            0 => free_port().unwrap_or(0),
            port => port,
        };
        let control = Control::new(GatePhase::Holding);
        let judge = Rc::new(GateJudge::default());
        let gate = gate(&bundle.manifest, judge.clone(), port, &self.home, control.clone());
        let (say, events) = mpsc::channel(EVENTS);
        let id = ledger.published(|state| state.head().object.to_string());
        // The manifest was checked when the bundle was opened: keys and schedules that cannot be used end the boot.
        let callers = match Callers::new(&bundle.manifest.callers, &bundle.manifest.claims, &id) {
            Ok(callers) => callers,
            Err(error) => {
                return Err((
                    self.reports,
                    self.listener,
                    unusable("callers.keys", chain(&error)),
                ));
            }
        };
        let timers = match Timers::new(&bundle.manifest.triggers.timers) {
            Ok(timers) => timers,
            Err(error) => return Err((self.reports, self.listener, unusable("timers", chain(&error)))),
        };
        let resident = Rc::new(Resident::new(Parts {
            ledger,
            bundle: bundle.clone(),
            clock: self.clock.clone(),
            host: self.config.launch.host.clone(),
            callers,
            traffic: gate.traffic(),
            events: say.clone(),
            reports: self.reports.clone(),
        }));
        judge.install(resident.clone());
        // No witness is configured in this release; a bundle that requires one does not wake without.
        step("witness");
        let placement = placement(&self.config, &id, port);
        resident.relaunch(self.config.launch.clone());
        let inputs = resident.launch_inputs();
        let shell = Shell::new(
            resident.clone(),
            judge,
            control,
            placement,
            events,
            self.config.launch.fired.clone(),
        );
        Ok(self.serve(gate, shell, inputs, resident, timers, say).await)
    }

    async fn serve(
        self,
        gate: Gate<Rc<GateJudge>>,
        shell: Shell,
        inputs: Inputs,
        resident: Rc<Resident>,
        timers: Timers,
        say: mpsc::Sender<Event>,
    ) -> Left {
        let (hand_over, handed_over) = mpsc::channel(HANDED_OVER);
        let agent = match agent::bind(&self.config.agent_socket) {
            Ok(listener) => listener,
            Err(error) => {
                resident.reports().error(CODE_AGENT_SOCKET, &error);
                return Left::Broken;
            }
        };
        let left = tokio::select! {
            left = shell.run(inputs) => left,
            served = gate.serve(self.listener, handed_over) => {
                if let Err(error) = served {
                    resident.reports().error(CODE_GATE, &error);
                }
                Left::Broken
            }
            () = agent::serve(agent, resident.clone()) => Left::Broken,
            error = remain::run(resident.clone(), timers) => {
                resident.reports().error(error.code(), &error);
                Left::Broken
            }
            damage = resident.ledger().damage_behind() => quarantine(&resident, &damage).await,
            () = obey(self.signals, say, resident.clone()) => Left::Broken,
            () = hear(self.channel, hand_over, resident.clone()) => Left::Broken,
        };
        let _ = std::fs::remove_file(&self.config.agent_socket);
        left
    }
}

/// The history is damaged further back than opening had read: the object shuts itself away.
async fn quarantine(resident: &Resident, damage: &OpenError) -> Left {
    resident.reports().error(CODE_BROKEN_OBJECT, damage);
    let body = Body::Quarantined(Quarantined {
        reason: chain(damage),
    });
    if let Err(error) = resident.ledger().commit(body, resident.now().at, Sign::Now).await {
        resident.reports().error(error.code(), &error);
    }
    Left::Broken
}

/// The agent socket cannot be made.
const CODE_AGENT_SOCKET: &str = "agent_socket";
/// The gate cannot serve.
const CODE_GATE: &str = "gate_failed";

fn unusable(part: &'static str, why: String) -> BootError {
    let manifest = manifest::Error::Part { part, why };
    BootError::Bundle(suijuris_core::bundle::Error::from(manifest).into())
}

fn gate(
    manifest: &Manifest,
    judge: Rc<GateJudge>,
    port: u16,
    home: &Home,
    control: Control,
) -> Gate<Rc<GateJudge>> {
    let loopback = Upstream::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let (protocol, upstream) = match manifest.gate.protocol {
        manifest::Protocol::Http => (Protocol::Http, loopback),
        manifest::Protocol::H2c => (Protocol::H2c, loopback),
        manifest::Protocol::Tcp => (Protocol::Tcp, loopback),
        manifest::Protocol::Handover => (
            Protocol::Handover,
            Upstream::Unix(home.run_dir().join("connections.sock")),
        ),
    };
    let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let ms = |span: suijuris_core::time::Span| u64::try_from(span.0).unwrap_or(0);
    let limits = Limits {
        max_connections: size(manifest.gate.max_connections),
        max_held: size(manifest.gate.max_held),
        hold_ms: ms(manifest.gate.hold),
        drain_ms: ms(manifest.gate.drain),
        ..Limits::default()
    };
    Gate::new(judge, upstream, protocol, limits, control).keeping_backlog()
}

fn placement(config: &Config, id: &str, port: u16) -> Placement {
    Placement {
        data_dir: config.data.join("volume"),
        object_dir: config.object_dir.clone(),
        port,
        agent_socket: config.agent_socket.clone(),
        object_id: id.to_owned(),
        path: std::env::var_os("PATH"),
        home: config.data.join("volume"),
        connections: None,
    }
}

/// Turns signals into events, and keeps the process table clean.
async fn obey(mut signals: Signals, say: mpsc::Sender<Event>, resident: Rc<Resident>) {
    loop {
        match signals.next().await {
            Signal::Stop(_) => {
                let _ = say.send(Event::HostStops).await;
            }
            Signal::Forward(number) => resident.forward_signal(number),
            Signal::Child => {
                pid1::reap(resident.workload_pid());
            }
        }
    }
}

/// Does what the owner asks over the channel; for ever quiet without one, or once the owner is gone.
async fn hear(channel: Option<Rc<Channel>>, hand_over: mpsc::Sender<HandedOver>, resident: Rc<Resident>) {
    let Some(channel) = channel else {
        return std::future::pending().await;
    };
    loop {
        let packet = match channel.receive::<ToRuntime>().await {
            Ok(Some(packet)) => packet,
            Ok(None) | Err(_) => {
                // Nobody owns the machine any more: stop as if the host had asked.
                resident.say(Event::HostStops);
                return std::future::pending().await;
            }
        };
        match packet.message {
            ToRuntime::Connection => let_through(packet, &hand_over).await,
            ToRuntime::Thawed(launch) => {
                resident.relaunch(*launch);
                resident.thawed();
            }
            ToRuntime::Sleep { id, by } => {
                let by = if by == "host" {
                    Principal::Host
                } else {
                    owner(&resident)
                };
                let reply = match resident.propose_sleep(by) {
                    Ok(verdict) => Reply::Verdict(verdict),
                    Err(problem) => Reply::Error {
                        code: problem.code,
                        message: problem.detail,
                    },
                };
                resident.reports().reply(id, reply);
            }
            ToRuntime::Patch { id, patch } => {
                let reply = match resident.patch(owner(&resident), &patch).await {
                    Ok(patched) => Reply::Patched {
                        seq: patched.seq,
                        root: patched.root,
                    },
                    Err(problem) => Reply::Error {
                        code: problem.code,
                        message: problem.detail,
                    },
                };
                resident.reports().reply(id, reply);
            }
        }
    }
}

fn owner(resident: &Resident) -> Principal {
    Principal::Controller(
        resident
            .ledger()
            .published(|state| state.head().controllers.clone()),
    )
}
