//! A Fly-compatible vehicle for one Linux machine: Machines API, volumes, secrets, tokens. It knows nothing of objects.
//!
//! | module | duty |
//! |---|---|
//! | [`host`](Host) | apps and machines of one data directory, found again after a restart |
//! | `machine` | one machine: its record, what may be asked, what comes next (pure), its owner |
//! | `store`, `sealed`, `tokens`, `secrets` | what outlives the daemon |
//! | `network` | private networks of orgs: addresses, names, the way out |
//! | `config` | what a machine shall be, with every tolerance that clients need |
//! | `api`, `audit` | the Machines API, and what was asked of it |
//! | `drain`, `arrivals` | machines that go to another host, and come from one |
//! | [`proxied`](proxy) | machines as the proxy sees them |
//!
//! Every operation is recorded step by step; a daemon that was killed goes on where it was. Machines outlive it.

#![forbid(unsafe_code)]

mod api;
mod apps;
mod arrivals;
mod audit;
mod capacity;
mod checks;
mod claims;
mod clock;
mod config;
mod connections;
mod documents;
mod door;
mod drain;
mod faults;
mod host;
mod ids;
mod images;
mod logs;
mod machine;
mod network;
mod oidc;
#[cfg(feature = "openapi")]
pub mod openapi;
mod pieces;
mod processes;
mod proxied;
mod registry;
mod sealed;
mod secrets;
mod signals;
mod store;
mod tokens;
mod usage;
mod vault;
mod volumes;
mod words;

pub use api::{serve, serve_control};
pub use host::{Host, OpenError, Options};
pub use ids::NoRandomness;
pub use proxied::{ProxyError, proxy};
pub use sealed::SealError;
pub use store::StoreError;
#[cfg(feature = "traces")]
pub use suijuris_proxy::traces;
pub use suijuris_proxy::{Acme, BadHook, Entry, Hook, Proxy, relay};
pub use tokens::{Access, Grant, TokenError};
pub use vault::{Pending, Vault, VaultError};
pub use volumes::VolumeError;
pub use volumes::container::ContainerError;

pub use network::names::fuzz as fuzz_names;

/// The fuzz body of what clients send as a machine's config: whatever it is, it is read or refused, and read again the same.
#[doc(hidden)]
pub fn fuzz_config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else {
        return;
    };
    if let Ok(config) = config::MachineConfig::read(value) {
        let shown = config.shown();
        let again = config::MachineConfig::read(shown.clone());
        assert!(again.is_ok_and(|again| again.shown() == shown), "{shown}");
    }
}

/// The fuzz body of what comes from a backup of a volume.
#[doc(hidden)]
pub fn fuzz_backup(bytes: &[u8], root: &std::path::Path) {
    volumes::fuzz(bytes, root);
}
