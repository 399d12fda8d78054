//! Begetting a child.

use crate::disk;
use crate::home::{Home, OpenError};
use suijuris_core::lineage::MAX_PARENT_PROOF;

/// The proof of the parent that lies in `home`.
pub(crate) fn proof(home: &Home) -> Result<Option<Vec<u8>>, OpenError> {
    let path = home.parent_proof();
    let read = disk::optional(disk::read(&*home.disk, &path, MAX_PARENT_PROOF as u64));
    read.map_err(OpenError::disk("read", &path))
}
