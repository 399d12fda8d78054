//! Where an object is on this host: its directory, its data, and the sockets of whoever runs it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use suijuris_core::id::Digest;
use suijuris_store::ObjectDir;

/// Longest path of a Unix socket, bytes (`sun_path` without its end).
const MAX_SOCKET_PATH: usize = 107;

/// An object's directories, absolute. Neither need hold anything yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPaths {
    /// Where `object.toml` is, where that is known.
    pub object_dir: Option<PathBuf>,
    /// Where lineage, bundles and secrets are.
    pub data: PathBuf,
}

impl ObjectPaths {
    /// The object on disk.
    pub fn home(&self) -> ObjectDir {
        ObjectDir::at(&self.data)
    }

    /// How a person here names this object to another command.
    pub fn name(&self) -> String {
        let dir = self.object_dir.as_ref().unwrap_or(&self.data);
        let here = std::env::current_dir().unwrap_or_default();
        let name = dir.strip_prefix(&here).unwrap_or(dir).display().to_string();
        if name.is_empty() { ".".to_owned() } else { name }
    }

    /// Where `up` answers the command line.
    pub fn control_socket(&self) -> PathBuf {
        socket(&self.data, "up.sock")
    }

    /// Where a workload finds its object.
    pub fn agent_socket(&self) -> PathBuf {
        socket(&self.data, "agent.sock")
    }
}

/// `DATA/run/NAME`, or a short path that stands for it where that is too long for a socket.
#[must_use]
pub fn socket(data: &Path, name: &str) -> PathBuf {
    let data = data
        .canonicalize()
        .or_else(|_| std::path::absolute(data))
        .unwrap_or_else(|_| data.to_owned());
    let beside = data.join("run").join(name);
    if beside.as_os_str().len() <= MAX_SOCKET_PATH {
        return beside;
    }
    let digest = Digest::of(data.as_os_str().as_bytes()).hex();
    short_dir().join(digest.get(..16).unwrap_or_default()).join(name)
}

/// This user's directory for sockets whose own place is too long for one.
#[must_use]
pub fn short_dir() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = base.filter(|base| base.is_absolute() && base.as_os_str().len() < 60);
    let name = format!("suijuris-{}", nix::unistd::geteuid());
    match base {
        Some(base) => base.join(name),
        None => first_free(&["/tmp", "/var/tmp", "/dev/shm"], &name),
    }
}

/// This user's directory among those that everybody may write to: anybody can put something of that name into one of them,
/// and it cannot be removed by whom it stands in the way of. One that is there already is this user's choice.
fn first_free(bases: &[&str], name: &str) -> PathBuf {
    let places = || bases.iter().map(|base| Path::new(base).join(name));
    let is_own = |place: &PathBuf| {
        let found = place.symlink_metadata();
        found.is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw())
    };
    let is_free = |place: &PathBuf| {
        let below = place.parent().is_some_and(Path::is_dir);
        below
            && place
                .symlink_metadata()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    places()
        .find(is_own)
        .or_else(|| places().find(is_free))
        .unwrap_or_else(|| Path::new("/tmp").join(name))
}

/// Makes the directory of a socket, open to this user alone; one that belongs to somebody else is refused.
pub fn make_socket_dir(socket: &Path) -> io::Result<()> {
    let Some(dir) = socket.parent() else {
        return Ok(());
    };
    if let Some(above) = dir.parent().filter(|above| *above == short_dir()) {
        make_private_dir(above)?;
    }
    make_private_dir(dir)
}

/// Makes a directory that is open to this user alone; one that belongs to somebody else is refused.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = dir.symlink_metadata()?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        let why = format!(
            "`{}` is not a directory of this user: remove it, or set XDG_RUNTIME_DIR to a directory of yours",
            dir.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if found.mode() & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_put_in_the_way_is_walked_around() {
        let temp = tempfile::tempdir().unwrap();
        let bases: Vec<PathBuf> = ["a", "b", "c"]
            .iter()
            .map(|base| temp.path().join(base))
            .collect();
        bases.iter().for_each(|base| std::fs::create_dir(base).unwrap());
        let bases: Vec<&str> = bases.iter().map(|base| base.to_str().unwrap()).collect();
        let [a, b, c] = bases.as_slice() else {
            panic!("three")
        };
        assert_eq!(first_free(&bases, "x"), Path::new(a).join("x"));
        // A file, or a link to a directory of this user, stands for what is another's.
        std::fs::write(Path::new(a).join("x"), "").unwrap();
        std::os::unix::fs::symlink(temp.path(), Path::new(b).join("x")).unwrap();
        assert_eq!(first_free(&bases, "x"), Path::new(c).join("x"));
        std::fs::remove_file(Path::new(b).join("x")).unwrap();
        std::fs::create_dir(Path::new(b).join("x")).unwrap();
        assert_eq!(
            first_free(&bases, "x"),
            Path::new(b).join("x"),
            "it is there already"
        );
    }

    #[test]
    fn sockets_lie_beside_the_data_or_where_a_socket_fits() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("d".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let place = |data: &Path| ObjectPaths {
            object_dir: None,
            data: data.to_owned(),
        };
        let data = temp.path().canonicalize().unwrap();
        assert_eq!(place(temp.path()).control_socket(), data.join("run/up.sock"));
        let (control, agent) = (place(&deep).control_socket(), place(&deep).agent_socket());
        assert!(
            control.as_os_str().len() <= MAX_SOCKET_PATH,
            "{}",
            control.display()
        );
        assert_eq!(control.parent(), agent.parent());
        assert_ne!(control, agent);
    }

    #[test]
    fn a_directory_for_sockets_is_for_this_user_alone() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("run/up.sock");
        let mode = || temp.path().join("run").metadata().unwrap().mode() & 0o777;
        make_socket_dir(&socket).unwrap();
        assert_eq!(mode(), 0o700);
        std::fs::set_permissions(temp.path().join("run"), Permissions::from_mode(0o755)).unwrap();
        make_socket_dir(&socket).unwrap();
        assert_eq!(mode(), 0o700);
        std::fs::remove_dir(temp.path().join("run")).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("run")).unwrap();
        assert!(
            make_socket_dir(&socket)
                .unwrap_err()
                .to_string()
                .contains("remove it")
        );
    }
}
