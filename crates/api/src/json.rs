//! JSON of strangers: what names a member twice is refused, at any depth. Parsers differ in which of two they take (RFC 8259,
//! section 4), so that who judges such a document and who acts on it may see two.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Reads one document.
///
/// # Errors
/// What is no JSON, names a member twice, or is no `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Once.deserialize(&mut reader)?;
    reader.end()?;
    serde_json::from_slice(bytes)
}

/// Reads anything, and keeps nothing of it.
struct Once;

impl<'de> DeserializeSeed<'de> for Once {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Once)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value_seed(Once)?;
            if let Some(twice) = names.replace(name) {
                return Err(A::Error::custom(format_args!("`{twice}` is named twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_name_stands_once_at_any_depth() {
        let read = |text: &str| from_slice::<Value>(text.as_bytes()).map_err(|error| error.to_string());
        for fine in [
            "1",
            "null",
            r#"{"a":{"b":1},"b":[{"a":-1.5},{"a":true}]}"#,
            r#"{"é":"x","e":null}"#,
        ] {
            assert_eq!(read(fine), Ok(serde_json::from_str(fine).unwrap()));
        }
        for twice in [
            r#"{"a":1,"a":1}"#,
            r#"{"set":{"open":true,"open":false}}"#,
            r#"[{"a":{"b":[{"c":1,"d":2,"c":3}]}}]"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert!(read(twice).unwrap_err().contains("named twice"), "{twice}");
        }
        for wrong in ["", "{", "1 2", &"[".repeat(100_000)] {
            assert!(read(wrong).is_err());
        }
    }
}
