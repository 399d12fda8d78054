//! From a depot to a verified head: which object sleeps, by whose word, and what is not believed.
//!
//! An object sleeps where its announcement holds and the mark names the same head; where the mark is ahead, it is awake,
//! or its announcement is late, and the object itself answers. Everything else is refused with what is wrong. Reads
//! only. Called by the door for each object whose entry is older than it may be.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use suijuris_core::bundle::{self, Bundle, Files};
use suijuris_core::lineage::{
    self, Announcement, AnnouncementError, Body, ChainError, CheckpointError, Phase, State, Stored,
};
use suijuris_core::memory::Schema;
use suijuris_core::witness::Mark;
use suijuris_core::{BundleId, ObjectId, RecordId};
use suijuris_depot::Depot;

use crate::pack::Known;

/// Records verified before other tasks get their turn.
const TURN: usize = 64;

/// Newest segments that are looked through for a restore.
const RESTORED_IN: usize = 2;

/// On whose word a head is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// The witness's mark names it: whoever may write marks is believed.
    #[default]
    Mark,
    /// The whole chain in the depot leads to it, each record verified: nobody is believed.
    Chain,
}

/// Why an object cannot be decided for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The depot.
    #[error("the depot did not say what is known of the object")]
    Depot(#[from] suijuris_depot::Error),
    /// It took too long.
    #[error("the depot did not answer in time")]
    Slow,
    /// Forged, truncated, or of another format.
    #[error("the object's announcement is not trusted")]
    Announcement(#[from] AnnouncementError),
    /// The depot lacks its bundle.
    #[error("the depot has no bundle {0}, which the object carries; publish it again")]
    NoBundle(BundleId),
    /// The bundle in the depot is another.
    #[error("the object's bundle in the depot cannot be used")]
    Bundle(#[from] bundle::Error),
    /// What stands in its place belongs to another object.
    #[error("what the depot has for the object belongs to {0}")]
    Foreign(ObjectId),
    /// There is an announcement, but no mark.
    #[error("no witness knows the object that is announced; start it once with this depot")]
    Unwitnessed,
    /// The mark names another record at the position announced.
    #[error("record {seq} is announced as {announced} and witnessed as {witnessed}: two histories")]
    TwoHistories {
        /// Position of both.
        seq: u64,
        /// The record announced.
        announced: RecordId,
        /// The record that the mark names.
        witnessed: RecordId,
    },
    /// The announcement is newer than the mark.
    #[error("record {announced} is announced, and the witness knows no more than record {witnessed}")]
    Ahead {
        /// Position announced.
        announced: u64,
        /// Position that the mark names.
        witnessed: u64,
    },
    /// The mark is older than what was seen before.
    #[error("the witness knows record {found}, after it had known record {known}: it was set back")]
    Older {
        /// Position seen before.
        known: u64,
        /// Position now.
        found: u64,
    },
    /// A segment cannot be read.
    #[error("the object's chain in the depot cannot be read")]
    Segment(#[from] lineage::segment::SegmentError),
    /// A record does not follow from those before.
    #[error("the object's chain in the depot is not valid")]
    Chain(#[from] ChainError),
    /// Records are missing.
    #[error("the object's chain in the depot has no record {0}")]
    Gap(u64),
    /// The chain leads elsewhere.
    #[error("the object's chain in the depot does not lead to the head that is announced")]
    Elsewhere,
}

impl Error {
    /// The word used in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Depot(suijuris_depot::Error::Garbage { .. }) => "garbage",
            Self::Depot(_) | Self::Slow => "depot",
            Self::Announcement(_) => "disbelief",
            Self::NoBundle(_) => "no_bundle",
            Self::Bundle(_) => "bundle",
            Self::Foreign(_) => "foreign",
            Self::Unwitnessed => "unwitnessed",
            Self::TwoHistories { .. } => "two_histories",
            Self::Ahead { .. } => "ahead",
            Self::Older { .. } => "older",
            Self::Segment(_) | Self::Chain(_) | Self::Gap(_) | Self::Elsewhere => "chain",
        }
    }

    /// The depot, and not what it holds, is why: what was known before may still be used for a while.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        match self {
            Self::Depot(error) => error.is_retryable(),
            Self::Slow => true,
            _ => false,
        }
    }

    /// The error with its causes, in one line.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// What a depot says of an object.
#[derive(Debug)]
pub enum Found {
    /// Neither mark nor announcement.
    Nothing,
    /// The mark still names the head that is known.
    Same,
    /// It is awake, or has not announced yet.
    Awake(Mark),
    /// It rests, verified.
    Asleep(Box<State>, Arc<Bundle>),
}

/// Reads what `depot` says of `object`, of which `before` was known. `at_hand` yields bundles that need not be read.
///
/// # Errors
/// [`Error`]; nothing that is wrong is ever taken for another object or for an earlier time of this one.
pub async fn find(
    depot: &dyn Depot,
    object: ObjectId,
    before: Option<&Known>,
    trust: Trust,
    at_hand: impl Fn(BundleId) -> Option<Arc<Bundle>>,
) -> Result<Found, Error> {
    let Some((mark, _)) = depot.mark(object).await? else {
        return match depot.announcement(object).await? {
            Some(_) => Err(Error::Unwitnessed),
            None => Ok(Found::Nothing),
        };
    };
    if mark.object != object {
        return Err(Error::Foreign(mark.object));
    }
    if let Some(before) = before {
        if let Err(older) = not_older(before, &mark)
            && !gave_up(depot, before, &mark).await?
        {
            return Err(older);
        }
        if before.asleep && before.head == mark.head {
            return Ok(Found::Same);
        }
    }
    let Some(bytes) = depot.announcement(object).await? else {
        return Ok(Found::Awake(mark));
    };
    let mut bundles = Bundles {
        depot,
        at_hand: &at_hand,
        read: HashMap::new(),
    };
    let (state, last) = bundles.open(&bytes).await?;
    let head = state.head();
    if head.object != object {
        return Err(Error::Foreign(head.object));
    }
    if head.seq < mark.seq || head.phase == Phase::Active {
        return Ok(Found::Awake(mark));
    }
    agrees(&state, &mark)?;
    if trust == Trust::Chain {
        verify_chain(&mut bundles, object, &last).await?;
    }
    let bundle = bundles.named(head.bundle).await?;
    Ok(Found::Asleep(Box::new(state), bundle))
}

/// A mark that goes back was set back, but where a restored copy began a later epoch.
fn not_older(before: &Known, mark: &Mark) -> Result<(), Error> {
    if mark.seq < before.seq && mark.epoch <= before.epoch {
        return Err(Error::Older {
            known: before.seq,
            found: mark.seq,
        });
    }
    Ok(())
}

/// Whether the history in the depot gave up the one that was known, by a `restored` record of its controllers.
async fn gave_up(depot: &dyn Depot, before: &Known, mark: &Mark) -> Result<bool, Error> {
    let there = depot.segments(mark.object).await?;
    let row = suijuris_depot::row(&there).map_err(Error::Gap)?;
    for positions in row.into_iter().rev().take(RESTORED_IN) {
        let Some(bytes) = depot.segment(mark.object, positions).await? else {
            continue;
        };
        for stored in lineage::segment::decode(&bytes) {
            let record = stored?.record;
            if let Body::Restored(body) = &record.body
                && body.seq >= before.seq
                && record.epoch >= before.epoch
                && record.seq <= mark.seq
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn agrees(state: &State, mark: &Mark) -> Result<(), Error> {
    let head = state.head();
    if head.seq > mark.seq {
        return Err(Error::Ahead {
            announced: head.seq,
            witnessed: mark.seq,
        });
    }
    if head.record != mark.head {
        return Err(Error::TwoHistories {
            seq: head.seq,
            announced: head.record,
            witnessed: mark.head,
        });
    }
    Ok(())
}

/// Bundles from the depot, each read once.
struct Bundles<'a, F> {
    depot: &'a dyn Depot,
    at_hand: &'a F,
    read: HashMap<BundleId, Arc<Bundle>>,
}

impl<F: Fn(BundleId) -> Option<Arc<Bundle>>> Bundles<'_, F> {
    async fn named(&mut self, id: BundleId) -> Result<Arc<Bundle>, Error> {
        if let Some(bundle) = self.read.get(&id).cloned().or_else(|| (self.at_hand)(id)) {
            return Ok(bundle);
        }
        let bytes = self.depot.bundle(id).await?.ok_or(Error::NoBundle(id))?;
        let bundle = Arc::new(Files::open_named(id, &bytes)?);
        self.read.insert(id, Arc::clone(&bundle));
        Ok(bundle)
    }

    fn schema(&self, id: &BundleId) -> Option<Arc<Schema>> {
        let bundle = self.read.get(id).cloned().or_else(|| (self.at_hand)(*id));
        bundle.map(|bundle| Arc::clone(bundle.schema()))
    }

    /// Opens an announcement; its bundle is read as soon as it is named.
    async fn open(&mut self, bytes: &[u8]) -> Result<(State, Stored), Error> {
        match self.open_with_these(bytes) {
            (Err(AnnouncementError::Checkpoint(CheckpointError::NoBundle)), Some(id)) => {
                self.named(id).await?;
                Ok(self.open_with_these(bytes).0?)
            }
            (opened, _) => Ok(opened?),
        }
    }

    /// Opens an announcement with the bundles at hand, and says which one it names.
    fn open_with_these(
        &self,
        bytes: &[u8],
    ) -> (Result<(State, Stored), AnnouncementError>, Option<BundleId>) {
        let named = std::cell::Cell::new(None);
        let look = |id: &BundleId| {
            named.set(Some(*id));
            self.schema(id)
        };
        let opened = Announcement::open(bytes, &look);
        (opened, named.get())
    }
}

/// Folds the chain in the depot from its first record, and holds it to `last`.
async fn verify_chain<F: Fn(BundleId) -> Option<Arc<Bundle>>>(
    bundles: &mut Bundles<'_, F>,
    object: ObjectId,
    last: &Stored,
) -> Result<(), Error> {
    let mut state: Option<State> = None;
    let there = bundles.depot.segments(object).await?;
    for positions in suijuris_depot::row(&there).map_err(Error::Gap)? {
        let next = state.as_ref().map_or(0, |state| state.head().seq + 1);
        let bytes = bundles.depot.segment(object, positions.clone()).await?;
        let bytes = bytes.ok_or(Error::Gap(next))?;
        for (count, stored) in lineage::segment::decode(&bytes).enumerate() {
            let stored = stored?;
            bundles.named(stored.record.bundle).await?;
            let schemas = |id: &BundleId| bundles.schema(id);
            match &mut state {
                Some(state) => state.apply(&stored, &schemas)?,
                None => state = Some(State::begin(&stored, &schemas)?),
            }
            if count % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        if state.as_ref().map(|state| state.head().seq) != Some(*positions.end()) {
            return Err(Error::Gap(*positions.end()));
        }
    }
    match state {
        Some(state) if state.head().object == object && state.head().record == last.id => Ok(()),
        _ => Err(Error::Elsewhere),
    }
}
