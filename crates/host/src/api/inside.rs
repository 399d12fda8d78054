//! What goes on inside a machine: commands run in it, its processes, its memory.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use suijuris_vehicle::process;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::machine::State;
use crate::machine::actor::Handle;
use crate::machine::requests::Refusal;
use crate::words;

/// Most of each output that is answered, bytes; what is over is read and thrown away.
const MAX_OUTPUT: u64 = 1 << 20;
/// How long a command may take unless it says.
const DEFAULT_S: u64 = 30;
/// Longest that it may say.
const MAX_S: u64 = 300;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exec {
    command: Option<Value>,
    cmd: Option<Value>,
    stdin: Option<String>,
    timeout: Option<u64>,
    container: Option<String>,
}

fn argv(value: &Value) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::invalid("command is a list of texts");
    let argv = match value {
        Value::String(text) => words::split(text).map_err(ApiError::invalid)?,
        Value::Array(list) => list
            .iter()
            .map(|word| word.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong()),
    };
    if argv.is_empty() || argv.iter().any(|word| word.contains('\0')) {
        return Err(wrong());
    }
    Ok(argv)
}

/// The processes of the machine that a call names, which is up.
fn up(call: &Call, what: &str) -> Result<Arc<process::Machine>, ApiError> {
    processes_of(&call.machine()?, what)
}

/// The processes of a machine that is up.
pub(super) fn processes_of(handle: &Handle, what: &str) -> Result<Arc<process::Machine>, ApiError> {
    let machine = handle.now();
    let processes = handle
        .processes
        .borrow()
        .clone()
        .filter(|_| machine.state == State::Started);
    processes.ok_or_else(|| {
        let state = machine.state.name();
        ApiError::precondition(format!(
            "unable to {what} machine from current state: '{state}'; start it first"
        ))
    })
}

/// Whether nobody else holds the machine's lease.
pub(super) fn lease_permits(call: &Call, handle: &Handle) -> Result<(), ApiError> {
    let machine = handle.now();
    match machine.lease_at(crate::clock::now_ms()) {
        Some(lease) if call.nonce().as_deref() != Some(lease.nonce.as_str()) => Err(Refusal::Leased {
            machine: machine.id.clone(),
            owner: lease.owner.clone(),
            until: crate::clock::rfc3339(lease.expires_ms),
        }
        .into()),
        _ => Ok(()),
    }
}

pub(super) async fn exec(call: &Call) -> Result<Answer, ApiError> {
    let asked: Exec = call.body()?;
    if asked.container.is_some_and(|container| !container.is_empty()) {
        return Err(ApiError::invalid(
            "container: machines have no containers here; leave it out",
        ));
    }
    let command = asked.command.as_ref().or(asked.cmd.as_ref());
    let argv = argv(command.ok_or_else(|| ApiError::invalid("command is missing"))?)?;
    let seconds = asked.timeout.filter(|timeout| *timeout > 0).unwrap_or(DEFAULT_S);
    if seconds > MAX_S {
        return Err(ApiError::invalid(format!("timeout is {MAX_S} seconds at most")));
    }
    let handle = call.machine()?;
    lease_permits(call, &handle)?;
    let processes = up(call, "exec in")?;
    let world = &call.host().shared.world;
    let entering = world
        .entering(&handle.now(), argv)
        .await
        .map_err(ApiError::precondition)?;
    let failed = |error: std::io::Error| ApiError::precondition(format!("cannot enter the machine: {error}"));
    let mut child = Command::from(processes.enter(world.driver.shim(), entering).map_err(failed)?);
    child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = child.spawn().map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let (Some(mut pipe), Some(text)) = (stdin, asked.stdin) {
            // A command that does not read its input is none the worse.
            let _ = pipe.write_all(text.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(write, read(stdout), read(stderr), child.wait()) };
    let Ok(((), stdout, stderr, status)) = tokio::time::timeout(Duration::from_secs(seconds), both).await
    else {
        let text = format!(
            "deadline_exceeded: the command did not end within {seconds} s and was killed; ask for a longer timeout"
        );
        return Err(ApiError::new(http::StatusCode::REQUEST_TIMEOUT, text));
    };
    use std::os::unix::process::ExitStatusExt as _;
    let status = status.map_err(failed)?;
    let (code, signal) = (status.code().unwrap_or(-1), status.signal().unwrap_or(0));
    Ok(Answer::ok(
        json!({ "exit_code": code, "exit_signal": signal, "stdout": stdout, "stderr": stderr }),
    ))
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let mut most = (&mut pipe).take(MAX_OUTPUT);
    // What was read before an error is what there is.
    let _ = most.read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn processes(call: &Call) -> Result<Answer, ApiError> {
    let machine = up(call, "list processes of")?;
    let mut rows: Vec<Value> = crate::processes::of(machine.pid());
    if let Some(key) = call.query("sort_by") {
        if !["pid", "command", "directory", "cpu", "rss", "rtime", "stime"].contains(&key) {
            return Err(ApiError::invalid(
                "sort_by is pid, command, directory, cpu, rss, rtime or stime",
            ));
        }
        rows.sort_by(|a, b| order(a.get(key), b.get(key)));
    }
    match call.query("order") {
        None | Some("asc") => {}
        Some("desc") => rows.reverse(),
        Some(_) => return Err(ApiError::invalid("order is asc or desc")),
    }
    Ok(Answer::ok(Value::Array(rows)))
}

fn order(a: Option<&Value>, b: Option<&Value>) -> std::cmp::Ordering {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    number(a).cmp(&number(b)).then_with(|| text(a).cmp(&text(b)))
}

pub(super) fn logs(call: &Call) -> Result<Answer, ApiError> {
    let machine = call.machine()?.now();
    let follow = call.flag("follow");
    Ok(Answer::Stream(super::control::respond(
        call.host(),
        vec![machine.id.clone()],
        follow,
    )))
}

pub(super) fn memory(call: &Call) -> Result<Answer, ApiError> {
    let machine = call.machine()?.now();
    let limit = machine.config.guest().memory_mb;
    Ok(Answer::ok(json!({ "limit_mb": limit, "available_mb": limit })))
}

pub(super) fn set_memory(call: &Call) -> Result<Answer, ApiError> {
    call.machine()?;
    Err(ApiError::precondition(
        "a machine of processes has no balloon: update its config's guest.memory_mb instead",
    ))
}

pub(super) fn reclaim(call: &Call) -> Result<Answer, ApiError> {
    call.machine()?;
    Ok(Answer::ok(json!({ "actual_mb": 0 })))
}
