//! The loop of `up`: asleep, it is the door; awake, it forwards words to the runtime and prints what it hears.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use suijuris_api::agent::Patch;
use suijuris_api::channel::Packet;
use suijuris_api::control::{FromRuntime, Reply, ToRuntime, ToUp};
use suijuris_api::{Event, verdict};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Host, Principal};
use suijuris_core::lineage::{Fired, Head, Refused};
use suijuris_core::time::{Now, Reading, Timestamp};
use suijuris_core::trigger::{Pending, Timers};
use suijuris_runtime::callers::Callers;
use suijuris_runtime::clock::Clock;
use suijuris_runtime::config::Launch;
use suijuris_store::{Depth, Home, Reader, Sizes, Writer};
use suijuris_vehicle::Driver as _;
use suijuris_vehicle::machine::{Exit, Signal};
use suijuris_vehicle::process::Process;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::awake::Awake;
use super::desk::{self, Errand};
use super::door::{self, Asleep, Proposal, Visitor};
use super::founding::Founded;
use super::machine;
use super::say::Say;
use crate::place::Place;
use crate::registry;
use crate::sleeping::{self, Written};

/// Visitors whose heads are being read, at most; further ones wait in the socket's backlog.
const MAX_VISITORS: usize = 1_024;

/// Time for the runtime to leave after its last word, and for a host stop, at most.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

/// How the object is housed now.
enum Stay {
    /// Nobody runs; the machine may be frozen with the writer's lock in it.
    Asleep(Box<Asleep>),
    Awake(Box<Awake>),
    /// Between two stays; only within one step.
    Moving,
}

/// `up`, running.
pub(super) struct House {
    place: Place,
    home: Home,
    bundle: Arc<Bundle>,
    id: String,
    callers: Callers,
    timers: Timers,
    clock: Clock,
    driver: Process,
    listener: TcpListener,
    inherited: std::net::TcpListener,
    say: Rc<Say>,
    url: String,
    stay: Stay,
    ending: bool,
    refused_to_sleep: bool,
}

enum Step {
    Accepted(tokio::net::TcpStream, std::net::SocketAddr),
    Visitor(Visitor),
    Errand(Errand),
    Packet(std::io::Result<Option<Packet<FromRuntime>>>),
    Ended(Exit),
    Timer,
    Interrupted,
}

impl House {
    pub(super) fn new(
        place: Place,
        founded: Founded,
        driver: Process,
        listener: std::net::TcpListener,
        say: Rc<Say>,
    ) -> anyhow::Result<Self> {
        let Founded {
            writer,
            bundle,
            clock,
        } = founded;
        let asleep = Asleep::new(writer, bundle.clone(), host(), clock.reading())?;
        let id = asleep.look(|state| state.head().object.to_string());
        let inherited = listener.try_clone()?;
        let address = listener.local_addr()?;
        let scheme = match bundle.manifest.gate.protocol {
            suijuris_core::manifest::Protocol::Http | suijuris_core::manifest::Protocol::H2c => "http",
            _ => "tcp",
        };
        Ok(Self {
            home: Home::at(&place.data),
            place,
            callers: Callers::new(&bundle.manifest.callers, &bundle.manifest.claims, &id)?,
            timers: Timers::new(&bundle.manifest.triggers.timers)?,
            id,
            bundle,
            clock,
            driver,
            listener: TcpListener::from_std(listener)?,
            inherited,
            say,
            url: if scheme == "http" {
                format!("http://{address}/")
            } else {
                format!("tcp://{address}")
            },
            stay: Stay::Asleep(Box::new(asleep)),
            ending: false,
            refused_to_sleep: false,
        })
    }

    pub(super) async fn run(mut self) -> anyhow::Result<ExitCode> {
        let (errands_in, mut errands) = mpsc::channel(16);
        crate::place::make_socket_dir(&self.place.control_socket())?;
        let control = desk::bind(&self.place.control_socket())?;
        let desk = tokio::task::LocalSet::new();
        desk.spawn_local(desk::serve(control, errands_in));
        let ended = desk.run_until(self.keep(&mut errands)).await;
        let _ = std::fs::remove_file(self.place.control_socket());
        registry::forget_run(&self.place);
        ended
    }

    async fn keep(&mut self, errands: &mut mpsc::Receiver<Errand>) -> anyhow::Result<ExitCode> {
        let (asks, mut visitors) = mpsc::channel(MAX_VISITORS);
        let mut greeting = JoinSet::new();
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        self.announce();
        self.settle_down();
        loop {
            if self.ending && matches!(self.stay, Stay::Asleep(_)) {
                return self.end();
            }
            let wait = self.next_timer();
            let door_open = matches!(&self.stay, Stay::Asleep(_)) || self.is_frozen();
            let step = tokio::select! {
                biased;
                _ = interrupt.recv() => Step::Interrupted,
                _ = terminate.recv() => Step::Interrupted,
                packet = hear(&self.stay) => Step::Packet(packet),
                exit = gone(&self.stay) => Step::Ended(exit),
                Some(errand) = errands.recv() => Step::Errand(errand),
                Some(visitor) = visitors.recv() => Step::Visitor(visitor),
                Some(_greeted) = greeting.join_next() => continue,
                () = tokio::time::sleep(wait) => Step::Timer,
                accepted = self.listener.accept(), if door_open && greeting.len() < MAX_VISITORS => match accepted {
                    Ok((socket, peer)) => Step::Accepted(socket, peer),
                    Err(_out_of_descriptors) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            match step {
                Step::Accepted(socket, peer) => {
                    let _ = socket.set_nodelay(true);
                    greeting.spawn_local(door::greet(socket, peer, self.bundle.clone(), asks.clone()));
                }
                Step::Visitor(visitor) => self.visitor(visitor).await?,
                Step::Errand(errand) => self.errand(errand).await?,
                Step::Packet(packet) => self.packet(packet).await?,
                Step::Ended(exit) => self.machine_ended(exit).await?,
                Step::Timer => self.timer().await?,
                Step::Interrupted => self.interrupted().await?,
            }
        }
    }

    fn announce(&self) {
        let Stay::Asleep(asleep) = &self.stay else { return };
        let (object, name, bundle) = asleep.look(|state| {
            let head = state.head();
            (
                head.object.to_string(),
                head.name.clone(),
                head.bundle.to_string(),
            )
        });
        registry::note(&self.place, &object, &name, &self.url);
        self.say.event(Event::Listening {
            url: self.url.clone(),
            object,
            name,
            agent_socket: self.place.agent_socket().display().to_string(),
            bundle,
            machine: self.driver.describe().to_string(),
        });
    }

    /// What can be done ahead for the next start.
    fn settle_down(&self) {
        if let Err(error) = self.driver.prepare() {
            self.say.error("machine_failed", &error.to_string());
        }
    }

    /// Head of the object in a frozen machine.
    fn frozen(&self) -> Option<&Head> {
        match &self.stay {
            Stay::Awake(awake) => awake.frozen.as_deref(),
            _ => None,
        }
    }

    fn is_frozen(&self) -> bool {
        self.frozen().is_some()
    }

    /// What the timers want now; nothing while the runtime looks after them.
    fn pending(&mut self) -> Pending {
        let reading = self.clock.reading();
        if let Some(head) = self.frozen() {
            return self
                .timers
                .pending(&head.fired, head.born, reading.wall.max(head.at));
        }
        let Stay::Asleep(asleep) = &mut self.stay else {
            return Pending::default();
        };
        let now = asleep.now(reading).at;
        asleep.look(|state| self.timers.pending(&state.head().fired, state.head().born, now))
    }

    /// How long until a timer is due, at most a minute, so that a clock that was set is noticed.
    fn next_timer(&mut self) -> Duration {
        let longest = Duration::from_secs(60);
        let pending = self.pending();
        if !pending.due.is_empty() {
            return Duration::ZERO;
        }
        let wall = self.clock.reading().wall;
        let until = |next: Timestamp| Duration::from_millis(u64::try_from(next.since(wall).0).unwrap_or(0));
        pending.next.map_or(longest, |next| {
            until(next).clamp(Duration::from_millis(1), longest)
        })
    }

    // Asleep.

    async fn visitor(&mut self, visitor: Visitor) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        let now = match &mut self.stay {
            Stay::Asleep(asleep) => asleep.now(reading),
            Stay::Awake(awake) if awake.frozen.is_some() => Now {
                at: reading.wall,
                quality: reading.quality,
            },
            _ => return self.hand_over(visitor).await,
        };
        let proposal = match door::hear(&visitor, &self.bundle, &self.callers, &self.id, now) {
            Ok(proposal) => proposal,
            Err(problem) => {
                visitor.refuse(problem).await;
                return Ok(());
            }
        };
        if self.is_frozen() {
            self.thaw(launch(proposal), &visitor.summary()).await?;
            return self.hand_over(visitor).await;
        }
        self.propose(proposal, visitor.summary(), Some(visitor))
            .await
            .map(drop)
    }

    /// Decides a proposal to wake; begins the activation or turns the visitor away.
    async fn propose(
        &mut self,
        proposal: Proposal,
        detail: String,
        visitor: Option<Visitor>,
    ) -> anyhow::Result<Option<suijuris_api::event::Verdict>> {
        let reading = self.clock.reading();
        let Stay::Asleep(asleep) = &mut self.stay else {
            return Ok(None);
        };
        self.say.proposal(
            Action::Wake,
            proposal.principal.as_str(),
            Some(proposal.trigger.kind.as_str()),
            &detail,
        );
        let verdict = asleep.decide(&proposal, reading);
        let words = verdict::verdict(verdict.decision(), "door");
        self.say.event(Event::Verdict(words.clone()));
        match verdict {
            Verdict::Permit(_, _) => self.wake(proposal, visitor).await?,
            Verdict::Refuse(decision) => {
                let problem = asleep.problem(&decision);
                let recorded = asleep.refused(*decision, proposal.fired, reading)?;
                self.say_refused(&recorded);
                if let Some(visitor) = visitor {
                    visitor.refuse(problem).await;
                }
            }
        }
        Ok(Some(words))
    }

    fn say_refused(&self, recorded: &[Refused]) {
        for refused in recorded {
            self.say.event(suijuris_runtime::remain::refused_event(refused));
        }
    }

    async fn wake(&mut self, proposal: Proposal, visitor: Option<Visitor>) -> anyhow::Result<()> {
        let Stay::Asleep(asleep) = std::mem::replace(&mut self.stay, Stay::Moving) else {
            return Ok(());
        };
        // The runtime takes the lock; what is not recorded yet is recorded before.
        let mut asleep = asleep;
        let recorded = asleep.record_refusals(Fired::new(), self.clock.reading(), true)?;
        self.say_refused(&recorded);
        drop(asleep);
        let launch = launch(proposal);
        let network = self.bundle.manifest.workload.network;
        let started = machine::start(&self.driver, &self.place, &self.inherited, network, &launch).await;
        match started {
            Ok(mut running) => {
                let detail = self.driver.describe().to_string();
                self.say.event(Event::Machine {
                    state: "started".to_owned(),
                    detail,
                });
                let output = running.forward_output(&self.say);
                let awake = Awake::new(running, output);
                self.stay = Stay::Awake(Box::new(awake));
                if let Some(visitor) = visitor {
                    self.hand_over(visitor).await?;
                }
                Ok(())
            }
            Err(error) => {
                self.say.error("machine_failed", &format!("{error:#}"));
                self.fall_asleep()?;
                if let Some(visitor) = visitor {
                    let problem =
                        suijuris_api::Problem::new(503, "machine_failed", "The machine cannot be started");
                    visitor.refuse(problem.with_detail(format!("{error:#}"))).await;
                }
                Ok(())
            }
        }
    }

    async fn timer(&mut self) -> anyhow::Result<()> {
        let reading = self.clock.reading();
        if let Stay::Asleep(asleep) = &mut self.stay {
            let recorded = asleep.record_refusals(Fired::new(), reading, false)?;
            self.say_refused(&recorded);
        }
        let due = self.pending().due;
        if due.is_empty() {
            return Ok(());
        }
        let proposal = Proposal::timers(&due);
        let detail = due
            .iter()
            .map(|(name, _)| name.to_string())
            .collect::<Vec<_>>()
            .join(", ");
        let skipped = due.iter().all(|(_, due)| due.fire.is_empty());
        match &mut self.stay {
            // Missed occurrences that do not fire are only noted.
            Stay::Asleep(asleep) if skipped => {
                asleep.record_refusals(proposal.fired, reading, false).map(drop)
            }
            Stay::Asleep(_) => self.propose(proposal, detail, None).await.map(drop),
            _ => self.thaw(launch(proposal), &detail).await,
        }
    }

    /// The machine is gone; the object sleeps, or is found to have been left.
    fn fall_asleep(&mut self) -> anyhow::Result<()> {
        let (writer, _recovery) = Writer::open(&self.home, Depth::Tail, Sizes::default())
            .context("the object cannot be opened after its machine ended")?;
        let asleep = Asleep::new(writer, self.bundle.clone(), host(), self.clock.reading())?;
        self.stay = Stay::Asleep(Box::new(asleep));
        self.settle_down();
        Ok(())
    }

    // Awake.

    async fn hand_over(&mut self, visitor: Visitor) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &self.stay else {
            return Ok(());
        };
        let (socket, bytes) = visitor.into_parts()?;
        let descriptor = std::os::fd::AsFd::as_fd(&socket);
        // A runtime that has just left closes the channel: the connection ends, as it would have a moment later.
        let _ = awake
            .running
            .channel
            .send(&ToRuntime::Connection, &bytes, Some(descriptor))
            .await;
        Ok(())
    }

    async fn packet(&mut self, packet: std::io::Result<Option<Packet<FromRuntime>>>) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        let Ok(Some(packet)) = packet else {
            // The runtime closed its end; what became of the machine follows.
            let exit = awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            return self.machine_ended(exit).await;
        };
        match packet.message {
            FromRuntime::Leaving { how } if how == "suspend" => self.freeze().await?,
            message => awake.note(message, &self.say),
        }
        Ok(())
    }

    async fn freeze(&mut self) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        if self.ending {
            // Dormant already, and nobody would thaw it again.
            awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            return Ok(());
        }
        match awake.running.machine.suspend().await {
            Ok(()) => {
                // The frozen runtime keeps the lock; its last record is durable, so that anybody can read on from it.
                let reader = Reader::open(&self.home, Depth::Tail)?;
                awake.frozen = Some(Box::new(reader.state().head().clone()));
                let detail = self.driver.describe().to_string();
                self.say.event(Event::Machine {
                    state: "suspended".to_owned(),
                    detail,
                });
            }
            Err(error) => {
                self.say.error(
                    "machine_failed",
                    &format!("the machine cannot be frozen, so it is stopped: {error}"),
                );
                awake.running.machine.signal(Signal::TERM)?;
            }
        }
        Ok(())
    }

    async fn thaw(&mut self, launch: Launch, detail: &str) -> anyhow::Result<()> {
        self.say.proposal(
            Action::Wake,
            &launch.by,
            Some(launch.trigger.kind.as_str()),
            detail,
        );
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        awake
            .running
            .machine
            .resume()
            .await
            .context("the machine cannot be resumed")?;
        awake.frozen = None;
        // The runtime holds its gate since it announced the pause; now it decides again.
        let _ = awake
            .running
            .channel
            .send(&ToRuntime::Thawed(Box::new(launch)), &[], None)
            .await;
        self.say.event(Event::Machine {
            state: "resumed".to_owned(),
            detail: String::new(),
        });
        Ok(())
    }

    async fn machine_ended(&mut self, exit: Exit) -> anyhow::Result<()> {
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        // What the runtime said before it left is still in the channel.
        while let Ok(Ok(Some(packet))) = tokio::time::timeout(
            Duration::from_millis(100),
            awake.running.channel.receive::<FromRuntime>(),
        )
        .await
        {
            awake.note(packet.message, &self.say);
        }
        let _ = tokio::time::timeout(Duration::from_millis(500), awake.output.join_next()).await;
        self.say.event(Event::Machine {
            state: "stopped".to_owned(),
            detail: exit.to_string(),
        });
        self.stay = Stay::Moving;
        self.fall_asleep()
    }

    // Errands.

    async fn errand(&mut self, errand: Errand) -> anyhow::Result<()> {
        let Errand { request, answer } = errand;
        if self.is_frozen() && matches!(request, ToUp::Wake | ToUp::Patch(_)) {
            let owner = Principal::Controller(
                self.frozen()
                    .map(|head| head.controllers.clone())
                    .unwrap_or_default(),
            );
            self.thaw(launch(Proposal::manual(owner)), "").await?;
        }
        match (&mut self.stay, request) {
            (_, ToUp::Status) => {
                let _ = answer.send(self.status());
            }
            (Stay::Awake(awake), ToUp::Sleep) => {
                let id = awake.expect(answer);
                let message = ToRuntime::Sleep {
                    id,
                    by: "controller".to_owned(),
                };
                let _ = awake.running.channel.send(&message, &[], None).await;
            }
            (Stay::Awake(awake), ToUp::Patch(patch)) => {
                let id = awake.expect(answer);
                let _ = awake
                    .running
                    .channel
                    .send(&ToRuntime::Patch { id, patch }, &[], None)
                    .await;
            }
            (Stay::Awake(_), ToUp::Wake) | (Stay::Asleep(_), ToUp::Sleep) => {
                let _ = answer.send(self.status());
            }
            (Stay::Asleep(asleep), ToUp::Wake) => {
                let proposal = Proposal::manual(owner(asleep));
                let words = self.propose(proposal, String::new(), None).await?;
                match &mut self.stay {
                    // Permitted at the door; answered once the object has decided and the record is durable.
                    Stay::Awake(awake) => awake.waking.push(answer),
                    _ => {
                        let _ = answer.send(words.map_or_else(|| self.status(), Reply::Verdict));
                    }
                }
            }
            (Stay::Asleep(asleep), ToUp::Patch(patch)) => {
                let wakes = wakes(asleep, &patch);
                let owner = owner(asleep);
                let reply = write_asleep(asleep, &patch, self.clock.reading(), &self.say);
                let written = matches!(reply, Reply::Patched { .. });
                let _ = answer.send(reply);
                if let Some(field) = wakes.filter(|_| written) {
                    self.propose(Proposal::memory(owner, field.clone()), field, None)
                        .await?;
                }
            }
            (Stay::Moving, _) => {}
        }
        Ok(())
    }

    fn status(&self) -> Reply {
        let phase = match &self.stay {
            Stay::Asleep(_) => "dormant",
            Stay::Awake(awake) if awake.frozen.is_some() => "suspended",
            _ => "active",
        };
        Reply::Status {
            phase: phase.to_owned(),
            pid: std::process::id(),
            url: self.url.clone(),
        }
    }

    // Ending.

    /// Ctrl-C: asks the object to sleep; a second one stops its machine.
    async fn interrupted(&mut self) -> anyhow::Result<()> {
        let again = std::mem::replace(&mut self.ending, true);
        let Stay::Awake(awake) = &mut self.stay else {
            return Ok(());
        };
        if awake.frozen.is_some() || again {
            awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let id = awake.expect(answer);
        let message = ToRuntime::Sleep {
            id,
            by: "controller".to_owned(),
        };
        let sent = awake.running.channel.send(&message, &[], None).await.is_ok();
        let refused = sent && self.slept(answered).await?;
        if refused {
            self.refused_to_sleep = true;
            self.say.error(
                "sleep_refused",
                "the object refuses to sleep; its machine is stopped without a dormancy record",
            );
            if let Stay::Awake(awake) = &mut self.stay {
                awake.running.machine.stop(Signal::TERM, LEAVE_WITHIN).await;
            }
        }
        Ok(())
    }

    /// Waits for the answer to a sleep while the runtime talks; whether it refused.
    async fn slept(&mut self, mut answered: oneshot::Receiver<Reply>) -> anyhow::Result<bool> {
        let deadline = tokio::time::sleep(LEAVE_WITHIN);
        tokio::pin!(deadline);
        loop {
            if !matches!(self.stay, Stay::Awake(_)) {
                return Ok(false);
            }
            let packet = tokio::select! {
                reply = &mut answered => return Ok(matches!(reply, Ok(Reply::Error { .. }))),
                packet = hear(&self.stay) => packet,
                () = &mut deadline => return Ok(true),
            };
            self.packet(packet).await?;
        }
    }

    fn end(&mut self) -> anyhow::Result<ExitCode> {
        let reading = self.clock.reading();
        if let Stay::Asleep(mut asleep) = std::mem::replace(&mut self.stay, Stay::Moving) {
            let recorded = asleep.record_refusals(Fired::new(), reading, true)?;
            self.say_refused(&recorded);
        }
        Ok(ExitCode::from(u8::from(self.refused_to_sleep)))
    }
}

/// The next word of the runtime; pending while nobody runs or the machine is frozen.
async fn hear(stay: &Stay) -> std::io::Result<Option<Packet<FromRuntime>>> {
    match stay {
        Stay::Awake(awake) if awake.frozen.is_none() => awake.running.channel.receive().await,
        _ => std::future::pending().await,
    }
}

async fn gone(stay: &Stay) -> Exit {
    match stay {
        Stay::Awake(awake) => awake.running.machine.wait().await,
        _ => std::future::pending().await,
    }
}

fn host() -> Host {
    let id = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Host {
        region: "local".to_owned(),
        provider: "process".to_owned(),
        class: String::new(),
        id: id.trim().to_owned(),
    }
}

fn launch(proposal: Proposal) -> Launch {
    let Proposal {
        trigger,
        principal,
        request,
        fired,
    } = proposal;
    let by = principal.as_str().to_owned();
    let caller = match principal {
        Principal::Caller(caller) => Some(*caller),
        _ => None,
    };
    Launch {
        trigger,
        request,
        by,
        caller,
        fired,
        host: host(),
    }
}

fn owner(asleep: &Asleep) -> Principal {
    Principal::Controller(asleep.look(|state| state.head().controllers.clone()))
}

/// The first field of the patch whose changes propose a wake.
fn wakes(asleep: &Asleep, patch: &Patch) -> Option<String> {
    let schema = &asleep.bundle().manifest.memory;
    let names = patch.set.keys().chain(patch.append.keys()).chain(&patch.unset);
    names
        .filter(|name| schema.field(name).is_some_and(|field| field.wakes))
        .min()
        .cloned()
}

/// An owner's write while the object sleeps: decided, recorded, durable.
fn write_asleep(asleep: &mut Asleep, patch: &Patch, reading: Reading, say: &Say) -> Reply {
    let error = |code: &str, message: String| Reply::Error {
        code: code.to_owned(),
        message,
    };
    match asleep.write(patch, reading) {
        Ok(Written::Done { seq, root, fields }) => {
            say.event(Event::Mutated {
                fields,
                by: "controller".to_owned(),
                seq,
            });
            Reply::Patched { seq, root }
        }
        Ok(Written::Refused(decision)) => {
            let message = verdict::reasons(&decision).join("; ");
            match asleep.refused(*decision, Fired::new(), reading) {
                Ok(_recorded) => error("refused", message),
                Err(wrong) => error("not_durable", format!("{wrong:#}")),
            }
        }
        Err(sleeping::Error::Patch(wrong)) => error(wrong.status().1, wrong.to_string()),
        Err(sleeping::Error::System(wrong)) => error("not_durable", format!("{wrong:#}")),
    }
}
