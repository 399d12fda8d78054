//! The control API of a daemon: HTTP on a Unix socket that only this user can open and, where that is asked for, on an address
//! with tokens. Reaching it makes nobody an owner: what owners ask they sign, and what nobody signed is asked by the host.
//! Routes: `suijuris_api::routes`; documents: `suijuris_api::daemon`, `suijuris_api::history`.

mod adding;
mod approvals;
mod door;
mod following;
mod inbox;
mod objects;
mod past;
mod query;
pub mod tokens;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use suijuris_api::Problem;
use suijuris_api::daemon::{ApiTokenList, ClassKey, Daemon, FreeKey, MakeApiToken, Received, Scope};
use suijuris_api::routes::{self, Found, Named, Needs, Operation};
use suijuris_core::class::founding::Stage;
use suijuris_door::http_answers;
use suijuris_door::routes::Routes;
use suijuris_store::BundleFiles;
use suijuris_sys::peers;
use suijuris_vehicle::Driver;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::entry::Entry;
use super::feed::Feed;
use super::receiving::{Begins, Part};
use super::roster::Roster;
use super::stream::{Cut, Outlet, Readers};
use query::{Query, decoded};
use tokens::{Shown, TokenError, Tokens};

/// Clients of one listener at once at most.
const MAX_CLIENTS: usize = 128;

/// Bytes of a request's body at most: a bundle as JSON.
const MAX_BODY: usize = 32 << 20;

/// Time for a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Time for its body.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Questions about histories that are answered at once: they read disks, and what is to be durable goes before.
const QUESTIONS: usize = 2;

/// This API as an OpenAPI document.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

pub(super) use adding::{approvals, files};

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Where the token of this API stands at the door, whose callers have tokens of their own in `Authorization`.
const BESIDE: header::HeaderName = header::HeaderName::from_static("x-suijuris-token");

/// Holds a bundle's parts to each other; the compiler is the caller's.
pub type Compiles = fn(BundleFiles) -> Result<(), String>;

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

/// The API over a roster.
pub struct Api<D: Driver> {
    roster: Rc<Roster<D>>,
    feed: Feed,
    tokens: Rc<Tokens>,
    compiles: Compiles,
    questions: Rc<Semaphore>,
    readers: Readers,
    door: Option<Routes<door::RosterNames<D>>>,
}

impl<D: Driver> std::fmt::Debug for Api<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// How a request came, and so what it may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Access {
    /// By the socket of this user.
    Socket,
    /// With a token.
    Token(Shown),
}

/// By which door requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Socket,
    /// By the socket, out of a machine.
    Inside,
    Address,
}

/// A request whose route and right are known.
struct Asked {
    headers: HeaderMap,
    query: Query,
    body: Incoming,
    access: Access,
    cut: Cut,
}

impl Asked {
    /// The number of the last event that a reader has.
    fn last_event(&self) -> Option<u64> {
        self.headers.get("last-event-id")?.to_str().ok()?.parse().ok()
    }
}

/// Answers on the socket until dropped.
pub async fn serve<D: Driver>(api: Rc<Api<D>>, listener: UnixListener) {
    let mut clients: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            Some(_gone) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((socket, _)) => {
                    let way = match peers::is_in_a_machine(socket.as_fd()) {
                        true => Way::Inside,
                        false => Way::Socket,
                    };
                    clients.spawn_local(client(api.clone(), socket, way, None));
                }
                Err(_out_of_descriptors) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

/// Answers on an address, for who shows a token, until dropped.
pub async fn serve_address<D: Driver>(api: Rc<Api<D>>, listener: TcpListener) {
    let mut clients: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            Some(_gone) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((socket, peer)) => {
                    let _ = socket.set_nodelay(true);
                    clients.spawn_local(client(api.clone(), socket, Way::Address, Some(peer)));
                }
                Err(_out_of_descriptors) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

async fn client<D: Driver>(
    api: Rc<Api<D>>,
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    way: Way,
    peer: Option<SocketAddr>,
) {
    let cut = Cut::default();
    let cuts = cut.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, cut) = (api.clone(), cut.clone());
        async move { Ok::<_, Infallible>(api.answer(request, (way, peer), cut).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    tokio::select! {
        // A client that breaks its connection has its answer, or wants none.
        _served = http.serve_connection(TokioIo::new(socket), service) => {}
        () = cuts.notified() => {}
    }
}

impl<D: Driver> Api<D> {
    /// The API, with the tokens of the roster's directory.
    ///
    /// # Errors
    /// [`super::catalog::CatalogError`] where they cannot be read.
    pub fn new(
        roster: Rc<Roster<D>>,
        feed: Feed,
        compiles: Compiles,
    ) -> Result<Rc<Self>, super::catalog::CatalogError> {
        Ok(Rc::new(Self {
            tokens: Rc::new(Tokens::open(roster.catalog.root())?),
            door: door::of(&roster),
            roster,
            feed,
            compiles,
            questions: Rc::new(Semaphore::new(QUESTIONS)),
            readers: Readers::default(),
        }))
    }

    async fn answer(&self, request: Request<Incoming>, came: (Way, Option<SocketAddr>), cut: Cut) -> Answer {
        let answered = self.route(request, came, cut).await;
        answered.unwrap_or_else(|problem| refusal(&problem))
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        (way, peer): (Way, Option<SocketAddr>),
        cut: Cut,
    ) -> Result<Answer, Problem> {
        if way == Way::Inside {
            return Err(from_inside());
        }
        if let Some((needs, is_proxy)) = door::needs(request.uri().path()) {
            if !is_proxy {
                check_host(request.headers(), request.uri(), way)?;
            }
            // Whatever else `Authorization` shows there is the caller's, or the sender's.
            let shown_in: &[_] = match is_proxy || needs == Needs::Operate {
                true => &[BESIDE],
                false => &[BESIDE, header::AUTHORIZATION],
            };
            self.access(request.headers(), way, shown_in)?.may(needs)?;
            return self.at_door(request, peer).await;
        }
        let (parts, body) = request.into_parts();
        check_host(&parts.headers, &parts.uri, way)?;
        let access = self.access(&parts.headers, way, &[header::AUTHORIZATION])?;
        let asked = Asked {
            headers: parts.headers,
            query: Query::of(parts.uri.query().unwrap_or_default()),
            body,
            access,
            cut,
        };
        match routes::find(parts.method.as_str(), parts.uri.path()) {
            Found::Daemon(operation, needs, named) => {
                asked.access.may(needs)?;
                let name = named.first().map(|name| decoded(name)).unwrap_or_default();
                match named.get(1) {
                    Some(key) => self.of_key(operation, &name, &decoded(key), asked).await,
                    None => self.of_daemon(operation, &name, asked).await,
                }
            }
            Found::Object(operation, needs, object, named) => {
                asked.access.may(needs)?;
                let entry = self.find(object).await?;
                let which = named.first().map(|name| decoded(name)).unwrap_or_default();
                self.of_object(operation, &entry, &which, asked).await
            }
            Found::Methods(methods) => Ok(not_so(&methods)),
            Found::Nothing => Err(Problem::new(404, "no_such_route", "There is no such route")
                .with_detail("the control API begins at /v1; see docs/control-api.md")),
        }
    }

    async fn of_daemon(&self, operation: Operation, name: &str, asked: Asked) -> Result<Answer, Problem> {
        match operation {
            Operation::Daemon => Ok(json(&self.daemon())),
            Operation::OpenApi => {
                Ok(http_answers::text(StatusCode::OK, "application/json", OPENAPI).map(boxed))
            }
            Operation::ListObjects => {
                self.roster.recovered().await;
                Ok(json(&self.objects(&asked.query)?))
            }
            Operation::AddObject => self.add_object(read(asked).await?).await,
            Operation::ListClasses => {
                self.roster.recovered().await;
                Ok(json(&self.classes()))
            }
            Operation::AddClass => self.add_class(read(asked).await?).await,
            Operation::ShowClass => Ok(json(&self.class(&*self.find_class(name)?))),
            Operation::AmendClass => self.amend_class(name, read(asked).await?).await,
            Operation::RemoveClass => {
                let found = self.class(&*self.find_class(name)?);
                self.roster.remove_class(name)?;
                Ok(json(&found))
            }
            Operation::Offer => Ok(json(&self.roster.offered(read(asked).await?).await?)),
            Operation::ShowReceived => Ok(json(&self.roster.received(name)?)),
            Operation::ReceiveCapsule => self.receive_part(name, Part::Capsule, asked).await,
            Operation::ReceiveVolume => self.receive_part(name, Part::Volume, asked).await,
            Operation::Arrive => {
                let (roster, object) = (self.roster.clone(), name.to_owned());
                let work = async move { roster.receive(&object).await };
                let entry = self.roster.to_the_end(work).await?;
                Ok(json(&self.document(&entry)))
            }
            Operation::Events => {
                let (feed, last) = (self.feed.clone(), asked.last_event());
                self.stream(&asked, move |to| feed.tell(last, to))
            }
            Operation::ListTokens => Ok(json(&ApiTokenList {
                tokens: self.tokens.list(),
            })),
            Operation::CreateToken => {
                let MakeApiToken { name, scope } = read(asked).await?;
                let now = self.roster.services.clock.reading().wall;
                let made = self.tokens.create(&name, scope, now);
                Ok(json(&made.map_err(|error| no_token(&error))?))
            }
            Operation::RevokeToken => {
                let revoked = self.tokens.revoke(name);
                let revoked = revoked.map_err(|error| no_token(&TokenError::Catalog(error)))?;
                Ok(json(&revoked.ok_or_else(|| no_such_token(name))?))
            }
            _ => Err(elsewhere()),
        }
    }

    async fn receive_part(&self, object: &str, part: Part, asked: Asked) -> Result<Answer, Problem> {
        if http_answers::media_type(&asked.headers).as_deref() != Some("application/octet-stream") {
            return Err(Problem::new(415, "bad_request", "The request is no file")
                .with_detail("send `Content-Type: application/octet-stream`"));
        }
        let offset = asked.query.read("offset", "number of bytes")?.unwrap_or_default();
        let begins = Begins::read(asked.query.get("sha256"), offset)?;
        let (roster, object) = (self.roster.clone(), object.to_owned());
        let received = Received {
            object: object.clone(),
        };
        // On its own, so that what came over a connection that breaks is written.
        let (answer, answered) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move {
            let _ = answer.send(roster.receive_part(&object, part, begins, asked.body).await);
        });
        let ended = || Problem::new(503, "not_now", "The daemon is ending").with_detail("ask the next one");
        answered.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(json(&received))
    }

    /// What is asked of a key of a class.
    async fn of_key(
        &self,
        operation: Operation,
        class: &str,
        key: &str,
        asked: Asked,
    ) -> Result<Answer, Problem> {
        let entry = self.find_class(class)?;
        let found = self.roster.name(&entry, key).await?;
        let free = || {
            let shown: String = key.chars().take(128).collect();
            Problem::new(404, "unknown_object", "Nobody has this key")
                .with_detail(format!("`{shown}` is free"))
        };
        let (found, name, _) = found.ok_or_else(free)?;
        if operation == Operation::FreeKey {
            let FreeKey { signed } = read(asked).await?;
            self.roster.free(&entry, key, &signed).await?;
        }
        let state = match name.state {
            Stage::Founding => "founding",
            Stage::Founded => "founded",
            Stage::Tombstone => "tombstone",
        };
        Ok(json(&ClassKey {
            class: entry.id.to_string(),
            key: found.to_string(),
            object: name.object.to_string(),
            state: state.to_owned(),
            who: name.who,
        }))
    }

    /// Who asks, by what they show.
    fn access(
        &self,
        headers: &HeaderMap,
        way: Way,
        shown_in: &[header::HeaderName],
    ) -> Result<Access, Problem> {
        if way == Way::Socket {
            return Ok(Access::Socket);
        }
        // The header of our own has no scheme.
        let is_bare = shown_in.contains(&BESIDE) && headers.contains_key(BESIDE);
        let Some(shown) = shown_in.iter().find_map(|name| headers.get(name)) else {
            return Err(
                Problem::new(401, "token_required", "A token of this API is required")
                    .with_detail("send `Authorization: Bearer TOKEN`; `suijuris token api create` makes one"),
            );
        };
        let token = shown
            .to_str()
            .ok()
            .and_then(|shown| bearer(shown).or(is_bare.then_some(shown)));
        let shown = token.and_then(|token| self.tokens.check(token));
        let invalid = || {
            Problem::new(401, "invalid_token", "The token is not valid").with_detail(
                "it was revoked, or never made: `suijuris token api ls` lists those that are good",
            )
        };
        shown.map(Access::Token).ok_or_else(invalid)
    }

    /// Answers with what `tell` tells, until it ends, the reader is gone, or its token is revoked.
    fn stream<F: Future<Output = Option<()>> + 'static>(
        &self,
        asked: &Asked,
        tell: impl FnOnce(Outlet) -> F,
    ) -> Result<Answer, Problem> {
        let (answer, outlet) = self.readers.open(asked.cut.clone())?;
        let tells = tell(outlet);
        let (tokens, access) = (self.tokens.clone(), asked.access.clone());
        tokio::task::spawn_local(async move {
            let over = async {
                match access {
                    Access::Socket => std::future::pending().await,
                    Access::Token(shown) => tokens.revoked(shown).await,
                }
            };
            tokio::select! {
                _ended = tells => {}
                () = over => {}
            }
        });
        Ok(answer)
    }
}

impl<D: Driver> Api<D> {
    fn daemon(&self) -> Daemon {
        Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            urls: self.roster.urls(),
            domain: self.roster.domain.clone(),
            root: self.roster.catalog.root().to_owned(),
            server: self.roster.services.server.to_string(),
        }
    }

    /// The object that is named so. Just started, the daemon may not know it yet.
    async fn find(&self, named: Named<'_>) -> Result<Rc<Entry>, Problem> {
        let name = match named {
            Named::One(name) => decoded(name),
            Named::Instance(class, key) => format!("{}/{}", decoded(class), decoded(key)),
        };
        if let Some(entry) = self.roster.find(&name) {
            return Ok(entry);
        }
        self.roster.recovered().await;
        self.roster.find(&name).ok_or_else(|| no_such(&name))
    }
}

impl Access {
    /// Whether it may do what needs this.
    fn may(&self, needs: Needs) -> Result<(), Problem> {
        let may = match self {
            Self::Socket => true,
            Self::Token(shown) => match needs {
                Needs::Read => true,
                Needs::Operate => shown.scope == Scope::Operate,
                Needs::Socket => false,
            },
        };
        let how = match needs {
            Needs::Socket => "ask on the daemon's own host, by its control socket",
            _ => "use a token with the scope `operate`",
        };
        let missing = || Problem::new(403, "scope_missing", "The token does not allow this").with_detail(how);
        may.then_some(()).ok_or_else(missing)
    }
}

/// A workload has the agent socket, where it proposes as what it is.
fn from_inside() -> Problem {
    Problem::new(403, "from_inside", "This socket is for those who run objects").with_detail(
        "you are in a machine or another process namespace: ask beside the daemon, or at the agent socket",
    )
}

/// The token of an `Authorization` field.
fn bearer(field: &str) -> Option<&str> {
    let (scheme, token) = field.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A page in a browser that reaches the API through something names another host. A name in a browser's address bar can be
/// made to mean this host; an address cannot.
fn check_host(headers: &HeaderMap, uri: &http::Uri, way: Way) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let named = host
        .and_then(|host| host.to_str().ok())
        .filter(|_| more.is_none());
    let absolute = uri.authority().map(http::uri::Authority::as_str);
    let is_ours = |host: &str| match way {
        Way::Socket | Way::Inside => matches!(host, "localhost" | "suijuris"),
        Way::Address => is_here(host),
    };
    if named.is_some_and(is_ours) && absolute.is_none_or(is_ours) {
        return Ok(());
    }
    let how = match way {
        Way::Socket | Way::Inside => "send `Host: localhost`",
        Way::Address => "send the address of this API as `Host`, or `localhost`",
    };
    Err(Problem::new(421, "unknown_host", "This host is not served here").with_detail(how))
}

/// Whether a `Host` is an address or `localhost`, with a port or without.
fn is_here(host: &str) -> bool {
    let Ok(host) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    // Nothing but a name and a number: no user before it, no text for a port.
    let Some(port) = host.as_str().strip_prefix(host.host()) else {
        return false;
    };
    if !port.is_empty() && host.port_u16().is_none() {
        return false;
    }
    let name = host.host();
    let name = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

/// The JSON document of a request.
async fn read<T: DeserializeOwned>(asked: Asked) -> Result<T, Problem> {
    let media = http_answers::media_type(&asked.headers);
    if media.as_deref() != Some("application/json") {
        return Err(no_json());
    }
    let body = body(asked.body).await?;
    // Documents are objects; an array of their members in order would pass for one otherwise.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(bad("not a document of this route: it is no JSON object"));
    }
    suijuris_api::json::from_slice(&body)
        .map_err(|error| bad(&format!("not a document of this route: {error}")))
}

async fn body(body: Incoming) -> Result<Bytes, Problem> {
    let body = http_answers::read_body(body, MAX_BODY, BODY_WITHIN).await;
    body.map_err(|error| error.problem())
}

fn no_json() -> Problem {
    Problem::new(415, "bad_request", "The request is no JSON")
        .with_detail("send `Content-Type: application/json`")
}

fn bad(detail: &str) -> Problem {
    Problem::new(400, "bad_request", "The request cannot be understood").with_detail(detail)
}

fn no_such(name: &str) -> Problem {
    let shown: String = name.chars().take(128).collect();
    Problem::new(404, "unknown_object", "No such object is here").with_detail(format!(
        "`{shown}` is no object of this daemon: see `suijuris ps`"
    ))
}

fn no_such_token(name: &str) -> Problem {
    let shown: String = name.chars().take(128).collect();
    Problem::new(404, "unknown_token", "There is no such token").with_detail(format!(
        "`{shown}` is no token of this daemon: see `suijuris token api ls`"
    ))
}

fn no_token(error: &TokenError) -> Problem {
    let why = suijuris_custody::chain(error);
    match error {
        TokenError::Taken(_) => Problem::new(409, "name_taken", "The name is taken").with_detail(why),
        TokenError::Catalog(super::catalog::CatalogError::Name(_)) | TokenError::TooMany => bad(&why),
        _ => Problem::new(507, "not_durable", "It could not be kept; nothing was changed").with_detail(why),
    }
}

/// The table of routes has one that nobody answers.
fn elsewhere() -> Problem {
    Problem::new(404, "no_such_route", "There is no such route here")
}

fn not_so(methods: &[&'static str]) -> Answer {
    let allowed = methods.join(", ");
    let problem = Problem::new(405, "method_not_allowed", "Not with this method");
    let mut answer = refusal(&problem.with_detail(format!("{allowed} is understood here")));
    http_answers::put(&mut answer, "allow", &allowed);
    answer
}

fn boxed(body: http_body_util::Full<Bytes>) -> UnsyncBoxBody<Bytes, Infallible> {
    body.boxed_unsync()
}

fn json(value: &impl Serialize) -> Answer {
    http_answers::json(StatusCode::OK, value).map(boxed)
}

fn refusal(problem: &Problem) -> Answer {
    http_answers::problem(problem).map(boxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_name_is_none() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:8",
            "localhost",
            "LocalHost:1",
            "10.0.0.9:1",
        ] {
            assert!(is_here(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "a@127.0.0.1:x",
            "a@127.0.0.1:80",
            "127.0.0.1:x",
            "127.0.0.1:",
            "127.0.0.1.example",
            "::1",
        ] {
            assert!(!is_here(host), "{host}");
        }
    }

    #[test]
    fn a_token_stands_behind_its_scheme() {
        assert_eq!(bearer("Bearer x"), Some("x"));
        assert_eq!(bearer("bearer  x "), Some("x"));
        assert_eq!(bearer("Basic x"), None);
        assert_eq!(bearer("x"), None);
    }
}
