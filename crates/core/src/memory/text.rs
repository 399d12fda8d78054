//! Values as people and programs write them: JSON and TOML, read by the type of the field.
//!
//! A timestamp is RFC 3339 text, a duration `1h30m`, a decimal text such as `12.50`, bytes are base64 text without
//! padding, a set is an array, a map or record an object. The canonical encoding is elsewhere (`Value`'s serde).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::schema::Kind;
use super::value::Value;

/// Writes a value the plain way: `Plain(&value)`.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a Value);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(v) => serializer.serialize_bool(*v),
            Value::Int(v) => serializer.serialize_i64(*v),
            Value::Decimal(v) => serializer.collect_str(v),
            Value::String(v) | Value::Enum(v) => serializer.serialize_str(v),
            Value::Bytes(v) => serializer.serialize_str(&base64(v)),
            Value::Timestamp(v) => serializer.collect_str(v),
            Value::Duration(v) => serializer.collect_str(v),
            Value::Set(v) => serializer.collect_seq(v.iter().map(Plain)),
            Value::List(v) => serializer.collect_seq(v.iter().map(Plain)),
            Value::Map(v) | Value::Record(v) => {
                let mut map = serializer.serialize_map(Some(v.len()))?;
                for (key, value) in v {
                    map.serialize_entry(key, &Plain(value))?;
                }
                map.end()
            }
            Value::Commitment(_) => serializer.serialize_str("<secret>"),
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// base64url without padding (RFC 4648 §5).
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let index = (word >> (18 - 6 * place)) & 63;
            out.extend(
                usize::try_from(index)
                    .ok()
                    .and_then(|i| ALPHABET.get(i))
                    .map(|c| char::from(*c)),
            );
        }
    }
    out
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.as_bytes().chunks(4) {
        let mut word = 0u32;
        for byte in chunk {
            let index = ALPHABET.iter().position(|c| c == byte)?;
            word = word << 6 | u32::try_from(index).ok()?;
        }
        word <<= 6 * (4 - chunk.len());
        let [_, bytes @ ..] = word.to_be_bytes();
        out.extend(bytes.get(..chunk.len().checked_sub(1).filter(|n| *n > 0)?)?);
    }
    (base64(&out) == text).then_some(out)
}

/// Reads a value of this type from JSON or TOML.
impl<'de> DeserializeSeed<'de> for &Kind {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let value = deserializer.deserialize_any(Reader(self))?;
        if self.holds(&value) {
            return Ok(value);
        }
        Err(de::Error::custom(match self {
            Kind::Enum(symbols) => format!("expected one of {}", symbols.join(", ")),
            Kind::Int { min, max } => format!("expected an integer{}", bounds(*min, *max)),
            kind => format!("expected a value of type {}", kind.name()),
        }))
    }
}

fn bounds(min: Option<i64>, max: Option<i64>) -> String {
    let part =
        |word: &str, bound: Option<i64>| bound.map_or_else(String::new, |bound| format!(" {word} {bound}"));
    part("from", min) + &part("to", max)
}

struct Reader<'k>(&'k Kind);

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Timestamp => f.write_str("a timestamp as in \"2026-11-23T08:00:00Z\""),
            Kind::Duration => f.write_str("a duration as in \"1h30m\""),
            Kind::Decimal => f.write_str("a decimal as in \"12.50\""),
            Kind::Bytes => f.write_str("bytes in base64url without padding"),
            kind => write!(f, "a value of type {}", kind.name()),
        }
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        i64::try_from(v)
            .map(Value::Int)
            .map_err(|_| E::custom("the integer does not fit 64 bits"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        let wrong = |this: &Self| E::invalid_value(de::Unexpected::Str(text), this);
        match self.0 {
            Kind::String => Ok(Value::String(text.to_owned())),
            Kind::Enum(_) => Ok(Value::Enum(text.to_owned())),
            Kind::Timestamp => text.parse().map(Value::Timestamp).map_err(E::custom),
            Kind::Duration => text.parse().map(Value::Duration).map_err(E::custom),
            Kind::Decimal => text.parse().map(Value::Decimal).map_err(E::custom),
            Kind::Bytes => unbase64(text).map(Value::Bytes).ok_or_else(|| wrong(&self)),
            _ => Err(wrong(&self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        match self.0 {
            Kind::Set(item) => {
                let mut items = BTreeSet::new();
                while let Some(value) = seq.next_element_seed(&**item)? {
                    items.insert(value);
                }
                Ok(Value::Set(items))
            }
            Kind::List(item) => {
                let mut items = Vec::new();
                while let Some(value) = seq.next_element_seed(&**item)? {
                    items.push(value);
                }
                Ok(Value::List(items))
            }
            _ => Err(de::Error::invalid_type(de::Unexpected::Seq, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut items = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let kind = match self.0 {
                Kind::Map(item) => &**item,
                Kind::Record(attributes) => attributes
                    .get(key.as_str())
                    .ok_or_else(|| de::Error::custom(format!("the record has no attribute `{key}`")))?,
                _ => return Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
            };
            let value = map.next_value_seed(kind)?;
            if items.insert(key.clone(), value).is_some() {
                return Err(de::Error::custom(format!("`{key}` appears twice")));
            }
        }
        match self.0 {
            Kind::Map(_) => Ok(Value::Map(items)),
            Kind::Record(attributes) => {
                match attributes.keys().find(|name| !items.contains_key(name.as_str())) {
                    Some(missing) => Err(de::Error::custom(format!("attribute `{missing}` is missing"))),
                    None => Ok(Value::Record(items)),
                }
            }
            _ => Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Span, Timestamp};

    fn read(kind: &Kind, json: &str) -> Result<Value, String> {
        let mut reader = serde_json::Deserializer::from_str(json);
        kind.deserialize(&mut reader).map_err(|error| error.to_string())
    }

    #[test]
    fn every_type_reads_back_from_its_plain_form() {
        let point = Kind::Record([(super::super::Name::new("x").unwrap(), Kind::INT)].into());
        for (kind, json, value) in [
            (Kind::Bool, "true", Value::Bool(true)),
            (Kind::INT, "-3", Value::Int(-3)),
            (
                Kind::Decimal,
                r#""1.5000""#,
                Value::Decimal("1.5".parse().unwrap()),
            ),
            (Kind::String, r#""a""#, Value::String("a".into())),
            (Kind::Bytes, r#""AAH_""#, Value::Bytes(vec![0, 1, 255])),
            (
                Kind::Timestamp,
                r#""1970-01-01T00:00:01.000Z""#,
                Value::Timestamp(Timestamp(1_000)),
            ),
            (Kind::Duration, r#""1h 30m""#, Value::Duration(Span(5_400_000))),
            (Kind::Enum(vec!["on".into()]), r#""on""#, Value::Enum("on".into())),
            (
                Kind::Set(Box::new(Kind::INT)),
                "[1,2]",
                Value::Set([Value::Int(1), Value::Int(2)].into()),
            ),
            (
                Kind::List(Box::new(Kind::INT)),
                "[2,1]",
                Value::List(vec![Value::Int(2), Value::Int(1)]),
            ),
            (
                Kind::Map(Box::new(Kind::INT)),
                r#"{"k":1}"#,
                Value::Map([("k".into(), Value::Int(1))].into()),
            ),
            (
                point,
                r#"{"x":1}"#,
                Value::Record([("x".into(), Value::Int(1))].into()),
            ),
        ] {
            assert_eq!(read(&kind, json).as_ref(), Ok(&value), "{json}");
            let text = serde_json::to_string(&Plain(&value)).unwrap();
            assert_eq!(read(&kind, &text), Ok(value), "{text}");
        }
    }

    #[test]
    fn base64_of_every_length_reads_back_and_other_spellings_are_refused() {
        for len in 0..9u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(37).wrapping_add(200)).collect();
            assert_eq!(unbase64(&base64(&bytes)), Some(bytes));
        }
        for text in ["A", "AA=", "AB", "A A", "é"] {
            assert_eq!(unbase64(text), None, "{text}");
        }
    }

    #[test]
    fn a_wrong_value_says_what_was_expected() {
        for (kind, json, says) in [
            (Kind::INT, r#""3""#, "type int"),
            (Kind::INT, "9223372036854775808", "64 bits"),
            (Kind::INT, "1.5", "floating point"),
            (
                Kind::Int {
                    min: Some(0),
                    max: None,
                },
                "-1",
                "from 0",
            ),
            (
                Kind::Enum(vec!["on".into(), "off".into()]),
                r#""of""#,
                "one of on, off",
            ),
            (Kind::Timestamp, r#""yesterday""#, "2026-11-23T08:00:00Z"),
            (
                Kind::Record([(super::super::Name::new("x").unwrap(), Kind::INT)].into()),
                "{}",
                "`x` is missing",
            ),
        ] {
            let error = read(&kind, json).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
