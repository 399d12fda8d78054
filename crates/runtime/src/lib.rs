//! suijuris-init: the object's runtime inside its machine.

pub mod callers;
pub mod clock;
pub mod pid1;
mod sys;
pub mod workload;
