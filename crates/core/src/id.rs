//! Identities: digests of the bytes that define a thing, written as CIDv1.
//!
//! Every id is SHA-256 over canonical bytes. As text it is base32 lower case, 59 characters, which is a valid DNS
//! label; in DAG-CBOR it is a link (tag 42). One newtype per kind, so that an object's id is never taken for a
//! record's. Not here: what the bytes are (see `lineage` and `manifest`).

use std::fmt;
use std::str::FromStr;

use ipld_core::cid::serde::CID_SERDE_PRIVATE_IDENTIFIER;
use ipld_core::cid::{Cid, multihash::Multihash};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};

const SHA2_256: u64 = 0x12;
const DAG_CBOR: u64 = 0x71;
const RAW: u64 = 0x55;

/// The state that SHA-256 begins with (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A SHA-256 digest, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several byte strings, one after the other, without joining them first.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// As [`Digest::of_parts`], quicker for short messages: one of at most `64 * BLOCKS - 9` bytes is padded on the
    /// stack and hashed in one go.
    pub(crate) fn of_short<const BLOCKS: usize>(parts: &[&[u8]]) -> Self {
        let mut blocks = [[0; 64]; BLOCKS];
        let mut len = 0;
        for part in parts {
            let Some(place) = blocks.as_flattened_mut().get_mut(len..len + part.len()) else {
                return Self::of_parts(parts);
            };
            place.copy_from_slice(part);
            len += part.len();
        }
        let Some(blocks) = blocks.get_mut(..(len + 9).div_ceil(64)) else {
            return Self::of_parts(parts);
        };
        if let Some(end) = blocks.as_flattened_mut().get_mut(len) {
            *end = 0x80;
        }
        if let Some(place) = blocks.as_flattened_mut().last_chunk_mut() {
            *place = (8 * len as u64).to_be_bytes();
        }
        let mut state = INITIAL;
        compress256(&mut state, blocks);
        let mut digest = [0; 32];
        let (words, _) = digest.as_chunks_mut();
        for (place, word) in words.iter_mut().zip(state) {
            *place = word.to_be_bytes();
        }
        Self(digest)
    }

    /// The digest as lower-case hexadecimal, 64 characters.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.hex())
        } else {
            serde_bytes::Bytes::new(&self.0).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return text.parse().map_err(serde::de::Error::custom);
        }
        let bytes = serde_bytes::ByteArray::<32>::deserialize(deserializer)?;
        Ok(Self(bytes.into_array()))
    }
}

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .filter(|_| !byte.is_ascii_uppercase())
        };
        let pair = |pair: &[u8]| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(NotADigest)
    }
}

/// Why a text or link is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a CID at all.
    #[error("not a content identifier: expected 59 characters that start with `b`")]
    NotACid,
    /// A CID of another version, codec or hash function.
    #[error("a content identifier of another kind: expected CIDv1, {0}, sha2-256")]
    OtherKind(&'static str),
    /// The right CID, written in another base or letter case.
    #[error("not in canonical form: ids are written in lower-case base32")]
    NotCanonical,
}

fn to_cid(codec: u64, digest: &Digest) -> Option<Cid> {
    Multihash::<64>::wrap(SHA2_256, &digest.0)
        .ok()
        .map(|hash| Cid::new_v1(codec, hash))
}

fn from_cid(codec: u64, codec_name: &'static str, cid: &Cid) -> Result<Digest, Error> {
    let right =
        cid.version() == ipld_core::cid::Version::V1 && cid.codec() == codec && cid.hash().code() == SHA2_256;
    let digest = <[u8; 32]>::try_from(cid.hash().digest());
    match (right, digest) {
        (true, Ok(digest)) => Ok(Digest(digest)),
        _ => Err(Error::OtherKind(codec_name)),
    }
}

/// A CID of ours in bytes: version, codec, hash function and length, each one byte as a varint; then the digest.
const CID_BYTES: usize = 36;

fn prefix(codec: u64) -> [u8; 4] {
    [1, codec.to_le_bytes()[0], 0x12, 32]
}

/// Reads a link as `prefix` and digest; whatever else stands there is read by the library, for its error.
struct Link {
    codec: u64,
    codec_name: &'static str,
}

impl<'de> serde::de::Visitor<'de> for Link {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a link to {}", self.codec_name)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Digest, D::Error> {
        deserializer.deserialize_bytes(self)
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Digest, E> {
        if let Some((start, digest)) = bytes.split_first_chunk()
            && *start == prefix(self.codec)
            && let Ok(digest) = digest.try_into()
        {
            return Ok(Digest(digest));
        }
        let cid = Cid::try_from(bytes).map_err(|_| E::custom(Error::NotACid))?;
        from_cid(self.codec, self.codec_name, &cid).map_err(E::custom)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $codec:ident, $codec_name:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Digest);

        impl $name {
            /// The id of `bytes`.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(Digest::of(bytes))
            }

            /// The bare digest.
            #[must_use]
            pub const fn digest(&self) -> &Digest {
                &self.0
            }

            /// The id whose digest is `digest`; for decoders and tests.
            #[must_use]
            pub const fn from_digest(digest: Digest) -> Self {
                Self(digest)
            }

            /// The last eight characters: enough to tell ids apart on a screen, never to address by.
            #[must_use]
            pub fn short(&self) -> String {
                let text = self.to_string();
                text.get(text.len().saturating_sub(8)..).unwrap_or_default().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                to_cid($codec, &self.0).map_or(Err(fmt::Error), |cid| fmt::Display::fmt(&cid, f))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let cid = Cid::try_from(text).map_err(|_| Error::NotACid)?;
                let id = Self(from_cid($codec, $codec_name, &cid)?);
                if id.to_string() == text { Ok(id) } else { Err(Error::NotCanonical) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    return serializer.collect_str(self);
                }
                let mut bytes = [0; CID_BYTES];
                if let Some((start, digest)) = bytes.split_first_chunk_mut() {
                    *start = prefix($codec);
                    digest.copy_from_slice(&self.0.0);
                }
                let bytes = serde_bytes::Bytes::new(&bytes);
                serializer.serialize_newtype_struct(CID_SERDE_PRIVATE_IDENTIFIER, bytes)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    return text.parse().map_err(serde::de::Error::custom);
                }
                let link = Link { codec: $codec, codec_name: $codec_name };
                deserializer.deserialize_newtype_struct(CID_SERDE_PRIVATE_IDENTIFIER, link).map(Self)
            }
        }
    };
}

id!(
    /// Identity of an object: the CID of its inception record.
    ObjectId, DAG_CBOR, "dag-cbor"
);
id!(
    /// Identity of a bundle: the CID of its manifest.
    BundleId, DAG_CBOR, "dag-cbor"
);
id!(
    /// Identity of a class: see [`crate::class::Identity`].
    ClassId, DAG_CBOR, "dag-cbor"
);
id!(
    /// Identity of one lineage record as stored.
    RecordId, DAG_CBOR, "dag-cbor"
);
id!(
    /// Identity of opaque bytes: governance text, decision program.
    BlobId, RAW, "raw"
);

impl From<RecordId> for ObjectId {
    /// The object that an inception record of this id creates.
    fn from(inception: RecordId) -> Self {
        Self(inception.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_dns_label_of_59_characters_and_reads_back() {
        let id = ObjectId::of(b"hello");
        let text = id.to_string();
        assert_eq!(text.len(), 59);
        assert!(text.starts_with("bafyrei"), "{text}");
        assert_eq!(text.parse::<ObjectId>().unwrap(), id);
    }

    #[test]
    fn other_codecs_and_other_spellings_are_refused() {
        let blob = BlobId::of(b"hello").to_string();
        assert_eq!(blob.parse::<ObjectId>(), Err(Error::OtherKind("dag-cbor")));
        assert_eq!("nonsense".parse::<ObjectId>(), Err(Error::NotACid));
        let upper = ObjectId::of(b"hello").to_string().to_uppercase();
        assert_eq!(upper.parse::<ObjectId>(), Err(Error::NotCanonical));
    }

    #[test]
    fn a_short_message_has_the_digest_of_any_other() {
        let message: Vec<u8> = (0..200).collect();
        for len in 0..message.len() {
            let (whole, parts) = (&message[..len], message[..len].split_at(len / 3));
            let expected = Digest::of(whole);
            assert_eq!(Digest::of_short::<1>(&[whole]), expected, "{len}");
            assert_eq!(Digest::of_short::<2>(&[parts.0, parts.1]), expected, "{len}");
        }
    }

    #[test]
    fn a_digest_reads_back_from_its_text() {
        let digest = Digest::of(b"hello");
        assert_eq!(digest.hex().parse(), Ok(digest));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        for text in ["", "ab", &"AB".repeat(32), &"0".repeat(63), &"ab".repeat(33)] {
            assert_eq!(text.parse::<Digest>(), Err(NotADigest), "{text}");
        }
    }

    #[test]
    fn one_changed_bit_is_another_id() {
        assert_ne!(ObjectId::of(b"hello"), ObjectId::of(b"hellp"));
    }
}
