//! What an org has, page by page.

use serde_json::{Value, json};

use super::call::{Answer, Call};
use super::error::ApiError;
use super::machines::{states, summary};
use crate::clock::{parse_rfc3339, rfc3339};
use crate::machine::State;
use crate::volumes::VolumeState;

/// One row: when it was last changed, its id, what is shown.
struct Row {
    updated_ms: u64,
    id: String,
    shown: Value,
}

/// A page of `rows`, and where the next begins.
fn page(call: &Call, mut rows: Vec<Row>) -> Result<(Vec<Row>, String), ApiError> {
    let limit = call.number("limit", 100, 1..=1_000)?;
    rows.sort_by(|a, b| (a.updated_ms, &a.id).cmp(&(b.updated_ms, &b.id)));
    if let Some(after) = call.query("updated_after") {
        let after = parse_rfc3339(after)
            .ok_or_else(|| ApiError::invalid("updated_after is an instant, as 2026-01-02T03:04:05Z"))?;
        rows.retain(|row| row.updated_ms > after);
    }
    if let Some(cursor) = call.query("cursor") {
        let parts = cursor
            .split_once('-')
            .and_then(|(at, id)| Some((at.parse::<u64>().ok()?, id.to_owned())));
        let after = parts.ok_or_else(|| ApiError::invalid("cursor is what next_cursor said"))?;
        rows.retain(|row| (row.updated_ms, row.id.clone()) > after);
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last
        .map(|row| format!("{}-{}", row.updated_ms, row.id))
        .unwrap_or_default();
    Ok((rows, next))
}

fn answer(kind: &str, (rows, next): (Vec<Row>, String)) -> Value {
    let last = rows.last();
    let last_id = last.map(|row| row.id.clone()).unwrap_or_default();
    let last_at = last.map(|row| rfc3339(row.updated_ms)).unwrap_or_default();
    let shown: Vec<Value> = rows.into_iter().map(|row| row.shown).collect();
    json!({
        format!("{kind}s"): shown, "next_cursor": next, format!("last_{kind}_id"): last_id, "last_updated_at": last_at,
        "error_regions": [],
    })
}

pub(super) fn machines(call: &Call) -> Result<Answer, ApiError> {
    let org = call.org(call.param("org_slug"))?;
    let states = states(call)?;
    let regions = call.query_all("region");
    let all: Vec<_> = {
        let machines = call
            .host()
            .machines
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        machines
            .values()
            .map(crate::machine::actor::Handle::now)
            .collect()
    };
    let meant = |machine: &&std::sync::Arc<crate::machine::Machine>| {
        machine.org == org
            && call.token.app.as_ref().is_none_or(|app| *app == machine.app)
            && (machine.state != State::Destroyed
                || call.flag("include_deleted")
                || states.contains(&State::Destroyed))
            && (states.is_empty() || states.contains(&machine.state))
            && (regions.is_empty() || regions.contains(&machine.region.as_str()))
    };
    let row = |machine: &std::sync::Arc<crate::machine::Machine>| Row {
        updated_ms: machine.updated_ms,
        id: machine.id.clone(),
        shown: summary(machine),
    };
    let rows = all.iter().filter(meant).map(row).collect();
    Ok(Answer::ok(answer("machine", page(call, rows)?)))
}

pub(super) fn volumes(call: &Call) -> Result<Answer, ApiError> {
    let org = call.org(call.param("org_slug"))?;
    let regions = call.query_all("region");
    let states = call.query_all("state");
    let meant = |volume: &crate::volumes::Volume| {
        volume.org == org
            && call.token.app.as_ref().is_none_or(|app| *app == volume.app)
            && (volume.state != VolumeState::Destroyed || call.flag("include_deleted"))
            && (states.is_empty() || states.contains(&volume.state.name()))
            && (regions.is_empty() || regions.contains(&volume.region.as_str()))
    };
    let row = |volume: crate::volumes::Volume| {
        let mut shown = super::volumes::shown(call, &volume);
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("app_name".to_owned(), json!(volume.app));
            shown.insert("updated_at".to_owned(), json!(rfc3339(volume.updated_ms)));
        }
        Row {
            updated_ms: volume.updated_ms,
            id: volume.id,
            shown,
        }
    };
    let rows = call.host().volumes.list(meant).into_iter().map(row).collect();
    Ok(Answer::ok(answer("volume", page(call, rows)?)))
}
