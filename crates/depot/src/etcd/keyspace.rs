//! A cluster under a prefix: a connection made when it is first needed, and what failures mean.

use super::gateway::{Compare, Done, Failure, Gateway, Got, Kind, Op, Range};
use crate::open::{DepotUrl, Environment};
use crate::{Error, frame};

/// A cluster under a prefix.
#[derive(Debug)]
pub(crate) struct Keyspace {
    gateway: Gateway,
    prefix: String,
    pub(crate) url: String,
}

impl Keyspace {
    pub(crate) fn new(place: &DepotUrl, environment: Environment<'_>) -> Result<Self, Error> {
        place.allow(&["user", "tls"])?;
        let tls = match place.parameters.get("tls").map(String::as_str) {
            None | Some("off") => false,
            Some("on") => true,
            Some(_) => return Err(place.refuse("its parameter `tls` is `on` or `off`")),
        };
        let user = match place.parameters.get("user") {
            None => None,
            Some(user) => {
                let password = environment("ETCD_PASSWORD").filter(|password| !password.is_empty());
                let missing = || place.refuse("it names a user: set its password in ETCD_PASSWORD");
                Some((user.clone(), password.ok_or_else(missing)?))
            }
        };
        let scheme = if tls { "https" } else { "http" };
        let hosts = place.authority.split(',');
        let endpoint = |host: &str| {
            let numbered = host
                .rsplit_once(':')
                .is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
            let refuse = || place.refuse("it names no host with a port: write etcd://host:2379/prefix");
            if numbered {
                Ok(format!("{scheme}://{host}"))
            } else {
                Err(refuse())
            }
        };
        let prefix = if place.path.is_empty() {
            "suijuris"
        } else {
            &place.path
        };
        Ok(Self {
            gateway: Gateway::new(hosts.map(endpoint).collect::<Result<_, _>>()?, user)
                .map_err(|cause| Error::Unreachable(place.url(), Some(cause.into())))?,
            prefix: format!("{prefix}/"),
            url: place.url(),
        })
    }

    /// The whole key of `key`.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// `key` without the prefix.
    pub(crate) fn bare<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)
    }

    /// `key` as errors name it.
    pub(crate) fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    pub(super) fn failed(&self, cause: Failure) -> Error {
        match cause.kind() {
            Kind::Denied => Error::ReadOnly(self.url.clone(), Some(cause.into())),
            Kind::Exhausted => Error::Full(self.url.clone()),
            Kind::Invalid => Error::NotAllowed(frame::told(&cause)),
            Kind::Unknown => Error::Unreachable(self.url.clone(), Some(cause.into())),
        }
    }

    /// The cluster itself, for what has no key.
    pub(super) const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// What a range of whole keys holds. Linearizable.
    pub(super) async fn range(&self, range: Range) -> Result<Got, Error> {
        self.gateway
            .range(&range)
            .await
            .map_err(|cause| self.failed(cause))
    }

    /// The value of `key` and the revision that last changed it.
    pub(crate) async fn value(&self, key: &str, max: usize) -> Result<Option<(Vec<u8>, i64)>, Error> {
        let mut got = self.range(Range::of(self.key(key))).await?;
        let Some(found) = got.found.pop() else {
            return Ok(None);
        };
        if found.value.len() > max {
            let why = format!("it has more than {max} bytes");
            return Err(frame::garbage(&self.place(key), &why));
        }
        Ok(Some((found.value, found.changed)))
    }

    /// Performs `then` if `key` was last changed by `revision` (0: it is not there), else `otherwise`.
    pub(super) async fn change(
        &self,
        key: &str,
        revision: i64,
        then: &[Op],
        otherwise: &[Op],
    ) -> Result<Done, Error> {
        let when = [Compare::Revision(self.key(key), revision)];
        let done = self.gateway.txn(&when, then, otherwise).await;
        done.map_err(|cause| self.failed(cause))
    }
}
