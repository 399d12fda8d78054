//! One operation's requests: who asks, which redirects are followed, how long and how much is waited for.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, IF_MATCH, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::super::reference::Repository;
use super::error::{authority, place, refusal};
use super::{Registry, RegistryError, auth};

/// Redirects that are followed at most for one request.
const MAX_REDIRECTS: usize = 5;

/// Body of a refusal at most, bytes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// What is done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

/// The requests of one operation on one repository; keeps what the registry gave us to identify with.
pub(super) struct Session<'a> {
    pub(super) registry: &'a Registry,
    pub(super) repository: Repository,
    pub(super) action: Action,
    authorization: Option<HeaderValue>,
}

/// A request with a body that fits into memory.
pub(super) struct Ask {
    method: Method,
    url: Url,
    accept: Option<String>,
    body: Option<(String, Vec<u8>)>,
    replaces: Option<HeaderValue>,
    /// Bytes that are there already.
    #[cfg(feature = "images")]
    from: u64,
    /// For people: what it is about.
    pub(super) what: String,
}

impl Ask {
    pub(super) fn new(method: Method, url: Url, what: impl Into<String>) -> Self {
        Self {
            method,
            url,
            accept: None,
            body: None,
            replaces: None,
            #[cfg(feature = "images")]
            from: 0,
            what: what.into(),
        }
    }

    pub(super) fn get(url: Url, what: impl Into<String>) -> Self {
        Self::new(Method::GET, url, what)
    }

    pub(super) fn accept(mut self, types: &[&str]) -> Self {
        self.accept = Some(types.join(", "));
        self
    }

    pub(super) fn body(mut self, media_type: &str, bytes: Vec<u8>) -> Self {
        self.body = Some((media_type.to_owned(), bytes));
        self
    }

    pub(super) fn replacing(mut self, mark: Option<HeaderValue>) -> Self {
        self.replaces = mark;
        self
    }

    /// Asks for what follows the first `from` bytes.
    #[cfg(feature = "images")]
    pub(super) fn from(mut self, from: u64) -> Self {
        self.from = from;
        self
    }

    fn may_be_redirected(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(registry: &'a Registry, repository: Repository, action: Action) -> Self {
        Self {
            registry,
            repository,
            action,
            authorization: auth::at_once(&registry.options.credentials),
        }
    }

    /// A URL under the repository. The parts are digests, tags or words of ours, which need no escaping.
    pub(super) fn url(&self, parts: &[&str]) -> Result<Url, RegistryError> {
        let path = format!("{}/{}", self.repository, parts.join("/"));
        self.registry
            .base
            .join(&path)
            .map_err(|_| RegistryError::Protocol("its name is not a valid URL".to_owned()))
    }

    /// A URL that an answer names, against the one that was asked.
    pub(super) fn named(&self, asked: &Url, response: &Response) -> Result<Url, RegistryError> {
        let header = response.headers().get(LOCATION);
        let url = header
            .and_then(|value| value.to_str().ok())
            .and_then(|text| asked.join(text).ok())
            .ok_or_else(|| RegistryError::Protocol("it names no place to go on at".to_owned()))?;
        self.allow(&url)?;
        Ok(url)
    }

    /// Refuses plain HTTP where TLS is due.
    pub(super) fn allow(&self, url: &Url) -> Result<(), RegistryError> {
        if self.registry.permits(url) {
            return Ok(());
        }
        Err(RegistryError::Redirect {
            to: place(url),
            why: "which is not protected by TLS",
        })
    }

    /// A request with our identification, unless it goes to another host than the registry.
    pub(super) fn request(
        &self,
        method: Method,
        url: &Url,
    ) -> Result<reqwest::RequestBuilder, RegistryError> {
        let request = self.registry.clients.of(url)?.request(method, url.clone());
        Ok(match &self.authorization {
            Some(value) if self.is_registry(url) => request.header(AUTHORIZATION, value.clone()),
            _ => request,
        })
    }

    fn is_registry(&self, url: &Url) -> bool {
        url.origin() == self.registry.base.origin()
    }

    /// Sends, identifies itself if asked to, follows redirects of reading requests.
    async fn send(&mut self, ask: &Ask) -> Result<Response, RegistryError> {
        let mut url = ask.url.clone();
        let mut seen = vec![url.clone()];
        let mut identified = false;
        loop {
            let response = self.once(ask, &url).await?;
            if response.status() == StatusCode::UNAUTHORIZED && !identified && self.is_registry(&url) {
                identified = true;
                if let Some(value) = auth::answer(self, &response).await? {
                    self.authorization = Some(value);
                    continue;
                }
            }
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = self.named(&url, &response)?;
            let why = if !ask.may_be_redirected() {
                "which is not followed when writing"
            } else if seen.contains(&url) {
                "where we have been"
            } else if seen.len() > MAX_REDIRECTS {
                "after too many redirects"
            } else {
                seen.push(url.clone());
                continue;
            };
            return Err(RegistryError::Redirect { to: place(&url), why });
        }
    }

    async fn once(&self, ask: &Ask, url: &Url) -> Result<Response, RegistryError> {
        let mut request = self.request(ask.method.clone(), url)?;
        if let Some(accept) = &ask.accept {
            request = request.header(ACCEPT, accept);
        }
        #[cfg(feature = "images")]
        if ask.from > 0 {
            request = request.header(reqwest::header::RANGE, format!("bytes={}-", ask.from));
        }
        if let Some(mark) = &ask.replaces {
            request = request.header(IF_MATCH, mark.clone());
        }
        request = match &ask.body {
            Some((media_type, bytes)) => request.header(CONTENT_TYPE, media_type).body(bytes.clone()),
            // Some registries insist on a length where a body could be.
            None if !ask.may_be_redirected() => request.header(reqwest::header::CONTENT_LENGTH, 0),
            None => request,
        };
        let limit = self.registry.options.answer_within;
        self.within(url, limit, "an answer", request.send())
            .await?
            .map_err(|error| RegistryError::of(url, error))
    }

    /// Sends, and takes the answers with one of the statuses `wanted` only.
    pub(super) async fn expect(
        &mut self,
        ask: &Ask,
        wanted: &[StatusCode],
    ) -> Result<Response, RegistryError> {
        let response = Box::pin(self.send(ask)).await?;
        self.check(response, wanted, &ask.what).await
    }

    /// Takes an answer with one of the statuses `wanted` only.
    pub(super) async fn check(
        &self,
        response: Response,
        wanted: &[StatusCode],
        what: &str,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if wanted.contains(&status) {
            return Ok(response);
        }
        if status.is_success() || status.is_informational() {
            return Err(RegistryError::Protocol(format!(
                "it answered {} for `{what}`",
                status.as_u16()
            )));
        }
        // What it says helps; that it cannot be read must not hide the status.
        let says = self
            .read(response, MAX_REFUSAL_BYTES, what)
            .await
            .unwrap_or_default();
        Err(refusal(&self.registry.host, what, status, &says))
    }

    /// The body of an answer, at most `max` bytes.
    pub(super) async fn read(
        &self,
        mut response: Response,
        max: usize,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_large = |size: u64| RegistryError::TooLarge {
            what: what.to_owned(),
            size,
            max: max as u64,
        };
        if let Some(size) = response.content_length().filter(|size| *size > max as u64) {
            return Err(too_large(size));
        }
        let url = response.url().clone();
        let whole = async {
            let mut bytes = Vec::new();
            while let Some(piece) = response
                .chunk()
                .await
                .map_err(|error| RegistryError::of(&url, error))?
            {
                if bytes.len().saturating_add(piece.len()) > max {
                    return Err(too_large(bytes.len().saturating_add(piece.len()) as u64));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        let limit = self.registry.options.answer_within;
        self.within(&url, limit, "the end of a short answer", whole)
            .await?
    }

    /// Bounds a wait.
    pub(super) async fn within<T>(
        &self,
        url: &Url,
        limit: Duration,
        what: &'static str,
        future: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        tokio::time::timeout(limit, future)
            .await
            .map_err(|_| RegistryError::Timeout {
                host: authority(url),
                what,
            })
    }
}
