//! A whole history, verified: every record, every signature, every bundle compiled again.

use std::collections::BTreeSet;

use suijuris_api::history::{Fault, Verification};
use suijuris_core::id::BundleId;
use suijuris_core::lineage::Body;
use suijuris_custody::chain;
use suijuris_store::fork::{self, ParentError};
use suijuris_store::{BundleFiles, BundleStore, ObjectDir, OpenError, Position, Reader, Verified};

use super::HistoryError;

/// Holds a bundle's parts to each other: its text compiles to its very program. The compiler is the caller's: what runs
/// objects links none. The error says what does not hold.
pub type Compiles<'a> = &'a dyn Fn(BundleFiles) -> Result<(), String>;

/// Verifies the object in `home`; `heard` hears of each record.
///
/// # Errors
/// [`HistoryError`] where the question could not be asked; what does not hold stands in the answer.
pub fn verify(
    home: &ObjectDir,
    compiles: Compiles<'_>,
    heard: &dyn Fn(u64),
) -> Result<Verification, HistoryError> {
    let mut last = None;
    let read = Reader::verify(home, |verified: Verified| {
        heard(verified.records);
        last = Some(verified);
    });
    let records = last.map_or(0, |verified| verified.records);
    let reader = match read {
        Ok(reader) => reader,
        Err(error) => {
            return Ok(Verification {
                records,
                fault: Some(fault(error)?),
                ..Verification::default()
            });
        }
    };
    let head = reader.state().head();
    let bundles = bundles(&reader)?;
    let unsound = bundles
        .iter()
        .find_map(|id| check_bundle(home, id, compiles).err());
    let misfounded = instance(&reader)?;
    let torn = || last.filter(|_| reader.is_torn()).map(|last| torn(last.place));
    let orphaned = match fork::parent_of(home) {
        Ok(_) => None,
        Err(ParentError::Proof(error)) => Some(whole(chain(&ParentError::Proof(error)))),
        Err(ParentError::Open(error)) => Some(fault(error)?),
    };
    let fault = orphaned.or(unsound).or(misfounded).or_else(torn);
    Ok(Verification {
        verified: fault.is_none(),
        object: Some(head.object.to_string()),
        records,
        head: Some(head.record.to_string()),
        uncovered: head.uncovered(),
        bundles: bundles.iter().map(ToString::to_string).collect(),
        fault,
    })
}

/// What does not hold of how an instance of a class was founded, by the bundle that its inception names.
fn instance(reader: &Reader) -> Result<Option<Fault>, HistoryError> {
    let Some(first) = reader.records(0..1)?.next().transpose()? else {
        return Ok(None);
    };
    let Body::Inception(inception) = &first.record.body else {
        return Ok(None);
    };
    let (Some(class), Ok(bundle)) = (&inception.class, reader.bundle(&first.record.bundle)) else {
        return Ok(None);
    };
    let checked = class.check(&inception.name, &bundle);
    Ok(checked.err().map(|error| Fault {
        seq: Some(0),
        ..whole(chain(&error))
    }))
}

/// What does not hold; an error where the question could not be asked.
fn fault(error: OpenError) -> Result<Fault, OpenError> {
    match error {
        OpenError::Damaged { place, damage } => Ok(at(place, chain(&damage))),
        OpenError::Checkpoint(_) | OpenError::Bundle { .. } => Ok(whole(chain(&error))),
        other => Err(other),
    }
}

fn at(place: Position, message: String) -> Fault {
    Fault {
        seq: Some(place.seq),
        file: Some(format!("lineage/{:020}.seg", place.segment)),
        offset: Some(place.offset),
        message,
    }
}

const fn whole(message: String) -> Fault {
    Fault {
        seq: None,
        file: None,
        offset: None,
        message,
    }
}

fn torn(last: Position) -> Fault {
    let message = "the record after this one is incomplete: a writer that died while writing leaves this, and so does damage to \
                   the end; the next start removes it";
    at(last, message.to_owned())
}

/// Bundles that the history names, in order of their ids.
fn bundles(reader: &Reader) -> Result<BTreeSet<BundleId>, OpenError> {
    reader
        .records(0..u64::MAX)?
        .map(|stored| Ok(stored?.record.bundle))
        .collect()
}

fn check_bundle(home: &ObjectDir, id: &BundleId, compiles: Compiles<'_>) -> Result<(), Fault> {
    let files = BundleStore::of(home).files(id).map_err(|error| chain(&error));
    let checked = files.and_then(compiles);
    checked.map_err(|why| whole(format!("bundle {id} is not valid: {why}")))
}
