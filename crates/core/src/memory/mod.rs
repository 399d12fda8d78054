//! Typed memory: what an object knows, and on which its rules decide.
//!
//! [`Schema`] says which fields there are, [`Value`] what a field may hold, [`Memory`] what they hold now, [`tree`]
//! commits to all of it in one root. Memory is a fold of lineage: shells never change it but by a record.

mod cells;
mod counter;
mod schema;
mod text;
pub mod tree;
mod value;

pub(crate) use cells::Changed;
pub use cells::{Cell, Cells, Change, Freshness, Memory, Refused, Write};
pub use schema::{Field, Kind, MAX_FIELDS, MAX_NAME_BYTES, Name, NameError, Schema, SchemaError};
pub use text::Plain;
pub use value::{Decimal, DecimalError, MAX_DEPTH, Value};
