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

/// Messages that wait for an object in the depot, where that is a directory, which answers at once.
pub(crate) fn waiting(object: suijuris_core::ObjectId) -> Option<u64> {
    let variable = |name: &str| std::env::var(name).ok();
    let here = match variable("SUIJURIS_DEPOT") {
        Some(url) if url.starts_with('/') => PathBuf::from(url),
        // Others may be far away.
        Some(url) => PathBuf::from(url.strip_prefix("file://")?),
        None => default_directory(&variable).ok()?,
    };
    let depot = DepotArg {
        depot: Some(here.display().to_string()),
    };
    // Looking makes nothing.
    here.is_dir().then_some(())?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let found = tokio.block_on(async { depot.open().await?.inbox(object, 1_000).await });
    u64::try_from(found.ok()?.len()).ok()
}
