//! What a proxy says to one machine, under a key that the machine has from whoever carries it: HMAC-SHA-256 over machine, expiry and
//! text. Who reaches the machine past the proxy has no key, and a word to another machine counts for nothing here.
//!
//! Not here: what is said, and where the key comes from.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// How long a word may still count, seconds: one that lasts longer was made by somebody else's clock.
const LASTS_S: u64 = 60;
/// Bytes of a word at most.
const MAX_WORD: usize = 24 << 10;

/// By what a machine believes its proxy.
pub struct ProxyKey {
    machine: String,
    key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for ProxyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProxyKey")
    }
}

impl ProxyKey {
    /// The key of the machine with this id.
    #[must_use]
    pub const fn new(machine: String, key: Zeroizing<[u8; 32]>) -> Self {
        Self { machine, key }
    }

    /// What is said in `NAME=BASE64URL;expires=S;hmac-sha256=HEX`, where the proxy said it to this machine and it counts at `now_s`,
    /// seconds since 1970.
    #[must_use]
    pub fn open(&self, name: &str, word: &str, now_s: u64) -> Option<Vec<u8>> {
        if word.len() > MAX_WORD {
            return None;
        }
        let mut parts = word.split(';');
        let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let text = part(name)?;
        let expires_s: u64 = part("expires")?.parse().ok()?;
        let signature = part("hmac-sha256")?;
        if now_s > expires_s || expires_s > now_s.saturating_add(LASTS_S) {
            return None;
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_slice()).ok()?;
        for bytes in [self.machine.as_bytes(), &expires_s.to_be_bytes(), text.as_bytes()] {
            mac.update(&u64::try_from(bytes.len()).ok()?.to_be_bytes());
            mac.update(bytes);
        }
        let byte = |at: usize| u8::from_str_radix(signature.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..signature.len()).step_by(2).map(byte).collect();
        mac.verify_slice(&bytes?).ok()?;
        URL_SAFE_NO_PAD.decode(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the proxy's key `[7; 32]` gives machine `m1`, and says to it: the test of `proxy::replay::state` makes the same.
    const KEY_OF_M1: &str = "d34096771e7f97c9911865d4de4b2cdfd9bb3df3e3d299793df482170aaa1e7b";
    const TEXT: &str = "eyJ2ZXJzaW9uIjoiMS4zIiwic2VydmVyX25hbWUiOiJzaG9wLmxvY2FsaG9zdCJ9";
    const SIGNED: &str = "6451ac42e5a3214232070e785faca5402804d4423e3bb81e1ae147203d1e3e77";

    fn key(machine: &str) -> ProxyKey {
        let mut key = Zeroizing::new([0; 32]);
        for (index, to) in key.iter_mut().enumerate() {
            *to = u8::from_str_radix(&KEY_OF_M1[2 * index..2 * index + 2], 16).unwrap();
        }
        ProxyKey::new(machine.to_owned(), key)
    }

    #[test]
    fn the_proxy_is_believed_for_a_minute_and_nobody_else_is() {
        let said = format!("session={TEXT};expires=1060;hmac-sha256={SIGNED}");
        let heard = |machine: &str, said: &str, now_s| key(machine).open("session", said, now_s);
        let found = heard("m1", &said, 1_000).unwrap();
        assert_eq!(found, br#"{"version":"1.3","server_name":"shop.localhost"}"#);
        assert_eq!(heard("m1", &said, 1_061), None, "over");
        assert_eq!(heard("m1", &said, 900), None, "of another clock");
        assert_eq!(heard("m2", &said, 1_000), None, "to another machine");
        assert_eq!(key("m1").open("state", &said, 1_000), None, "of something else");
        let changed = TEXT.replacen('e', "f", 1);
        for forged in [
            format!("session={changed};expires=1060;hmac-sha256={SIGNED}"),
            format!("session={TEXT};expires=1059;hmac-sha256={SIGNED}"),
            format!("session={TEXT};expires=1060;hmac-sha256={}", &SIGNED[2..]),
            format!("session={TEXT};expires=1060;hmac-sha256="),
            format!("session={TEXT};expires=1060"),
            TEXT.to_owned(),
            String::new(),
        ] {
            assert_eq!(heard("m1", &forged, 1_000), None, "{forged}");
        }
    }
}
