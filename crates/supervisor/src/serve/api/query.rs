//! Parameters of a request, percent-decoded.

use suijuris_api::Problem;

use super::bad;

/// Parameters, in the order in which they came.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(text: &str) -> Self {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (unplussed(name), unplussed(value))
        };
        let parts = text.split('&').filter(|part| !part.is_empty());
        Self(parts.map(pair).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All values of one that may be given several times.
    pub(super) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// A value, read.
    ///
    /// # Errors
    /// It is none; `what` says what it should be.
    pub(super) fn read<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<Option<T>, Problem> {
        let read = |text: &str| text.parse().map_err(|_| bad(&format!("`{name}` is no {what}")));
        self.get(name).map(read).transpose()
    }
}

/// As forms write it: a plus is a space.
fn unplussed(text: &str) -> String {
    decoded(&text.replace('+', " "))
}

/// Percent-decoded; what is no UTF-8 then is replaced.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_not_is_left() {
        let query = Query::of("a=1&a=2%263&b+c=%41+x&d&%zz=%4");
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2&3"]);
        assert_eq!(query.get("b c"), Some("A x"));
        assert_eq!(query.get("d"), Some(""));
        assert_eq!(query.get("%zz"), Some("%4"));
        assert_eq!(decoded("a+b%2f"), "a+b/");
        assert_eq!(query.read::<u64>("a", "number"), Ok(Some(1)));
        assert!(query.read::<u64>("d", "number").is_err());
    }
}
