//! Values of memory fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::time::{Span, Timestamp};

/// How deep lists, sets, maps and records may stand in each other.
pub const MAX_DEPTH: usize = 8;

/// A fixed-point number with four decimals, the range of Cedar's `decimal`: ±922337203685477.5807.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decimal(
    /// Ten-thousandths.
    pub i64,
);

/// Why a text is not a [`Decimal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a decimal: write one to four digits behind the point, as in 12.50")]
pub struct DecimalError(String);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let all = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:04}", all / 10_000, all % 10_000)
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        let parse = || {
            let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
            let (whole, part) = digits.split_once('.')?;
            let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            if !plain(whole) || !plain(part) || part.len() > 4 {
                return None;
            }
            let scaled: i128 = format!("{whole}{part:0<4}").parse().ok()?;
            i64::try_from(if negative { -scaled } else { scaled }).ok()
        };
        parse().map(Self).ok_or_else(|| DecimalError(text.to_owned()))
    }
}

/// What a field may hold. The encoding is a keyed union: `{"int": 5}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A fixed-point number.
    Decimal(Decimal),
    /// UTF-8 text.
    String(String),
    /// Bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// An instant, milliseconds.
    Timestamp(Timestamp),
    /// A length of time, milliseconds.
    Duration(Span),
    /// One of the symbols that the schema lists.
    Enum(String),
    /// Values without order or repetition.
    Set(BTreeSet<Value>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by free names.
    Map(BTreeMap<String, Value>),
    /// Values by the names that the schema lists.
    Record(BTreeMap<String, Value>),
    /// A salted digest that stands for a secret; the secret itself is in no record.
    Commitment(Digest),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => v.fmt(f),
            Self::Int(v) => v.fmt(f),
            Self::Decimal(v) => v.fmt(f),
            Self::String(v) => v.fmt(f),
            Self::Bytes(v) => write!(f, "<{} bytes>", v.len()),
            Self::Timestamp(v) => write!(f, "@{v}"),
            Self::Duration(v) => write!(f, "~{v}"),
            Self::Enum(v) => write!(f, "#{v}"),
            Self::Set(v) => v.fmt(f),
            Self::List(v) => v.fmt(f),
            Self::Map(v) | Self::Record(v) => v.fmt(f),
            Self::Commitment(_) => f.write_str("<secret>"),
        }
    }
}

impl Value {
    /// Name of this value's type, as `object.toml` writes it.
    #[must_use]
    pub const fn kind_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Decimal(_) => "decimal",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "timestamp",
            Self::Duration(_) => "duration",
            Self::Enum(_) => "enum",
            Self::Set(_) => "set",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Record(_) => "record",
            Self::Commitment(_) => "secret",
        }
    }

    /// Size that `max_bytes` bounds: payload bytes, eight for a number, one for a bool, keys included.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Bool(_) => 1,
            Self::Int(_) | Self::Decimal(_) | Self::Timestamp(_) | Self::Duration(_) => 8,
            Self::String(v) | Self::Enum(v) => v.len(),
            Self::Bytes(v) => v.len(),
            Self::Set(v) => v.iter().map(|item| item.size() + 1).sum(),
            Self::List(v) => v.iter().map(|item| item.size() + 1).sum(),
            Self::Map(v) | Self::Record(v) => v.iter().map(|(key, item)| key.len() + item.size() + 1).sum(),
            Self::Commitment(_) => 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn decimals_read_as_cedar_reads_them() {
        for (text, scaled) in [
            ("1.5", 15_000),
            ("-0.0001", -1),
            ("922337203685477.5807", i64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Decimal(scaled)));
        }
        assert_eq!(Decimal(-15_000).to_string(), "-1.5000");
        for text in [
            "1",
            "1.",
            ".5",
            "1.23456",
            "1e5",
            "922337203685477.5808",
            "--1.0",
            "",
        ] {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
    }

    #[test]
    fn encoding_is_a_keyed_union_and_reads_back() {
        assert_eq!(codec::encode(&Value::Int(5)).unwrap(), b"\xa1\x63int\x05");
        let value = Value::List(vec![
            Value::Set([Value::Enum("a".into()), Value::Enum("b".into())].into()),
            Value::Map([("k".into(), Value::Bytes(vec![1, 2]))].into()),
            Value::Commitment(Digest([7; 32])),
        ]);
        let bytes = codec::encode(&value).unwrap();
        assert_eq!(codec::decode::<Value>(&bytes, 1_000).unwrap(), value);
    }

    #[test]
    fn nesting_without_end_is_refused_and_not_a_crash() {
        let deep: Vec<u8> = b"\xa1\x64list\x81".repeat(100_000);
        assert!(codec::decode::<Value>(&deep, 10_000_000).is_err());
    }
}
