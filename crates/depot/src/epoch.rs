//! Which key signs for another object now, as far as a depot shows it: the chain there is verified from its first record, and
//! leads to the epoch that the mark names. For whoever is shown an identity token of that object.
//!
//! A wake commits to the key of the epoch after it, so that the chain of an object that fell asleep says what may sign for
//! it once it is awake again. Nothing of its memory comes out of here: it is answered across a relay too.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use suijuris_core::bundle::{Bundle, Files};
use suijuris_core::id::Digest;
use suijuris_core::lineage::{Body, State, segment};
use suijuris_core::memory::Schema;
use suijuris_core::{BundleId, ObjectId};

use crate::{Depot, Error};

/// Records verified before other tasks get their turn.
const TURN: usize = 64;

/// Bytes of a chain at most; what is longer is not verified for a token.
const MAX_CHAIN: usize = 256 << 20;

/// Bundles that one chain is read with at most.
const MAX_BUNDLES: usize = 1_024;

/// The epoch that an object is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Its number, as the mark has it.
    pub number: u64,
    /// Commitment to its key.
    pub key: Digest,
}

/// The epoch of `object`. None where the depot does not know the object, or has not enough of its history: it publishes
/// when it falls asleep, so that of two activations that were cut off in a row nothing is known.
pub(crate) async fn of<D: Depot + ?Sized>(depot: &D, object: ObjectId) -> Result<Option<Epoch>, Error> {
    let Some((mark, _)) = depot.mark(object).await? else {
        return Ok(None);
    };
    let garbage = |why: String| Error::Garbage {
        place: format!("the history of {object}"),
        why,
    };
    let mut chain = Chain {
        depot,
        bundles: HashMap::new(),
        state: None,
        last_key: None,
    };
    let there = depot.segments(object).await?;
    let row = crate::row(&there).map_err(|missing| garbage(format!("record {missing} is missing")))?;
    let mut read = 0;
    for positions in row {
        let bytes = depot.segment(object, positions.clone()).await?;
        let bytes = bytes.ok_or_else(|| garbage(format!("record {} is missing", positions.start())))?;
        read += bytes.len();
        if read > MAX_CHAIN {
            return Err(garbage(format!("it is longer than {MAX_CHAIN} bytes")));
        }
        chain.add(&bytes).await.map_err(|why| match why {
            Broken::Depot(error) => error,
            Broken::Chain(why) => garbage(why),
        })?;
    }
    let Some(state) = chain.state else {
        return Ok(None);
    };
    let head = state.head();
    if head.object != object || (head.seq == mark.seq && head.record != mark.head) {
        return Err(garbage("it is not the one that the mark names".to_owned()));
    }
    let key = if head.epoch == mark.epoch {
        chain.last_key
    } else if head.epoch.checked_add(1) == Some(mark.epoch) {
        Some(head.next)
    } else {
        None
    };
    let number = mark.epoch;
    Ok(key.map(|key| Epoch { number, key }))
}

enum Broken {
    Depot(Error),
    Chain(String),
}

struct Chain<'a, D: ?Sized> {
    depot: &'a D,
    bundles: HashMap<BundleId, Arc<Bundle>>,
    state: Option<State>,
    /// Commitment to the key of the last epoch that began.
    last_key: Option<Digest>,
}

impl<D: Depot + ?Sized> Chain<'_, D> {
    async fn add(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let chain = |why: &dyn std::error::Error| Broken::Chain(crate::frame::told(why));
        for (count, stored) in segment::decode(bytes).enumerate() {
            let stored = stored.map_err(|error| chain(&error))?;
            self.bundle(stored.record.bundle).await?;
            let bundles = &self.bundles;
            let schemas = |id: &BundleId| -> Option<Arc<Schema>> {
                bundles.get(id).map(|bundle| Arc::clone(bundle.schema()))
            };
            match &mut self.state {
                Some(state) => state.apply(&stored, &schemas).map_err(|error| chain(&error))?,
                None => self.state = Some(State::begin(&stored, &schemas).map_err(|error| chain(&error))?),
            }
            if matches!(stored.record.body, Body::Woke(_) | Body::Resumed(_)) {
                self.last_key = stored.record.key.map(|key| key.commitment());
            }
            if count % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn bundle(&mut self, id: BundleId) -> Result<(), Broken> {
        if self.bundles.contains_key(&id) {
            return Ok(());
        }
        if self.bundles.len() >= MAX_BUNDLES {
            return Err(Broken::Chain(format!(
                "it has more than {MAX_BUNDLES} definitions"
            )));
        }
        let bytes = self.depot.bundle(id).await.map_err(Broken::Depot)?;
        let bytes = bytes.ok_or_else(|| Broken::Chain(format!("bundle {id} is missing")))?;
        let bundle =
            Files::open_named(id, &bytes).map_err(|error| Broken::Chain(crate::frame::told(&error)))?;
        self.bundles.insert(id, Arc::new(bundle));
        Ok(())
    }
}
