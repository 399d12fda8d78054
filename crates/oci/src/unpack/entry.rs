//! What a layer says of each of its files, kept beside the unpacked tree: owners, modes and devices hold there even
//! where this process may not give them to files. Whoever builds a disk from layers reads them here.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::path::{EntryPath, escape, unescape};

/// Length of one line of the record at most, bytes: path, link and attributes at their longest, escaped.
const MAX_LINE_BYTES: u64 = 8 << 20;

/// A file, directory, link, device or whiteout of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permissions, set-user, set-group and sticky bits: 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change, seconds since 1970.
    pub mtime: i64,
    /// Extended attributes, such as `security.capability`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "attributes")]
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The path, in the same layer, of the file that this is another name of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<EntryPath>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A plain file.
    File {
        /// Its size, bytes.
        size: u64,
    },
    /// A directory.
    Directory {
        /// It hides what lower layers have in it.
        opaque: bool,
        /// The layer does not name it, only something in it: mode and owner are those of the lower layer.
        implied: bool,
    },
    /// A symbolic link.
    Symlink {
        /// What it says, uninterpreted.
        #[serde(with = "bytes")]
        target: Vec<u8>,
    },
    /// A device.
    Device {
        /// A block device, else a character device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Hides what lower layers have under this name.
    Whiteout,
}

impl Entry {
    /// A directory that the layer does not name.
    pub(crate) fn implied() -> Self {
        Self {
            kind: Kind::Directory {
                opaque: false,
                implied: true,
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
            link: None,
        }
    }

    /// A whiteout.
    pub(crate) fn whiteout() -> Self {
        Self {
            kind: Kind::Whiteout,
            mode: 0,
            ..Self::implied()
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }
}

/// All entries of a layer by path. A parent stands before what it contains.
pub type Entries = BTreeMap<EntryPath, Entry>;

#[derive(Serialize)]
struct LineOut<'a> {
    path: &'a EntryPath,
    #[serde(flatten)]
    entry: &'a Entry,
}

#[derive(Deserialize)]
struct LineIn {
    path: EntryPath,
    #[serde(flatten)]
    entry: Entry,
}

/// Writes entries as lines of JSON.
pub(crate) fn write(entries: &Entries, mut out: impl Write) -> io::Result<()> {
    for (path, entry) in entries {
        serde_json::to_writer(&mut out, &LineOut { path, entry })?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads what [`write`] wrote; at most `max` entries.
pub(crate) fn read(mut from: impl BufRead, max: u64) -> io::Result<Entries> {
    let mut entries = Entries::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut from, MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(entries);
        }
        if entries.len() as u64 >= max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more entries than allowed",
            ));
        }
        let LineIn { path, entry } = serde_json::from_slice(&line)?;
        entries.insert(path, entry);
    }
}

mod bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::escape(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        super::unescape(&text).ok_or_else(|| D::Error::custom("not spelled as it is written here"))
    }
}

mod attributes {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Value(#[serde(with = "super::bytes")] Vec<u8>);

    pub(super) fn serialize<S: Serializer>(
        xattrs: &BTreeMap<String, Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(xattrs.iter().map(|(name, value)| (name, Value(value.clone()))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<String, Vec<u8>>, D::Error> {
        let found = BTreeMap::<String, Value>::deserialize(from)?;
        Ok(found
            .into_iter()
            .map(|(name, Value(value))| (name, value))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back() {
        let path = |bytes: &[u8]| EntryPath::parse(bytes).unwrap();
        let entries = Entries::from([
            (EntryPath::root(), Entry::implied()),
            (path(b"gone"), Entry::whiteout()),
            (
                path(b"a\n\xff%"),
                Entry {
                    kind: Kind::Symlink {
                        target: b"/\xfe".to_vec(),
                    },
                    mtime: -1,
                    xattrs: BTreeMap::from([("user.a".to_owned(), vec![0, 255])]),
                    link: Some(path(b"other")),
                    ..Entry::implied()
                },
            ),
            (
                path(b"dev/null"),
                Entry {
                    kind: Kind::Device {
                        block: false,
                        major: 1,
                        minor: 3,
                    },
                    ..Entry::implied()
                },
            ),
        ]);
        let mut bytes = Vec::new();
        write(&entries, &mut bytes).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), entries.len());
        assert_eq!(read(&*bytes, 4).unwrap(), entries);
        assert!(read(&*bytes, 3).is_err());
        assert!(read(&b"{}\n"[..], 3).is_err());
    }
}
