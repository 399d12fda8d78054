//! The door of a deployed class, in a machine of its own: which instance a request is for, whether there may be one, and on which
//! machine it is. The answer is a replay there. A use that the rules do not permit makes nothing.
//!
//! ```text
//! key of the request → known? replay · else `instantiate` by the bundle's rules → volume → machine → its object's id → replay
//! ```
//!
//! Volumes and machines are found again by what they are called, so that a door that dies in the middle goes on. It holds a token of
//! the instances' app, its own key, by which instances begin ([`FirstWord`](suijuris_core::class::founder::FirstWord)), and the key of replays. The instance decides again, by
//! the same rules. Not here: waking it (the platform's proxy does), its memory, its history.

mod making;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::http;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::class::founder::SignedAppointment;
use suijuris_core::class::{Class, Instantiation, Key, Source};
use suijuris_core::inputs::{Founding, Host, Vehicle as Carrier};
use suijuris_core::key::SecretKey;
use suijuris_core::memory::Value as Memory;
use suijuris_core::replay::{MAX_LIFETIME, Replayed};
use suijuris_custody::clock::Clock;
use suijuris_door::{ClassDoor, Credentials, PreparedBundle};
use suijuris_gate::{
    Admission, Authorizer, Control, Forwarding, Gate, Limits, Peer, Phase, Protocol, Refusal, RequestHead,
    Upstream,
};
use suijuris_runtime::resident::files;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::client::Vehicle;
use super::id_of;
use super::machine::MARK;

/// Variables of the machine: what it is to do, and the secrets that it does it with.
pub(super) const CONFIG: &str = "SUIJURIS_CLASS";
pub(super) const KEY: &str = "SUIJURIS_DOOR_KEY";
pub(super) const TOKEN: &str = "SUIJURIS_DOOR_TOKEN";
/// Metadata of machines that carry instances.
const OF_KEY: &str = "suijuris_key";
const OF_OBJECT: &str = "suijuris_object";
/// How long a request waits for it, milliseconds.
const HOLD_MS: u64 = 90_000;
/// How long those who waited are told why nothing was founded.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// The window of rates.
const SECOND: Duration = Duration::from_secs(1);

/// What the machine's variable says: nothing of it is secret.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// The app of the instances' machines.
    pub(super) app: String,
    /// Their image.
    pub(super) image: String,
    /// What starts the runtime in it.
    pub(super) entrypoint: Vec<String>,
    /// Where they are made.
    pub(super) region: Option<String>,
    pub(super) volume_gb: u32,
    /// Where their gates listen, and this door.
    pub(super) port: u16,
    pub(super) autostop: String,
    pub(super) depot: Option<String>,
    /// What owners signed of this door, in base64url.
    pub(super) appointment: String,
}

/// An instance that there is.
#[derive(Debug, Clone)]
struct Instance {
    machine: String,
    object: ObjectId,
}

/// What is known of a class's instances.
#[derive(Debug, Default)]
struct Known {
    instances: HashMap<String, Instance>,
    under_way: BTreeSet<String>,
    failed: HashMap<String, (Instant, Problem)>,
    recent: VecDeque<(Instant, IpAddr)>,
}

struct ClassAtDoor {
    config: Config,
    class: Class,
    name: String,
    door: RefCell<ClassDoor>,
    appointed: SignedAppointment,
    protocol: suijuris_core::manifest::Protocol,
    bundle: String,
    key: SecretKey,
    replays: SecretKey,
    proxy: Option<suijuris_auth::ProxyKey>,
    api: Vehicle,
    clock: Clock,
    known: RefCell<Known>,
    control: Control,
    tasks: RefCell<JoinSet<()>>,
}

/// The door's process.
pub(crate) fn main() -> ExitCode {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = tokio
        .map_err(anyhow::Error::from)
        .and_then(|tokio| tokio.block_on(tokio::task::LocalSet::new().run_until(serve())));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::terminal::note(&format!("{error:#}"));
            ExitCode::from(3)
        }
    }
}

fn secret(name: &str) -> anyhow::Result<SecretKey> {
    let text =
        Zeroizing::new(std::env::var(name).with_context(|| format!("{name} is not set: deploy again"))?);
    let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok().map(Zeroizing::new);
    let seed = bytes.as_ref().and_then(|bytes| bytes.as_slice().try_into().ok());
    Ok(SecretKey::from_seed(seed.with_context(|| {
        format!("{name} is not 32 bytes in base64url: deploy again")
    })?))
}

async fn serve() -> anyhow::Result<()> {
    let door = Rc::new(ClassAtDoor::of_machine().await?);
    door.learn().await?;
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], door.config.port)))
        .with_context(|| format!("port {} cannot be listened on", door.config.port))?;
    let limits = Limits {
        hold_ms: HOLD_MS,
        ..Limits::default()
    };
    // Nothing is forwarded: each request is answered here.
    let nowhere = Upstream::Unix(std::path::PathBuf::new());
    let control = door.control.clone();
    let gate = Gate::new(AtDoor(Rc::clone(&door)), nowhere, Protocol::Http, limits, control);
    let (_nobody, handed) = tokio::sync::mpsc::channel(1);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    tokio::select! {
        served = gate.serve(listener, handed) => Ok(served?),
        // What is being founded is found again by the next.
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

impl ClassAtDoor {
    async fn of_machine() -> anyhow::Result<Self> {
        let text = std::env::var(CONFIG).with_context(|| format!("{CONFIG} is not set"))?;
        let config: Config =
            serde_json::from_str(&text).with_context(|| format!("{CONFIG} cannot be read"))?;
        let bytes = URL_SAFE_NO_PAD.decode(&config.appointment).unwrap_or_default();
        let appointed = SignedAppointment::decode(&bytes)?;
        let clock = Clock::start(None)?;
        appointed.verify(clock.reading().wall)?;
        let bundle = Arc::new(files::bundle(Path::new(files::DIRECTORY))?.open()?);
        let class = bundle.manifest.class.clone().context("the bundle is no class")?;
        let id = appointed.appointment.class()?;
        let name = bundle.manifest.name.clone();
        let region = std::env::var("FLY_REGION").ok();
        let carrier = Carrier {
            provider: "fly",
            class: "",
        };
        let machine = std::env::var("FLY_MACHINE_ID").ok();
        let place = Host::of(carrier, region.as_deref(), machine.as_deref().unwrap_or_default());
        let bundle_id = bundle.id().to_string();
        let protocol = bundle.manifest.gate.protocol;
        let door = ClassDoor::new(Arc::new(PreparedBundle::new(bundle)?), id, name.clone(), place);
        let token = std::env::var(TOKEN).with_context(|| format!("{TOKEN} is not set: deploy again"))?;
        let api = Vehicle::within(Zeroizing::new(token), &format!("/apps/{}/machines", config.app)).await?;
        Ok(Self {
            class,
            name,
            door: RefCell::new(door),
            appointed,
            protocol,
            bundle: bundle_id,
            key: secret(KEY)?,
            replays: secret(super::REPLAY_KEY)?,
            proxy: machine.and_then(proxy_key),
            api,
            clock,
            known: RefCell::default(),
            control: Control::new(Phase::Open),
            tasks: RefCell::default(),
            config,
        })
    }

    fn path(&self, below: &str) -> String {
        format!("/apps/{}/{below}", self.config.app)
    }

    async fn machines(&self) -> anyhow::Result<Vec<Value>> {
        let found = self.api.call(Method::GET, &self.path("machines"), None).await?;
        let found = found.good("machines cannot be listed")?;
        Ok(found.as_array().cloned().unwrap_or_default())
    }

    /// The instances that there are already.
    async fn learn(&self) -> anyhow::Result<()> {
        for machine in self.machines().await? {
            let of = |key: &str| machine.pointer(&format!("/config/metadata/{key}"))?.as_str();
            if let (Some(key), Some(object)) = (of(OF_KEY), of(OF_OBJECT))
                && let Ok(object) = object.parse()
            {
                let machine = id_of(&machine, "machine")?;
                let instance = Instance { machine, object };
                self.known.borrow_mut().instances.insert(key.to_owned(), instance);
            }
        }
        Ok(())
    }

    /// The key that a request names, by the first of the class's sources that gives one.
    fn key_of(&self, head: &RequestHead<'_>) -> Result<Option<Key>, Problem> {
        let mut needs_token = false;
        for source in &self.class.from {
            let found = match source {
                Source::Host => {
                    let mut labels = head.host.split('.');
                    let (key, class) = (labels.next(), labels.next());
                    key.filter(|_| class == Some(&self.name)).map(str::to_owned)
                }
                Source::Header(name) => head
                    .exposed(name)
                    .ok()
                    .flatten()
                    .map(std::borrow::Cow::into_owned),
                Source::Claim(name) if head.authorization.is_some() => {
                    let caller = self
                        .door
                        .borrow_mut()
                        .caller(credentials(head), self.clock.reading())?;
                    let claim = caller.claims.iter().find(|(claim, _)| claim.as_str() == name);
                    match claim {
                        Some((_, Memory::String(key))) => Some(key.clone()),
                        _ => None,
                    }
                }
                Source::Claim(_) => {
                    needs_token = true;
                    None
                }
                Source::ClientCert => {
                    let shown = head.tls.and_then(|session| session.certificate.as_ref());
                    shown.and_then(|shown| shown.name.clone())
                }
                Source::Path | Source::Sni | Source::Port => None,
            };
            if let Some(found) = found {
                let key = self.class.key.asked(found.as_bytes());
                return key.map(Some).map_err(|error| {
                    Problem::new(400, "bad_key", "The address names no object").with_detail(error.to_string())
                });
            }
        }
        if needs_token {
            return Err(
                Problem::new(401, "token_required", "A caller's token is required").with_detail(
                    "which object is meant is a claim of the token: send Authorization: Bearer TOKEN",
                ),
            );
        }
        Ok(None)
    }

    fn meet(self: &Rc<Self>, head: &RequestHead<'_>) -> Admission<std::convert::Infallible> {
        let refuse = |problem: Problem| Admission::Refuse(Box::new(problem.into()));
        let key = match self.key_of(head) {
            Ok(Some(key)) => key,
            Ok(None) => {
                return refuse(
                    Problem::new(404, "unknown_object", "No object is at this address")
                        .with_detail("name an instance of the class as its definition says"),
                );
            }
            Err(problem) => return refuse(problem),
        };
        {
            let mut known = self.known.borrow_mut();
            if let Some(instance) = known.instances.get(key.as_str()) {
                return Admission::Answer(Box::new(self.replay(instance)));
            }
            known.failed.retain(|_, (since, _)| since.elapsed() < FAILED_FOR);
            if let Some((_, problem)) = known.failed.get(key.as_str()) {
                return refuse(problem.clone());
            }
        }
        // Whoever waits for one that another began may be refused all the same.
        match self.decide(&key, head) {
            Err(refusal) => Admission::Refuse(refusal),
            Ok(instance) => {
                if self.known.borrow_mut().under_way.insert(key.as_str().to_owned()) {
                    self.known
                        .borrow_mut()
                        .recent
                        .push_back((Instant::now(), head.peer.ip()));
                    let door = Rc::clone(self);
                    self.tasks.borrow_mut().spawn_local(door.found(instance));
                }
                Admission::Hold
            }
        }
    }

    /// Asks the class's rules, before anything is made.
    fn decide(&self, key: &Key, head: &RequestHead<'_>) -> Result<Instantiation, Box<Refusal>> {
        let problem = |problem: Problem| Box::new(Refusal::from(problem));
        let reading = self.clock.reading();
        let mut door = self.door.borrow_mut();
        let words = &door.prepared().bundle().rules.vocabulary;
        let request =
            suijuris_door::request(words, head).map_err(|reject| Box::new(Refusal::from(reject)))?;
        let caller = door.caller(credentials(head), reading).map_err(problem)?;
        let founding = self.counts(head.peer.ip());
        door.decide(key, founding, &caller, Some(request), reading)
            .map_err(|decision| problem(door.problem(&decision)))
    }

    fn counts(&self, peer: IpAddr) -> Founding {
        let mut known = self.known.borrow_mut();
        while known.recent.front().is_some_and(|(at, _)| at.elapsed() > SECOND) {
            known.recent.pop_front();
        }
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let waiting = known.under_way.iter();
        let waiting = waiting.filter(|key| !known.instances.contains_key(key.as_str()));
        Founding {
            instances: number(known.instances.len() + waiting.count()),
            max_instances: self.class.max_instances,
            peer_rate: number(known.recent.iter().filter(|(_, ip)| *ip == peer).count()),
            class_rate: number(known.recent.len()),
        }
    }

    async fn found(self: Rc<Self>, instance: Instantiation) {
        let key = instance.key.as_str().to_owned();
        let made = self.make(instance).await;
        {
            let mut known = self.known.borrow_mut();
            known.under_way.remove(&key);
            match made {
                Ok(instance) => drop(known.instances.insert(key, instance)),
                Err(error) => {
                    // For the owner; a caller learns that it may ask again.
                    crate::terminal::note(&format!("no instance was founded: {error:#}"));
                    let mut problem = Problem::new(503, "not_founded", "The object could not be founded")
                        .with_detail("its owner finds the cause in the log of the door: ask again");
                    problem.retry_after = Some(5);
                    known.failed.insert(key, (Instant::now(), problem));
                }
            }
        }
        self.control.ask_again();
    }

    /// Sends the request to the instance's machine, for this object and no other.
    fn replay(&self, instance: &Instance) -> http::Response<hyper::body::Bytes> {
        let replayed = Replayed {
            target: instance.object,
            head: None,
            expires: self.clock.reading().wall.saturating_add(MAX_LIFETIME),
        };
        let state = replayed.sign(&self.replays);
        let there = format!(
            "app={};instance={};state={state}",
            self.config.app, instance.machine
        );
        // Where no proxy hears it, it is the answer to a request that went to the wrong place.
        let answer = http::Response::builder().status(421).header("fly-replay", there);
        answer.body(hyper::body::Bytes::new()).unwrap_or_default()
    }
}

fn credentials<'a>(head: &RequestHead<'a>) -> Credentials<'a> {
    Credentials {
        wants: head.object,
        authorization: head.authorization,
    }
}

/// By what this machine believes the host's proxy, where that says what it knows of TLS.
fn proxy_key(machine: String) -> Option<suijuris_auth::ProxyKey> {
    let bytes = Zeroizing::new(std::fs::read("/.fly/proxy.key").ok()?);
    let key = Zeroizing::new(bytes.as_slice().try_into().ok()?);
    Some(suijuris_auth::ProxyKey::new(machine, key))
}

/// The door as its gate asks it.
struct AtDoor(Rc<ClassAtDoor>);

impl Authorizer for AtDoor {
    type Permit = std::convert::Infallible;

    fn admit(&self, head: &RequestHead<'_>, _: &mut Forwarding) -> Admission<Self::Permit> {
        let door = &self.0;
        let now_s = u64::try_from(door.clock.reading().wall.0 / 1_000).unwrap_or_default();
        let word = head.header(suijuris_api::tls::FIELD);
        let word = word.and_then(|word| std::str::from_utf8(word).ok());
        let said = door.proxy.as_ref().zip(word);
        let said = said.and_then(|(key, word)| key.open(suijuris_api::tls::WORD, word, now_s));
        let session = said.and_then(|said| serde_json::from_slice(&said).ok());
        door.meet(&head.clone().with_tls(session.as_ref()))
    }

    fn connect(&self, _: Peer<'_>) -> Admission<Self::Permit> {
        Admission::Refuse(Box::new(Refusal::reserved()))
    }
}

/// What a door's machine is in the words of the Machines API.
pub(super) fn machine(image: &str, config: &Config, autostop: &str) -> anyhow::Result<Value> {
    let env = BTreeMap::from([(CONFIG, serde_json::to_string(config)?)]);
    Ok(json!({
        "image": image,
        "env": env,
        "metadata": { MARK: "door", "client_tls": "true" },
        "guest": { "cpu_kind": "shared", "cpus": 1, "memory_mb": 256 },
        "restart": { "policy": "on-failure", "max_retries": 3 },
        "services": [{
            "protocol": "tcp",
            "internal_port": config.port,
            "autostart": true,
            "autostop": autostop,
            "min_machines_running": 0,
            "ports": [{ "port": 80, "handlers": ["http"] }, { "port": 443, "handlers": ["tls", "http"] }],
        }],
    }))
}
