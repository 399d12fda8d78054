//! Starting, stopping, suspending, signalling machines; waiting for what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use crate::clock::{Span, now_ms, parse_rfc3339};
use crate::machine::requests::Request;
use crate::machine::{Machine, State};
use crate::signals;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stop {
    signal: Option<Value>,
    timeout: Option<Span>,
    /// Ours: an instant before which no request starts it, RFC 3339.
    not_before: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Signal {
    signal: Option<Value>,
}

/// Longest time that a stop may be given.
const MAX_STOP_MS: u64 = 300_000;

fn signal_of(value: Option<&Value>) -> Result<Option<i32>, ApiError> {
    let text = match value {
        None => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => return Err(ApiError::invalid(signals::ADVICE)),
    };
    signals::named(&text)
        .map(Some)
        .ok_or_else(|| ApiError::invalid(signals::ADVICE))
}

fn budget(timeout: Option<Span>) -> Result<Option<u64>, ApiError> {
    let ms = timeout.map(Span::ms);
    if ms.is_some_and(|ms| ms > MAX_STOP_MS) {
        return Err(ApiError::invalid("timeout is 300s at most"));
    }
    Ok(ms)
}

pub(super) async fn start(call: &Call) -> Result<Answer, ApiError> {
    let before = call.machine()?.now().state;
    call.ask(Request::Start).await?;
    Ok(Answer::ok(
        json!({ "previous_state": before.name(), "migrated": false, "new_host": "" }),
    ))
}

pub(super) async fn stop(call: &Call) -> Result<Answer, ApiError> {
    let asked: Stop = call.body()?;
    let not_before = asked.not_before.as_deref().map(not_before).transpose()?;
    let request = Request::Stop {
        signal: signal_of(asked.signal.as_ref())?,
        budget_ms: budget(asked.timeout)?,
    };
    // Before it rests: a request may come at once.
    if let Some(at_ms) = not_before {
        call.ask(Request::NotBefore(at_ms)).await?;
    }
    call.ask(request).await?;
    Ok(Answer::done())
}

/// The latest instant that a stop may name, from now on.
const MAX_NOT_BEFORE_MS: u64 = 366 * 24 * 3_600_000;

fn not_before(text: &str) -> Result<u64, ApiError> {
    let at_ms = parse_rfc3339(text).filter(|at_ms| *at_ms <= now_ms().saturating_add(MAX_NOT_BEFORE_MS));
    at_ms.ok_or_else(|| ApiError::invalid("not_before is an instant within a year, as 2026-12-01T08:00:00Z"))
}

pub(super) async fn suspend(call: &Call) -> Result<Answer, ApiError> {
    call.ask(Request::Suspend).await?;
    Ok(Answer::done())
}

pub(super) async fn restart(call: &Call) -> Result<Answer, ApiError> {
    // In the query, or in the body as a stop has them.
    let asked: Stop = call.body()?;
    let signal = call.query("signal").map(|text| json!(text)).or(asked.signal);
    let timeout = match call.query("timeout") {
        None => asked.timeout,
        Some(text) => Some(duration_or_seconds(text)?),
    };
    let request = Request::Restart {
        signal: signal_of(signal.as_ref())?,
        budget_ms: budget(timeout)?,
        force: call.flag("force_stop"),
    };
    call.ask(request).await?;
    Ok(Answer::done())
}

/// A Go duration, or whole seconds.
fn duration_or_seconds(text: &str) -> Result<Span, ApiError> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Span::from_ms(seconds.saturating_mul(1_000))),
        Err(_) => text.parse().map_err(ApiError::invalid),
    }
}

pub(super) async fn signal(call: &Call) -> Result<Answer, ApiError> {
    use suijuris_vehicle::Machine as _;
    let asked: Signal = call.body()?;
    let number = signal_of(asked.signal.as_ref())?.ok_or_else(|| ApiError::invalid(signals::ADVICE))?;
    let handle = call.machine()?;
    let machine = handle.now();
    let processes = handle.processes.borrow().clone();
    let not_started = || {
        let state = machine.state.name();
        ApiError::precondition(format!(
            "unable to signal machine from current state: '{state}'; start it first"
        ))
    };
    let processes = processes
        .filter(|_| machine.state == State::Started)
        .ok_or_else(not_started)?;
    let signal = suijuris_vehicle::Signal::new(number).ok_or_else(|| ApiError::invalid(signals::ADVICE))?;
    processes.signal(signal).await.map_err(|_| not_started())?;
    Ok(Answer::done())
}

pub(super) async fn cordon(call: &Call, cordoned: bool) -> Result<Answer, ApiError> {
    call.ask(Request::Cordon(cordoned)).await?;
    Ok(Answer::done())
}

/// What a wait is for.
struct Wanted {
    states: Vec<State>,
    settled: bool,
}

impl Wanted {
    fn read(call: &Call) -> Result<Self, ApiError> {
        let named = call.query_all("state");
        let mut wanted = Self {
            states: Vec::new(),
            settled: named.contains(&"settled"),
        };
        for name in named.iter().filter(|name| **name != "settled") {
            let state = State::named(name);
            let advice = "state is started, stopped, suspended, destroyed, failed or settled";
            wanted
                .states
                .push(state.ok_or_else(|| ApiError::invalid(advice))?);
        }
        if wanted.states.is_empty() && !wanted.settled {
            wanted.states.push(State::Started);
        }
        Ok(wanted)
    }

    fn is(&self, state: State) -> bool {
        self.states.contains(&state) || (self.settled && state.is_settled())
    }

    fn names(&self) -> String {
        let settled = self.settled.then_some("settled");
        let names: Vec<&str> = self
            .states
            .iter()
            .map(|state| state.name())
            .chain(settled)
            .collect();
        names.join(" or ")
    }

    /// The event that satisfies it: what is now, or what was since `after`, so that a state that passed quickly is not missed.
    fn met(&self, machine: &Machine, after: Option<&str>) -> Option<(State, String)> {
        let newest = machine
            .events
            .front()
            .map(|event| event.id.clone())
            .unwrap_or_default();
        if self.is(machine.state) && after.is_none_or(|after| after != newest) {
            return Some((machine.state, newest));
        }
        let since = machine
            .events
            .iter()
            .take_while(|event| Some(event.id.as_str()) != after);
        let known = after.is_some_and(|after| machine.events.iter().any(|event| event.id == after));
        since.filter(|_| known).find_map(|event| {
            let state = State::named(&event.status)?;
            self.is(state).then(|| (state, event.id.clone()))
        })
    }
}

fn unreached(wanted: &Wanted, currently: &str) -> String {
    format!(
        "machine failed to reach desired state, {}, currently {currently}",
        wanted.names()
    )
}

pub(super) async fn wait(call: &Call) -> Result<Answer, ApiError> {
    let wanted = Wanted::read(call)?;
    let seconds = match call.query("timeout") {
        None => Span::from_ms(60_000),
        Some(text) => duration_or_seconds(text)?,
    };
    if !(1_000..=60_000).contains(&seconds.ms()) {
        return Err(ApiError::invalid("timeout must be between 1s and 1m0s"));
    }
    let mut record = call.machine()?.record;
    let version = call
        .query("version")
        .or_else(|| call.query("instance_id"))
        .map(str::to_owned);
    let after = call.query("from_event_id").map(str::to_owned);
    // What happens from now on counts even where it is over before this task looks.
    let begun = record
        .borrow_and_update()
        .events
        .front()
        .map(|event| event.id.clone());
    let mut first = true;
    let met = async {
        loop {
            let machine = Arc::clone(&record.borrow_and_update());
            if version
                .as_ref()
                .is_some_and(|version| *version != machine.version)
            {
                return Err(ApiError::precondition(unreached(&wanted, "replaced")));
            }
            let since = after.as_deref().or(if first { None } else { begun.as_deref() });
            if let Some(met) = wanted.met(&machine, since) {
                return Ok((met, machine.version.clone()));
            }
            if machine.state == State::Destroyed {
                return Err(ApiError::precondition(unreached(&wanted, "destroyed")));
            }
            first = false;
            if record.changed().await.is_err() {
                return Err(ApiError::not_found("machine not found"));
            }
        }
    };
    let met = tokio::time::timeout(Duration::from_millis(seconds.ms()), met).await;
    match met {
        Ok(met) => {
            let ((state, event), version) = met?;
            Ok(Answer::ok(
                json!({ "ok": true, "state": state.name(), "version": version, "event_id": event }),
            ))
        }
        Err(_) => {
            let currently = record.borrow().state.name();
            let text = format!("deadline_exceeded: {}", unreached(&wanted, currently));
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, text))
        }
    }
}
