//! Bundles that an object's history names: written once, checked against their ids whenever they are read.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use suijuris_core::bundle::{self, Bundle, MAX_GOVERNANCE_BYTES};
pub use suijuris_core::bundle::{Files as BundleFiles, MAX_FILES_BYTES as MAX_BUNDLE_BYTES, NotFiles};
use suijuris_core::id::{BlobId, BundleId};
use suijuris_core::lineage::Bundles;
use suijuris_core::manifest;
use suijuris_core::memory::Schema;

use crate::disk::{self, Together};
use crate::object_dir::ObjectDir;

const MAX_PROGRAM_BYTES: u64 = 16 << 20;

/// Why a bundle cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or cannot be read or written.
    #[error("its file `{file}` cannot be used")]
    Disk {
        /// Which file.
        file: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The files are not the bundle.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
}

/// The bundles of one object; each is read and checked once.
#[derive(Debug)]
pub struct BundleStore {
    object_dir: ObjectDir,
    open: Mutex<BTreeMap<BundleId, Arc<Bundle>>>,
}

impl BundleStore {
    /// The bundles in `object_dir`; reads nothing yet.
    #[must_use]
    pub fn of(object_dir: &ObjectDir) -> Self {
        Self {
            object_dir: object_dir.clone(),
            open: Mutex::default(),
        }
    }

    /// The bundle `id`, checked.
    ///
    /// # Errors
    /// [`Error`] where a file is missing or is not the one that was named.
    pub fn bundle(&self, id: &BundleId) -> Result<Arc<Bundle>, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bundle) = open.get(id) {
            return Ok(Arc::clone(bundle));
        }
        let files = self.files(id)?;
        let bundle = open_shared(*id, &files)?;
        open.insert(*id, Arc::clone(&bundle));
        Ok(bundle)
    }

    /// The three files of bundle `id` as they stand.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn files(&self, id: &BundleId) -> Result<BundleFiles, Error> {
        let dir = self.object_dir.bundles().join(id.to_string());
        let read = |file: &'static str, max: u64| {
            disk::read(&*self.object_dir.disk, &dir.join(file), max)
                .map_err(|source| Error::Disk { file, source })
        };
        Ok(BundleFiles {
            manifest: read("manifest", manifest::MAX_BYTES as u64)?,
            governance: read("governance.cedar", MAX_GOVERNANCE_BYTES as u64)?,
            program: read("program", MAX_PROGRAM_BYTES)?,
        })
    }

    /// Puts a bundle into the store, durably, before a record names it. One that is there is left as it is.
    ///
    /// # Errors
    /// [`Error`] where the files are not a bundle, or cannot be written.
    pub fn put(&self, files: &BundleFiles) -> Result<Arc<Bundle>, Error> {
        let mut together = Together::on(&*self.object_dir.disk);
        let bundle = self.put_together(files, &mut together)?;
        together.sync().map_err(|source| Error::Disk {
            file: "bundles",
            source,
        })?;
        Ok(bundle)
    }

    /// As [`BundleStore::put`], durable once `together` is.
    pub(crate) fn put_together(
        &self,
        files: &BundleFiles,
        together: &mut Together<'_>,
    ) -> Result<Arc<Bundle>, Error> {
        let id = BundleId::of(&files.manifest);
        let bundle = open_shared(id, files)?;
        if let Ok(there) = self.bundle(&id) {
            return Ok(there);
        }
        let bundles = self.object_dir.bundles();
        let dir = bundles.join(id.to_string());
        let failed = |file: &'static str| move |source| Error::Disk { file, source };
        together.dir(&bundles).map_err(failed("bundles"))?;
        together.dir(&dir).map_err(failed("bundles"))?;
        for (file, bytes) in [
            ("governance.cedar", &files.governance),
            ("program", &files.program),
            ("manifest", &files.manifest),
        ] {
            together.file(&dir.join(file), bytes).map_err(failed(file))?;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(id, Arc::clone(&bundle));
        Ok(bundle)
    }

    /// Takes a bundle out of the store again; no record may name it.
    pub(crate) fn remove(&self, id: &BundleId) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(id);
        let (disk, dir) = (
            &*self.object_dir.disk,
            self.object_dir.bundles().join(id.to_string()),
        );
        for name in disk::optional(disk.list(&dir))?.unwrap_or_default() {
            disk.remove(&dir.join(name))?;
        }
        disk.remove_dir(&dir)
    }
}

/// The bundle `expected` as all objects of this process have it: one in memory for each id. These files are checked all the
/// same.
fn open_shared(expected: BundleId, files: &BundleFiles) -> Result<Arc<Bundle>, bundle::Error> {
    static KNOWN: Mutex<BTreeMap<BundleId, Weak<Bundle>>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let there = known().get(&expected).and_then(Weak::upgrade);
    if let Some(there) = there.filter(|there| {
        BundleId::of(&files.manifest) == expected
            && BlobId::of(&files.governance) == there.manifest.governance
            && BlobId::of(&files.program) == there.manifest.program
    }) {
        return Ok(there);
    }
    let governance = files.governance.clone();
    let bundle = Arc::new(Bundle::open_named(
        expected,
        &files.manifest,
        governance,
        &files.program,
    )?);
    let mut known = known();
    known.retain(|_, bundle| bundle.strong_count() > 0);
    known.insert(expected, Arc::downgrade(&bundle));
    Ok(bundle)
}

impl Bundles for BundleStore {
    fn schema(&self, id: &BundleId) -> Option<Arc<Schema>> {
        Some(Arc::clone(self.bundle(id).ok()?.schema()))
    }
}
