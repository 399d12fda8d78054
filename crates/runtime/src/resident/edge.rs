//! What the platform's proxy says of a client's TLS: believed only under the key that the platform gave this machine alone.
//!
//! The proxy takes the field away from clients. A program that reaches the gate past the proxy (a machine of the same private
//! network) may write it, and has no key. Not here: TLS of callers that a supervisor takes, which says it over its link.

use std::io::Read as _;
use std::path::Path;

use suijuris_api::tls::{FIELD, Session, WORD};
use suijuris_auth::ProxyKey;
use suijuris_gate::RequestHead;
use zeroize::Zeroizing;

use super::{Resident, platform};

/// The key's file, beside the platform's socket.
const KEY: &str = "proxy.key";

/// By what the proxy of the platform at `socket` is believed. None where the platform gave no key: then nobody is.
pub(crate) fn key_beside(socket: &Path, environment: impl Fn(&str) -> Option<String>) -> Option<ProxyKey> {
    let mut key = Zeroizing::new([0; 32]);
    let mut file = std::fs::File::open(socket.with_file_name(KEY)).ok()?;
    file.read_exact(key.as_mut_slice()).ok()?;
    Some(ProxyKey::new(environment(platform::MACHINE)?, key))
}

impl Resident {
    /// What the platform's proxy says of the client, where no supervisor has said it.
    pub(crate) fn proxied(&self, head: &RequestHead<'_>) -> Option<Session> {
        let key = self.proxy.as_ref().filter(|_| head.tls.is_none())?;
        let word = str::from_utf8(head.header(FIELD)?).ok()?;
        let now_s = u64::try_from(self.now().at.0 / 1_000).ok()?;
        serde_json::from_slice(&key.open(WORD, word, now_s)?).ok()
    }
}
