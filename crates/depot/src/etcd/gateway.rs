//! etcd over its JSON gateway: the few calls that a depot makes, so that nothing is generated from a protocol when this is
//! built.
//!
//! Each call is one request. Another endpoint is tried only where a connection could not be made: what was sent may have
//! happened. Answers are bounded. `wire` has the documents. Called by `keyspace` and whatever lies beside it.

mod wire;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

pub(super) use wire::{Compare, Done, Got, KeyValue, Op, Range, Sort};

use crate::http;

/// Size of an answer at most, bytes: a page of messages, or the names of all segments, in base64.
const MAX_ANSWER: usize = 96 << 20;

/// Size of one event of a watch at most, bytes: a message.
const MAX_EVENT: usize = 8 << 20;

/// gRPC codes (`google.rpc.Code`).
const INVALID_ARGUMENT: u32 = 3;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNAUTHENTICATED: u32 = 16;

/// What kind of failure it is, where etcd says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request is not one that etcd takes.
    Invalid,
    /// The user may not do this, or is not known.
    Denied,
    /// Too large, or the cluster has no room.
    Exhausted,
    /// Anything else: it may have happened.
    Unknown,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No endpoint takes a connection, or one was lost.
    #[error("the cluster cannot be reached")]
    Http(#[source] reqwest::Error),
    /// The client cannot be made.
    #[error("no client can be made")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// etcd says no.
    #[error("etcd answers: {message}")]
    Refused {
        /// gRPC code.
        code: u32,
        /// In etcd's words.
        message: String,
    },
    /// Not what etcd answers.
    #[error("the answer is not one of etcd: {0}")]
    Garbage(String),
}

impl Failure {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Refused { code, .. } => match *code {
                INVALID_ARGUMENT => Kind::Invalid,
                PERMISSION_DENIED | UNAUTHENTICATED => Kind::Denied,
                RESOURCE_EXHAUSTED => Kind::Exhausted,
                _ => Kind::Unknown,
            },
            _ => Kind::Unknown,
        }
    }
}

/// A cluster and who we are to it.
pub(super) struct Gateway {
    endpoints: Vec<String>,
    user: Option<(String, Zeroizing<String>)>,
    client: reqwest::Client,
    patient: reqwest::Client,
    /// The endpoint that took the last connection.
    current: AtomicUsize,
    token: Mutex<Option<Zeroizing<String>>>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// `endpoints` are URLs without a path, one or more. Nothing is asked yet.
    pub(super) fn new(endpoints: Vec<String>, user: Option<(String, String)>) -> Result<Self, Failure> {
        Ok(Self {
            endpoints,
            user: user.map(|(name, password)| (name, Zeroizing::new(password))),
            client: http::client().map_err(Failure::Client)?,
            patient: http::patient().map_err(Failure::Client)?,
            current: AtomicUsize::new(0),
            token: Mutex::default(),
        })
    }

    /// What is in the range. Linearizable.
    pub(super) async fn range(&self, range: &Range) -> Result<Got, Failure> {
        self.call::<_, wire::GotBody>("kv/range", &range.body())
            .await?
            .try_into()
    }

    /// Puts one value.
    pub(super) async fn put(&self, key: &str, value: &[u8], lease: Option<i64>) -> Result<(), Failure> {
        let body = wire::PutBody::new(key, value, lease);
        self.call::<_, wire::Ignored>("kv/put", &body).await.map(drop)
    }

    /// Performs `then` if all of `when` hold, else `otherwise`.
    pub(super) async fn txn(&self, when: &[Compare], then: &[Op], otherwise: &[Op]) -> Result<Done, Failure> {
        let body = wire::TxnBody::new(when, then, otherwise);
        self.call::<_, wire::DoneBody>("kv/txn", &body).await?.try_into()
    }

    /// A new lease of so many seconds.
    pub(super) async fn grant(&self, seconds: i64) -> Result<i64, Failure> {
        let body = wire::GrantBody {
            seconds: seconds.into(),
        };
        Ok(self.call::<_, wire::LeaseBody>("lease/grant", &body).await?.id.0)
    }

    /// Ends a lease, and the keys under it.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), Failure> {
        let body = wire::LeaseBody {
            id: lease.into(),
            ..wire::LeaseBody::default()
        };
        self.call::<_, wire::Ignored>("lease/revoke", &body)
            .await
            .map(drop)
    }

    /// Renews a lease; the seconds left, 0 or less for one that is gone.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<i64, Failure> {
        let body = wire::LeaseBody {
            id: lease.into(),
            ..wire::LeaseBody::default()
        };
        let told: wire::Told<wire::LeaseBody> = self.call("lease/keepalive", &body).await?;
        Ok(told.result()?.seconds.0)
    }

    /// The seconds left of a lease, 0 or less for one that is gone.
    pub(super) async fn time_to_live(&self, lease: i64) -> Result<i64, Failure> {
        let body = wire::LeaseBody {
            id: lease.into(),
            ..wire::LeaseBody::default()
        };
        Ok(self
            .call::<_, wire::LeaseBody>("lease/timetolive", &body)
            .await?
            .seconds
            .0)
    }

    /// Resolves when something under `prefix` is put at or after `revision`, or the watch is canceled (compacted, no
    /// leader): then the caller looks for itself. Cancel safe.
    pub(super) async fn watch(&self, prefix: &str, revision: i64) -> Result<(), Failure> {
        let body = wire::WatchBody::new(prefix, revision);
        let mut answer = self.send(&self.patient, "watch", &body).await?;
        let mut bytes = Vec::new();
        loop {
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                if read::<wire::Told<wire::WatchedBody>>(&line)?.result()?.is_news() {
                    return Ok(());
                }
            }
            match answer.chunk().await.map_err(Failure::Http)? {
                None => return Ok(()),
                Some(more) if bytes.len() + more.len() > MAX_EVENT => {
                    return Err(Failure::Garbage("an event without an end".to_owned()));
                }
                Some(more) => bytes.extend_from_slice(&more),
            }
        }
    }

    async fn call<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<A, Failure> {
        let answer = match self.send(&self.client, path, body).await {
            // The token ran out: nothing was done, so that it is asked once more with a new one.
            Err(Failure::Refused {
                code: UNAUTHENTICATED,
                ..
            }) if self.user.is_some() => {
                self.forget_token();
                self.send(&self.client, path, body).await?
            }
            answer => answer?,
        };
        read(&whole(answer).await?)
    }

    async fn send<B: Serialize + Sync>(
        &self,
        client: &reqwest::Client,
        path: &str,
        body: &B,
    ) -> Result<reqwest::Response, Failure> {
        let token = self.token().await?;
        let answer = self
            .post(client, path, encode(body)?, token.as_deref().map(String::as_str))
            .await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let said = whole(answer).await?;
        Err(match read::<wire::ErrorBody>(&said) {
            Ok(error) => error.into(),
            Err(_not_json) => Failure::Garbage(format!("HTTP {status}")),
        })
    }

    /// Posts to the endpoint that answered last, and to the others where that takes no connection.
    async fn post(
        &self,
        client: &reqwest::Client,
        path: &str,
        body: Vec<u8>,
        token: Option<&str>,
    ) -> Result<reqwest::Response, Failure> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for turn in 0..self.endpoints.len() {
            let number = (first + turn) % self.endpoints.len();
            let Some(endpoint) = self.endpoints.get(number) else {
                break;
            };
            let mut request = client
                .post(format!("{endpoint}/v3/{path}"))
                .header("content-type", "application/json")
                .header("grpc-metadata-hasleader", "true")
                .body(body.clone());
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            match request.send().await {
                Ok(answer) => {
                    self.current.store(number, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if error.is_connect() => last = Some(error),
                Err(error) => return Err(Failure::Http(error)),
            }
        }
        Err(last.map_or_else(
            || Failure::Garbage("no endpoint is named".to_owned()),
            Failure::Http,
        ))
    }

    /// The token of this session, where a user is named.
    async fn token(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        let Some((name, password)) = &self.user else {
            return Ok(None);
        };
        if let Some(token) = self.known_token() {
            return Ok(Some(token));
        }
        let body = Zeroizing::new(encode(&wire::LoginBody { name, password })?);
        let answer = self
            .post(&self.client, "auth/authenticate", body.to_vec(), None)
            .await?;
        let success = answer.status().is_success();
        let said = Zeroizing::new(whole(answer).await?);
        if !success {
            return Err(read::<wire::ErrorBody>(&said)?.into());
        }
        let token = Zeroizing::new(read::<wire::TokenBody>(&said)?.token);
        *self
            .token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(token.clone());
        Ok(Some(token))
    }

    fn known_token(&self) -> Option<Zeroizing<String>> {
        self.token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn forget_token(&self) {
        *self
            .token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

fn encode<B: Serialize>(body: &B) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|error| Failure::Garbage(error.to_string()))
}

fn read<A: DeserializeOwned>(bytes: &[u8]) -> Result<A, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::Garbage(error.to_string()))
}

async fn whole(mut answer: reqwest::Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(more) = answer.chunk().await.map_err(Failure::Http)? {
        if bytes.len() + more.len() > MAX_ANSWER {
            return Err(Failure::Garbage(format!("more than {MAX_ANSWER} bytes")));
        }
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}
