//! Operands: what an expression evaluates to, borrowed from facts or program, never allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::action::words;
use super::judgement::Fault;
use super::node::{Attribute, Const, NodeId};
use crate::memory::Value;

words! {
    /// The sort of an entity.
    EntityKind {
        /// See [`super::PrincipalKind`].
        Caller = "Caller",
        /// See [`super::PrincipalKind`].
        Host = "Host",
        /// See [`super::PrincipalKind`].
        Timer = "Timer",
        /// See [`super::PrincipalKind`].
        Peer = "Peer",
        /// See [`super::PrincipalKind`].
        Controller = "Controller",
        /// See [`super::PrincipalKind`].
        Workload = "Workload",
        /// See [`super::PrincipalKind`].
        Own = "Self",
        /// The object.
        Object = "Object",
        /// An action.
        Action = "Action",
    }
}

/// An address with its prefix length, as Cedar's `ipaddr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Address.
    pub addr: IpAddr,
    /// Prefix length, bits: at most 32 or 128.
    pub prefix: u8,
}

impl Net {
    /// A single address.
    #[must_use]
    pub const fn single(addr: IpAddr) -> Self {
        let prefix = if addr.is_ipv4() { 32 } else { 128 };
        Self { addr, prefix }
    }

    /// Whether the prefix fits the address.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.prefix <= if self.addr.is_ipv4() { 32 } else { 128 }
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.addr.is_loopback() && self.prefix >= if self.addr.is_ipv4() { 8 } else { 128 }
    }

    pub(super) fn is_multicast(&self) -> bool {
        self.addr.is_multicast() && self.prefix >= if self.addr.is_ipv4() { 4 } else { 8 }
    }

    /// First and last address, aligned to 128 bits.
    fn bounds(&self) -> (u128, u128) {
        let (bits, shift) = match self.addr {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 96u32),
            IpAddr::V6(v6) => (u128::from(v6), 0),
        };
        let host = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0) >> shift << shift;
        (bits & !host, bits | host)
    }

    pub(super) fn is_in(&self, range: &Self) -> bool {
        let ((first, last), (from, to)) = (self.bounds(), range.bounds());
        self.addr.is_ipv4() == range.addr.is_ipv4() && from <= first && last <= to
    }
}

/// What an expression evaluates to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operand<'a> {
    Bool(bool),
    /// Integers, decimals (ten-thousandths), instants and lengths of time (milliseconds).
    Number(i64),
    Text(&'a str),
    /// Bytes, which rules see as base64url text.
    Bytes(&'a [u8]),
    Ip(Net),
    Entity(EntityKind, &'a str),
    Set(Items<'a>),
    Record(Parts<'a>),
}

/// The items of a set, wherever they are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Items<'a> {
    Consts(&'a [Const]),
    Values(&'a BTreeSet<Value>),
    List(&'a [Value]),
    /// Entries, seen as records of `key` and `value`.
    Map(&'a BTreeMap<String, Value>),
    Names(&'a [&'a str]),
    /// A set literal, evaluated item by item.
    Nodes(&'a [NodeId]),
}

/// The attributes of a record, wherever they are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parts<'a> {
    Consts(&'a BTreeMap<String, Const>),
    Values(&'a BTreeMap<String, Value>),
    /// One entry of a map.
    Entry(&'a str, &'a Value),
    /// A record literal, evaluated attribute by attribute.
    Nodes(&'a [Attribute]),
}

impl Items<'_> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Consts(items) => items.is_empty(),
            Self::Values(items) => items.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Map(items) => items.is_empty(),
            Self::Names(items) => items.is_empty(),
            Self::Nodes(items) => items.is_empty(),
        }
    }
}

impl<'a> Operand<'a> {
    /// A memory value or claim as rules see it.
    pub(super) fn of(value: &'a Value) -> Result<Self, Fault> {
        Ok(match value {
            Value::Bool(v) => Self::Bool(*v),
            Value::Int(v) => Self::Number(*v),
            Value::Decimal(v) => Self::Number(v.0),
            Value::Timestamp(v) => Self::Number(v.0),
            Value::Duration(v) => Self::Number(v.0),
            Value::String(v) | Value::Enum(v) => Self::Text(v),
            Value::Bytes(v) => Self::Bytes(v),
            Value::Set(v) => Self::Set(Items::Values(v)),
            Value::List(v) => Self::Set(Items::List(v)),
            Value::Map(v) => Self::Set(Items::Map(v)),
            Value::Record(v) => Self::Record(Parts::Values(v)),
            Value::Commitment(_) => return Err(Fault::Type),
        })
    }

    /// A constant of the program.
    pub(super) fn of_const(value: &'a Const) -> Self {
        match value {
            Const::Bool(v) => Self::Bool(*v),
            Const::Number(v) => Self::Number(*v),
            Const::Text(v) => Self::Text(v),
            Const::Ip(v) => Self::Ip(*v),
            Const::Entity(kind, id) => Self::Entity(*kind, id),
            Const::Set(v) => Self::Set(Items::Consts(v)),
            Const::Record(v) => Self::Record(Parts::Consts(v)),
        }
    }

    pub(super) fn bool(self) -> Result<bool, Fault> {
        match self {
            Self::Bool(v) => Ok(v),
            _ => Err(Fault::Type),
        }
    }

    pub(super) fn number(self) -> Result<i64, Fault> {
        match self {
            Self::Number(v) => Ok(v),
            _ => Err(Fault::Type),
        }
    }

    pub(super) fn ip(self) -> Result<Net, Fault> {
        match self {
            Self::Ip(v) => Ok(v),
            _ => Err(Fault::Type),
        }
    }

    pub(super) fn set(self) -> Result<Items<'a>, Fault> {
        match self {
            Self::Set(v) => Ok(v),
            _ => Err(Fault::Type),
        }
    }

    pub(super) fn record(self) -> Result<Parts<'a>, Fault> {
        match self {
            Self::Record(v) => Ok(v),
            _ => Err(Fault::Type),
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Length of the base64url text of `bytes`, without padding.
pub(super) const fn base64_len(bytes: &[u8]) -> usize {
    (bytes.len() * 4).div_ceil(3)
}

/// The character at `index` of the base64url text of `bytes`.
pub(super) fn base64_at(bytes: &[u8], index: usize) -> Option<u8> {
    if index >= base64_len(bytes) {
        return None;
    }
    let first = index / 4 * 3 + (index % 4) * 6 / 8;
    let high = u16::from(bytes.get(first).copied()?);
    let low = u16::from(bytes.get(first + 1).copied().unwrap_or(0));
    let shift = [10, 4, 6, 8].get(index % 4).copied()?;
    let window = match index % 4 {
        0..=2 => (high << 8 | low) >> shift,
        _ => high,
    };
    ALPHABET.get(usize::from(window & 63)).copied()
}

/// Whether two texts are the same. Words of rules are short: up to sixteen bytes are compared as two numbers that may
/// overlap, without calling for a comparison of any length.
#[inline]
pub(super) fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() || a.len() > 16 {
        return a == b;
    }
    let ends = |text: &[u8]| Some((*text.first_chunk::<8>()?, *text.last_chunk::<8>()?));
    let short_ends = |text: &[u8]| Some((*text.first_chunk::<4>()?, *text.last_chunk::<4>()?));
    match (ends(a), ends(b), short_ends(a), short_ends(b)) {
        (Some(a), Some(b), ..) => a == b,
        (.., Some(a), Some(b)) => a == b,
        _ => a.iter().zip(b).all(|(a, b)| a == b),
    }
}

/// Whether `text` matches the pieces between the `*` of a pattern.
pub(super) fn is_like(text: &str, pieces: &[String]) -> bool {
    let Some((first, rest)) = pieces.split_first() else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else {
        return text == first;
    };
    let begins = text
        .split_at_checked(first.len())
        .filter(|(start, _)| same(start, first));
    let ends = begins.and_then(|(_, rest)| rest.strip_suffix(last.as_str()));
    let Some(mut rest) = ends else { return false };
    for piece in middle {
        match rest.split_once(piece.as_str()) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    true
}

/// As [`is_like`] over the base64url text of `bytes`, which is never built.
pub(super) fn is_base64_like(bytes: &[u8], pieces: &[String]) -> bool {
    let len = base64_len(bytes);
    let at = |from: usize, piece: &str| {
        piece
            .bytes()
            .enumerate()
            .all(|(i, b)| base64_at(bytes, from + i) == Some(b))
    };
    let Some((first, rest)) = pieces.split_first() else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else {
        return first.len() == len && at(0, first);
    };
    if len < first.len() + last.len() || !at(0, first) || !at(len - last.len(), last) {
        return false;
    }
    let (mut from, end) = (first.len(), len - last.len());
    for piece in middle {
        let found = (from..=end.saturating_sub(piece.len())).find(|start| at(*start, piece));
        match found {
            Some(start) if start + piece.len() <= end => from = start + piece.len(),
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_same_only_where_every_byte_is() {
        let text = "abcdefghijklmnopqrstuvwxyz";
        for len in 0..text.len() {
            let (whole, longer) = (&text[..len], &text[..len + 1]);
            assert!(same(whole, &String::from(whole)));
            assert!(!same(whole, longer) && !same(longer, whole));
            for at in 0..len {
                let mut other = whole.to_owned();
                other.replace_range(at..=at, "#");
                assert!(!same(whole, &other), "{other}");
            }
        }
    }

    #[test]
    fn base64_by_index_is_the_text_that_memory_shows() {
        for len in 0..10u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(91).wrapping_add(3)).collect();
            let text: String = (0..base64_len(&bytes))
                .map(|i| char::from(base64_at(&bytes, i).unwrap()))
                .collect();
            let plain = serde_json::to_string(&crate::memory::Plain(&Value::Bytes(bytes.clone()))).unwrap();
            assert_eq!(format!("\"{text}\""), plain);
            assert_eq!(base64_at(&bytes, text.len()), None);
        }
    }

    #[test]
    fn patterns_match_as_in_cedar() {
        let pieces = |pattern: &str| pattern.split('*').map(str::to_owned).collect::<Vec<_>>();
        for (text, pattern, expect) in [
            ("", "", true),
            ("", "*", true),
            ("a", "", false),
            ("abc", "a*c", true),
            ("abc", "a*b", false),
            ("a", "a*a", false),
            ("aXbXc", "a*b*c", true),
            ("aab", "*ab", true),
            ("abab", "*ab*ab", true),
            ("aba", "*ab*ab", false),
            ("grün", "gr*n", true),
        ] {
            assert_eq!(is_like(text, &pieces(pattern)), expect, "{text} like {pattern}");
        }
        let bytes = [0u8, 16, 131, 16, 81, 135]; // ABCDEFGH
        for (pattern, expect) in [
            ("ABCDEFGH", true),
            ("AB*GH", true),
            ("*CD*E*", true),
            ("*CD*CD*", false),
            ("AB", false),
        ] {
            assert_eq!(is_base64_like(&bytes, &pieces(pattern)), expect, "{pattern}");
        }
    }

    #[test]
    fn ranges_of_addresses() {
        let net = |addr: &str, prefix| Net {
            addr: addr.parse().unwrap(),
            prefix,
        };
        assert!(net("10.1.2.3", 32).is_in(&net("10.0.0.0", 8)));
        assert!(net("10.0.0.0", 8).is_in(&net("10.9.9.9", 8)));
        assert!(!net("10.0.0.0", 7).is_in(&net("10.0.0.0", 8)));
        assert!(net("1.2.3.4", 32).is_in(&net("0.0.0.0", 0)));
        assert!(!net("::1", 128).is_in(&net("0.0.0.0", 0)));
        assert!(net("::1", 128).is_in(&net("::", 0)));
    }
}
