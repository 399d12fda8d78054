//! The one reader of the wall clock, and durations as Fly's API writes them.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NS_PER_MS: u64 = 1_000_000;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// An instant as Fly writes it: RFC 3339 in UTC.
pub(crate) fn rfc3339(at_ms: u64) -> String {
    let instant = i64::try_from(at_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    instant.unwrap_or_default().to_string()
}

/// Milliseconds since 1970 of an RFC 3339 text.
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(instant.as_millisecond()).ok()
}

/// A span of time. Read from a Go duration (`1m30s`, `800ms`) or a number of nanoseconds; written as a Go duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Span {
    ns: u64,
}

/// A text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write 10s, 1m30s or 500ms")]
pub(crate) struct NotASpan(String);

impl Span {
    pub(crate) const fn from_ms(ms: u64) -> Self {
        Self {
            ns: ms.saturating_mul(NS_PER_MS),
        }
    }

    pub(crate) const fn ms(self) -> u64 {
        self.ns / NS_PER_MS
    }
}

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        parse(text).ok_or_else(|| NotASpan(text.chars().take(40).collect()))
    }
}

fn parse(text: &str) -> Option<Span> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Span::default());
    }
    let mut ns: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(tail.len());
        let (unit, after) = tail.split_at(end);
        ns = ns.checked_add(scaled(number, unit_ns(unit)?)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(Span { ns })
}

fn unit_ns(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => NS_PER_MS,
        "s" => 1_000 * NS_PER_MS,
        "m" => 60_000 * NS_PER_MS,
        "h" => 3_600_000 * NS_PER_MS,
        _ => return None,
    })
}

/// `number` (digits, at most one point) times `unit`, without floating point.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut ns = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars().take(18) {
        place /= 10;
        ns = ns.checked_add(place.checked_mul(digit.to_digit(10)?.into())?)?;
    }
    Some(ns)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.ms();
        match (ms / 60_000, ms % 60_000) {
            (0, 0) => f.write_str("0s"),
            (0, ms) if ms % 1_000 != 0 => write!(f, "{ms}ms"),
            (minutes, ms) if ms % 1_000 != 0 => write!(f, "{minutes}m{}s{}ms", ms / 1_000, ms % 1_000),
            (0, ms) => write!(f, "{}s", ms / 1_000),
            (minutes, ms) => write!(f, "{minutes}m{}s", ms / 1_000),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Ns(u64),
            Text(String),
            // As clients made from Fly's older document send it.
            Named {
                #[serde(rename = "time.Duration")]
                ns: u64,
            },
        }
        match Form::deserialize(deserializer)
            .map_err(|_| D::Error::custom("a duration is a text as 10s, or nanoseconds"))?
        {
            Form::Ns(ns) | Form::Named { ns } => Ok(Self { ns }),
            Form::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("800ms", 800),
            ("1.5s", 1_500),
            ("0", 0),
            ("1h", 3_600_000),
            (".5m", 30_000),
        ] {
            assert_eq!(text.parse::<Span>().unwrap().ms(), ms, "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1x",
            "1..5s",
            "99999999999999999999h",
            "1s ",
            "é",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        for form in ["10000000000", r#"{"time.Duration": 10000000000}"#] {
            let span: Span = serde_json::from_str(form).unwrap();
            assert_eq!(serde_json::to_string(&span).unwrap(), "\"10s\"");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0_u64..1_000_000_000) {
            let span = Span::from_ms(ms);
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }

        #[test]
        fn no_text_panics(text in ".{0,30}") {
            let _ = text.parse::<Span>();
        }
    }
}
