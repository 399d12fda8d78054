//! A cluster under a prefix: a connection made when it is first needed, and what failures mean.

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error as Cause, GetOptions, GetResponse, KvClient,
    LeaseClient, TlsOptions, Txn, TxnOp, TxnResponse, WatchClient,
};
use tokio::sync::OnceCell;

use crate::open::{Environment, Place};
use crate::{Error, frame};
use std::time::Duration;

/// How long connecting may take, and how long a peer that answers no ping is believed to be there.
const CONNECT: Duration = Duration::from_secs(5);

/// Size of an answer at most, bytes: a page of messages, or the names of all segments.
const MAX_ANSWER: usize = 64 << 20;

/// gRPC codes (`google.rpc.Code`) by number; the type is not exported by the client.
const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAUTHENTICATED: i32 = 16;

/// A cluster under a prefix.
#[derive(Debug)]
pub(crate) struct Keyspace {
    endpoints: Vec<String>,
    options: Options,
    prefix: String,
    pub(crate) url: String,
    client: OnceCell<Connected>,
}

struct Connected(Client);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connected")
    }
}

/// How to connect; the password is not shown.
struct Options {
    user: Option<(String, String)>,
    tls: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Keyspace {
    pub(crate) fn new(place: &Place, environment: Environment<'_>) -> Result<Self, Error> {
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
            endpoints: hosts.map(endpoint).collect::<Result<_, _>>()?,
            options: Options { user, tls },
            prefix: format!("{prefix}/"),
            url: place.url(),
            client: OnceCell::new(),
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

    pub(crate) fn failed(&self, cause: Cause) -> Error {
        let code = match &cause {
            Cause::GRpcStatus(status) => i32::from(status.code()),
            _ => 0,
        };
        match code {
            PERMISSION_DENIED | UNAUTHENTICATED => Error::ReadOnly(self.url.clone(), Some(cause.into())),
            RESOURCE_EXHAUSTED => Error::Full(self.url.clone()),
            INVALID_ARGUMENT => Error::NotAllowed(frame::told(&cause)),
            _ => Error::Unreachable(self.url.clone(), Some(cause.into())),
        }
    }

    async fn client(&self) -> Result<Client, Error> {
        let connect = async || {
            let mut options = ConnectOptions::new()
                .with_connect_timeout(CONNECT)
                .with_keep_alive(CONNECT, CONNECT)
                .with_require_leader(true)
                .with_auto_token_refresh(self.options.user.is_some());
            if let Some((user, password)) = &self.options.user {
                options = options.with_user(user, password);
            }
            if self.options.tls {
                options = options.with_tls(TlsOptions::new().with_native_roots());
            }
            let client = Client::connect(&self.endpoints, Some(options)).await;
            client.map(Connected).map_err(|cause| self.failed(cause))
        };
        Ok(self.client.get_or_try_init(connect).await?.0.clone())
    }

    pub(crate) async fn kv(&self) -> Result<KvClient, Error> {
        Ok(self
            .client()
            .await?
            .kv_client()
            .max_decoding_message_size(MAX_ANSWER))
    }

    pub(crate) async fn leases(&self) -> Result<LeaseClient, Error> {
        Ok(self.client().await?.lease_client())
    }

    pub(crate) async fn watches(&self) -> Result<WatchClient, Error> {
        Ok(self.client().await?.watch_client())
    }

    /// What is at or below `key`, as `options` say. Linearizable.
    pub(crate) async fn get(&self, key: &str, options: Option<GetOptions>) -> Result<GetResponse, Error> {
        let got = self.kv().await?.get(self.key(key), options).await;
        got.map_err(|cause| self.failed(cause))
    }

    /// The value of `key` and the revision that last changed it.
    pub(crate) async fn value(&self, key: &str, max: usize) -> Result<Option<(Vec<u8>, i64)>, Error> {
        let mut got = self.get(key, None).await?;
        let Some(found) = got.take_kvs().pop() else {
            return Ok(None);
        };
        if found.value().len() > max {
            let why = format!("it has more than {max} bytes");
            return Err(frame::garbage(&self.place(key), &why));
        }
        let revision = found.mod_revision();
        Ok(Some((found.into_key_value().1, revision)))
    }

    /// Performs `then` if `key` was last changed by `revision` (0: it is not there), else `otherwise`.
    pub(crate) async fn change(
        &self,
        key: &str,
        revision: i64,
        then: Vec<TxnOp>,
        otherwise: Vec<TxnOp>,
    ) -> Result<TxnResponse, Error> {
        let compare = Compare::mod_revision(self.key(key), CompareOp::Equal, revision);
        let txn = Txn::new().when([compare]).and_then(then).or_else(otherwise);
        let done = self.kv().await?.txn(txn).await;
        done.map_err(|cause| self.failed(cause))
    }
}

/// The revision at which an answer was true.
pub(crate) fn revision(header: Option<&etcd_client::ResponseHeader>) -> i64 {
    header.map_or(0, etcd_client::ResponseHeader::revision)
}
