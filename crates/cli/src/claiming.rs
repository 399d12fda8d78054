//! A copy's claim to its object, as `up` and commands open it: in the depot that was named, or the user's own.

use suijuris_core::manifest::Manifest;
use suijuris_custody::chain;
use suijuris_custody::claim::{Claim, Means, fresh_id};
use suijuris_custody::witness::Service;
use suijuris_store::Writer;

use crate::depots::DepotArg;
use crate::event_printer::EventPrinter;
use crate::here;

/// The depot cannot be used.
pub(crate) const CODE_DEPOT: &str = "depot_failed";

/// Opens the depot and asks nothing in it yet. Without a depot the object goes on alone, where its bundle lets it.
pub(crate) async fn open(
    which: &DepotArg,
    manifest: &Manifest,
    writer: &Writer,
    say: &EventPrinter,
) -> anyhow::Result<Claim> {
    let depot = match which.open().await {
        Ok(depot) => Some(depot),
        // A depot that somebody named is wanted; the default one may be missing.
        Err(error) if which.depot.is_some() => return Err(error.into()),
        Err(error) => {
            say.error(CODE_DEPOT, &chain(&error));
            None
        }
    };
    let means = match depot {
        Some(depot) => Some(Means {
            service: Service::start()?,
            depot,
            id: fresh_id()?,
            who: format!("host {}, process {}", here::host().id, std::process::id()),
        }),
        None => None,
    };
    Ok(Claim::open(means, manifest, writer))
}

/// Tells of a witness that was not asked.
pub(crate) fn say_unasked(say: &EventPrinter, why: &str) {
    say.error(CODE_DEPOT, &format!("the witness cannot be asked: {why}"));
}
