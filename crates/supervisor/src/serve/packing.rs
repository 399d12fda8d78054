//! What an object is packed into when it leaves: a capsule, its volume beside it; or another directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use suijuris_api::Problem;
use suijuris_core::RecordId;
use suijuris_custody::chain;
use suijuris_store::capsule::{self, Decrypted};
use suijuris_store::{Depth, ObjectDir, Reader, Sizes};
use suijuris_vehicle::Driver;
use zeroize::Zeroizing;

use super::catalog;
use super::roster::Roster;
use crate::paths::ObjectPaths;
use crate::volume;

/// Owners and others whom keys are sealed to at most.
const MAX_RECIPIENTS: usize = 64;

/// Seals and opens what must not stand in a capsule in clear; the cryptography is the caller's.
pub trait KeyWrap: Send + Sync {
    /// Seals to these recipients.
    ///
    /// # Errors
    /// In words: one of them is none.
    fn seal(&self, clear: &Decrypted, to: &[String]) -> Result<Vec<u8>, String>;

    /// Whether something can be sealed to these recipients.
    ///
    /// # Errors
    /// In words: one of them is none.
    fn check(&self, to: &[String]) -> Result<(), String>;

    /// A fresh identity, and the recipient that others seal to.
    ///
    /// # Errors
    /// In words.
    fn fresh(&self) -> Result<(Zeroizing<String>, String), String>;

    /// Opens what was sealed to this identity.
    ///
    /// # Errors
    /// In words: it was sealed to another.
    fn open(&self, sealed: &[u8], identity: &str) -> Result<Decrypted, String>;
}

/// Where something is packed, and whom its key is sealed to.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) file: PathBuf,
    pub(crate) seal_to: Vec<String>,
    pub(crate) volume: bool,
}

/// Of which state, and for whom, something is packed that is carried to a server: it is carried on as it is, for two packed files of one
/// state are sealed with other random bytes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedFor {
    head: String,
    seal_to: Vec<String>,
    volume: bool,
}

impl PackedFor {
    /// The state after `head`, sealed to these recipients, with its volume or without.
    #[must_use]
    pub fn new(head: &RecordId, seal_to: &[String], volume: bool) -> Self {
        let (head, seal_to) = (head.to_string(), seal_to.to_vec());
        Self {
            head,
            seal_to,
            volume,
        }
    }

    fn note_of(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(".json");
        name.into()
    }

    /// Whether the capsule `file` was packed so, whole.
    #[must_use]
    pub fn is(&self, file: &Path) -> bool {
        file.exists() && catalog::note::<Self>(&Self::note_of(file)).is_ok_and(|noted| noted == *self)
    }

    /// Notes that the capsule `file`, whole and durable like the volume beside it, was packed so.
    ///
    /// # Errors
    /// In words.
    pub fn note(&self, file: &Path) -> Result<(), String> {
        let note = Self::note_of(file);
        let name = note.file_name().unwrap_or_default().to_string_lossy();
        let dir = file.parent().unwrap_or_else(|| Path::new("."));
        catalog::write(dir, &name, self).map_err(|error| chain(&error))
    }

    /// Removes what was packed, before other things are packed there or once nobody carries it any more.
    pub fn remove(file: &Path) {
        // The note goes first: without it the rest counts for nothing.
        for path in [Self::note_of(file), file.to_owned(), volume::beside(file)] {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl<D: Driver> Roster<D> {
    /// Where it is packed; its key has to be somebody's.
    pub(super) fn sealed_parcel(
        &self,
        file: PathBuf,
        seal_to: Vec<String>,
        volume: bool,
    ) -> Result<Parcel, Problem> {
        let wrong =
            |why: &str| Problem::new(400, "bad_request", "The request cannot be understood").with_detail(why);
        if seal_to.is_empty() || seal_to.len() > MAX_RECIPIENTS {
            return Err(wrong(&format!(
                "say whom its key is sealed to, 1 to {MAX_RECIPIENTS} age recipients in `seal_to`: without it the capsule cannot wake"
            )));
        }
        self.wrap.check(&seal_to).map_err(|why| wrong(&why))?;
        Ok(Parcel {
            file,
            seal_to,
            volume,
        })
    }

    /// As [`Roster::pack`], for a server: what was packed for it before is carried on.
    pub(super) async fn pack_for_server(
        &self,
        paths: &ObjectPaths,
        parcel: &Parcel,
        head: &RecordId,
    ) -> Result<Option<PathBuf>, String> {
        let packed_for = PackedFor::new(head, &parcel.seal_to, parcel.volume);
        if packed_for.is(&parcel.file) {
            return Ok(Some(volume::beside(&parcel.file)).filter(|volume| volume.exists()));
        }
        PackedFor::remove(&parcel.file);
        let volume = self.pack(paths, parcel).await?;
        packed_for.note(&parcel.file)?;
        Ok(volume)
    }

    /// Writes capsule and volume; where the volume is, where there is one.
    pub(super) async fn pack(&self, paths: &ObjectPaths, parcel: &Parcel) -> Result<Option<PathBuf>, String> {
        packed(paths, parcel, &self.wrap).await
    }
}

/// Writes capsule and volume of what lies in `paths`, beside everything else.
pub(crate) async fn packed(
    paths: &ObjectPaths,
    parcel: &Parcel,
    wrap: &Arc<dyn KeyWrap>,
) -> Result<Option<PathBuf>, String> {
    let (home, data, parcel, wrap) = (paths.home(), paths.data.clone(), parcel.clone(), wrap.clone());
    let packed = tokio::task::spawn_blocking(move || pack(&home, &data, &parcel, &wrap));
    packed.await.map_err(|error| error.to_string())?
}

/// Writes the capsule of what lies in `home`, and its volume beside it.
fn pack(
    home: &ObjectDir,
    data: &Path,
    parcel: &Parcel,
    wrap: &Arc<dyn KeyWrap>,
) -> Result<Option<PathBuf>, String> {
    let file = &parcel.file;
    let disk = |error: std::io::Error| format!("`{}` cannot be written: {error}", file.display());
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(disk)?;
    }
    let reader = Reader::open(home, Depth::Tail).map_err(|error| chain(&error))?;
    let clear = Decrypted::of(home, reader.state()).map_err(|error| chain(&error))?;
    let sealed = wrap.seal(&clear, &parcel.seal_to)?;
    let packed = volume::beside(file);
    let packed = if parcel.volume && volume::has_files(data) {
        volume::pack(&data.join("volume"), &reader.state().head().record, &packed).map_err(disk)?;
        Some(packed)
    } else {
        // Of an earlier leaving, to the same place.
        let _ = std::fs::remove_file(&packed);
        None
    };
    volume::whole(file, |out| {
        let exported = capsule::export(&reader, out, Some(&sealed), |_| {});
        exported.map(drop).map_err(|error| chain(&error))
    })?;
    Ok(packed)
}

/// Carries a departed object to another directory: its history by a capsule that is verified on the way, its volume file by
/// file. Interrupted, it is done again from the start: nobody has arrived.
///
/// # Errors
/// In words.
pub fn carry(from: &ObjectPaths, to: &ObjectPaths) -> Result<(), String> {
    let disk = |error: std::io::Error| format!("`{}` cannot be written: {error}", to.data.display());
    if let Some(parent) = to.data.parent() {
        std::fs::create_dir_all(parent).map_err(disk)?;
    }
    let reader = Reader::open(&from.home(), Depth::Tail).map_err(|error| chain(&error))?;
    let clear = Decrypted::of(&from.home(), reader.state()).map_err(|error| chain(&error))?;
    let mut file = volume::unnamed(&to.data).map_err(disk)?;
    capsule::export(&reader, &file, None, |_| {}).map_err(|error| chain(&error))?;
    std::io::Seek::rewind(&mut file).map_err(disk)?;
    let open = |_: Option<&[u8]>| Ok::<_, std::convert::Infallible>(Some(clear));
    let source = std::io::BufReader::new(file);
    capsule::import(source, &to.home(), Sizes::default(), open, |_| {}).map_err(|error| chain(&error))?;
    volume::copy(&from.data.join("volume"), &to.data.join("volume")).map_err(disk)
}
