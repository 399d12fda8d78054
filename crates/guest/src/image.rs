//! The file system of an image as the program's own: entered from inside its fresh mount namespace.
//!
//! What goes into it is taken before the machine's first file system goes out of sight, and put in place afterwards, when every link
//! in a path of the image leads back into the image.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use suijuris_sys::{mounts, places};

/// What says how names are resolved.
const RESOLVER: [&str; 2] = ["resolv.conf", "hosts"];

/// An image, and what goes into it.
#[derive(Debug)]
pub(crate) struct Image {
    at: PathBuf,
    into: Vec<(Source, PathBuf)>,
}

#[derive(Debug)]
enum Source {
    /// What is there in the machine's first file system.
    Path(CString),
    /// An empty directory in memory, of so many bytes.
    Memory(u64),
}

impl Image {
    /// The one that is mounted at `at`.
    pub(crate) const fn new(at: PathBuf) -> Self {
        let into = Vec::new();
        Self { at, into }
    }

    /// Puts `from`, where it is now, at `to`.
    pub(crate) fn add(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let from = CString::new(from.as_os_str().as_bytes())?;
        self.into.push((Source::Path(from), to.to_owned()));
        Ok(())
    }

    /// Puts an empty directory in memory at `to`.
    pub(crate) fn add_memory(&mut self, to: &Path, size_bytes: u64) {
        self.into.push((Source::Memory(size_bytes), to.to_owned()));
    }

    /// Enters it.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let devices = places::devices();
        let system = mounts::take(c"/sys")?;
        mounts::make_read_only(system.as_fd())?;
        let resolver = resolver();
        let take = |(source, _): &(Source, PathBuf)| match source {
            Source::Path(path) => mounts::take(path).map(Some),
            Source::Memory(_) => Ok(None),
        };
        let taken = self.into.iter().map(take).collect::<io::Result<Vec<_>>>()?;
        chdir(&self.at)?;
        places::provide(&devices, Some(&system), &resolver).map_err(|failed| {
            let why = format!("cannot provide /{} in the image: {}", failed.name, failed.error);
            io::Error::new(failed.error.kind(), why)
        })?;
        // The kernel's first file system cannot be left by `pivot_root`.
        mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
        chroot(".")?;
        chdir("/")?;
        for ((source, to), taken) in self.into.iter().zip(&taken) {
            match (source, taken) {
                (Source::Memory(size_bytes), _) => places::memory(to, "0755", *size_bytes)?,
                (Source::Path(_), Some(tree)) => places::put(tree, to)?,
                (Source::Path(_), None) => {}
            }
        }
        Ok(())
    }
}

fn resolver() -> Vec<(&'static str, OwnedFd)> {
    let one = |name: &&'static str| {
        let file = CString::new(format!("/etc/{name}")).ok()?;
        let tree = mounts::take(&file).ok()?;
        mounts::make_read_only(tree.as_fd()).ok()?;
        Some((*name, tree))
    };
    RESOLVER.iter().filter_map(one).collect()
}
