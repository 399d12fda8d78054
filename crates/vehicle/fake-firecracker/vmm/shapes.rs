//! What its calls take; a field that it does not know is refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Config {
    pub(super) machine: Machine,
    pub(super) boot: Option<Boot>,
    pub(super) drives: Vec<Drive>,
    pub(super) cards: Vec<Card>,
    pub(super) vsock: Option<Vsock>,
    pub(super) entropy: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    pub(super) vcpu_count: u8,
    pub(super) mem_size_mib: u64,
    #[serde(default)]
    pub(super) smt: bool,
    #[serde(default)]
    pub(super) track_dirty_pages: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            track_dirty_pages: false,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Boot {
    pub(super) kernel_image_path: PathBuf,
    pub(super) initrd_path: Option<PathBuf>,
    pub(super) boot_args: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drive {
    pub(super) drive_id: String,
    pub(super) path_on_host: PathBuf,
    pub(super) is_root_device: bool,
    pub(super) is_read_only: Option<bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Card {
    pub(super) iface_id: String,
    pub(super) host_dev_name: String,
    pub(super) guest_mac: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vsock {
    pub(super) guest_cid: u32,
    pub(super) uds_path: PathBuf,
    pub(super) vsock_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entropy {
    #[expect(dead_code, reason = "known and not played")]
    pub(super) rate_limiter: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Action {
    pub(super) action_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) state: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    #[serde(default)]
    pub(super) snapshot_type: Kind,
    pub(super) snapshot_path: PathBuf,
    pub(super) mem_file_path: PathBuf,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Kind {
    #[default]
    Full,
    Diff,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    pub(super) snapshot_path: PathBuf,
    pub(super) mem_backend: Backend,
    #[serde(default)]
    pub(super) track_dirty_pages: bool,
    #[serde(default)]
    pub(super) resume_vm: bool,
    #[serde(default)]
    pub(super) network_overrides: Vec<CardOverride>,
    pub(super) vsock_override: Option<VsockOverride>,
    #[serde(default)]
    pub(super) clock_realtime: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) backend_type: String,
    pub(super) backend_path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CardOverride {
    pub(super) iface_id: String,
    pub(super) host_dev_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VsockOverride {
    pub(super) uds_path: PathBuf,
}
