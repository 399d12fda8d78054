//! Secrets at rest: XChaCha20-Poly1305 under a key in a file of its own, which only the daemon's user may read. A copy of the
//! state without that file gives nothing away; whoever has both has all.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::ids::{NoRandomness, random};

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of a nonce, which stands before what it seals.
const NONCE_BYTES: usize = 24;

/// Why secrets cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file is open to others.
    #[error("{} may be read by others: chmod 600 it, and change the secrets if others were there", .0.display())]
    Open(PathBuf),
    /// The key's file is no key.
    #[error("{} is no key of {KEY_BYTES} bytes: restore it from a backup", .0.display())]
    NotAKey(PathBuf),
    /// The system's answer.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// It was sealed with another key, for another place, or is damaged.
    #[error("a secret cannot be opened: it was sealed with another key, or is damaged")]
    Broken,
}

/// Seals and opens.
pub(crate) struct Sealer(XChaCha20Poly1305);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// The sealer whose key is in `path`; a key is made where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, SealError> {
        Self::from_key(&*key_file(path)?).ok_or(SealError::Broken)
    }

    /// A sealer with this key.
    pub(crate) fn from_key(key: &[u8]) -> Option<Self> {
        XChaCha20Poly1305::new_from_slice(key).ok().map(Self)
    }

    /// Seals `text` for `place`, outside of which it cannot be opened.
    pub(crate) fn seal(&self, place: &[u8], text: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = random::<NONCE_BYTES>()?;
        let payload = Payload {
            msg: text,
            aad: place,
        };
        let sealed = self
            .0
            .encrypt(XNonce::from_slice(&nonce), payload)
            .map_err(|_| SealError::Broken)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what was sealed for `place`.
    pub(crate) fn open_sealed(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES).ok_or(SealError::Broken)?;
        let payload = Payload {
            msg: rest,
            aad: place,
        };
        let opened = self.0.decrypt(XNonce::from_slice(nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| SealError::Broken)
    }
}

/// The secret key in `path`, which only the daemon's user may read; made where there is none.
pub(crate) fn key_file(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, SealError> {
    let failed = |source| SealError::Io {
        path: path.to_owned(),
        source,
    };
    match File::open(path) {
        Ok(file) => {
            if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
                return Err(SealError::Open(path.to_owned()));
            }
            let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
            file.take(KEY_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice());
            key.map(Zeroizing::new)
                .map_err(|_| SealError::NotAKey(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = Zeroizing::new(random::<KEY_BYTES>()?);
            let fresh = path.with_extension("new");
            let mut options = File::options();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)
                .map_err(failed)?;
            file.write_all(&*key)
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
            std::fs::rename(&fresh, path).map_err(failed)?;
            Ok(key)
        }
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_sealed_is_opened_in_its_place_alone_and_by_its_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let sealer = Sealer::open(&path).unwrap();
        let sealed = sealer.seal(b"app/NAME", b"value").unwrap();
        assert!(!sealed.windows(5).any(|part| part == b"value"));
        assert_eq!(&**sealer.open_sealed(b"app/NAME", &sealed).unwrap(), b"value");
        assert!(sealer.open_sealed(b"app/OTHER", &sealed).is_err());
        for damaged in [&sealed[1..], &[], &sealed[..30]] {
            assert!(sealer.open_sealed(b"app/NAME", damaged).is_err());
        }
        let again = Sealer::open(&path).unwrap();
        assert_eq!(&**again.open_sealed(b"app/NAME", &sealed).unwrap(), b"value");
        let other = Sealer::open(&dir.path().join("other")).unwrap();
        assert!(other.open_sealed(b"app/NAME", &sealed).is_err());
    }

    #[test]
    fn a_key_that_others_may_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        Sealer::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Sealer::open(&path), Err(SealError::Open(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(Sealer::open(&path), Err(SealError::NotAKey(_))));
    }
}
