//! The newest refusals of `suijuris door`, kept for their owners: `door` writes them, `why` finds one by the id that its caller quotes.
//!
//! A file of this user alone, and the one before it: each has as many as are promised. No history: where it is lost, words are lost.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use suijuris_core::codec;
use suijuris_core::id::ObjectId;
use suijuris_core::lineage::Refused;
use suijuris_core::refusals::RefusalId;
use suijuris_door::{NotedRefusal, RefusalKeeper};

use crate::{registry, terminal};

/// Refusals that are kept at least.
const KEPT: usize = 10_000;

/// Bytes of a file at most: refusals with very long requests are fewer.
const MAX_BYTES: u64 = 64 << 20;

/// Bytes of a refusal at most: its request's head, and what explains it.
const MAX_BODY: usize = 256 << 10;

/// The same as a line.
const MAX_LINE: u64 = 512 << 10;

/// Refusals that wait for the disk at most; further ones are not kept.
const WAITING: usize = 1_024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    object: String,
    /// The body of a record `refused`, which none was made of.
    refused: String,
}

/// A refusal that was found.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The object that was decided for.
    pub(crate) object: ObjectId,
    /// The first in full, and how many there were.
    pub(crate) refused: Refused,
}

/// The file of the newest; none where nothing says where it belongs.
fn place() -> Option<PathBuf> {
    Some(registry::home()?.join("door").join("refusals"))
}

fn before(newest: &Path) -> PathBuf {
    newest.with_extension("1")
}

/// Takes refusals from now on, with a thread of its own for the disk; none where they cannot be kept, which is noted.
pub(crate) fn keeper() -> Option<RefusalKeeper> {
    let opened = place()
        .context("set HOME or XDG_DATA_HOME")
        .and_then(|path| Ok(KeptFile::open(path)?));
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            terminal::note(&format!(
                "refusals of this door are not kept for `suijuris why`: {error:#}"
            ));
            return None;
        }
    };
    let (sender, waiting) = sync_channel(WAITING);
    std::thread::Builder::new()
        .name("refusals".to_owned())
        .spawn(move || write(file, &waiting))
        .ok()?;
    Some(std::sync::Arc::new(move |noted: &NotedRefusal| {
        if let Some(line) = line(noted) {
            // A disk that stands still keeps none, and holds up nobody.
            let _ = sender.try_send(line);
        }
    }))
}

fn line(noted: &NotedRefusal) -> Option<String> {
    let line = Line {
        id: noted.id.as_str().to_owned(),
        object: noted.object.to_string(),
        refused: URL_SAFE_NO_PAD.encode(codec::encode(&noted.refused).ok()?),
    };
    Some(serde_json::to_string(&line).ok()? + "\n")
}

fn write(mut file: KeptFile, waiting: &Receiver<String>) {
    while let Ok(line) = waiting.recv() {
        // A full disk: the next one tries again.
        let _ = file.add(&line);
    }
}

struct KeptFile {
    path: PathBuf,
    file: File,
    lines: usize,
    bytes: u64,
}

impl KeptFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut options = File::options();
        options.create(true).append(true).read(true).mode(0o600);
        let file = options
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(&path)?;
        let lines = BufReader::new(&file).split(b'\n').count();
        let bytes = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            lines,
            bytes,
        })
    }

    fn add(&mut self, line: &str) -> io::Result<()> {
        if self.lines >= KEPT || self.bytes >= MAX_BYTES {
            fs::rename(&self.path, before(&self.path))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(line.as_bytes())?;
        self.lines += 1;
        self.bytes = self.bytes.saturating_add(line.len() as u64);
        Ok(())
    }
}

/// The refusal with this id, if a door of this user has kept it.
pub(crate) fn find(id: &RefusalId) -> Option<Kept> {
    let newest = place()?;
    let mut found: Option<Kept> = None;
    for path in [before(&newest), newest] {
        let Ok(file) = File::open(path) else { continue };
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        while matches!((&mut lines).take(MAX_LINE).read_until(b'\n', &mut line), Ok(1..)) {
            if let Some(kept) = read(&line, id) {
                // Counted once more: the first in full is the same.
                let times = found.as_ref().map_or(0, |found| found.refused.times);
                let mut kept = kept;
                kept.refused.times = kept.refused.times.saturating_add(times);
                found = Some(kept);
            }
            line.clear();
        }
    }
    found
}

fn read(line: &[u8], id: &RefusalId) -> Option<Kept> {
    let line: Line = serde_json::from_slice(line).ok()?;
    if line.id != id.as_str() {
        return None;
    }
    Some(Kept {
        object: line.object.parse().ok()?,
        refused: codec::decode(&URL_SAFE_NO_PAD.decode(line.refused).ok()?, MAX_BODY).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_there_and_the_file_does_not_grow_for_ever() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("door/refusals");
        let mut file = KeptFile::open(path.clone()).unwrap();
        for number in 0..25_000 {
            file.add(&format!("{number}\n")).unwrap();
        }
        // Another door of this user goes on where it was.
        let mut file = KeptFile::open(path.clone()).unwrap();
        file.add("last\n").unwrap();
        let both = [before(&path), path.clone()].map(|path| fs::read_to_string(path).unwrap());
        let lines: Vec<&str> = both.iter().flat_map(|text| text.lines()).collect();
        assert_eq!(
            (lines.len(), lines[0], lines[lines.len() - 2]),
            (15_001, "10000", "24999")
        );
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(temp.path().join("door")).unwrap().count(), 2);
    }
}
