//! Which pages of other origins may read what the gate itself answers: its refusals, and its word for a workload that gave no
//! answer. What the workload answers carries the workload's own fields and no others.
//!
//! A browser keeps a script from reading an answer of another origin that does not name the script's origin (CORS, in the Fetch
//! standard), so that a refusal looks to it like a broken network. Preflights are requests like all others: rules decide.

use http::header::{self, HeaderName, HeaderValue};

use crate::head::RequestHead;

/// What a script needs beside status and body.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, www-authenticate");

/// The origins whose pages may read.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    any: bool,
    origins: Vec<HeaderValue>,
}

/// A page that may read one answer.
#[derive(Debug, Clone)]
pub struct Reader(HeaderValue);

impl Cors {
    /// Pages of these origins, such as `https://app.example`; `*` is any. What is no header value is left out.
    #[must_use]
    pub fn new<'a>(origins: impl IntoIterator<Item = &'a str>) -> Self {
        let mut cors = Self::default();
        for origin in origins {
            if origin == "*" {
                cors.any = true;
            } else {
                cors.origins.extend(HeaderValue::from_str(origin));
            }
        }
        cors
    }

    /// Who may read the answer to this request; nobody where it names no origin, or more than one, or asks the object itself.
    #[must_use]
    pub fn reader(&self, head: &RequestHead<'_>) -> Option<Reader> {
        if (self.origins.is_empty() && !self.any) || head.is_reserved() {
            return None;
        }
        let mut origins = head
            .headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("origin"));
        let (Some((_, origin)), None) = (origins.next(), origins.next()) else {
            return None;
        };
        if let Some(named) = self.origins.iter().find(|named| named.as_bytes() == origin) {
            return Some(Reader(named.clone()));
        }
        self.any.then(|| Reader(HeaderValue::from_static("*")))
    }
}

impl Reader {
    /// The fields that let it read. One that is named may have sent cookies; `*` may not.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let named = self.0 != "*";
        let always = [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, self.0.clone()),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
        ];
        let if_named = [
            (
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            ),
            (header::VARY, HeaderValue::from_static("origin")),
        ];
        always
            .into_iter()
            .chain(if_named.into_iter().filter(move |_| named))
    }
}
