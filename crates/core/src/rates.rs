//! Rates: how often somebody asked in the running window. Volatile facts for rules, declared by `[rates.NAME]`.
//!
//! Windows follow the clock from 1970-01-01T00:00Z, as those of counters do. A request is counted once: by the door that
//! refuses it, or by the gate, which decides about whatever a door lets through; whoever only asks ([`Rates::next`]) sees the
//! number with this request in it. Beyond [`MAX_KEYS`] askers in a window the rest share one number, so that
//! strangers cannot grow the table. It holds digests and no names.
//!
//! Not here: numbers that must not be lost (counters of memory). Who calls: doors and the runtime; `custody::rates` keeps
//! the table across sleep.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::Digest;
use crate::memory::Name;
use crate::time::{Span, Timestamp};

/// Rates that a bundle declares at most.
pub const MAX_RATES: usize = 8;

/// Askers told apart in one window of one rate; further ones share one number.
pub const MAX_KEYS: usize = 10_000;

/// The shortest and the longest window.
pub const WINDOWS: std::ops::RangeInclusive<Span> = Span(1_000)..=Span(86_400_000);

/// Bytes of a kept table at most: every rate full.
pub const MAX_BYTES: usize = MAX_RATES * MAX_KEYS * 40;

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// A caller by the subject and issuer of their token; without a token by their address.
    Caller,
    /// An address; of IPv6 the first 64 bits.
    Peer,
    /// All.
    Object,
}

/// A declared rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Whose requests are counted together.
    pub per: Per,
    /// Length of a window, within [`WINDOWS`].
    pub window: Span,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Subject of a verified token.
    pub subject: Option<&'a str>,
    /// Its issuer.
    pub issuer: Option<&'a str>,
    /// Address of the connection.
    pub peer: IpAddr,
}

impl Asker<'_> {
    fn key(&self, per: Per) -> Key {
        let address = match self.peer.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).unwrap_or(0),
        };
        let address = address.to_be_bytes();
        let digest = match (per, self.subject) {
            (Per::Object, _) => return [0; 16],
            (Per::Caller, Some(subject)) => {
                let issuer = self.issuer.unwrap_or_default();
                let length = issuer.len().to_be_bytes();
                Digest::of_parts(&[b"caller", &length, issuer.as_bytes(), subject.as_bytes()])
            }
            (Per::Caller | Per::Peer, _) => Digest::of_parts(&[b"peer", &address]),
        };
        let mut key = [0; 16];
        key.iter_mut().zip(digest.0).for_each(|(to, from)| *to = from);
        key
    }
}

/// Half a digest of who asks.
type Key = [u8; 16];

/// One rate in its running window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rate: Rate,
    /// Which window it is, from the epoch.
    window: i64,
    #[serde(with = "packed")]
    counts: BTreeMap<Key, u64>,
    /// What those without a number of their own have together.
    others: u64,
}

impl Table {
    const fn new(rate: Rate) -> Self {
        Self {
            rate,
            window: 0,
            counts: BTreeMap::new(),
            others: 0,
        }
    }

    const fn window(&self, now: Timestamp) -> i64 {
        match now.0.checked_div_euclid(self.rate.window.0) {
            Some(window) => window,
            None => 0,
        }
    }

    fn next(&self, asker: &Asker<'_>, now: Timestamp) -> u64 {
        if self.window(now) != self.window {
            return 1;
        }
        let known = self.counts.get(&asker.key(self.rate.per)).copied();
        let shares = self.counts.len() >= MAX_KEYS;
        known
            .unwrap_or(if shares { self.others } else { 0 })
            .saturating_add(1)
    }

    fn count(&mut self, asker: &Asker<'_>, now: Timestamp) -> u64 {
        let window = self.window(now);
        if window != self.window {
            *self = Self {
                window,
                ..Self::new(self.rate)
            };
        }
        let (key, full) = (asker.key(self.rate.per), self.counts.len() >= MAX_KEYS);
        let count = match self.counts.get_mut(&key) {
            Some(count) => count,
            None if full => &mut self.others,
            None => self.counts.entry(key).or_default(),
        };
        *count = count.saturating_add(1);
        *count
    }
}

/// The rates of one object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rates(BTreeMap<Name, Table>);

impl Rates {
    /// These rates, with nothing counted.
    #[must_use]
    pub fn new(declared: &BTreeMap<Name, Rate>) -> Self {
        let table = |(name, rate): (&Name, &Rate)| (name.clone(), Table::new(*rate));
        Self(declared.iter().map(table).collect())
    }

    /// Whether none is declared: then nothing needs to be counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How often `asker` asked in each running window, this time included; nothing is counted. In the order of names.
    #[must_use]
    pub fn next(&self, asker: &Asker<'_>, now: Timestamp) -> Vec<i64> {
        let next = |table: &Table| number(table.next(asker, now));
        self.0.values().map(next).collect()
    }

    /// Counts a request; how often `asker` asked in each running window, this time included. In the order of names.
    pub fn count(&mut self, asker: &Asker<'_>, now: Timestamp) -> Vec<i64> {
        let count = |table: &mut Table| number(table.count(asker, now));
        self.0.values_mut().map(count).collect()
    }

    /// Numbers that are kept: one for each asker of each window.
    #[must_use]
    pub fn askers(&self) -> usize {
        self.0.values().map(|table| table.counts.len()).sum()
    }

    /// Numbers in the order of names, by name, as records keep them.
    #[must_use]
    pub fn named(&self, numbers: &[i64]) -> BTreeMap<Name, i64> {
        self.0.keys().cloned().zip(numbers.iter().copied()).collect()
    }

    /// The table as it is kept.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, codec::Error> {
        codec::encode(&self.0)
    }

    /// What of a kept table belongs to these rates: one that was declared otherwise begins anew. Bytes that are no table
    /// count nothing.
    #[must_use]
    pub fn restored(declared: &BTreeMap<Name, Rate>, bytes: &[u8]) -> Self {
        let mut rates = Self::new(declared);
        let kept: BTreeMap<Name, Table> = codec::decode(bytes, MAX_BYTES).unwrap_or_default();
        for (name, table) in kept {
            let same = |now: &&mut Table| now.rate == table.rate && table.counts.len() <= MAX_KEYS;
            if let Some(now) = rates.0.get_mut(&name).filter(same) {
                *now = table;
            }
        }
        rates
    }
}

/// Counts as bytes: each key with its number behind it.
mod packed {
    use std::collections::BTreeMap;

    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    use super::Key;

    pub(super) fn serialize<S: Serializer>(counts: &BTreeMap<Key, u64>, out: S) -> Result<S::Ok, S::Error> {
        let entry = |(key, count): (&Key, &u64)| [&key[..], &count.to_be_bytes()].concat();
        let bytes: Vec<u8> = counts.iter().flat_map(entry).collect();
        serde_bytes::serialize(&bytes, out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<Key, u64>, D::Error> {
        let bytes: Vec<u8> = serde_bytes::deserialize(input)?;
        let (entries, rest) = bytes.as_chunks::<24>();
        let entry = |entry: &[u8; 24]| {
            let (key, count) = entry.split_at(16);
            Some((key.try_into().ok()?, u64::from_be_bytes(count.try_into().ok()?)))
        };
        let counts: Option<_> = entries.iter().map(entry).collect();
        counts
            .filter(|_| rest.is_empty())
            .ok_or_else(|| D::Error::custom("counts of 24 bytes each"))
    }
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Span = Span(60_000);

    fn declared(per: Per) -> BTreeMap<Name, Rate> {
        let rate = Rate { per, window: MINUTE };
        [(Name::new("calls").unwrap(), rate)].into()
    }

    fn asker(subject: Option<&'static str>, peer: &str) -> Asker<'static> {
        Asker {
            subject,
            issuer: subject.map(|_| "iss"),
            peer: peer.parse().unwrap(),
        }
    }

    #[test]
    fn a_request_is_counted_once_and_looked_at_as_often_as_is_liked() {
        let mut rates = Rates::new(&declared(Per::Object));
        let one = asker(None, "10.0.0.1");
        for n in 1..=3 {
            assert_eq!(rates.next(&one, Timestamp(5)), [n]);
            assert_eq!(rates.next(&one, Timestamp(5)), [n], "looking counts nothing");
            assert_eq!(rates.count(&one, Timestamp(5)), [n]);
        }
        assert_eq!(rates.next(&one, Timestamp(MINUTE.0 - 1)), [4]);
        assert_eq!(rates.next(&one, Timestamp(MINUTE.0)), [1], "the next window");
        assert_eq!(rates.count(&one, Timestamp(MINUTE.0)), [1]);
        assert!(Rates::default().is_empty() && !rates.is_empty());
    }

    #[test]
    fn askers_are_told_apart_as_the_rate_says() {
        let ann = asker(Some("ann"), "10.0.0.1");
        let elsewhere = asker(Some("ann"), "10.0.0.2");
        let ben = asker(Some("ben"), "10.0.0.1");
        let nobody = asker(None, "10.0.0.1");
        let mapped = asker(None, "::ffff:10.0.0.1");
        let (six, near, far) = (
            asker(None, "2001:db8::1"),
            asker(None, "2001:db8::2"),
            asker(None, "2001:db8:1::1"),
        );
        for (per, a, b, same) in [
            (Per::Caller, ann, elsewhere, true),
            (Per::Caller, ann, ben, false),
            (Per::Caller, ann, nobody, false),
            (Per::Caller, nobody, mapped, true),
            (Per::Peer, ann, ben, true),
            (Per::Peer, ann, elsewhere, false),
            (Per::Peer, six, near, true),
            (Per::Peer, six, far, false),
            (Per::Object, ann, far, true),
        ] {
            let mut rates = Rates::new(&declared(per));
            rates.count(&a, Timestamp(0));
            let expect = if same { 2 } else { 1 };
            assert_eq!(rates.next(&b, Timestamp(0)), [expect], "{per:?} {a:?} {b:?}");
        }
    }

    #[test]
    fn ten_thousand_have_a_number_of_their_own_and_the_rest_share_one() {
        let mut rates = Rates::new(&declared(Per::Peer));
        let of = |n: usize| {
            let bits = u32::try_from(n).unwrap();
            Asker {
                subject: None,
                issuer: None,
                peer: IpAddr::V4(bits.into()),
            }
        };
        for n in 0..MAX_KEYS {
            assert_eq!(rates.count(&of(n), Timestamp(0)), [1]);
        }
        assert_eq!(rates.count(&of(MAX_KEYS), Timestamp(0)), [1]);
        assert_eq!(rates.next(&of(MAX_KEYS + 1), Timestamp(0)), [2]);
        assert_eq!(rates.count(&of(MAX_KEYS + 1), Timestamp(0)), [2]);
        assert_eq!(
            rates.count(&of(0), Timestamp(0)),
            [2],
            "an early one keeps its own"
        );
        let kept = rates.encode().unwrap();
        assert!(kept.len() <= MAX_BYTES / MAX_RATES, "{}", kept.len());
        assert_eq!(Rates::restored(&declared(Per::Peer), &kept), rates);
        assert_eq!(rates.count(&of(MAX_KEYS), Timestamp(MINUTE.0)), [1], "room again");
    }

    #[test]
    fn what_is_kept_counts_on_and_what_is_no_table_counts_nothing() {
        let one = asker(None, "10.0.0.1");
        let mut rates = Rates::new(&declared(Per::Peer));
        rates.count(&one, Timestamp(0));
        let kept = rates.encode().unwrap();
        let next = |declared: &BTreeMap<Name, Rate>, bytes: &[u8]| {
            Rates::restored(declared, bytes).next(&one, Timestamp(1))
        };
        assert_eq!(next(&declared(Per::Peer), &kept), [2]);
        assert_eq!(next(&declared(Per::Caller), &kept), [1], "declared otherwise");
        assert_eq!(next(&BTreeMap::new(), &kept), Vec::<i64>::new());
        for bytes in [&b""[..], b"\xa0", b"\xff", &kept[..kept.len() - 1]] {
            assert_eq!(next(&declared(Per::Peer), bytes), [1]);
        }
        let named = rates.named(&[7]);
        assert_eq!(
            named.into_iter().next().map(|(name, n)| (name.to_string(), n)),
            Some(("calls".to_owned(), 7))
        );
    }
}
