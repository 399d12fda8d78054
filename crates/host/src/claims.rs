//! Names and volumes of machines that are being recorded: taken before the record is on the disk, so that many machines can be made at
//! once and no two get the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What is taken, and by which machine.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<BTreeMap<String, String>>);

/// What one machine takes, until it is dropped: by then the machine is among the others, or will never be.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    keys: Vec<String>,
}

/// A machine's name in its app.
pub(crate) fn name(app: &str, name: &str) -> String {
    format!("name {app} {name}")
}

/// A volume.
pub(crate) fn volume(id: &str) -> String {
    format!("volume {id}")
}

impl Claims {
    /// The machine that takes this.
    pub(crate) fn holder(&self, key: &str) -> Option<String> {
        let claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        claims.get(key).cloned()
    }

    /// Takes them for a machine. Whoever calls has made sure that nobody has them.
    pub(crate) fn take(&self, machine: &str, keys: Vec<String>) -> Claim<'_> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        claims.extend(keys.iter().map(|key| (key.clone(), machine.to_owned())));
        Claim { claims: self, keys }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            claims.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_a_machines_until_it_is_given_back() {
        let claims = Claims::default();
        let keys = || vec![name("a", "one"), volume("vol_1")];
        let claim = claims.take("m1", keys());
        assert_eq!(claims.holder(&volume("vol_1")).as_deref(), Some("m1"));
        assert_eq!(claims.holder(&name("b", "one")), None);
        drop(claim);
        assert!(keys().iter().all(|key| claims.holder(key).is_none()));
    }
}
