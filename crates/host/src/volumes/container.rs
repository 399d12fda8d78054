//! Volumes encrypted at rest: all of them lie in one file of the data directory, a LUKS2 container with a file system in it, mounted
//! where they are. Snapshots and forks are in it with them, and share blocks where it is XFS.
//!
//! The key comes from a file of the operator's and goes to `cryptsetup` through a pipe. It is 32 random bytes at least, so that nothing is
//! won by making its test slow. The container stays open while machines run, daemon or not, and is closed by the one that ends without.
//!
//! Not here: a key of its own for each volume, and what machines write outside of volumes.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::mount::{MsFlags, mount, umount};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The container's name in the data directory, and what it is called until it is whole.
const NAME: &str = "volumes.luks";
const FRESH: &str = "volumes.luks.new";
/// Where the kernel shows devices that are open.
const MAPPER: &str = "/dev/mapper";
/// Bytes of a key.
const KEY_BYTES: std::ops::RangeInclusive<u64> = 32..=4_096;
/// Least bytes of a container: no file system of these is smaller.
const LEAST: u64 = 512 << 20;
/// What `cryptsetup` ends with where the key is another one.
const WRONG_KEY: i32 = 2;
/// File systems, the one that shares blocks first.
const KINDS: [(&str, &[&str]); 2] = [("xfs", &["-q", "-K"]), ("ext4", &["-q", "-E", "nodiscard"])];

/// Why volumes cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Only root may.
    #[error(
        "only root can encrypt volumes: run the host as root, or put --data on an encrypted disk and leave --volume-key out"
    )]
    NotRoot,
    /// The kernel has none.
    #[error(
        "this kernel has no device mapper ({MAPPER}/control is not there), so volumes cannot be encrypted: load dm_mod and dm_crypt, or leave --volume-key out"
    )]
    NoMapper,
    /// The key's file.
    #[error("the volumes' key in {} cannot be used: it is a file of 32 to 4096 random bytes for its owner alone, as `head -c 64 /dev/urandom > FILE` makes under umask 077", .0.display())]
    Key(PathBuf, #[source] Option<io::Error>),
    /// It is another one's.
    #[error("the key does not open the volumes in {}: give the one that they were encrypted with", .0.display())]
    WrongKey(PathBuf),
    /// There is a container and no key.
    #[error("the volumes in {} are encrypted: start the host with their key, --volume-key FILE", .0.display())]
    NeedsKey(PathBuf),
    /// There are volumes that are not in it.
    #[error("the volumes in {} are not encrypted and would be hidden: drain them to a host with a directory of its own and --volume-key, or leave it out", .0.display())]
    NotEncrypted(PathBuf),
    /// A program failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// Which.
        program: String,
        /// What it said.
        said: String,
    },
    /// The disk, or a program that is not there.
    #[error("volumes cannot be encrypted: {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ContainerError {
    let what = what.into();
    move |source| ContainerError::Io { what, source }
}

/// A container that is open and mounted.
#[derive(Debug)]
pub(crate) struct Container {
    mounted: PathBuf,
    name: String,
}

impl Container {
    /// That of the volumes in `volumes`, made where there is none; none without key and container.
    pub(crate) fn open(
        data: &Path,
        volumes: &Path,
        key: Option<&Path>,
    ) -> Result<Option<Self>, ContainerError> {
        let file = data.join(NAME);
        let Some(key) = key else {
            return match file.exists() {
                true => Err(ContainerError::NeedsKey(volumes.to_owned())),
                false => Ok(None),
            };
        };
        if !nix::unistd::geteuid().is_root() {
            return Err(ContainerError::NotRoot);
        }
        if !Path::new(MAPPER).join("control").exists() {
            return Err(ContainerError::NoMapper);
        }
        let key = read_key(key)?;
        let found = Self {
            mounted: volumes.to_owned(),
            name: name(data),
        };
        if !file.exists() {
            found.make(data, &key)?;
        }
        let opens = [arg("open"), arg("--test-passphrase"), arg("--key-file=-"), &file];
        match found.cryptsetup(&opens, Some(&key))?.status.code() {
            Some(0) => {}
            Some(WRONG_KEY) => return Err(ContainerError::WrongKey(volumes.to_owned())),
            _ => return Err(said("cryptsetup open", &found.cryptsetup(&opens, Some(&key))?)),
        }
        if !found.device().exists() {
            found.map(&file, &key)?;
        }
        if !found.is_mounted()? {
            found.mount()?;
        }
        Ok(Some(found))
    }

    fn device(&self) -> PathBuf {
        Path::new(MAPPER).join(&self.name)
    }

    /// Makes an empty one. One that a daemon died over is made anew.
    fn make(&self, data: &Path, key: &[u8]) -> Result<(), ContainerError> {
        let wrong = || format!("{} cannot be made", data.join(NAME).display());
        let volumes = std::fs::read_dir(&self.mounted).map_err(failed(wrong()))?;
        if volumes.count() > 0 {
            return Err(ContainerError::NotEncrypted(self.mounted.clone()));
        }
        let fresh = data.join(FRESH);
        if self.device().exists() {
            self.unmap()?;
        }
        let bytes = nix::sys::statvfs::statvfs(data).map_err(|errno| failed(wrong())(errno.into()))?;
        let bytes = bytes.blocks().saturating_mul(bytes.fragment_size()).max(LEAST);
        let mut options = File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh);
        let file = file.and_then(|file| file.set_len(bytes).map(|()| file));
        let file = file.map_err(failed(wrong()))?;
        let format = [
            "luksFormat",
            "--type",
            "luks2",
            "--batch-mode",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "--key-file=-",
        ];
        let format: Vec<&Path> = format
            .iter()
            .map(|word| arg(word))
            .chain([fresh.as_path()])
            .collect();
        good("cryptsetup luksFormat", &self.cryptsetup(&format, Some(key))?)?;
        self.map(&fresh, key)?;
        let made = self.make_file_system();
        self.unmap()?;
        made?;
        file.sync_all().map_err(failed(wrong()))?;
        std::fs::rename(&fresh, data.join(NAME)).map_err(failed(wrong()))?;
        File::open(data)
            .and_then(|directory| directory.sync_all())
            .map_err(failed(wrong()))
    }

    fn make_file_system(&self) -> Result<(), ContainerError> {
        let mut last = None;
        for (kind, words) in KINDS {
            let program = format!("mkfs.{kind}");
            match Command::new(&program)
                .args(words)
                .arg(self.device())
                .stdin(Stdio::null())
                .output()
            {
                Ok(output) => return good(&program, &output),
                Err(error) => {
                    let lacking = failed(format!("{program} cannot be run: install xfsprogs"));
                    last = Some(lacking(error));
                }
            }
        }
        last.map_or(Ok(()), Err)
    }

    fn map(&self, file: &Path, key: &[u8]) -> Result<(), ContainerError> {
        let words = ["open", "--type", "luks2", "--allow-discards", "--key-file=-"];
        let words: Vec<&Path> = words
            .iter()
            .map(|word| arg(word))
            .chain([file, arg(&self.name)])
            .collect();
        good("cryptsetup open", &self.cryptsetup(&words, Some(key))?)
    }

    fn unmap(&self) -> Result<(), ContainerError> {
        good(
            "cryptsetup close",
            &self.cryptsetup(&[arg("close"), arg(&self.name)], None)?,
        )
    }

    fn is_mounted(&self) -> Result<bool, ContainerError> {
        let wrong = || format!("{} cannot be looked at", self.mounted.display());
        let device = |path: &Path| path.metadata().map(|found| found.dev());
        let own = device(&self.mounted).map_err(failed(wrong()))?;
        let above = self.mounted.parent().unwrap_or(&self.mounted);
        Ok(own != device(above).map_err(failed(wrong()))?)
    }

    fn mount(&self) -> Result<(), ContainerError> {
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        let mut last = None;
        for (kind, _) in KINDS {
            match mount(
                Some(&self.device()),
                &self.mounted,
                Some(kind),
                flags,
                Some("discard"),
            ) {
                Ok(()) => return Ok(()),
                // Another kind.
                Err(errno) => last = Some(errno),
            }
        }
        let what = format!("{} cannot be mounted", self.device().display());
        last.map_or(Ok(()), |errno| Err(failed(what)(errno.into())))
    }

    /// Closes it, where nothing uses it.
    pub(crate) fn close(&self) -> Result<(), ContainerError> {
        let what = format!("{} cannot be unmounted", self.mounted.display());
        umount(&self.mounted).map_err(|errno| failed(what)(errno.into()))?;
        self.unmap()
    }

    /// Runs `cryptsetup`, the key by its standard input.
    fn cryptsetup(&self, words: &[&Path], key: Option<&[u8]>) -> Result<Output, ContainerError> {
        let run = || {
            let mut child = Command::new("cryptsetup")
                .args(words)
                .env("LC_ALL", "C")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let (Some(mut pipe), Some(key)) = (child.stdin.take(), key) {
                // One that does not want it says why.
                let _ = pipe.write_all(key);
            }
            child.wait_with_output()
        };
        run().map_err(failed(
            "cryptsetup cannot be run: install Debian's cryptsetup-bin",
        ))
    }
}

fn arg(word: &str) -> &Path {
    Path::new(word)
}

fn said(program: &str, output: &Output) -> ContainerError {
    let text = String::from_utf8_lossy(&output.stderr);
    ContainerError::Failed {
        program: program.to_owned(),
        said: text.lines().take(5).collect::<Vec<_>>().join("; "),
    }
}

fn good(program: &str, output: &Output) -> Result<(), ContainerError> {
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| said(program, output))
}

/// What the kernel calls the device of this directory's volumes.
fn name(data: &Path) -> String {
    let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("suijuris-{hex}")
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, ContainerError> {
    let read = || -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        let mut key = Zeroizing::new(Vec::with_capacity(4_096));
        file.take(KEY_BYTES.end() + 1).read_to_end(&mut key)?;
        let length = u64::try_from(key.len()).unwrap_or(u64::MAX);
        Ok((found.mode() & 0o077 == 0 && KEY_BYTES.contains(&length)).then_some(key))
    };
    match read() {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(ContainerError::Key(path.to_owned(), None)),
        Err(error) => Err(ContainerError::Key(path.to_owned(), Some(error))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_long_and_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let check = |bytes: usize, mode: u32, good: bool| {
            std::fs::write(&path, vec![7; bytes]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_key(&path).is_ok(), good, "{bytes} {mode:o}");
        };
        check(32, 0o600, true);
        check(4_096, 0o400, true);
        check(31, 0o600, false);
        check(4_097, 0o600, false);
        check(64, 0o640, false);
        check(64, 0o604, false);
        assert!(matches!(
            read_key(&dir.path().join("none")),
            Err(ContainerError::Key(_, Some(_)))
        ));
    }

    #[test]
    fn without_a_key_a_container_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = dir.path().join("volumes");
        std::fs::create_dir(&volumes).unwrap();
        assert!(Container::open(dir.path(), &volumes, None).unwrap().is_none());
        std::fs::write(dir.path().join(NAME), "").unwrap();
        assert!(matches!(
            Container::open(dir.path(), &volumes, None),
            Err(ContainerError::NeedsKey(_))
        ));
    }

    #[test]
    fn directories_have_devices_of_their_own() {
        assert_eq!(name(Path::new("/a")).len(), 21);
        assert_ne!(name(Path::new("/a")), name(Path::new("/b")));
    }
}
