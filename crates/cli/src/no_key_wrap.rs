//! In place of `key_wrap` where this program is built without the feature `sealing`: says so.

use std::path::Path;

use anyhow::bail;
use suijuris_core::key::SecretKey;
use suijuris_store::capsule::Decrypted;
use suijuris_supervisor::serve::packing::KeyWrap;
use zeroize::Zeroizing;

const ABSENT: &str = "this program was built without sealed keys: build it with `cargo build --release`";

/// What a daemon seals with.
#[derive(Debug)]
pub(crate) struct Age;

impl KeyWrap for Age {
    fn seal(&self, _: &Decrypted, _: &[String]) -> Result<Vec<u8>, String> {
        Err(ABSENT.to_owned())
    }

    fn check(&self, _: &[String]) -> Result<(), String> {
        Err(ABSENT.to_owned())
    }

    fn fresh(&self) -> Result<(Zeroizing<String>, String), String> {
        Err(ABSENT.to_owned())
    }

    fn open(&self, _: &[u8], _: &str) -> Result<Decrypted, String> {
        Err(ABSENT.to_owned())
    }
}

pub(crate) fn recipient_of(_: &SecretKey) -> anyhow::Result<String> {
    bail!(ABSENT)
}

pub(crate) fn encrypt(_: &Decrypted, _: &[String]) -> anyhow::Result<Vec<u8>> {
    bail!(ABSENT)
}

pub(crate) fn decrypt(_: &[u8], _: Option<&Path>) -> anyhow::Result<Decrypted> {
    bail!(ABSENT)
}
