//! The command line's one look at the clock.

use std::io;

use suijuris_core::lineage::State;
use suijuris_core::time::{Now, Ratchet, Reading};
use suijuris_custody::clock::Clock;

/// One reading of the machine's clocks.
pub(crate) fn reading() -> io::Result<Reading> {
    Ok(Clock::start(None)?.reading())
}

/// The time that a decision about `state` uses: never behind what is recorded.
pub(crate) fn now(state: &State) -> io::Result<Now> {
    Ok(Ratchet::new(state.head().at).observe(reading()?))
}
