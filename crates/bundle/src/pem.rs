//! Public keys as people have them: PEM as `openssl` writes it, or hexadecimal.
//!
//! Only form, algorithm and size are checked here; signatures are verified by the gate and by lineage. A private key is
//! refused before anything of it could enter a bundle.

use spki::der::{Document, pem::LineEnding};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};
use suijuris_core::key::PublicKey;
use suijuris_core::manifest::Algorithm;

use crate::fault::code;

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ELLIPTIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Label of a public key in PEM (RFC 7468 §13).
const LABEL: &str = "PUBLIC KEY";

/// Bytes of an RSA key's encoding at least: 2,048 bits (NIST SP 800-131A); and at most: 8,192 bits, which a gate can
/// still verify by.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 266..=1_100;

/// Why a text is not the key that is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "expected text that starts with -----BEGIN PUBLIC KEY-----; make it with `openssl pkey -in key.pem -pubout`"
    )]
    NotPem,
    #[error(
        "this is a private key: keep it out of the bundle, which anybody may read; give its public half, made with `openssl pkey -in key.pem -pubout`"
    )]
    Private,
    #[error(
        "this is a `{0}`; give the bare public key, made with `openssl pkey -pubout`, or for a certificate `openssl x509 -pubkey -noout`"
    )]
    OtherLabel(String),
    #[error("the key is of another kind than {0}")]
    OtherKind(&'static str),
    #[error("the key has the wrong size for {0}")]
    Size(&'static str),
    #[error("expected 64 lower-case hexadecimal digits or a public key in PEM")]
    NeitherHexNorPem,
    #[error("these 32 bytes are not a point that can verify a signature")]
    NoPoint,
}

impl Error {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Private => code::PRIVATE_KEY,
            _ => code::BAD_KEY,
        }
    }
}

fn document(text: &str) -> Result<Document, Error> {
    if text.contains("PRIVATE KEY-----") {
        return Err(Error::Private);
    }
    let (label, document) = Document::from_pem(text.trim()).map_err(|_| Error::NotPem)?;
    if label == LABEL {
        Ok(document)
    } else {
        Err(Error::OtherLabel(label.to_owned()))
    }
}

/// Checks a caller's key; the same key in canonical PEM, whatever line ends or margins its file had.
pub(crate) fn caller_key(text: &str, algorithm: Algorithm) -> Result<String, Error> {
    let document = document(text)?;
    let key = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).map_err(|_| Error::NotPem)?;
    let bytes = key.subject_public_key.raw_bytes();
    let curve = || key.algorithm.parameters_oid().ok();
    let (kind, name, size) = match algorithm {
        Algorithm::EdDsa => (key.algorithm.oid == ED25519, "Ed25519", bytes.len() == 32),
        Algorithm::Es256 => {
            let kind = key.algorithm.oid == ELLIPTIC && curve() == Some(P256);
            (
                kind,
                "ECDSA on P-256",
                bytes.len() == 65 && bytes.first() == Some(&4),
            )
        }
        Algorithm::Rs256 => (
            key.algorithm.oid == RSA,
            "RSA of 2048 to 8192 bits",
            RSA_BYTES.contains(&bytes.len()),
        ),
    };
    match (kind, size) {
        (false, _) => Err(Error::OtherKind(name)),
        (true, false) => Err(Error::Size(name)),
        (true, true) => document.to_pem(LABEL, LineEnding::LF).map_err(|_| Error::NotPem),
    }
}

/// Reads a controller's Ed25519 key, in hexadecimal or PEM.
pub(crate) fn controller(text: &str) -> Result<PublicKey, Error> {
    let key = if text.contains("-----") {
        let document = document(text)?;
        let key = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).map_err(|_| Error::NotPem)?;
        if key.algorithm.oid != ED25519 {
            return Err(Error::OtherKind("Ed25519"));
        }
        let bytes = key.subject_public_key.raw_bytes().try_into();
        PublicKey(bytes.map_err(|_| Error::Size("Ed25519"))?)
    } else {
        text.parse().map_err(|_| Error::NeitherHexNorPem)?
    };
    // A key that is no point, or of small order, could never sign: the object would have no owner.
    match ed25519_dalek::VerifyingKey::from_bytes(&key.0) {
        Ok(point) if !point.is_weak() => Ok(key),
        _ => Err(Error::NoPoint),
    }
}
