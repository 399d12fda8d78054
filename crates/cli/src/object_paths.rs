//! Which object a command means: its directory, or its data.

use std::path::{Path, PathBuf};

use crate::server::Server;
use suijuris_bundle::DEFINITION;
pub(crate) use suijuris_supervisor::paths::{ObjectPaths, make_socket_dir};

/// Name of the data directory in an object's directory.
const DATA: &str = ".suijuris";

/// No object is meant by what was named.
#[derive(Debug, thiserror::Error)]
#[error(
    "no object in {} (neither object.toml nor lineage/), and no daemon serves one of that name; name another directory, or start \
     one with `suijuris new http DIR`",
    .0.display()
)]
pub(crate) struct NoObject(pub(crate) PathBuf);

/// Which object: its directory, or its data.
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

/// Finds the object that `dir` (`.` where absent) and `data` mean, here or served by a daemon of this host.
pub(crate) fn locate(dir: Option<&Path>, data: Option<&Path>) -> Result<ObjectPaths, NoObject> {
    in_files(dir, data).or_else(|none| dir.and_then(served).ok_or(none))
}

/// As [`locate`], by the files that are here alone.
pub(crate) fn in_files(dir: Option<&Path>, data: Option<&Path>) -> Result<ObjectPaths, NoObject> {
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
        return in_files(None, Some(&named));
    }
    Err(NoObject(named))
}

/// An object that a daemon serves under this name: `CLASS/KEY`, a name or an id.
fn served(name: &Path) -> Option<ObjectPaths> {
    let object = Server::running().ok()??.object(name.to_str()?).ok()?;
    Some(ObjectPaths {
        object_dir: object.object_dir,
        data: object.data,
    })
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
}
