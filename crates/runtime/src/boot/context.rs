//! Everything that outlives the boot: the gate, the agent socket, the loops, and the resident object in their middle.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use suijuris_api::Event as Report;
use suijuris_core::bundle::Bundle;
use suijuris_core::inputs::Inputs;
use suijuris_core::lifecycle::Event;
use suijuris_core::lineage::{Body, Quarantined};
use suijuris_core::manifest::{self, Manifest};
use suijuris_core::trigger::Timers;
use suijuris_gate::{Control, Cors, Gate, Limits, Phase as GatePhase, Protocol, Upstream};
use suijuris_link::launch::DepotRoute;
use suijuris_store::{ObjectDir, OpenError};
use tokio::sync::mpsc;

use crate::agent;
use crate::auth::Callers;
use crate::authorizer::ObjectAuthorizer;
use crate::egress::Egress;
use crate::inbox::Inbox;
use crate::lifecycle_driver::{Carried, ExitReason, LifecycleDriver};
use crate::lineage_writer::{BootError, LineageWriter, Sign};
use crate::pid1::Signals;
use crate::remain;
use crate::report::Reports;
use crate::resident::amending::amended;
use crate::resident::edge;
use crate::resident::elsewhere::Elsewhere;
use crate::resident::{Parts, Resident};
use crate::supervision::Supervision;
use crate::workload::{self, MachineLimits, Placement, Secrets, free_port};
use suijuris_custody::chain;
use suijuris_custody::claim::Answer;
use suijuris_custody::clock::Clock;
use suijuris_custody::deliveries::Deliveries;
use suijuris_custody::rates::KeptRates;

use super::broken::CODE_BROKEN_OBJECT;
use super::copied::Copy;
use super::depot_route::Relay;
use super::owner::{hear, obey};
use super::start::Config;
use super::witnessing;
use super::{EVENTS, HANDED_OVER};

/// Everything that outlives the boot.
pub(super) struct BootContext {
    pub(super) config: Config,
    pub(super) object_dir: ObjectDir,
    pub(super) supervision: Option<Supervision>,
    /// The way to a depot that the supervisor serves.
    pub(super) relay: Relay,
    pub(super) clock: Rc<Clock>,
    pub(super) reports: Reports,
    pub(super) signals: Signals,
    pub(super) authorizer: Rc<ObjectAuthorizer>,
    /// The workload, which goes on in a machine that is a copy.
    pub(super) carried: Carried,
    /// What a machine becomes that finds that it is a copy.
    pub(super) copy: Rc<RefCell<Option<Copy>>>,
}

/// What runs side by side in one life.
struct Activation {
    gate: Gate<Rc<ObjectAuthorizer>>,
    control: Control,
    /// The gate's control, where its protocol knows no requests.
    raw: Option<Control>,
    shell: LifecycleDriver,
    inputs: Inputs,
    timers: Timers,
    say: mpsc::Sender<Event>,
    egress: Egress,
}

impl BootContext {
    pub(super) async fn activate(
        mut self,
        lineage: LineageWriter,
        bundle: Arc<Bundle>,
    ) -> Result<ExitReason, (Box<Self>, BootError)> {
        let say = self.reports.clone();
        let step = |step: &str| {
            say.event(Report::Boot {
                step: step.to_owned(),
            });
        };
        step("hydrate");
        let route = std::mem::replace(&mut self.config.depot, DepotRoute::None);
        let link = self.supervision.as_ref().map(Supervision::link);
        let depot = match self.relay.open(route, link).await {
            Ok(depot) => depot,
            Err(why) => return Err((Box::new(self), BootError::Depot(why))),
        };
        let (claim, since) = match witnessing::claim(&self, depot.clone(), &lineage, &bundle).await {
            Ok(claimed) => claimed,
            Err(why) => return Err((Box::new(self), BootError::Depot(why))),
        };
        // Before the first record: a copy that is not the object writes nothing.
        step("witness");
        let detector = match since {
            Some(reading) => self.clock.detector_since(reading),
            None => self.clock.detector(),
        };
        let answer = match since {
            Some(_) => Ok(Answer::Ours),
            None => claim.wake().await,
        };
        match answer {
            Ok(Answer::Ours) => {}
            Ok(Answer::Unasked(why)) => witnessing::say_unasked(&self.reports, &why),
            Ok(Answer::Refused(copy)) => return Ok(witnessing::refuse_copy(self, &lineage, &copy).await),
            Err(error) => return Err((Box::new(self), BootError::Depot(chain(&error)))),
        }
        let now = lineage.now(self.clock.reading());
        match lineage.record_crash(now.at).await {
            Ok(true) => self.reports.event(Report::Boot {
                step: "unsealed".to_owned(),
            }),
            Ok(false) => {}
            Err(error) => return Err((Box::new(self), error.into())),
        }
        let bundle = match self
            .config
            .own
            .as_ref()
            .map(|own| (&own.bundle, own.amend.as_deref()))
        {
            Some((files, Some(approvals))) => {
                let (now, host) = (lineage.now(self.clock.reading()), self.config.cause.host.clone());
                amended(&lineage, bundle, (files, approvals), (now, host), &self.reports).await
            }
            _ => bundle,
        };
        let allowed = &bundle.manifest.workload.egress;
        let egress = match self.config.egress {
            true => Egress::open(allowed, &self.config.agent_socket).await,
            false => Ok(Egress::default()),
        };
        let egress = match egress {
            Ok(egress) => egress,
            Err(error) => return Err((Box::new(self), BootError::Egress(error.to_string()))),
        };
        if !allowed.is_empty() && self.config.own.is_some() {
            self.reports.event(Report::Error {
                code: CODE_EGRESS.to_owned(),
                message: "nothing limits what the workload reaches here: the network is the platform's"
                    .to_owned(),
            });
        }
        let goes_on = self.carried.borrow().as_ref().map(|running| running.port());
        let port = match bundle.manifest.workload.port {
            0 => goes_on.or_else(|| free_port().ok()).unwrap_or(0),
            port => port,
        };
        let control = Control::new(GatePhase::Holding);
        let authorizer = self.authorizer.clone();
        let passing = match passing_sockets(&bundle.manifest) {
            Ok(passing) => passing,
            Err(error) => return Err((Box::new(self), BootError::FdPassing(error))),
        };
        let (ours, theirs) = passing.unzip();
        let gate = gate(&bundle.manifest, authorizer.clone(), port, ours, control.clone());
        let (say, events) = mpsc::channel(EVENTS);
        let id = lineage.published(|state| state.head().object.to_string());
        // The manifest was checked when the bundle was opened: keys and schedules that cannot be used end the boot.
        let callers = match Callers::new(&bundle.manifest.callers, &bundle.manifest.claims, &id) {
            Ok(callers) => callers,
            Err(error) => {
                return Err((Box::new(self), unusable("callers.keys", chain(&error))));
            }
        };
        let timers = match Timers::new(&bundle.manifest.triggers.timers) {
            Ok(timers) => timers,
            Err(error) => return Err((Box::new(self), unusable("timers", chain(&error)))),
        };
        let deliveries = Deliveries::of(&self.config.data);
        let inbox = Inbox::new(depot, lineage.published(|state| state.head().object), deliveries);
        let elsewhere = self.config.own.as_ref().and_then(|_own| {
            let unusable = |why: &str| {
                let (code, message) = (CODE_REPLAY_KEY.to_owned(), why.to_owned());
                self.reports.event(Report::Error { code, message });
            };
            Elsewhere::of(|name| std::env::var(name).ok(), control.clone(), unusable)
        });
        let own = self.config.own.as_ref();
        let proxy = own.and_then(|own| edge::key_beside(&own.socket, |name| std::env::var(name).ok()));
        let resident = Rc::new(Resident::new(Parts {
            lineage,
            bundle: bundle.clone(),
            clock: self.clock.clone(),
            host: self.config.cause.host.clone(),
            server: self.config.server,
            served_as: self.config.served_as.take(),
            places: std::mem::take(&mut self.config.places),
            image: self.config.image.as_ref().map(|image| image.digest),
            callers,
            elsewhere,
            proxy,
            claim,
            detector,
            inbox,
            rates: KeptRates::open(&bundle.manifest.rates, &self.config.data),
            traffic: gate.traffic(),
            events: say.clone(),
            reports: self.reports.clone(),
        }));
        authorizer.install(resident.clone());
        tokio::task::spawn_local(resident.clone().say_where());
        let placement = Placement {
            hosts: egress.hosts(),
            ..placement(&self.config, &id, port, theirs)
        };
        resident.started_for(self.config.cause.clone());
        let inputs = resident.launch_inputs();
        let gate_control = control.clone();
        let shell = LifecycleDriver::new(
            resident.clone(),
            authorizer,
            control,
            placement,
            events,
            self.config.cause.fired.clone(),
        );
        let shell = shell.carrying(self.carried.clone());
        let shell = match &self.config.own {
            Some(own) => shell.staying(own.stays_until),
            None => shell,
        };
        let raw = matches!(
            bundle.manifest.gate.protocol,
            manifest::Protocol::Tcp | manifest::Protocol::FdPassing
        );
        let life = Activation {
            gate,
            raw: raw.then(|| gate_control.clone()),
            control: gate_control,
            shell,
            inputs,
            timers,
            say,
            egress,
        };
        Ok(Box::pin(self.serve(life, resident)).await)
    }

    async fn serve(self, life: Activation, resident: Rc<Resident>) -> ExitReason {
        let Activation {
            gate,
            control,
            raw,
            shell,
            inputs,
            timers,
            say,
            egress,
        } = life;
        let (hand_over, handed_over) = mpsc::channel(HANDED_OVER);
        let agent = match agent::bind(&self.config.agent_socket) {
            Ok(listener) => listener,
            Err(error) => {
                resident.reports().error(CODE_AGENT_SOCKET, &error);
                return ExitReason::Broken;
            }
        };
        let (own, told) = (self.config.own.is_some(), Cell::new(false));
        let left = tokio::select! {
            left = shell.run(inputs) => left,
            served = gate.serve(self.config.listener, handed_over) => {
                if let Err(error) = served {
                    resident.reports().error(CODE_GATE, &error);
                }
                ExitReason::Broken
            }
            () = agent::serve(agent, resident.clone()) => ExitReason::Broken,
            error = remain::run(resident.clone(), timers, raw) => {
                resident.reports().error(error.code(), &error);
                ExitReason::Broken
            }
            error = resident.lineage().not_adopted() => {
                resident.reports().error(error.code(), &error);
                ExitReason::Broken
            }
            damage = resident.lineage().damage_behind() => quarantine(&resident, &damage).await,
            left = witnessing::follow_lease(resident.clone(), control) => left,
            () = egress.carry(self.reports.clone()) => ExitReason::Broken,
            () = resident.inbox().watch(|| resident.messages_changed()) => ExitReason::Broken,
            () = obey(self.signals, say, resident.clone(), own.then_some(&told)) => ExitReason::Broken,
            copied = hear(self.supervision, hand_over, self.relay.clone(), resident.clone()) => {
                self.copy.replace(Some(copied));
                ExitReason::Copied
            }
        };
        // Whoever told it to go waits for its end, and is asked for nothing more.
        let left = match left {
            ExitReason::Dormant if told.get() => ExitReason::HostStopped,
            left => left,
        };
        // A machine that comes back under another name must not wait for what this one held.
        let own = own && left != ExitReason::Broken;
        if self.config.holder.is_none()
            && (own || matches!(left, ExitReason::Dormant | ExitReason::WorkloadFailed))
        {
            resident.claim().release().await;
        }
        let _ = std::fs::remove_file(&self.config.agent_socket);
        left
    }
}

/// The history is damaged further back than opening had read: the object shuts itself away.
pub(super) async fn quarantine(resident: &Resident, damage: &OpenError) -> ExitReason {
    resident.reports().error(CODE_BROKEN_OBJECT, damage);
    let body = Body::Quarantined(Quarantined {
        reason: chain(damage),
    });
    if let Err(error) = resident
        .lineage()
        .commit(body, resident.now().at, Sign::Now)
        .await
    {
        resident.reports().error(error.code(), &error);
    }
    ExitReason::Broken
}

/// The agent socket cannot be made.
pub(super) const CODE_AGENT_SOCKET: &str = "agent_socket";
/// Rules of what may be reached do not hold.
const CODE_EGRESS: &str = "egress_not_limited";
/// The key of replays cannot be used.
const CODE_REPLAY_KEY: &str = "replay_key";
/// The gate cannot serve.
pub(super) const CODE_GATE: &str = "gate_failed";

pub(super) fn unusable(part: &'static str, why: String) -> BootError {
    let manifest = manifest::Error::Part { part, why };
    BootError::Bundle(suijuris_core::bundle::Error::from(manifest).into())
}

/// The two ends of what connections are handed over on, the gate's first; none where they are not.
fn passing_sockets(manifest: &Manifest) -> std::io::Result<Option<(OwnedFd, OwnedFd)>> {
    if manifest.gate.protocol != manifest::Protocol::FdPassing {
        return Ok(None);
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(Some(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        flags,
    )?))
}

pub(super) fn gate(
    manifest: &Manifest,
    authorizer: Rc<ObjectAuthorizer>,
    port: u16,
    passing: Option<OwnedFd>,
    control: Control,
) -> Gate<Rc<ObjectAuthorizer>> {
    let loopback = Upstream::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let (protocol, upstream) = match manifest.gate.protocol {
        manifest::Protocol::Http => (Protocol::Http, loopback),
        manifest::Protocol::H2c => (Protocol::H2c, loopback),
        manifest::Protocol::Tcp => (Protocol::Tcp, loopback),
        manifest::Protocol::FdPassing => {
            let given = passing.map(|ours| Upstream::Given(Arc::new(ours)));
            (Protocol::FdPassing, given.unwrap_or(loopback))
        }
    };
    let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let ms = |span: suijuris_core::time::Span| u64::try_from(span.0).unwrap_or(0);
    let limits = Limits {
        max_connections: size(manifest.gate.max_connections),
        max_in_flight: size(manifest.gate.max_connections),
        max_held: size(manifest.gate.max_held),
        hold_ms: ms(manifest.gate.hold),
        drain_ms: ms(manifest.gate.drain),
        ..Limits::default()
    };
    let readers = Cors::new(manifest.gate.cors.iter().map(String::as_str));
    Gate::new(authorizer, upstream, protocol, limits, control)
        .keeping_backlog()
        .readable_by(readers)
}

/// Where what is the object's lies, its sockets among it.
fn private(config: &Config) -> Vec<PathBuf> {
    let run = config.agent_socket.parent().map(Path::to_owned);
    // Whoever reaches the platform's socket can stop the machine, and so the object.
    let socket = config.own.as_ref().map(|own| own.socket.clone());
    let platform = socket.filter(|socket| socket.exists());
    let platform = platform.and_then(|socket| socket.parent().map(Path::to_owned));
    [Some(config.data.clone()), run, platform]
        .into_iter()
        .flatten()
        .collect()
}

pub(super) fn placement(config: &Config, id: &str, port: u16, connections: Option<OwnedFd>) -> Placement {
    Placement {
        data_dir: config.data.join("volume"),
        private: private(config),
        object_dir: config.object_dir.clone(),
        port,
        agent_socket: config.agent_socket.clone(),
        object_id: id.to_owned(),
        path: std::env::var_os("PATH"),
        home: config.data.join("volume"),
        connections,
        limits: MachineLimits::named(&std::env::var(workload::LIMITED).unwrap_or_default()),
        secrets: Secrets::default(),
        image: config.image.clone(),
        hosts: None,
    }
}
