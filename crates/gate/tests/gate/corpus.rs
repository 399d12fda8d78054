//! Requests that two readers could understand differently, and the status that each is answered with. The host's proxy is tried
//! with the same.

const OVERSIZE: usize = 17 * 1024;

/// A status, and a request that must be answered with it.
pub(crate) type Shape = (u16, String);

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

pub(crate) fn shapes() -> Vec<Shape> {
    [
        lengths(),
        codings(),
        chunks(),
        lines(),
        targets(),
        connections(),
        sizes(),
    ]
    .concat()
}

fn lengths() -> Vec<Shape> {
    vec![
        (
            400,
            post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        (
            400,
            post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"),
        ),
        (400, post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd")),
        (400, post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")),
        (400, post("Content-Length: 3, 3\r\n", "abc")),
        (400, post("Content-Length: +3\r\n", "abc")),
        (400, post("Content-Length: -3\r\n", "abc")),
        (400, post("Content-Length: 0x3\r\n", "abc")),
        (400, post("Content-Length: 3 3\r\n", "abc")),
        (400, post("Content-Length: three\r\n", "abc")),
        (400, post("Content-Length:\r\n", "")),
        (400, post("Content-Length: 18446744073709551616\r\n", "abc")),
    ]
}

fn codings() -> Vec<Shape> {
    vec![
        (501, post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        (400, post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        (400, post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        (400, post("Transfer-Encoding: identity\r\n", "")),
        (400, post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        (400, post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")),
        (400, post("Transfer-Encoding:\u{b}chunked\r\n", "0\r\n\r\n")),
        (
            400,
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            400,
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                "0\r\n\r\n",
            ),
        ),
        (400, post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        (400, post("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n")),
        (400, post("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        (400, post("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        (400, post("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        (
            400,
            "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
    ]
}

fn chunks() -> Vec<Shape> {
    vec![
        (400, chunked("3 \r\nabc\r\n0\r\n\r\n")),
        (400, chunked("0x3\r\nabc\r\n0\r\n\r\n")),
        (400, chunked("-1\r\nabc\r\n0\r\n\r\n")),
        (400, chunked("3\nabc\r\n0\r\n\r\n")),
        (400, chunked("3\r\nabcde\r\n0\r\n\r\n")),
        (400, chunked("3\r\nabc0\r\n\r\n")),
        (400, chunked("3;\nabc\r\n0\r\n\r\n")),
        (400, chunked("3;a=\0\r\nabc\r\n0\r\n\r\n")),
        (400, chunked("fffffffffffffffff\r\nabc")),
        (400, chunked("g\r\nabc")),
        (
            400,
            chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(400))),
        ),
        (400, chunked("0\r\nHost : x\r\n\r\n")),
        (400, chunked("0\r\n x\r\n\r\n")),
    ]
}

fn lines() -> Vec<Shape> {
    vec![
        (400, "GET / HTTP/1.1\nHost: h\n\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: h\n\r\n".into()),
        (400, get("X: a\r\n b\r\n")),
        (400, get("X: a\r\n\tb\r\n")),
        (400, get("X : a\r\n")),
        (400, get(": a\r\n")),
        (400, get("X\r\n")),
        (400, get("X: a\0b\r\n")),
        (400, get("X\0: b\r\n")),
        (400, get("X: a\rb\r\n")),
        (400, get("X(: a\r\n")),
    ]
}

fn targets() -> Vec<Shape> {
    vec![
        (400, "GET / HTTP/1.1\r\n\r\n".into()),
        (400, get("Host: h\r\n")),
        (400, get("Host: other\r\n")),
        (400, "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: user@h\r\n\r\n".into()),
        (400, "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n".into()),
        (400, "GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "GET x HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "GET * HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (400, "GET  / HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (505, "GET / x HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (505, "G T / HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        (501, "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n".into()),
    ]
}

fn connections() -> Vec<Shape> {
    vec![
        (
            400,
            post(
                "Connection: close, Content-Length\r\nContent-Length: 3\r\n",
                "abc",
            ),
        ),
        (
            400,
            post(
                "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        (400, get("Connection: Host\r\n")),
        (417, post("Expect: tea\r\nContent-Length: 3\r\n", "abc")),
    ]
}

fn sizes() -> Vec<Shape> {
    vec![
        (505, "GET / HTTP/2.0\r\nHost: h\r\n\r\n".into()),
        (505, "GET / HTTP/1.2\r\nHost: h\r\n\r\n".into()),
        (505, "GET / HTTP/0.9\r\nHost: h\r\n\r\n".into()),
        (
            414,
            format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(OVERSIZE)),
        ),
        (431, get(&format!("X: {}\r\n", "a".repeat(OVERSIZE)))),
        (431, get(&"X: y\r\n".repeat(101))),
    ]
}
