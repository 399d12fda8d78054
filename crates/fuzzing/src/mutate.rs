//! A simple mutator: one seed, one sequence, on every machine.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; zero where there is nothing below.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.number() % end).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }
}

/// Bytes of an input at most.
const MAX_BYTES: usize = 64 << 10;

/// Pieces that decoders have a branch for.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xbf",
    b"\xf6",
    b"\r\n",
    b"\r\n\r\n",
    b"(",
    b"[",
    b"{",
    b"\"",
    b"\\",
    b"%2e%2e",
    b"../",
    b"//",
    b"\xc3\xa9",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"null",
    b"&&",
    b"true",
    b".",
    b"@id(\"x\")",
    b"= ",
];

/// Another input out of `seeds`.
pub fn next(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut Random| seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    let mut bytes = pick(random);
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(64) + 1);
        match random.below(8) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => {
                let byte = random.byte();
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
                let most = if random.below(50) == 0 { 2_000 } else { 3 };
                let times = 1 + random.below(most);
                let many = again.repeat(times.min(MAX_BYTES / again.len().max(1)));
                bytes.splice(at..at, many);
            }
            4 => {
                let piece = PIECES
                    .get(random.below(PIECES.len()))
                    .copied()
                    .unwrap_or_default();
                bytes.splice(at..at, piece.iter().copied());
            }
            5 => {
                let other = pick(random);
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(other.get(from..).unwrap_or_default());
            }
            6 => bytes.truncate(at),
            _ => {
                let byte = random.byte();
                bytes.insert(at, byte);
            }
        }
        bytes.truncate(MAX_BYTES);
    }
    bytes
}
