//! Numbers and texts in few bytes, for the packed form: little-endian base 128, signed ones in zigzag.

/// Bytes being written.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(low(n) | 0x80);
            n >>= 7;
        }
        self.0.push(low(n));
    }

    pub(crate) fn signed(&mut self, n: i64) {
        self.number((n << 1 ^ n >> 63).cast_unsigned());
    }

    pub(crate) fn long(&mut self, bytes: &[u8]) {
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.raw(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.long(text.as_bytes());
    }

    pub(crate) fn into_bytes(self) -> Box<[u8]> {
        self.0.into_boxed_slice()
    }
}

/// The lowest seven bits.
fn low(n: u64) -> u8 {
    u8::try_from(n & 0x7f).unwrap_or_default()
}

/// Bytes being read; nothing where they end too early.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// Bytes not read yet.
    pub(crate) const fn left(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        let n = self.number()?;
        Some((n >> 1).cast_signed() ^ -((n & 1).cast_signed()))
    }

    pub(crate) fn long(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.long()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_reads_back(numbers in any::<Vec<u64>>(), signed in any::<Vec<i64>>(), text in ".*") {
            let mut out = Writer::default();
            numbers.iter().for_each(|n| out.number(*n));
            signed.iter().for_each(|n| out.signed(*n));
            out.text(&text);
            let bytes = out.into_bytes();
            let mut read = Reader::new(&bytes);
            for n in numbers {
                prop_assert_eq!(read.number(), Some(n));
            }
            for n in signed {
                prop_assert_eq!(read.signed(), Some(n));
            }
            prop_assert_eq!(read.text(), Some(text.as_str()));
            prop_assert_eq!(read.byte(), None);
        }
    }
}
