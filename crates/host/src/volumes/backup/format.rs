//! How a backup is written down. Bytes that come from a vault are foreign: all of this is bounded and checked when it is read.
//!
//! `snapshots/ORG/APP/VOLUME/SNAPSHOT` is a [`Manifest`], in JSON: what the snapshot was, and the blocks that its listing is made of.
//! `blocks/VOLUME/NAME` is a block of at most [`BLOCK`] bytes. The listing is [`Line`]s of JSON: each entry of the tree after
//! its directory, a file followed by the pieces of blocks that are its content; what no piece covers is a hole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::ids::hex;

/// Largest block, bytes.
pub(super) const BLOCK: usize = 1 << 20;
/// Largest manifest, bytes: room for a listing of 60 GiB.
pub(super) const MAX_MANIFEST: usize = 4 << 20;
/// Longest path, bytes.
const MAX_PATH: usize = 4_096;
/// What is hashed with a vault's secret to name a block.
const DERIVATION: &[u8] = b"suijuris volume backup, names of blocks, version 1\0";

/// What is wrong with something that was read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadFormat(pub(super) String);

/// The name of a block: 64 hexadecimal digits of the digest of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(String);

impl Name {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadFormat;

    fn try_from(text: String) -> Result<Self, BadFormat> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 64 && is_hex {
            Ok(Self(text))
        } else {
            Err(BadFormat(
                "a block's name is not 64 hexadecimal digits".to_owned(),
            ))
        }
    }
}

/// Names blocks: by SHA-256, or by HMAC-SHA256 where there is a secret.
#[derive(Clone)]
pub(super) struct Namer(Option<Hmac<Sha256>>);

impl std::fmt::Debug for Namer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Namer(…)")
    }
}

impl Namer {
    pub(super) fn new(secret: Option<&[u8]>) -> Self {
        let keyed = |secret| {
            let mut keyed = Hmac::<Sha256>::new_from_slice(secret).ok()?;
            keyed.update(DERIVATION);
            Some(keyed)
        };
        Self(secret.and_then(keyed))
    }

    pub(super) fn name(&self, block: &[u8]) -> Name {
        Name(match &self.0 {
            Some(keyed) => hex(&keyed.clone().chain_update(block).finalize().into_bytes()),
            None => hex(&Sha256::digest(block)),
        })
    }
}

/// Bytes, as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes());
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

/// What a snapshot was, and where its listing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) v: u32,
    pub(super) snapshot: String,
    pub(super) volume: String,
    pub(super) org: String,
    pub(super) app: String,
    /// The volume's name.
    pub(super) name: String,
    pub(super) size_gb: u64,
    pub(super) created_ms: u64,
    pub(super) retention_days: u64,
    /// Bytes of content, without holes.
    pub(super) bytes: u64,
    /// Sockets and devices, which are no content.
    pub(super) left_out: u64,
    pub(super) listing: Vec<Name>,
}

impl Manifest {
    /// Version of this form.
    pub(super) const V: u32 = 1;

    /// Reads a manifest that shall be of this snapshot.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadFormat> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| BadFormat(format!("its manifest: {error}")))?;
        if manifest.v != Self::V {
            return Err(BadFormat(format!(
                "its version is {}, this program reads 1",
                manifest.v
            )));
        }
        Ok(manifest)
    }
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Entry(Entry),
    /// More of the file before.
    Pieces(Vec<Piece>),
}

/// A file, a directory, a link, a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Below the volume's root; empty for the root itself.
    pub(super) path: Bytes,
    pub(super) what: What,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) modified: (i64, u32),
    /// Attributes of users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attributes: Vec<(Bytes, Bytes)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    Directory,
    File {
        size: u64,
    },
    /// Another name of a file that came before.
    SameAs(Bytes),
    Symlink(Bytes),
    Pipe,
}

/// A part of a file: at `at` in it, `len` bytes, which are those at `from` of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) block: Name,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) from: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_zero(from: &u32) -> bool {
    *from == 0
}

impl Line {
    /// The lines of one block of a listing.
    pub(super) fn decode_all(block: &[u8]) -> Result<Vec<Self>, BadFormat> {
        let lines = block.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(Self::decode).collect()
    }

    fn decode(line: &[u8]) -> Result<Self, BadFormat> {
        let line: Self =
            serde_json::from_slice(line).map_err(|error| BadFormat(format!("its listing: {error}")))?;
        if let Self::Entry(entry) = &line {
            check(&entry.path)?;
            if let What::SameAs(other) = &entry.what {
                check(other)?;
            }
        }
        Ok(line)
    }
}

/// A path goes down from the root and nowhere else.
fn check(path: &Bytes) -> Result<(), BadFormat> {
    let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    let sound = path.0.is_empty() || path.0.split(|byte| *byte == b'/').all(plain);
    if sound && path.0.len() <= MAX_PATH {
        Ok(())
    } else {
        Err(BadFormat(
            "its listing has a path that leaves the volume".to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(path: &[u8]) -> Vec<u8> {
        let entry = Entry {
            path: Bytes(path.to_vec()),
            what: What::File { size: 3 },
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: (1, 2),
            attributes: Vec::new(),
        };
        serde_json::to_vec(&Line::Entry(entry)).unwrap()
    }

    #[test]
    fn a_path_that_leaves_the_volume_is_refused() {
        for path in ["..", "a/../b", "/etc/passwd", "a//b", "./a", "a/", "a\0b"] {
            assert!(Line::decode_all(&listed(path.as_bytes())).is_err(), "{path}");
        }
        for path in ["", "a", "a/..b/c", "\u{fffd}/x"] {
            assert!(Line::decode_all(&listed(path.as_bytes())).is_ok(), "{path}");
        }
        assert!(Line::decode_all(&listed(&vec![b'a'; 5_000])).is_err());
    }

    #[test]
    fn names_are_digests_and_with_a_secret_nobody_can_guess_them() {
        let plain = Namer::new(None);
        assert!(plain.name(b"").as_str().starts_with("e3b0c442"));
        let (one, other) = (Namer::new(Some(b"one")), Namer::new(Some(b"other")));
        assert_eq!(one.name(b"x"), one.name(b"x"));
        assert_ne!(one.name(b"x"), other.name(b"x"));
        assert_ne!(one.name(b"x"), plain.name(b"x"));
        for bad in ["", "../../x", &"A".repeat(64), &"a".repeat(65)] {
            assert!(Name::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Line::decode_all(&bytes);
            let _ = Manifest::decode(&bytes);
        }
    }
}
