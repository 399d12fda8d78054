//! The runtime among the files of an image, which has neither our libraries nor any loader that is ours.
//!
//! A static runtime goes as it is. One that is linked dynamically, as cargo builds it, takes its loader and its libraries
//! along, and is started by that loader; nothing of the image is loaded into it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, SeekFrom};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use suijuris_oci::store::Unpacked;
use suijuris_vehicle::{Mount, Program};

use crate::services::RuntimeProgram;

/// Where the runtime lies in a machine with an image.
const DIRECTORY: &str = "/run/suijuris/runtime";
/// What every program that is linked dynamically loads first; an image could put its own code into the runtime by it.
const PRELOAD: &str = "etc/ld.so.preload";
/// Program headers of a runtime at most.
const MAX_HEADERS: u16 = 64;
/// Length of a loader's path at most, bytes.
const MAX_LOADER: u64 = 4_096;
/// Libraries of a runtime at most.
const MAX_LIBRARIES: usize = 64;

/// Why the runtime cannot go into an image.
#[derive(Debug, thiserror::Error)]
pub enum NotStatic {
    /// It cannot be read.
    #[error("the runtime {0} cannot be read")]
    Read(PathBuf, #[source] io::Error),
    /// It is no program that we know.
    #[error("the runtime {0} is not a program for this machine: build it again, with `cargo xtask init`")]
    Format(PathBuf),
    /// Its libraries cannot be found.
    #[error(
        "the runtime {0} is linked dynamically and its libraries cannot be found: build the static one with `cargo xtask init`"
    )]
    Libraries(PathBuf),
    /// The image would put code into it.
    #[error(
        "the image has /{PRELOAD}, which would load the image's code into the runtime, for that is linked dynamically here: build the static one with `cargo xtask init`"
    )]
    Preload,
}

/// How the runtime is started in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InImage {
    pub(crate) program: Program,
    pub(crate) mounts: Vec<Mount>,
}

/// The runtime as it goes into the image `unpacked`.
pub(crate) fn of(runtime: &RuntimeProgram, unpacked: &Unpacked) -> Result<InImage, NotStatic> {
    let placed = Placed::of(runtime, Path::new(DIRECTORY))?;
    if !placed.is_static && unpacked.file(PRELOAD).is_ok_and(|file| file.is_some()) {
        return Err(NotStatic::Preload);
    }
    Ok(InImage {
        mounts: placed.files.iter().map(|(from, to)| bind(from, to)).collect(),
        program: placed.program,
    })
}

/// The files of a runtime in their places among foreign files, and how it is started there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What is started.
    pub program: Program,
    /// The runtime first: from where here, and where to. A loader and libraries follow where it is linked dynamically.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// It is alone.
    pub is_static: bool,
}

impl Placed {
    /// `runtime` in `directory`.
    ///
    /// # Errors
    /// [`NotStatic`].
    pub fn of(runtime: &RuntimeProgram, directory: &Path) -> Result<Self, NotStatic> {
        let exe = runtime
            .exe
            .canonicalize()
            .map_err(|error| NotStatic::Read(runtime.exe.clone(), error))?;
        let place = directory.join("suijuris-init");
        let mut files = vec![(exe.clone(), place.clone())];
        let Some(loader) = loader(&exe)? else {
            let argv = runtime.argv.clone();
            return Ok(Self {
                program: Program { exe: place, argv },
                files,
                is_static: true,
            });
        };
        let libraries = directory.join("lib");
        let inside = directory.join("loader");
        for library in needed(&loader, &exe)? {
            let to = libraries.join(library.file_name().unwrap_or_default());
            files.push((library, to));
        }
        files.push((loader, inside.clone()));
        let mut argv: Vec<OsString> = ["loader", "--inhibit-cache", "--library-path"]
            .map(OsString::from)
            .into();
        argv.push(libraries.into());
        argv.push("--argv0".into());
        argv.push(runtime.argv.first().cloned().unwrap_or_default());
        argv.push(place.into());
        argv.extend(runtime.argv.iter().skip(1).cloned());
        Ok(Self {
            program: Program { exe: inside, argv },
            files,
            is_static: false,
        })
    }
}

fn bind(from: &Path, to: &Path) -> Mount {
    Mount::Bind {
        from: from.to_owned(),
        to: to.to_owned(),
        read_only: true,
    }
}

/// The loader that a program asks for; none where it is static.
fn loader(exe: &Path) -> Result<Option<PathBuf>, NotStatic> {
    let read = |error| NotStatic::Read(exe.to_owned(), error);
    let mut file = File::open(exe).map_err(read)?;
    interpreter(&mut file)
        .map_err(read)?
        .ok_or_else(|| NotStatic::Format(exe.to_owned()))
}

/// What an ELF program of 64 bits, in this machine's order of bytes, has as its interpreter; nothing for other files.
fn interpreter(file: &mut (impl io::Read + io::Seek)) -> io::Result<Option<Option<PathBuf>>> {
    const HEADER: usize = 64;
    const ENTRY: usize = 56;
    const INTERP: u32 = 3;
    let mut header = [0_u8; HEADER];
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"\x7fELF\x02") {
        return Ok(None);
    }
    let at = word::<8>(&header, 32).map_or(0, u64::from_ne_bytes);
    let size = word::<2>(&header, 54).map_or(0, u16::from_ne_bytes);
    let count = word::<2>(&header, 56).map_or(0, u16::from_ne_bytes);
    if usize::from(size) != ENTRY || count > MAX_HEADERS {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut entries = vec![0_u8; ENTRY.saturating_mul(usize::from(count))];
    file.read_exact(&mut entries)?;
    let wanted = entries
        .chunks_exact(ENTRY)
        .find(|entry| word::<4>(entry, 0).map(u32::from_ne_bytes) == Some(INTERP));
    let Some(entry) = wanted else {
        return Ok(Some(None));
    };
    let at = word::<8>(entry, 8).map_or(0, u64::from_ne_bytes);
    let length = word::<8>(entry, 32).map_or(0, u64::from_ne_bytes);
    if !(2..=MAX_LOADER).contains(&length) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut path = Vec::new();
    file.take(length).read_to_end(&mut path)?;
    while path.last() == Some(&0) {
        path.pop();
    }
    let path = PathBuf::from(OsString::from_vec(path));
    Ok(path.is_absolute().then_some(Some(path)))
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The libraries that the loader would load for a program of ours.
fn needed(loader: &Path, exe: &Path) -> Result<Vec<PathBuf>, NotStatic> {
    let unknown = || NotStatic::Libraries(exe.to_owned());
    let mut list = Command::new(loader);
    list.arg("--list").arg(exe).env_clear();
    let said = list.output().map_err(|_| unknown())?;
    let said = String::from_utf8(said.stdout).map_err(|_| unknown())?;
    let paths = said.lines().filter_map(|line| {
        let path = line.split_once(" => ")?.1;
        Some(PathBuf::from(path.rsplit_once(" (")?.0))
    });
    let found: Vec<PathBuf> = paths.collect();
    let is_sound =
        !found.is_empty() && found.len() <= MAX_LIBRARIES && found.iter().all(|path| path.is_file());
    if is_sound && !said.contains("not found") {
        Ok(found)
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn runs(runtime: &Path, image: &Path) -> Result<InImage, NotStatic> {
        let runtime = RuntimeProgram {
            exe: runtime.to_owned(),
            argv: vec!["suijuris".into(), "__init".into()],
        };
        let unpacked = Unpacked {
            layers: vec![image.to_owned()],
            overlay: true,
        };
        of(&runtime, &unpacked)
    }

    #[test]
    fn a_dynamic_runtime_takes_its_libraries_along_unless_the_image_would_add_its_own() {
        let image = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let found = runs(&own, image.path()).unwrap();
        assert!(found.mounts.len() > 2, "{found:?}");
        assert_eq!(found.program.exe, Path::new("/run/suijuris/runtime/loader"));
        assert_eq!(found.program.argv.last().unwrap(), "__init");
        std::fs::create_dir(image.path().join("etc")).unwrap();
        std::fs::write(image.path().join("etc/ld.so.preload"), "/evil.so").unwrap();
        assert!(matches!(runs(&own, image.path()), Err(NotStatic::Preload)));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let script = temp.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(matches!(runs(&script, temp.path()), Err(NotStatic::Format(_))));
        assert!(matches!(
            runs(&temp.path().join("none"), temp.path()),
            Err(NotStatic::Read(..))
        ));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let head = own.get(..4_096).unwrap_or_default();
        for at in 0..120 {
            let mut damaged = head.to_vec();
            damaged[at] ^= 0xff;
            // Whatever it says, nothing is read beyond bounds.
            let _ = interpreter(&mut Cursor::new(damaged));
        }
    }
}
