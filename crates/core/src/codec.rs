//! Canonical DAG-CBOR: one byte string for one value.
//!
//! A decoder re-encodes what it read and compares, so whatever two encodings could stand for the same value, only
//! one is accepted. Sizes are checked before anything is allocated. Unknown keys are refused by the types
//! (`deny_unknown_fields`); floats by having no type that holds one.

mod encoder;

use serde::Serialize;
use serde::de::DeserializeOwned;

use encoder::Encoder;

/// Room that the bytes get at first: most records fit.
const ROOM_BYTES: usize = 512;

/// Why bytes were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than the caller allows; nothing was read.
    #[error("{len} bytes; at most {max} are allowed")]
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
    encode_within(value, ROOM_BYTES)
}

/// As [`encode`], into a buffer that has room for so many bytes at first.
pub(crate) fn encode_within<T: Serialize>(value: &T, room: usize) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder::new(room);
    value.serialize(&mut encoder)?;
    Ok(encoder.into_bytes())
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
    if encode_within(&value, bytes.len())? == bytes {
        Ok(value)
    } else {
        Err(Error::NotCanonical)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::ser::{SerializeMap as _, SerializeSeq as _, SerializeStruct as _, Serializer};

    use super::*;
    use crate::id::RecordId;

    /// One value in each form that serde knows, floats excepted.
    #[derive(Debug, Clone)]
    enum Form {
        Unit,
        Bool(bool),
        Unsigned(u64),
        Signed(i64),
        Text(String),
        Bytes(Vec<u8>),
        Link([u8; 32]),
        List(Vec<Form>, bool),
        Map(BTreeMap<String, Form>, bool),
        Struct(Vec<Form>),
        Variant(Box<Form>),
    }

    impl Serialize for Form {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            const NAMES: [&str; 5] = ["version", "at", "a_name_of_twenty_five_bits", "bb", "by"];
            let told = |len: usize, tell: &bool| tell.then_some(len);
            match self {
                Self::Unit => serializer.serialize_unit(),
                Self::Bool(v) => serializer.serialize_bool(*v),
                Self::Unsigned(v) => serializer.serialize_u64(*v),
                Self::Signed(v) => serializer.serialize_some(v),
                Self::Text(v) => serializer.serialize_str(v),
                Self::Bytes(v) => serializer.serialize_bytes(v),
                Self::Link(v) => RecordId::of(v).serialize(serializer),
                Self::List(v, tell) => {
                    let mut list = serializer.serialize_seq(told(v.len(), tell))?;
                    v.iter().try_for_each(|item| list.serialize_element(item))?;
                    list.end()
                }
                Self::Map(v, tell) => {
                    // Backwards: the encoder has to sort.
                    let mut map = serializer.serialize_map(told(v.len(), tell))?;
                    v.iter()
                        .rev()
                        .try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                    map.end()
                }
                Self::Struct(v) => {
                    let mut fields = serializer.serialize_struct("Form", v.len().min(NAMES.len()))?;
                    v.iter()
                        .zip(NAMES)
                        .try_for_each(|(value, name)| fields.serialize_field(name, value))?;
                    fields.end()
                }
                Self::Variant(v) => serializer.serialize_newtype_variant("Form", 0, "form", v),
            }
        }
    }

    fn any_form() -> impl Strategy<Value = Form> {
        let leaf = prop_oneof![
            Just(Form::Unit),
            any::<bool>().prop_map(Form::Bool),
            (any::<u64>(), 0..64u32).prop_map(|(v, by)| Form::Unsigned(v >> by)),
            (any::<i64>(), 0..64u32).prop_map(|(v, by)| Form::Signed(v >> by)),
            ".{0,40}".prop_map(Form::Text),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Form::Bytes),
            any::<[u8; 32]>().prop_map(Form::Link),
        ];
        leaf.prop_recursive(4, 200, 30, |inner| {
            let items = prop::collection::vec(inner.clone(), 0..30);
            let entries = prop::collection::btree_map("[a-z]{0,30}", inner.clone(), 0..30);
            prop_oneof![
                (items.clone(), any::<bool>()).prop_map(|(v, tell)| Form::List(v, tell)),
                (entries, any::<bool>()).prop_map(|(v, tell)| Form::Map(v, tell)),
                items.prop_map(Form::Struct),
                inner.prop_map(|v| Form::Variant(Box::new(v))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_the_library_writes(form in any_form()) {
            prop_assert_eq!(encode(&form).unwrap(), serde_ipld_dagcbor::to_vec(&form).unwrap());
        }
    }

    #[test]
    fn floats_and_keys_that_are_no_text_are_refused() {
        assert!(encode(&1.5f64).is_err());
        assert!(encode(&BTreeMap::from([(1u8, 2u8)])).is_err());
    }

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
