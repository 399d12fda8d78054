//! Backups of snapshots outside this machine: only blocks that are not there yet are sent, and another host restores them.
//!
//! Blocks first, then the manifest, then the record here: a daemon that dies in between sends what is missing again. A backup has
//! a record for as long as it is kept, so that removing it is not forgotten either; the blocks of a volume are this host's to remove,
//! who alone sends them.

mod format;
mod reading;
mod writing;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use self::format::{BLOCK, BadFormat, Line, MAX_MANIFEST, Manifest, Name, Namer};
use self::writing::WriteError;
use super::{Snapshot, Volume, VolumeState, Volumes, content};
use crate::store::{Store, StoreError, Table, Write};
use crate::vault::{Vault, VaultError};

/// Blocks on their way at once.
const ABREAST: usize = 8;
/// Largest block of a listing: one line may be long.
const MAX_LISTED: usize = 2 * BLOCK;
const DAY_MS: u64 = 24 * 3_600_000;

/// A backup that is whole, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) org: String,
    pub(crate) app: String,
    pub(crate) volume: String,
    pub(crate) created_ms: u64,
    pub(crate) retention_days: u64,
    /// Bytes of content, without holes, and those that had to be sent.
    pub(crate) bytes: u64,
    pub(crate) sent: u64,
}

impl Kept {
    const fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.created_ms) >= self.retention_days.saturating_mul(DAY_MS)
    }
}

/// Why a backup was not made, or not brought back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the backup is damaged: {0}")]
    Format(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the content cannot be read or written: {0}")]
    Io(String),
    #[error("there is no backup of {0} here")]
    Missing(String),
}

impl From<BadFormat> for BackupError {
    fn from(error: BadFormat) -> Self {
        Self::Format(error.0)
    }
}

impl From<WriteError> for BackupError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Vault(error) => Self::Vault(error),
            WriteError::Format(error) => error.into(),
            WriteError::Io(text) => Self::Io(text),
        }
    }
}

/// The backups of a host.
#[derive(Debug)]
pub(crate) struct Backups {
    vault: Arc<dyn Vault>,
    namer: Namer,
    store: Store,
    kept: RwLock<BTreeMap<String, Kept>>,
    /// What went wrong last, by snapshot or by volume that is being restored.
    problems: RwLock<BTreeMap<String, String>>,
    /// There is something to send.
    pub(crate) sending: Arc<Notify>,
    /// There is something to bring back.
    pub(crate) restoring: Arc<Notify>,
}

fn manifests(org: &str, app: &str) -> String {
    format!("snapshots/{org}/{app}")
}

fn blocks(volume: &str) -> String {
    format!("blocks/{volume}")
}

impl Backups {
    pub(super) fn load(store: &Store, vault: Arc<dyn Vault>) -> Result<Self, StoreError> {
        let kept = store.rows::<Kept>(Table::Backups)?.into_iter().collect();
        Ok(Self {
            namer: Namer::new(vault.secret()),
            vault,
            store: store.clone(),
            kept: RwLock::new(kept),
            problems: RwLock::default(),
            sending: Arc::default(),
            restoring: Arc::default(),
        })
    }

    /// The backups that this host has made, by snapshot.
    pub(crate) fn kept(&self) -> BTreeMap<String, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn has(&self, snapshot: &str) -> bool {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.contains_key(snapshot)
    }

    /// What went wrong last with a snapshot or a volume.
    pub(crate) fn problem(&self, id: &str) -> Option<String> {
        let problems = self.problems.read().unwrap_or_else(PoisonError::into_inner);
        problems.get(id).cloned()
    }

    fn note(&self, id: &str, error: Option<&BackupError>) {
        let mut problems = self.problems.write().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => drop(problems.insert(id.to_owned(), error.to_string())),
            None => drop(problems.remove(id)),
        }
    }

    /// All backups that are there, whichever host made them, as ORG/APP/VOLUME/SNAPSHOT.
    pub(crate) async fn all(&self) -> Result<Vec<String>, VaultError> {
        let names = self.vault.list("snapshots").await?;
        let below = names.iter().filter_map(|name| name.strip_prefix("snapshots/"));
        Ok(below.map(str::to_owned).collect())
    }

    /// The size of the snapshot `id` of an app in GB, whichever host made it.
    pub(crate) async fn find(&self, org: &str, app: &str, id: &str) -> Result<Option<u64>, BackupError> {
        let manifest = self.manifest(org, app, id).await?;
        Ok(manifest.map(|manifest| manifest.size_gb))
    }

    async fn manifest(&self, org: &str, app: &str, id: &str) -> Result<Option<Manifest>, BackupError> {
        let names = self.vault.list(&manifests(org, app)).await?;
        let end = format!("/{id}");
        let Some(name) = names.iter().find(|name| name.ends_with(&end)) else {
            return Ok(None);
        };
        let Some(bytes) = self.vault.get(name, MAX_MANIFEST).await? else {
            return Ok(None);
        };
        let manifest = Manifest::decode(&bytes)?;
        let place = format!(
            "{}/{}/{}",
            manifests(&manifest.org, &manifest.app),
            manifest.volume,
            manifest.snapshot
        );
        if place != *name {
            return Err(BadFormat(format!("{name} is the manifest of another snapshot")).into());
        }
        Ok(Some(manifest))
    }

    /// Sends the tree at `from`, which nobody changes, as the snapshot of a volume.
    async fn send(&self, volume: &Volume, snapshot: &Snapshot, from: PathBuf) -> Result<Kept, BackupError> {
        let there = self.vault.list(&blocks(&volume.id)).await?;
        let name_of = |path: &String| path.rsplit('/').next().map(str::to_owned);
        let known: HashSet<String> = there.iter().filter_map(name_of).collect();
        let (sender, mut ready) = mpsc::channel::<(Name, Vec<u8>)>(ABREAST);
        let namer = self.namer.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let gone = |_| std::io::Error::other("sending has ended");
            reading::read(&from, &namer, known, &mut |name, bytes| {
                sender.blocking_send((name, bytes)).map_err(gone)
            })
        });
        let mut sent: u64 = 0;
        let mut under_way = JoinSet::new();
        let ended =
            |ended: Result<Result<(), VaultError>, tokio::task::JoinError>| -> Result<(), BackupError> {
                Ok(ended.map_err(|error| BackupError::Io(error.to_string()))??)
            };
        while let Some((name, bytes)) = ready.recv().await {
            if under_way.len() >= ABREAST
                && let Some(one) = under_way.join_next().await
            {
                ended(one)?;
            }
            sent = sent.saturating_add(bytes.len() as u64);
            let (vault, place) = (
                Arc::clone(&self.vault),
                format!("{}/{}", blocks(&volume.id), name.as_str()),
            );
            under_way.spawn(async move { vault.put(&place, bytes).await });
        }
        while let Some(one) = under_way.join_next().await {
            ended(one)?;
        }
        let read = reading
            .await
            .map_err(|error| BackupError::Io(error.to_string()))?;
        let tree = read.map_err(|error| BackupError::Io(error.to_string()))?;
        let manifest = Manifest {
            v: Manifest::V,
            snapshot: snapshot.id.clone(),
            volume: volume.id.clone(),
            org: volume.org.clone(),
            app: volume.app.clone(),
            name: volume.name.clone(),
            size_gb: snapshot.size_gb,
            created_ms: snapshot.created_ms,
            retention_days: snapshot.retention_days,
            bytes: tree.bytes,
            left_out: tree.left_out,
            listing: tree.listing,
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|error| BackupError::Io(error.to_string()))?;
        if bytes.len() > MAX_MANIFEST {
            return Err(BackupError::Io("it has too many files for a backup".to_owned()));
        }
        let place = format!(
            "{}/{}/{}",
            manifests(&volume.org, &volume.app),
            volume.id,
            snapshot.id
        );
        self.vault.put(&place, bytes).await?;
        Ok(Kept {
            org: volume.org.clone(),
            app: volume.app.clone(),
            volume: volume.id.clone(),
            created_ms: snapshot.created_ms,
            retention_days: snapshot.retention_days,
            bytes: tree.bytes,
            sent,
        })
    }

    async fn keep(&self, snapshot: &str, kept: Kept) -> Result<(), StoreError> {
        self.store.set(Table::Backups, snapshot, &kept).await?;
        let mut all = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(snapshot.to_owned(), kept);
        Ok(())
    }

    /// Removes a backup whose time is over, and the blocks that no other one of its volume has.
    async fn forget(&self, snapshot: &str, kept: &Kept) -> Result<(), BackupError> {
        let place = format!("{}/{}/{snapshot}", manifests(&kept.org, &kept.app), kept.volume);
        self.vault.remove(&place).await?;
        let others: Vec<(String, Kept)> = {
            let of_volume = |(id, other): &(String, Kept)| id != snapshot && other.volume == kept.volume;
            self.kept().into_iter().filter(of_volume).collect()
        };
        let mut used = HashSet::new();
        for (id, other) in others {
            let manifest = self.manifest(&other.org, &other.app, &id).await?;
            self.used(manifest.ok_or(BackupError::Missing(id))?, &mut used)
                .await?;
        }
        for block in self.vault.list(&blocks(&kept.volume)).await? {
            if block.rsplit('/').next().is_none_or(|name| !used.contains(name)) {
                self.vault.remove(&block).await?;
            }
        }
        self.store
            .commit(vec![Write::remove(Table::Backups, snapshot)])
            .await?;
        let mut all = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(snapshot);
        Ok(())
    }

    /// Adds the names of all blocks that a backup has.
    async fn used(&self, manifest: Manifest, used: &mut HashSet<String>) -> Result<(), BackupError> {
        for name in manifest.listing {
            let listed = fetch(&*self.vault, &self.namer, &manifest.volume, &name).await?;
            for line in Line::decode_all(&listed)? {
                if let Line::Pieces(pieces) = line {
                    used.extend(pieces.into_iter().map(|piece| piece.block.as_str().to_owned()));
                }
            }
            used.insert(name.as_str().to_owned());
        }
        Ok(())
    }

    /// Brings the content of a snapshot to `to`, which is emptied first.
    async fn restore(&self, volume: &Volume, snapshot: &str, to: PathBuf) -> Result<(), BackupError> {
        let manifest = self.manifest(&volume.org, &volume.app, snapshot).await?;
        let manifest = manifest.ok_or_else(|| BackupError::Missing(snapshot.to_owned()))?;
        let (vault, namer) = (Arc::clone(&self.vault), self.namer.clone());
        let tokio = tokio::runtime::Handle::current();
        let written = tokio::task::spawn_blocking(move || {
            let made = content::renew(&to);
            made.map_err(|error| BackupError::Io(error.to_string()))?;
            // Small files that lie next to each other share a block.
            let mut last: Option<(Name, Arc<Vec<u8>>)> = None;
            let mut give = |name: &Name| {
                if let Some((_, bytes)) = last.as_ref().filter(|(last, _)| last == name) {
                    return Ok(Arc::clone(bytes));
                }
                let bytes = Arc::new(tokio.block_on(fetch(&*vault, &namer, &manifest.volume, name))?);
                last = Some((name.clone(), Arc::clone(&bytes)));
                Ok(bytes)
            };
            writing::write(&to, &manifest, &mut give)?;
            content::sync(&to).map_err(|error| BackupError::Io(error.to_string()))
        });
        written
            .await
            .map_err(|error| BackupError::Io(error.to_string()))?
    }
}

/// A block, which is what its name says.
async fn fetch(vault: &dyn Vault, namer: &Namer, volume: &str, name: &Name) -> Result<Vec<u8>, WriteError> {
    let place = format!("{}/{}", blocks(volume), name.as_str());
    let missing = || BadFormat(format!("block {} is missing", name.as_str()));
    let bytes = vault.get(&place, MAX_LISTED).await?.ok_or_else(missing)?;
    if namer.name(&bytes) == *name {
        Ok(bytes)
    } else {
        Err(BadFormat(format!("block {} is not what was sent", name.as_str())).into())
    }
}

impl Volumes {
    /// Sends what is not there yet and removes what is over. What fails is tried again the next time.
    pub(crate) async fn back_up(&self, now_ms: u64) {
        let Some(backups) = &self.backups else { return };
        for volume in self.list(|volume| volume.state == VolumeState::Created) {
            for snapshot in volume.snapshots.iter().rev() {
                if snapshot.is_whole() && !snapshot.is_elsewhere && !backups.has(&snapshot.id) {
                    let sent = self.send(backups, &volume, snapshot).await;
                    backups.note(&snapshot.id, sent.err().as_ref());
                }
            }
        }
        for (snapshot, kept) in backups.kept() {
            if kept.is_over(now_ms) {
                let gone = backups.forget(&snapshot, &kept).await;
                backups.note(&snapshot, gone.err().as_ref());
            }
        }
        self.leave_to_backups(backups).await;
    }

    async fn send(&self, backups: &Backups, volume: &Volume, snapshot: &Snapshot) -> Result<(), BackupError> {
        self.faults.pass();
        let from = self.directory.join(&snapshot.id);
        let kept = backups.send(volume, snapshot, from).await?;
        self.faults.pass();
        backups.keep(&snapshot.id, kept).await?;
        self.faults.pass();
        Ok(())
    }

    /// Where a copy takes as much room as its volume, the snapshot of a day goes once its backup is there.
    async fn leave_to_backups(&self, backups: &Backups) {
        if self.shares_blocks {
            return;
        }
        for volume in self.list(|_| true) {
            for snapshot in &volume.snapshots {
                if !snapshot.is_daily || snapshot.is_elsewhere || !backups.has(&snapshot.id) {
                    continue;
                }
                let changed = self.change(&volume.id, |volume| {
                    let kept = volume.snapshots.iter_mut().find(|kept| kept.id == snapshot.id);
                    if let Some(kept) = kept {
                        kept.is_elsewhere = true;
                    }
                });
                if changed.await.is_ok() {
                    self.faults.pass();
                    content::remove(self.directory.join(&snapshot.id)).await;
                }
            }
        }
    }

    /// Brings back what is being restored. What fails is tried again the next time.
    pub(crate) async fn bring_back(&self) {
        let Some(backups) = &self.backups else { return };
        for volume in self.list(|volume| volume.state == VolumeState::Restoring) {
            let brought = self.bring(backups, &volume).await;
            backups.note(&volume.id, brought.err().as_ref());
        }
    }

    async fn bring(&self, backups: &Backups, volume: &Volume) -> Result<(), BackupError> {
        let to = self.directory.join(&volume.id);
        let snapshot = volume.origin.clone().unwrap_or_default();
        self.faults.pass();
        backups.restore(volume, &snapshot, to.clone()).await?;
        self.faults.pass();
        let bytes = content::bytes_of(&to);
        self.remember(&volume.id, bytes);
        self.change(&volume.id, |volume| {
            // It may have been destroyed meanwhile.
            if volume.state == VolumeState::Restoring {
                volume.state = VolumeState::Created;
            }
        })
        .await?;
        Ok(())
    }

    /// The backups, where there are any.
    pub(crate) const fn backups(&self) -> Option<&Backups> {
        self.backups.as_ref()
    }
}

/// The fuzz body of what comes from a vault: whatever it is, it is read or refused, and what it lists stays in its directory.
pub(crate) fn fuzz(bytes: &[u8], root: &Path) {
    let _ = Manifest::decode(bytes);
    let namer = Namer::new(None);
    let manifest = Manifest {
        v: Manifest::V,
        snapshot: String::new(),
        volume: String::new(),
        org: String::new(),
        app: String::new(),
        name: String::new(),
        size_gb: 1,
        created_ms: 0,
        retention_days: 1,
        bytes: 0,
        left_out: 0,
        listing: vec![namer.name(bytes)],
    };
    let block = Arc::new(bytes.to_vec());
    let _ = writing::write(root, &manifest, &mut |_| Ok(Arc::clone(&block)));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::faults::Faults;
    use crate::vault::Pending;

    /// A vault in memory.
    #[derive(Debug, Default)]
    struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

    impl Memory {
        fn names(&self, under: &str) -> Vec<String> {
            let all = self.0.lock().unwrap();
            let below = all.keys().filter(|name| name.starts_with(&format!("{under}/")));
            below.cloned().collect()
        }
    }

    impl Vault for Memory {
        fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> Pending<'a, ()> {
            self.0.lock().unwrap().insert(name.to_owned(), bytes);
            Box::pin(std::future::ready(Ok(())))
        }

        fn get<'a>(&'a self, name: &'a str, _: usize) -> Pending<'a, Option<Vec<u8>>> {
            let found = self.0.lock().unwrap().get(name).cloned();
            Box::pin(std::future::ready(Ok(found)))
        }

        fn list<'a>(&'a self, under: &'a str) -> Pending<'a, Vec<String>> {
            Box::pin(std::future::ready(Ok(self.names(under))))
        }

        fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, ()> {
            self.0.lock().unwrap().remove(name);
            Box::pin(std::future::ready(Ok(())))
        }

        fn secret(&self) -> Option<&[u8]> {
            None
        }
    }

    fn volume(id: &str) -> Volume {
        Volume {
            id: id.to_owned(),
            app: "a".to_owned(),
            org: "personal".to_owned(),
            name: "data".to_owned(),
            region: "fra".to_owned(),
            size_gb: 1,
            state: VolumeState::Creating,
            encrypted: false,
            fstype: "ext4".to_owned(),
            snapshot_retention: 5,
            auto_backup_enabled: true,
            created_ms: 0,
            updated_ms: 0,
            origin: None,
            snapshots: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_backup_whose_days_are_over_goes_with_the_blocks_that_it_alone_has() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let vault = Arc::new(Memory::default());
        let content = dir.path().join("volumes");
        std::fs::create_dir(&content).unwrap();
        let faults = Arc::new(Faults::new(None));
        let volumes = Volumes::load(&store, content.clone(), faults, Some(vault.clone())).unwrap();
        let made = volumes.create(volume("vol_1")).await.unwrap();
        let big = content.join("vol_1/big");
        std::fs::write(&big, [vec![1; BLOCK], vec![2; BLOCK]].concat()).unwrap();
        volumes.snapshot(&made, "vs_old", 0, false).await.unwrap();
        volumes.back_up(0).await;
        std::fs::write(&big, [vec![1; BLOCK], vec![3; BLOCK]].concat()).unwrap();
        let second = volumes
            .snapshot(&made, "vs_new", 3 * DAY_MS, false)
            .await
            .unwrap();
        volumes.back_up(3 * DAY_MS).await;
        let backups = volumes.backups().unwrap();
        let kept = backups.kept();
        assert!(kept["vs_old"].sent > 2 * BLOCK as u64, "{kept:?}");
        let sent = kept["vs_new"].sent;
        assert!(
            (BLOCK as u64..BLOCK as u64 + 4_096).contains(&sent),
            "one block has changed: {sent}"
        );
        let before = vault.names("blocks").len();

        volumes.back_up(5 * DAY_MS).await;
        assert_eq!(vault.names("snapshots"), ["snapshots/personal/a/vol_1/vs_new"]);
        assert_eq!(
            vault.names("blocks").len(),
            before - 2,
            "its second block, and its listing"
        );
        let back = Volume {
            state: VolumeState::Restoring,
            origin: Some(second.id),
            ..volume("vol_2")
        };
        volumes.create(back).await.unwrap();
        volumes.bring_back().await;
        let restored = std::fs::read(content.join("vol_2/big")).unwrap();
        assert_eq!(restored, std::fs::read(&big).unwrap());
        assert_eq!(volumes.get("a", "vol_2").unwrap().state, VolumeState::Created);

        volumes.forget("vol_1").await.unwrap();
        volumes.back_up(8 * DAY_MS).await;
        assert_eq!(
            *vault.0.lock().unwrap(),
            BTreeMap::new(),
            "nothing is left of what is over"
        );
        assert_eq!(backups.kept(), BTreeMap::new());
    }

    #[tokio::test]
    async fn where_copies_take_room_the_snapshot_of_a_day_is_left_to_the_backups() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let content = dir.path().join("volumes");
        std::fs::create_dir(&content).unwrap();
        let faults = Arc::new(Faults::new(None));
        let vault = Arc::new(Memory::default());
        let mut volumes = Volumes::load(&store, content.clone(), faults, Some(vault)).unwrap();
        volumes.shares_blocks = false;
        volumes.create(volume("vol_1")).await.unwrap();
        std::fs::write(content.join("vol_1/file"), b"kept").unwrap();
        volumes.keep(DAY_MS, || Some("vs_day".to_owned())).await.unwrap();
        assert!(content.join("vs_day").exists());
        volumes.back_up(DAY_MS).await;
        assert!(!content.join("vs_day").exists());
        assert!(volumes.get("a", "vol_1").unwrap().snapshots[0].is_elsewhere);
        volumes.recover().await.unwrap();
        let back = Volume {
            state: VolumeState::Restoring,
            origin: Some("vs_day".to_owned()),
            ..volume("vol_2")
        };
        volumes.create(back).await.unwrap();
        volumes.bring_back().await;
        assert_eq!(std::fs::read(content.join("vol_2/file")).unwrap(), b"kept");
    }
}
