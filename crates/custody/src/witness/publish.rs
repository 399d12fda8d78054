//! What an object at rest leaves in the depot: bundles, the records that are not there yet, its announcement.
//!
//! In this order, after the mark, so that whoever finds the announcement finds all that it needs, and whoever finds an
//! announcement that is not the mark's head knows that the object is awake or was. Each step may be repeated: what is
//! there already is left as it is. Called when `dormant` is durable and witnessed.

use std::ops::RangeInclusive;
use std::sync::Arc;

use suijuris_core::bundle::NotFiles;
use suijuris_core::lineage::{self, Body};
use suijuris_core::time::Timestamp;
use suijuris_core::{BundleId, ObjectId};
use suijuris_depot::Depot;
use suijuris_store::{BundleStore, Depth, ObjectDir, OpenError, Reader, bundle_store};

/// A segment gets no further record beyond this size, bytes: a quarter of what a depot takes, so that it is read in one
/// piece by a door with little memory.
const SEGMENT_BYTES: usize = 4 << 20;

/// So many segments in a row become one, where they fit: an object publishes one each time it falls asleep.
const MERGED: usize = 32;

/// Newest records that are looked at for one that gives up others.
const LOOK_BACK: u64 = 64;

/// Why not everything is in the depot. The object itself is whole; publish again when it next sleeps.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The depot.
    #[error("the depot did not accept what the sleeping object publishes")]
    Depot(#[from] suijuris_depot::Error),
    /// The history.
    #[error("the object's own history cannot be read")]
    History(#[from] OpenError),
    /// A bundle.
    #[error("bundle {0} cannot be read")]
    Bundle(BundleId, #[source] bundle_store::Error),
    /// A bundle's bytes.
    #[error("bundle {0} cannot be encoded")]
    Encoding(BundleId, #[source] NotFiles),
    /// Segments in the depot that do not follow one another.
    #[error("the depot lacks the records from {0} on, though it has later ones; remove the later ones")]
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

/// Leaves as it is what the depot has of this very head: an announcement comes last, so that all it needs is there. Only the
/// due time may be another. Whether it is there; where that cannot be said it is not.
pub async fn republish(
    depot: &dyn Depot,
    object: ObjectId,
    announcement: &[u8],
    due: Option<Timestamp>,
) -> bool {
    let there = depot.announcement(object).await;
    let same = there.is_ok_and(|there| there.is_some_and(|there| there == announcement));
    same && depot.announce(object, announcement, due).await.is_ok()
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
    home: &ObjectDir,
    announcement: Option<Vec<u8>>,
    due: Option<Timestamp>,
) -> Result<(), PublishError> {
    let opened = home.clone();
    let reader = tokio::task::spawn_blocking(move || Reader::open(&opened, Depth::Tail)).await??;
    let reader = Arc::new(reader);
    let (object, head) = (reader.state().head().object, reader.state().head().seq);
    let there = depot.segments(object).await?;
    let row = own_row(depot, &reader, there).await?;
    let mut next = row.last().map_or(0, |last| last.end().saturating_add(1));
    // The rules in force, for doors, even where all records are there.
    let mut known = vec![reader.state().head().bundle];
    put_bundle(depot, home, reader.state().head().bundle).await?;
    while next <= head {
        let segment = read(&reader, next..=head).await?;
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
    if row.len() >= MERGED && row.len().is_multiple_of(MERGED) {
        merge(depot, &reader, row.get(row.len() - MERGED..).unwrap_or_default()).await?;
    }
    Ok(())
}

/// The segments that lead through this history as far as the depot has it. What does not belong is removed: parts of
/// longer segments, left by a merge that was cut short, and records that a restore gave up.
async fn own_row(
    depot: &dyn Depot,
    reader: &Arc<Reader>,
    mut there: Vec<RangeInclusive<u64>>,
) -> Result<Vec<RangeInclusive<u64>>, PublishError> {
    let (object, head) = (reader.state().head().object, reader.state().head().seq);
    let from = Arc::clone(reader);
    if tokio::task::spawn_blocking(move || was_restored(&from)).await?? {
        // Once one is ours, all before it are: each record names the one before.
        there.sort_unstable_by_key(|positions| (*positions.end(), *positions.start()));
        while let Some(last) = there.last().cloned() {
            if *last.end() <= head {
                let ours = read_whole(reader, last.clone()).await?;
                match depot.put_segment(object, last.clone(), &ours.bytes).await {
                    Ok(()) => break,
                    Err(suijuris_depot::Error::Different(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            depot.remove_segment(object, last).await?;
            there.pop();
        }
    }
    let row = suijuris_depot::row(&there).map_err(PublishError::Gap)?;
    for part in there.iter().filter(|positions| !row.contains(positions)) {
        depot.remove_segment(object, part.clone()).await?;
    }
    Ok(row)
}

/// Whether one of the newest records is `restored`: then the depot may hold records that were given up.
fn was_restored(reader: &Reader) -> Result<bool, OpenError> {
    let head = reader.state().head().seq;
    for stored in reader.records(head.saturating_sub(LOOK_BACK)..u64::MAX)? {
        if matches!(stored?.record.body, Body::Restored(_)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts one segment in the place of several small ones, as far as they fit into one.
async fn merge(
    depot: &dyn Depot,
    reader: &Arc<Reader>,
    parts: &[RangeInclusive<u64>],
) -> Result<(), PublishError> {
    let object = reader.state().head().object;
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return Ok(());
    };
    let fits = read(reader, *first.start()..=*last.end()).await?.last;
    let covered: Vec<_> = parts.iter().take_while(|part| *part.end() <= fits).collect();
    if let [_, .., until] = covered.as_slice() {
        let positions = *first.start()..=*until.end();
        let whole = read_whole(reader, positions.clone()).await?;
        depot.put_segment(object, positions, &whole.bytes).await?;
        for part in covered {
            depot.remove_segment(object, part.clone()).await?;
        }
    }
    Ok(())
}

/// The records at these positions, as many as one segment takes.
async fn read(reader: &Arc<Reader>, positions: RangeInclusive<u64>) -> Result<Segment, PublishError> {
    let from = Arc::clone(reader);
    Ok(tokio::task::spawn_blocking(move || segment(&from, positions, SEGMENT_BYTES)).await??)
}

/// All records at these positions, which are or were one segment.
async fn read_whole(reader: &Arc<Reader>, positions: RangeInclusive<u64>) -> Result<Segment, PublishError> {
    let from = Arc::clone(reader);
    Ok(tokio::task::spawn_blocking(move || segment(&from, positions, usize::MAX)).await??)
}

fn segment(reader: &Reader, positions: RangeInclusive<u64>, max_bytes: usize) -> Result<Segment, OpenError> {
    let (first, last) = positions.into_inner();
    let mut segment = Segment {
        first,
        last: first,
        bytes: Vec::new(),
        bundles: Vec::new(),
    };
    for stored in reader.records(first..last.saturating_add(1))? {
        let stored = stored?;
        let size = lineage::segment::SIZE_BYTES + stored.bytes.len();
        if !segment.bytes.is_empty() && segment.bytes.len() + size > max_bytes {
            break;
        }
        segment.last = stored.record.seq;
        lineage::segment::push(&stored, &mut segment.bytes);
        if !segment.bundles.contains(&stored.record.bundle) {
            segment.bundles.push(stored.record.bundle);
        }
    }
    Ok(segment)
}

async fn put_bundle(depot: &dyn Depot, home: &ObjectDir, id: BundleId) -> Result<(), PublishError> {
    let home = home.clone();
    let files = tokio::task::spawn_blocking(move || BundleStore::of(&home).files(&id))
        .await?
        .map_err(|error| PublishError::Bundle(id, error))?;
    let bytes = files
        .encode()
        .map_err(|error| PublishError::Encoding(id, error))?;
    Ok(depot.put_bundle(id, &bytes).await?)
}
