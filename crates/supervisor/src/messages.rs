//! What waits in an object's inbox, as its owner sees it: with how often each message was delivered, and which are set aside.
//! One answer for the API and for commands that read files.

use suijuris_api::Problem;
use suijuris_api::agent::Messages;
use suijuris_api::history::MessageOutcome;
use suijuris_core::ObjectId;
use suijuris_core::message::MessageKey;
use suijuris_custody::deliveries::{Counts, Deliveries};
use suijuris_depot::{Depot, Error, MAX_WAITING, Waiting};
use suijuris_words::cloudevents;

/// What is done with a message that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is delivered again, as if it had come now.
    Retry,
    /// It is taken out for good.
    Drop,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// No such message waits.
    #[error("no message with this key waits: see `suijuris messages ls`")]
    Unknown,
    /// The depot.
    #[error(transparent)]
    Depot(#[from] Error),
    /// The account of deliveries.
    #[error("the account of deliveries beside the history cannot be written")]
    Account(#[from] std::io::Error),
}

/// What was found, at most `limit` of it.
#[must_use]
pub fn listed(found: &[Waiting], counts: &Counts, limit: usize) -> Messages {
    let shown = |waiting: &Waiting| {
        let (mut event, key) = (cloudevents::waiting(&waiting.message), waiting.message.key());
        if let Some(members) = event.as_object_mut() {
            members.insert("deliveries".to_owned(), counts.of(&key).into());
            members.insert("set_aside".to_owned(), counts.is_aside(&key).into());
        }
        event
    };
    Messages {
        messages: found.iter().take(limit).map(shown).collect(),
        waiting: u64::try_from(found.len()).unwrap_or(u64::MAX),
    }
}

/// Does it with the message of this key.
///
/// # Errors
/// [`ActError`].
pub async fn act(
    depot: &dyn Depot,
    object: ObjectId,
    deliveries: &Deliveries,
    key: MessageKey,
    act: Act,
) -> Result<MessageOutcome, ActError> {
    let waiting = depot.inbox(object, MAX_WAITING).await?;
    if !waiting.iter().any(|waiting| waiting.message.key() == key) {
        return Err(ActError::Unknown);
    }
    let outcome = match act {
        Act::Retry => "retried",
        Act::Drop => {
            depot.acknowledge(object, &[key]).await?;
            "dropped"
        }
    };
    deliveries.forget(&[key])?;
    Ok(MessageOutcome {
        key: key.0.hex(),
        outcome: outcome.to_owned(),
    })
}

/// The answer to whoever names a message that does not wait.
#[must_use]
pub fn unknown() -> Problem {
    Problem::new(404, "unknown_message", "No such message waits").with_detail(ActError::Unknown.to_string())
}
