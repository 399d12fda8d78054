//! Volumes: directories of this host that machines mount, one machine at a time; their snapshots and forks.

mod backup;
pub(crate) mod container;
mod content;
mod duties;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use crate::store::{Store, StoreError, Table, Write};
use crate::vault::Vault;

use self::container::Container;

pub(crate) use self::backup::{Backups, fuzz};

/// A volume as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) app: String,
    pub(crate) org: String,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) size_gb: u64,
    pub(crate) state: VolumeState,
    pub(crate) encrypted: bool,
    pub(crate) fstype: String,
    pub(crate) snapshot_retention: u64,
    pub(crate) auto_backup_enabled: bool,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    /// The volume that it was forked from, or the snapshot that it was restored from.
    pub(crate) origin: Option<String>,
    pub(crate) snapshots: Vec<Snapshot>,
}

/// Where a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VolumeState {
    Creating,
    Created,
    Hydrating,
    Restoring,
    PendingDestroy,
    Destroyed,
}

impl VolumeState {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Hydrating => "hydrating",
            Self::Restoring => "restoring",
            Self::PendingDestroy => "pending_destroy",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether a machine may have it.
    pub(crate) const fn is_usable(self) -> bool {
        matches!(self, Self::Created)
    }
}

/// A copy of a volume's content at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) created_ms: u64,
    /// `created`, or `failed` where the content could not be copied.
    pub(crate) status: String,
    pub(crate) bytes: u64,
    pub(crate) size_gb: u64,
    pub(crate) retention_days: u64,
    /// Whether a day brought it.
    #[serde(default)]
    pub(crate) is_daily: bool,
    /// Whether its content is among the backups and no longer here.
    #[serde(default)]
    pub(crate) is_elsewhere: bool,
}

impl Snapshot {
    /// Whether it goes to another host with its volume.
    pub(crate) fn travels(&self) -> bool {
        self.is_whole() && !self.is_elsewhere
    }

    /// Whether there is something to restore.
    pub(crate) fn is_whole(&self) -> bool {
        self.status == "created"
    }
}

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    store: Store,
    directory: PathBuf,
    faults: Arc<Faults>,
    /// Whether copies share blocks with what they are of.
    shares_blocks: bool,
    all: RwLock<BTreeMap<String, Volume>>,
    /// Bytes on disk, as last measured.
    measured: RwLock<BTreeMap<String, u64>>,
    backups: Option<Backups>,
    /// What they are encrypted in, if they are.
    container: Option<Container>,
    /// Changes of records go one after the other: each begins with the record as the last one left it.
    changes: tokio::sync::Mutex<()>,
}

impl Volumes {
    pub(crate) fn load(
        store: &Store,
        directory: PathBuf,
        faults: Arc<Faults>,
        vault: Option<Arc<dyn Vault>>,
    ) -> Result<Self, StoreError> {
        let all = store.rows::<Volume>(Table::Volumes)?.into_iter().collect();
        Ok(Self {
            store: store.clone(),
            shares_blocks: content::shares_blocks(&directory),
            directory,
            faults,
            backups: vault.map(|vault| Backups::load(store, vault)).transpose()?,
            all: RwLock::new(all),
            measured: RwLock::default(),
            container: None,
            changes: tokio::sync::Mutex::default(),
        })
    }

    /// The same in what they are encrypted in.
    pub(crate) fn within(self, container: Option<Container>) -> Self {
        Self { container, ..self }
    }

    /// Whether what is written to a volume is encrypted on disk.
    pub(crate) const fn are_encrypted(&self) -> bool {
        self.container.is_some()
    }

    /// Once no machine runs any more. What is in use stays as it is, for the next daemon.
    pub(crate) fn close(&self) {
        let _in_use = self.container.as_ref().map(Container::close);
    }

    /// Bytes that a volume takes on disk, as last measured.
    pub(crate) fn bytes_used(&self, id: &str) -> u64 {
        let measured = self.measured.read().unwrap_or_else(PoisonError::into_inner);
        measured.get(id).copied().unwrap_or(0)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A volume.
    pub(crate) fn get(&self, app: &str, id: &str) -> Option<Volume> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(id)
            .filter(|volume| volume.app == app && volume.state != VolumeState::Destroyed)
            .cloned()
    }

    /// The volumes for which `is_meant` holds, oldest first.
    pub(crate) fn list(&self, is_meant: impl Fn(&Volume) -> bool) -> Vec<Volume> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Volume> = all.values().filter(|volume| is_meant(volume)).cloned().collect();
        found.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        found
    }

    /// Keeps a volume.
    async fn put(&self, volume: Volume) -> Result<(), StoreError> {
        self.faults.pass();
        self.store.set(Table::Volumes, &volume.id, &volume).await?;
        self.faults.pass();
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(volume.id.clone(), volume);
        Ok(())
    }

    /// A volume that is kept already becomes known.
    pub(crate) fn adopt(&self, volume: Volume) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(volume.id.clone(), volume);
    }

    /// Changes a volume's record as it is now, and keeps it; none where it is gone.
    pub(crate) async fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut Volume),
    ) -> Result<Option<Volume>, StoreError> {
        let _turn = self.changes.lock().await;
        let now = {
            let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
            all.get(id).cloned()
        };
        let Some(mut volume) = now else { return Ok(None) };
        change(&mut volume);
        self.put(volume.clone()).await?;
        Ok(Some(volume))
    }

    /// Forgets a volume, and removes its content and that of its snapshots.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), StoreError> {
        let _turn = self.changes.lock().await;
        self.store.commit(vec![Write::remove(Table::Volumes, id)]).await?;
        self.faults.pass();
        let gone = {
            let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
            all.remove(id)
        };
        let snapshots = gone.map(|volume| volume.snapshots).unwrap_or_default();
        content::remove(self.directory.join(id)).await;
        for snapshot in snapshots {
            content::remove(self.directory.join(snapshot.id)).await;
        }
        Ok(())
    }
}

/// Why a volume or a snapshot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content.
    #[error("the content of a volume cannot be copied; is the disk full?")]
    Copy(#[source] std::io::Error),
}

impl Volumes {
    /// Makes a volume: recorded, then its content, then recorded as made. What is found half made by the next daemon is made
    /// again from the beginning. One whose content takes no time is recorded once it is whole, so that one whose daemon was killed
    /// never was. One that is restored from a backup is made later.
    pub(crate) async fn create(&self, mut volume: Volume) -> Result<Volume, VolumeError> {
        let id = volume.id.clone();
        let at_once = volume.origin.is_none() || self.shares_blocks;
        if at_once && volume.state != VolumeState::Restoring {
            if let Err(error) = self.fill(&volume).await {
                content::remove(self.directory.join(&id)).await;
                return Err(error);
            }
            volume.state = VolumeState::Created;
            // Where that fails, content without a record is removed by the next daemon, and one with it is whole.
            self.put(volume.clone()).await?;
            return Ok(volume);
        }
        self.put(volume.clone()).await?;
        if volume.state == VolumeState::Restoring {
            if let Some(backups) = &self.backups {
                backups.restoring.notify_one();
            }
            return Ok(volume);
        }
        if let Err(error) = self.fill(&volume).await {
            self.forget(&id).await?;
            return Err(error);
        }
        let made = self
            .change(&id, |volume| volume.state = VolumeState::Created)
            .await?;
        Ok(made.unwrap_or(volume))
    }

    /// The content of a new volume: empty, or that of its origin.
    async fn fill(&self, volume: &Volume) -> Result<(), VolumeError> {
        let to = self.directory.join(&volume.id);
        let from = volume.origin.as_ref().map(|origin| self.directory.join(origin));
        let made = content::make(from, to).await.map_err(VolumeError::Copy)?;
        self.faults.pass();
        self.remember(&volume.id, made);
        Ok(())
    }

    fn remember(&self, id: &str, bytes: u64) {
        let mut measured = self.measured.write().unwrap_or_else(PoisonError::into_inner);
        measured.insert(id.to_owned(), bytes);
    }

    /// Makes a snapshot of a volume's content as it is now, file by file. It is recorded once it is whole, so that one whose
    /// daemon was killed never was.
    pub(crate) async fn snapshot(
        &self,
        volume: &Volume,
        id: &str,
        now_ms: u64,
        is_daily: bool,
    ) -> Result<Snapshot, VolumeError> {
        let (from, to) = (self.directory.join(&volume.id), self.directory.join(id));
        let made = content::make(Some(from), to.clone()).await;
        self.faults.pass();
        let bytes = match made {
            Ok(bytes) => bytes,
            Err(error) => {
                content::remove(to).await;
                return Err(VolumeError::Copy(error));
            }
        };
        self.remember(&volume.id, bytes);
        let snapshot = Snapshot {
            id: id.to_owned(),
            created_ms: now_ms,
            status: "created".to_owned(),
            bytes,
            size_gb: volume.size_gb,
            retention_days: volume.snapshot_retention,
            is_daily,
            is_elsewhere: false,
        };
        self.record(&volume.id, snapshot.clone()).await?;
        if let Some(backups) = &self.backups {
            backups.sending.notify_one();
        }
        Ok(snapshot)
    }

    async fn record(&self, volume: &str, snapshot: Snapshot) -> Result<(), VolumeError> {
        let id = snapshot.id.clone();
        let kept = self
            .change(volume, |volume| {
                volume.snapshots.insert(0, snapshot);
            })
            .await?;
        if kept.is_none() {
            content::remove(self.directory.join(id)).await;
        }
        Ok(())
    }

    /// Does what is due by now. `new_id` names a snapshot.
    pub(crate) async fn keep(
        &self,
        now_ms: u64,
        new_id: impl Fn() -> Option<String>,
    ) -> Result<(), VolumeError> {
        let all = self.list(|_| true);
        for duty in duties::due(&all, now_ms, self.shares_blocks || self.backups.is_some()) {
            match duty {
                duties::Duty::Remove(volume) => self.forget(&volume).await?,
                duties::Duty::Expire { volume, snapshot } => {
                    self.change(&volume, |volume| {
                        volume.snapshots.retain(|kept| kept.id != snapshot);
                    })
                    .await?;
                    content::remove(self.directory.join(snapshot)).await;
                }
                duties::Duty::Snapshot(id) => {
                    let volume = all.iter().find(|volume| volume.id == id);
                    if let Some((volume, id)) = volume.zip(new_id()) {
                        self.daily(volume, &id, now_ms).await?;
                    }
                }
            }
        }
        for volume in all {
            let path = self.directory.join(&volume.id);
            let measured = tokio::task::spawn_blocking(move || content::bytes_of(&path)).await;
            self.remember(&volume.id, measured.unwrap_or(0));
        }
        Ok(())
    }

    /// The snapshot of a day. One that fails is listed as such, and tried again the next day.
    async fn daily(&self, volume: &Volume, id: &str, now_ms: u64) -> Result<(), VolumeError> {
        match self.snapshot(volume, id, now_ms, true).await {
            Err(VolumeError::Copy(_)) => {
                let failed = Snapshot {
                    id: id.to_owned(),
                    created_ms: now_ms,
                    status: "failed".to_owned(),
                    bytes: 0,
                    size_gb: volume.size_gb,
                    retention_days: volume.snapshot_retention,
                    is_daily: true,
                    is_elsewhere: false,
                };
                self.record(&volume.id, failed).await
            }
            other => other.map(drop),
        }
    }

    /// Finishes what an earlier daemon had begun, and removes content that belongs to nothing.
    pub(crate) async fn recover(&self) -> Result<(), VolumeError> {
        let all = self.list(|_| true);
        let known = |name: &str| {
            all.iter().any(|volume| {
                let is_here = |snapshot: &Snapshot| snapshot.id == name && !snapshot.is_elsewhere;
                volume.id == name || volume.snapshots.iter().any(is_here)
            })
        };
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !known(name)) {
                // What stays is looked at again by the next daemon.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        for volume in all
            .into_iter()
            .filter(|volume| volume.state == VolumeState::Creating)
        {
            let _ = std::fs::remove_dir_all(self.directory.join(&volume.id));
            match self.fill(&volume).await {
                Ok(()) => {
                    self.change(&volume.id, |volume| volume.state = VolumeState::Created)
                        .await?;
                }
                // Its origin went meanwhile: it was never acknowledged.
                Err(VolumeError::Copy(_)) => self.forget(&volume.id).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
