//! The control API of a daemon: HTTP on a Unix socket that only this user can open. Reaching it makes nobody an owner: what
//! owners ask they sign, and what nobody signed is asked by the host. Documents: `suijuris_api::daemon`.

mod adding;

use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use suijuris_api::Problem;
use suijuris_api::control::{Reply, ToUp};
use suijuris_api::daemon::{
    Amend, Class, ClassList, Daemon, Object, ObjectList, PatchMemory, Signed, Terminate,
};
use suijuris_api::problem::MEDIA_TYPE;
use suijuris_core::id::ObjectId;
use suijuris_core::owner_request::SignedRequest;
use suijuris_sys::peers;
use suijuris_vehicle::Driver;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::class_entry::ClassEntry;
use super::entry::Entry;
use super::feed::Feed;
use super::roster::Roster;
use crate::actor::Input;
use crate::control::ControlRequest;

/// Clients at once at most.
const MAX_CLIENTS: usize = 128;

/// Bytes of a request's body at most: a bundle as JSON.
const MAX_BODY: usize = 32 << 20;

/// Time for a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Objects of a page, unless told otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 10_000;

type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Answer = Response<Body>;

/// Makes the socket, in place of one that a killed daemon left behind; the lock has shown that no other runs.
///
/// # Errors
/// The system's answer.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    crate::paths::make_socket_dir(path)?;
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until dropped.
pub async fn serve<D: Driver>(roster: Rc<Roster<D>>, feed: Feed, listener: UnixListener) {
    let mut clients: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            Some(_gone) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((socket, _)) => { clients.spawn_local(client(roster.clone(), feed.clone(), socket)); }
                Err(_out_of_descriptors) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

async fn client<D: Driver>(roster: Rc<Roster<D>>, feed: Feed, socket: UnixStream) {
    let is_inside = peers::is_in_a_machine(socket.as_fd());
    let service = service_fn(move |request: Request<Incoming>| {
        let (roster, feed) = (roster.clone(), feed.clone());
        async move {
            Ok::<_, Infallible>(match is_inside {
                true => refusal(&from_inside()),
                false => Api { roster, feed }.answer(request).await,
            })
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    // A client that breaks its connection has its answer, or wants none.
    let _ = http.serve_connection(TokioIo::new(socket), service).await;
}

pub(super) struct Api<D: Driver> {
    pub(super) roster: Rc<Roster<D>>,
    feed: Feed,
}

impl<D: Driver> Api<D> {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let answered = self.route(request).await;
        answered.unwrap_or_else(|problem| refusal(&problem))
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answer, Problem> {
        let (parts, body) = request.into_parts();
        check_host(&parts)?;
        let path = parts.uri.path().to_owned();
        let query = Query::of(parts.uri.query().unwrap_or_default());
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let get = parts.method == Method::GET;
        match (&parts.method, segments.as_slice()) {
            (_, ["v1"]) if get => Ok(json(&self.daemon())),
            (_, ["v1", "objects"]) if get => {
                self.roster.recovered().await;
                Ok(json(&self.objects(&query)?))
            }
            (&Method::POST, ["v1", "objects"]) => self.add_object(read(&parts, body).await?).await,
            (_, ["v1", "classes"]) if get => {
                self.roster.recovered().await;
                Ok(json(&self.classes()))
            }
            (&Method::POST, ["v1", "classes"]) => self.add_class(read(&parts, body).await?).await,
            (_, ["v1", "events"]) if get => Ok(self.feed.stream(last_event(&parts))),
            (&Method::DELETE, ["v1", "classes", class]) => {
                let found = self.roster.class(class).map(|class| self.class(&class));
                self.roster.remove_class(class)?;
                Ok(json(&found))
            }
            (&Method::PUT, ["v1", "classes", class]) => {
                self.amend_class(class, read(&parts, body).await?).await
            }
            (_, ["v1", "objects", name, rest @ ..]) => {
                let entry = self.find(name).await?;
                self.object(&entry, &parts, rest, body).await
            }
            (_, ["v1", "classes", class, "instances", key, rest @ ..]) => {
                let name = format!("{class}/{key}");
                let entry = self.find(&name).await?;
                self.object(&entry, &parts, rest, body).await
            }
            _ => Err(Problem::new(404, "no_such_route", "There is no such route")
                .with_detail("the control API begins at /v1; see docs/control-api.md")),
        }
    }

    /// The object that people call so. Just started, the daemon may not know it yet.
    async fn find(&self, name: &str) -> Result<Rc<Entry>, Problem> {
        if let Some(entry) = self.roster.find(name) {
            return Ok(entry);
        }
        self.roster.recovered().await;
        self.roster.find(name).ok_or_else(|| no_such(name))
    }

    async fn object(
        &self,
        entry: &Rc<Entry>,
        parts: &http::request::Parts,
        rest: &[&str],
        body: Incoming,
    ) -> Result<Answer, Problem> {
        match (&parts.method, rest) {
            (&Method::GET, []) => Ok(json(&self.document(entry))),
            (&Method::DELETE, []) => self.remove(entry).await,
            (&Method::POST, ["wake"]) => {
                let Signed { signed } = read(parts, body).await?;
                self.ask(entry, question(signed, None, ToUp::Wake)).await
            }
            (&Method::POST, ["sleep"]) => {
                let Signed { signed } = read(parts, body).await?;
                self.ask(entry, question(signed, None, ToUp::Sleep)).await
            }
            (&Method::POST, ["amend"]) => {
                let Amend { bundle, approvals } = read(parts, body).await?;
                let (request, answered) = ControlRequest::amend(adding::files(&bundle)?, approvals);
                self.put(entry, request, answered).await
            }
            (&Method::POST, ["terminate"]) => {
                let Terminate { approvals } = read(parts, body).await?;
                self.ask(entry, ToUp::Terminate { approvals }).await
            }
            (&Method::PATCH, ["memory"]) => {
                let PatchMemory { patch, signed } = read(parts, body).await?;
                let unsigned = ToUp::Patch(patch.clone());
                self.ask(entry, question(signed, Some(patch), unsigned)).await
            }
            _ => Err(
                Problem::new(404, "no_such_route", "There is no such route of an object").with_detail(
                    "an object has wake, sleep, memory, amend and terminate; see docs/control-api.md",
                ),
            ),
        }
    }

    /// Asks the object's actor.
    async fn ask(&self, entry: &Entry, question: ToUp) -> Result<Answer, Problem> {
        match ControlRequest::of(question) {
            Ok((request, answered)) => self.put(entry, request, answered).await,
            Err(reply) => Ok(json(&reply)),
        }
    }

    async fn put(
        &self,
        entry: &Entry,
        request: ControlRequest,
        answered: oneshot::Receiver<Reply>,
    ) -> Result<Answer, Problem> {
        let ending = || {
            Problem::new(503, "not_now", "The object is being opened again")
                .with_detail("ask again in a moment")
        };
        let handle = entry.handle().await?;
        let sent = handle.send(Input::Request(Box::new(request))).await;
        sent.map_err(|_over| ending())?;
        let reply: Reply = answered.await.map_err(|_over| ending())?;
        Ok(json(&reply))
    }

    fn daemon(&self) -> Daemon {
        Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            urls: self.roster.urls(),
            domain: self.roster.domain.clone(),
            root: self.roster.catalog.root().to_owned(),
            server: self.roster.services.server,
        }
    }

    fn objects(&self, query: &Query) -> Result<ObjectList, Problem> {
        let after: Option<ObjectId> = match query.get("after") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| bad("`after` is no id of an object"))?),
        };
        let limit = match query.get("limit") {
            None => PAGE,
            Some(text) => text.parse().map_err(|_| bad("`limit` is no number"))?,
        };
        let wanted = |entry: &Rc<Entry>| {
            let class = entry.origin.instance.as_ref().map(|(class, _)| class.as_str());
            query.get("class").is_none_or(|wanted| class == Some(wanted))
                && query.get("phase").is_none_or(|wanted| entry.phase() == wanted)
                && query
                    .get("data")
                    .is_none_or(|wanted| entry.paths.data.as_os_str() == wanted)
                && after.is_none_or(|after| entry.origin.object > after)
        };
        let limit = limit.clamp(1, MAX_PAGE);
        let entries = self.roster.entries();
        let mut found = entries.iter().filter(|entry| wanted(entry));
        let objects: Vec<Object> = found
            .by_ref()
            .take(limit)
            .map(|entry| self.document(entry))
            .collect();
        let more = found.next().is_some();
        let next = objects.last().filter(|_| more).map(|last| last.object.clone());
        Ok(ObjectList { objects, next })
    }

    pub(super) fn document(&self, entry: &Entry) -> Object {
        let origin = &entry.origin;
        Object {
            object: origin.object.to_string(),
            name: origin.name.clone(),
            class: origin.instance.as_ref().map(|(class, _)| class.clone()),
            key: origin.instance.as_ref().map(|(_, key)| key.clone()),
            phase: entry.phase().to_owned(),
            url: self.roster.url(origin),
            data: entry.paths.data.clone(),
            object_dir: entry.paths.object_dir.clone(),
            awake_seconds: entry.awake().as_secs(),
        }
    }

    fn classes(&self) -> ClassList {
        let classes = self.roster.classes();
        let classes = classes.iter().map(|class| self.class(class)).collect();
        ClassList { classes }
    }

    pub(super) fn class(&self, class: &ClassEntry) -> Class {
        Class {
            class: class.note.name.clone(),
            id: class.id.to_string(),
            instances: u64::try_from(class.len()).unwrap_or(u64::MAX),
            max_instances: class.max_instances(),
            awake_seconds: self.awake_seconds(&class.note.name),
            bundle: class.note.bundle.to_string(),
            url: self.roster.url_of("KEY", &class.note.name),
            object_dir: class.note.object_dir.clone(),
        }
    }

    /// How long the instances of a class were awake.
    fn awake_seconds(&self, class: &str) -> u64 {
        let entries = self.roster.entries();
        let of_class = entries.iter().filter(|entry| {
            let instance = entry.origin.instance.as_ref();
            instance.is_some_and(|(name, _)| name == class)
        });
        of_class.map(|entry| entry.awake().as_secs()).sum()
    }

    /// Stops an object and forgets it here.
    async fn remove(&self, entry: &Rc<Entry>) -> Result<Answer, Problem> {
        let data = self.roster.remove(entry).await?;
        Ok(json(&Object {
            data,
            ..self.document(entry)
        }))
    }
}

/// The request as an actor takes it.
fn question(
    signed: Option<Box<SignedRequest>>,
    patch: Option<suijuris_api::agent::Patch>,
    unsigned: ToUp,
) -> ToUp {
    match signed {
        Some(signed) => ToUp::Owner { signed, patch },
        None => unsigned,
    }
}

/// A page in a browser that reaches the socket through something names another host.
/// A workload has the agent socket, where it proposes as what it is.
fn from_inside() -> Problem {
    Problem::new(403, "from_inside", "This socket is for those who run objects").with_detail(
        "you are in a machine or another process namespace: ask beside the daemon, or at the agent socket",
    )
}

fn check_host(parts: &http::request::Parts) -> Result<(), Problem> {
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    match host {
        Some("localhost" | "suijuris") => Ok(()),
        _ => Err(Problem::new(421, "unknown_host", "This host is not served here")
            .with_detail("send `Host: localhost`")),
    }
}

/// The event that a reader saw last.
fn last_event(parts: &http::request::Parts) -> Option<u64> {
    let shown = parts.headers.get("last-event-id")?.to_str().ok()?;
    shown.parse().ok()
}

/// The JSON document of a request.
async fn read<T: DeserializeOwned>(parts: &http::request::Parts, body: Incoming) -> Result<T, Problem> {
    let json = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|found| found.to_str().ok())
        .is_some_and(|found| found.split(';').next() == Some("application/json"));
    if !json {
        return Err(Problem::new(415, "bad_request", "The request is no JSON")
            .with_detail("send `Content-Type: application/json`"));
    }
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body
        .map_err(|_| bad("the body is too large, or ended early"))?
        .to_bytes();
    // Documents are objects; an array of their members in order would pass for one otherwise.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(bad("not a document of this route: it is no JSON object"));
    }
    serde_json::from_slice(&body).map_err(|error| bad(&format!("not a document of this route: {error}")))
}

pub(super) fn bad(detail: &str) -> Problem {
    Problem::new(400, "bad_request", "The request cannot be understood").with_detail(detail)
}

fn no_such(name: &str) -> Problem {
    Problem::new(404, "unknown_object", "No such object is here")
        .with_detail(format!("`{name}` is no object of this daemon: see `suijuris ps`"))
}

pub(super) fn json(value: &impl Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    full(StatusCode::OK, "application/json", bytes)
}

fn refusal(problem: &Problem) -> Answer {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    full(
        status,
        MEDIA_TYPE,
        serde_json::to_vec(problem).unwrap_or_default(),
    )
}

fn full(status: StatusCode, media: &'static str, bytes: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(bytes)).boxed_unsync());
    *answer.status_mut() = status;
    let media = http::HeaderValue::from_static(media);
    answer.headers_mut().insert(header::CONTENT_TYPE, media);
    answer
}

/// Parameters of a request, percent-decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(name), decoded(value))
        };
        Self(
            text.split('&')
                .filter(|part| !part.is_empty())
                .map(pair)
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'%')),
                    _ => bytes.push(b'%'),
                }
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
