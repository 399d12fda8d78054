//! Descriptors: what a content is called, its type and its size. Parsed once, so that a digest can be a file name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use oci_spec::image;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::printable;

/// Length of a media type at most, bytes: twice what RFC 6838 allows for each of its two names, and the slash.
const MAX_MEDIA_TYPE_BYTES: usize = 255;

/// `sha256:` and 64 lower-case hexadecimal digits; the only algorithm that is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentDigest([u8; 32]);

/// A text that is no digest we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest; write sha256: and 64 lower-case hexadecimal digits")]
pub struct NotAContentDigest(String);

impl ContentDigest {
    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest that somebody else has taken.
    #[must_use]
    pub const fn from_bytes(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// Its 64 lower-case hexadecimal digits, which can be a file's name.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    fn from_hex(hex: &str) -> Option<Self> {
        let digit = |letter: u8| match letter {
            b'0'..=b'9' => Some(letter - b'0'),
            b'a'..=b'f' => Some(letter - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        let bytes = pairs
            .iter()
            .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
            .collect::<Option<Vec<u8>>>()?;
        rest.is_empty().then(|| bytes.try_into().ok().map(Self))?
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl FromStr for ContentDigest {
    type Err = NotAContentDigest;

    fn from_str(text: &str) -> Result<Self, NotAContentDigest> {
        text.strip_prefix("sha256:")
            .and_then(Self::from_hex)
            .ok_or_else(|| NotAContentDigest(printable(text)))
    }
}

impl TryFrom<String> for ContentDigest {
    type Error = NotAContentDigest;

    fn try_from(text: String) -> Result<Self, NotAContentDigest> {
        text.parse()
    }
}

impl From<ContentDigest> for String {
    fn from(digest: ContentDigest) -> Self {
        digest.to_string()
    }
}

/// A media type as RFC 6838 names them: `type/name`, without parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaType(String);

/// A text that is no media type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a media type; write it as in application/vnd.oci.image.manifest.v1+json")]
pub struct NotAMediaType(String);

impl MediaType {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MediaType {
    type Err = NotAMediaType;

    fn from_str(text: &str) -> Result<Self, NotAMediaType> {
        let name = |name: &str| {
            let mut letters = name.bytes();
            let first = letters.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
            first && letters.all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
        };
        let good = text.len() <= MAX_MEDIA_TYPE_BYTES
            && text
                .split_once('/')
                .is_some_and(|(kind, rest)| name(kind) && name(rest));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAMediaType(printable(text)))
        }
    }
}

impl TryFrom<String> for MediaType {
    type Error = NotAMediaType;

    fn try_from(text: String) -> Result<Self, NotAMediaType> {
        text.parse()
    }
}

impl From<MediaType> for String {
    fn from(media_type: MediaType) -> Self {
        media_type.0
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a content (image-spec 1.1, "OCI Content Descriptors"). Members that we do not know are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: MediaType,
    /// Its digest.
    pub digest: ContentDigest,
    /// Its size, bytes.
    pub size: u64,
    /// What kind of artifact a manifest describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The descriptor of a content, without remarks.
    #[must_use]
    pub const fn new(media_type: MediaType, digest: ContentDigest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Why a descriptor cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADescriptor {
    /// Its type.
    #[error(transparent)]
    MediaType(#[from] NotAMediaType),
    /// Its digest.
    #[error(transparent)]
    Digest(#[from] NotAContentDigest),
}

impl TryFrom<&image::MediaType> for MediaType {
    type Error = NotAMediaType;

    fn try_from(media_type: &image::MediaType) -> Result<Self, NotAMediaType> {
        media_type.to_string().parse()
    }
}

impl TryFrom<&image::Descriptor> for Descriptor {
    type Error = NotADescriptor;

    fn try_from(found: &image::Descriptor) -> Result<Self, NotADescriptor> {
        let annotations = found.annotations().iter().flatten();
        let artifact_type = found.artifact_type().as_ref().map(MediaType::try_from);
        Ok(Self {
            media_type: found.media_type().try_into()?,
            digest: found.digest().to_string().parse()?,
            size: found.size(),
            artifact_type: artifact_type.transpose()?,
            annotations: annotations
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_media_type(text: &str, good: bool) {
        assert_eq!(text.parse::<MediaType>().is_ok(), good, "{text:?}");
    }

    #[test]
    fn media_types_are_two_names() {
        check_media_type(super::super::MANIFEST_TYPE, true);
        check_media_type(super::super::EMPTY_TYPE, true);
        for text in [
            "", "/", "a/", "/b", "a/b/c", "a/b; c=d", "a/b\n", ".a/b", "a/+b", "ä/b", "a",
        ] {
            check_media_type(text, false);
        }
        check_media_type(&format!("a/{}", "b".repeat(300)), false);
    }

    #[test]
    fn digests_in_another_spelling_are_refused() {
        let digest = ContentDigest::of(b"hello");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in [
            String::new(),
            digest.hex(),
            digest.to_string().to_uppercase(),
            format!("sha512:{}", "0".repeat(128)),
            format!("{digest}0"),
            format!("sha256:../../{}", "0".repeat(58)),
        ] {
            assert!(text.parse::<ContentDigest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_negative_or_broken_size_is_no_descriptor() {
        let with = |size: &str| {
            let digest = ContentDigest::of(b"x");
            let text = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":{size},"urls":[]}}"#);
            serde_json::from_str::<Descriptor>(&text).map(|found| found.size)
        };
        assert_eq!(with("7").unwrap(), 7);
        for size in ["-1", "1.5", "1e3", "\"7\"", "null", "18446744073709551616"] {
            assert!(with(size).is_err(), "{size}");
        }
    }
}
