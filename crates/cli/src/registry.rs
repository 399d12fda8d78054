//! Registry.
use crate::place::Place;
/// Notes.
pub fn note(_: &Place, _: &str, _: &str, _: &str) {}
/// Forgets.
pub fn forget_run(_: &Place) {}
