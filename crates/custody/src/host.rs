//! Where this process is, as rules see it: made here, for whoever runs an object and for every command beside it, so that
//! the same proposal meets the same facts whoever carries it.
//!
//! Which machines there are is the vehicle's to say, what rules make of it is theirs.

use suijuris_core::inputs::{Host, Vehicle};

/// Names the region that this host is in.
pub const REGION_VARIABLE: &str = "SUIJURIS_REGION";

/// The facts of machines of `vehicle` on this host, in `region`, by which [`REGION_VARIABLE`] is meant; `local` where
/// nobody names one.
#[must_use]
pub fn here(vehicle: Vehicle<'_>, region: Option<&str>) -> Host {
    // A host that does not say its name has none.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Host::of(vehicle, region, &name)
}
