//! HTTP/1.1 as a test speaks it, over any socket.

use std::io::{Read, Write};

use serde_json::{Value, json};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless the status is this.
    #[track_caller]
    pub(crate) fn status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// A problem document in full, with this status and code.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        let media = self.header("content-type");
        assert_eq!(media, Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(
            (self.status, &problem["code"]),
            (status, &json!(code)),
            "{problem}"
        );
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("https://suijuris.dev/errors/{code}"));
        let retry_after = problem.get("retry_after").map(Value::to_string);
        assert_eq!(self.header("retry-after"), retry_after.as_deref(), "{problem}");
        problem
    }
}

/// Sends one request; nothing is said of the connection.
pub(crate) fn send(socket: &mut impl Write, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = match body.len() {
        0 => String::new(),
        length => format!("content-length: {length}\r\n"),
    };
    // Who is refused early may close before it has read everything: its answer says so.
    let _ = socket.write_all(format!("{method} {path} HTTP/1.1\r\n{headers}{length}\r\n{body}").as_bytes());
}

/// Reads one answer; `None` where the connection ends before it is complete.
pub(crate) fn read_answer(socket: &mut impl Read) -> Option<Answer> {
    let head = read_head(socket)?;
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let pair = |line: &str| {
        line.split_once(':')
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<_> = lines.filter_map(pair).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = Vec::new();
    match length.map(|(_, length)| length.parse().unwrap()) {
        Some(length) => {
            let read = socket.take(length).read_to_end(&mut body).ok()?;
            (u64::try_from(read).unwrap() == length).then_some(())?;
        }
        None if status == 204 || status == 101 => {}
        None => drop(socket.read_to_end(&mut body).ok()?),
    }
    let body = String::from_utf8(body).unwrap();
    Some(Answer {
        status,
        headers,
        body,
    })
}

/// Reads the head of an answer, and no byte behind it.
pub(crate) fn read_head(socket: &mut impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).ok()?;
        bytes.extend(byte);
    }
    String::from_utf8(bytes).ok()
}
