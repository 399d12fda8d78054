//! The table of sleeping objects: verified heads, packed, beside the bundles that they share; and the decisions over it.
//!
//! An object's entry is some hundred bytes. Shards keep locks short and spread the cost of growing. Nothing here asks
//! the depot: how old an entry may be is the caller's affair. Called by the door, and by whoever embeds it.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{self, Refused};
use suijuris_core::governance::{Action, RuleSet};
use suijuris_core::inputs::Inputs;
use suijuris_core::lineage::{Decision, State};
use suijuris_core::memory::Cells;
use suijuris_core::time::{Ratchet, Reading, Timestamp};
use suijuris_core::{BundleId, ObjectId, RecordId};

pub use crate::pack::Known;
pub use crate::prepared::PrepareError;

use crate::deciding;
use crate::pack::Packed;
use crate::prepared::{self, PreparedBundle};

/// Parts of the table, each with its own lock.
const SHARDS: usize = 64;

/// Why an object is not taken in. It can still be decided for, from its state.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Its bundle cannot be decided with.
    #[error("the object's bundle cannot be used")]
    Bundle(#[from] PrepareError),
    /// The table holds as much as it may.
    #[error("the door holds {0} bytes of sleeping objects and bundles already; give it more memory")]
    Full(usize),
}

/// What the rules say of a proposal, without the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuickDecision {
    /// `wake` is permitted by these rules, and so is `admit` where a request asks.
    Permit(RuleSet),
    /// This action is refused.
    Refuse(Action, Refused),
    /// Awake when last looked at: the object decides.
    Awake,
    /// Nothing is known of it.
    Unknown,
}

thread_local! {
    /// Cells of the object that was decided for last: to make and drop ten values costs more than to decide.
    static SCRATCH: Cell<Option<Cells>> = const { Cell::new(None) };
}

/// Sleeping objects.
#[derive(Debug)]
pub struct Sleepers {
    shards: Box<[RwLock<HashTable<Packed>>]>,
    bundles: RwLock<Bundles>,
    seeds: [u64; 2],
    count: AtomicUsize,
    bytes: AtomicUsize,
    max_bytes: usize,
}

/// Bundles in use, by the number that stands for them.
#[derive(Debug, Default)]
struct Bundles {
    prepared: Vec<Option<Shared>>,
    free: Vec<usize>,
    by_id: std::collections::HashMap<BundleId, usize>,
}

#[derive(Debug)]
struct Shared {
    prepared: Arc<PreparedBundle>,
    objects: usize,
    bytes: usize,
}

impl Bundles {
    fn at(&self, index: u32) -> Option<&Shared> {
        self.prepared.get(usize::try_from(index).ok()?)?.as_ref()
    }
}

/// What a bundle takes in memory, about: its text, its rules as listed and as linked, its schema.
fn bundle_bytes(bundle: &Bundle) -> usize {
    let program = bundle.rules.program.encode().map_or(0, |bytes| bytes.len());
    let manifest = bundle.manifest.encode().map_or(0, |bytes| bytes.len());
    bundle.governance.len() + 8 * program + 4 * manifest
}

/// Ids are digests already: 16 bytes of one, folded with numbers that nobody outside knows, so that no ids can be made
/// that meet in one place.
fn hash(seeds: [u64; 2], key: &[u8]) -> u64 {
    let word = |from: usize| {
        let bytes = key.get(from..from + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let [one, other] = seeds;
    let product = u128::from(word(0) ^ one) * u128::from(word(8) ^ other);
    let bytes = product.to_le_bytes();
    let (low, high) = bytes.split_at(8);
    let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    half(low) ^ half(high)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Sleepers {
    /// An empty table that holds `max_bytes` of objects and bundles at most.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            bundles: RwLock::default(),
            seeds: [0, 1].map(|n: u64| RandomState::new().hash_one(n)),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            max_bytes,
        }
    }

    /// Objects in the table, awake ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of packed objects and, about, of bundles.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bundles in use.
    #[must_use]
    pub fn bundles(&self) -> usize {
        read(&self.bundles).by_id.len()
    }

    /// The bundle with this id, where some object in the table carries it.
    #[must_use]
    pub fn bundle(&self, id: BundleId) -> Option<Arc<Bundle>> {
        let bundles = read(&self.bundles);
        let index = bundles.by_id.get(&id)?;
        let shared = bundles.prepared.get(*index)?.as_ref()?;
        Some(Arc::clone(shared.prepared.bundle()))
    }

    fn shard(&self, key: &[u8]) -> Option<(&RwLock<HashTable<Packed>>, u64)> {
        let hash = hash(self.seeds, key);
        // The table within uses the top and the bottom bits.
        let index = usize::try_from(hash >> 24).unwrap_or_default() % self.shards.len().max(1);
        Some((self.shards.get(index)?, hash))
    }

    /// Takes in an object at rest, verified; its mark was seen at `checked`.
    ///
    /// # Errors
    /// [`KeepError`]; what was known of it before is forgotten then.
    pub fn keep(
        &self,
        state: &State,
        bundle: &Arc<Bundle>,
        now: Timestamp,
        checked: u32,
    ) -> Result<Known, KeepError> {
        let object = state.head().object;
        self.forget(object);
        let (prepared, index) = self.enter(bundle)?;
        let due = prepared::due(&prepared.pending(&state.head().fired, state.head().born, now));
        let packed = Packed::of(state, &prepared, index, due, checked);
        if self.bytes().saturating_add(packed.len()) > self.max_bytes {
            self.leave(index);
            return Err(KeepError::Full(self.bytes()));
        }
        let known = packed.known();
        self.insert(packed);
        known.ok_or(KeepError::Full(self.bytes()))
    }

    /// Notes that an object is awake, with the newest position and epoch that its mark names.
    pub fn awake(&self, object: ObjectId, head: RecordId, seq: u64, epoch: u64, checked: u32) {
        self.forget(object);
        let packed = Packed::awake(object, head, seq, epoch, checked);
        if self.bytes().saturating_add(packed.len()) <= self.max_bytes {
            self.insert(packed);
        }
    }

    fn insert(&self, packed: Packed) {
        let Some((shard, hash)) = self.shard(packed.key()) else {
            return;
        };
        self.bytes.fetch_add(packed.len(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        let before = {
            let mut table = write(shard);
            let before = table
                .find_entry(hash, |have| have.key() == packed.key())
                .ok()
                .map(|entry| entry.remove().0);
            table.insert_unique(hash, packed, |have| self::hash(self.seeds, have.key()));
            before
        };
        before.iter().for_each(|gone| self.account_for(gone));
    }

    /// Forgets an object.
    pub fn forget(&self, object: ObjectId) {
        let key = &object.digest().0[..];
        let Some((shard, hash)) = self.shard(key) else {
            return;
        };
        let gone = write(shard)
            .find_entry(hash, |have| have.key() == key)
            .ok()
            .map(|entry| entry.remove().0);
        gone.iter().for_each(|gone| self.account_for(gone));
    }

    /// Takes a removed entry out of the counts, and its bundle where it was the last of it.
    fn account_for(&self, gone: &Packed) {
        self.bytes.fetch_sub(gone.len(), Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(known) = gone.known().filter(|known| known.asleep) {
            self.leave(known.bundle);
        }
    }

    /// One more object of this bundle, and the number that stands for it.
    fn enter(&self, bundle: &Arc<Bundle>) -> Result<(Arc<PreparedBundle>, u32), KeepError> {
        let mut bundles = write(&self.bundles);
        if let Some(index) = bundles.by_id.get(&bundle.id()).copied()
            && let Some(Some(shared)) = bundles.prepared.get_mut(index)
            && let Ok(number) = u32::try_from(index)
        {
            shared.objects += 1;
            return Ok((Arc::clone(&shared.prepared), number));
        }
        let bytes = bundle_bytes(bundle);
        let full = KeepError::Full(self.bytes());
        if self.bytes().saturating_add(bytes) > self.max_bytes {
            return Err(full);
        }
        let index = bundles.free.last().copied().unwrap_or(bundles.prepared.len());
        let Some(number) = u32::try_from(index).ok().filter(|number| *number < u32::MAX) else {
            return Err(full);
        };
        let prepared = Arc::new(PreparedBundle::new(Arc::clone(bundle))?);
        let shared = Some(Shared {
            prepared: Arc::clone(&prepared),
            objects: 1,
            bytes,
        });
        match bundles.prepared.get_mut(index) {
            Some(place) => *place = shared,
            None => bundles.prepared.push(shared),
        }
        bundles.free.retain(|free| *free != index);
        bundles.by_id.insert(bundle.id(), index);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok((prepared, number))
    }

    /// One object less of this bundle.
    fn leave(&self, index: u32) {
        let mut bundles = write(&self.bundles);
        let Ok(place) = usize::try_from(index) else { return };
        let Some(slot) = bundles.prepared.get_mut(place) else {
            return;
        };
        let Some(shared) = slot else { return };
        shared.objects = shared.objects.saturating_sub(1);
        if shared.objects == 0 {
            let (id, bytes) = (shared.prepared.bundle().id(), shared.bytes);
            *slot = None;
            bundles.by_id.remove(&id);
            bundles.free.push(place);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Runs `look` on an entry, with its bundle where it sleeps.
    fn with<R>(
        &self,
        object: ObjectId,
        look: impl FnOnce(&Packed, Known, Option<&PreparedBundle>) -> R,
    ) -> Option<R> {
        let key = &object.digest().0[..];
        let (shard, hash) = self.shard(key)?;
        // Always the shard before the bundles, and never a shard while bundles are written.
        let table = read(shard);
        let packed = table.find(hash, |have| have.key() == key)?;
        let known = packed.known()?;
        if !known.asleep {
            return Some(look(packed, known, None));
        }
        let bundles = read(&self.bundles);
        let prepared = bundles.at(known.bundle).map(|shared| &*shared.prepared);
        Some(look(packed, known, prepared))
    }

    /// What is known of an object.
    #[must_use]
    pub fn known(&self, object: ObjectId) -> Option<Known> {
        self.with(object, |_, known, _| known)
    }

    /// Notes that the mark of an object was seen unchanged.
    pub fn touch(&self, object: ObjectId, checked: u32) {
        let key = &object.digest().0[..];
        if let Some((shard, hash)) = self.shard(key)
            && let Some(packed) = write(shard).find_mut(hash, |have| have.key() == key)
        {
            packed.touch(checked);
        }
    }

    /// Weighs `wake`, and for a request `admit` as well. The time in `inputs` is set: what `reading` says, but never
    /// before the object's last record.
    pub fn evaluate_quick(&self, object: ObjectId, inputs: &mut Inputs, reading: Reading) -> QuickDecision {
        let quick = self.with(object, |packed, known, prepared| {
            if !known.asleep {
                return Some(QuickDecision::Awake);
            }
            let prepared = prepared?;
            let unpacked = packed.unpack(&known, prepared, SCRATCH.take())?;
            inputs.now = Ratchet::new(unpacked.at).observe(reading);
            let id = if prepared.identity() {
                object.to_string()
            } else {
                String::new()
            };
            let quick = decide::evaluate_quick(&unpacked.subject(prepared), &id, inputs);
            SCRATCH.set(Some(unpacked.into_cells()));
            Some(match quick {
                Ok(rules) => QuickDecision::Permit(rules),
                Err((action, refused)) => QuickDecision::Refuse(action, refused),
            })
        });
        quick.flatten().unwrap_or(QuickDecision::Unknown)
    }

    /// The decision of [`Sleepers::evaluate_quick`] in words: of `wake`, or of `admit` where `wake` is permitted and a request
    /// asks. `inputs` are those of the quick decision.
    #[must_use]
    pub fn evaluate(&self, object: ObjectId, inputs: &Inputs) -> Option<Decision> {
        let decision = self.with(object, |packed, known, prepared| {
            let prepared = prepared?;
            let unpacked = packed.unpack(&known, prepared, None)?;
            Some(deciding::evaluate(unpacked.subject(prepared), inputs.clone()))
        });
        decision.flatten()
    }

    /// Runs `look` on the bundle of a sleeping object, and the time of its last record.
    pub(crate) fn with_prepared<R>(
        &self,
        object: ObjectId,
        look: impl FnOnce(&PreparedBundle, Timestamp) -> R,
    ) -> Option<R> {
        self.with(object, |packed, _, prepared| {
            Some(look(prepared?, packed.last()?))
        })
        .flatten()
    }

    /// Objects that are asleep, and those that are awake, counted by a walk over the table.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            for packed in read(shard).iter() {
                match packed.known() {
                    Some(known) if known.asleep => counts.asleep += 1,
                    _ => counts.awake += 1,
                }
            }
        }
        counts
    }
}

/// Numbers of objects by what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sleeping.
    pub asleep: usize,
    /// Awake when last looked at.
    pub awake: usize,
}
