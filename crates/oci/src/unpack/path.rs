//! Names inside a layer. A path that exists as [`EntryPath`] leads nowhere but down from the root of its layer.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use serde::{Deserialize, Serialize};

/// Length of a path at most, bytes, as Linux has it (`PATH_MAX` without the final zero).
pub const MAX_PATH_BYTES: usize = 4095;

/// Length of a name at most, bytes (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;

/// Directories within each other at most. A tree is removed and walked with one descriptor for each.
pub const MAX_DEPTH: usize = 128;

/// A path in a layer: names joined by `/`, without `.`, `..`, empty names or zero bytes. The root is the empty path.
///
/// Written in JSON as text in which `%`, control characters and what is no UTF-8 are `%` and two hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryPath(Box<[u8]>);

/// Why bytes are no path in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEntryPath {
    /// It climbs.
    #[error("it contains `..`")]
    Climbs,
    /// A zero byte.
    #[error("it contains a zero byte")]
    Zero,
    /// A name or the whole is too long, or it lies too deep.
    #[error(
        "it is longer than {MAX_PATH_BYTES} bytes, a name in it than {MAX_NAME_BYTES}, or deeper than {MAX_DEPTH}"
    )]
    TooLong,
    /// Not in the spelling in which it is written.
    #[error("it is not spelled as it is written here")]
    Spelling,
}

impl EntryPath {
    /// The root of the layer.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of a tar member. A leading `/` and `.` mean the root of the layer, as they do for other tools.
    ///
    /// # Errors
    /// See [`NotAnEntryPath`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAnEntryPath> {
        if bytes.contains(&0) {
            return Err(NotAnEntryPath::Zero);
        }
        let mut names: Vec<&[u8]> = Vec::new();
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(NotAnEntryPath::Climbs),
                name if name.len() > MAX_NAME_BYTES => return Err(NotAnEntryPath::TooLong),
                name => names.push(name),
            }
        }
        let path = names.join(&b'/');
        if path.len() > MAX_PATH_BYTES || names.len() > MAX_DEPTH {
            return Err(NotAnEntryPath::TooLong);
        }
        Ok(Self(path.into()))
    }

    /// The path's bytes; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for system calls; relative, empty for the root.
    #[must_use]
    pub fn as_path(&self) -> &std::path::Path {
        std::path::Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Directory and last name; none for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        if self.is_root() {
            return None;
        }
        let at = self.0.iter().rposition(|byte| *byte == b'/');
        let parent = at.and_then(|at| self.0.get(..at)).unwrap_or_default();
        let name = self
            .0
            .get(at.map_or(0, |at| at.saturating_add(1))..)
            .unwrap_or_default();
        Some((Self(parent.into()), OsStr::from_bytes(name)))
    }

    /// Its names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .map(OsStr::from_bytes)
    }

    /// The path of `name`, which must be a single name, in this directory.
    pub(crate) fn join(&self, name: &[u8]) -> Result<Self, NotAnEntryPath> {
        let mut bytes = self.0.to_vec();
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self::parse(&bytes)
    }

    /// All paths below this one lie between these two in order; both themselves do not.
    pub(crate) fn below(&self) -> (Self, Self) {
        let with = |byte: u8| Self([&*self.0, &[byte]].concat().into());
        // `0` is the byte after `/`.
        (with(b'/'), with(b'0'))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", escape(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<EntryPath> for String {
    fn from(path: EntryPath) -> Self {
        escape(&path.0)
    }
}

impl TryFrom<String> for EntryPath {
    type Error = NotAnEntryPath;

    fn try_from(text: String) -> Result<Self, NotAnEntryPath> {
        let bytes = unescape(&text).ok_or(NotAnEntryPath::Spelling)?;
        let path = Self::parse(&bytes)?;
        if *path.0 == *bytes {
            Ok(path)
        } else {
            Err(NotAnEntryPath::Spelling)
        }
    }
}

/// Bytes as text that reads back: `%`, control characters and what is no UTF-8 become `%` and two digits.
pub(crate) fn escape(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter == '%' || letter.is_control() {
                let mut buffer = [0; 4];
                for byte in letter.encode_utf8(&mut buffer).bytes() {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "%{byte:02x}");
                }
            } else {
                text.push(letter);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

/// The bytes that [`escape`] made a text of.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || {
                char::from(rest.next()?)
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
            };
            bytes.push(digit()? << 4 | digit()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expect: Result<&str, NotAnEntryPath>) {
        let found = EntryPath::parse(text.as_bytes());
        assert_eq!(
            found.as_ref().map(EntryPath::as_bytes),
            expect.map(str::as_bytes).as_ref().map(|x| *x),
            "{text:?}"
        );
    }

    #[test]
    fn paths_lead_down_or_are_none() {
        check("a/b", Ok("a/b"));
        check("./a//b/./", Ok("a/b"));
        check("/etc/passwd", Ok("etc/passwd"));
        check("./", Ok(""));
        check("...", Ok("..."));
        for text in ["..", "a/..", "../a", "a/../../b", "/../a"] {
            check(text, Err(NotAnEntryPath::Climbs));
        }
        check("a\0b", Err(NotAnEntryPath::Zero));
        check(&"x".repeat(256), Err(NotAnEntryPath::TooLong));
        check(&"x/".repeat(129), Err(NotAnEntryPath::TooLong));
        check(
            &format!("{}/", "x".repeat(99)).repeat(45),
            Err(NotAnEntryPath::TooLong),
        );
        assert_eq!(EntryPath::parse(&b"x/".repeat(128)).unwrap().names().count(), 128);
    }

    #[test]
    fn what_lies_below_a_directory_is_a_range() {
        let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
        let (from, to) = path("a").below();
        for text in ["a/b", "a/b/c", "a/\u{ff}"] {
            assert!(from < path(text) && path(text) < to, "{text}");
        }
        for text in ["a", "a-b", "a0", "ab", "b"] {
            assert!(!(from < path(text) && path(text) < to), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_written_and_read_back(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes.clone()));
            if let Ok(path) = EntryPath::parse(&bytes) {
                prop_assert!(path.names().all(|name| name != ".." && name != "." && !name.is_empty()));
                let text = String::from(path.clone());
                prop_assert_eq!(EntryPath::try_from(text), Ok(path));
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = EntryPath::try_from(text);
        }
    }
}
