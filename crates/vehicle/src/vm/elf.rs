//! What of a program a machine needs: the bytes that are loaded, and the libraries.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Time for a loader to say what a program needs.
const LIST_WITHIN: Duration = Duration::from_secs(30);

/// What a loader says at most; a program with some hundred libraries is far below.
const MAX_LIST: usize = 1 << 20;

/// `PT_LOAD` and `PT_INTERP` of `elf.h`.
const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;

/// What a program's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// End of the last byte that is loaded.
    end: usize,
    /// What loads it, where it is not static.
    interpreter: Option<PathBuf>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes: &[u8; N] = bytes.get(at..)?.first_chunk()?;
    let mut whole = [0; 8];
    whole.get_mut(..N)?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(whole))
}

/// The header of an ELF file of 64 bits, little endian; none of anything else.
fn header(bytes: &[u8]) -> Option<Header> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let place = |value: u64| usize::try_from(value).ok();
    let (table, size, count) = (
        place(number::<8>(bytes, 0x20)?)?,
        place(number::<2>(bytes, 0x36)?)?,
        place(number::<2>(bytes, 0x38)?)?,
    );
    let mut header = Header {
        end: table.checked_add(size.checked_mul(count)?)?,
        interpreter: None,
    };
    for index in 0..count {
        let at = table.checked_add(size.checked_mul(index)?)?;
        let kind = number::<4>(bytes, at)?;
        let from = place(number::<8>(bytes, at.checked_add(8)?)?)?;
        let length = place(number::<8>(bytes, at.checked_add(32)?)?)?;
        let end = from.checked_add(length)?;
        let content = bytes.get(from..end);
        if kind == u64::from(LOAD) {
            header.end = header.end.max(end);
        } else if kind == u64::from(INTERPRETER) {
            let path = content?.strip_suffix(b"\0")?;
            header.interpreter = Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        }
    }
    (header.end <= bytes.len()).then_some(header)
}

/// A program without what is never loaded (symbols, notes for debuggers), which is most of one that was built for
/// development; anything else as it is.
pub(super) fn loaded(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(Header { end, .. }) = header(&bytes) else {
        return bytes;
    };
    // Kernel modules and objects have no table of what is loaded.
    if end <= 64 {
        return bytes;
    }
    bytes.truncate(end);
    // No table of sections: it was behind the end.
    for range in [0x28..0x30, 0x3c..0x40] {
        if let Some(field) = bytes.get_mut(range) {
            field.fill(0);
        }
    }
    bytes
}

/// The loader and the libraries of a program, as this host has them; none of a static one, or of what is no program.
pub(super) async fn libraries(program: &Path, bytes: &[u8]) -> io::Result<Vec<PathBuf>> {
    let Some(interpreter) = header(bytes).and_then(|header| header.interpreter) else {
        return Ok(Vec::new());
    };
    let mut command = Command::new(&interpreter);
    command
        .arg("--list")
        .arg(program)
        .env_clear()
        .stdin(Stdio::null());
    command.kill_on_drop(true);
    let listed = timeout(LIST_WITHIN, command.output()).await;
    let listed = listed.map_err(|_late| io::Error::from(io::ErrorKind::TimedOut))??;
    if !listed.status.success() || listed.stdout.len() > MAX_LIST {
        let why = format!(
            "{} cannot say which libraries {} needs",
            interpreter.display(),
            program.display()
        );
        return Err(io::Error::other(why));
    }
    let text = String::from_utf8_lossy(&listed.stdout);
    let mut found: Vec<PathBuf> = text.lines().filter_map(library).collect();
    found.push(interpreter);
    Ok(found)
}

/// `libc.so.6 => /lib/libc.so.6 (0x…)`
fn library(line: &str) -> Option<PathBuf> {
    let (_, path) = line.split_once("=> ")?;
    let path = path.rsplit_once(" (0x").map_or(path, |(path, _)| path).trim();
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test]
    async fn this_program_is_loaded_with_less_and_runs() {
        let own = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&own).unwrap();
        let whole = bytes.len();
        let libraries = libraries(&own, &bytes).await.unwrap();
        assert!(libraries.iter().all(|path| path.is_file()), "{libraries:?}");
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        let loaded = loaded(bytes);
        assert!(loaded.len() < whole);
        std::fs::write(&copy, loaded).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o700)).unwrap();
        let ran = Command::new(&copy).arg("--list").output().await.unwrap();
        assert!(ran.status.success(), "{ran:?}");
    }

    #[test]
    fn what_is_no_program_is_left_as_it_is() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01", &[0x7f; 200]] {
            assert_eq!(loaded(bytes.to_vec()), bytes);
        }
    }

    #[test]
    fn lines_of_loaders_are_read() {
        let library = |line| library(line).map(|path| path.display().to_string());
        assert_eq!(
            library("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)").as_deref(),
            Some("/lib/libc.so.6")
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffc)"), None);
        assert_eq!(library("\tlibx.so => not found"), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (to, from) in bytes.iter_mut().zip(b"\x7fELF\x02\x01") {
                *to = *from;
            }
            let _ = loaded(bytes);
        }
    }
}
