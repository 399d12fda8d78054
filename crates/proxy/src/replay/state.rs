//! The signature under a replay's `state`: an id is public and proves nothing, so the proxy says for which machine it carried
//! these bytes, and until when they count. HMAC-SHA-256 over target, expiry and state, under a key of the target's app.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How long a signature counts, seconds.
pub const LASTS_S: u64 = 60;

/// The proxy's key, which signs for no app itself.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// The key of one app, or of one machine: what is verified with there.
#[derive(Clone)]
pub struct AppKey([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl fmt::Debug for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppKey")
    }
}

/// Why a state counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It was signed for another machine, with another key, or changed.
    #[error("the state was not signed for this machine")]
    Signature,
    /// It is too old.
    #[error("the state's signature is over: have the request replayed again")]
    Expired,
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(&u64::try_from(part.len()).ok()?.to_be_bytes());
        mac.update(part);
    }
    Some(mac)
}

impl Key {
    /// The key of these bytes, which nobody else knows.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of an app.
    #[must_use]
    pub fn of_app(&self, app: &str) -> AppKey {
        let derived = mac(&self.0, &[b"suijuris replay state 1", app.as_bytes()]);
        AppKey(derived.map_or([0; 32], |mac| mac.finalize().into_bytes().into()))
    }
}

impl Key {
    /// The key of one machine, by which it knows what the proxy itself says to it: of clients' TLS.
    #[must_use]
    pub fn of_machine(&self, machine: &str) -> AppKey {
        let derived = mac(&self.0, &[b"suijuris client tls 1", machine.as_bytes()]);
        AppKey(derived.map_or([0; 32], |mac| mac.finalize().into_bytes().into()))
    }
}

impl AppKey {
    /// The key of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for those machines alone.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn over(&self, machine: &str, expires_s: u64, state: &str) -> Option<Hmac<Sha256>> {
        let parts: [&[u8]; 3] = [machine.as_bytes(), &expires_s.to_be_bytes(), state.as_bytes()];
        mac(&self.0, &parts)
    }

    /// The signature under `state` for `machine`, in hexadecimal digits; it counts until `expires_s`, seconds since 1970.
    #[must_use]
    pub fn sign(&self, machine: &str, expires_s: u64, state: &str) -> String {
        let mac = self.over(machine, expires_s, state);
        let bytes = mac.map(|mac| mac.finalize().into_bytes()).unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the proxy carried `state` to `machine` and it counts at `now_s`.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn verify(
        &self,
        machine: &str,
        expires_s: u64,
        state: &str,
        signature: &str,
        now_s: u64,
    ) -> Result<(), StateError> {
        let byte = |at: usize| u8::from_str_radix(signature.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..signature.len()).step_by(2).map(byte).collect();
        let mac = self
            .over(machine, expires_s, state)
            .ok_or(StateError::Signature)?;
        mac.verify_slice(&bytes.unwrap_or_default())
            .map_err(|_| StateError::Signature)?;
        // One that lasts longer than we let any was made by somebody else's clock.
        if now_s > expires_s || expires_s > now_s.saturating_add(LASTS_S) {
            return Err(StateError::Expired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_counts_for_one_machine_and_a_minute() {
        let key = Key::new([7; 32]).of_app("shop");
        let signed = key.sign("m1", 1_060, "hello");
        let check = |machine: &str, expires: u64, state: &str, now: u64| {
            key.verify(machine, expires, state, &signed, now)
        };
        assert_eq!(check("m1", 1_060, "hello", 1_000), Ok(()));
        assert_eq!(check("m1", 1_060, "hello", 1_060), Ok(()));
        assert_eq!(check("m1", 1_060, "hello", 1_061), Err(StateError::Expired));
        assert_eq!(check("m1", 1_060, "hello", 900), Err(StateError::Expired));
        assert_eq!(check("m2", 1_060, "hello", 1_000), Err(StateError::Signature));
        assert_eq!(check("m1", 1_061, "hello", 1_001), Err(StateError::Signature));
        assert_eq!(check("m1", 1_060, "hellO", 1_000), Err(StateError::Signature));
        let other = Key::new([7; 32]).of_app("other");
        assert_eq!(
            other.verify("m1", 1_060, "hello", &signed, 1_000),
            Err(StateError::Signature)
        );
        for bad in ["", "zz", "0", &signed[1..], "é"] {
            assert_eq!(
                key.verify("m1", 1_060, "hello", bad, 1_000),
                Err(StateError::Signature),
                "{bad}"
            );
        }
        assert_eq!(format!("{key:?} {:?}", Key::new([7; 32])), "AppKey Key");
    }

    #[test]
    fn what_is_said_to_one_machine_has_the_bytes_that_it_expects() {
        let key = Key::new([7; 32]).of_machine("m1");
        let hexadecimal: String = key.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hexadecimal,
            "d34096771e7f97c9911865d4de4b2cdfd9bb3df3e3d299793df482170aaa1e7b"
        );
        let session = "eyJ2ZXJzaW9uIjoiMS4zIiwic2VydmVyX25hbWUiOiJzaG9wLmxvY2FsaG9zdCJ9";
        assert_eq!(
            key.sign("m1", 1_060, session),
            "6451ac42e5a3214232070e785faca5402804d4423e3bb81e1ae147203d1e3e77"
        );
    }
}
