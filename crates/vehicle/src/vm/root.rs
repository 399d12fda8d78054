//! The files of an image as a disk: made once for an image, copied for each machine that begins with it.
//!
//! Whoever has the image says whose each file is: an ordinary user cannot give files to others, and a file system that is made of
//! a directory would say that all are that user's.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::disk::{DiskError, ROOM, fault, run, size};
use super::plan::ROOT_LABEL;
use super::tools::DiskTools;

/// Bits of a mode that are permissions.
const PERMISSIONS: u32 = 0o7777;

/// Whose a file of an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Its path below the root, relative.
    pub path: PathBuf,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, set-user, set-group and sticky bits.
    pub mode: u32,
}

/// Makes a disk at `to` of the files in `dir`, with these owners and modes where they differ from the files' own. Whole or not at
/// all. Blocks.
///
/// # Errors
/// [`DiskError`]: nothing is at `to`.
pub fn make_root(dir: &Path, owned: &[Owned], to: &Path) -> Result<(), DiskError> {
    let tools = DiskTools::find().map_err(|missing| DiskError::Io {
        what: "make a disk of the image at",
        path: to.to_owned(),
        source: io::Error::other(crate::StartError::Unavailable(missing)),
    })?;
    let fresh = to.with_extension(format!("{}.fresh", std::process::id()));
    let made =
        make(&tools, dir, owned, &fresh).and_then(|()| fs::rename(&fresh, to).map_err(fault("make", to)));
    if made.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    made
}

fn make(tools: &DiskTools, dir: &Path, owned: &[Owned], disk: &Path) -> Result<(), DiskError> {
    let _ = fs::remove_file(disk);
    let bytes = size(dir).map_err(fault("measure", dir))?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(disk)
        .map_err(fault("make", disk))?;
    file.set_len(
        bytes
            .saturating_mul(2)
            .saturating_add(ROOM)
            .next_multiple_of(4096),
    )
    .map_err(fault("make", disk))?;
    let mut command = Command::new(&tools.mkfs);
    command.args(["-q", "-F", "-m", "0", "-L", ROOT_LABEL, "-E"]);
    command.arg("nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0");
    command.args(["-J", "size=4", "-d"]).arg(dir).arg(disk);
    run(command, "mkfs.ext4", disk, &[0])?;
    give(tools, dir, owned, disk)?;
    file.sync_all().map_err(fault("write", disk))
}

/// Gives files to whom they belong.
fn give(tools: &DiskTools, dir: &Path, owned: &[Owned], disk: &Path) -> Result<(), DiskError> {
    let orders = orders(dir, owned);
    if orders.is_empty() {
        return Ok(());
    }
    let refused = |why: String| DiskError::Tool {
        tool: "debugfs",
        disk: disk.to_owned(),
        why,
    };
    let mut child = Command::new(&tools.debugfs)
        .args(["-w", "-f", "-"])
        .arg(disk)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| refused(error.to_string()))?;
    let stdin = child.stdin.take();
    let said = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(orders.as_bytes())));
        child.wait_with_output()
    });
    let said = said.map_err(|error| refused(error.to_string()))?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    // It ends well whatever happened to a file.
    let trouble = |line: &&str| !line.starts_with("debugfs ") && !line.trim().is_empty();
    match said.lines().find(trouble) {
        Some(line) => Err(refused(line.to_owned())),
        None => Ok(()),
    }
}

/// What `debugfs` is told: a line for each field that differs.
fn orders(dir: &Path, owned: &[Owned]) -> String {
    let mut orders = String::new();
    for Owned { path, uid, gid, mode } in owned {
        // One that no line can name keeps its owner, and so does one that could not be unpacked.
        let Some(name) = path.to_str().filter(|name| !name.contains(['\n', '\r'])) else {
            continue;
        };
        let Ok(found) = dir.join(path).symlink_metadata() else {
            continue;
        };
        let name = name.replace('"', "\"\"");
        let mut order = |field: &str, value: u32| {
            let _ = writeln!(orders, "set_inode_field \"/{name}\" {field} {value}");
        };
        if found.uid() != *uid {
            order("uid", *uid);
        }
        if found.gid() != *gid {
            order("gid", *gid);
        }
        let is_link = found.is_symlink();
        if !is_link && found.mode() & PERMISSIONS != mode & PERMISSIONS {
            order("mode", found.mode() & !PERMISSIONS | mode & PERMISSIONS);
        }
    }
    orders
}

/// A copy of a root's disk for one machine, which shares what it does not change where the file system can do that.
pub(super) fn copy_root(disk: &Path, to: &Path) -> Result<(), DiskError> {
    let mut command = Command::new("cp");
    command
        .args(["--reflink=auto", "--sparse=always", "--no-preserve=mode", "--"])
        .arg(disk)
        .arg(to);
    run(command, "cp", disk, &[0]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_on_the_disk_are_whose_the_image_says() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("image");
        fs::create_dir_all(dir.join("www/some \"body\"")).unwrap();
        fs::write(dir.join("www/some \"body\"/file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.join("www/link")).unwrap();
        let one = |path: &str, uid, mode| Owned {
            path: path.into(),
            uid,
            gid: 70_000,
            mode,
        };
        let owned = [
            one("www/some \"body\"/file", 1000, 0o4755),
            one("www/link", 1001, 0o777),
            one("not/there", 5, 0),
        ];
        let disk = temp.path().join("disk");
        make_root(&dir, &owned, &disk).unwrap();
        let stat = |path: &str| {
            let ran = Command::new("/usr/sbin/debugfs")
                .args(["-R", &format!("stat \"{path}\"")])
                .arg(&disk)
                .output()
                .unwrap();
            String::from_utf8(ran.stdout).unwrap()
        };
        let file = stat("/www/some \"\"body\"\"/file");
        assert!(file.contains("Mode:  04755"), "{file}");
        assert!(file.contains("User:  1000   Group: 70000"), "{file}");
        let link = stat("/www/link");
        assert!(
            link.contains("Type: symlink") && link.contains("User:  1001"),
            "{link}"
        );
        let root = stat("/");
        assert!(root.contains("User:     0   Group:     0"), "{root}");
        let checked = Command::new("/usr/sbin/e2fsck").args(["-fn"]).arg(&disk).output();
        assert!(checked.unwrap().status.success());
        let copy = temp.path().join("copy");
        copy_root(&disk, &copy).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), disk.metadata().unwrap().len());
        let missing = make_root(&temp.path().join("none"), &[], &temp.path().join("other"));
        assert!(missing.is_err() && !temp.path().join("other").exists());
    }
}
