//! A request as the proxy knows it: who asks, for which app, at which port, and what it says of where it wants to go.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use suijuris_api::tls::Session;
use suijuris_gate::{RequestHead, Version};

use crate::choice::Wanted;
use crate::hook::Question;

/// Names in `fly-prefer-region` and `fly-force-region` at most.
const MAX_REGIONS: usize = 32;
/// The domain below which apps have their names.
pub(crate) const DOMAIN: &str = "localhost";

/// One request, as long as it lasts.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Its id, as `fly-request-id` says it.
    pub(crate) id: String,
    /// The app that was asked.
    pub(crate) app: Arc<str>,
    pub(crate) host: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) path_len: usize,
    /// The port at which it came: services are found by it, after a replay too.
    pub(crate) port: u16,
    pub(crate) tls: bool,
    /// What TLS came to, where it ended here.
    pub(crate) session: Option<Box<Session>>,
    pub(crate) client: IpAddr,
    /// What it said itself of who forwarded it, with a comma behind.
    pub(crate) forwarded_for: String,
    pub(crate) forwarded_port: Option<String>,
    pub(crate) via: String,
    pub(crate) edge: Arc<str>,
    /// May be sent twice where it is not known whether the first arrived.
    pub(crate) idempotent: bool,
    pub(crate) wanted: Wanted,
    /// It insists on a machine, or a region.
    pub(crate) preferred: Option<Arc<str>>,
    /// Cookies (true) and headers by which replays are remembered: name and value.
    pub(crate) keyed: Vec<(bool, String, String)>,
    /// What a hook is told.
    pub(crate) question: Option<Question>,
    pub(crate) began: Instant,
    #[cfg(feature = "traces")]
    pub(crate) span: Option<crate::traces::Span>,
}

/// Words of a comma-separated field.
fn list(value: Option<&[u8]>) -> Vec<String> {
    let text = value
        .and_then(|value| str::from_utf8(value).ok())
        .unwrap_or_default();
    let words = text.split(',').map(|word| word.trim().to_ascii_lowercase());
    words.filter(|word| !word.is_empty()).take(MAX_REGIONS).collect()
}

fn word(value: Option<&[u8]>) -> Option<Arc<str>> {
    let text = str::from_utf8(value?).ok()?.trim();
    (!text.is_empty()).then(|| text.into())
}

/// All values of a field as one list.
fn joined(head: &RequestHead<'_>, name: &str) -> String {
    let mut all = String::new();
    for (sent, value) in head.headers() {
        if sent.eq_ignore_ascii_case(name)
            && let Ok(value) = str::from_utf8(value)
        {
            all.push_str(value);
            all.push_str(", ");
        }
    }
    all
}

/// What a listener knows of every request that it takes.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    pub(crate) edge: Arc<str>,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl Asked {
    pub(crate) fn new(head: &RequestHead<'_>, app: Arc<str>, entrance: &Entrance, id: String) -> Self {
        let mut wanted = Wanted {
            edge: Arc::clone(&entrance.edge),
            ..Wanted::default()
        };
        let mut preferred = None;
        let mut steers = false;
        for (name, _) in head.headers() {
            steers |= name
                .get(..4)
                .is_some_and(|begin| begin.eq_ignore_ascii_case("fly-"));
        }
        if steers {
            let forced = list(head.header("fly-force-region"));
            wanted.strict = !forced.is_empty();
            wanted.regions = if wanted.strict {
                forced
            } else {
                list(head.header("fly-prefer-region"))
            };
            wanted.only = word(head.header("fly-force-instance-id"));
            wanted.prefer = word(head.header("fly-prefer-instance-id"));
            preferred.clone_from(&wanted.prefer);
        }
        let mut target = head.path.to_string();
        let path_len = target.len();
        if let Some(query) = head.query {
            target.push('?');
            target.push_str(query);
        }
        let via = if head.version == Version::Http2 {
            "2"
        } else {
            "1.1"
        };
        Self {
            id,
            app,
            host: head.host.to_string(),
            target,
            path_len,
            port: entrance.port,
            tls: entrance.tls,
            session: head.tls.cloned().map(Box::new),
            client: head.peer.ip().to_canonical(),
            forwarded_for: joined(head, "x-forwarded-for"),
            forwarded_port: word(head.header("x-forwarded-port")).map(|port| port.to_string()),
            via: format!("{}{via} suijuris", joined(head, "via")),
            edge: Arc::clone(&entrance.edge),
            idempotent: matches!(
                head.method,
                "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"
            ),
            wanted,
            preferred,
            keyed: Vec::new(),
            question: None,
            began: Instant::now(),
            #[cfg(feature = "traces")]
            span: None,
        }
    }

    /// A raw connection.
    pub(crate) fn raw(app: Arc<str>, client: IpAddr, entrance: &Entrance, id: String) -> Self {
        Self {
            id,
            app,
            host: String::new(),
            target: String::new(),
            path_len: 0,
            port: entrance.port,
            tls: entrance.tls,
            session: None,
            client: client.to_canonical(),
            forwarded_for: String::new(),
            forwarded_port: None,
            via: String::new(),
            edge: Arc::clone(&entrance.edge),
            idempotent: false,
            wanted: Wanted {
                edge: Arc::clone(&entrance.edge),
                ..Wanted::default()
            },
            preferred: None,
            keyed: Vec::new(),
            question: None,
            began: Instant::now(),
            #[cfg(feature = "traces")]
            span: None,
        }
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.target.get(..self.path_len).unwrap_or_default()
    }
}

/// A cookie of a request.
pub(crate) fn cookie(head: &RequestHead<'_>, name: &str) -> Option<String> {
    let fields = head
        .headers()
        .filter(|(sent, _)| sent.eq_ignore_ascii_case("cookie"));
    let texts = fields.filter_map(|(_, value)| str::from_utf8(value).ok());
    texts.flat_map(|text| text.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

/// The name of an app in a host's: the label before the domain.
pub(crate) fn app_of(host: &str) -> Option<&str> {
    let below = host.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    (!below.is_empty() && !below.contains('.')).then_some(below)
}

#[cfg(test)]
mod tests {
    use super::app_of;

    #[test]
    fn apps_have_names_below_the_domain() {
        assert_eq!(app_of("shop.localhost"), Some("shop"));
        for host in [
            "localhost",
            ".localhost",
            "a.b.localhost",
            "shop.localhost.evil",
            "shoplocalhost",
            "shop",
            "",
        ] {
            assert_eq!(app_of(host), None, "{host}");
        }
    }
}
