//! What the fields hold now, and the one way to change them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::counter;
use super::schema::{Field, Kind, Name, Schema};
use super::tree::{self, Grown, Proof, Root, Tree};
use super::value::Value;
use crate::time::{Now, Quality, Span, Timestamp};

/// One field's content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Absent if nothing was written and there is no default.
    pub value: Option<Value>,
    /// When it was last written; absent if never (a default is not a write).
    pub as_of: Option<Timestamp>,
}

/// What a write does to a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Write {
    /// Replaces the value.
    Set(Value),
    /// Adds the items of a set, list or map; the value is of the field's own type.
    Append(Value),
    /// Removes the value.
    Unset,
    /// Adds to a counter: more than zero.
    Add(i64),
}

/// Writes by field; all or none take effect.
pub type Change = BTreeMap<Name, Write>;

/// Whether a field was written recently enough, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Written within `fresh_for`.
    Fresh,
    /// Written longer ago than `fresh_for`.
    Stale,
    /// Never written.
    NeverWritten,
    /// Written, but the clock is known to be wrong.
    ClockUnknown,
}

impl Freshness {
    /// The word used in verdicts and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::NeverWritten => "never_written",
            Self::ClockUnknown => "clock_unknown",
        }
    }
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such field.
    #[error("there is no field `{0}`; `suijuris show` lists the fields")]
    UnknownField(Name),
    /// Of another type, or out of bounds.
    #[error("field `{field}` is {expected}, the value is {found} or out of bounds")]
    WrongType {
        /// Field written.
        field: Name,
        /// Its type.
        expected: &'static str,
        /// Type of the value.
        found: &'static str,
    },
    /// Larger than `max_bytes`.
    #[error("field `{field}` holds at most {max} bytes, the value has {len}")]
    TooLarge {
        /// Field written.
        field: Name,
        /// Size found, bytes.
        len: usize,
        /// Size allowed, bytes.
        max: usize,
    },
    /// Replacing or removing what may only be added to.
    #[error("field `{0}` is append-only: it can be added to, not replaced or removed")]
    AppendOnly(Name),
    /// Adding to a field that has no items.
    #[error("field `{0}` is not a set, list or map: set it instead of appending")]
    NotACollection(Name),
    /// Anything but an addition of more than zero to a counter, or beyond what it can count.
    #[error(
        "field `{0}` is a counter: add a number above zero to it, up to {max} in all; it is not set, emptied or appended to",
        max = i64::MAX
    )]
    Counter(Name),
    /// An addition to another field.
    #[error("field `{0}` is no counter: set it instead of adding to it")]
    NotACounter(Name),
    /// A secret in clear, or a commitment for a field that is no secret.
    #[error("field `{0}`: a secret is written as a commitment, and only a secret is")]
    Secret(Name),
    /// A change that writes nothing.
    #[error("the change names no field")]
    Empty,
}

/// What the fields hold, without the commitment to it: all that rules look at. A [`Memory`] is one with its root; a door
/// keeps only the cells that its rules can read.
#[derive(Debug, Clone)]
pub struct Cells {
    schema: Arc<Schema>,
    cells: Vec<Cell>,
}

/// A memory: schema, content, and the tree that commits to it.
#[derive(Debug, Clone)]
pub struct Memory {
    content: Cells,
    tree: Tree,
    touched: Touched,
}

/// What was written since [`Memory::changed`] was last asked.
#[derive(Debug, Clone)]
enum Touched {
    /// It never was: a memory that is only read from a history keeps no account.
    All,
    /// The fields at these positions.
    Positions(BTreeSet<usize>),
}

/// What a memory changed, for another copy of it to follow.
#[derive(Debug)]
pub(crate) enum Changed {
    All(Box<Memory>),
    Cells { cells: Vec<(usize, Cell)>, grown: Grown },
}

/// Reading is the same with and without a root; writing is not, so there is no mutable counterpart.
impl std::ops::Deref for Memory {
    type Target = Cells;

    fn deref(&self) -> &Cells {
        &self.content
    }
}

fn leaf_of(name: &Name, cell: &Cell) -> crate::id::Digest {
    tree::leaf(name.as_str(), cell.as_of, cell.value.as_ref())
}

impl Cells {
    /// Fields of which nothing is known: no value, never written, defaults not taken.
    #[must_use]
    pub fn blank(schema: Arc<Schema>) -> Self {
        let cells = vec![Cell::default(); schema.len()];
        Self { schema, cells }
    }

    /// Replaces the cell at `position`, and yields what it held; nothing happens beyond the last field.
    pub fn put(&mut self, position: usize, cell: Cell) -> Cell {
        self.cells
            .get_mut(position)
            .map(|place| std::mem::replace(place, cell))
            .unwrap_or_default()
    }

    /// The cell at `position`, to be filled anew; none beyond the last field.
    pub fn place(&mut self, position: usize) -> Option<&mut Cell> {
        self.cells.get_mut(position)
    }

    /// The schema.
    #[must_use]
    pub const fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The cell of field `name`.
    #[must_use]
    pub fn cell(&self, name: &str) -> Option<&Cell> {
        self.schema
            .position(name)
            .and_then(|position| self.cells.get(position))
    }

    /// The cell at `position` in name order.
    #[must_use]
    pub fn cell_at(&self, position: usize) -> Option<&Cell> {
        self.cells.get(position)
    }

    /// The value of field `name`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.cell(name).and_then(|cell| cell.value.as_ref())
    }

    /// All fields in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Field, &Cell)> {
        self.schema
            .iter()
            .zip(&self.cells)
            .map(|((name, field), cell)| (name, field, cell))
    }

    /// Whether field `name` is fresh at `now`; a field without `fresh_for` is fresh once written.
    #[must_use]
    pub fn freshness(&self, name: &str, now: Now) -> Option<Freshness> {
        let position = self.schema.position(name)?;
        self.freshness_at(position, now)
    }

    /// As `freshness`, by position in name order.
    #[must_use]
    pub fn freshness_at(&self, position: usize, now: Now) -> Option<Freshness> {
        let (_, field) = self.schema.at(position)?;
        let as_of = self.cells.get(position)?.as_of;
        Some(match (as_of, field.fresh_for) {
            (None, _) => Freshness::NeverWritten,
            (Some(_), None) => Freshness::Fresh,
            (Some(_), Some(_)) if now.quality == Quality::Unknown => Freshness::ClockUnknown,
            (Some(at), Some(span)) if now.at.since(at) <= span => Freshness::Fresh,
            _ => Freshness::Stale,
        })
    }

    /// What the counter at `position` counts at `now`; nothing where no counter stands there.
    #[must_use]
    pub fn count_at(&self, position: usize, now: Timestamp) -> Option<i64> {
        let (window, cell) = self.counter(position)?;
        Some(counter::count(window, cell, now))
    }

    /// When the counter at `position` begins anew, where it counts something at `now`.
    #[must_use]
    pub fn reset_at(&self, position: usize, now: Timestamp) -> Option<Timestamp> {
        let (window, cell) = self.counter(position)?;
        counter::reset(window, cell, now)
    }

    fn counter(&self, position: usize) -> Option<(Span, &Cell)> {
        match self.schema.at(position)?.1.kind {
            Kind::Counter { window } => Some((window, self.cells.get(position)?)),
            _ => None,
        }
    }

    /// The value of field `name` at `now`: as it was written, and of a counter what it counts then.
    #[must_use]
    pub fn value_at(&self, name: &str, now: Timestamp) -> Option<Value> {
        let position = self.schema.position(name)?;
        match self.count_at(position, now) {
            Some(count) => Some(Value::Int(count)),
            None => self.cells.get(position)?.value.clone(),
        }
    }

    /// The next instant at which some fresh field stops being fresh, or some counter begins anew; `remain` is decided again
    /// then.
    #[must_use]
    pub fn next_deadline(&self, now: Now) -> Option<Timestamp> {
        let deadline = |(_, field, cell): (&Name, &Field, &Cell)| {
            let last_fresh = cell.as_of?.saturating_add(field.fresh_for?);
            Some(last_fresh.saturating_add(Span(1))).filter(|deadline| *deadline > now.at)
        };
        let resets = (0..self.cells.len()).filter_map(|position| self.reset_at(position, now.at));
        self.iter().filter_map(deadline).chain(resets).min()
    }
}

impl Memory {
    /// The memory of a new object: defaults, nothing written.
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        let cells = schema
            .iter()
            .map(|(_, field)| Cell {
                value: field.default.clone(),
                as_of: None,
            })
            .collect();
        Self::with_cells(schema, cells)
    }

    fn with_cells(schema: Arc<Schema>, cells: Vec<Cell>) -> Self {
        let leaves: Vec<_> = schema
            .iter()
            .zip(&cells)
            .map(|((name, _), cell)| leaf_of(name, cell))
            .collect();
        Self {
            tree: Tree::new(&leaves),
            content: Cells { schema, cells },
            touched: Touched::All,
        }
    }

    /// The memory that a checkpoint stored: cells by name. Fields that the checkpoint lacks hold their default;
    /// the caller compares the root with the recorded one, so that a wrong checkpoint cannot pass.
    #[must_use]
    pub fn restore(schema: Arc<Schema>, mut stored: BTreeMap<Name, Cell>) -> Self {
        let cells = schema
            .iter()
            .map(|(name, field)| {
                stored.remove(name).unwrap_or_else(|| Cell {
                    value: field.default.clone(),
                    as_of: None,
                })
            })
            .collect();
        Self::with_cells(schema, cells)
    }

    /// This memory under an amended schema: fields of the same name and type keep what they hold, new ones get
    /// their default, fields that are gone are dropped. A field that becomes a secret, or ceases to be one, starts
    /// anew: a secret never holds clear values, nor a clear field commitments.
    #[must_use]
    pub fn amended(&self, schema: Arc<Schema>) -> Self {
        let kept = |(name, field): (&Name, &Field)| {
            let fits = |value: &Value| {
                let secret = matches!(value, Value::Commitment(_));
                secret == field.secret && (secret || field.kind.holds(value))
            };
            self.cell(name.as_str())
                .filter(|cell| cell.value.as_ref().is_none_or(fits))
                .filter(|cell| cell.value.is_some() || field.default.is_none())
                .cloned()
                .unwrap_or_else(|| Cell {
                    value: field.default.clone(),
                    as_of: None,
                })
        };
        let cells = schema.iter().map(kept).collect();
        Self::with_cells(schema, cells)
    }

    /// The commitment to everything this memory holds.
    #[must_use]
    pub const fn root(&self) -> Root {
        self.tree.root()
    }

    /// Whether `change` could be made, without making it.
    ///
    /// # Errors
    /// The first [`Refused`] in field order.
    pub fn check(&self, change: &Change) -> Result<(), Refused> {
        if change.is_empty() {
            return Err(Refused::Empty);
        }
        change
            .iter()
            .try_for_each(|(name, write)| self.written(name, write, None).map(drop))
    }

    /// Makes all of `change`, or nothing.
    ///
    /// # Errors
    /// The first [`Refused`] in field order.
    pub fn apply(&mut self, change: &Change, at: Timestamp) -> Result<(), Refused> {
        self.replace(change, at).map(drop)
    }

    /// As [`Memory::apply`], and yields what the changed cells held, for [`Memory::put_back`].
    pub(crate) fn replace(&mut self, change: &Change, at: Timestamp) -> Result<Vec<(usize, Cell)>, Refused> {
        if change.is_empty() {
            return Err(Refused::Empty);
        }
        let mut cells = Vec::with_capacity(change.len());
        for (name, write) in change {
            let (position, value) = self.written(name, write, Some(at))?;
            let as_of = Some(at);
            cells.push((position, Cell { value, as_of }));
        }
        Ok(self.swap(cells))
    }

    /// What `change` would leave at `at` in those of its fields that stand at `positions`; nothing where it empties them.
    /// Secrets and what would be refused are left out.
    #[must_use]
    pub fn outcome(
        &self,
        change: &Change,
        positions: &BTreeSet<u16>,
        at: Timestamp,
    ) -> BTreeMap<Name, Option<Value>> {
        let outcome = |(name, write): (&Name, &Write)| {
            let (position, value) = self.written(name, write, Some(at)).ok()?;
            let asked = u16::try_from(position).is_ok_and(|position| positions.contains(&position));
            let secret = self.schema.at(position)?.1.secret;
            (asked && !secret).then(|| (name.clone(), value))
        };
        change.iter().filter_map(outcome).collect()
    }

    /// Undoes a change that [`Memory::replace`] made.
    pub(crate) fn put_back(&mut self, before: Vec<(usize, Cell)>) {
        self.swap(before);
    }

    /// Puts cells in their places, given in order, and yields what stood there.
    fn swap(&mut self, mut cells: Vec<(usize, Cell)>) -> Vec<(usize, Cell)> {
        let schema = &self.content.schema;
        let leaf = |(position, cell): &(usize, Cell)| {
            let (name, _) = schema.at(*position)?;
            Some((*position, leaf_of(name, cell)))
        };
        self.tree.set_all(cells.iter().filter_map(leaf));
        for (position, cell) in &mut cells {
            if let Touched::Positions(touched) = &mut self.touched {
                touched.insert(*position);
            }
            if let Some(place) = self.content.cells.get_mut(*position) {
                std::mem::swap(place, cell);
            }
        }
        cells
    }

    /// What was written since this was last asked; everything, if it never was.
    pub(crate) fn changed(&mut self) -> Changed {
        let touched = std::mem::replace(&mut self.touched, Touched::Positions(BTreeSet::new()));
        let Touched::Positions(touched) = touched else {
            return Changed::All(Box::new(self.clone()));
        };
        let cell = |position: &usize| Some((*position, self.cells.get(*position)?.clone()));
        Changed::Cells {
            cells: touched.iter().filter_map(cell).collect(),
            grown: self.tree.grown(touched.iter().copied()),
        }
    }

    /// Takes over what another copy of this memory changed, without hashing it again.
    pub(crate) fn follow(&mut self, changed: Changed) {
        match changed {
            Changed::All(memory) => *self = *memory,
            Changed::Cells { cells, grown } => {
                for (position, cell) in cells {
                    self.content.put(position, cell);
                }
                self.tree.follow(grown);
            }
        }
    }

    /// What `write` would leave in field `name` at `at`, with the field's position. Without a time a counter is taken to be
    /// still in the window of its last write.
    fn written(
        &self,
        name: &Name,
        write: &Write,
        at: Option<Timestamp>,
    ) -> Result<(usize, Option<Value>), Refused> {
        let unknown = || Refused::UnknownField(name.clone());
        let position = self.schema.position(name.as_str()).ok_or_else(unknown)?;
        let (_, field) = self.schema.at(position).ok_or_else(unknown)?;
        let old = self.cells.get(position).and_then(|cell| cell.value.as_ref());
        let written_before = self.cells.get(position).is_some_and(|cell| cell.as_of.is_some());
        let value = match write {
            Write::Add(more) => Some(self.added(name, position, *more, at)?),
            _ if matches!(field.kind, Kind::Counter { .. }) => return Err(Refused::Counter(name.clone())),
            Write::Unset if field.append_only => return Err(Refused::AppendOnly(name.clone())),
            Write::Unset => None,
            Write::Set(_) if field.append_only && written_before => {
                return Err(Refused::AppendOnly(name.clone()));
            }
            Write::Set(value) => Some(value.clone()),
            Write::Append(value) => Some(appended(name, field, old, value)?),
        };
        if let Some(value) = &value {
            check_value(name, field, value)?;
        }
        Ok((position, value))
    }

    /// What the counter at `position` would count.
    fn added(
        &self,
        name: &Name,
        position: usize,
        more: i64,
        at: Option<Timestamp>,
    ) -> Result<Value, Refused> {
        let not_a_counter = || Refused::NotACounter(name.clone());
        let (window, cell) = self.counter(position).ok_or_else(not_a_counter)?;
        let now = at.or(cell.as_of).unwrap_or(Timestamp(0));
        let sum = counter::count(window, cell, now).checked_add(more);
        let sum = sum.filter(|_| more > 0);
        sum.map(Value::Int).ok_or_else(|| Refused::Counter(name.clone()))
    }

    /// A proof of what field `name` holds under [`Memory::root`].
    #[must_use]
    pub fn prove(&self, name: &str) -> Option<Proof> {
        let position = self.schema.position(name)?;
        let cell = self.cells.get(position)?;
        Some(Proof {
            name: name.to_owned(),
            as_of: cell.as_of,
            value: cell.value.clone(),
            position: u32::try_from(position).ok()?,
            count: u32::try_from(self.schema.len()).ok()?,
            path: self.tree.path(position)?,
        })
    }
}

fn check_value(name: &Name, field: &Field, value: &Value) -> Result<(), Refused> {
    if field.secret != matches!(value, Value::Commitment(_)) {
        return Err(Refused::Secret(name.clone()));
    }
    if field.secret {
        return Ok(());
    }
    if !field.kind.holds(value) {
        let (expected, found) = (field.kind.name(), value.kind_name());
        return Err(Refused::WrongType {
            field: name.clone(),
            expected,
            found,
        });
    }
    let (len, max) = (value.size(), field.limit_bytes());
    if len > max {
        return Err(Refused::TooLarge {
            field: name.clone(),
            len,
            max,
        });
    }
    Ok(())
}

fn appended(name: &Name, field: &Field, old: Option<&Value>, more: &Value) -> Result<Value, Refused> {
    let wrong = || Refused::WrongType {
        field: name.clone(),
        expected: field.kind.name(),
        found: more.kind_name(),
    };
    match (old, more) {
        _ if !matches!(field.kind, Kind::Set(_) | Kind::List(_) | Kind::Map(_)) => {
            Err(Refused::NotACollection(name.clone()))
        }
        _ if !field.kind.holds(more) => Err(wrong()),
        (None, Value::Set(_) | Value::List(_) | Value::Map(_)) => Ok(more.clone()),
        (Some(Value::Set(old)), Value::Set(more)) => Ok(Value::Set(old.union(more).cloned().collect())),
        (Some(Value::List(old)), Value::List(more)) => {
            Ok(Value::List(old.iter().chain(more).cloned().collect()))
        }
        (Some(Value::Map(old)), Value::Map(more)) => {
            if field.append_only && more.keys().any(|key| old.contains_key(key)) {
                return Err(Refused::AppendOnly(name.clone()));
            }
            Ok(Value::Map(
                old.iter()
                    .chain(more)
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            ))
        }
        _ => Err(Refused::NotACollection(name.clone())),
    }
}
