//! Memory values in the packed form: a byte for the type, symbols of enums by their number.

use std::collections::{BTreeMap, BTreeSet};

use suijuris_core::id::Digest;
use suijuris_core::memory::{Decimal, Kind, MAX_DEPTH, Value};
use suijuris_core::time::{Span, Timestamp};

use crate::bytes::{Reader, Writer};

const ABSENT: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const DECIMAL: u8 = 4;
const STRING: u8 = 5;
const BYTES: u8 = 6;
const TIMESTAMP: u8 = 7;
const DURATION: u8 = 8;
const SYMBOL: u8 = 9;
const ENUM: u8 = 10;
const SET: u8 = 11;
const LIST: u8 = 12;
const MAP: u8 = 13;
const RECORD: u8 = 14;
const COMMITMENT: u8 = 15;

/// Writes a value, or that there is none; `kind` is the field's, where it is known.
pub(crate) fn pack(out: &mut Writer, value: Option<&Value>, kind: Option<&Kind>) {
    let Some(value) = value else {
        return out.raw(&[ABSENT]);
    };
    match value {
        Value::Bool(false) => out.raw(&[FALSE]),
        Value::Bool(true) => out.raw(&[TRUE]),
        Value::Int(n) => signed(out, INT, *n),
        Value::Decimal(n) => signed(out, DECIMAL, n.0),
        Value::Timestamp(n) => signed(out, TIMESTAMP, n.0),
        Value::Duration(n) => signed(out, DURATION, n.0),
        Value::String(text) => long(out, STRING, text.as_bytes()),
        Value::Bytes(bytes) => long(out, BYTES, bytes),
        Value::Enum(symbol) => match symbol_number(symbol, kind) {
            Some(number) => {
                out.raw(&[SYMBOL]);
                out.number(number);
            }
            None => long(out, ENUM, symbol.as_bytes()),
        },
        Value::Set(items) => pack_items(out, SET, items.iter(), items.len(), kind),
        Value::List(items) => pack_items(out, LIST, items.iter(), items.len(), kind),
        Value::Map(items) => pack_parts(out, MAP, items, kind),
        Value::Record(items) => pack_parts(out, RECORD, items, kind),
        Value::Commitment(digest) => {
            out.raw(&[COMMITMENT]);
            out.raw(&digest.0);
        }
    }
}

fn signed(out: &mut Writer, tag: u8, n: i64) {
    out.raw(&[tag]);
    out.signed(n);
}

fn long(out: &mut Writer, tag: u8, bytes: &[u8]) {
    out.raw(&[tag]);
    out.long(bytes);
}

fn symbol_number(symbol: &str, kind: Option<&Kind>) -> Option<u64> {
    let Some(Kind::Enum(symbols)) = kind else {
        return None;
    };
    let position = symbols.iter().position(|known| known == symbol)?;
    u64::try_from(position).ok()
}

fn count(out: &mut Writer, tag: u8, len: usize) {
    out.raw(&[tag]);
    out.number(u64::try_from(len).unwrap_or(u64::MAX));
}

fn pack_items<'a>(
    out: &mut Writer,
    tag: u8,
    items: impl Iterator<Item = &'a Value>,
    len: usize,
    kind: Option<&Kind>,
) {
    count(out, tag, len);
    for item in items {
        pack(out, Some(item), item_kind(kind));
    }
}

fn pack_parts(out: &mut Writer, tag: u8, parts: &BTreeMap<String, Value>, kind: Option<&Kind>) {
    count(out, tag, parts.len());
    for (name, value) in parts {
        out.text(name);
        pack(out, Some(value), part_kind(kind, name));
    }
}

fn item_kind(kind: Option<&Kind>) -> Option<&Kind> {
    match kind {
        Some(Kind::Set(item) | Kind::List(item)) => Some(item),
        _ => None,
    }
}

fn part_kind<'a>(kind: Option<&'a Kind>, name: &str) -> Option<&'a Kind> {
    match kind {
        Some(Kind::Map(item)) => Some(item),
        Some(Kind::Record(parts)) => parts.get(name),
        _ => None,
    }
}

/// Reads what [`pack`] wrote for the same `kind` into the place of another value of the field, whose memory is used
/// again; nothing where the bytes are not ours.
pub(crate) fn unpack_into(
    bytes: &mut Reader<'_>,
    kind: Option<&Kind>,
    place: &mut Option<Value>,
) -> Option<()> {
    match (bytes.byte()?, &mut *place) {
        (ABSENT, _) => *place = None,
        (SYMBOL, Some(Value::Enum(old))) => symbol(bytes.number()?, kind)?.clone_into(old),
        (STRING, Some(Value::String(old))) => bytes.text()?.clone_into(old),
        (tag, _) => *place = Some(some(bytes, tag, kind, MAX_DEPTH + 1)?),
    }
    Some(())
}

fn some(bytes: &mut Reader<'_>, tag: u8, kind: Option<&Kind>, depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let text = |bytes: &mut Reader<'_>| bytes.text().map(str::to_owned);
    Some(match tag {
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        INT => Value::Int(bytes.signed()?),
        DECIMAL => Value::Decimal(Decimal(bytes.signed()?)),
        TIMESTAMP => Value::Timestamp(Timestamp(bytes.signed()?)),
        DURATION => Value::Duration(Span(bytes.signed()?)),
        STRING => Value::String(text(bytes)?),
        BYTES => Value::Bytes(bytes.long()?.to_vec()),
        SYMBOL => Value::Enum(symbol(bytes.number()?, kind)?.to_owned()),
        ENUM => Value::Enum(text(bytes)?),
        SET => Value::Set(items::<BTreeSet<_>>(bytes, kind, depth)?),
        LIST => Value::List(items::<Vec<_>>(bytes, kind, depth)?),
        MAP => Value::Map(parts(bytes, kind, depth)?),
        RECORD => Value::Record(parts(bytes, kind, depth)?),
        COMMITMENT => Value::Commitment(Digest(bytes.array()?)),
        _ => return None,
    })
}

fn symbol(number: u64, kind: Option<&Kind>) -> Option<&str> {
    let Some(Kind::Enum(symbols)) = kind else {
        return None;
    };
    symbols.get(usize::try_from(number).ok()?).map(String::as_str)
}

fn items<C: FromIterator<Value>>(bytes: &mut Reader<'_>, kind: Option<&Kind>, depth: usize) -> Option<C> {
    let count = bytes.number()?;
    (0..count)
        .map(|_| {
            let tag = bytes.byte()?;
            some(bytes, tag, item_kind(kind), depth)
        })
        .collect()
}

fn parts(bytes: &mut Reader<'_>, kind: Option<&Kind>, depth: usize) -> Option<BTreeMap<String, Value>> {
    let count = bytes.number()?;
    (0..count)
        .map(|_| {
            let name = bytes.text()?;
            let tag = bytes.byte()?;
            let value = some(bytes, tag, part_kind(kind, name), depth)?;
            Some((name.to_owned(), value))
        })
        .collect()
}
