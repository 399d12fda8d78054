//! The head that goes to the workload: the client's, cleaned, with what the authorizer and the gate add.

use std::io::Write as _;
use std::net::SocketAddr;

use suijuris_api::tls::Session;

use crate::Peer;
use crate::chunked::is_token;
use crate::handoff::Client;
use crate::head::{Fields, Framing, RequestHead, Version, Wire, list};
use crate::response;

/// Prefix of the header fields that only the gate may set.
pub const RESERVED_PREFIX: &str = "x-suijuris-";

/// What the authorizer changes in the head of an admitted request, or at an edge in that of its answer: fields that are added,
/// and at an edge fields that stay behind and another target. The buffer is reused.
#[derive(Debug, Default)]
pub struct Forwarding {
    lines: String,
    hidden: &'static [&'static str],
    hidden_too: Vec<String>,
    target: Option<String>,
}

/// Another target that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request's target is a path of visible ASCII that begins with a slash")]
pub struct BadTarget;

/// A field that cannot stand in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header field has characters that HTTP does not allow: escape the value, or leave the field out")]
pub struct BadField;

impl Forwarding {
    /// Adds `name: value`.
    ///
    /// # Errors
    /// [`BadField`] if the name is no token or the value has a control character; nothing is added then.
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        if name.is_empty() || !name.bytes().all(is_token) || value.bytes().any(|byte| byte.is_ascii_control())
        {
            return Err(BadField);
        }
        self.lines.reserve(name.len() + value.len() + 4);
        for part in [name, ": ", value, "\r\n"] {
            self.lines.push_str(part);
        }
        Ok(())
    }

    /// Adds fields that were pushed elsewhere, and so can stand in a head.
    pub fn push_all(&mut self, fields: &Self) {
        self.lines.push_str(&fields.lines);
    }

    /// The fields pushed so far.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.lines().filter_map(|line| line.split_once(": "))
    }

    /// Leaves behind what the other side sent of these fields, in lower case, with either dash. Used at an edge only.
    pub fn hide(&mut self, names: &'static [&'static str]) {
        self.hidden = names;
    }

    /// Leaves behind one more field. Used at an edge only.
    pub fn hide_too(&mut self, name: &str) {
        self.hidden_too.push(name.to_ascii_lowercase());
    }

    /// Sends the request to this path and query in place of its own. Used at an edge only.
    ///
    /// # Errors
    /// [`BadTarget`]; the request keeps its own then.
    pub fn retarget(&mut self, target: &str) -> Result<(), BadTarget> {
        if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(BadTarget);
        }
        self.target = Some(target.to_owned());
        Ok(())
    }

    pub(crate) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    pub(crate) fn hides(&self, name: &str) -> bool {
        let is = |other: &str| name.len() == other.len() && resembles(name, other);
        self.hidden.iter().any(|hidden| is(hidden)) || self.hidden_too.iter().any(|hidden| is(hidden))
    }

    /// Those of `headers` that stay behind.
    pub(crate) fn hidden_in(&self, headers: &http::HeaderMap) -> Vec<http::HeaderName> {
        let hidden = |name: &&http::HeaderName| self.hides(name.as_str());
        headers.keys().filter(hidden).cloned().collect()
    }

    pub(crate) fn lines(&self) -> &[u8] {
        self.lines.as_bytes()
    }

    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.hidden = &[];
        self.hidden_too.clear();
        self.target = None;
    }
}

/// What every request of one connection gets; rendered once.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) peer: SocketAddr,
    pub(crate) ip: String,
    client: Option<Box<Client>>,
}

impl Origin {
    pub(crate) fn new(peer: SocketAddr, client: Option<Box<Client>>) -> Self {
        Self {
            peer,
            ip: peer.ip().to_canonical().to_string(),
            client,
        }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        match &self.client {
            Some(client) if client.tls => "https",
            _ => "http",
        }
    }

    /// The element for `Forwarded` (RFC 7239 §4); IPv6 is bracketed and quoted.
    pub(crate) fn forwarded(&self) -> String {
        let scheme = self.scheme();
        if self.ip.contains(':') {
            format!("for=\"[{}]\";proto={scheme}", self.ip)
        } else {
            format!("for={};proto={scheme}", self.ip)
        }
    }

    /// Whether the connection is good for one request only.
    pub(crate) fn ends_after_one(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.once)
    }

    /// Whether a field of the client may say where it comes from: not where that is known already.
    pub(crate) fn forwards(&self, name: &str) -> bool {
        self.client.is_none() || !is_forwarding(name)
    }

    /// The head as far as it is believed, with what is known of the client's TLS.
    pub(crate) fn trusted<'a>(&'a self, head: RequestHead<'a>) -> RequestHead<'a> {
        match self.client {
            Some(_) => head.without_forwarding().with_tls(self.session()),
            None => head,
        }
    }

    /// What TLS came to, where somebody said it who ended it.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.client.as_ref()?.session.as_deref()
    }

    /// Who is at the other end of a raw connection.
    pub(crate) fn peer(&self) -> Peer<'_> {
        Peer {
            address: self.peer,
            tls: self.session(),
        }
    }

    /// Fields that say what is known of the client beside its address.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let client = self.client.as_deref();
        let prefix = client.and_then(|client| client.prefix.as_deref());
        let shown = self.session().and_then(|session| session.certificate.as_ref());
        let name = shown.and_then(|shown| shown.name.as_deref());
        let named = |name, value: Option<_>| value.map(|value| (name, value));
        let fields = [named("x-forwarded-prefix", prefix), named(CLIENT_NAME, name)];
        // What cannot stand in a field is not said.
        let plain = |value: &str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        fields
            .into_iter()
            .flatten()
            .filter(move |(_, value)| plain(value))
    }
}

/// Field by which the workload learns the name in the client's certificate.
const CLIENT_NAME: &str = "x-suijuris-client-name";

/// Whether a field says where a request comes from, as proxies do; with either dash, since some programs read them alike.
pub(crate) fn is_forwarding(name: &str) -> bool {
    const FORWARDED: &str = "forwarded";
    const X_FORWARDED: &str = "x-forwarded-";
    match name.len() {
        9 if resembles(name, FORWARDED) || resembles(name, "x-real-ip") => true,
        12.. => resembles(name, X_FORWARDED),
        _ => false,
    }
}

/// Whether a client's field stays behind whatever its value: hop-by-hop (RFC 9110 §7.6.1), reserved, or rewritten.
///
/// Workloads behind CGI-like interfaces read `_` as `-`, so both spellings stay.
pub(crate) fn stays_behind(name: &str) -> bool {
    let is = |other: &str| name.len() == other.len() && resembles(name, other);
    is_hop_by_hop(name)
        || is("x-forwarded-for")
        || (name.len() >= RESERVED_PREFIX.len() && resembles(name, RESERVED_PREFIX))
}

/// Whether a field belongs to one connection, or is written anew for the next.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    let is = |other: &str| name.len() == other.len() && resembles(name, other);
    match name.len() {
        2 => is("te"),
        4 => is("host"),
        7 => is("upgrade") || is("trailer"),
        10 => is("connection") || is("keep-alive"),
        14 => is("content-length") || is("http2-settings"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        _ => false,
    }
}

/// Whether `name` starts like `other`, in any case and with either dash.
fn resembles(name: &str, other: &str) -> bool {
    let same = |have: u8, want: u8| have.eq_ignore_ascii_case(&want) || (have == b'_' && want == b'-');
    name.bytes()
        .zip(other.bytes())
        .all(|(have, want)| same(have, want))
}

/// Appends the head that an edge sends on to `out`: the client's, without hop-by-hop fields and those that `added` hides.
pub(crate) fn compose_at_edge(head: &RequestHead<'_>, wire: &Wire, added: &Forwarding, out: &mut Vec<u8>) {
    request_line(head, wire, added.target(), out);
    let Fields::Http1(fields) = head.fields else {
        return;
    };
    let nominated = Nominated(if wire.nominates { fields } else { &[] });
    for field in fields {
        let stays = is_hop_by_hop(field.name) || nominated.names(field.name) || added.hides(field.name);
        if !stays {
            response::line(field.name.as_bytes(), field.value, out);
        }
    }
    framing(head, wire, out);
    response::parts(&[added.lines(), b"\r\n"], out);
}

/// Appends the head for the workload to `out`.
///
/// HTTP/1.0 requests go as HTTP/1.0, so that the workload does not answer in chunks the client cannot read.
pub(crate) fn compose(
    head: &RequestHead<'_>,
    wire: &Wire,
    added: &Forwarding,
    origin: &Origin,
    out: &mut Vec<u8>,
) {
    request_line(head, wire, None, out);
    let Fields::Http1(fields) = head.fields else {
        return;
    };
    let nominated = Nominated(if wire.nominates { fields } else { &[] });
    let (mut forwarded_for, mut proto, mut forwarded) = (false, false, false);
    let travels = |field: &&httparse::Header<'_>| !nominated.names(field.name) && origin.forwards(field.name);
    for field in fields.iter().filter(travels) {
        match field.name.len() {
            9 if field.name.eq_ignore_ascii_case("forwarded") => forwarded = true,
            15 if field.name.eq_ignore_ascii_case("x-forwarded-for") => forwarded_for = true,
            17 if field.name.eq_ignore_ascii_case("x-forwarded-proto") => proto = true,
            _ => {}
        }
        if !stays_behind(field.name) {
            response::line(field.name.as_bytes(), field.value, out);
        }
    }
    framing(head, wire, out);
    if forwarded_for {
        out.extend_from_slice(b"x-forwarded-for: ");
        for field in fields
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("x-forwarded-for"))
        {
            out.extend_from_slice(field.value);
            out.extend_from_slice(b", ");
        }
        response::parts(&[origin.ip.as_bytes(), b"\r\n"], out);
    } else {
        response::parts(&[b"x-forwarded-for: ", origin.ip.as_bytes(), b"\r\n"], out);
    }
    if !proto {
        response::line(b"x-forwarded-proto", origin.scheme().as_bytes(), out);
    }
    if forwarded {
        response::line(b"forwarded", origin.forwarded().as_bytes(), out);
    }
    for (name, value) in origin.known() {
        response::line(name.as_bytes(), value.as_bytes(), out);
    }
    response::parts(&[b"via: 1.1 suijuris\r\n", added.lines.as_bytes(), b"\r\n"], out);
}

fn request_line(head: &RequestHead<'_>, wire: &Wire, target: Option<&str>, out: &mut Vec<u8>) {
    let path = target.unwrap_or(&head.path);
    response::parts(&[head.method.as_bytes(), b" ", path.as_bytes()], out);
    if let Some(query) = head.query.filter(|_| target.is_none()) {
        response::parts(&[b"?", query.as_bytes()], out);
    }
    let version: &[u8] = if wire.version == Version::Http10 {
        b" HTTP/1.0\r\nhost: "
    } else {
        b" HTTP/1.1\r\nhost: "
    };
    response::parts(&[version, head.authority().as_bytes(), b"\r\n"], out);
}

fn framing(head: &RequestHead<'_>, wire: &Wire, out: &mut Vec<u8>) {
    match (wire.body, head.content_length) {
        (Framing::Chunked, _) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (_, Some(length)) => {
            // Writing to a Vec cannot fail.
            let _infallible = write!(out, "content-length: {length}\r\n");
        }
        (_, None) => {}
    }
    if let Some(protocol) = head.upgrade {
        response::line(b"upgrade", protocol.as_bytes(), out);
        out.extend_from_slice(b"connection: upgrade\r\n");
    }
}

/// Fields that `Connection` says must not travel further.
struct Nominated<'a>(&'a [httparse::Header<'a>]);

impl Nominated<'_> {
    fn names(&self, name: &str) -> bool {
        let connection = self
            .0
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("connection"));
        connection
            .flat_map(|field| list(field.value))
            .any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{parse, slots};
    use crate::limits::Limits;
    use proptest::prelude::*;

    fn composed(head: &str, added: &Forwarding) -> Option<String> {
        let peer = "127.0.0.1:1".parse().unwrap();
        let mut slots = slots();
        let (head, wire) = parse(head.as_bytes(), peer, &Limits::default(), &mut slots).ok()??;
        let mut out = Vec::new();
        compose(&head, &wire, added, &Origin::new(peer, None), &mut out);
        Some(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn hop_by_hop_and_reserved_fields_stay_behind() {
        let mut added = Forwarding::default();
        added.push("x-suijuris-object", "me").unwrap();
        let out = composed(
            "GET /a?b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
             X-Suijuris-Object: forged\r\nX_Suijuris_object: forged\r\nContent_Length: 7\r\nX-Forwarded-For: 1.2.3.4\r\nX-Other: yes\r\n\r\n",
            &added,
        )
        .unwrap();
        assert_eq!(
            out,
            "GET /a?b HTTP/1.1\r\nhost: h\r\nX-Other: yes\r\nx-forwarded-for: 1.2.3.4, 127.0.0.1\r\n\
             x-forwarded-proto: http\r\nvia: 1.1 suijuris\r\nx-suijuris-object: me\r\n\r\n"
        );
    }

    #[test]
    fn an_edge_hides_what_it_is_told_to_and_adds_nothing_itself() {
        let mut added = Forwarding::default();
        added.hide(&["fly-client-ip"]);
        added.hide_too("X-Secret");
        added.retarget("/t?u").unwrap();
        added.push("fly-client-ip", "127.0.0.1").unwrap();
        let sent = "GET /a?b HTTP/1.1\r\nHost: h\r\nFly-Client-IP: 1\r\nFly_Client_IP: 2\r\nx-secret: 3\r\n\
                    X-Suijuris-Object: o\r\nX-Forwarded-For: 4\r\nTE: gzip\r\n\r\n";
        let mut slots = slots();
        let parsed = parse(
            sent.as_bytes(),
            "127.0.0.1:1".parse().unwrap(),
            &Limits::default(),
            &mut slots,
        );
        let (head, wire) = parsed.unwrap().unwrap();
        let mut out = Vec::new();
        compose_at_edge(&head, &wire, &added, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "GET /t?u HTTP/1.1\r\nhost: h\r\nX-Suijuris-Object: o\r\nX-Forwarded-For: 4\r\nfly-client-ip: 127.0.0.1\r\n\r\n"
        );
        for bad in ["", "x", "http://h/", "/a b", "/a#b", "/\r\n"] {
            assert_eq!(added.retarget(bad), Err(BadTarget), "{bad:?}");
        }
        added.clear();
        assert!(!added.hides("x-secret") && added.target().is_none());
    }

    #[test]
    fn a_judge_cannot_break_the_head() {
        let mut added = Forwarding::default();
        assert_eq!(added.push("a", "b\r\nc: d"), Err(BadField));
        assert_eq!(added.push("a b", "c"), Err(BadField));
        assert_eq!(added.iter().count(), 0);
    }

    proptest! {
        /// What goes to the workload is read there as we read it here.
        #[test]
        fn forwarded_heads_parse_identically(
            method in "(GET|POST|OPTIONS|x!)", path in "/[a-z%/]{0,9}(\\?[a-z=]{0,5})?", host in "[a-z]{1,5}(:[0-9]{1,2})?",
            absolute in any::<bool>(),
            length in proptest::option::of(0u32..99),
            fields in proptest::collection::vec("(a|x-b|Keep-Alive|Forwarded|X-Forwarded-For|Connection): [!-~ ]{0,12}", 0..6),
        ) {
            let target = if absolute { format!("http://{host}{path}") } else { path };
            let length = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
            let fields = fields.iter().map(|field| format!("{field}\r\n")).collect::<String>();
            let sent = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}{fields}\r\n");
            if let Some(out) = composed(&sent, &Forwarding::default()) {
                let peer = "127.0.0.1:1".parse().unwrap();
                let (mut ours, mut theirs) = (slots(), slots());
                let (a, wire_a) = parse(sent.as_bytes(), peer, &Limits::default(), &mut ours).unwrap().unwrap();
                let (b, wire_b) = parse(out.as_bytes(), peer, &Limits::default(), &mut theirs).unwrap().unwrap();
                prop_assert_eq!((a.method, a.path, a.query, a.host, a.port, a.content_length), (b.method, b.path, b.query, b.host, b.port, b.content_length));
                prop_assert_eq!(wire_a.body, wire_b.body);
                prop_assert_eq!(wire_b.head_len, out.len());
            }
        }
    }
}
