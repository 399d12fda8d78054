//! Pulling an image into the store: some layers at a time, each fetched on from where the last attempt ended, unpacked, and
//! put in its place by one rename.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::{Hold, ImageStore, StoreError, check_name, disk, files};
use crate::descriptor::ContentDigest;
use crate::image::{Image, Layer, Platform};
use crate::source::{Kind, Source, blocking};
use crate::unpack::{self, Expected, Step, UnpackError};

/// What happens in a pull. Layers are numbered as in [`Image::layers`], from 0; one that stands twice is told once.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The image is known.
    Resolved(&'a Image),
    /// A layer was in the store already.
    Present {
        /// Which.
        layer: usize,
    },
    /// A layer comes.
    Fetching {
        /// Which.
        layer: usize,
        /// Bytes of the blob that are here, with those of earlier attempts.
        done: u64,
        /// Bytes of the blob.
        total: u64,
    },
    /// A layer is being unpacked.
    Unpacking {
        /// Which.
        layer: usize,
        /// Members and bytes so far.
        step: Step,
    },
    /// A layer is in the store.
    Stored {
        /// Which.
        layer: usize,
    },
}

/// Is told what happens in a pull, from several threads. Called often; must not block for long.
pub trait Observer: Send + Sync {
    /// `Break` ends the pull with [`StoreError::Cancelled`]; what was fetched until then is kept for the next one.
    fn observe(&self, event: Event<'_>) -> ControlFlow<()>;
}

/// Looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Ends the threads of a pull that was dropped.
struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One layer of a pull.
pub(super) struct Task {
    pub(super) store: ImageStore,
    source: Source,
    pub(super) layer: Layer,
    pub(super) number: usize,
    pub(super) observer: Arc<dyn Observer>,
    ended: Arc<AtomicBool>,
}

impl ImageStore {
    /// Pulls the image of a source for a platform, and names it `name`; a name that was there moves. The image is held until
    /// what is returned is dropped.
    ///
    /// May be dropped at any await: threads that unpack end soon after, the name is not written, and what was fetched of
    /// registries is gone on with by the next pull of the same layer, in this process or another. The same layer is fetched
    /// once at a time: others wait for it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn pull(
        &self,
        source: &Source,
        name: &str,
        platform: &Platform,
        observer: Arc<dyn Observer>,
    ) -> Result<Hold, StoreError> {
        check_name(name)?;
        let image = source.resolve(platform).await?;
        if observer.observe(Event::Resolved(&image)).is_break() {
            return Err(StoreError::Cancelled);
        }
        let (store, keep) = (self.clone(), self.0.options.partial_bytes);
        let hold = blocking(move || {
            store.trim_partials(keep)?;
            store.register(image)
        });
        let hold = hold.await?;
        self.layers(source, hold.image(), &observer).await?;
        let (store, name) = (self.clone(), name.to_owned());
        blocking(move || {
            store.name(&name, hold.image())?;
            Ok(hold)
        })
        .await
    }

    async fn layers(
        &self,
        source: &Source,
        image: &Image,
        observer: &Arc<dyn Observer>,
    ) -> Result<(), StoreError> {
        let ended = EndOnDrop(Arc::default());
        let mut waiting: Vec<Task> = Vec::new();
        for (number, layer) in image.layers().iter().enumerate() {
            if waiting.iter().all(|task| task.layer.diff_id != layer.diff_id) {
                waiting.push(Task {
                    store: self.clone(),
                    source: source.clone(),
                    layer: layer.clone(),
                    number,
                    observer: Arc::clone(observer),
                    ended: Arc::clone(&ended.0),
                });
            }
        }
        let mut waiting = waiting.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < self.0.options.parallel.max(1)
                && let Some(task) = waiting.next()
            {
                running.spawn(task.run());
            }
            match running.join_next().await {
                None => return Ok(()),
                Some(Ok(done)) => done?,
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(StoreError::Cancelled),
                },
            }
        }
    }
}

impl Task {
    async fn run(self) -> Result<(), StoreError> {
        if self.is_there().await {
            return self.tell(Event::Present { layer: self.number });
        }
        match self.source.0.clone() {
            Kind::Local(_) => blocking(move || self.unpack_local()).await,
            #[cfg(feature = "registry")]
            Kind::Registry(registry, reference) => self.fetch(&registry, &reference).await,
        }
    }

    pub(super) fn tell(&self, event: Event<'_>) -> Result<(), StoreError> {
        if self.observer.observe(event).is_break() {
            Err(StoreError::Cancelled)
        } else {
            Ok(())
        }
    }

    pub(super) async fn is_there(&self) -> bool {
        let (store, diff_id) = (self.store.clone(), self.layer.diff_id);
        blocking(move || store.has_layer(diff_id)).await
    }

    fn unpack_local(self) -> Result<(), StoreError> {
        let Some(opened) = self.source.open(&self.layer.descriptor) else {
            return Err(StoreError::Cancelled);
        };
        let (input, total) = opened?;
        self.tell(Event::Fetching {
            layer: self.number,
            done: 0,
            total,
        })?;
        self.unpack(input)?;
        self.tell(Event::Fetching {
            layer: self.number,
            done: total,
            total,
        })?;
        self.tell(Event::Stored { layer: self.number })
    }

    pub(super) fn unpack(&self, input: impl Read) -> Result<(), StoreError> {
        let mut watch = |step| {
            if self.ended.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            self.observer.observe(Event::Unpacking {
                layer: self.number,
                step,
            })
        };
        self.store.unpack(input, &self.layer, &mut watch)
    }
}

/// A place to unpack to; what is left in it is removed.
struct Stage {
    dir: PathBuf,
    lock: PathBuf,
    _locked: File,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = files::remove(&self.lock);
    }
}

impl ImageStore {
    fn stage(&self) -> Result<Stage, StoreError> {
        let dir = self.at("stage");
        // A collection cannot come between making and locking.
        let _shared = self.lock_shared()?;
        let lock = tempfile::Builder::new()
            .prefix("layer-")
            .suffix(".lock")
            .tempfile_in(&dir)
            .map_err(disk(&dir))?;
        lock.as_file().lock().map_err(disk(&dir))?;
        let (locked, lock) = lock.keep().map_err(|error| disk(&dir)(error.error))?;
        let stage = Stage {
            dir: lock.with_extension(""),
            lock,
            _locked: locked,
        };
        std::fs::create_dir(&stage.dir).map_err(disk(&stage.dir))?;
        Ok(stage)
    }

    /// Unpacks a layer beside its place, and moves it there once all of it is on disk.
    fn unpack(
        &self,
        input: impl Read,
        layer: &Layer,
        watch: &mut unpack::Watch<'_>,
    ) -> Result<(), StoreError> {
        let stage = self.stage()?;
        let tree = stage.dir.join("tree");
        std::fs::create_dir(&tree).map_err(disk(&tree))?;
        let options = &self.0.options;
        let expected = Expected {
            digest: layer.descriptor.digest,
            size: layer.descriptor.size,
            diff_id: layer.diff_id,
        };
        let input = BufReader::with_capacity(1 << 18, input);
        let unpacked = unpack::layer(input, &expected, &tree, options.as_root, options.limits, watch)
            .map_err(|source| match source {
                UnpackError::Cancelled => StoreError::Cancelled,
                source => StoreError::Unpack {
                    digest: layer.descriptor.digest,
                    source,
                },
            })?;
        let record = stage.dir.join("entries");
        let out = File::create_new(&record).map_err(disk(&record))?;
        unpack::write_entries(&unpacked.entries, BufWriter::new(out)).map_err(disk(&record))?;
        let about = stage.dir.join("layer.json");
        std::fs::write(&about, files::json(&about, &unpacked.report)?).map_err(disk(&about))?;
        // One call for all files, however many: nothing is named before it is on disk.
        let synced = File::open(&stage.dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(disk(&stage.dir))?;
        self.place(&stage, layer.diff_id)
    }

    fn place(&self, stage: &Stage, diff_id: ContentDigest) -> Result<(), StoreError> {
        let place = self.layer_dir(diff_id);
        match std::fs::rename(&stage.dir, &place) {
            // Another one was faster, from another blob.
            Err(_) if self.has_layer(diff_id) => Ok(()),
            Err(error) => Err(disk(&place)(error)),
            Ok(()) => files::sync_dir(&self.at("layers")),
        }
    }
}
