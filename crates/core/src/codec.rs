//! Canonical DAG-CBOR: one byte string for one value.
//!
//! A decoder re-encodes what it read and compares, so whatever two encodings could stand for the same value, only
//! one is accepted. Sizes are checked before anything is allocated. Unknown keys are refused by the types
//! (`deny_unknown_fields`); floats by having no type that holds one.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than the caller allows; nothing was read.
    #[error("{len} bytes, where at most {max} are allowed")]
    TooLong {
        /// Length found, bytes.
        len: usize,
        /// Length allowed, bytes.
        max: usize,
    },
    /// Not DAG-CBOR, or not of the wanted type.
    #[error("not a valid encoding: {0}")]
    Invalid(String),
    /// Valid, but not the canonical bytes of its value.
    #[error("not in canonical form")]
    NotCanonical,
}

/// The canonical bytes of `value`.
///
/// # Errors
/// [`Error::Invalid`] for a value that DAG-CBOR cannot hold; none of this crate's types is one.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_ipld_dagcbor::to_vec(value).map_err(|error| Error::Invalid(error.to_string()))
}

/// Reads one value of at most `max` bytes.
///
/// # Errors
/// [`Error`] says whether the bytes are too long, not a `T`, or not canonical.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, Error> {
    if bytes.len() > max {
        return Err(Error::TooLong {
            len: bytes.len(),
            max,
        });
    }
    let value: T =
        serde_ipld_dagcbor::from_slice(bytes).map_err(|error| Error::Invalid(error.to_string()))?;
    if encode(&value)? == bytes {
        Ok(value)
    } else {
        Err(Error::NotCanonical)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_the_canonical_bytes_are_read() {
        let canonical = encode(&BTreeMap::from([("a", 1u8), ("b", 2)])).unwrap();
        assert_eq!(canonical, b"\xa2\x61a\x01\x61b\x02");
        type Map = BTreeMap<String, u8>;
        assert!(decode::<Map>(&canonical, 100).is_ok());
        for (bytes, why) in [
            (&b"\xa2\x61b\x02\x61a\x01"[..], "keys out of order"),
            (b"\xa2\x61a\x18\x01\x61b\x02", "an integer longer than it need be"),
            (b"\xbf\x61a\x01\x61b\x02\xff", "indefinite length"),
            (b"\xa2\x61a\x01\x61b\x02\x00", "bytes behind the value"),
            (b"\xa2\x61a\x01\x61a\x02", "a key twice"),
            (b"\xa1\x61a\xf9\x3c\x00", "a float"),
        ] {
            assert!(decode::<Map>(bytes, 100).is_err(), "{why}");
        }
        assert!(matches!(
            decode::<Map>(&canonical, 6),
            Err(Error::TooLong { len: 7, max: 6 })
        ));
    }
}
