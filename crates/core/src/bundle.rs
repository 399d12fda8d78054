//! A bundle as machines hold it: manifest, governance text and decision program, each the one that was named.
//!
//! Opening checks digests, so that whatever holds a [`Bundle`] holds exactly the definition of its id. That the
//! program is what the text compiles to is checked where a compiler is at hand: `check` and `verify`.

mod attenuation;

use std::sync::Arc;

use crate::decide::Rules;
use crate::governance::{Program, ProgramError, Vocabulary};
use crate::id::{BlobId, BundleId};
use crate::manifest::{self, Manifest};
use crate::memory::Schema;

pub use attenuation::{NotAttenuated, check_attenuation};

/// Size of the governance text at most, bytes.
pub const MAX_GOVERNANCE_BYTES: usize = 1 << 20;

/// Size of a bundle as one byte string at most, bytes.
pub const MAX_FILES_BYTES: usize = 4 << 20;

/// Bytes in front of the files of a bundle as one byte string: their sizes.
const SIZES_BYTES: usize = 12;

/// A bundle as three files; nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Canonical bytes of the manifest; its CID is the bundle's id.
    pub manifest: Vec<u8>,
    /// The Cedar text.
    pub governance: Vec<u8>,
    /// Bytes of the decision program.
    pub program: Vec<u8>,
}

/// Why bytes are not the files of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFiles {
    /// Too many bytes.
    #[error("the bundle's files have {0} bytes in all; at most {MAX_FILES_BYTES} are allowed")]
    TooLarge(usize),
    /// The sizes in front do not fit what follows.
    #[error("the sizes of the bundle's files do not fit its bytes")]
    Sizes,
}

impl Files {
    /// Opens the bundle.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn open(&self) -> Result<Bundle, Error> {
        Bundle::open(&self.manifest, self.governance.clone(), &self.program)
    }

    /// The three files as one byte string, for capsules and depots: the sizes of manifest, governance and program as
    /// big-endian `u32`, then the files in that order.
    ///
    /// # Errors
    /// [`NotFiles::TooLarge`] beyond [`MAX_FILES_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, NotFiles> {
        let files = [&self.manifest, &self.governance, &self.program];
        let len = files.iter().map(|file| file.len()).sum::<usize>() + SIZES_BYTES;
        if len > MAX_FILES_BYTES {
            return Err(NotFiles::TooLarge(len));
        }
        let sizes = files.map(|file| u32::try_from(file.len()).unwrap_or(u32::MAX).to_be_bytes());
        Ok([sizes.as_flattened(), files.map(Vec::as_slice).concat().as_slice()].concat())
    }

    /// Reads what [`Files::encode`] wrote. That the files are a bundle, [`Files::open`] says.
    ///
    /// # Errors
    /// [`NotFiles`].
    pub fn decode(bytes: &[u8]) -> Result<Self, NotFiles> {
        if bytes.len() > MAX_FILES_BYTES {
            return Err(NotFiles::TooLarge(bytes.len()));
        }
        Self::split(bytes).ok_or(NotFiles::Sizes)
    }

    fn split(bytes: &[u8]) -> Option<Self> {
        let (sizes, mut rest) = bytes.split_at_checked(SIZES_BYTES)?;
        let mut files = [const { Vec::new() }; 3];
        for (file, size) in files.iter_mut().zip(sizes.as_chunks::<4>().0) {
            let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
            let (taken, behind) = rest.split_at_checked(size)?;
            *file = taken.to_vec();
            rest = behind;
        }
        let [manifest, governance, program] = files;
        rest.is_empty().then_some(Self {
            manifest,
            governance,
            program,
        })
    }

    /// Reads and opens the bundle that lineage names.
    ///
    /// # Errors
    /// [`Error`] with the first part that is not usable or not the one named.
    pub fn open_named(expected: BundleId, bytes: &[u8]) -> Result<Bundle, Error> {
        let files = Self::decode(bytes)?;
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
    /// Bytes that are not its files.
    #[error("the bundle's files cannot be read")]
    Files(#[from] NotFiles),
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
            class: self.class.is_some(),
            rates: self.rates.clone(),
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
