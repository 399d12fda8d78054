//! Where a run of Firecracker is: in its machine's directory, or jailed, as root: a user of its own, a root directory of its own that
//! holds this machine's files and nothing else, made by Firecracker's own `jailer`.
//!
//! ```text
//! MACHINE/jail/firecracker/ID/root      what the jailed Firecracker has for `/`
//! ```
//! Files are linked into it, not copied; what a snapshot wrote is linked back. Each run has a new one, since the jailer makes its
//! devices only where none are.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use crate::process::remove_strange;
use crate::vm::monitor::Hardware;

/// Name of the directory for what the jailer makes, in the machine's.
pub(in crate::vm) const JAIL: &str = "jail";

/// Users of jails: numbers that neither people nor services nor containers get (systemd's `UIDS-GIDS`), one for each run.
const FIRST_USER: u32 = 0x7000_0000;
const USERS: u32 = 1 << 27;

/// Where Firecracker runs, and as whom.
#[derive(Debug)]
pub(super) struct Place {
    /// Its working directory.
    pub(super) dir: PathBuf,
    jail: Option<Jail>,
}

#[derive(Debug)]
struct Jail {
    jailer: PathBuf,
    base: PathBuf,
    user: u32,
}

impl Place {
    /// The place of a run; with `jailer` in a jail, in which everything is that the run needs.
    pub(super) fn make(
        jailer: Option<&Path>,
        exe: &Path,
        hardware: &Hardware,
        resumes: bool,
    ) -> io::Result<Self> {
        let Some(jailer) = jailer else {
            return Ok(Self {
                dir: hardware.dir.clone(),
                jail: None,
            });
        };
        let base = hardware.dir.join(JAIL);
        clear(&hardware.dir)?;
        let name = exe.file_name().unwrap_or_default();
        let dir = base.join(name).join(&hardware.name).join("root");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let user = FIRST_USER + random()? % USERS;
        let place = Self {
            dir,
            jail: Some(Jail {
                jailer: jailer.to_owned(),
                base,
                user,
            }),
        };
        let own = [&hardware.initrd].into_iter().chain(&hardware.disks);
        let saved = [&hardware.memory, &hardware.state]
            .into_iter()
            .filter(|_| resumes);
        for file in own.chain(saved).chain([&hardware.kernel]) {
            match file.parent() == Some(&hardware.dir) {
                true => place.give(file)?,
                false => place.lend(file)?,
            }
        }
        Ok(place)
    }

    /// A file as Firecracker is told it: by its name where it is in the working directory.
    pub(super) fn told(&self, file: &Path) -> String {
        let file = match self.jail {
            Some(_) => Path::new(file.file_name().unwrap_or_default()),
            None => file.strip_prefix(&self.dir).unwrap_or(file),
        };
        file.display().to_string()
    }

    /// Has a file that is there belong to whoever Firecracker runs as.
    pub(super) fn own(&self, file: &Path) -> io::Result<()> {
        match &self.jail {
            Some(jail) => chown(file, Some(jail.user), Some(jail.user)),
            None => Ok(()),
        }
    }

    fn inner(&self, file: &Path) -> PathBuf {
        self.dir.join(file.file_name().unwrap_or_default())
    }

    /// One of the machine's own files.
    fn give(&self, file: &Path) -> io::Result<()> {
        let inner = self.inner(file);
        fs::hard_link(file, &inner)?;
        self.own(&inner)
    }

    /// A file that others have too, to be read.
    fn lend(&self, file: &Path) -> io::Result<()> {
        const FOR_ALL: u32 = 0o004;
        let inner = self.inner(file);
        let is_readable = fs::metadata(file)?.mode() & FOR_ALL != 0;
        if is_readable && fs::hard_link(file.canonicalize()?, &inner).is_ok() {
            return Ok(());
        }
        fs::copy(file, &inner)?;
        self.own(&inner)
    }

    /// Takes what a snapshot wrote out to where it is kept.
    pub(super) fn take_out(&self, file: &Path) -> io::Result<()> {
        if self.jail.is_none() {
            return Ok(());
        }
        let (inner, new) = (self.inner(file), file.with_extension("new"));
        let is_there = |found: io::Result<fs::Metadata>| found.map(|found| found.ino()).ok();
        if is_there(inner.symlink_metadata()) == is_there(file.symlink_metadata()) {
            return Ok(());
        }
        let _ = fs::remove_file(&new);
        fs::hard_link(inner, &new)?;
        fs::rename(new, file)
    }

    /// The program to execute, and its arguments before those of Firecracker.
    pub(super) fn command(&self, exe: &Path, id: &str) -> (PathBuf, Vec<OsString>) {
        let Some(jail) = &self.jail else {
            let args = ["--id", id].map(OsString::from);
            return (exe.to_owned(), args.to_vec());
        };
        let mut args: Vec<OsString> = Vec::new();
        let user = jail.user.to_string();
        let version = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            true => "2",
            // Its own default, said all the same.
            false => "1",
        };
        let options: [(&str, &std::ffi::OsStr); 6] = [
            ("--id", id.as_ref()),
            ("--exec-file", exe.as_os_str()),
            ("--uid", user.as_ref()),
            ("--gid", user.as_ref()),
            ("--chroot-base-dir", jail.base.as_os_str()),
            ("--cgroup-version", version.as_ref()),
        ];
        for (name, value) in options {
            args.extend([name.into(), value.to_owned()]);
        }
        args.push("--".into());
        (jail.jailer.clone(), args)
    }
}

/// Removes a machine's jail.
pub(in crate::vm) fn clear(machine: &Path) -> io::Result<()> {
    match remove_strange(&machine.join(JAIL)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u32::from_le_bytes(bytes))
}
