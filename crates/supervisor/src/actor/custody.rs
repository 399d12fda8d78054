//! What tasks do with the object between its machines: claim it for resting, open it again, make a key for the next.

use std::error::Error;
use std::sync::Arc;

use suijuris_core::id::Digest;
use suijuris_core::lineage::Refused;
use suijuris_custody::at_rest::{Open, Unrecorded};
use suijuris_custody::claim::{Answer, Claim};
use suijuris_custody::clock::Clock;
use suijuris_custody::{chain, record};
use suijuris_store::{Depth, ObjectDir, Reader, Sizes, Writer};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::done::Back;

/// Makes the key of the epoch after the one that is about to begin, beside the start of its machine; its commitment. One that
/// cannot be made is made by the runtime, which takes longer.
pub(super) async fn prepare_spare(dir: ObjectDir, making_key: Arc<Mutex<()>>) -> Option<Digest> {
    // An earlier one whose disk hangs goes first, and keeps this until it has ended, whoever waits for it.
    let making = making_key.lock_owned().await;
    let make = move || {
        let _making = making;
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).ok()?;
        dir.prepare_spare(&seed).ok()
    };
    tokio::task::spawn_blocking(make).await.ok()?
}

/// Claims the object for resting in its suspended machine, whose runtime keeps the lock: its last record is durable, so
/// that anybody can read on from it.
pub(super) async fn rest(
    claim: &Claim,
    clock: &Clock,
    dir: ObjectDir,
) -> Result<(Box<Reader>, Answer), String> {
    let reader = tokio::task::spawn_blocking(move || Reader::open(&dir, Depth::Tail));
    let reader = reader.await.map_err(|error| error.to_string())?;
    let reader = reader.map_err(|error| chain(&error))?;
    let newest = reader.state().head().into();
    claim.take_back(clock).await.map_err(|error| chain(&error))?;
    let answer = claim.rest_at(newest).await.map_err(|error| chain(&error))?;
    Ok((Box::new(reader), answer))
}

/// Opens the object that a machine left, claims it for resting, and records how it ended and what is unrecorded. Whether
/// the last activation had been cut off, and what was recorded.
pub(super) async fn take_back(
    claim: &Claim,
    clock: &Clock,
    dir: ObjectDir,
    unrecorded: Unrecorded,
    unasked: impl Fn(String),
) -> Result<(Open, bool, Vec<Refused>), Back> {
    let opened = tokio::task::spawn_blocking(move || Writer::open(&dir, Depth::Tail, Sizes::default()));
    let (writer, _recovery) = opened.await.map_err(failed)?.map_err(failed)?;
    let at = clock.reading().wall;
    claim.take_back(clock).await.map_err(failed)?;
    match claim.rest(&writer, at).await.map_err(failed)? {
        Answer::Ours => {}
        Answer::Unasked(why) => unasked(why),
        Answer::Refused(copy) => return Err(Back::Lost(copy)),
    }
    let crashed = record::crash(&writer).is_some();
    let open = tokio::task::spawn_blocking(move || Open::new(writer, at));
    let open = open.await.map_err(failed)?.map_err(failed)?;
    let at = open.look(|state| state.head().at).max(at);
    let recording = open.record(unrecorded, at).map_err(failed)?;
    let recorded = recording.durable().await.map_err(failed)?;
    Ok((open, crashed, recorded))
}

fn failed(error: impl Error + 'static) -> Back {
    let why = chain(&error);
    Back::Failed(format!(
        "the object cannot be opened after its machine ended: {why}"
    ))
}
