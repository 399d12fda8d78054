//! What clients are told: problem documents, with Fly's code of the same thing in the detail.

use suijuris_api::Problem;
use suijuris_gate::Refusal;

/// Every code that the proxy answers with on its own, and its title; each has a page `docs/errors/<code>.md`.
pub const CODES: &[(&str, &str)] = &[
    ("unknown_app", "No app has this name here"),
    ("no_service", "The app serves nothing at this port"),
    ("no_candidate", "No machine of the app can serve this"),
    (
        "machine_start_failed",
        "The machine that serves this does not start",
    ),
    (
        "machine_start_timeout",
        "The machine that serves this did not start in time",
    ),
    (
        "machine_unreachable",
        "The machine that serves this takes no connections",
    ),
    ("machines_full", "All machines of the app are at their limit"),
    ("replay_invalid", "The app's replay cannot be followed"),
    ("replay_loop", "The request was replayed too often"),
    ("replay_refused", "The app may not replay to that app"),
    ("replay_body", "The request's body is too long to be replayed"),
    (
        "hook_failed",
        "It could not be asked whether the request may pass",
    ),
    ("hook_refused", "The request may not pass"),
];

/// Seconds after which a client may ask again, where that may help.
const RETRY_S: u64 = 1;

/// The refusal of this code.
pub(crate) fn refusal(status: u16, code: &str, detail: impl Into<String>) -> Box<Refusal> {
    let title = CODES
        .iter()
        .find(|(known, _)| *known == code)
        .map_or(code, |(_, title)| title);
    let mut problem = Problem::new(status, code, title).with_detail(detail);
    if status == 503 {
        problem.retry_after = Some(RETRY_S);
    }
    Box::new(problem.into())
}

pub(crate) fn unknown_app(host: &str) -> Box<Refusal> {
    let host = host.escape_debug();
    refusal(
        404,
        "unknown_app",
        format!("`{host}` is no app here: apps are reached as NAME.localhost"),
    )
}

pub(crate) fn no_service(port: u16) -> Box<Refusal> {
    let detail = format!(
        "no machine of the app has a service at port {port}: add one to its config, or use another port"
    );
    refusal(404, "no_service", detail)
}

pub(crate) fn no_candidate() -> Box<Refusal> {
    let detail =
        "PR01: no machine matches, runs or may be started: look at its state, cordon, checks and autostart";
    refusal(503, "no_candidate", detail)
}

pub(crate) fn start_failed(why: &str) -> Box<Refusal> {
    refusal(503, "machine_start_failed", format!("PM02: {why}"))
}

pub(crate) fn start_timeout() -> Box<Refusal> {
    refusal(
        503,
        "machine_start_timeout",
        "PM03: it is starting still: ask again",
    )
}

pub(crate) fn unreachable(attempts: u32) -> Box<Refusal> {
    let detail = format!(
        "PR04: nobody listened at its internal port in {attempts} attempts: check `internal_port`, and that the program listens on 0.0.0.0"
    );
    refusal(503, "machine_unreachable", detail)
}

pub(crate) fn full() -> Box<Refusal> {
    refusal(
        503,
        "machines_full",
        "PR03: all are at their hard limit: ask again, or add machines",
    )
}
