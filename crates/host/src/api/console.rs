//! Consoles: a command in a machine on a terminal of its own, over a connection that is upgraded. Ours, not Fly's.
//!
//! After `101 Switching Protocols` both sides send frames: one byte that says which, two bytes of length (big endian), that many bytes.
//! To the host: what is typed, or the terminal's size. From it: what is written, and in the end how the command ended, as JSON. A
//! client that closes the connection ends the command.
//!
//! docs/host.md describes the protocol; `suijuris host console` speaks it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawPathParams, Request, State};
use axum::routing::post;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use suijuris_sys::descriptors::{self, watch};
use suijuris_sys::terminals::{self, Size};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout};

use super::Api;
use super::call::Call;
use super::error::{ApiError, refused};
use super::inside::lease_permits;
use super::routes::{Needs, Operation, Route};
use crate::audit::Entry;
use crate::host::{Host, Inner};
use crate::machine::State as Phase;
use crate::machine::actor::Handle;

/// What the connection becomes.
const PROTOCOL: &str = "suijuris-console";
/// Consoles at one time: of a machine, and of all.
const MAX_OF_MACHINE: usize = 8;
const MAX: usize = 128;
/// A console in which nothing is typed or written.
const IDLE: Duration = Duration::from_secs(3_600);
/// How long a connection may take to be upgraded, and a client to take the last word.
const HURRY: Duration = Duration::from_secs(10);
/// How long what a command has started may write after it.
const REST: Duration = Duration::from_millis(200);
/// Longest body of the call that asks for one, bytes.
const MAX_BODY: usize = 64 << 10;
/// Longest name of a kind of terminal.
const MAX_TERM: usize = 64;

/// Kinds of frames.
const BYTES: u8 = 0;
const SIZE: u8 = 1;
const ENDED: u8 = 2;

/// Runs a command, as an exec does; its own right and rate are those of one.
const ROUTE: Route = Route {
    method: "POST",
    path: "/apps/{app_name}/machines/{machine_id}/console",
    operation: Operation::Exec,
    needs: Needs::Exec,
    about: "A terminal in a machine",
};

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    /// The command; a shell where none is named.
    command: Option<Vec<String>>,
    rows: Option<u16>,
    columns: Option<u16>,
    term: Option<String>,
}

impl Asked {
    fn size(&self) -> Size {
        let usual = Size::default();
        Size {
            rows: self.rows.filter(|rows| *rows > 0).unwrap_or(usual.rows),
            columns: self
                .columns
                .filter(|columns| *columns > 0)
                .unwrap_or(usual.columns),
        }
    }

    fn argv(&self) -> Result<Vec<String>, ApiError> {
        let argv = match &self.command {
            None => vec!["/bin/sh".to_owned()],
            Some(command) => command.clone(),
        };
        if argv.is_empty() || argv.iter().any(|word| word.contains('\0')) {
            return Err(ApiError::invalid("command is a list of texts"));
        }
        Ok(argv)
    }

    fn term(&self) -> Result<&str, ApiError> {
        let term = self.term.as_deref().unwrap_or("xterm");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-+._".contains(&byte);
        if term.is_empty() || term.len() > MAX_TERM || !term.bytes().all(plain) {
            return Err(ApiError::invalid(
                "term is the name of a terminal, as xterm-256color",
            ));
        }
        Ok(term)
    }
}

/// How many there are, by machine.
#[derive(Debug, Default)]
pub(crate) struct Consoles(Arc<Mutex<BTreeMap<String, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct Place {
    of: Arc<Mutex<BTreeMap<String, usize>>>,
    machine: String,
}

impl Consoles {
    fn enter(&self, machine: &str) -> Result<Place, ApiError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = all.get(machine).copied().unwrap_or_default();
        if here >= MAX_OF_MACHINE || all.values().sum::<usize>() >= MAX {
            let text = format!(
                "aborted: there are {MAX_OF_MACHINE} consoles of this machine, or {MAX} of all; close one first"
            );
            return Err(ApiError::new(StatusCode::CONFLICT, text));
        }
        all.insert(machine.to_owned(), here + 1);
        Ok(Place {
            of: Arc::clone(&self.0),
            machine: machine.to_owned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = all.get_mut(&self.machine) {
            *here -= 1;
            if *here == 0 {
                all.remove(&self.machine);
            }
        }
    }
}

/// The route of the API.
pub(super) fn router() -> Router<Api> {
    Router::new().route(&format!("/v1{}", ROUTE.path), post(of_api))
}

async fn of_api(State(api): State<Api>, params: RawPathParams, mut request: Request) -> Response<Body> {
    let host = Arc::clone(&api.host.0);
    let entry = Entry::of(&host, &ROUTE, &request).called("Console");
    let params = super::named(&params);
    let opened = async {
        let upgrade = upgrade(&mut request)?;
        let call = Call::read(api, &ROUTE, params, request).await?;
        let handle = call.machine()?;
        lease_permits(&call, &handle)?;
        open(call.host(), &handle, &call.body()?, upgrade).await
    };
    let response = answered(opened.await);
    if let Some(entry) = entry.ended(response.status()) {
        host.audit.note(entry).await;
    }
    response
}

/// The same for whoever runs the host, who needs no lease; the machine is named by its id or its name.
pub(super) async fn of_operator(
    State(host): State<Host>,
    Path((app, machine)): Path<(String, String)>,
    mut request: Request,
) -> Response<Body> {
    let opened = async {
        let upgrade = upgrade(&mut request)?;
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
        let body = body
            .map_err(|_| ApiError::invalid("the body is too long, or broke off"))?
            .to_bytes();
        let asked =
            serde_json::from_slice(&body).map_err(|error| ApiError::invalid(format!("the body: {error}")))?;
        let named = |found: &Arc<crate::machine::Machine>| found.id == machine || found.name == machine;
        let living = |found: &Arc<crate::machine::Machine>| found.state != Phase::Destroyed;
        let found = host.0.machines_of(&app).into_iter().filter(living).find(named);
        let handle = found.and_then(|found| host.0.handle(&found.id));
        let handle = handle.ok_or_else(|| ApiError::not_found("there is no such machine of this app"))?;
        open(&host.0, &handle, &asked, upgrade).await
    };
    answered(opened.await)
}

/// Who asks for no console is told what to ask for (RFC 9110 §15.5.22).
fn answered(opened: Result<Response<Body>, ApiError>) -> Response<Body> {
    let mut response = opened.unwrap_or_else(|error| refused(&error));
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    }
    response
}

/// The connection, once it is one of consoles.
fn upgrade(request: &mut Request) -> Result<OnUpgrade, ApiError> {
    let asks = |headers: &HeaderMap| {
        let named = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
        named.is_some_and(|named| named.eq_ignore_ascii_case(PROTOCOL))
    };
    if !asks(request.headers()) {
        let text = format!(
            "a console is a connection of its own: send `Connection: Upgrade` and `Upgrade: {PROTOCOL}` over HTTP/1.1"
        );
        return Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, text));
    }
    Ok(hyper::upgrade::on(request))
}

async fn open(
    host: &Arc<Inner>,
    handle: &Handle,
    asked: &Asked,
    upgrade: OnUpgrade,
) -> Result<Response<Body>, ApiError> {
    let machine = handle.now();
    let place = host.consoles.enter(&machine.id)?;
    let processes = super::inside::processes_of(handle, "open a console of")?;
    let world = &host.shared.world;
    let mut entering = world
        .entering(&machine, asked.argv()?)
        .await
        .map_err(ApiError::precondition)?;
    entering.terminal = true;
    entering.env.push(("TERM".into(), asked.term()?.into()));
    let failed = |error: io::Error| ApiError::precondition(format!("a console cannot be opened: {error}"));
    let (person, program) = terminals::pair(asked.size()).map_err(failed)?;
    let mut command = Command::from(processes.enter(world.driver.shim(), entering).map_err(failed)?);
    let side = || program.try_clone().map(Stdio::from);
    command
        .stdin(side().map_err(failed)?)
        .stdout(side().map_err(failed)?)
        .stderr(side().map_err(failed)?)
        .kill_on_drop(true);
    let child = command.spawn().map_err(failed)?;
    // The program's side is the program's alone: its end is heard.
    drop((command, program));
    let person = watch(person, Interest::READABLE | Interest::WRITABLE).map_err(failed)?;
    let console = Console { person, child };
    host.spawn(async move {
        if let Ok(Ok(connection)) = timeout(HURRY, upgrade).await {
            // How it ended is its client's affair.
            let _ = console.serve(connection).await;
        }
        drop(place);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

/// A command that runs, and the terminal before it. Dropped, it ends the command.
struct Console {
    person: AsyncFd<OwnedFd>,
    child: Child,
}

impl Console {
    async fn serve(mut self, connection: Upgraded) -> io::Result<()> {
        let (from, mut to) = tokio::io::split(TokioIo::new(connection));
        let moved = Moved::now();
        let idle = async {
            while moved.last().elapsed() < IDLE {
                sleep_until(moved.last() + IDLE).await;
            }
        };
        let status = tokio::select! {
            status = written(&self.person, &mut self.child, &mut to, &moved) => status?,
            typed = typed(&self.person, from, &moved) => return typed,
            () = idle => {
                let text = "\r\nsuijuris: this console was idle for an hour\r\n";
                return timeout(HURRY, send(&mut to, BYTES, text.as_bytes())).await?;
            }
        };
        let ended =
            json!({ "exit_code": status.code().unwrap_or(-1), "exit_signal": status.signal().unwrap_or(0) });
        let last = async {
            send(&mut to, ENDED, ended.to_string().as_bytes()).await?;
            to.shutdown().await
        };
        timeout(HURRY, last).await?
    }
}

/// When something was typed or written.
struct Moved(Mutex<Instant>);

impl Moved {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Sends on what the command writes, until it has ended.
async fn written(
    person: &AsyncFd<OwnedFd>,
    child: &mut Child,
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Moved,
) -> io::Result<ExitStatus> {
    let mut buffer = [0; 8 << 10];
    let mut ended = None;
    loop {
        let read = person.async_io(Interest::READABLE, |person| {
            descriptors::read(person.as_fd(), &mut buffer)
        });
        let until = ended
            .as_ref()
            .map_or_else(|| Instant::now() + IDLE, |(until, _)| *until);
        tokio::select! {
            biased;
            read = read => match read {
                // Nobody has its other side any more.
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    moved.again();
                    send(to, BYTES, buffer.get(..length).unwrap_or_default()).await?;
                }
            },
            status = child.wait(), if ended.is_none() => ended = Some((Instant::now() + REST, status?)),
            () = sleep_until(until), if ended.is_some() => break,
        }
    }
    match ended {
        Some((_, status)) => Ok(status),
        None => child.wait().await,
    }
}

/// Gives the command what is typed, until the client is gone.
async fn typed(person: &AsyncFd<OwnedFd>, mut from: impl AsyncRead + Unpin, moved: &Moved) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; 3];
        from.read_exact(&mut head).await?;
        let [kind, high, low] = head;
        bytes.resize(usize::from(u16::from_be_bytes([high, low])), 0);
        from.read_exact(&mut bytes).await?;
        moved.again();
        match (kind, bytes.as_slice()) {
            (BYTES, mut rest) => {
                while !rest.is_empty() {
                    let write = |person: &OwnedFd| descriptors::write(person.as_fd(), rest);
                    let length = person.async_io(Interest::WRITABLE, write).await?;
                    rest = rest.get(length..).unwrap_or_default();
                }
            }
            (SIZE, &[row_high, row_low, column_high, column_low]) => {
                let size = Size {
                    rows: u16::from_be_bytes([row_high, row_low]),
                    columns: u16::from_be_bytes([column_high, column_low]),
                };
                terminals::set_size(person.get_ref().as_fd(), size)?;
            }
            // Of a later client: nothing here can be made of it.
            _ => {}
        }
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), kind: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let [high, low] = length.to_be_bytes();
    to.write_all(&[&[kind, high, low], bytes].concat()).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_for_each_machine_and_come_back() {
        let consoles = Consoles::default();
        let mut held: Vec<Place> = (0..MAX_OF_MACHINE)
            .map(|_| consoles.enter("a").unwrap())
            .collect();
        assert!(consoles.enter("a").is_err(), "one machine has no more");
        held.push(consoles.enter("b").unwrap());
        held.remove(0);
        assert!(consoles.enter("a").is_ok());
        drop(held);
        assert!(consoles.0.lock().unwrap().is_empty());
        let all: Vec<Place> = (0..MAX)
            .map(|n| consoles.enter(&n.to_string()).unwrap())
            .collect();
        assert!(consoles.enter("one more").is_err());
        drop(all);
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let asked = |body: serde_json::Value| serde_json::from_value::<Asked>(body).unwrap();
        let plain = asked(json!({}));
        assert_eq!(plain.argv().unwrap(), ["/bin/sh"]);
        assert_eq!((plain.size(), plain.term().unwrap()), (Size::default(), "xterm"));
        let sized = asked(json!({"command": ["a"], "rows": 3, "columns": 0, "term": "xterm-256color"}));
        assert_eq!(sized.size(), Size { rows: 3, columns: 80 });
        assert_eq!(sized.term().unwrap(), "xterm-256color");
        for bad in [json!({"command": []}), json!({"command": ["a\u{0}b"]})] {
            assert!(asked(bad).argv().is_err());
        }
        for bad in ["", "a b", "x\ny", &"x".repeat(MAX_TERM + 1)] {
            assert!(asked(json!({"term": bad})).term().is_err(), "{bad}");
        }
    }
}
