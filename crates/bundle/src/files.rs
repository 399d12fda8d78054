//! Reading files with bounds, and a built bundle as files: `manifest.cbor`, `governance.cedar`, `program.cbor`.
//!
//! [`Files`] is what an object carries. [`Files::verify`] holds each part to the digest that names it and compiles the
//! rules again; machines check the same but for the compiler, which they lack.

use std::io;
use std::path::{Path, PathBuf};

use suijuris_core::governance::{MAX_BYTES as MAX_PROGRAM_BYTES, Program, ProgramError, Vocabulary};
use suijuris_core::manifest::{self, Manifest};
use suijuris_core::{BlobId, BundleId};
use suijuris_oci::file;

use crate::rules;

/// Size of `object.toml` at most, bytes.
pub const MAX_DEFINITION_BYTES: usize = 1 << 20;

/// Size of `governance.cedar` at most, bytes.
pub const MAX_GOVERNANCE_BYTES: usize = suijuris_policy::MAX_SOURCE_BYTES;

/// Size of a key file at most, bytes; an RSA key of 8,192 bits takes two thousand.
pub(crate) const MAX_KEY_BYTES: usize = 16_384;

/// Name of the definition in an object's directory.
pub const DEFINITION: &str = "object.toml";

/// Name of the rules, in an object's directory and in a bundle's.
pub const GOVERNANCE: &str = "governance.cedar";

const MANIFEST: &str = "manifest.cbor";
const PROGRAM: &str = "program.cbor";

/// Why a file cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, is no plain file, or is too long.
    #[error(transparent)]
    Bytes(#[from] file::FileError),
    /// Not text.
    #[error("`{path}` is not UTF-8 from byte {at} on; save it as UTF-8")]
    NotText {
        /// The file.
        path: PathBuf,
        /// First byte that is not.
        at: usize,
    },
}

impl FileError {
    /// The error with its cause, in one line.
    pub(crate) fn with_cause(&self) -> String {
        match self {
            Self::Bytes(file::FileError::Read { source, .. }) => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// Reads a plain file of at most `max` bytes.
pub(crate) fn bytes(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    Ok(file::bytes(path, max)?)
}

/// Reads a plain UTF-8 file of at most `max` bytes.
pub(crate) fn text(path: &Path, max: usize) -> Result<String, FileError> {
    String::from_utf8(bytes(path, max)?).map_err(|error| FileError::NotText {
        path: path.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })
}

/// The bytes of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The manifest; its CID is the bundle's id.
    pub manifest: Vec<u8>,
    /// The Cedar text.
    pub governance: String,
    /// The decision program.
    pub program: Vec<u8>,
}

/// A bundle whose parts belong together.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Identity.
    pub id: BundleId,
    /// The manifest.
    pub manifest: Manifest,
    /// The decision program.
    pub program: Program,
}

/// Why the parts of a bundle do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A part cannot be read.
    #[error("a part of the bundle is missing or unreadable; build the bundle again")]
    File(#[from] FileError),
    /// The manifest is none.
    #[error("the manifest cannot be used; build the bundle again")]
    Manifest(#[from] manifest::Error),
    /// A part is not the one that the manifest names.
    #[error(
        "the {part} is not the one that the manifest names: {found} instead of {wanted}; build the bundle again"
    )]
    Digest {
        /// Which part.
        part: &'static str,
        /// What it is.
        found: BlobId,
        /// What it should be.
        wanted: BlobId,
    },
    /// The program is none.
    #[error("the decision program cannot be used; build the bundle again")]
    Program(#[from] ProgramError),
    /// The rules do not compile any more.
    #[error("the rules do not compile with this version of suijuris; build the bundle again")]
    Rules(#[source] crate::Report),
    /// The rules compile to something else.
    #[error(
        "the decision program is not what the rules compile to: it was altered, or built by another version; build the bundle again"
    )]
    OtherProgram,
}

impl Files {
    /// Reads the parts from `dir`; nothing is verified yet.
    ///
    /// # Errors
    /// [`FileError`] for a part that is missing, too long or no text.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        Ok(Self {
            manifest: bytes(&dir.join(MANIFEST), manifest::MAX_BYTES)?,
            governance: text(&dir.join(GOVERNANCE), MAX_GOVERNANCE_BYTES)?,
            program: bytes(&dir.join(PROGRAM), MAX_PROGRAM_BYTES)?,
        })
    }

    /// Writes the parts into `dir`, which is made if need be; the manifest last, so that a bundle cut short by a crash
    /// has none. Not durable before the caller has synced `dir`.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(GOVERNANCE), &self.governance)?;
        std::fs::write(dir.join(PROGRAM), &self.program)?;
        std::fs::write(dir.join(MANIFEST), &self.manifest)
    }

    /// Holds the parts to each other: digests match and the rules compile to the very program.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not belong.
    pub fn verify(&self) -> Result<Verified, VerifyError> {
        let (id, manifest) = Manifest::decode(&self.manifest)?;
        belongs("rule text", self.governance.as_bytes(), manifest.governance)?;
        belongs("decision program", &self.program, manifest.program)?;
        let program = Program::decode(&self.program)?;
        let compiled = rules::compile(&vocabulary(&manifest), &self.governance).map_err(|diagnostics| {
            let mut report = crate::Report::default();
            report.source(GOVERNANCE, self.governance.clone());
            report.extend(diagnostics);
            VerifyError::Rules(report)
        })?;
        if compiled.program.encode()? == self.program {
            Ok(Verified {
                id,
                manifest,
                program,
            })
        } else {
            Err(VerifyError::OtherProgram)
        }
    }
}

fn belongs(part: &'static str, bytes: &[u8], wanted: BlobId) -> Result<(), VerifyError> {
    let found = BlobId::of(bytes);
    if found == wanted {
        Ok(())
    } else {
        Err(VerifyError::Digest { part, found, wanted })
    }
}

/// Reads a built bundle from `dir` and verifies it.
///
/// # Errors
/// As [`Files::read`] and [`Files::verify`].
pub fn verify_files(dir: &Path) -> Result<Verified, VerifyError> {
    Files::read(dir)?.verify()
}

/// The words that the rules of this bundle may use.
#[must_use]
pub fn vocabulary(manifest: &Manifest) -> Vocabulary {
    manifest.vocabulary()
}
