//! Where an object is.
use std::path::{Path, PathBuf};
/// Where an object is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Directory with object.toml.
    pub object_dir: Option<PathBuf>,
    /// Data directory.
    pub data: PathBuf,
}
impl Place {
    /// Control socket of `up`.
    pub fn control_socket(&self) -> PathBuf {
        self.data.join("run").join("up.sock")
    }
    /// Agent socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.data.join("run").join("agent.sock")
    }
}
/// Finds it.
pub fn locate(dir: Option<&Path>, data: Option<&Path>) -> anyhow::Result<Place> {
    let dir = std::path::absolute(dir.unwrap_or(Path::new(".")))?;
    let object_dir = dir.join("object.toml").is_file().then(|| dir.clone());
    let data = match data {
        Some(d) => std::path::absolute(d)?,
        None => dir.join(".suijuris"),
    };
    Ok(Place { object_dir, data })
}
