//! ObjectArg an object is: its directory, its data, and the sockets of whoever runs it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use suijuris_bundle::DEFINITION;
use suijuris_core::id::Digest;
use suijuris_store::ObjectDir;

/// Name of the data directory in an object's directory.
const DATA: &str = ".suijuris";

/// Longest path of a Unix socket, bytes (`sun_path` without its end).
const MAX_SOCKET_PATH: usize = 107;

/// An object's directories, absolute. Neither need hold anything yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectPaths {
    /// ObjectArg `object.toml` is, where that is known.
    pub(crate) object_dir: Option<PathBuf>,
    /// ObjectArg lineage, bundles and secrets are.
    pub(crate) data: PathBuf,
}

/// No object is meant by what was named.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{}` is no object: it has neither object.toml nor a lineage; name another directory, or start one with `suijuris new http DIR`",
    .0.display()
)]
pub(crate) struct NoObject(PathBuf);

/// DepotArg object: its directory, or its data.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ObjectArg {
    /// Object's directory (with object.toml) or data directory [default: .]
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    pub(crate) data: Option<PathBuf>,
}

impl ObjectArg {
    pub(crate) fn locate(&self) -> Result<ObjectPaths, NoObject> {
        locate(self.dir.as_deref(), self.data.as_deref())
    }
}

/// Finds the object that `dir` (`.` where absent) and `data` mean.
pub(crate) fn locate(dir: Option<&Path>, data: Option<&Path>) -> Result<ObjectPaths, NoObject> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let named = absolute(dir.unwrap_or(Path::new(".")));
    let object_dir = named.join(DEFINITION).is_file().then(|| named.clone());
    if let Some(data) = data.map(absolute) {
        let beside = || Some(data.parent()?.to_owned()).filter(|parent| parent.join(DEFINITION).is_file());
        let object_dir = if dir.is_some() { object_dir } else { beside() };
        return Ok(ObjectPaths { object_dir, data });
    }
    let inner = named.join(DATA);
    if object_dir.is_some() || inner.join("lineage").is_dir() {
        return Ok(ObjectPaths {
            object_dir,
            data: inner,
        });
    }
    if named.join("lineage").is_dir() {
        return locate(None, Some(&named));
    }
    Err(NoObject(named))
}

impl ObjectPaths {
    /// The object on disk.
    pub(crate) fn home(&self) -> ObjectDir {
        ObjectDir::at(&self.data)
    }

    /// How a person here names this object to another command.
    pub(crate) fn name(&self) -> String {
        let dir = self.object_dir.as_ref().unwrap_or(&self.data);
        let here = std::env::current_dir().unwrap_or_default();
        let name = dir.strip_prefix(&here).unwrap_or(dir).display().to_string();
        if name.is_empty() { ".".to_owned() } else { name }
    }

    /// ObjectArg `up` answers the command line.
    pub(crate) fn control_socket(&self) -> PathBuf {
        socket(&self.data, "up.sock")
    }

    /// ObjectArg a workload finds its object.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        socket(&self.data, "agent.sock")
    }
}

/// `DATA/run/NAME`, or a short path that stands for it where that is too long for a socket.
fn socket(data: &Path, name: &str) -> PathBuf {
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

/// This user's directory for sockets.
fn short_dir() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = base.filter(|base| base.is_absolute() && base.as_os_str().len() < 60);
    base.unwrap_or_else(|| "/tmp".into())
        .join(format!("suijuris-{}", nix::unistd::geteuid()))
}

/// Makes the directory of a socket, open to this user alone; one that belongs to somebody else is refused.
pub(crate) fn make_socket_dir(socket: &Path) -> io::Result<()> {
    let Some(dir) = socket.parent() else {
        return Ok(());
    };
    if let Some(above) = dir.parent().filter(|above| *above == short_dir()) {
        private_dir(above)?;
    }
    private_dir(dir)
}

fn private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = dir.symlink_metadata()?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        let why = format!("`{}` is not a directory of this user: remove it", dir.display());
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
    fn an_object_is_found_by_its_directory_its_data_or_both() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, bare) = (temp.path().join("object"), temp.path().join("bare"));
        std::fs::create_dir_all(dir.join(".suijuris/lineage")).unwrap();
        std::fs::create_dir_all(bare.join("lineage")).unwrap();
        std::fs::write(dir.join("object.toml"), "").unwrap();
        let data = dir.join(".suijuris");
        let place = |object_dir: Option<&Path>, data: &Path| ObjectPaths {
            object_dir: object_dir.map(Path::to_owned),
            data: data.to_owned(),
        };
        assert_eq!(locate(Some(&dir), None).unwrap(), place(Some(&dir), &data));
        assert_eq!(locate(Some(&data), None).unwrap(), place(Some(&dir), &data));
        assert_eq!(locate(None, Some(&data)).unwrap(), place(Some(&dir), &data));
        assert_eq!(locate(Some(&bare), None).unwrap(), place(None, &bare));
        assert_eq!(locate(Some(&dir), Some(&bare)).unwrap(), place(Some(&dir), &bare));
        assert!(
            locate(Some(temp.path()), None)
                .unwrap_err()
                .to_string()
                .contains("suijuris new")
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
