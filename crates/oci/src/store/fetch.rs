//! Fetching a layer's blob from its registry, on from where the last attempt ended.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use super::pull::{Event, Task};
use super::{StoreError, disk, files};
use crate::reference::Reference;
use crate::registry::Registry;
use crate::registry::images::Fetched;
use crate::source::{SourceError, blocking};

/// How often we look whether another one is done with the layer that we need as well.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Task {
    pub(super) async fn fetch(self, registry: &Registry, reference: &Reference) -> Result<(), StoreError> {
        let Some(partial) = self.partial().await? else {
            return self.tell(Event::Present { layer: self.number });
        };
        let file = partial.file.try_clone().map_err(disk(&partial.path))?;
        let mut watch = |done, total| {
            self.observer.observe(Event::Fetching {
                layer: self.number,
                done,
                total,
            })
        };
        let fetched = registry
            .fetch(
                reference,
                &self.layer.descriptor,
                (file, &partial.path),
                &mut watch,
            )
            .await;
        match fetched.map_err(SourceError::Registry)? {
            Fetched::Stopped => Err(StoreError::Cancelled),
            Fetched::Whole => blocking(move || self.unpack_partial(partial)).await,
        }
    }

    /// The partial file of the blob, ours alone; none where the layer is there by the time that it could be ours.
    async fn partial(&self) -> Result<Option<Partial>, StoreError> {
        let path = self.store.at("partial").join(self.layer.descriptor.digest.hex());
        loop {
            let wanted = path.clone();
            let own = blocking(move || files::try_own(&wanted)).await?;
            if self.is_there().await {
                if own.is_some() {
                    files::remove(&path)?;
                }
                return Ok(None);
            }
            if let Some(file) = own {
                return Ok(Some(Partial { file, path }));
            }
            // Whoever has it may take long. Waiting for a lock would take a thread that cannot be called back.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn unpack_partial(self, mut partial: Partial) -> Result<(), StoreError> {
        partial
            .file
            .seek(SeekFrom::Start(0))
            .map_err(disk(&partial.path))?;
        let unpacked = self.unpack(&partial.file);
        // What is whole and cannot be unpacked will not be better next time.
        let is_done = match &unpacked {
            Ok(()) => true,
            Err(StoreError::Unpack { source, .. }) => source.is_of_layer(),
            Err(_) => false,
        };
        if is_done {
            files::remove(&partial.path)?;
        }
        unpacked?;
        self.tell(Event::Stored { layer: self.number })
    }
}

/// A partial file with its lock.
struct Partial {
    file: File,
    path: PathBuf,
}
