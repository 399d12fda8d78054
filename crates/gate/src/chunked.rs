//! Chunked transfer coding (RFC 9112 §7.1), validated byte by byte.
//!
//! A validator, not a decoder: what it lets through is forwarded as it came, so nothing is copied. Stricter than the
//! RFC where leniency lets two readers disagree: no white space around the size, no control character in an
//! extension, no bare CR or LF anywhere. Trailers are checked and dropped (RFC 9110 §6.5.1 allows it), so that none
//! can reach the workload as a header.

/// Size line: 16 hexadecimal digits and a modest extension.
const LINE_BYTES: usize = 256;
/// Extensions of one body together; they carry nothing and cost the reader.
const EXTENSION_BYTES: usize = 16 * 1024;
/// Trailer section of one body.
const TRAILER_BYTES: usize = 8 * 1024;

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// The progress of one chunked body.
#[derive(Debug, Clone)]
pub struct Chunked {
    state: State,
    /// Bytes of the current chunk not yet seen.
    left: u64,
    digits: u8,
    line: usize,
    extensions: usize,
    trailers: usize,
}

/// What one call to [`Chunked::feed`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// Bytes that belong to the body.
    pub used: usize,
    /// The first this many of them may be forwarded as they are. The rest are trailers.
    pub forward: usize,
    /// The body is complete. What was forwarded wants a final CRLF in place of the trailers.
    pub done: bool,
}

/// A chunked body that no two readers need agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.detail())]
pub enum ChunkError {
    /// Not hexadecimal, empty, or white space around it.
    Size,
    /// Above 2^64-1, or more than 16 digits.
    TooLarge,
    /// A control character in an extension.
    Extension,
    /// A long size line, or long extensions together.
    TooLong,
    /// Something else where CRLF must stand.
    Ending,
    /// A malformed trailer field, or too many bytes of them.
    Trailer,
}

impl ChunkError {
    /// What is wrong, as a clause.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Size => "a chunk size is not plain hexadecimal digits",
            Self::TooLarge => "a chunk size is too large",
            Self::Extension => "a chunk extension has a control character",
            Self::TooLong => "chunk extensions are too long",
            Self::Ending => "a chunk does not end with CRLF",
            Self::Trailer => "the trailer section is malformed or too long",
        }
    }
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size,
            left: 0,
            digits: 0,
            line: 0,
            extensions: 0,
            trailers: 0,
        }
    }
}

impl Chunked {
    /// Takes the next bytes of the body, split anywhere. The result does not depend on how they were split.
    ///
    /// # Errors
    /// [`ChunkError`] at the first byte that is not a strictly valid body; the connection cannot be used further.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed, ChunkError> {
        let (mut used, mut forward) = (0, 0);
        while let Some(&byte) = input.get(used) {
            if self.state == State::Done {
                break;
            }
            let taken = match self.state {
                State::Data => self.skip(input.len() - used),
                _ => self.step(byte).map(|()| 1)?,
            };
            used += taken;
            if !self.in_trailers() {
                forward = used;
            }
        }
        Ok(Fed {
            used,
            forward,
            done: self.state == State::Done,
        })
    }

    fn in_trailers(&self) -> bool {
        use State::{Done, EndLf, TrailerLf, TrailerName, TrailerStart, TrailerValue};
        match self.state {
            // Entered by the LF of the last size line, which still belongs to what is forwarded.
            TrailerStart => self.trailers > 0,
            TrailerName | TrailerValue | TrailerLf | EndLf | Done => true,
            _ => false,
        }
    }

    fn skip(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(available);
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        taken
    }

    fn step(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, _) => return self.digit(byte),
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=b'~') => return self.extension(),
            (State::Extension, _) => return Err(ChunkError::Extension),
            (State::SizeLf, b'\n') => self.after_size(),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::SizeLf | State::DataCr | State::DataLf, _) => return Err(ChunkError::Ending),
            _ => return self.trailer(byte),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<(), ChunkError> {
        let digit = char::from(byte).to_digit(16).ok_or(ChunkError::Size)?;
        self.digits += 1;
        if self.digits > 16 {
            return Err(ChunkError::TooLarge);
        }
        self.left = self.left.checked_mul(16).ok_or(ChunkError::TooLarge)? + u64::from(digit);
        Ok(())
    }

    fn extension(&mut self) -> Result<(), ChunkError> {
        self.line += 1;
        self.extensions += 1;
        if self.line > LINE_BYTES || self.extensions > EXTENSION_BYTES {
            return Err(ChunkError::TooLong);
        }
        Ok(())
    }

    fn after_size(&mut self) -> State {
        (self.digits, self.line) = (0, 0);
        if self.left == 0 {
            State::TrailerStart
        } else {
            State::Data
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.trailers += 1;
        if self.trailers > TRAILER_BYTES {
            return Err(ChunkError::Trailer);
        }
        self.state = match (self.state, byte) {
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(ChunkError::Trailer),
        };
        Ok(())
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(input: &[u8], cuts: &[usize]) -> (Result<bool, ChunkError>, usize, Vec<u8>) {
        let (mut chunked, mut used, mut out) = (Chunked::default(), 0, Vec::new());
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        ends.push(input.len());
        ends.sort_unstable();
        let mut done = false;
        for end in ends {
            while used < end && !done {
                match chunked.feed(&input[used..end]) {
                    Ok(fed) => {
                        out.extend_from_slice(&input[used..used + fed.forward]);
                        used += fed.used;
                        done = fed.done;
                    }
                    Err(error) => return (Err(error), 0, out),
                }
            }
        }
        (Ok(done), used, out)
    }

    #[test]
    fn well_formed_bodies_pass_as_they_came() {
        let check = |input: &str, forwarded: &str, rest: usize| {
            let (result, used, out) = run(input.as_bytes(), &[]);
            assert_eq!(result, Ok(true), "{input:?}");
            assert_eq!(
                (input.len() - used, std::str::from_utf8(&out).unwrap()),
                (rest, forwarded)
            );
        };
        check("0\r\n\r\n", "0\r\n", 0);
        check("3\r\nabc\r\n0\r\n\r\nGET", "3\r\nabc\r\n0\r\n", 3);
        check("3;a=\"b\"\r\nabc\r\n0\r\n\r\n", "3;a=\"b\"\r\nabc\r\n0\r\n", 0);
        check(
            "0003\r\nabc\r\n000\r\nx: y\r\nz:\r\n\r\n",
            "0003\r\nabc\r\n000\r\n",
            0,
        );
    }

    #[test]
    fn ambiguous_bodies_are_refused() {
        let check = |input: &str, error| assert_eq!(run(input.as_bytes(), &[]).0, Err(error), "{input:?}");
        check("\r\n", ChunkError::Size);
        check(" 3\r\nabc\r\n", ChunkError::Size);
        check("3 \r\nabc\r\n", ChunkError::Size);
        check("0x3\r\nabc\r\n", ChunkError::Size);
        check("-3\r\n", ChunkError::Size);
        check("3\nabc\r\n", ChunkError::Size);
        check("3\rabc", ChunkError::Ending);
        check("3;\nabc", ChunkError::Extension);
        check("3;a\0\r\n", ChunkError::Extension);
        check("3\r\nabcd\r\n", ChunkError::Ending);
        check("3\r\nabc\n0\r\n\r\n", ChunkError::Ending);
        check("fffffffffffffffff\r\n", ChunkError::TooLarge);
        check("00000000000000003\r\n", ChunkError::TooLarge);
        check(&format!("1;{}\r\n", "a".repeat(300)), ChunkError::TooLong);
        check("0\r\n folded: x\r\n\r\n", ChunkError::Trailer);
        check("0\r\na b: x\r\n\r\n", ChunkError::Trailer);
        check("0\r\na: x\n\r\n", ChunkError::Trailer);
        check(
            &format!("0\r\na: {}\r\n\r\n", "x".repeat(9000)),
            ChunkError::Trailer,
        );
    }

    proptest! {
        #[test]
        fn any_bytes_split_anyhow_give_one_answer(
            input in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "([0-3]{1,2}(;[a-z]{0,3})?\r?\n[a-z]{0,4}\r?\n){0,5}(0\r\n)?(a:b\r\n)?(\r\n)?".prop_map(String::into_bytes),
            ],
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let (whole, split) = (run(&input, &[]), run(&input, &cuts));
            prop_assert_eq!(&whole.0, &split.0);
            prop_assert_eq!(whole.1, split.1);
            if whole.0.is_ok() {
                prop_assert_eq!(whole.2, split.2);
            }
        }
    }
}
