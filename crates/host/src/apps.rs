//! Apps: what machines, volumes and secrets belong to.

use serde::{Deserialize, Serialize};

/// An app as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) org: String,
    pub(crate) network: String,
    pub(crate) created_ms: u64,
    /// It is being deleted: nothing new may come to it.
    #[serde(default)]
    pub(crate) leaving: bool,
}
