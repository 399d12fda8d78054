//! One link of the chain: its fields, bytes and signature.

use serde::{Deserialize, Serialize};

use super::body::Body;
use crate::codec;
use crate::id::{BundleId, ObjectId, RecordId};
use crate::key::{Domain, PublicKey, SecretKey, Signature};
use crate::memory::tree::Root;
use crate::time::Timestamp;

/// Version of the record format.
pub const VERSION: u32 = 1;

/// Size of an encoded record at most, bytes: a field of 1 MiB and room for the rest.
pub const MAX_BYTES: usize = 2 << 20;

/// A lineage record. Its fields stand in the order of their encoding, so that writing one sorts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`VERSION`].
    pub v: u32,
    /// When; never earlier than the record before.
    pub at: Timestamp,
    /// The key that signed; absent where a later signed record covers this one.
    pub key: Option<PublicKey>,
    /// Position in the chain; inception is 0.
    pub seq: u64,
    /// Signature over the record without this field.
    pub sig: Option<Signature>,
    /// What happened.
    pub body: Body,
    /// The record before, as stored; absent in the inception record.
    pub prev: Option<RecordId>,
    /// The activation it belongs to; 0 before the first wake.
    pub epoch: u64,
    /// Rules in force after this record.
    pub bundle: BundleId,
    /// Memory root after this record.
    pub memory: Root,
    /// The object; absent in the inception record, whose CID it is.
    pub object: Option<ObjectId>,
}

/// What a signature is over: the record without it.
#[derive(Serialize)]
struct Unsigned<'r> {
    v: u32,
    at: Timestamp,
    key: Option<PublicKey>,
    seq: u64,
    sig: (),
    body: &'r Body,
    prev: Option<RecordId>,
    epoch: u64,
    bundle: BundleId,
    memory: Root,
    object: Option<ObjectId>,
}

/// A record with its bytes and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// CID of `bytes`.
    pub id: RecordId,
    /// Canonical bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub record: Record,
}

impl Record {
    fn signed_bytes(&self) -> Result<Vec<u8>, codec::Error> {
        let Self {
            v,
            at,
            key,
            seq,
            sig: _,
            ref body,
            prev,
            epoch,
            bundle,
            memory,
            object,
        } = *self;
        codec::encode(&Unsigned {
            v,
            at,
            key,
            seq,
            sig: (),
            body,
            prev,
            epoch,
            bundle,
            memory,
            object,
        })
    }

    /// The stored form, signed where a key is given.
    ///
    /// # Errors
    /// As [`codec::encode`]; [`codec::Error::TooLong`] above [`MAX_BYTES`].
    pub fn store(mut self, signer: Option<&SecretKey>) -> Result<Stored, codec::Error> {
        let bytes = self.finish(signer)?;
        Ok(Stored {
            id: RecordId::of(&bytes),
            bytes,
            record: self,
        })
    }

    /// Signs where a key is given, and yields the bytes. In place: a record is large, and moving it costs.
    pub(super) fn finish(&mut self, signer: Option<&SecretKey>) -> Result<Vec<u8>, codec::Error> {
        self.key = signer.map(SecretKey::public);
        self.sig = None;
        if let Some(key) = signer {
            self.sig = Some(key.sign(Domain::Record, &self.signed_bytes()?));
        }
        let bytes = codec::encode(self)?;
        if bytes.len() > MAX_BYTES {
            return Err(codec::Error::TooLong {
                len: bytes.len(),
                max: MAX_BYTES,
            });
        }
        Ok(bytes)
    }

    /// Whether the record carries a signature and it holds.
    #[must_use]
    pub fn signature_holds(&self) -> bool {
        match (&self.key, &self.sig, self.signed_bytes()) {
            (Some(key), Some(sig), Ok(bytes)) => key.verifies(Domain::Record, &bytes, sig),
            _ => false,
        }
    }
}

impl Stored {
    /// Reads a record from its bytes. The result is well-formed; whether it continues a chain is
    /// [`super::State::apply`]'s to say.
    ///
    /// # Errors
    /// As [`codec::decode`].
    pub fn decode(bytes: Vec<u8>) -> Result<Self, codec::Error> {
        let id = RecordId::of(&bytes);
        Self::named(id, bytes)
    }

    /// As [`Stored::decode`], if `wanted` says so of the id; else nothing. Bytes that are not wanted are not read.
    ///
    /// # Errors
    /// As [`codec::decode`].
    pub fn decode_if(
        bytes: &[u8],
        wanted: impl FnOnce(&RecordId) -> bool,
    ) -> Result<Option<Self>, codec::Error> {
        let id = RecordId::of(bytes);
        if wanted(&id) {
            Self::named(id, bytes.to_vec()).map(Some)
        } else {
            Ok(None)
        }
    }

    fn named(id: RecordId, bytes: Vec<u8>) -> Result<Self, codec::Error> {
        let record = codec::decode(&bytes, MAX_BYTES)?;
        Ok(Self { id, bytes, record })
    }
}
