//! The loop of `up`: asleep, it is the door; awake, it forwards words to the runtime and prints what it hears.

mod asleep;
mod awake;
mod ending;
mod errands;
mod handing;
mod standing;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use suijuris_core::bundle::Bundle;
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::owner_request::Spent;
use suijuris_core::time::Timestamp;
use suijuris_core::trigger::Pending;
use suijuris_custody::claim::{Claim, RefusedCopy};
use suijuris_custody::clock::Clock;
use suijuris_custody::relay;
use suijuris_depot::Waiting;
use suijuris_door::single_flight::BackOff;
use suijuris_door::{PreparedBundle, Proposal, Sleeper};
use suijuris_link::{Cause, LinkError, ToSupervisor};
use suijuris_store::ObjectDir;
use suijuris_vehicle::process::Process;
use suijuris_vehicle::{Driver as _, Exit, Machine as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::awake::Awake;
use super::creation::Created;
use super::desk::{self, Errand};
use super::door::{self, Visitor};
use super::dormant::{Asleep, Frozen};
use super::post::Post;
use crate::event_printer::EventPrinter;
use crate::here;
use crate::object_paths::ObjectPaths;
use crate::registry;

/// Visitors whose heads are being read, at most; further ones wait in the socket's backlog.
const MAX_VISITORS: usize = 1_024;

/// Time for the runtime to leave after its last word, and for a host stop, at most.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks at the timers, at most, so that a clock that was set is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

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
    place: ObjectPaths,
    home: ObjectDir,
    bundle: Arc<Bundle>,
    id: String,
    /// The same with what its door needs of it.
    prepared: Arc<PreparedBundle>,
    clock: Clock,
    driver: Process,
    listener: TcpListener,
    inherited: std::net::TcpListener,
    say: Rc<EventPrinter>,
    url: String,
    stay: Stay,
    claim: Claim,
    /// Serves the depot to its machines.
    relay: relay::Service,
    /// What owners sign their requests to this `up` for.
    server: PublicKey,
    /// Owners' requests that were used.
    spent: Spent,
    /// Publishing what the object left when it fell asleep.
    publishing: JoinSet<Result<(), String>>,
    /// Asking a witness that did not answer.
    asking: JoinSet<suijuris_core::witness::Verdict>,
    /// Messages that wait, as last seen.
    post: Post,
    /// The epoch when a machine was started, until that machine has ended.
    began: Option<u64>,
    /// The pause after machines in which the object did not wake.
    back_off: BackOff,
    /// This copy is not the object any more.
    lost: bool,
    turned_away: JoinSet<()>,
    ending: bool,
    refused_to_sleep: bool,
}

enum Step {
    Accepted(tokio::net::TcpStream, std::net::SocketAddr),
    Visitor(Visitor),
    Errand(Errand),
    Said(Result<Option<ToSupervisor>, LinkError>),
    Ended(Exit),
    Timer,
    Post(Vec<Waiting>),
    Lost(Box<RefusedCopy>),
    Answered(Box<suijuris_core::witness::Verdict>),
    Interrupted,
}

impl House {
    pub(super) fn new(
        place: ObjectPaths,
        created: Created,
        claim: Claim,
        driver: Process,
        listener: std::net::TcpListener,
        url: String,
        say: Rc<EventPrinter>,
    ) -> anyhow::Result<Self> {
        let Created {
            writer,
            bundle,
            clock,
        } = created;
        let witnessed = claim.witnessed();
        let prepared = Arc::new(PreparedBundle::new(bundle.clone())?);
        let asleep = Asleep::new(writer, prepared.clone(), here::host(), witnessed, clock.reading())?;
        let id = asleep.look(|state| state.head().object.to_string());
        let inherited = listener.try_clone()?;
        Ok(Self {
            home: ObjectDir::at(&place.data),
            place,
            id,
            bundle,
            prepared,
            clock,
            driver,
            listener: TcpListener::from_std(listener)?,
            inherited,
            say,
            url,
            post: Post::new(claim.depot(), claim.object()),
            claim,
            relay: relay::Service::start()?,
            server: fresh_server()?,
            spent: Spent::default(),
            publishing: JoinSet::new(),
            asking: JoinSet::new(),
            began: None,
            back_off: BackOff::default(),
            lost: false,
            stay: Stay::Asleep(Box::new(asleep)),
            turned_away: JoinSet::new(),
            ending: false,
            refused_to_sleep: false,
        })
    }

    pub(super) async fn run(mut self) -> anyhow::Result<ExitCode> {
        let (errands_in, mut errands) = mpsc::channel(16);
        crate::object_paths::make_socket_dir(&self.place.control_socket())?;
        let control = desk::bind(&self.place.control_socket())?;
        let desk = tokio::task::LocalSet::new();
        desk.spawn_local(desk::serve(control, errands_in));
        let ended = desk
            .run_until(async {
                let ended = self.keep(&mut errands).await;
                self.shut_down().await;
                ended
            })
            .await;
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
        self.prewarm();
        self.publish();
        self.ask_again();
        loop {
            if self.lost {
                return Ok(ExitCode::from(1));
            }
            if self.ending && matches!(self.stay, Stay::Asleep(_)) {
                return self.end().await;
            }
            let backing_off = self.backoff_remaining();
            let wait = backing_off.map_or_else(|| self.next_timer(), |left| left.min(LONGEST_WAIT));
            let door_open = matches!(&self.stay, Stay::Asleep(_)) || self.frozen().is_some();
            let step = tokio::select! {
                biased;
                _ = interrupt.recv() => Step::Interrupted,
                _ = terminate.recv() => Step::Interrupted,
                said = hear(&self.stay) => Step::Said(said),
                exit = gone(&self.stay) => Step::Ended(exit),
                Some(errand) = errands.recv() => Step::Errand(errand),
                Some(visitor) = visitors.recv() => Step::Visitor(visitor),
                Some(_greeted) = greeting.join_next() => continue,
                Some(_answered) = self.turned_away.join_next() => continue,
                Some(published) = self.publishing.join_next() => {
                    if let Ok(Err(why)) = published {
                        self.say.error("depot_failed", &why);
                    }
                    continue;
                }
                lost = self.claim.lost() => Step::Lost(Box::new(lost)),
                Some(Ok(verdict)) = self.asking.join_next() => Step::Answered(Box::new(verdict)),
                waiting = self.post.arrives(), if door_open && backing_off.is_none() => Step::Post(waiting),
                () = tokio::time::sleep(wait) => Step::Timer,
                accepted = self.listener.accept(), if door_open && greeting.len() + self.turned_away.len() < MAX_VISITORS => match accepted {
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
                Step::Said(said) => self.said(said).await?,
                Step::Ended(exit) => self.machine_ended(exit).await?,
                Step::Timer => self.timer().await?,
                Step::Post(waiting) => self.post_arrived(&waiting).await?,
                Step::Lost(copy) => self.lose(&copy).await,
                Step::Answered(verdict) => self.answered(*verdict).await,
                Step::Interrupted => self.interrupted().await?,
            }
        }
    }

    fn announce(&self) {
        let Stay::Asleep(asleep) = &self.stay else { return };
        let (name, listening) = asleep.listening(&self.place, &self.driver, &self.url);
        registry::note(&self.place, &self.id, &name, &self.url);
        self.say.event(listening);
    }

    /// What can be done ahead for the next start.
    fn prewarm(&self) {
        if let Err(error) = self.driver.prepare() {
            self.say.error("machine_failed", &error.to_string());
        }
    }

    /// The object in a frozen machine.
    fn frozen(&mut self) -> Option<&mut Frozen> {
        match &mut self.stay {
            Stay::Awake(awake) => awake.frozen.as_deref_mut(),
            _ => None,
        }
    }

    /// The door of the object, while it is dormant.
    fn door(&mut self) -> Option<&mut Sleeper> {
        match &mut self.stay {
            Stay::Asleep(asleep) => Some(asleep.door()),
            Stay::Awake(awake) => awake.frozen.as_mut().map(|frozen| frozen.door()),
            Stay::Moving => None,
        }
    }

    /// What the timers want now; nothing while the runtime looks after them.
    fn pending(&mut self) -> Pending {
        let reading = self.clock.reading();
        match &mut self.stay {
            Stay::Asleep(asleep) => asleep.timers(reading),
            Stay::Awake(awake) => {
                let frozen = awake.frozen.as_mut();
                frozen.map_or_else(Pending::default, |frozen| frozen.timers(reading))
            }
            Stay::Moving => Pending::default(),
        }
    }

    /// How long nothing but an owner starts a machine, after one in which the object did not wake.
    fn backoff_remaining(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = self.back_off.until(now)?;
        Some(until.saturating_duration_since(now))
    }

    /// How long until a timer is due.
    fn next_timer(&mut self) -> Duration {
        let pending = self.pending();
        if !pending.due.is_empty() {
            return Duration::ZERO;
        }
        let wall = self.clock.reading().wall;
        let until = |next: Timestamp| Duration::from_millis(u64::try_from(next.since(wall).0).unwrap_or(0));
        pending.next.map_or(LONGEST_WAIT, |next| {
            until(next).clamp(Duration::from_millis(1), LONGEST_WAIT)
        })
    }
}

/// The next word of the runtime; pending while nobody runs or the machine is frozen.
async fn hear(stay: &Stay) -> Result<Option<ToSupervisor>, LinkError> {
    match stay {
        Stay::Awake(awake) if awake.frozen.is_none() => awake.running.link.receive().await,
        _ => std::future::pending().await,
    }
}

async fn gone(stay: &Stay) -> Exit {
    match stay {
        Stay::Awake(awake) => awake.running.machine.wait().await,
        _ => std::future::pending().await,
    }
}

/// A key for this `up`, so that what was signed for another, or for an earlier one, is not taken for its own.
fn fresh_server() -> anyhow::Result<PublicKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).context("the system gives no randomness")?;
    Ok(SecretKey::from_seed(&seed).public())
}

/// Why a machine is started, or runs on.
fn cause(proposal: Proposal) -> Cause {
    let Proposal {
        trigger,
        principal,
        request,
        fired,
    } = proposal;
    Cause {
        trigger,
        request,
        by: principal,
        fired,
        host: here::host(),
    }
}
