//! The writing half of the codec: serde's data model to canonical DAG-CBOR in one pass over one buffer.
//!
//! Here because every record is encoded when it is made and again when it is read, and a general encoder puts each map
//! entry into a buffer of its own to sort them. This one writes entries where they stand and moves them only where they
//! are out of order. It writes what `serde_ipld_dagcbor` writes, which a property test holds it to. Called by
//! [`super::encode`] only; reading stays with the library.

use std::cmp::Ordering;

use ipld_core::cid::serde::CID_SERDE_PRIVATE_IDENTIFIER;
use serde::ser::{self, Serialize};

use super::Error;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
/// Tag 42: a link.
const LINK: [u8; 2] = [0xd8, 42];
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

/// Room for entries at first: a record has eleven, and its body stands in one of them.
const ENTRIES: usize = 16;

/// An entry of an unfinished map, by offsets into the output.
#[derive(Clone, Copy)]
struct Entry {
    start: usize,
    value: usize,
    end: usize,
}

/// Output, and what is needed to sort unfinished maps.
pub(super) struct Encoder {
    out: Vec<u8>,
    /// Entries of all maps that are not finished yet, the innermost last.
    entries: Vec<Entry>,
    /// The next byte string is a link.
    link: bool,
}

// Inlined, as are the writers of keys and bytes: their lengths are nearly always known where they are called.
#[inline]
fn header(major: u8, value: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    let bytes = value.to_be_bytes();
    let [.., c, d, e, f] = bytes;
    let [.., a, b] = bytes;
    match value {
        0..=23 => out.push(major | b),
        24..=0xff => out.extend_from_slice(&[major | 24, b]),
        0x100..=0xffff => out.extend_from_slice(&[major | 25, a, b]),
        0x1_0000..=0xffff_ffff => out.extend_from_slice(&[major | 26, c, d, e, f]),
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

impl Encoder {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            out: Vec::with_capacity(capacity),
            entries: Vec::new(),
            link: false,
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    #[inline]
    fn header(&mut self, major: u8, value: usize) {
        header(major, value as u64, &mut self.out);
    }

    #[inline]
    fn text(&mut self, text: &str) {
        self.header(TEXT, text.len());
        self.out.extend_from_slice(text.as_bytes());
    }

    fn part(&self, from: usize, to: usize) -> &[u8] {
        self.out.get(from..to).unwrap_or_default()
    }

    fn begin_map(&mut self, len: Option<usize>) -> Entries<'_> {
        let header = self.out.len();
        self.header(MAP, len.unwrap_or_default());
        if self.entries.capacity() == 0 {
            self.entries.reserve(ENTRIES);
        }
        Entries {
            said: len.unwrap_or_default(),
            header,
            body: self.out.len(),
            first: self.entries.len(),
            sorted: true,
            encoder: self,
        }
    }

    fn begin_array(&mut self, len: Option<usize>) -> Items<'_> {
        let header = self.out.len();
        self.header(ARRAY, len.unwrap_or_default());
        Items {
            said: len.unwrap_or_default(),
            header,
            body: self.out.len(),
            count: 0,
            encoder: self,
        }
    }

    /// Whether the key that begins at `before` stands before the one from `start` to `end`. Most differ in their first
    /// byte, which tells the length.
    fn in_order(&self, before: usize, start: usize, end: usize) -> bool {
        let first = |at: usize| self.out.get(at).copied().unwrap_or_default();
        match first(before).cmp(&first(start)) {
            Ordering::Less => true,
            Ordering::Greater => false,
            // Of the same length, as the first bytes say, or long: then what stands behind the first key decides nothing.
            Ordering::Equal => self.part(before, before + (end - start)) < self.part(start, end),
        }
    }

    /// Puts the right number into the header of a collection that did not know its length.
    fn set_count(&mut self, major: u8, from: usize, to: usize, count: usize) {
        let mut right = Vec::with_capacity(9);
        header(major, count as u64, &mut right);
        self.out.splice(from..to, right);
    }

    /// Brings the entries from the `first` on, which begin at `body`, into canonical order: by key, the shorter first.
    fn sort(&mut self, first: usize, body: usize) {
        let mut entries = self.entries.split_off(first);
        entries.sort_by(|a, b| self.part(a.start, a.value).cmp(self.part(b.start, b.value)));
        let unsorted = self.out.split_off(body);
        for entry in entries {
            let bytes = unsorted.get(entry.start - body..entry.end - body);
            self.out.extend_from_slice(bytes.unwrap_or_default());
        }
    }
}

/// A map being written.
pub(super) struct Entries<'e> {
    encoder: &'e mut Encoder,
    said: usize,
    header: usize,
    body: usize,
    first: usize,
    sorted: bool,
}

impl Entries<'_> {
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let start = self.encoder.out.len();
        key.serialize(&mut *self.encoder)?;
        if self.encoder.out.get(start).is_none_or(|byte| byte >> 5 != TEXT) {
            return Err(Error::Invalid("a key that is not a string".to_owned()));
        }
        self.enter(start);
        Ok(())
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        let start = self.encoder.out.len();
        self.encoder.text(key);
        self.enter(start);
        self.value(value)
    }

    /// Takes what stands from `start` on as the key of the next entry.
    fn enter(&mut self, start: usize) {
        let value = self.encoder.out.len();
        let before = self.encoder.entries.get(self.first..).and_then(<[Entry]>::last);
        self.sorted =
            self.sorted && before.is_none_or(|before| self.encoder.in_order(before.start, start, value));
        self.encoder.entries.push(Entry {
            start,
            value,
            end: value,
        });
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.encoder)?;
        let end = self.encoder.out.len();
        if let Some(entry) = self.encoder.entries.last_mut() {
            entry.end = end;
        }
        Ok(())
    }

    fn finish(self) {
        let count = self.encoder.entries.len() - self.first;
        if self.sorted {
            self.encoder.entries.truncate(self.first);
        } else {
            self.encoder.sort(self.first, self.body);
        }
        if count != self.said {
            self.encoder.set_count(MAP, self.header, self.body, count);
        }
    }
}

/// An array being written.
pub(super) struct Items<'e> {
    encoder: &'e mut Encoder,
    said: usize,
    header: usize,
    body: usize,
    count: usize,
}

impl Items<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.count += 1;
        value.serialize(&mut *self.encoder)
    }

    fn finish(self) {
        if self.count != self.said {
            self.encoder.set_count(ARRAY, self.header, self.body, self.count);
        }
    }
}

impl ser::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Invalid(message.to_string())
    }
}

fn float() -> Error {
    Error::Invalid("a float, which no type here holds".to_owned())
}

macro_rules! integers {
    ($($unsigned:ident $u:ty, $signed:ident $i:ty;)*) => {$(
        fn $unsigned(self, v: $u) -> Result<(), Error> {
            self.serialize_u64(v.into())
        }

        fn $signed(self, v: $i) -> Result<(), Error> {
            self.serialize_i64(v.into())
        }
    )*};
}

impl<'e> ser::Serializer for &'e mut Encoder {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Items<'e>;
    type SerializeTuple = Items<'e>;
    type SerializeTupleStruct = Items<'e>;
    type SerializeTupleVariant = Items<'e>;
    type SerializeMap = Entries<'e>;
    type SerializeStruct = Entries<'e>;
    type SerializeStructVariant = Entries<'e>;

    integers! {
        serialize_u8 u8, serialize_i8 i8;
        serialize_u16 u16, serialize_i16 i16;
        serialize_u32 u32, serialize_i32 i32;
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, v: bool) -> Result<(), Error> {
        self.out.push(if v { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_u64(self, v: u64) -> Result<(), Error> {
        header(UNSIGNED, v, &mut self.out);
        Ok(())
    }

    fn serialize_i64(self, v: i64) -> Result<(), Error> {
        // In two's complement the bits of -1 - v are those of v turned round.
        let (major, value) = if v < 0 { (NEGATIVE, !v) } else { (UNSIGNED, v) };
        header(major, value.unsigned_abs(), &mut self.out);
        Ok(())
    }

    fn serialize_f32(self, _: f32) -> Result<(), Error> {
        Err(float())
    }

    fn serialize_f64(self, _: f64) -> Result<(), Error> {
        Err(float())
    }

    fn serialize_char(self, v: char) -> Result<(), Error> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, v: &str) -> Result<(), Error> {
        self.text(v);
        Ok(())
    }

    #[inline]
    fn serialize_bytes(self, v: &[u8]) -> Result<(), Error> {
        if std::mem::take(&mut self.link) {
            self.out.extend_from_slice(&LINK);
            self.header(BYTES, v.len() + 1);
            // A link in DAG-CBOR begins with the multibase prefix for "binary".
            self.out.push(0);
        } else {
            self.header(BYTES, v.len());
        }
        self.out.extend_from_slice(v);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.out.push(NULL);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.link = name == CID_SERDE_PRIVATE_IDENTIFIER;
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.header(MAP, 1);
        self.serialize_str(variant)?;
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Items<'e>, Error> {
        Ok(self.begin_array(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<Items<'e>, Error> {
        Ok(self.begin_array(Some(len)))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Items<'e>, Error> {
        Ok(self.begin_array(Some(len)))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'e>, Error> {
        self.header(MAP, 1);
        self.serialize_str(variant)?;
        Ok(self.begin_array(Some(len)))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Entries<'e>, Error> {
        Ok(self.begin_map(len))
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Entries<'e>, Error> {
        Ok(self.begin_map(Some(len)))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Entries<'e>, Error> {
        self.header(MAP, 1);
        self.serialize_str(variant)?;
        Ok(self.begin_map(Some(len)))
    }
}

macro_rules! items {
    ($($form:ident, $method:ident;)*) => {$(
        impl ser::$form for Items<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.item(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish();
                Ok(())
            }
        }
    )*};
}

items! {
    SerializeSeq, serialize_element;
    SerializeTuple, serialize_element;
    SerializeTupleStruct, serialize_field;
    SerializeTupleVariant, serialize_field;
}

macro_rules! fields {
    ($($form:ident),*) => {$(
        impl ser::$form for Entries<'_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.field(key, value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish();
                Ok(())
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.value(value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}
