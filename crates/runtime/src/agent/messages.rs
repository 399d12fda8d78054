//! Messages on the agent socket.

use suijuris_api::Problem;
use suijuris_api::agent::{Acknowledge, Messages};
use suijuris_core::message::MessageKey;
use suijuris_depot::Error;
use suijuris_words::cloudevents;

use crate::inbox::MAX_LISTED;
use crate::resident::Resident;

/// Waiting messages, oldest first.
pub(super) async fn list(resident: &Resident, query: Option<&str>) -> Result<Messages, Problem> {
    let limit = match query {
        None => MAX_LISTED,
        Some(query) => query
            .strip_prefix("limit=")
            .and_then(|number| number.parse().ok())
            .filter(|limit| (1..=MAX_LISTED).contains(limit))
            .ok_or_else(|| {
                Problem::new(422, "bad_limit", "Not a number of messages")
                    .with_detail(format!("write ?limit=N with N from 1 to {MAX_LISTED}"))
            })?,
    };
    let found = resident
        .inbox()
        .list(limit)
        .await
        .map_err(|error| failed(&error))?;
    Ok(Messages {
        messages: found
            .iter()
            .map(|waiting| cloudevents::waiting(&waiting.message))
            .collect(),
        waiting: resident.inbox().waiting(),
    })
}

/// Takes messages out for good.
pub(super) async fn acknowledge(resident: &Resident, wanted: &Acknowledge) -> Result<(), Problem> {
    let key = |text: &String| {
        text.parse().map(MessageKey).map_err(|_| {
            Problem::new(422, "bad_key", "Not a message's key")
                .with_detail("write the `key` of a listed message: 64 hexadecimal digits")
        })
    };
    let keys: Vec<MessageKey> = wanted.keys.iter().map(key).collect::<Result<_, _>>()?;
    if keys.len() > MAX_LISTED {
        let problem = Problem::new(422, "bad_limit", "Too many messages at once");
        return Err(problem.with_detail(format!("acknowledge at most {MAX_LISTED}")));
    }
    if !resident.may_serve() {
        return Err(
            Problem::new(503, "unwitnessed", "Messages cannot be acknowledged now")
                .with_detail("the object cannot tell whether it is the only copy; try again"),
        );
    }
    resident
        .inbox()
        .acknowledge(&keys)
        .await
        .map_err(|error| failed(&error))?;
    resident.notify_changed();
    Ok(())
}

fn failed(error: &Error) -> Problem {
    let mut problem = Problem::new(503, "depot_failed", "The depot did not answer as it should")
        .with_detail(suijuris_custody::chain(error));
    problem.retry_after = Some(1);
    problem
}
