//! The fold of a chain.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::body::{Body, Fired, Inception};
use super::checks::{self, ChainError, Fault};
use super::record::{Record, Stored, VERSION};
use crate::class::{Instantiation, Membership};
use crate::id::{BundleId, Digest, ObjectId, RecordId};
use crate::inputs::WorkloadEnd;
use crate::key::{PublicKey, SecretKey};
use crate::memory::{Cell, Changed, Memory, Schema};
use crate::time::{Span, Timestamp};

/// Where a state finds the memory schema of a bundle.
pub trait Bundles {
    /// The schema of bundle `id`, if it is at hand.
    fn schema(&self, id: &BundleId) -> Option<Arc<Schema>>;
}

impl<F: Fn(&BundleId) -> Option<Arc<Schema>>> Bundles for F {
    fn schema(&self, id: &BundleId) -> Option<Arc<Schema>> {
        self(id)
    }
}

/// Phase of life, as lineage knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Asleep, or not yet woken.
    Dormant,
    /// An activation has begun and not ended; after a crash nobody may be running.
    Active,
    /// Left for another host.
    Departed,
    /// Shut away until its controllers decide.
    Quarantined,
    /// At its end.
    Terminated,
}

impl Phase {
    /// Whether nothing is to be recorded any more but what leads out of it: behind an end nothing follows, and behind a
    /// departure whoever arrives goes on.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Departed | Self::Terminated)
    }

    /// The word used in messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dormant => "dormant",
            Self::Active => "active",
            Self::Departed => "departed",
            Self::Quarantined => "quarantined",
            Self::Terminated => "terminated",
        }
    }
}

/// Everything a chain yields but memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The object.
    pub object: ObjectId,
    /// Name for people.
    pub name: String,
    /// The last record.
    pub record: RecordId,
    /// Its position.
    pub seq: u64,
    /// Activations so far.
    pub epoch: u64,
    /// Time of the last record.
    pub at: Timestamp,
    /// Phase of life.
    pub phase: Phase,
    /// Which instance of which class it is, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Membership>,
    /// Rules in force.
    pub bundle: BundleId,
    /// The record that put them in force: the inception, or the last `amended`.
    pub ruled_since: RecordId,
    /// Owners.
    pub controllers: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
    /// Commitment to the next epoch's key.
    pub next: Digest,
    /// Key of the running epoch.
    pub key: Option<PublicKey>,
    /// Position of the last signed record.
    pub sealed: u64,
    /// The last activation ended without the object's own act.
    pub unsealed: bool,
    /// Time of inception.
    pub born: Timestamp,
    /// Time of the last `woke` or `resumed`.
    pub last_woke: Option<Timestamp>,
    /// Time of the last `dormant`.
    pub last_dormant: Option<Timestamp>,
    /// Refusals recorded so far, counted ones included.
    pub refused: u64,
    /// Time awake in activations that ended, by the times of their records; of one that was cut off, up to its last record.
    pub awake: Span,
    /// Activations in a row that were cut off, or whose workload crashed or never became ready.
    pub crashes: u64,
    /// Latest occurrence dealt with, by timer.
    pub fired: Fired,
}

impl Head {
    pub(super) fn born(record: &Record, id: RecordId, body: &Inception) -> Self {
        Self {
            object: id.into(),
            name: body.name.clone(),
            record: id,
            seq: 0,
            epoch: 0,
            at: record.at,
            phase: Phase::Dormant,
            class: body.class.as_ref().map(Instantiation::membership),
            bundle: record.bundle,
            ruled_since: id,
            controllers: body.controllers.clone(),
            threshold: body.threshold,
            next: body.next,
            key: None,
            sealed: 0,
            unsealed: false,
            born: record.at,
            last_woke: None,
            last_dormant: None,
            refused: 0,
            awake: Span(0),
            crashes: 0,
            fired: Fired::new(),
        }
    }

    fn check(&self, record: &Record) -> Result<(), Fault> {
        checks::version(record)?;
        checks::object(record, self)?;
        checks::seq(record, self)?;
        checks::prev(record, self)?;
        checks::epoch(record, self)?;
        checks::time(record, self)?;
        checks::phase(&record.body, self.phase)?;
        checks::bundle(record, self)?;
        checks::key(record, self)?;
        checks::approvals(record, self)
    }

    fn advance(&mut self, id: RecordId, record: &Record) {
        self.count_awake(record);
        self.record = id;
        self.seq = record.seq;
        self.epoch = record.epoch;
        self.at = record.at;
        self.bundle = record.bundle;
        if record.sig.is_some() {
            self.sealed = record.seq;
        }
        if let Some(fired) = record.body.fired() {
            self.fired
                .extend(fired.iter().map(|(name, at)| (name.clone(), *at)));
        }
        match &record.body {
            Body::Woke(body) => self.activate(record, body.next),
            Body::Resumed(body) => self.activate(record, body.next),
            Body::Dormant(body) => {
                self.end(Phase::Dormant);
                self.unsealed = false;
                let end = body.decision.inputs.conditions.workload;
                self.crashes = match end.is_some_and(WorkloadEnd::is_crash) {
                    true => self.crashes.saturating_add(1),
                    false => 0,
                };
                self.last_dormant = Some(record.at);
            }
            Body::Unsealed(_) => {
                self.end(Phase::Dormant);
                self.unsealed = true;
                self.crashes = self.crashes.saturating_add(1);
            }
            Body::Departed(_) => self.end(Phase::Departed),
            Body::Arrived(_) | Body::Restored(_) => self.end(Phase::Dormant),
            Body::Quarantined(_) => self.end(Phase::Quarantined),
            Body::Terminated(_) => self.end(Phase::Terminated),
            Body::Refused(body) => self.refused = self.refused.saturating_add(body.times),
            Body::Amended(_) => self.ruled_since = id,
            Body::Inception(_) | Body::Mutated(_) | Body::Seal(_) | Body::Forked(_) => {}
        }
    }

    /// Adds the activation that `record` ends, or begins again. Nobody knows when one that was cut off ended: its last
    /// record was made while it was awake. A pause that nobody announced does not count.
    fn count_awake(&mut self, record: &Record) {
        let Some(since) = self.awake_since() else { return };
        let until = match &record.body {
            Body::Unsealed(_) | Body::Quarantined(_) => self.at,
            Body::Resumed(body) => Timestamp(record.at.0.saturating_sub(body.paused.0.max(0))),
            Body::Dormant(_) | Body::Terminated(_) => record.at,
            _ => return,
        };
        self.awake = Span(self.awake.0.saturating_add(until.since(since).0.max(0)));
    }

    /// Since when the running activation is awake, where one runs.
    #[must_use]
    pub fn awake_since(&self) -> Option<Timestamp> {
        self.last_woke.filter(|_| self.phase == Phase::Active)
    }

    /// Time awake so far, at `now`.
    #[must_use]
    pub fn awake_at(&self, now: Timestamp) -> Span {
        let running = self.awake_since().map_or(0, |since| now.since(since).0.max(0));
        Span(self.awake.0.saturating_add(running))
    }

    fn activate(&mut self, record: &Record, next: Digest) {
        self.phase = Phase::Active;
        self.key = record.key;
        self.next = next;
        self.last_woke = Some(record.at);
    }

    fn end(&mut self, phase: Phase) {
        self.phase = phase;
        self.key = None;
    }

    /// Content of an approval to amend the rules in force to `to`.
    #[must_use]
    pub fn amendment(&self, to: &BundleId) -> Digest {
        checks::amendment(&self.ruled_since, to)
    }

    /// Records since the last signed one.
    #[must_use]
    pub const fn uncovered(&self) -> u64 {
        self.seq.saturating_sub(self.sealed)
    }
}

/// What a record replaced in memory, so that a record which turns out too long leaves nothing behind.
enum Before {
    Same,
    Cells(Vec<(usize, Cell)>),
    All(Box<Memory>),
}

/// What records changed in the state that made them, for another copy of it to follow without folding them again.
/// Only a state yields one, so that none exists of records that were not checked.
#[derive(Debug)]
pub struct Advance {
    head: Head,
    memory: Changed,
}

impl Advance {
    /// Position of the last record.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.head.seq
    }
}

/// A verified chain: its head and its memory.
#[derive(Debug, Clone)]
pub struct State {
    head: Head,
    memory: Memory,
}

impl State {
    /// Creates an object: makes the inception record, signed by the key of the first epoch.
    ///
    /// # Errors
    /// [`ChainError`] where the inception is not sound (controllers, threshold, commitment to `signer`).
    pub fn create(
        body: Inception,
        at: Timestamp,
        bundle: BundleId,
        schema: Arc<Schema>,
        signer: &SecretKey,
    ) -> Result<(Self, Stored), ChainError> {
        let memory = Memory::new(schema);
        let record = Record {
            v: VERSION,
            object: None,
            seq: 0,
            prev: None,
            epoch: 0,
            at,
            body: Body::Inception(Box::new(body)),
            memory: memory.root(),
            bundle,
            key: None,
            sig: None,
        };
        let broken = |fault| ChainError { seq: 0, fault };
        let stored = record.store(Some(signer)).map_err(|error| broken(error.into()))?;
        let head = checks::inception(&stored.record, stored.id).map_err(broken)?;
        Ok((Self { head, memory }, stored))
    }

    /// Begins the fold with a read inception record.
    ///
    /// # Errors
    /// [`ChainError`] with the first check that fails.
    pub fn begin(first: &Stored, bundles: &impl Bundles) -> Result<Self, ChainError> {
        let record = &first.record;
        let begin = || {
            checks::version(record)?;
            let head = checks::inception(record, first.id)?;
            checks::signature(record)?;
            let schema = bundles
                .schema(&record.bundle)
                .ok_or(Fault::NoBundle(record.bundle))?;
            let memory = Memory::new(schema);
            if memory.root() == record.memory {
                Ok(Self { head, memory })
            } else {
                Err(Fault::Memory)
            }
        };
        begin().map_err(|fault| ChainError {
            seq: record.seq,
            fault,
        })
    }

    /// The state that a checkpoint stored; the caller has verified it.
    pub(super) const fn restored(head: Head, memory: Memory) -> Self {
        Self { head, memory }
    }

    /// The head.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Memory.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes one read record into the fold.
    ///
    /// # Errors
    /// [`ChainError`] with the first check that fails. The state is then of no further use: drop it.
    pub fn apply(&mut self, next: &Stored, bundles: &impl Bundles) -> Result<(), ChainError> {
        let record = &next.record;
        self.take(next, bundles).map_err(|fault| ChainError {
            seq: record.seq,
            fault,
        })
    }

    /// What records changed since this was last asked; everything, if it never was.
    pub fn advance(&mut self) -> Advance {
        Advance {
            head: self.head.clone(),
            memory: self.memory.changed(),
        }
    }

    /// Becomes the state that yielded `advance`: this one is a copy of it, and has followed all its advances so far.
    pub fn follow(&mut self, advance: Advance) {
        self.head = advance.head;
        self.memory.follow(advance.memory);
    }

    fn take(&mut self, next: &Stored, bundles: &impl Bundles) -> Result<(), Fault> {
        self.head.check(&next.record)?;
        checks::signature(&next.record)?;
        self.change_memory(&next.record.body, &next.record.bundle, next.record.at, bundles)?;
        if self.memory.root() != next.record.memory {
            return Err(Fault::Memory);
        }
        self.head.advance(next.id, &next.record);
        Ok(())
    }

    fn change_memory(
        &mut self,
        body: &Body,
        bundle: &BundleId,
        at: Timestamp,
        bundles: &impl Bundles,
    ) -> Result<Before, Fault> {
        match body {
            Body::Mutated(mutated) => self
                .memory
                .replace(&mutated.change, at)
                .map(Before::Cells)
                .map_err(Fault::Change),
            Body::Amended(_) => {
                // The amended memory has no account of changes yet: the next advance carries all of it.
                let schema = bundles.schema(bundle).ok_or(Fault::NoBundle(*bundle))?;
                let amended = self.memory.amended(schema);
                let before = std::mem::replace(&mut self.memory, amended);
                Ok(Before::All(Box::new(before)))
            }
            _ => Ok(Before::Same),
        }
    }

    /// Makes the next record and takes it into the fold: `bundle` only for an amendment, otherwise the rules in
    /// force. A record without signer must be one that a later signed record covers.
    ///
    /// # Errors
    /// [`ChainError`] with the first check that fails; the state is then unchanged.
    pub fn extend(
        &mut self,
        body: Body,
        at: Timestamp,
        bundle: Option<BundleId>,
        signer: Option<&SecretKey>,
        bundles: &impl Bundles,
    ) -> Result<Stored, ChainError> {
        let mut record = Record {
            v: VERSION,
            object: Some(self.head.object),
            seq: self.head.seq.saturating_add(1),
            prev: Some(self.head.record),
            epoch: checks::next_epoch(&body, &self.head),
            at: at.max(self.head.at),
            body,
            memory: self.memory.root(),
            bundle: bundle.unwrap_or(self.head.bundle),
            key: signer.map(SecretKey::public),
            sig: None,
        };
        match self.make(&mut record, signer, bundles) {
            Ok((id, bytes)) => Ok(Stored { id, bytes, record }),
            Err(fault) => Err(ChainError {
                seq: record.seq,
                fault,
            }),
        }
    }

    fn make(
        &mut self,
        record: &mut Record,
        signer: Option<&SecretKey>,
        bundles: &impl Bundles,
    ) -> Result<(RecordId, Vec<u8>), Fault> {
        self.head.check(record)?;
        let before = self.change_memory(&record.body, &record.bundle, record.at, bundles)?;
        record.memory = self.memory.root();
        match record.finish(signer) {
            Ok(bytes) => {
                let id = RecordId::of(&bytes);
                self.head.advance(id, record);
                Ok((id, bytes))
            }
            Err(error) => {
                match before {
                    Before::Same => {}
                    Before::Cells(cells) => self.memory.put_back(cells),
                    Before::All(memory) => self.memory = *memory,
                }
                Err(error.into())
            }
        }
    }
}
