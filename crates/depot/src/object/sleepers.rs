//! Announcements and due times in a bucket.
//!
//! The announcement says when its object is due; the entries below `due` only find it quickly. An entry is made before the
//! announcement it belongs to and removed after it, so that none is ever missing; one too many is passed over.

use suijuris_core::ObjectId;
use suijuris_core::time::Timestamp;

use super::store::{Store, each};
use crate::{Error, frame};

/// Where the announcement of an object is.
pub(super) fn announcement_key(object: ObjectId) -> String {
    format!("announcements/{object}")
}

fn due_name(at: Timestamp, object: ObjectId) -> String {
    format!("{}-{object}", frame::sortable(at))
}

/// The due time of an object; `None` where it announces none.
async fn due_of(store: &Store, object: ObjectId) -> Result<Option<Timestamp>, Error> {
    let key = announcement_key(object);
    let Some(found) = store.get_start(&key, frame::DUE_BYTES).await? else {
        return Ok(None);
    };
    Ok(frame::open_announcement(&found.bytes, &store.place(&key))?.0)
}

/// Replaces announcement and due time.
pub(super) async fn announce(
    store: &Store,
    object: ObjectId,
    bytes: &[u8],
    due: Option<Timestamp>,
) -> Result<(), Error> {
    let stored = frame::announce(bytes, due)?;
    let before = match due_of(store, object).await {
        Ok(due) => due,
        Err(Error::Garbage { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(at) = due {
        store
            .put(&format!("due/{}", due_name(at, object)), Vec::new())
            .await?;
    }
    store.put(&announcement_key(object), stored).await?;
    match before.filter(|before| Some(*before) != due) {
        Some(at) => store.delete(&format!("due/{}", due_name(at, object))).await,
        None => Ok(()),
    }
}

/// Objects due at or before `until`, earliest first.
pub(super) async fn due(
    store: &Store,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<(Timestamp, ObjectId)>, Error> {
    let last = frame::sortable(until);
    let mut due = Vec::new();
    let mut after: Option<String> = None;
    while due.len() < limit {
        let wanted = |name: &str| name.get(..16).is_some_and(|at| at <= last.as_str());
        let page = (limit - due.len()).clamp(64, 1_000);
        let names = store.names("due", after.as_deref(), page, wanted).await?;
        let Some(newest) = names.last() else {
            break;
        };
        after = Some(newest.name.clone());
        let entries: Result<Vec<_>, Error> =
            names.iter().map(|entry| parse_due(store, &entry.name)).collect();
        let checked = each(entries?, |(at, object)| async move {
            Ok(match due_of(store, object).await {
                // Whoever reads the announcement is told; other objects' timers go on.
                Err(Error::Garbage { .. }) => Some((at, object)),
                due => (due? == Some(at)).then_some((at, object)),
            })
        });
        due.extend(checked.await?.into_iter().flatten());
    }
    due.truncate(limit);
    Ok(due)
}

fn parse_due(store: &Store, name: &str) -> Result<(Timestamp, ObjectId), Error> {
    let parse = || {
        let (at, object) = name.split_once('-')?;
        Some((frame::unsortable(at)?, object.parse().ok()?))
    };
    parse().ok_or_else(|| frame::garbage(&store.place(&format!("due/{name}")), "its name is not a due time"))
}
