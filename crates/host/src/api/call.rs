//! One call: who asks, what is named in path and query, what is sent; read and checked before any operation sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Api;
use super::error::{ApiError, json_response};
use super::routes::{Needs, Route};
use crate::apps::App;
use crate::clock::now_ms;
use crate::config::strip_nulls;
use crate::door::Inside;
use crate::host::Inner;
use crate::machine::actor::Handle;
use crate::machine::requests::Request as Asked;
use crate::machine::{By, Machine};
use crate::tokens::{Access, Token};

/// Longest body, bytes.
const MAX_BODY: usize = 4 << 20;
/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// The header that shows a lease.
const NONCE: &str = "fly-machine-lease-nonce";

/// What is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Json(StatusCode, Value),
    /// A document that is text already.
    Written(String),
    Text(String),
    Empty(StatusCode),
    /// A body that goes on.
    Stream(Response<Body>),
}

impl Answer {
    pub(crate) fn ok(document: Value) -> Self {
        Self::Json(StatusCode::OK, document)
    }

    /// What calls that give nothing answer.
    pub(crate) fn done() -> Self {
        Self::ok(json!({ "ok": true }))
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        match self {
            Self::Json(status, document) => json_response(status, document.to_string()),
            Self::Written(document) => json_response(StatusCode::OK, document),
            Self::Text(text) => Response::new(Body::from(text)),
            Self::Stream(response) => response,
            Self::Empty(status) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                response
            }
        }
    }
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    api: Api,
    pub(crate) token: Token,
    params: Vec<(String, String)>,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Option<Value>,
    pub(crate) is_put: bool,
}

impl Call {
    /// Reads a call: token, right, rate, body, in this order.
    pub(crate) async fn read(
        api: Api,
        route: &Route,
        params: Vec<(String, String)>,
        request: Request,
    ) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let token = match parts.extensions.get::<Inside>() {
            // A program that shows a token is whoever that is of, wherever it asks from.
            Some(inside) if !parts.headers.contains_key(header::AUTHORIZATION) => {
                of_machine(&api.host.0, inside, route, &params)?
            }
            _ => of_header(&api.host.0, &parts.headers)?,
        };
        let may = match (token.access, route.needs) {
            (Access::Full, _) | (Access::Read | Access::Exec, Needs::Read) | (Access::Exec, Needs::Exec) => {
                true
            }
            (Access::Read | Access::Exec | Access::Receive, _) => false,
        };
        if !may {
            return Err(ApiError::unauthorized());
        }
        let named = |name: &str| {
            params
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        let identifier = named("machine_id")
            .or_else(|| named("app_name"))
            .unwrap_or(&token.org);
        api.rates.check(route, identifier)?;
        let limited = Limited::new(body, MAX_BODY).collect();
        let bytes = tokio::time::timeout(BODY_WITHIN, limited).await;
        let bytes = bytes.map_err(|_| {
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "deadline_exceeded: the body did not arrive in time",
            )
        })?;
        let too_large = |_| {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {MAX_BODY} bytes, or broke off"),
            )
        };
        let bytes = bytes.map_err(too_large)?.to_bytes();
        let blank = bytes.iter().all(u8::is_ascii_whitespace);
        let body = match (blank, route.method) {
            // A body of a GET means nothing (RFC 9110 §9.3.1).
            (true, _) | (_, "GET") => None,
            (false, _) => Some(
                serde_json::from_slice(&bytes)
                    .map_err(|error| ApiError::invalid(format!("the body is no JSON: {error}")))?,
            ),
        };
        Ok(Self {
            api,
            token,
            is_put: parts.method == http::Method::PUT,
            query: query(parts.uri.query().unwrap_or_default()),
            headers: parts.headers,
            params,
            body: body.filter(|body: &Value| !body.is_null()),
        })
    }

    pub(crate) fn host(&self) -> &Arc<Inner> {
        &self.api.host.0
    }

    /// A part of the path.
    pub(crate) fn param(&self, name: &str) -> &str {
        let found = self.params.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// A parameter of the query; an empty one is as absent.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Every value of a parameter, commas parting them too.
    pub(crate) fn query_all(&self, name: &str) -> Vec<&str> {
        let named = self.query.iter().filter(|(known, _)| known == name);
        named
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// All parameters that begin with `begin`, with the rest of their names.
    pub(crate) fn query_with<'a>(&'a self, begin: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(begin)?, value.as_str())))
    }

    /// Whether a parameter says yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.query(name)
            .is_some_and(|value| matches!(value, "true" | "1" | "t" | "True" | "TRUE" | "yes"))
    }

    /// A number in the query, within a range.
    pub(crate) fn number(
        &self,
        name: &str,
        default: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ApiError> {
        let Some(text) = self.query(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            ApiError::invalid(format!(
                "{name} is a number from {} to {}",
                range.start(),
                range.end()
            ))
        })
    }

    /// What was sent; an empty object where nothing was.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let mut body = self.body.clone().unwrap_or_else(|| json!({}));
        strip_nulls(&mut body);
        parsed(body)
    }

    /// The same, where `null` says something.
    pub(crate) fn raw_body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        parsed(self.body.clone().unwrap_or_else(|| json!({})))
    }

    /// The lease that the caller shows.
    pub(crate) fn nonce(&self) -> Option<String> {
        let shown = self.headers.get(NONCE)?.to_str().ok()?;
        (!shown.is_empty()).then(|| shown.to_owned())
    }

    /// Whether the token reaches an app.
    pub(crate) fn reaches(&self, app: &App) -> bool {
        app.org == self.token.org && self.token.app.as_ref().is_none_or(|only| *only == app.name)
    }

    /// Whether the token reaches an org as a whole.
    pub(crate) fn org(&self, slug: &str) -> Result<String, ApiError> {
        if slug == self.token.org {
            Ok(slug.to_owned())
        } else {
            Err(ApiError::unauthorized())
        }
    }

    /// The app that the path names.
    pub(crate) fn app(&self) -> Result<App, ApiError> {
        let app = self
            .host()
            .app(self.param("app_name"))
            .ok_or_else(|| ApiError::not_found("app not found"))?;
        if self.reaches(&app) {
            Ok(app)
        } else {
            Err(ApiError::unauthorized())
        }
    }

    /// The machine that the path names.
    pub(crate) fn machine(&self) -> Result<Handle, ApiError> {
        let app = self.app()?;
        let found = self.host().machine(&app.name, self.param("machine_id"));
        found.ok_or_else(|| ApiError::not_found("machine not found"))
    }

    /// Asks something of the machine that the path names.
    pub(crate) async fn ask(&self, request: Asked) -> Result<Arc<Machine>, ApiError> {
        let handle = self.machine()?;
        Ok(self.host().ask(&handle, request, self.nonce(), By::User).await?)
    }
}

/// Whose header this is.
fn of_header(host: &Inner, headers: &HeaderMap) -> Result<Token, ApiError> {
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = host.tokens.authenticate(shown.unwrap_or_default(), now_ms());
    token.ok_or_else(ApiError::unauthenticated)
}

/// What a machine may ask over its own socket: of itself, and its own tokens.
fn of_machine(
    host: &Inner,
    inside: &Inside,
    route: &Route,
    params: &[(String, String)],
) -> Result<Token, ApiError> {
    use super::routes::Operation as O;
    let handle = host
        .handle(&inside.machine)
        .ok_or_else(|| ApiError::not_found("machine not found"))?;
    let machine = handle.now();
    let of_itself = matches!(
        route.operation,
        O::ShowMachine
            | O::Stop
            | O::Suspend
            | O::Restart
            | O::Wait
            | O::Events
            | O::Memory
            | O::ShowMetadata
            | O::UpdateMetadata
            | O::GetMetadata
            | O::SetMetadata
            | O::DeleteMetadata
    );
    let is_named = |name: &str, value: &str| {
        params
            .iter()
            .any(|(known, given)| known == name && given == value)
    };
    let is_its_own = of_itself && is_named("app_name", &machine.app) && is_named("machine_id", &machine.id);
    if !is_its_own && !matches!(route.operation, O::Oidc | O::CurrentTokens) {
        return Err(ApiError::unauthorized());
    }
    Ok(Token::of_machine(&machine))
}

fn parsed<T: DeserializeOwned>(body: Value) -> Result<T, ApiError> {
    if !body.is_object() {
        return Err(ApiError::invalid("the body is a JSON object"));
    }
    serde_json::from_value(body).map_err(|error| ApiError::invalid(format!("the body: {error}")))
}

/// The parameters of a query, percent-decoded; what is no UTF-8 is replaced.
pub(super) fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(1_000);
    let parts = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    parts
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let pair = tail
            .get(..2)
            .and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match (first, pair) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A list of texts as a map of text values, for lists of parameters.
pub(crate) type Texts = BTreeMap<String, Option<String>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let pairs = query("a=b%20c&metadata.x=1+2&&d&e=%zz%");
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [("a", "b c"), ("metadata.x", "1 2"), ("d", ""), ("e", "%zz%")]
        );
    }
}
