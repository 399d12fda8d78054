//! Archives with whatever headers a test wants, honest or not.

use std::io::Write as _;

use suijuris_oci::ContentDigest;
use suijuris_oci::unpack::Expected;
use tar::{EntryType, Header};

/// An archive that is being written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tarball(Vec<u8>);

/// Fields of a header beyond the usual.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            device: (1, 3),
        }
    }
}

impl Tarball {
    /// A member; path and link go into the header as they are, or before it if too long.
    pub(crate) fn member(
        mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        content: &[u8],
        fields: Fields,
    ) -> Self {
        for (long, bytes) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, link)] {
            if bytes.len() > 100 {
                self = self.block(
                    long,
                    b"././@LongLink",
                    b"",
                    &[bytes, b"\0"].concat(),
                    Fields::default(),
                );
            }
        }
        self.block(kind, path, link, content, fields)
    }

    fn block(mut self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8], fields: Fields) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(fields.mode);
        header.set_uid(fields.uid);
        header.set_gid(fields.gid);
        header.set_mtime(fields.mtime);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let (major, minor) = fields.device;
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        }
        let bytes = header.as_mut_bytes();
        for (at, text) in [(0, path), (157, link)] {
            let length = text.len().min(100);
            bytes[at..at + length].copy_from_slice(&text[..length]);
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
        self
    }

    /// Extensions for the next member.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..)
                .find(|length| rest + length.to_string().len() == *length)
                .unwrap();
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.block(EntryType::XHeader, b"pax", b"", &bytes, Fields::default())
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.member(
            EntryType::Regular,
            path.as_bytes(),
            b"",
            content,
            Fields::default(),
        )
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        let fields = Fields {
            mode: 0o755,
            ..Fields::default()
        };
        self.member(EntryType::Directory, path.as_bytes(), b"", b"", fields)
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        let fields = Fields {
            mode: 0o777,
            ..Fields::default()
        };
        self.member(
            EntryType::Symlink,
            path.as_bytes(),
            target.as_bytes(),
            b"",
            fields,
        )
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.member(
            EntryType::Link,
            path.as_bytes(),
            target.as_bytes(),
            b"",
            Fields::default(),
        )
    }

    pub(crate) fn special(self, kind: EntryType, path: &str) -> Self {
        self.member(kind, path.as_bytes(), b"", b"", Fields::default())
    }

    /// The whole archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// What a blob is that unpacks to `plain`.
pub(crate) fn expected(blob: &[u8], plain: &[u8]) -> Expected {
    Expected {
        digest: ContentDigest::of(blob),
        size: blob.len() as u64,
        diff_id: ContentDigest::of(plain),
    }
}
