//! How others check the tokens of machines: open to everybody, since there is nothing in it but public keys.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::Api;
use super::error::{ApiError, refused};
use crate::ids;

/// What an issuer says of itself.
pub(super) async fn configuration(State(api): State<Api>, Path(org): Path<String>) -> Response {
    if ids::is_name(&org) {
        Json(api.host.0.issuer.configuration(&org)).into_response()
    } else {
        refused(&ApiError::not_found("not found"))
    }
}

/// Its keys; one for all orgs.
pub(super) async fn keys(State(api): State<Api>) -> Json<Value> {
    Json(api.host.0.issuer.keys())
}
