//! Places that the object may move to of its own accord, and what follows once it has departed for one of them: the same as in
//! `serve`, by the same file.

use std::path::Path;
use std::sync::Arc;

use suijuris_supervisor::destinations::{self, KnownPlace};
use suijuris_supervisor::serve::packing::KeyWrap;

use crate::depots::DepotArg;
use crate::event_printer::EventPrinter;
use crate::key_wrap::Age;
use crate::object_paths::ObjectPaths;
use crate::{Usage, claiming};

/// What could not be packed.
const CODE_NOT_PACKED: &str = "not_durable";

/// The places in `named`, or in the file of that name in the object's data directory.
pub(super) fn known(named: Option<&Path>, data: &Path) -> anyhow::Result<Vec<KnownPlace>> {
    if let Some(named) = named.filter(|named| !named.exists()) {
        return Err(Usage(format!(
            "there is no `{}`: name a file with places",
            named.display()
        ))
        .into());
    }
    let in_data = data.join(destinations::FILE);
    Ok(destinations::read(named.unwrap_or(&in_data))?)
}

/// Packs the object for whoever carries it on, where it has departed for one of these places; whether nothing of that is left to do.
pub(super) async fn hand_out(
    paths: &ObjectPaths,
    places: &[KnownPlace],
    depot: &DepotArg,
    printer: &EventPrinter,
) -> bool {
    if places.is_empty() {
        return true;
    }
    let depot = match depot.open().await {
        Ok(depot) => depot,
        Err(error) => {
            printer.error(claiming::CODE_DEPOT, &suijuris_custody::chain(&error));
            return false;
        }
    };
    let wrap: Arc<dyn KeyWrap> = Arc::new(Age);
    match destinations::hand_out(paths, places, Some(&*depot), &wrap).await {
        Ok(()) => true,
        Err(why) => {
            let why = format!("it has departed and is not packed: {why}; mend that, and start it again");
            printer.error(CODE_NOT_PACKED, &why);
            false
        }
    }
}
