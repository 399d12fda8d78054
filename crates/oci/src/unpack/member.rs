//! The members of a tar stream, one after another. Headers are `tar`'s, the walk is ours: that library reads long names
//! and extensions of any length into memory, and in a raw walk applies no sizes from them, so that two readers of one
//! archive may disagree about where a member ends.
//!
//! Understood: ustar, GNU long names (`L`, `K`), pax extensions (`x`). Refused: sparse files, extensions for all that
//! follows which rename or resize, kinds that nobody defined.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: u64 = 512;

/// Length of a long name or of one member's extensions at most, bytes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Extended attributes of one member at most.
const MAX_XATTRS: usize = 64;

/// What a member is, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: MemberKind,
    /// Bytes of content that follow.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File,
    Link,
    Symlink,
    Directory,
    Fifo,
    Device { block: bool, major: u32, minor: u32 },
}

/// Why a tar stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream itself.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// A header whose sum or numbers are wrong.
    #[error("a header of the archive is damaged: {0}")]
    Header(&'static str),
    /// A kind or extension that is not taken.
    #[error("the archive has {0}, which is not taken")]
    Unsupported(&'static str),
    /// A long name or extension beyond all use.
    #[error("the archive has a name or extension of {0} bytes, at most {MAX_EXTENSION_BYTES} are taken")]
    TooLong(u64),
}

/// Walks over a tar stream; reading gives the content of the current member.
pub(crate) struct Members<R> {
    input: R,
    left: u64,
    padding: u64,
}

/// What extensions say of the next member.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<i64>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        match self.input.read(buffer)? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends inside a member",
            )),
            length => {
                self.left = self.left.saturating_sub(length as u64);
                Ok(length)
            }
        }
    }
}

impl<R: Read> Members<R> {
    pub(crate) const fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
        }
    }

    /// Goes to the next member, past what is left of the current one; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extra = Extra::default();
        let mut extended = false;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return if extended {
                    Err(TarError::Header("an extension of nothing"))
                } else {
                    Ok(None)
                };
            };
            let size = number(header.entry_size(), &header.as_old().size, "size")?;
            match header.entry_type() {
                EntryType::XHeader => pax(&self.extension(size)?, &mut extra)?,
                EntryType::XGlobalHeader => {
                    global(&self.extension(size)?)?;
                    continue;
                }
                EntryType::GNULongName => extra.path = Some(name(self.extension(size)?)),
                EntryType::GNULongLink => extra.link = Some(name(self.extension(size)?)),
                kind => {
                    let member = member(&header, kind, size, extra)?;
                    self.begin(member.size);
                    return Ok(Some(member));
                }
            }
            extended = true;
        }
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        let skipped =
            io::copy(&mut self.input.by_ref().take(rest), &mut io::sink()).map_err(TarError::Read)?;
        if skipped == rest { Ok(()) } else { Err(ends()) }
    }

    /// The next header; none where the archive ends, with or without the blocks of zeros that should end it.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let mut read = 0;
        while let Some(rest) = header
            .as_mut_bytes()
            .get_mut(read..)
            .filter(|rest| !rest.is_empty())
        {
            match self.input.read(rest) {
                Ok(0) if read == 0 => return Ok(None),
                Ok(0) => return Err(ends()),
                Ok(length) => read = read.saturating_add(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum is taken with blanks in its own place, bytes 148 to 155.
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => u32::from(b' '),
                _ => u32::from(*byte),
            })
            .sum();
        if header.cksum().ok() == Some(sum) {
            Ok(Some(header))
        } else {
            Err(TarError::Header("wrong sum"))
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::TooLong(size));
        }
        self.begin(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(TarError::Read)?;
        Ok(bytes)
    }

    /// The stream, which stands at the content of the current member until that is read.
    pub(crate) const fn get_ref(&self) -> &R {
        &self.input
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }
}

fn ends() -> TarError {
    TarError::Read(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the archive ends inside a member",
    ))
}

/// A number of a header. A field that was left empty is 0, as other readers have it.
fn number(found: io::Result<u64>, field: &[u8], what: &'static str) -> Result<u64, TarError> {
    match found {
        Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(0),
        found => found.map_err(|_| TarError::Header(what)),
    }
}

fn id(found: io::Result<u64>, field: &[u8], what: &'static str) -> Result<u32, TarError> {
    narrow(number(found, field, what)?, what)
}

/// An owner or half of a device. The largest number of 32 bits means "none" to system calls.
fn narrow(number: u64, what: &'static str) -> Result<u32, TarError> {
    match u32::try_from(number) {
        Ok(number) if number != u32::MAX => Ok(number),
        _ => Err(TarError::Header(what)),
    }
}

/// A long name without the zero that ends it.
fn name(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

fn member(header: &Header, kind: EntryType, size: u64, extra: Extra) -> Result<Member, TarError> {
    let old = header.as_old();
    let path = extra.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let device = |block| -> Result<MemberKind, TarError> {
        let half = |found: io::Result<Option<u32>>, at: usize| {
            let field = header
                .as_bytes()
                .get(at..at.saturating_add(8))
                .unwrap_or_default();
            id(found.map(|half| u64::from(half.unwrap_or(0))), field, "device")
        };
        Ok(MemberKind::Device {
            block,
            major: half(header.device_major(), 329)?,
            minor: half(header.device_minor(), 337)?,
        })
    };
    let kind = match kind {
        // Before there was a kind for directories, their names ended so.
        EntryType::Regular if path.ends_with(b"/") => MemberKind::Directory,
        EntryType::Regular | EntryType::Continuous => MemberKind::File,
        EntryType::Link => MemberKind::Link,
        EntryType::Symlink => MemberKind::Symlink,
        EntryType::Directory => MemberKind::Directory,
        EntryType::Fifo => MemberKind::Fifo,
        EntryType::Char => device(false)?,
        EntryType::Block => device(true)?,
        EntryType::GNUSparse => return Err(TarError::Unsupported("a sparse file")),
        _ => return Err(TarError::Unsupported("a member of a kind that nobody defined")),
    };
    let size = match kind {
        MemberKind::File => extra.size.unwrap_or(size),
        // What made most images writes a size here that means nothing, and no content.
        _ => 0,
    };
    Ok(Member {
        path,
        link: extra
            .link
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
        kind,
        size,
        mode: id(header.mode().map(u64::from), &old.mode, "mode")? & 0o7777,
        uid: extra
            .uid
            .map_or_else(|| id(header.uid(), &old.uid, "owner"), Ok)?,
        gid: extra
            .gid
            .map_or_else(|| id(header.gid(), &old.gid, "group"), Ok)?,
        mtime: match extra.mtime {
            Some(mtime) => mtime,
            None => i64::try_from(number(header.mtime(), &old.mtime, "time")?).unwrap_or(0),
        },
        xattrs: extra.xattrs,
    })
}

/// The `length key=value\n` records of pax extensions.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), TarError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let record = (|| {
            let blank = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(bytes.get(..blank)?).ok()?.parse().ok()?;
            let record = bytes.get(blank.checked_add(1)?..length)?.strip_suffix(b"\n")?;
            bytes = bytes.get(length..)?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            Some((record.get(..equals)?, record.get(equals.checked_add(1)?..)?))
        })();
        if record.is_none() {
            bytes = &[];
        }
        Some(record.ok_or(TarError::Header("an extension")))
    })
}

fn pax(bytes: &[u8], extra: &mut Extra) -> Result<(), TarError> {
    for record in records(bytes) {
        let (key, value) = record?;
        let number = |what| -> Result<u64, TarError> {
            let text = std::str::from_utf8(value)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            text.and_then(|text| text.parse().ok())
                .ok_or(TarError::Header(what))
        };
        let id = |what| narrow(number(what)?, what);
        match key {
            b"path" => extra.path = Some(value.to_vec()),
            b"linkpath" => extra.link = Some(value.to_vec()),
            b"size" => extra.size = Some(number("size")?),
            b"uid" => extra.uid = Some(id("owner")?),
            b"gid" => extra.gid = Some(id("group")?),
            b"mtime" => extra.mtime = Some(seconds(value).ok_or(TarError::Header("time"))?),
            key if key.starts_with(b"GNU.sparse.") => return Err(TarError::Unsupported("a sparse file")),
            key => {
                let name = key
                    .strip_prefix(b"SCHILY.xattr.")
                    .and_then(|name| std::str::from_utf8(name).ok());
                if let Some(name) = name {
                    extra.xattrs.insert(name.to_owned(), value.to_vec());
                }
                if extra.xattrs.len() > MAX_XATTRS {
                    return Err(TarError::Unsupported(
                        "a file with more than 64 extended attributes",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Whole seconds of `1700000000.123`; may be negative.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split('.').next()?.parse().ok()
}

/// Extensions for all that follows: comments of git and the like are passed over.
fn global(bytes: &[u8]) -> Result<(), TarError> {
    for record in records(bytes) {
        let (key, _) = record?;
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
            return Err(TarError::Unsupported(
                "an extension that renames or resizes all that follows",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
        let mut members = Members::new(bytes);
        let mut found = Vec::new();
        while let Some(member) = members.next()? {
            let mut content = Vec::new();
            members.read_to_end(&mut content).map_err(TarError::Read)?;
            found.push((member, content));
        }
        Ok(found)
    }

    fn file(path: &str, content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(7);
        builder.append_data(&mut header, path, content).unwrap();
        builder.into_inner().unwrap()
    }

    fn raw(kind: EntryType, path: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().div_ceil(512) * 512, 0);
        bytes
    }

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length = (rest..)
            .find(|length| rest + length.to_string().len() == *length)
            .unwrap();
        format!("{length} {key}={value}\n").into_bytes()
    }

    #[test]
    fn names_of_any_length_and_extensions_are_read() {
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
        let found = walk(&file(&long, b"hello")).unwrap();
        assert_eq!(found[0].0.path, long.as_bytes());
        assert_eq!(
            (found[0].0.uid, found[0].0.mode, &*found[0].1),
            (7, 0o644, &b"hello"[..])
        );

        let mut pax = record("path", "other");
        for (key, value) in [
            ("size", "3"),
            ("uid", "70000"),
            ("mtime", "-5.5"),
            ("SCHILY.xattr.user.a", "b"),
        ] {
            pax.extend(record(key, value));
        }
        let mut bytes = raw(EntryType::XHeader, "x", &pax);
        bytes.extend(raw(EntryType::Regular, "short", b"abc"));
        bytes.extend(raw(EntryType::Regular, "next", b""));
        let found = walk(&bytes).unwrap();
        let (first, content) = &found[0];
        assert_eq!(
            (&*first.path, first.uid, first.mtime, &**content),
            (&b"other"[..], 70_000, -5, &b"abc"[..])
        );
        assert_eq!(first.xattrs["user.a"], b"b");
        assert_eq!(found[1].0.path, b"next", "extensions hold for one member");
    }

    #[track_caller]
    fn check(bytes: &[u8], expect: &str) {
        let error = walk(bytes).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }

    #[test]
    fn what_cannot_be_taken_is_said() {
        let mut damaged = file("a", b"x");
        damaged[0] ^= 1;
        check(&damaged, "wrong sum");
        check(&file("a", b"xyz")[..514], "cannot be read");
        check(&file("a", b"xyz")[..100], "cannot be read");
        check(&raw(EntryType::new(b'Q'), "a", b""), "nobody defined");
        check(&raw(EntryType::GNUSparse, "a", b""), "sparse");
        check(
            &raw(EntryType::XHeader, "a", &record("GNU.sparse.size", "9")),
            "sparse",
        );
        check(
            &raw(EntryType::XGlobalHeader, "a", &record("path", "b")),
            "renames",
        );
        check(&raw(EntryType::XHeader, "a", b"99 path=b\n"), "an extension");
        check(&raw(EntryType::XHeader, "a", &record("size", "-1")), "size");
        check(&raw(EntryType::XHeader, "a", &record("path", "b")), "of nothing");
        check(
            &raw(EntryType::XHeader, "a", &record("uid", "4294967295")),
            "owner",
        );
        check(
            &raw(EntryType::XHeader, "a", &record("gid", "4294967296")),
            "group",
        );
        let mut huge = Header::new_gnu();
        huge.set_entry_type(EntryType::GNULongName);
        huge.set_size(1 << 40);
        huge.set_cksum();
        check(huge.as_bytes(), "1099511627776 bytes");
    }

    #[test]
    fn comments_for_all_are_passed_over() {
        let mut bytes = raw(EntryType::XGlobalHeader, "g", &record("comment", "a commit"));
        bytes.extend(raw(EntryType::Regular, "a", b"x"));
        assert_eq!(walk(&bytes).unwrap().len(), 1);
        assert!(walk(&[]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, key in "[a-zA-Z.]{0,12}", value: Vec<u8>) {
            let _ = walk(&bytes);
            let mut extended = raw(EntryType::XHeader, "x", &bytes);
            extended.extend(raw(EntryType::Regular, "a", &value));
            let _ = walk(&extended);
            let text = String::from_utf8_lossy(&value).into_owned();
            let mut extended = raw(EntryType::XHeader, "x", &record(&key, &text));
            extended.extend(raw(EntryType::Regular, "a", b""));
            let _ = walk(&extended);
        }

        #[test]
        fn one_flipped_byte_never_panics(at in 0usize..2048, with: u8) {
            let mut bytes = file(&"n".repeat(300), b"content");
            if let Some(byte) = bytes.get_mut(at) { *byte ^= with; }
            let _ = walk(&bytes);
        }
    }
}
