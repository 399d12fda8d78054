//! Ids as Fly's clients know them: machines, versions, events, leases, volumes; and names for machines that got none.

use ulid::Ulid;

/// Letters of ids in base 36.
const BASE36: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// First halves of names that are made up.
const FIRST: [&str; 16] = [
    "amber", "brisk", "calm", "deep", "early", "fair", "grand", "hazel", "ivory", "keen", "long", "mild",
    "north", "plain", "quiet", "still",
];
/// Second halves.
const SECOND: [&str; 16] = [
    "bay", "brook", "cliff", "dune", "field", "grove", "hill", "isle", "lake", "moor", "path", "reef",
    "shore", "stone", "vale", "wood",
];

/// The system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no randomness; nothing can be named or kept secret without it")]
pub struct NoRandomness;

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A machine's id: 14 hexadecimal digits.
pub(crate) fn machine() -> Result<String, NoRandomness> {
    Ok(hex(&random::<7>()?))
}

/// A lease's nonce: 12 hexadecimal digits.
pub(crate) fn nonce() -> Result<String, NoRandomness> {
    Ok(hex(&random::<6>()?))
}

/// A volume's id.
pub(crate) fn volume() -> Result<String, NoRandomness> {
    Ok(format!("vol_{}", base36::<16>()?))
}

/// A snapshot's id.
pub(crate) fn snapshot() -> Result<String, NoRandomness> {
    Ok(format!("vs_{}", base36::<22>()?))
}

/// Whether a text has the form of a snapshot's id.
pub(crate) fn is_snapshot(text: &str) -> bool {
    let letters = text.strip_prefix("vs_");
    letters.is_some_and(|rest| rest.len() == 22 && rest.bytes().all(|byte| BASE36.contains(&byte)))
}

fn base36<const N: usize>() -> Result<String, NoRandomness> {
    let letters = random::<N>()?;
    let letter = |byte: u8| {
        BASE36
            .get(usize::from(byte) % BASE36.len())
            .copied()
            .unwrap_or(b'0')
    };
    Ok(letters.into_iter().map(|byte| char::from(letter(byte))).collect())
}

/// A version, an event, a request: 26 letters that sort by time.
pub(crate) fn ulid(now_ms: u64) -> Result<String, NoRandomness> {
    let random = u128::from_be_bytes(random::<16>()?);
    Ok(Ulid::from_parts(now_ms, random).to_string())
}

/// A name for a machine that was given none.
pub(crate) fn name() -> Result<String, NoRandomness> {
    let [first, second, high, low] = random::<4>()?;
    let word =
        |words: [&'static str; 16], byte: u8| words.get(usize::from(byte % 16)).copied().unwrap_or("plain");
    let number = u16::from_be_bytes([high, low]) % 10_000;
    Ok(format!(
        "{}-{}-{number}",
        word(FIRST, first),
        word(SECOND, second)
    ))
}

/// Whether a text may name an app or a machine: 1 to 63 of `a-z`, `0-9` and `-`, a letter or digit at both ends.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    bytes.len() <= 63
        && ends.is_some_and(|(&first, &last)| plain(first) && plain(last))
        && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_forms_that_clients_check() {
        assert_eq!(machine().unwrap().len(), 14);
        assert_eq!(nonce().unwrap().len(), 12);
        assert_eq!(volume().unwrap().len(), 20);
        assert_eq!(ulid(1).unwrap().len(), 26);
        assert!(ulid(1).unwrap() < ulid(2).unwrap());
        assert!(is_name(&name().unwrap()));
    }

    #[test]
    fn names_are_labels() {
        for good in ["a", "my-app", "1a", &"x".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
