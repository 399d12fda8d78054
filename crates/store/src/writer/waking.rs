//! Beginning an activation: the one record that changes the keys.

use std::io;
use std::sync::Arc;

use suijuris_core::id::{Digest, RecordId};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, State};
use suijuris_core::time::Timestamp;
use zeroize::Zeroizing;

use super::{CommitError, Shared, StageError, Writer, lock};
use crate::disk;
use crate::keys;
use crate::queue::Keys;

/// The key that is to wait for the epoch after the one that begins.
#[derive(Debug, Clone, Copy)]
pub struct Fresh<'a> {
    /// One that [`ObjectDir::prepare_spare`](crate::ObjectDir::prepare_spare) made and that is durable, by its commitment: taken where it lies there.
    pub spare: Option<Digest>,
    /// 32 fresh random bytes for one that is made now, where there is no such spare.
    pub seed: &'a [u8; 32],
}

impl Writer {
    /// Begins an activation: records what `make` returns for the commitment to the next epoch's key, which `seed`
    /// (32 fresh random bytes) yields, and returns once it is durable. The key that waited becomes the epoch's.
    ///
    /// # Errors
    /// What `make` says, or [`StageError`]. After [`StageError::Commit`] the wake may or may not be found at the next
    /// opening; otherwise nothing happened.
    pub fn wake<E: From<StageError>>(
        &self,
        seed: &[u8; 32],
        at: Timestamp,
        make: impl FnOnce(&State, Digest) -> Result<Body, E>,
    ) -> Result<RecordId, E> {
        let id = self.begin(Fresh { spare: None, seed }, at, make)?;
        self.adopt().map_err(StageError::from)?;
        Ok(id)
    }

    /// As [`Writer::wake`], with the key that is to wait already made where there is a spare, and before it has taken its
    /// place: [`Writer::adopt`] is to follow, beside whatever comes next.
    ///
    /// # Errors
    /// As [`Writer::wake`].
    pub fn begin<E: From<StageError>>(
        &self,
        fresh: Fresh<'_>,
        at: Timestamp,
        make: impl FnOnce(&State, Digest) -> Result<Body, E>,
    ) -> Result<RecordId, E> {
        let shared = &self.shared;
        // Held throughout: the prepared key must not be replaced before the record that commits to it is durable.
        let mut commits = lock(&shared.commits);
        shared.adopt().map_err(StageError::from)?;
        shared.commit_all(&mut commits).map_err(StageError::from)?;
        let spare = fresh
            .spare
            .and_then(|spare| keys::spare(&shared.object_dir, &spare));
        let has_spare = spare.is_some();
        let fresh = spare.unwrap_or_else(|| SecretKey::from_seed(fresh.seed));
        let mut staged = lock(&shared.staged);
        let body = make(&staged.state, fresh.public().commitment())?;
        shared.make_room(&mut staged, &body)?;
        let prepared = if has_spare {
            shared.object_dir.spare_key()
        } else {
            keys::prepare(&shared.object_dir, &fresh).map_err(|error| shared.unprepared(error))?
        };
        staged.rotate(body, at, fresh, &shared.bundles)?;
        let id = staged.state.head().record;
        drop(staged);
        shared.commit_all(&mut commits).map_err(StageError::from)?;
        *lock(&shared.adopting) = Some(prepared);
        Ok(id)
    }

    /// Lets the key that a wake committed to take its place, durably; at once where it has.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn adopt(&self) -> Result<(), CommitError> {
        self.shared.adopt()
    }

    /// The same for another thread, while this writer is used.
    pub fn adopting(&self) -> impl FnOnce() -> Result<(), CommitError> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.adopt()
    }

    /// The seed of the waiting key, for whoever keeps it before [`Self::forget_key`].
    #[must_use]
    pub fn waiting_seed(&self) -> Zeroizing<[u8; 32]> {
        lock(&self.shared.staged).keys.waiting.seed()
    }

    /// Forgets the waiting key, here and on the disk: somebody keeps it. Nothing can be recorded before [`Self::take_key`].
    ///
    /// # Errors
    /// [`CommitError`]: it may be there still.
    pub fn forget_key(&self) -> Result<(), CommitError> {
        self.shared.adopt()?;
        let mut staged = lock(&self.shared.staged);
        staged.keys = Keys::waiting(SecretKey::from_seed(&[0; 32]));
        keys::wipe(&self.shared.object_dir).map_err(|error| {
            self.shared
                .poison(CommitError::new("wipe the waiting key")(error))
        })
    }

    /// Takes the waiting key back, durably; whether it is the one that the head commits to.
    ///
    /// # Errors
    /// [`CommitError`]: it is not here.
    pub fn take_key(&self, seed: &[u8; 32]) -> Result<bool, CommitError> {
        let key = SecretKey::from_seed(seed);
        let mut staged = lock(&self.shared.staged);
        if key.public().commitment() != staged.state.head().next {
            return Ok(false);
        }
        let dir = &self.shared.object_dir;
        disk::replace(&*dir.disk, &dir.next_key(), &*key.seed()).map_err(|error| {
            self.shared
                .poison(CommitError::new("write the waiting key")(error))
        })?;
        staged.keys.waiting = key;
        Ok(true)
    }

    /// Removes a spare key that no wake committed to. For whoever has the object at rest, and starts nothing now.
    pub fn discard_spare(&self) {
        if lock(&self.shared.adopting).is_none() {
            self.shared.object_dir.discard_spare();
        }
    }
}

impl Shared {
    pub(super) fn adopt(&self) -> Result<(), CommitError> {
        let mut adopting = lock(&self.adopting);
        if let Some(prepared) = &*adopting {
            self.progress.check()?;
            keys::adopt(&self.object_dir, prepared)
                .map_err(|error| self.poison(CommitError::new("adopt the waiting key")(error)))?;
        }
        *adopting = None;
        Ok(())
    }

    fn unprepared(&self, error: io::Error) -> StageError {
        if error.kind() == io::ErrorKind::StorageFull {
            return StageError::DiskFull;
        }
        self.poison(CommitError::new("write the waiting key")(error))
            .into()
    }
}
