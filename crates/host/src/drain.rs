//! Machines that go to another host: config, volumes, secrets, under the same id; one after the other, each stopped meanwhile.
//!
//! ```text
//! this host                                the other
//! note the move, lease the machine
//! stop it
//! offer it ──────────────────────────────▶ has its image and room for it, wants the image, or says no
//! send an image that was pushed here
//! send each volume and snapshot ──────────────────────▶ takes it aside
//! commit ────────────────────────────────▶ one write makes the machine, its volumes and its app the other's; then it starts
//! destroy it, keep its volumes a day
//! ```
//!
//! The move has a nonce, and is done again from the beginning wherever either side ended, until the other says that it has the
//! machine, or that it does not want it: so it is on exactly one of them in the end. While it is not known which, the lease keeps it
//! stopped here.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use zeroize::Zeroizing;

use crate::api::network;
use crate::apps::App;
use crate::clock::now_ms;
use crate::host::Inner;
use crate::ids::{self, hex};
use crate::machine::actor::Handle;
use crate::machine::effects::chain;
use crate::machine::requests::Request;
use crate::machine::{By, Machine, State};
use crate::secrets::unhex;
use crate::volumes::{Snapshot, Volume, VolumeState};

/// Where what is noted of moves stands among the documents.
const MOVE: &str = "move";
const JOB: (&str, &str, &str) = ("drain", "", "job");
/// The lease outlasts every move.
const LEASE_MS: u64 = 100 * 365 * 24 * 3_600_000;
/// How long a machine is waited for beyond what it may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(360);
/// How long the other host may take to answer; it may have to pull an image.
const ANSWER_WITHIN: Duration = Duration::from_secs(660);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes of a volume that are sent at once.
const CHUNK: usize = 64 << 10;
/// Between two tries of what could not be finished.
const PAUSES_S: [u64; 6] = [1, 2, 5, 10, 30, 60];

/// What one host tells another of a machine that is to come.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) nonce: String,
    pub(crate) machine: Machine,
    pub(crate) app: App,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) secrets: Vec<(String, SecretValue)>,
    /// Whether it ran.
    pub(crate) starts: bool,
    /// Names of the app, as its certificates list them, and its network policies: kind, name, document.
    #[serde(default)]
    pub(crate) documents: Vec<(String, String, Value)>,
}

impl Offer {
    /// What comes in streams of its own: volumes, and their snapshots.
    pub(crate) fn contents(&self) -> Vec<&str> {
        let snapshots = self.volumes.iter().flat_map(|volume| &volume.snapshots);
        let volumes = self.volumes.iter().map(|volume| volume.id.as_str());
        volumes
            .chain(snapshots.map(|snapshot| snapshot.id.as_str()))
            .collect()
    }
}

/// A secret of an app, as one host tells it to another.
pub(crate) struct SecretValue(pub(crate) Zeroizing<String>);

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|value| Self(Zeroizing::new(value)))
    }
}

/// A move that was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Begun {
    nonce: String,
    starts: bool,
}

/// Where machines go.
#[derive(Clone)]
pub(crate) struct Destination {
    /// `http://HOST:PORT`.
    to: Uri,
    token: Zeroizing<String>,
}

/// What became of a machine.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Moved,
    /// It is here as it was, for this reason.
    Stays(String),
    /// It is not known yet: it is tried again.
    Pending(String),
}

/// What keeps a move from being finished.
enum Trouble {
    /// The other host said no: nothing of the machine is there.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

impl Destination {
    /// That of an address and a token of the other host.
    ///
    /// # Errors
    /// The address is none.
    pub(crate) fn new(to: &str, token: &str) -> Result<Self, String> {
        let wrong = || format!("{to:?} is no address of a host: write http://HOST:4280");
        let uri: Uri = to.trim_end_matches('/').parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() || !matches!(uri.path(), "" | "/") {
            return Err(wrong());
        }
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "the token is empty or none: make one at the other host with `host token create --receive`"
                    .to_owned(),
            );
        }
        Ok(Self {
            to: uri,
            token: Zeroizing::new(token.to_owned()),
        })
    }

    fn authority(&self) -> &str {
        self.to.authority().map_or("", http::uri::Authority::as_str)
    }

    /// Sends something; the answer's document.
    async fn send(&self, method: Method, path: &str, body: Sent) -> Result<Value, Trouble> {
        let unknown = |why: &dyn std::fmt::Display| Trouble::Unknown(format!("{}: {why}", self.authority()));
        let exchange = async {
            let port = self.to.port_u16().unwrap_or(80);
            let host = self.to.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, port))
                .await
                .map_err(|error| unknown(&error))?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| unknown(&error))?;
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header(http::header::HOST, "localhost")
                .header(
                    http::header::AUTHORIZATION,
                    format!("Bearer {}", self.token.as_str()),
                )
                .body(body)
                .map_err(|error| unknown(&error))?;
            let answered = async {
                let response = sender
                    .send_request(request)
                    .await
                    .map_err(|error| unknown(&chain(&error)))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
                let bytes = body.map_err(|error| unknown(&error))?.to_bytes();
                Ok((status, bytes))
            };
            tokio::pin!(answered);
            tokio::select! {
                answer = &mut answered => answer,
                ended = connection => match ended {
                    Err(error) => Err(unknown(&chain(&error))),
                    // What had come by then is read.
                    Ok(()) => answered.await,
                }
            }
        };
        let (status, bytes) = match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(answered) => answered?,
            Err(_) => return Err(unknown(&"no answer in time")),
        };
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let said = document.get("error").and_then(Value::as_str);
        let text = format!(
            "{} answered {}: {}",
            self.authority(),
            status.as_u16(),
            said.unwrap_or("nothing that is understood")
        );
        match status {
            status if status.is_success() => Ok(document),
            // Said only after a look at whether the machine has come.
            StatusCode::UNPROCESSABLE_ENTITY => Err(Trouble::Refused(text)),
            _ => Err(Trouble::Unknown(text)),
        }
    }

    async fn tell(&self, machine: &str, what: &str, document: &impl Serialize) -> Result<bool, Trouble> {
        Ok(has_arrived(&self.say(machine, what, document).await?))
    }

    async fn say(&self, machine: &str, what: &str, document: &impl Serialize) -> Result<Value, Trouble> {
        let body = serde_json::to_vec(document).map_err(|error| Trouble::Unknown(error.to_string()))?;
        let body = Full::new(Bytes::from(body))
            .map_err(|never| match never {})
            .boxed();
        self.send(Method::POST, &format!("/arrivals/{machine}{what}"), body)
            .await
    }
}

fn has_arrived(answer: &Value) -> bool {
    answer.get("arrived").and_then(Value::as_bool).unwrap_or_default()
}

type Sent = BoxBody<Bytes, io::Error>;

/// The files of a volume, as `tar` writes them; broken off where it fails.
struct Packed {
    tar: Child,
    output: ChildStdout,
    is_over: bool,
}

impl Packed {
    fn of(directory: &Path) -> io::Result<Self> {
        let mut command = Command::new("tar");
        command
            .args([
                "--create",
                "--sparse",
                "--numeric-owner",
                "--xattrs",
                "--file=-",
                "--directory",
            ])
            .arg(directory)
            .arg(".");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut tar = command.spawn()?;
        let output = tar.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            tar,
            output,
            is_over: false,
        })
    }
}

impl Body for Packed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; CHUNK];
        let mut room = ReadBuf::new(&mut chunk);
        let read = std::task::ready!(Pin::new(&mut this.output).poll_read(context, &mut room));
        let length = room.filled().len();
        match read {
            Ok(()) if length == 0 => {
                let waited = std::task::ready!(std::pin::pin!(this.tar.wait()).poll(context));
                this.is_over = true;
                match waited {
                    Ok(status) if status.success() => Poll::Ready(None),
                    Ok(status) => Poll::Ready(Some(Err(io::Error::other(format!("tar: {status}"))))),
                    Err(error) => Poll::Ready(Some(Err(error))),
                }
            }
            Ok(()) => {
                chunk.truncate(length);
                Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl Inner {
    /// Sends every machine to another host. Moves that were begun go there too. What became of each; what is not known yet is
    /// tried again, also by the next daemon.
    pub(crate) async fn drain(self: &Arc<Self>, destination: Destination) -> Result<Vec<Value>, String> {
        // Nothing is stopped for a host that does not answer, or does not know the token.
        let nothing = json!({ "nonce": "" });
        if let Err(Trouble::Refused(why) | Trouble::Unknown(why)) =
            destination.tell("none", "/cancel", &nothing).await
        {
            return Err(why);
        }
        let sealed = self
            .shared
            .world
            .secrets
            .sealer
            .seal(b"drain", destination.token.as_bytes());
        let sealed = hex(&sealed.map_err(|error| chain(&error))?);
        let job = json!({ "to": destination.to.to_string(), "token": sealed });
        self.documents
            .put(JOB, job)
            .await
            .map_err(|error| chain(&error))?;
        let ids: Vec<String> = {
            let machines = self
                .machines
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let alive = machines
                .values()
                .map(Handle::now)
                .filter(|machine| machine.state != State::Destroyed);
            let begun = self.begun().into_iter().map(|(id, _)| id);
            let ids: std::collections::BTreeSet<String> =
                alive.map(|machine| machine.id.clone()).chain(begun).collect();
            ids.into_iter().collect()
        };
        let rows = self.pass(&destination, ids).await;
        if rows
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Pending(_)))
        {
            self.go_on_draining();
        } else {
            self.end_job().await?;
        }
        Ok(rows.into_iter().map(|(id, outcome)| row(&id, &outcome)).collect())
    }

    async fn end_job(&self) -> Result<(), String> {
        let removed = self.documents.remove(JOB.0, JOB.1, JOB.2).await;
        removed.map(drop).map_err(|error| chain(&error))
    }

    /// Calls off what is not finished: where the other host has a machine already, it goes there, and else it stays.
    pub(crate) async fn stop_draining(self: &Arc<Self>) -> Result<Vec<Value>, String> {
        let Some(destination) = self.destination() else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        {
            let _one = self.draining.lock().await;
            for (id, begun) in self.begun() {
                let nonce = json!({ "nonce": begun.nonce });
                let outcome = match destination.tell(&id, "/cancel", &nonce).await {
                    Ok(true) => self.let_go(&id, &begun).await,
                    Ok(false) => self.keep(&id, &begun, "called off".to_owned()).await,
                    Err(Trouble::Refused(why) | Trouble::Unknown(why)) => Outcome::Pending(why),
                };
                rows.push((id, outcome));
            }
        }
        if self.begun().is_empty() {
            self.end_job().await?;
        }
        Ok(rows.into_iter().map(|(id, outcome)| row(&id, &outcome)).collect())
    }

    fn destination(&self) -> Option<Destination> {
        let job = self.documents.get(JOB.0, JOB.1, JOB.2)?;
        let text = |key: &str| job.get(key).and_then(Value::as_str);
        let sealed = unhex(text("token")?)?;
        let token = self
            .shared
            .world
            .secrets
            .sealer
            .open_sealed(b"drain", &sealed)
            .ok()?;
        Destination::new(text("to")?, std::str::from_utf8(&token).ok()?).ok()
    }

    fn begun(&self) -> Vec<(String, Begun)> {
        let all = self.documents.list(MOVE, "");
        let one = |document: Value| {
            let id = document.get("machine")?.as_str()?.to_owned();
            Some((id, serde_json::from_value(document.get("begun")?.clone()).ok()?))
        };
        all.into_iter().filter_map(one).collect()
    }

    /// Goes on with moves that were begun until there are none.
    pub(crate) fn go_on_draining(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.spawn(async move {
            for pause in PAUSES_S.into_iter().chain(std::iter::repeat(60)) {
                let Some(host) = weak.upgrade() else { return };
                let Some(destination) = host.destination() else {
                    return;
                };
                let ids: Vec<String> = host.begun().into_iter().map(|(id, _)| id).collect();
                let rows = host.pass(&destination, ids).await;
                if !rows
                    .iter()
                    .any(|(_, outcome)| matches!(outcome, Outcome::Pending(_)))
                {
                    // The next one finds nothing to do where this one cannot be removed.
                    let _ = host.end_job().await;
                    return;
                }
                drop(host);
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
        });
    }

    async fn pass(&self, destination: &Destination, ids: Vec<String>) -> Vec<(String, Outcome)> {
        let _one = self.draining.lock().await;
        let mut rows = Vec::new();
        for id in ids {
            let outcome = self.move_one(destination, &id).await;
            rows.push((id, outcome));
        }
        rows
    }

    async fn move_one(&self, destination: &Destination, id: &str) -> Outcome {
        let begun = match self.begin(destination, id).await {
            Ok(begun) => begun,
            Err(outcome) => return outcome,
        };
        self.shared.faults.pass();
        match self.carry(destination, id, &begun).await {
            Ok(()) => self.let_go(id, &begun).await,
            Err(Trouble::Refused(why)) => self.keep(id, &begun, why).await,
            Err(Trouble::Unknown(why)) => Outcome::Pending(why),
        }
    }

    /// Notes the move, and has the machine for itself, stopped.
    async fn begin(&self, destination: &Destination, id: &str) -> Result<Begun, Outcome> {
        let pending = |why: String| Outcome::Pending(why);
        let stays = |why: &dyn std::fmt::Display| Outcome::Stays(why.to_string());
        let handle = self.handle(id).ok_or_else(|| stays(&"it is gone"))?;
        let noted = self.begun().into_iter().find(|(machine, _)| machine == id);
        let begun = match noted {
            Some((_, begun)) => begun,
            None => {
                let machine = handle.now();
                if let Some(lease) = machine.lease_at(now_ms()) {
                    return Err(stays(&format!(
                        "{} has a lease on it; ask again when that is over",
                        lease.owner
                    )));
                }
                if machine
                    .config
                    .image
                    .as_deref()
                    .is_some_and(|image| image.starts_with("host:"))
                {
                    return Err(stays(&"it runs a program of this host"));
                }
                let begun = Begun {
                    nonce: ids::nonce().map_err(|error| stays(&error))?,
                    starts: matches!(
                        machine.state,
                        State::Started | State::Starting | State::Restarting
                    ),
                };
                let document = json!({ "machine": id, "begun": begun });
                let kept = self.documents.put((MOVE, "", id), document).await;
                kept.map_err(|error| stays(&chain(&error)))?;
                begun
            }
        };
        self.shared.faults.pass();
        let machine = handle.now();
        if machine.state == State::Destroyed {
            return Ok(begun);
        }
        if machine
            .lease
            .as_ref()
            .is_none_or(|lease| lease.nonce != begun.nonce)
        {
            let lease = Request::Lease {
                ttl_ms: LEASE_MS,
                nonce: begun.nonce.clone(),
                owner: format!("drain to {}", destination.authority()),
                description: "it is going to another host".to_owned(),
            };
            if let Err(refusal) = self.ask(&handle, lease, None, By::Flyd).await {
                return Err(self.keep(id, &begun, refusal.to_string()).await);
            }
        }
        let stop = Request::Stop {
            signal: None,
            budget_ms: None,
        };
        let is_at_rest = |machine: &Machine| {
            matches!(
                machine.state,
                State::Created | State::Stopped | State::Failed | State::Destroyed
            ) && machine.operation.is_none()
        };
        if !is_at_rest(&handle.now()) {
            // What is under way ends first; a machine that is being stopped or destroyed refuses, and ends all the same.
            let mut record = handle.record.clone();
            let settled = record.wait_for(|machine| machine.state.is_settled());
            let settled = tokio::time::timeout(STOP_WITHIN, settled).await.is_ok();
            if settled && !is_at_rest(&handle.now()) {
                let asked = self.ask(&handle, stop, Some(begun.nonce.clone()), By::Flyd).await;
                asked.map_err(|refusal| pending(refusal.to_string()))?;
            }
            let rested = tokio::time::timeout(STOP_WITHIN, record.wait_for(|machine| is_at_rest(machine)));
            if !matches!(rested.await, Ok(Ok(_))) {
                return Err(pending("it did not stop in time".to_owned()));
            }
        }
        Ok(begun)
    }

    /// Takes the machine across.
    async fn carry(&self, destination: &Destination, id: &str, begun: &Begun) -> Result<(), Trouble> {
        let unknown = |why: String| Trouble::Unknown(why);
        let handle = self.handle(id).ok_or_else(|| unknown("it is gone".to_owned()))?;
        let machine = handle.now();
        let nonce = json!({ "nonce": begun.nonce });
        if machine.state == State::Destroyed {
            // Destroyed since it was begun, or let go by a daemon that ended then: the other host says which.
            return match destination.tell(id, "/cancel", &nonce).await? {
                true => Ok(()),
                false => Err(Trouble::Refused("it was destroyed".to_owned())),
            };
        }
        let app = self
            .app(&machine.app)
            .ok_or_else(|| Trouble::Refused("its app is gone".to_owned()))?;
        let mounted = machine
            .config
            .mounts
            .iter()
            .flatten()
            .filter_map(|mount| mount.volume.clone());
        let mut volumes: Vec<Volume> = mounted
            .filter_map(|volume| self.volumes.get(&app.name, &volume))
            .collect();
        for volume in &mut volumes {
            // Those that are among the backups only are restored from there.
            volume.snapshots.retain(Snapshot::travels);
        }
        let kinds = [network::CERTIFICATE, network::POLICY];
        let documents = kinds.into_iter().flat_map(|kind| {
            let named = self.documents.named(kind, &app.name).into_iter();
            named.map(move |(name, document)| (kind.to_owned(), name, document))
        });
        let documents = documents.collect();
        let secrets = self.shared.world.secrets.environment(&app.name, u64::MAX);
        let secrets = secrets
            .into_iter()
            .map(|(name, value)| (name, SecretValue(value)))
            .collect();
        let offer = Offer {
            nonce: begun.nonce.clone(),
            machine: Machine::clone(&machine),
            app,
            secrets,
            starts: begun.starts,
            volumes,
            documents,
        };
        let answer = destination.say(id, "", &offer).await?;
        if has_arrived(&answer) {
            return Ok(());
        }
        self.shared.faults.pass();
        if let Some(why) = answer.get("wants_image").and_then(Value::as_str) {
            self.carry_image(destination, (id, begun), &machine, why).await?;
        }
        for content in offer.contents() {
            let packed = Packed::of(&self.volumes.directory().join(content));
            let packed = packed.map_err(|error| unknown(format!("tar: {error}")))?;
            let path = format!("/arrivals/{id}/volumes/{content}?nonce={}", begun.nonce);
            destination.send(Method::PUT, &path, packed.boxed()).await?;
            self.shared.faults.pass();
        }
        match destination.tell(id, "/commit", &nonce).await? {
            true => Ok(()),
            false => Err(unknown("the other host did not take it".to_owned())),
        }
    }

    /// Takes the image across, which the other host cannot have otherwise: one that was pushed to this host.
    async fn carry_image(
        &self,
        destination: &Destination,
        (id, begun): (&str, &Begun),
        machine: &Machine,
        why: &str,
    ) -> Result<(), Trouble> {
        let image = machine.config.image.as_deref().unwrap_or_default();
        let digest = machine.image.as_ref().map_or("", |image| image.digest.as_str());
        let Some(layout) = self.shared.world.images.pushed(image, &machine.org, digest) else {
            let nonce = json!({ "nonce": begun.nonce });
            return match destination.tell(id, "/cancel", &nonce).await? {
                true => Ok(()),
                false => Err(Trouble::Refused(why.to_owned())),
            };
        };
        let packed = Packed::of(layout.path());
        let packed = packed.map_err(|error| Trouble::Unknown(format!("tar: {error}")))?;
        let path = format!("/arrivals/{id}/image?nonce={}", begun.nonce);
        destination.send(Method::PUT, &path, packed.boxed()).await?;
        self.shared.faults.pass();
        Ok(())
    }

    /// The other host has it: here it is destroyed, and its volumes are kept a day.
    async fn let_go(&self, id: &str, begun: &Begun) -> Outcome {
        self.shared.faults.pass();
        if let Some(handle) = self
            .handle(id)
            .filter(|handle| handle.now().state != State::Destroyed)
        {
            let machine = handle.now();
            for volume in machine
                .config
                .mounts
                .iter()
                .flatten()
                .filter_map(|mount| mount.volume.as_deref())
            {
                let changed = self.volumes.change(volume, |volume| {
                    volume.state = VolumeState::PendingDestroy;
                    volume.updated_ms = now_ms();
                });
                if let Err(error) = changed.await {
                    return Outcome::Pending(chain(&error));
                }
            }
            self.shared.faults.pass();
            let destroy = Request::Destroy { force: true };
            if let Err(refusal) = self
                .ask(&handle, destroy, Some(begun.nonce.clone()), By::Flyd)
                .await
            {
                return Outcome::Pending(refusal.to_string());
            }
            let mut record = handle.record.clone();
            let gone = record.wait_for(|machine| machine.state == State::Destroyed);
            if tokio::time::timeout(STOP_WITHIN, gone).await.is_err() {
                return Outcome::Pending("it has moved, and cannot be destroyed here yet".to_owned());
            }
        }
        self.shared.faults.pass();
        match self.documents.remove(MOVE, "", id).await {
            Ok(_) => Outcome::Moved,
            Err(error) => Outcome::Pending(chain(&error)),
        }
    }

    /// The other host has nothing of it: it is as it was.
    async fn keep(&self, id: &str, begun: &Begun, why: String) -> Outcome {
        let nonce = || Some(begun.nonce.clone());
        if let Some(handle) = self
            .handle(id)
            .filter(|handle| handle.now().state != State::Destroyed)
        {
            let is_ours = |machine: &Machine| {
                machine
                    .lease
                    .as_ref()
                    .is_some_and(|lease| lease.nonce == begun.nonce)
            };
            if begun.starts && is_ours(&handle.now()) {
                // It may not fit any more; then it stays stopped, and its events say why.
                let _ = self.ask(&handle, Request::Start, nonce(), By::Flyd).await;
            }
            if is_ours(&handle.now())
                && let Err(refusal) = self.ask(&handle, Request::Release, nonce(), By::Flyd).await
            {
                return Outcome::Pending(refusal.to_string());
            }
        }
        match self.documents.remove(MOVE, "", id).await {
            Ok(_) => Outcome::Stays(why),
            Err(error) => Outcome::Pending(chain(&error)),
        }
    }
}

fn row(id: &str, outcome: &Outcome) -> Value {
    let (outcome, why) = match outcome {
        Outcome::Moved => ("moved", None),
        Outcome::Stays(why) => ("stays", Some(why)),
        Outcome::Pending(why) => ("pending", Some(why)),
    };
    json!({ "machine": id, "outcome": outcome, "why": why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_an_address_of_a_host_and_a_token() {
        assert!(Destination::new("http://10.0.0.2:4280/", "sjm_x").is_ok());
        for (to, token) in [
            ("https://10.0.0.2:4280", "x"),
            ("10.0.0.2:4280", "x"),
            ("http://h/v1", "x"),
            ("http://h", ""),
            ("http://h", "a b"),
        ] {
            assert!(Destination::new(to, token).is_err(), "{to} {token}");
        }
    }
}
