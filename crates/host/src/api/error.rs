//! Errors of the API in Fly's shape: always JSON, `error` first, and what to do in it.

use axum::body::Body;
use http::{Response, StatusCode, header};
use serde_json::json;

use crate::ids::NoRandomness;
use crate::machine::requests::Refusal;
use crate::secrets::SecretError;
use crate::store::StoreError;
use crate::tokens::TokenError;

/// Why a call is not answered with what it asked for.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    text: String,
    /// Fly's machine-readable word, where there is one.
    code: Option<&'static str>,
    /// A conflict of leases, which has a shape of its own.
    is_lease: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            code: None,
            is_lease: false,
        }
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn invalid(text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        let begun = text.starts_with("invalid_argument: ");
        Self::new(
            StatusCode::BAD_REQUEST,
            if begun {
                text
            } else {
                format!("invalid_argument: {text}")
            },
        )
    }

    pub(crate) fn precondition(text: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            format!("failed_precondition: {text}"),
        )
    }

    pub(crate) fn not_found(text: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(crate) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method not allowed: see the API's document for those of this path",
        )
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Authenticate: token validation error")
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::FORBIDDEN, "unauthorized")
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Precondition(_) => StatusCode::PRECONDITION_FAILED,
            Refusal::Invalid(_) | Refusal::Failed(_) => StatusCode::BAD_REQUEST,
            Refusal::NoRoom(_) | Refusal::Leased { .. } => StatusCode::CONFLICT,
            Refusal::NoLease | Refusal::Gone => StatusCode::NOT_FOUND,
            Refusal::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Busy(_) => StatusCode::REQUEST_TIMEOUT,
        };
        let is_lease = matches!(refusal, Refusal::Leased { .. });
        let text = match &refusal {
            Refusal::Invalid(text) if text.starts_with("invalid_argument: ") => text.clone(),
            refusal => refusal.to_string(),
        };
        Self {
            is_lease,
            ..Self::new(status, text)
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("internal: {error}"))
    }
}

impl From<NoRandomness> for ApiError {
    fn from(error: NoRandomness) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("internal: {error}"))
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("internal: {error}"))
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::None => Self::not_found("secret not found"),
            SecretError::Form | SecretError::TooMany => Self::invalid(error),
            SecretError::Seal(_) | SecretError::Store(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("internal: {error}"))
            }
        }
    }
}

/// The response of an error.
pub(crate) fn refused(error: &ApiError) -> Response<Body> {
    let mut document = json!({ "error": error.text });
    if let Some(document) = document.as_object_mut() {
        if let Some(code) = error.code {
            document.insert("status".to_owned(), json!(code));
        }
        if error.is_lease {
            document.insert("status".to_owned(), json!("error"));
            document.insert("message".to_owned(), json!(error.text));
            document.insert("code".to_owned(), json!("invalid"));
        }
    }
    let mut response = json_response(error.status, document.to_string());
    if error.status == StatusCode::TOO_MANY_REQUESTS {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

/// A JSON response.
pub(crate) fn json_response(status: StatusCode, document: String) -> Response<Body> {
    let mut response = Response::new(Body::from(document));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
