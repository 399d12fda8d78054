//! Reads one table of a TOML document by asking for its keys; whatever nobody asked for is unknown.
//!
//! The questions are the list of known keys, so that reader and list never part. A wrong value is reported at its
//! place and counts as absent, so that one run finds everything. Used by the readers in `definition`.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use suijuris_core::time::Span;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fault::{Faults, code, nearest};

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// One table while it is read.
pub(crate) struct Section<'d> {
    /// Dotted path of the table, empty for the document.
    path: String,
    table: &'d DeTable<'d>,
    span: Range<usize>,
    faults: &'d Faults<'d>,
    asked: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(crate) const fn document(table: &'d DeTable<'d>, faults: &'d Faults<'d>) -> Self {
        Self {
            path: String::new(),
            table,
            span: 0..0,
            faults,
            asked: Vec::new(),
        }
    }

    fn within(&self, key: &str, table: &'d DeTable<'d>, span: Range<usize>) -> Self {
        Self {
            path: self.name_of(key),
            table,
            span,
            faults: self.faults,
            asked: Vec::new(),
        }
    }

    /// The dotted name of `key` of this table.
    pub(crate) fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Where this table stands: its header, or its braces.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(crate) const fn faults(&self) -> &'d Faults<'d> {
        self.faults
    }

    /// Whether `key` is there, whatever its value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let known = self.asked.iter().copied();
            let help = match nearest(name, known.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
            };
            let message = format!("unknown key `{}`", self.name_of(name));
            self.faults.error(code::UNKNOWN_KEY, &key.span(), message, help);
        }
    }

    /// The raw value of `key`.
    pub(crate) fn value(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    /// Reports that `key` must be there.
    pub(crate) fn missing(&self, key: &str, help: impl Display) {
        let message = format!("`{}` is missing", self.name_of(key));
        self.faults.error(code::MISSING_KEY, &self.span, message, help);
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        wrong_type(self.faults, &self.name_of(key), value, expected);
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<Found<&'d str>> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a string in quotes");
        }
        Some(Found {
            value: text?,
            span: value.span(),
        })
    }

    /// A text that `T` reads, such as a length of time; `T`'s error says what is right.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<Found<T>> {
        let text = self.text(key)?;
        match text.value.parse() {
            Ok(value) => Some(Found {
                value,
                span: text.span,
            }),
            Err(error) => {
                let message = format!("`{}` cannot be read", self.name_of(key));
                self.faults.error(code::BAD_VALUE, &text.span, message, error);
                None
            }
        }
    }

    /// A length of time.
    pub(crate) fn length(&mut self, key: &'static str) -> Option<Span> {
        self.parsed(key).map(|found| found.value)
    }

    /// One of a list of words.
    pub(crate) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let list = words.iter().map(|(word, _)| *word);
            self.unknown_word(key, &text, list);
        }
        found.map(|(_, value)| *value)
    }

    /// Reports a text that is none of `words`.
    pub(crate) fn unknown_word(
        &self,
        key: &str,
        found: &Found<&str>,
        words: impl Iterator<Item = &'static str> + Clone,
    ) {
        let message = format!("`{}` cannot be `{}`", self.name_of(key), found.value);
        let list = words.clone().collect::<Vec<_>>().join(", ");
        let help = match nearest(found.value, words) {
            Some(near) => format!("did you mean `{near}`? It is one of {list}"),
            None => format!("it is one of {list}"),
        };
        self.faults.error(code::UNKNOWN_WORD, &found.span, message, help);
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        flag
    }

    /// An integer that fits `T`.
    pub(crate) fn integer<T: TryFrom<i64>>(&mut self, key: &'static str) -> Option<Found<T>> {
        let value = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "an integer");
            return None;
        };
        let wide = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits = wide.and_then(|wide| T::try_from(wide).ok());
        if fits.is_none() {
            let message = format!("`{}` is out of bounds", self.name_of(key));
            let help = format!("{} is too large or too small for this key", integer.as_str());
            self.faults
                .error(code::OUT_OF_BOUNDS, &value.span(), message, help);
        }
        Some(Found {
            value: fits?,
            span: value.span(),
        })
    }

    /// A list of texts; items that are none are reported and left out.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<Found<&'d str>>> {
        let value = self.value(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "an array of strings, as in [\"a\", \"b\"]");
            return None;
        };
        let text = |item: &'d Spanned<DeValue<'d>>| {
            let text = item.get_ref().as_str();
            if text.is_none() {
                wrong_type(
                    self.faults,
                    &format!("an item of `{}`", self.name_of(key)),
                    item,
                    "a string in quotes",
                );
            }
            Some(Found {
                value: text?,
                span: item.span(),
            })
        };
        Some(items.iter().filter_map(text).collect())
    }

    /// A table whose keys are known.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        self.as_section(key, value)
    }

    /// `value`, found under `key`, as a table whose keys are known.
    pub(crate) fn as_section(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Option<Self> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(key, value, "a table");
        }
        table.map(|table| self.within(key, table, value.span()))
    }

    /// The tables of `[[key]]`.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            let expected = format!("an array of tables: write [[{}]]", self.name_of(key));
            self.wrong_type(key, value, &expected);
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| self.as_section(key, item))
            .collect()
    }

    /// A table whose keys are free: each key with its value. The section given back names keys and reports faults.
    pub(crate) fn entries(&mut self, key: &'static str) -> Option<(Self, Entries<'d>)> {
        let section = self.section(key)?;
        let entries = section
            .table
            .iter()
            .map(|(key, value)| {
                let name = Found {
                    value: key.get_ref().as_ref(),
                    span: key.span(),
                };
                (name, value)
            })
            .collect();
        Some((section, entries))
    }
}

/// Keys of a free table with their values.
pub(crate) type Entries<'d> = Vec<(Found<&'d str>, &'d Spanned<DeValue<'d>>)>;

/// Reports a value of another type than `expected`.
pub(crate) fn wrong_type(faults: &Faults<'_>, name: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
    let name = if name.contains('`') {
        name.to_owned()
    } else {
        format!("`{name}`")
    };
    let found = value.get_ref().type_str();
    let message = format!("{name} has the wrong type: {found}");
    let help = format!("write {expected}");
    faults.error(code::WRONG_TYPE, &value.span(), message, help);
}

/// The place of a dotted path: its value, or that of the nearest table around it.
pub(crate) fn locate(document: &DeTable<'_>, path: &str) -> Range<usize> {
    let mut table = document;
    let mut span = 0..0;
    for part in path.split('.') {
        let Some(value) = table.get(part) else { break };
        span = value.span();
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    span
}
