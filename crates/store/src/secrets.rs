//! Values of secret fields: memory and lineage hold a salted commitment, the value itself lies here, named by it.
//!
//! A secret is durable before the record that commits to it; what no field names any more is removed by a sweep.

use std::collections::BTreeSet;
use std::io;

use serde::{Deserialize, Serialize};
use suijuris_core::codec;
use suijuris_core::id::Digest;
use suijuris_core::memory::{Field, Memory, Value};

use crate::disk;
use crate::object_dir::ObjectDir;

/// Size of a secret's file at most, bytes: the largest value a field may hold, and room for its frame.
const MAX_BYTES: usize = Field::LARGEST_MAX_BYTES as usize * 2;

/// A value and the salt that keeps its commitment from being guessed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// 32 random bytes.
    pub salt: Digest,
    /// The value.
    pub value: Value,
}

/// Why a secret cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("the secret's file cannot be used")]
    Disk(#[from] io::Error),
    /// Not the bytes of a secret.
    #[error("the secret's file cannot be read; set the field again")]
    Encoding(#[from] codec::Error),
    /// Another value than the one committed to.
    #[error(
        "the secret's file is not the one that memory commits to: it was swapped or altered; set the field again"
    )]
    Swapped,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(<redacted>)")
    }
}

impl Secret {
    /// What stands in memory for this secret: SHA-256 of `suijuris/v1/secret`, a zero byte and the canonical bytes.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn commitment(&self) -> Result<Digest, codec::Error> {
        Ok(commitment_of(&codec::encode(self)?))
    }
}

fn commitment_of(bytes: &[u8]) -> Digest {
    Digest::of_parts(&[b"suijuris/v1/secret\0", bytes])
}

impl ObjectDir {
    /// Keeps `secret` durably and returns its commitment, for the record that is then staged.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Encoding`].
    pub fn keep_secret(&self, secret: &Secret) -> Result<Digest, Error> {
        let bytes = codec::encode(secret)?;
        let commitment = commitment_of(&bytes);
        let dir = self.secrets();
        self.disk.create_dir(&dir)?;
        self.disk.sync_dir(self.path())?;
        disk::replace(&*self.disk, &dir.join(commitment.hex()), &bytes)?;
        Ok(commitment)
    }

    /// The secret that `commitment` stands for.
    ///
    /// # Errors
    /// [`Error`].
    pub fn secret(&self, commitment: &Digest) -> Result<Secret, Error> {
        let bytes = disk::read(
            &*self.disk,
            &self.secrets().join(commitment.hex()),
            MAX_BYTES as u64,
        )?;
        if commitment_of(&bytes) != *commitment {
            return Err(Error::Swapped);
        }
        Ok(codec::decode(&bytes, MAX_BYTES)?)
    }

    /// Removes secrets that no field of `memory` names; returns how many. Call it while no staged record names a new
    /// one: at opening, or after dormancy.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn sweep_secrets(&self, memory: &Memory) -> Result<usize, Error> {
        let committed = memory.iter().filter_map(|(_, _, cell)| match &cell.value {
            Some(Value::Commitment(digest)) => Some(digest.hex()),
            _ => None,
        });
        let kept: BTreeSet<String> = committed.collect();
        let dir = self.secrets();
        let there = disk::optional(self.disk.list(&dir))?.unwrap_or_default();
        let gone: Vec<_> = there.iter().filter(|name| !kept.contains(*name)).collect();
        for name in &gone {
            self.disk.remove(&dir.join(name))?;
        }
        Ok(gone.len())
    }
}
