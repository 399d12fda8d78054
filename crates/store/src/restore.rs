//! Letting an older history, or a quarantined one, be the object's again: by its controllers' will, signed and recorded.
//!
//! Who calls: the command line, for somebody who gives up what a witness knows for the copy at hand. It then puts the new
//! head into the witness's mark. Not here: the witness.

use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::lineage::{Approval, Body, Phase, Restoration, Restored, Unsealed};
use suijuris_core::time::Timestamp;
use suijuris_core::witness::Mark;

use crate::object_dir::OpenError;
use crate::opening::Depth;
use crate::reader::Reader;
use crate::writer::{Draft, Sign, StageError, Writer};

/// Why a history is not restored. No record of it was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The mark of another object.
    #[error("the witness's mark is of object {0}, not of this one")]
    OtherObject(ObjectId),
    /// The history contains what the witness knows.
    #[error(
        "record {0}, the newest that the witness knows, is part of this history: there is nothing to restore, wake it"
    )]
    NothingAbandoned(u64),
    /// The crash is not recorded.
    #[error("the last activation did not end; record that first, and sign for the head that follows")]
    CrashUnrecorded,
    /// The directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The record: too few approvals, another phase, a full disk.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// Ends an activation that nobody runs any more: a copy made while its object was awake. Durable when it returns. Where
/// no activation is open, nothing happens. What the controllers sign names the head that follows.
///
/// # Errors
/// [`RestoreError::Stage`].
pub fn record_crash(writer: &Writer, at: Timestamp) -> Result<(), RestoreError> {
    let head = writer.staged(|state| state.head().clone());
    if head.phase != Phase::Active {
        return Ok(());
    }
    let body = Body::Unsealed(Unsealed {
        mutations: head.uncovered(),
        sealed: head.sealed,
    });
    stage(writer, body, at)?;
    Ok(())
}

/// What the controllers sign so that the history of `writer` goes on in place of the one that `mark` knows.
///
/// # Errors
/// [`RestoreError::OtherObject`]; [`RestoreError::CrashUnrecorded`] before [`record_crash`]; [`RestoreError::NothingAbandoned`]
/// where the history contains the mark's head, unless it is quarantined.
pub fn restoration(writer: &Writer, mark: &Mark) -> Result<Restoration, RestoreError> {
    let head = writer.staged(|state| state.head().clone());
    if mark.object != head.object {
        return Err(RestoreError::OtherObject(mark.object));
    }
    if head.phase == Phase::Active {
        return Err(RestoreError::CrashUnrecorded);
    }
    if head.phase != Phase::Quarantined && contains(writer, mark)? {
        return Err(RestoreError::NothingAbandoned(mark.seq));
    }
    Ok(Restoration::of(&head, mark.head, mark.seq, mark.epoch))
}

fn contains(writer: &Writer, mark: &Mark) -> Result<bool, OpenError> {
    let reader = Reader::open(writer.object_dir(), Depth::Tail)?;
    let mut at = reader.records(mark.seq..mark.seq.saturating_add(1))?;
    Ok(at
        .next()
        .transpose()?
        .is_some_and(|stored| stored.id == mark.head))
}

/// Records that the history of `writer` goes on in place of the one that `mark` knows; `approvals` are the controllers'
/// over [`restoration`]. Durable when it returns the record; the object is then dormant, and its next activation is
/// newer than any that `mark` knows.
///
/// # Errors
/// [`RestoreError`].
pub fn restore(
    writer: &Writer,
    mark: &Mark,
    approvals: Vec<Approval>,
    at: Timestamp,
) -> Result<RecordId, RestoreError> {
    let stated = restoration(writer, mark)?;
    let body = Body::Restored(Restored {
        abandoned: stated.abandoned,
        seq: stated.seq,
        epoch: stated.epoch,
        approvals,
    });
    Ok(stage(writer, body, at)?)
}

fn stage(writer: &Writer, body: Body, at: Timestamp) -> Result<RecordId, StageError> {
    let draft = Draft {
        body,
        at,
        bundle: None,
        sign: Sign::Now,
    };
    let ticket = writer.stage(draft)?;
    ticket.wait()?;
    Ok(ticket.id())
}
