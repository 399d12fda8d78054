//! What `push` and `pull` have in common: the registry, who asks it, and how it is reached.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use suijuris_oci::{
    DockerConfig, MAX_BLOB_BYTES, Options, Reference, Registry, Transport, docker_config_path,
};

use crate::Usage;

/// How to reach a registry.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Reach {
    /// Use plain HTTP, which this machine itself gets anyway: everybody on the way reads along
    #[arg(long)]
    plain_http: bool,
    /// Certificates in PEM that are trusted beside those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Reads a reference as it is typed.
pub(crate) fn reference(text: &str) -> Result<Reference, Usage> {
    text.parse()
        .map_err(|error: suijuris_oci::ReferenceError| Usage(error.to_string()))
}

impl Reach {
    /// A client for the registry of `reference`, with the credentials that Docker or Podman left for it.
    pub(crate) fn registry(&self, reference: &Reference) -> anyhow::Result<Registry> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let (config, home) = (set("DOCKER_CONFIG"), set("HOME"));
        let path = docker_config_path(config.as_deref().map(Path::new), home.as_deref().map(Path::new));
        let config = match path.filter(|path| path.exists()) {
            Some(path) => DockerConfig::read(&path)?,
            None => DockerConfig::default(),
        };
        let roots_pem = match &self.ca {
            Some(path) => {
                std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()))?
            }
            None => Vec::new(),
        };
        let options = Options {
            credentials: config.credentials(reference.host())?,
            transport: if self.plain_http {
                Transport::Plain
            } else {
                Transport::ByHost
            },
            roots_pem,
            max_blob_bytes: MAX_BLOB_BYTES,
            ..Options::default()
        };
        Ok(Registry::new(reference.host(), options)?)
    }
}

/// What runs the client.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
