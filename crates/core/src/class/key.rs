//! Keys: what tells the instances of a class apart. Checked, never made to fit.
//!
//! Every key is a DNS label, so that it can be a host name, a directory and a name in a depot as it stands, on systems
//! that tell cases apart and on those that do not. Two texts are never one key: what is not written as a key is refused.
//! The one exception is a class that says `key = "digest"`, where any bytes name an instance by their digest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::BlobId;

/// Length of a key at most, bytes: that of a DNS label.
pub const MAX_KEY_BYTES: usize = 63;

/// Bytes that are digested to a key at most.
pub const MAX_RAW_KEY_BYTES: usize = 1_024;

/// What keeps a digested key apart from the digest of anything else.
const DOMAIN: &[u8] = b"suijuris/v1/class-key\0";

/// What stands before labels that mean other scripts (RFC 5890).
const PUNYCODE: &str = "xn--";

/// The key of an instance: 1 to 63 of `a`–`z`, `0`–`9` and `-`, no `-` first or last, not `xn--…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing.
    #[error("the key is empty")]
    Empty,
    /// Too much; the text is not repeated.
    #[error("the key has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A letter that keys do not have.
    #[error("the key has the letter {0:?}: use lower-case letters, digits and hyphens")]
    Letter(char),
    /// A hyphen first or last.
    #[error("the key begins or ends with a hyphen")]
    Hyphen,
    /// A label of another script.
    #[error("the key begins with `{PUNYCODE}`, which stands for other scripts")]
    Punycode,
    /// Not of the form that this class asks for.
    #[error("the key is not of the form {0}")]
    Pattern(Pattern),
    /// Not a digest, where keys are digests.
    #[error("the key is not a digest, as the keys of this class are")]
    Digest,
}

impl Key {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let (len, max) = (text.len(), MAX_KEY_BYTES);
        if len > max {
            return Err(KeyError::TooLong { len, max });
        }
        if let Some(letter) = text.chars().find(|letter| !is_letter(*letter)) {
            return Err(KeyError::Letter(letter));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(KeyError::Hyphen);
        }
        if text.starts_with(PUNYCODE) {
            return Err(KeyError::Punycode);
        }
        Ok(Self(text.to_owned()))
    }
}

const fn is_letter(letter: char) -> bool {
    matches!(letter, 'a'..='z' | '0'..='9' | '-')
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which keys a class has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Keys {
    /// Every key.
    #[default]
    Label,
    /// Keys of this form.
    Pattern(Pattern),
    /// Digests of whatever is asked for.
    Digest,
}

impl Keys {
    /// The key that somebody asks for from outside: in a host name, a path, a header, a claim. Bytes where keys are
    /// digests, else text as it stands.
    ///
    /// # Errors
    /// [`KeyError`]: the text is not written as a key of this class, or longer than [`MAX_RAW_KEY_BYTES`].
    pub fn asked(&self, found: &[u8]) -> Result<Key, KeyError> {
        let (len, max) = (found.len(), MAX_RAW_KEY_BYTES);
        if len > max {
            return Err(KeyError::TooLong { len, max });
        }
        if found.is_empty() {
            return Err(KeyError::Empty);
        }
        if *self == Self::Digest {
            let id = BlobId::of(&[DOMAIN, found].concat());
            return Ok(Key(id.to_string()));
        }
        let text = std::str::from_utf8(found).map_err(|_| KeyError::Letter(char::REPLACEMENT_CHARACTER))?;
        let key = text.parse()?;
        self.check(&key)?;
        Ok(key)
    }

    /// Whether the class can have this key: for keys that stand in records, tables and commands.
    ///
    /// # Errors
    /// [`KeyError::Pattern`], [`KeyError::Digest`].
    pub fn check(&self, key: &Key) -> Result<(), KeyError> {
        match self {
            Self::Label => Ok(()),
            Self::Pattern(pattern) if pattern.matches(key) => Ok(()),
            Self::Pattern(pattern) => Err(KeyError::Pattern(pattern.clone())),
            Self::Digest => match key.as_str().parse::<BlobId>() {
                Ok(_) => Ok(()),
                Err(_) => Err(KeyError::Digest),
            },
        }
    }
}

/// Parts of a pattern at most.
const MAX_PARTS: usize = 16;

/// A form of keys: letters, and sets of letters with how often they come, as in `t-[a-f0-9]{8}`. Matched in time that
/// only the lengths of pattern and key bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Bit by letter of [`Part::bit`].
    letters: u64,
    least: usize,
    most: usize,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Something that patterns do not have.
    #[error(
        "a pattern is made of lower-case letters, digits, hyphens and sets such as [a-z0-9-]{{1,63}}; `{0}` is none of these"
    )]
    Syntax(String),
    /// A set without letters, or from a later letter to an earlier one.
    #[error("a set has letters from the lower to the higher, as in [a-z0-9-]")]
    Set,
    /// Numbers that make no sense.
    #[error("a set comes {{least,most}} times, from 0 to {MAX_KEY_BYTES}, as in [0-9]{{1,10}}")]
    Times,
    /// No key could be of this form, or only the empty one.
    #[error("no key is of this form: keys have 1 to {MAX_KEY_BYTES} letters")]
    Nothing,
    /// Too many parts.
    #[error("a pattern has at most {MAX_PARTS} parts")]
    TooLong,
}

impl Part {
    const fn bit(letter: u8) -> u64 {
        match letter {
            b'a'..=b'z' => 1 << (letter - b'a'),
            b'0'..=b'9' => 1 << (26 + letter - b'0'),
            b'-' => 1 << 36,
            _ => 0,
        }
    }

    /// Reads the part at the beginning of `text`; gives what follows.
    fn read(text: &str) -> Result<(Self, &str), PatternError> {
        let syntax = || PatternError::Syntax(text.chars().take(20).collect());
        if let Some(set) = text.strip_prefix('[') {
            let (set, rest) = set.split_once(']').ok_or_else(syntax)?;
            let (least, most, rest) = times(rest)?;
            let letters = letters(set.as_bytes())?;
            return Ok((Self { letters, least, most }, rest));
        }
        let letter = text.bytes().next().map_or(0, Self::bit);
        let rest = text.get(1..).filter(|_| letter != 0).ok_or_else(syntax)?;
        let (least, most, rest) = times(rest)?;
        let letters = letter;
        Ok((Self { letters, least, most }, rest))
    }

    /// Ends of what this part may take, by the places where it may begin.
    fn advance(&self, from: u64, key: &[u8]) -> u64 {
        let mut ends = if self.least == 0 { from } else { 0 };
        let mut reached = from;
        for taken in 1..=self.most {
            reached = key
                .iter()
                .enumerate()
                .filter(|(at, letter)| reached >> at & 1 == 1 && self.letters & Self::bit(**letter) != 0)
                .fold(0, |next, (at, _)| next | 2 << at);
            if taken >= self.least {
                ends |= reached;
            }
            if reached == 0 {
                break;
            }
        }
        ends
    }
}

/// The letters of a set, without its brackets.
fn letters(set: &[u8]) -> Result<u64, PatternError> {
    let mut found = 0;
    let mut rest = set;
    while let [first, after @ ..] = rest {
        let (last, behind) = match after {
            [b'-', last, behind @ ..] => (last, behind),
            _ => (first, after),
        };
        let same = [u8::is_ascii_lowercase, u8::is_ascii_digit]
            .iter()
            .any(|kind| kind(first) && kind(last));
        let one = first == last && Part::bit(*first) != 0;
        if !one && (!same || first > last) {
            return Err(PatternError::Set);
        }
        found |= (*first..=*last).fold(0, |bits, letter| bits | Part::bit(letter));
        rest = behind;
    }
    if found == 0 {
        Err(PatternError::Set)
    } else {
        Ok(found)
    }
}

/// How often a part comes, and what follows: `{3}`, `{1,63}`, or once.
fn times(text: &str) -> Result<(usize, usize, &str), PatternError> {
    let Some(inner) = text.strip_prefix('{') else {
        return Ok((1, 1, text));
    };
    let (inner, rest) = inner.split_once('}').ok_or(PatternError::Times)?;
    let (least, most) = inner.split_once(',').unwrap_or((inner, inner));
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| plain);
        number.filter(|number| *number <= MAX_KEY_BYTES)
    };
    match (number(least), number(most)) {
        (Some(least), Some(most)) if least <= most => Ok((least, most, rest)),
        _ => Err(PatternError::Times),
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if parts.len() == MAX_PARTS {
                return Err(PatternError::TooLong);
            }
            let (part, behind) = Part::read(rest)?;
            parts.push(part);
            rest = behind;
        }
        let least: usize = parts.iter().map(|part| part.least).sum();
        let most: usize = parts.iter().map(|part| part.most).sum();
        if least > MAX_KEY_BYTES || most == 0 {
            return Err(PatternError::Nothing);
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl Pattern {
    /// Whether a key is of this form.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        let key = key.as_str().as_bytes();
        // Places by bit: a key has at most 63 letters, so that its end is a bit too.
        let ends = self.parts.iter().fold(1, |from, part| part.advance(from, key));
        ends >> key.len() & 1 == 1
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_that_collide_or_escape_are_refused() {
        for text in [
            "a",
            "acme",
            "0",
            "a-b",
            "a--b",
            "x".repeat(63).as_str(),
            "xn-a",
            "axn--b",
        ] {
            assert_eq!(text.parse::<Key>().unwrap().as_str(), text);
        }
        for (text, expect) in [
            ("", "empty"),
            ("..", "letter '.'"),
            (".", "letter '.'"),
            ("a/b", "letter '/'"),
            ("a%2fb", "letter '%'"),
            ("%2e%2e", "letter '%'"),
            ("Acme", "letter 'A'"),
            ("acmé", "letter 'é'"),
            ("аcme", "letter 'а'"),
            ("ﬁ", "letter 'ﬁ'"),
            ("a_b", "letter '_'"),
            ("a b", "letter ' '"),
            ("a\0", "letter '\\0'"),
            ("-a", "hyphen"),
            ("a-", "hyphen"),
            ("-", "hyphen"),
            ("xn--acm-dma", "other scripts"),
        ] {
            let error = text.parse::<Key>().unwrap_err().to_string();
            assert!(error.contains(expect), "{text:?}: {error}");
            assert!(Keys::Label.asked(text.as_bytes()).is_err(), "{text:?}");
        }
        let long = "a".repeat(10_000);
        assert!(long.parse::<Key>().unwrap_err().to_string().len() < 100);
        assert!(Keys::Label.asked(long.as_bytes()).is_err());
        assert!(Keys::Label.asked(b"a\xff").is_err());
    }

    #[test]
    fn a_digest_class_takes_any_bytes_up_to_a_bound_and_keeps_them_apart() {
        let keys = Keys::Digest;
        let texts: [&[u8]; 6] = [b"acme", b"Acme", b"..", b"a/b", "ünï".as_bytes(), b"\xff\0"];
        let found: std::collections::BTreeSet<Key> =
            texts.iter().map(|text| keys.asked(text).unwrap()).collect();
        assert_eq!(found.len(), texts.len());
        for key in found {
            assert_eq!(key.as_str().parse(), Ok(key.clone()));
            assert_eq!(keys.check(&key), Ok(()));
        }
        assert!(keys.asked(&[b'a'; MAX_RAW_KEY_BYTES]).is_ok());
        assert!(keys.asked(&[b'a'; MAX_RAW_KEY_BYTES + 1]).is_err());
        assert!(keys.asked(b"").is_err());
        assert_eq!(keys.check(&"acme".parse().unwrap()), Err(KeyError::Digest));
    }

    fn check_pattern(pattern: &str, good: &[&str], bad: &[&str]) {
        let keys = Keys::Pattern(pattern.parse().unwrap());
        for key in good {
            assert!(keys.asked(key.as_bytes()).is_ok(), "{pattern} {key}");
        }
        for key in bad {
            assert!(keys.asked(key.as_bytes()).is_err(), "{pattern} {key}");
        }
    }

    #[test]
    fn patterns_say_which_keys_there_are() {
        check_pattern(
            "[a-z0-9-]{1,63}",
            &["a", "acme-2", &"z".repeat(63)],
            &["-a", "A", "xn--a"],
        );
        check_pattern(
            "t-[a-f0-9]{8}",
            &["t-0123abcd"],
            &["t-0123abc", "t-0123abcde", "x-0123abcd"],
        );
        check_pattern(
            "[a-z]{1,3}[0-9]{0,2}",
            &["a", "abc", "abc12", "a1"],
            &["abcd", "1", "abc123"],
        );
        check_pattern("a{2,4}ab", &["aaab", "aaaaab"], &["aab", "aaaaaab"]);
        check_pattern("[-a]{1,3}", &["a-a", "aaa"], &["b"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "*",
            "[a-z]+",
            "(a|b)",
            "[z-a]",
            "[]",
            "[a-z",
            "[A-Z]{2}",
            "[a-z]{2",
            "[a-z]{3,1}",
            "[a-z]{64}",
            "[a-z]{-1}",
            "[a-z]{,3}",
            "[a-z]{1,}",
            "[0-z]",
            "ä",
            "a.b",
            "[a-z]{0}",
            "[a-z]{+1}",
            "[a-z]{60}[a-z]{4}",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
        assert_eq!("a".repeat(17).parse::<Pattern>(), Err(PatternError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_a_label_and_stands_as_it_was(bytes: Vec<u8>) {
            if let Ok(key) = Keys::Label.asked(&bytes) {
                prop_assert_eq!(key.as_str().as_bytes(), bytes.as_slice());
                prop_assert!(key.as_str().len() <= MAX_KEY_BYTES && !key.as_str().starts_with("xn--"));
                prop_assert_eq!(key.as_str().to_lowercase(), key.as_str());
            }
        }

        #[test]
        fn arbitrary_patterns_never_panic_and_end(pattern in "[a-c0-9\\[\\]{},-]{0,40}", key in "[a-c0-9-]{1,63}") {
            if let (Ok(pattern), Ok(key)) = (pattern.parse::<Pattern>(), key.parse()) {
                let _ = pattern.matches(&key);
            }
        }

        #[test]
        fn a_pattern_matches_what_it_was_made_for(word in "[a-z0-9]{1,12}", times in 1_usize..5) {
            let key: Key = word.repeat(times).chars().take(63).collect::<String>().parse().unwrap();
            let all: Pattern = "[a-z0-9]{1,63}".parse().unwrap();
            prop_assert!(all.matches(&key));
            let exact: Pattern = format!("[a-z0-9]{{{}}}", key.as_str().len()).parse().unwrap();
            prop_assert!(exact.matches(&key));
        }
    }
}
