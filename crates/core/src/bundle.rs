//! A bundle as machines hold it: manifest, governance text and decision program, each the one that was named.
//!
//! Opening checks digests, so that whatever holds a [`Bundle`] holds exactly the definition of its id. That the
//! program is what the text compiles to is checked where a compiler is at hand: `check` and `verify`.

mod narrows;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::decide::Rules;
use crate::governance::{MAX_BYTES as MAX_PROGRAM_BYTES, Program, ProgramError, Vocabulary};
use crate::id::{BlobId, BundleId};
use crate::manifest::{self, Manifest};
use crate::memory::Schema;

pub use narrows::{Wider, narrows};

/// Size of the governance text at most, bytes.
pub const MAX_GOVERNANCE_BYTES: usize = 1 << 20;

/// Size of an encoded [`Files`] at most, bytes.
pub const MAX_FILES_BYTES: usize = manifest::MAX_BYTES + MAX_GOVERNANCE_BYTES + MAX_PROGRAM_BYTES + 1_024;

/// The files of a bundle in one byte string, as a depot keeps them. Nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    v: u32,
    /// The manifest; its CID is the bundle's id.
    #[serde(with = "serde_bytes")]
    pub manifest: Vec<u8>,
    /// The Cedar text.
    #[serde(with = "serde_bytes")]
    pub governance: Vec<u8>,
    /// The decision program.
    #[serde(with = "serde_bytes")]
    pub program: Vec<u8>,
}

impl Files {
    /// These files.
    #[must_use]
    pub const fn new(manifest: Vec<u8>, governance: Vec<u8>, program: Vec<u8>) -> Self {
        let v = 1;
        Self {
            v,
            manifest,
            governance,
            program,
        }
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, codec::Error> {
        codec::encode(self)
    }

    /// Reads and opens the bundle that lineage names.
    ///
    /// # Errors
    /// [`Error`] with the first part that is not usable or not the one named.
    pub fn open(expected: BundleId, bytes: &[u8]) -> Result<Bundle, Error> {
        let files: Self = codec::decode(bytes, MAX_FILES_BYTES).map_err(Error::Files)?;
        if files.v != 1 {
            return Err(Error::Version(files.v));
        }
        Bundle::open_named(expected, &files.manifest, files.governance, &files.program)
    }
}

/// A whole bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The manifest.
    pub manifest: Manifest,
    /// The Cedar text.
    pub governance: String,
    /// The rules, ready to judge; they name the bundle.
    pub rules: Rules,
    schema: Arc<Schema>,
}

/// Why files are not the bundle they are said to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the canonical bytes of a bundle's files.
    #[error("the bundle's files cannot be read")]
    Files(#[source] codec::Error),
    /// Of a later format.
    #[error("the bundle's files have version {0}, this program reads version 1; use a newer suijuris")]
    Version(u32),
    /// The manifest.
    #[error("the bundle's manifest is not usable")]
    Manifest(#[from] manifest::Error),
    /// Another digest than the one wanted.
    #[error("the bundle is {found}, expected {expected}: it was swapped or altered")]
    OtherBundle {
        /// Digest of the manifest at hand.
        found: BundleId,
        /// Digest that lineage names.
        expected: BundleId,
    },
    /// A file that the manifest does not name.
    #[error("the bundle's {0} is not the one its manifest names: it was swapped or altered")]
    Swapped(&'static str),
    /// The governance text is not text, or too long.
    #[error("the bundle's governance is not UTF-8 text of at most {MAX_GOVERNANCE_BYTES} bytes")]
    Governance,
    /// The program is not sound.
    #[error("the bundle's decision program is not usable; build the bundle again")]
    Program(#[from] ProgramError),
}

impl Manifest {
    /// The words that this bundle's rules may use.
    #[must_use]
    pub fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            memory: self.memory.clone(),
            claims: self.claims.clone(),
            headers: self.gate.headers.clone(),
        }
    }
}

impl Bundle {
    /// Opens a bundle from its three files.
    ///
    /// # Errors
    /// [`Error`] with the first file that is not usable or not the one named.
    pub fn open(manifest: &[u8], governance: Vec<u8>, program: &[u8]) -> Result<Self, Error> {
        let (id, manifest) = Manifest::decode(manifest)?;
        if BlobId::of(&governance) != manifest.governance {
            return Err(Error::Swapped("governance"));
        }
        if BlobId::of(program) != manifest.program {
            return Err(Error::Swapped("program"));
        }
        let governance = String::from_utf8(governance).map_err(|_| Error::Governance)?;
        if governance.len() > MAX_GOVERNANCE_BYTES {
            return Err(Error::Governance);
        }
        let vocabulary = manifest.vocabulary();
        let rules = Rules {
            bundle: id,
            program: Program::decode(program)?,
            vocabulary,
        };
        let schema = Arc::new(manifest.memory.clone());
        Ok(Self {
            manifest,
            governance,
            rules,
            schema,
        })
    }

    /// Opens the bundle that lineage names.
    ///
    /// # Errors
    /// As [`Bundle::open`]; [`Error::OtherBundle`] where the files are another bundle.
    pub fn open_named(
        expected: BundleId,
        manifest: &[u8],
        governance: Vec<u8>,
        program: &[u8],
    ) -> Result<Self, Error> {
        let found = BundleId::of(manifest);
        if found != expected {
            return Err(Error::OtherBundle { found, expected });
        }
        Self::open(manifest, governance, program)
    }

    /// Identity.
    #[must_use]
    pub const fn id(&self) -> BundleId {
        self.rules.bundle
    }

    /// Memory schema.
    #[must_use]
    pub const fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }
}
