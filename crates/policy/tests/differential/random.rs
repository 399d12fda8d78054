//! Numbers from a printed seed, and small pools of values that are likely to meet.

use std::net::IpAddr;

/// SplitMix64: one seed, one sequence, on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub(crate) fn text(&mut self) -> &'static str {
        self.pick::<&'static str>(TEXTS)
    }

    pub(crate) fn long(&mut self) -> i64 {
        *self.pick(LONGS)
    }

    pub(crate) fn instant(&mut self) -> i64 {
        *self.pick(INSTANTS)
    }

    pub(crate) fn span(&mut self) -> i64 {
        *self.pick(SPANS)
    }

    pub(crate) fn ip(&mut self) -> IpAddr {
        self.pick(ADDRESSES).parse().unwrap()
    }
}

pub(crate) const TEXTS: &[&str] = &[
    "", "a", "b", "ab", "aab", "GET", "POST", "/", "/api/x", "on", "off", "ann", "iss", "r1", "timer", "AQI",
    "grün", "a*b",
];
pub(crate) const LONGS: &[i64] = &[
    0,
    1,
    -1,
    2,
    3,
    5,
    10,
    1000,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
    4_000_000_000,
];
pub(crate) const INSTANTS: &[i64] = &[
    0,
    1_000,
    -1,
    86_400_000,
    1_795_420_800_000,
    1_795_420_805_000,
    1_795_420_800_123,
    -86_400_000,
    i64::MAX,
    i64::MIN,
];
pub(crate) const SPANS: &[i64] = &[
    0,
    1,
    -1,
    1_000,
    60_000,
    3_600_000,
    86_400_000,
    -3_600_001,
    i64::MAX,
    i64::MIN + 1,
];
pub(crate) const ADDRESSES: &[&str] = &[
    "10.0.0.1",
    "127.0.0.1",
    "192.168.1.7",
    "::1",
    "ff02::1",
    "224.0.0.1",
    "::ffff:10.0.0.1",
];
pub(crate) const NETS: &[&str] = &[
    "10.0.0.0/8",
    "127.0.0.1",
    "0.0.0.0/0",
    "::/0",
    "::1",
    "ff00::/8",
    "10.0.0.1/31",
];
pub(crate) const INSTANT_TEXTS: &[&str] = &[
    "1970-01-01",
    "1970-01-01T00:00:01Z",
    "2026-11-23T08:00:00Z",
    "2026-11-23T08:00:00.123Z",
    "1969-12-31",
    "2026-11-23T10:00:00+0200",
];
pub(crate) const SPAN_TEXTS: &[&str] = &["0ms", "1ms", "1s", "1m", "1h", "1d", "-1h1ms", "1d2h3m4s5ms"];
pub(crate) const DECIMALS: &[i64] = &[0, 15_000, -1, 10_000, i64::MAX, i64::MIN];
pub(crate) const DECIMAL_TEXTS: &[&str] = &["0.0", "1.5", "-0.0001", "1.00", "922337203685477.5807"];
