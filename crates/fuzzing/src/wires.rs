//! Bodies of what comes over connections: HTTP, the PROXY protocol, links of machines, relays to depots.

use std::net::{Ipv4Addr, SocketAddr};

use suijuris_gate::chunked::Chunked;
use suijuris_gate::head::{Peek, peek};
use suijuris_gate::probe::Probe;
use suijuris_gate::{Limits, RequestHead};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4_242);

/// What was judged is what would be forwarded: its canonical form is its own canonical form.
fn is_canonical(head: &RequestHead<'_>) {
    let target = match head.query {
        Some(query) => format!("{}?{query}", head.path),
        None => head.path.to_string(),
    };
    let again = RequestHead::bare(head.method, &target, &head.host, PEER);
    let Ok(again) = again else {
        panic!("{target} on {} has no canonical form, and is one", head.host);
    };
    assert_eq!((&again.path, &again.host), (&head.path, &head.host));
    assert_eq!(again.query, head.query);
}

/// The head of a request over HTTP/1.1.
pub fn http_head(bytes: &[u8]) {
    match peek(bytes, PEER, &Limits::default(), |head| {
        if head.path.starts_with('/') && !head.host.is_empty() {
            is_canonical(head);
        }
        head.headers().count()
    }) {
        Peek::Complete { head_len, .. } => assert!(head_len <= bytes.len()),
        Peek::Incomplete | Peek::Bad(_) => {}
    }
}

/// A connection over HTTP/2, in pieces.
pub fn http2(bytes: &[u8]) {
    for piece in [1, 7, bytes.len().max(1)] {
        let mut probe = Probe::new(PEER, &Limits::default());
        for part in bytes.chunks(piece).take(4_096) {
            let _found = probe.push(part);
        }
        let _any_answer = probe.look(|head| head.headers().count());
    }
}

/// A chunked body: how it is split makes no difference.
pub fn chunked(bytes: &[u8]) {
    let mut whole = Chunked::default();
    let at_once = whole.feed(bytes);
    let mut parts = Chunked::default();
    let mut used = 0;
    for byte in bytes {
        match parts.feed(std::slice::from_ref(byte)) {
            Ok(fed) => used += fed.used,
            Err(_) => {
                assert!(at_once.is_err());
                return;
            }
        }
    }
    if let Ok(fed) = at_once {
        assert_eq!(fed.used, used);
    }
}

/// A method, a target and a host, a line each.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (method, target, host) = (line(), line(), line());
    if let Ok(head) = RequestHead::bare(method, target, host, PEER)
        && head.path.starts_with('/')
        && !head.host.is_empty()
    {
        is_canonical(&head);
    }
}

/// What a proxy says before the first byte of a client.
pub fn proxy_header(bytes: &[u8]) {
    suijuris_edge::proxy_header::fuzz(bytes);
}

/// What an app answers that wants a request to go elsewhere: a header field, or a document.
pub fn replay(bytes: &[u8]) {
    suijuris_proxy::fuzz_replay(bytes);
    suijuris_core::replay::fuzz(bytes);
}

/// What a machine sends over its link.
pub fn link_stream(bytes: &[u8]) {
    for piece in [1, 13, bytes.len().max(1)] {
        let _frames = suijuris_link::fuzz::stream(bytes, piece);
    }
    let _any_answer = suijuris_link::fuzz::message_body(bytes, 2);
}

/// What a machine sends over the relay to a depot.
pub fn depot_frame(bytes: &[u8]) {
    suijuris_depot::relay::fuzz_frame(bytes);
}
