//! What an object at rest leaves in the depot: bundles, the records that are not there yet, its announcement.
//!
//! In this order, after the mark, so that whoever finds the announcement finds all that it needs, and whoever finds an
//! announcement that is not the mark's head knows that the object is awake or was. Each step may be repeated: what is
//! there already is left as it is. Called when `dormant` is durable and witnessed.

use std::sync::Arc;

use suijuris_core::bundle::NotFiles;
use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ObjectId};
use suijuris_depot::Depot;
use suijuris_store::{Depth, Home, OpenError, Reader, Shelf, shelf};

/// A segment gets no further record beyond this size, bytes: a quarter of what a depot takes, so that it is read in one
/// piece by a door with little memory.
const SEGMENT_BYTES: usize = 4 << 20;

/// Why not everything is in the depot. The object itself is whole; publish again when it next sleeps.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The depot.
    #[error("the depot did not take what the object publishes while it sleeps")]
    Depot(#[from] suijuris_depot::Error),
    /// The history.
    #[error("the object's own history cannot be read")]
    History(#[from] OpenError),
    /// A bundle.
    #[error("bundle {0} cannot be read")]
    Bundle(BundleId, #[source] shelf::Error),
    /// A bundle's bytes.
    #[error("bundle {0} cannot be encoded")]
    Encoding(BundleId, #[source] NotFiles),
    /// Segments in the depot that do not follow one another.
    #[error("the depot lacks the records from {0} on, though it has later ones; remove what stands behind")]
    Gap(u64),
    /// The thread that reads files.
    #[error("the thread that reads the history has ended")]
    Thread(#[from] tokio::task::JoinError),
}

/// Some records in a row.
struct Segment {
    first: u64,
    last: u64,
    bytes: Vec<u8>,
    bundles: Vec<BundleId>,
}

/// Publishes the object in `home`, with its announcement where it has one that a depot takes, and the instant at which a
/// timer wants it woken.
///
/// Dropping the future leaves what is done so far; nothing half-done is visible.
///
/// # Errors
/// [`PublishError`].
pub async fn publish(
    depot: &dyn Depot,
    home: &Home,
    announcement: Option<Vec<u8>>,
    due: Option<Timestamp>,
) -> Result<(), PublishError> {
    let opened = home.clone();
    let reader = tokio::task::spawn_blocking(move || Reader::open(&opened, Depth::Tail)).await??;
    let reader = Arc::new(reader);
    let (object, head) = (reader.state().head().object, reader.state().head().seq);
    let mut next = published(depot, object).await?;
    // The rules in force, for doors, even where all records are there.
    let mut known = vec![reader.state().head().bundle];
    put_bundle(depot, home, reader.state().head().bundle).await?;
    while next <= head {
        let from = Arc::clone(&reader);
        let segment = tokio::task::spawn_blocking(move || segment(&from, next)).await??;
        for bundle in segment.bundles {
            if !known.contains(&bundle) {
                put_bundle(depot, home, bundle).await?;
                known.push(bundle);
            }
        }
        let positions = segment.first..=segment.last;
        depot.put_segment(object, positions, &segment.bytes).await?;
        next = segment.last + 1;
    }
    if let Some(announcement) = announcement {
        depot.announce(object, &announcement, due).await?;
    }
    Ok(())
}

/// The first position that the depot has no record of.
async fn published(depot: &dyn Depot, object: ObjectId) -> Result<u64, PublishError> {
    let mut next = 0;
    for positions in depot.segments(object).await? {
        if *positions.start() != next {
            return Err(PublishError::Gap(next));
        }
        next = positions.end().saturating_add(1);
    }
    Ok(next)
}

fn segment(reader: &Reader, from: u64) -> Result<Segment, OpenError> {
    let mut segment = Segment {
        first: from,
        last: from,
        bytes: Vec::new(),
        bundles: Vec::new(),
    };
    for stored in reader.records(from..u64::MAX)? {
        let stored = stored?;
        if !segment.bytes.is_empty() && segment.bytes.len() + stored.bytes.len() > SEGMENT_BYTES {
            break;
        }
        segment.last = stored.record.seq;
        segment.bytes.extend_from_slice(&stored.bytes);
        if !segment.bundles.contains(&stored.record.bundle) {
            segment.bundles.push(stored.record.bundle);
        }
    }
    Ok(segment)
}

async fn put_bundle(depot: &dyn Depot, home: &Home, id: BundleId) -> Result<(), PublishError> {
    let home = home.clone();
    let files = tokio::task::spawn_blocking(move || Shelf::of(&home).files(&id))
        .await?
        .map_err(|error| PublishError::Bundle(id, error))?;
    let bytes = files
        .encode()
        .map_err(|error| PublishError::Encoding(id, error))?;
    Ok(depot.put_bundle(id, &bytes).await?)
}
