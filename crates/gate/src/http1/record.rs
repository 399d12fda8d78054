//! What was sent of a request's body, kept as far as it may be sent a second time.

/// The bytes as they were forwarded, chunk sizes included.
#[derive(Debug)]
pub(super) struct Record {
    bytes: Vec<u8>,
    max: usize,
    whole: bool,
    /// The body has ended.
    pub(super) ended: bool,
}

impl Record {
    /// Keeps `max` bytes at most; of a longer body nothing is kept.
    pub(super) const fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            max,
            whole: true,
            ended: false,
        }
    }

    /// Keeps `parts`; whether everything is kept still.
    pub(super) fn keep(&mut self, parts: [&[u8]; 2]) -> bool {
        let more: usize = parts.iter().map(|part| part.len()).sum();
        if self.bytes.len() + more > self.max {
            (self.whole, self.bytes) = (false, Vec::new());
        }
        if !self.whole {
            return false;
        }
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        true
    }

    /// Everything that was sent, if it was kept.
    pub(super) fn sent(&self) -> Option<&[u8]> {
        self.whole.then_some(&self.bytes)
    }

    /// The last `bytes` kept.
    pub(super) fn last(&self, bytes: usize) -> &[u8] {
        let from = self.bytes.len().saturating_sub(bytes);
        self.bytes.get(from..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Record;

    #[test]
    fn a_body_is_kept_whole_or_not_at_all() {
        let mut record = Record::new(4);
        assert!(record.keep([b"ab", b"c"]) && record.keep([b"", b"d"]));
        assert_eq!((record.sent(), record.last(1)), (Some(&b"abcd"[..]), &b"d"[..]));
        assert!(!record.keep([b"e", b""]) && !record.keep([b"", b""]));
        assert_eq!(record.sent(), None);
        assert_eq!(Record::new(0).sent(), Some(&b""[..]));
    }
}
