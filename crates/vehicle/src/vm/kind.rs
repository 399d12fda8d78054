//! What runs machines: QEMU or Firecracker, and what of this host they need for it.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// What runs machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// QEMU.
    Qemu(Accelerator),
    /// Firecracker.
    Firecracker(Firecracker),
}

/// How Firecracker is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firecracker {
    /// The program, named by who knows that it runs here; else the one on `PATH`, where the host has KVM.
    pub exe: Option<PathBuf>,
    /// The host's network device (a tap) for machines that have a network, where there is one. Its own address is 10.0.2.2, a machine's
    /// 10.0.2.15.
    pub tap: Option<String>,
    /// What jails it, as root alone: named by who knows that it does; else `jailer` on `PATH`, and nothing where there is none.
    pub jailer: Option<PathBuf>,
    /// Where the pages of a machine come from that was suspended.
    pub memory: MemoryBackend,
}

/// Where Firecracker has the pages of a machine from that was suspended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryBackend {
    /// The kernel reads them from the file as they are touched.
    #[default]
    File,
    /// The driver brings each as it is touched (`userfaultfd`); without its driver such a machine ends.
    Uffd,
}

/// What runs a machine's instructions in QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// QEMU translates them: works anywhere, and is some ten times slower than the processor.
    Tcg,
    /// The processor, by the host's kernel; QEMU where that refuses.
    Kvm,
}

impl Accelerator {
    /// The processor where it does run machines, which a `/dev/kvm` that is there does not say; else QEMU.
    #[must_use]
    pub fn detect() -> Self {
        match kvm() {
            Ok(()) => Self::Kvm,
            Err(_) => Self::Tcg,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// Whether machines run on the processor here; why not, in words. Found out once.
pub(super) fn kvm() -> &'static Result<(), String> {
    static LOOKED: OnceLock<Result<(), String>> = OnceLock::new();
    LOOKED.get_or_init(|| suijuris_sys::kvm::look().map_err(|why| why.to_string()))
}
