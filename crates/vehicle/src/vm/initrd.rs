//! The first file system of a machine: its first process, its program, the kernel's modules; and what of this host's files
//! the machine is given.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::cpio::Archive;
use super::elf;
use super::kernel::Kernel;

/// The first process, where the kernel looks for it.
pub(super) const INIT: &str = "/init";

/// The program, where it is not the same.
const PROGRAM: &str = "/program";

/// Of how many base archives the newest are kept.
const KEPT: usize = 4;

/// A machine's programs.
#[derive(Debug)]
pub(super) struct Base {
    /// The archive.
    pub(super) path: PathBuf,
    /// The program in it.
    pub(super) exe: PathBuf,
}

/// What is given to a machine to read: a file or directory of this host, and where it is in the machine.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
}

/// The archive with these programs, made where it was not made before.
pub(super) async fn base(cache: &Path, kernel: &Kernel, guest: &Path, program: &Path) -> io::Result<Base> {
    let (guest, program) = (guest.canonicalize()?, program.canonicalize()?);
    let same = guest == program;
    let exe = PathBuf::from(if same { INIT } else { PROGRAM });
    let mut key = Sha256::new();
    let files = kernel.files()?.into_iter().map(|(_, path)| path);
    for path in [guest.clone(), program.clone()].into_iter().chain(files) {
        let metadata = path.metadata()?;
        let (size, at, at_ns) = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        key.update(format!(
            "{}\0{size} {at} {at_ns} {}\0",
            path.display(),
            metadata.ino()
        ));
    }
    let key: String = key
        .finalize()
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = cache.join(format!("{key}.initrd"));
    if path.is_file() {
        return Ok(Base { path, exe });
    }
    let mut archive = Archive::default();
    add_program(&mut archive, &guest, Path::new(INIT)).await?;
    if !same {
        add_program(&mut archive, &program, &exe).await?;
    }
    archive.directory(Path::new(suijuris_guest::init::MODULES))?;
    for (number, (name, bytes)) in kernel.modules()?.into_iter().enumerate() {
        let place = format!("{}/{number:03}-{name}.ko", suijuris_guest::init::MODULES);
        archive.file(Path::new(&place), 0o400, &bytes)?;
    }
    forget_old(cache);
    write(&path, &archive.finish()?)?;
    Ok(Base { path, exe })
}

/// The archive of one machine: `base`, or a copy of it with what is given behind it.
pub(super) async fn with(base: &Path, given: &[Given], except: &[&Path], to: &Path) -> io::Result<PathBuf> {
    if given.is_empty() {
        return Ok(base.to_owned());
    }
    let mut archive = Archive::default();
    for Given { from, to } in given {
        // A program may be named by a link that leads out of what is given.
        let from = from.canonicalize()?;
        if from.is_file() {
            add_program(&mut archive, &from, to).await?;
        } else {
            archive.tree(&from, to, except)?;
        }
    }
    let more = archive.finish()?;
    let mut bytes = fs::read(base)?;
    bytes.extend_from_slice(&more);
    write(to, &bytes)?;
    Ok(to.to_owned())
}

/// A file; a program with its loader and its libraries.
async fn add_program(archive: &mut Archive, from: &Path, to: &Path) -> io::Result<()> {
    let mode = from.metadata()?.mode();
    let bytes = fs::read(from)?;
    for library in elf::libraries(from, &bytes).await? {
        archive.file(&library, 0o755, &elf::loaded(fs::read(&library)?))?;
    }
    archive.file(to, mode, &elf::loaded(bytes))
}

/// Whole or not at all, for this user alone: it may hold what others must not read.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(format!("{}.fresh", std::process::id()));
    let mut file = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    io::Write::write_all(&mut file, bytes)?;
    fs::rename(&fresh, path)
}

/// Removes base archives of programs and kernels that have been replaced.
fn forget_old(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let made = path.metadata().ok()?.modified().ok()?;
            (path.extension()? == "initrd").then_some((made, path))
        })
        .collect();
    all.sort();
    for (_, path) in all.iter().rev().skip(KEPT - 1) {
        // A machine that is being started may have it open; its next start makes it again.
        let _ = fs::remove_file(path);
    }
}
