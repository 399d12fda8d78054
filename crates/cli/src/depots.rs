//! The depot that a command works with: the one that is named, else a directory of this user.

use std::path::PathBuf;
use std::sync::Arc;

use suijuris_depot::{Depot, Error, default_directory};

/// Which depot.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DepotArg {
    /// Depot with witness, inbox and published heads: file:///…, s3://…, az://… or etcd://… [default: a directory
    /// under your data folder]
    #[arg(long, value_name = "URL", env = "SUIJURIS_DEPOT", hide_env_values = true)]
    pub(crate) depot: Option<String>,
}

impl DepotArg {
    /// Opens it.
    pub(crate) async fn open(&self) -> Result<Arc<dyn Depot>, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        match &self.depot {
            Some(url) => suijuris_depot::open(url, &variable).await,
            None => {
                let directory: PathBuf = default_directory(&variable)?;
                suijuris_depot::open(&directory.display().to_string(), &variable).await
            }
        }
    }
}
