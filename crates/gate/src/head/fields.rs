//! The fields of a request head that decide how it is framed and where it goes.

use crate::canonical;

use super::{Framing, Reject, Version, bad};

/// The fields that decide framing and connection, found in one pass.
#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
    pub(super) object: Option<&'a str>,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) connection_upgrade: bool,
    pub(super) nominates: bool,
    /// The one protocol that `Upgrade` names.
    pub(super) upgrade: Option<&'a str>,
    has_upgrade: bool,
    pub(super) expects: bool,
}

impl<'a> Found<'a> {
    pub(crate) fn scan(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Self, Reject> {
        let mut found = Self::default();
        for (name, value) in fields {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            match name.len() {
                4 if is("host") => found.host(value)?,
                6 if is("expect") => found.expect(value)?,
                7 if is("upgrade") => found.upgrade(value)?,
                10 if is("connection") => found.connection(value)?,
                13 if is("authorization") => found.authorization(value)?,
                14 if is("content-length") => found.length(value)?,
                17 if is("transfer-encoding") => found.coding(value)?,
                17 if is("x-suijuris-object") => found.object(value)?,
                _ => {}
            }
        }
        Ok(found)
    }

    /// The same without the host, where another field says what it was.
    pub(crate) fn without_host(self) -> Self {
        Self { host: None, ..self }
    }

    /// What `Upgrade` asks for, whatever `Connection` says.
    pub(crate) const fn upgrade_offered(&self) -> Option<&'a str> {
        self.upgrade
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), Reject> {
        let text = str::from_utf8(value).map_err(|_| bad("Host is not a host and port"))?;
        match self.host.replace(text) {
            Some(_) => Err(bad("Host appears more than once")),
            None => Ok(()),
        }
    }

    fn authorization(&mut self, value: &'a [u8]) -> Result<(), Reject> {
        match self.authorization.replace(
            canonical::text(value).ok_or(bad("Authorization has characters other than visible ASCII"))?,
        ) {
            Some(_) => Err(bad("Authorization appears more than once")),
            None => Ok(()),
        }
    }

    fn object(&mut self, value: &'a [u8]) -> Result<(), Reject> {
        match self
            .object
            .replace(canonical::text(value).ok_or(bad("X-Suijuris-Object is not an object id"))?)
        {
            Some(_) => Err(bad("X-Suijuris-Object appears more than once")),
            None => Ok(()),
        }
    }

    fn upgrade(&mut self, value: &'a [u8]) -> Result<(), Reject> {
        if std::mem::replace(&mut self.has_upgrade, true) {
            return Err(bad("Upgrade appears more than once"));
        }
        self.upgrade = canonical::upgrade(value)?;
        Ok(())
    }

    fn expect(&mut self, value: &[u8]) -> Result<(), Reject> {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            let detail = "only 100-continue can be expected";
            return Err(Reject {
                status: 417,
                code: "expectation_failed",
                detail,
            });
        }
        self.expects = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Reject> {
        for option in list(value) {
            match option {
                o if o.eq_ignore_ascii_case(b"close") => self.close = true,
                o if o.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                o if o.eq_ignore_ascii_case(b"upgrade") => self.connection_upgrade = true,
                o if must_travel(o) => return Err(bad("Connection names a field that must not be dropped")),
                _ => self.nominates = true,
            }
        }
        Ok(())
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.length.is_some() {
            return Err(bad("Content-Length appears more than once"));
        }
        self.length = Some(length(value).ok_or(bad("Content-Length is not a number of bytes"))?);
        Ok(())
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.chunked {
            return Err(bad("Transfer-Encoding appears more than once"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        let last = list(value).last().unwrap_or_default();
        if last.eq_ignore_ascii_case(b"chunked")
            && list(value).filter(|c| c.eq_ignore_ascii_case(last)).count() == 1
        {
            let detail = "no transfer coding but chunked is supported";
            return Err(Reject {
                status: 501,
                code: "not_implemented",
                detail,
            });
        }
        Err(bad("the last transfer coding is not chunked"))
    }

    pub(super) fn framing(&self, version: Version) -> Result<Framing, Reject> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(bad("Content-Length and Transfer-Encoding contradict each other")),
            (None, true) if version == Version::Http10 => Err(bad("HTTP/1.0 has no Transfer-Encoding")),
            (None, true) => Ok(Framing::Chunked),
            (None | Some(0), false) => Ok(Framing::Empty),
            (Some(length), false) => Ok(Framing::Length(length)),
        }
    }
}

/// Fields that decide what a request means; a client must not have a proxy drop them.
fn must_travel(name: &[u8]) -> bool {
    [
        "host",
        "content-length",
        "transfer-encoding",
        "authorization",
        "cookie",
        "expect",
    ]
    .iter()
    .any(|kept| name.eq_ignore_ascii_case(kept.as_bytes()))
}

/// Elements of a comma-separated list, empty ones left out.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Digits only; no sign, no list, no overflow.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}
