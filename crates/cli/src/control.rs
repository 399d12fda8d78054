//! Questions to a running `up`: one JSON line each way over its control socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use suijuris_api::agent::Patch;
use suijuris_api::control::{ControlRequest, Reply};
use suijuris_core::owner_request::Ask;
use suijuris_custody::owner::{CODE_STALE_HEAD, content_of, no_content};

use suijuris_api::daemon::Object;
pub(crate) use suijuris_supervisor::history::state::Running;

use crate::carrier::Carrier;
use crate::here::{self, SigningContext};
use crate::history;
use crate::object_paths::ObjectPaths;
use crate::server::{Server, ServerError};

/// Bytes of an answer at most.
const MAX_REPLY: u64 = 256 << 10;

/// How long `up` may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(3);

/// How long `up` may take to do something: a wake waits for a workload that gets ready.
const DONE_WITHIN: Duration = Duration::from_secs(180);

/// Why a running `up` gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It does not answer.
    #[error("`up` runs but does not answer; see what it says in its own terminal")]
    Silent(#[source] io::Error),
    /// The daemon that serves the object.
    #[error(transparent)]
    Daemon(ServerError),
    /// It hung up.
    #[error("`up` ended before it answered; start it again")]
    Ended,
    /// Another language.
    #[error("the answer of `up` cannot be read; use the same version of suijuris for both")]
    Reply(#[from] serde_json::Error),
}

/// Asks whoever runs the object; `None` where nobody does.
pub(crate) fn ask(carrier: &Carrier, question: &ControlRequest) -> Result<Option<Reply>, Error> {
    match carrier {
        Carrier::Daemon(server, object) => ask_daemon(server, object, question).map(Some),
        Carrier::Files(paths) => ask_up(paths, question),
    }
}

/// Asks the `up` that runs the object; `None` where none runs.
pub(crate) fn ask_up(place: &ObjectPaths, question: &ControlRequest) -> Result<Option<Reply>, Error> {
    let within = if *question == ControlRequest::Status {
        STATUS_WITHIN
    } else {
        DONE_WITHIN
    };
    let mut stream = match UnixStream::connect(place.control_socket()) {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(Error::Silent(error)),
    };
    let mut line = serde_json::to_string(question)?;
    line.push('\n');
    let mut exchange = || {
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        stream.write_all(line.as_bytes())?;
        let mut reply = String::new();
        BufReader::new((&stream).take(MAX_REPLY)).read_line(&mut reply)?;
        Ok(reply)
    };
    let reply = exchange().map_err(Error::Silent)?;
    if reply.is_empty() {
        return Err(Error::Ended);
    }
    Ok(Some(serde_json::from_str(&reply)?))
}

/// Asks the daemon that serves the object.
fn ask_daemon(server: &Server, object: &Object, question: &ControlRequest) -> Result<Reply, Error> {
    match server.ask(object, question) {
        Ok(reply) => Ok(reply),
        Err(ServerError::Refused(problem)) => Ok(Reply::Error {
            code: problem.code,
            message: format!("{}: {}", problem.title, problem.detail),
        }),
        Err(error) => Err(Error::Daemon(error)),
    }
}

/// Tries of a write whose object records something at the same time.
const TRIES: u32 = 16;

/// Asks whoever runs the object, as the owner whose key is here, or else as the host; `None` where nobody does.
pub(crate) fn ask_as_owner(
    carrier: &Carrier,
    asked: Ask,
    patch: Option<&Patch>,
) -> anyhow::Result<Option<Reply>> {
    let Some(Reply::Status { server, .. }) = ask(carrier, &ControlRequest::Status)? else {
        return Ok(None);
    };
    let server = server.parse().context(
        "the process that runs the object names no key: use the same version of suijuris for both",
    )?;
    let content = patch.map_or_else(no_content, content_of);
    let mut tries = 0;
    loop {
        let signed = here::sign(&signing_context(carrier)?, asked, content, server)?;
        let question = match (signed, asked, patch) {
            (Some(signed), _, patch) => ControlRequest::Owner {
                signed: Box::new(suijuris_words::owner::document(&signed)?),
                patch: patch.cloned(),
            },
            (None, Ask::Sleep, _) => ControlRequest::Sleep,
            (None, _, Some(patch)) => ControlRequest::Patch(patch.clone()),
            (None, _, None) => ControlRequest::Wake,
        };
        tries += 1;
        match ask(carrier, &question)? {
            Some(Reply::Error { code, .. }) if code == CODE_STALE_HEAD && tries < TRIES => {}
            reply => return Ok(reply),
        }
    }
}

/// A socket that nobody listens on is left over from an `up` that was killed.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

/// Where the object stands, for whoever signs.
fn signing_context(carrier: &Carrier) -> anyhow::Result<SigningContext> {
    match carrier {
        Carrier::Daemon(..) => SigningContext::told(&carrier.state()?),
        Carrier::Files(paths) => Ok(SigningContext::of(history::open(paths)?.state().head())),
    }
}

/// How whoever runs the object, an `up` or a daemon, says it is.
pub(crate) fn running(place: &ObjectPaths) -> Option<Running> {
    running_up(place).or_else(|| {
        let carrier = Carrier::at(place.clone()).ok()?;
        match (&carrier, ask(&carrier, &ControlRequest::Status)) {
            (Carrier::Daemon(..), Ok(Some(status))) => said(status),
            _ => None,
        }
    })
}

/// How the `up` that runs the object says it is, if one does and answers.
pub(crate) fn running_up(place: &ObjectPaths) -> Option<Running> {
    ask_up(place, &ControlRequest::Status)
        .ok()
        .flatten()
        .and_then(said)
}

fn said(status: Reply) -> Option<Running> {
    match status {
        Reply::Status {
            phase,
            pid,
            url,
            paused,
            holds,
            ..
        } => Some(Running {
            phase,
            pid,
            url,
            paused,
            holds,
        }),
        _ => None,
    }
}
