//! Identifying: what a `401` asks for, and buying the token it names (Docker's token protocol, which registries share).

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::credentials::{Credentials, Secret};
use super::RegistryError;
use super::error::{place, refusal};
use super::http::{Action, Session};

/// Answer of a token server at most, bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Challenges that are looked at, bytes of header at most.
const MAX_CHALLENGE_BYTES: usize = 4096;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// What is sent without being asked: a token of the registry's own.
pub(super) fn at_once(credentials: &Credentials) -> Option<HeaderValue> {
    match credentials {
        Credentials::Token(token) => header("Bearer", token.expose()),
        Credentials::Anonymous | Credentials::Basic { .. } => None,
    }
}

/// The header that answers a `401`; none where we have nothing better to say than before.
pub(super) async fn answer(
    session: &Session<'_>,
    response: &Response,
) -> Result<Option<HeaderValue>, RegistryError> {
    let challenges: Vec<Challenge> = response
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenges)
        .collect();
    let bearer = challenges.iter().find_map(|challenge| match challenge {
        Challenge::Bearer { realm, service } => Some((realm.as_str(), service.as_deref())),
        Challenge::Basic => None,
    });
    match (&session.registry.options.credentials, bearer) {
        (Credentials::Token(_), _) => Ok(None),
        (_, Some((realm, service))) => buy(session, realm, service).await.map(Some),
        (Credentials::Basic { user, password }, None) if challenges.contains(&Challenge::Basic) => {
            Ok(basic(user, password))
        }
        _ => Ok(None),
    }
}

/// The challenges of a header that we know; bounded, and none where it cannot be read.
fn challenges(header: &str) -> Vec<Challenge> {
    if header.len() > MAX_CHALLENGE_BYTES {
        return Vec::new();
    }
    let parsed = http_auth::parse_challenges(header).unwrap_or_default();
    let known = |challenge: &http_auth::ChallengeRef<'_>| {
        let value = |name: &str| {
            challenge
                .params
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            Some(Challenge::Basic)
        } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
            Some(Challenge::Bearer {
                realm: value("realm")?,
                service: value("service"),
            })
        } else {
            None
        }
    };
    parsed.iter().filter_map(known).collect()
}

/// Buys a token for this repository and action only, whatever wider scope the registry may propose.
async fn buy(
    session: &Session<'_>,
    realm: &str,
    service: Option<&str>,
) -> Result<HeaderValue, RegistryError> {
    let mut url = Url::parse(realm)
        .map_err(|_| RegistryError::Protocol("it names a token server that is not a URL".to_owned()))?;
    session.allow(&url)?;
    let rights = match session.action {
        Action::Pull => "pull",
        Action::Push => "pull,push",
    };
    url.query_pairs_mut()
        .extend_pairs(service.map(|service| ("service", service)))
        .append_pair("scope", &format!("repository:{}:{rights}", session.repository));
    let registry = session.registry;
    let mut request = registry.clients.of(&url)?.get(url.clone());
    if let Credentials::Basic { user, password } = &registry.options.credentials
        && let Some(value) = basic(user, password)
    {
        request = request.header(reqwest::header::AUTHORIZATION, value);
    }
    let limit = registry.options.answer_within;
    let response = session
        .within(&url, limit, "a token", request.send())
        .await?
        .map_err(|error| RegistryError::of(&url, error))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(RegistryError::Redirect {
            to: place(&url),
            why: "a token server that is somewhere else",
        });
    }
    let body = Zeroizing::new(session.read(response, MAX_TOKEN_BYTES, "the token").await?);
    match status {
        StatusCode::OK => token(&body)
            .and_then(|token| header("Bearer", token.expose()))
            .ok_or_else(|| RegistryError::Protocol("its token server gives no token".to_owned())),
        StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => Err(refusal(
            &registry.host,
            place(&url).as_str(),
            StatusCode::UNAUTHORIZED,
            &body,
        )),
        other => Err(refusal(&registry.host, place(&url).as_str(), other, &body)),
    }
}

/// The token in the answer of a token server.
fn token(body: &[u8]) -> Option<Secret> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<Secret>,
        access_token: Option<Secret>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    answer.token.or(answer.access_token)
}

fn basic(user: &str, password: &Secret) -> Option<HeaderValue> {
    let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
    header("Basic", &Zeroizing::new(STANDARD.encode(pair.as_bytes())))
}

/// None where the text cannot stand in a header.
fn header(scheme: &str, text: &str) -> Option<HeaderValue> {
    let line = Zeroizing::new(format!("{scheme} {text}"));
    let mut value = HeaderValue::from_str(&line).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_found_among_others() {
        let header = r#"Negotiate, Bearer realm="https://auth.example/token",service="registry",scope="x""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry".to_owned()),
        };
        assert_eq!(challenges(header), [bearer]);
        assert_eq!(challenges(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        assert_eq!(challenges("Bearer service=x"), []);
        assert_eq!(challenges(&format!("Basic realm=\"{}\"", "x".repeat(5000))), []);
    }

    #[test]
    fn tokens_come_under_either_name() {
        for body in [r#"{"token":"t"}"#, r#"{"access_token":"t","expires_in":60}"#] {
            assert_eq!(token(body.as_bytes()), Some(Secret::new("t")));
        }
        for body in ["", "{}", r#"{"token":7}"#] {
            assert_eq!(token(body.as_bytes()), None);
        }
        assert_eq!(header("Bearer", "a\r\nb: c"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_headers_and_bodies_never_panic(text: String, body: Vec<u8>) {
            let _ = challenges(&text);
            let _ = token(&body);
        }
    }
}
