//! Making an object's directory of a capsule, or of what a depot holds.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Read;

use suijuris_core::id::{BundleId, ObjectId, RecordId};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{ChainError, ParentProof, ParentProofError, State, Stored, VerifiedParent};
use suijuris_core::memory::Name;

use super::secrets::committed;
use super::unpack::{Item, Unpacking};
use super::{CapsuleError, Decrypted, Progress};
use crate::bundle_store::BundleFiles;
use crate::object_dir::ObjectDir;
use crate::secrets;
use crate::staging::{Staging, StagingError};
use crate::writer::Sizes;

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The object.
    pub object: ObjectId,
    /// Its last record.
    pub head: RecordId,
    /// That record's position.
    pub seq: u64,
    /// Records that were not in the directory before; zero where it already held the same history.
    pub added: u64,
    /// Whether the waiting key is at hand; without it the copy can be read and verified, not woken.
    pub wakes: bool,
    /// Secret fields whose values did not come along; they must be set again.
    pub missing_secrets: Vec<Name>,
    /// The parent that provably forked the object.
    pub parent: Option<VerifiedParent>,
}

/// Why nothing was imported. The directory is as before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The capsule.
    #[error(transparent)]
    Capsule(#[from] CapsuleError),
    /// The directory.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The caller could not decrypt what is sealed.
    #[error("what is sealed in the capsule cannot be opened; import it with the key of its recipient")]
    Decrypt(#[source] Box<dyn Error + Send + Sync>),
    /// A key that the history does not commit to.
    #[error("the key that came with the capsule is not the one its history commits to; export it again")]
    Key,
    /// Secrets cannot be kept.
    #[error("a secret cannot be kept")]
    Secret(#[from] secrets::Error),
    /// The records' source.
    #[error("the records cannot be read")]
    Source(#[source] Box<dyn Error + Send + Sync>),
    /// The records are no chain.
    #[error("the records are not a valid history")]
    Chain(#[from] ChainError),
    /// The proof of the parent.
    #[error("the object is not the fork it claims to be")]
    Parent(#[from] ParentProofError),
    /// There are no records.
    #[error("there are no records")]
    Nothing,
}

/// Makes an object of a capsule in `object_dir`, whose parent directory must exist: id, head and memory are those of the
/// capsule, bit for bit. A crash at any moment leaves either no object or the whole one.
///
/// A directory that holds an older part of the same history is brought up to the capsule's; one that holds the same
/// history stays as it is, but for keys that it lacks. Any other is refused.
///
/// `decrypt` is given the sealed section once everything else is verified, and opens it; with `Ok(None)` the copy gets no
/// key. `sizes` are those of the store, [`Sizes::default`] in production. `progress` hears of each record.
///
/// # Errors
/// [`ImportError`].
pub fn import<E: Into<Box<dyn Error + Send + Sync>>>(
    source: impl Read,
    object_dir: &ObjectDir,
    sizes: Sizes,
    decrypt: impl FnOnce(Option<&[u8]>) -> Result<Option<Decrypted>, E>,
    mut progress: impl FnMut(Progress),
) -> Result<Imported, ImportError> {
    // A file that is no capsule leaves no trace at all.
    let mut unpacking = Unpacking::begin(source)?;
    let mut staging = Staging::begin(object_dir, sizes)?;
    let mut known = staging.known(object_dir)?;
    let verified = loop {
        match unpacking.step()? {
            Item::Bundle(id, files) => staging.bundle(id, &files)?,
            Item::Record(stored) => {
                staging.record(&stored, &mut known)?;
                progress(unpacking.progress());
            }
            Item::End(verified) => break *verified,
        }
    };
    let state = &verified.state;
    staging.check(state)?;
    let decrypted =
        decrypt(verified.sealed.as_deref()).map_err(|error| ImportError::Decrypt(error.into()))?;
    match (&decrypted, &verified.announcement) {
        (Some(decrypted), _) => keep_secrets(&mut staging, state, decrypted)?,
        // Whoever has the key makes announcements; whoever has not hands this one on.
        (None, Some(announcement)) => staging.keep(object_dir.announcement(), announcement)?,
        (None, None) => {}
    }
    if let Some(proof) = &verified.proof {
        staging.keep(object_dir.parent_proof(), proof)?;
    }
    let added = staging.added();
    staging.commit(state, decrypted.as_ref().map(|decrypted| &decrypted.next_key))?;
    Ok(imported(object_dir, state, added, verified.parent))
}

/// Keeps the secrets that memory commits to; the key must be the one that waits.
fn keep_secrets(staging: &mut Staging, state: &State, decrypted: &Decrypted) -> Result<(), ImportError> {
    if !is_next(&decrypted.next_key, state) {
        return Err(ImportError::Key);
    }
    for secret in &decrypted.secrets {
        let commitment = secret.commitment().map_err(secrets::Error::from)?;
        if committed(state).any(|(_, wanted)| wanted == commitment) {
            staging.keep_secret(secret)?;
        }
    }
    Ok(())
}

fn is_next(key: &SecretKey, state: &State) -> bool {
    key.public().commitment() == state.head().next
}

fn imported(object_dir: &ObjectDir, state: &State, added: u64, parent: Option<VerifiedParent>) -> Imported {
    let head = state.head();
    let missing =
        |(name, commitment): (&Name, _)| object_dir.secret(&commitment).is_err().then(|| name.clone());
    Imported {
        object: head.object,
        head: head.record,
        seq: head.seq,
        added,
        wakes: crate::keys::waiting(object_dir, &head.next).is_ok(),
        missing_secrets: committed(state).filter_map(missing).collect(),
        parent,
    }
}

/// Makes an object of bundles and records that lie elsewhere, as in a depot: the same as [`import`], without a capsule
/// around them. `bundle` is asked for each bundle when a record first names it; `proof` is that of a fork's parent. The
/// copy gets no key: it can be read and verified, not woken.
///
/// # Errors
/// [`ImportError`].
pub fn rebuild<E: Into<Box<dyn Error + Send + Sync>>>(
    object_dir: &ObjectDir,
    sizes: Sizes,
    mut bundle: impl FnMut(&BundleId) -> Result<BundleFiles, E>,
    records: impl IntoIterator<Item = Result<Stored, E>>,
    proof: Option<&[u8]>,
) -> Result<Imported, ImportError> {
    let mut staging = Staging::begin(object_dir, sizes)?;
    let mut known = staging.known(object_dir)?;
    let foreign = |error: E| ImportError::Source(error.into());
    let mut at_hand = BTreeSet::new();
    let mut folded: Option<(State, Option<VerifiedParent>)> = None;
    for stored in records {
        let stored = stored.map_err(foreign)?;
        let id = stored.record.bundle;
        if at_hand.insert(id) && staging.bundles().bundle(&id).is_err() {
            staging.bundle(id, &bundle(&id).map_err(foreign)?)?;
        }
        match &mut folded {
            Some((state, _)) => state.apply(&stored, staging.bundles())?,
            None => {
                let state = State::begin(&stored, staging.bundles())?;
                folded = Some((state, ParentProof::verify(proof, &stored)?));
            }
        }
        staging.record(&stored, &mut known)?;
    }
    let (state, parent) = folded.ok_or(ImportError::Nothing)?;
    staging.check(&state)?;
    if let Some(proof) = proof {
        staging.keep(object_dir.parent_proof(), proof)?;
    }
    let added = staging.added();
    staging.commit(&state, None)?;
    Ok(imported(object_dir, &state, added, parent))
}
