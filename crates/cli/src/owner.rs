//! Owner key.
use suijuris_core::key::SecretKey;
/// The owner's key.
pub fn owner_key() -> anyhow::Result<SecretKey> {
    Ok(SecretKey::from_seed(&[9; 32]))
}
