//! From a URL and the environment to a bucket: S3 and whatever speaks like it, Azure's blob storage.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::open::{DepotUrl, Environment};
use crate::{Error, frame};

/// What the environment may say about S3. The same names as in Amazon's own tools.
const S3_VARIABLES: &[(&str, AmazonS3ConfigKey)] = &[
    ("AWS_DEFAULT_REGION", AmazonS3ConfigKey::DefaultRegion),
    ("AWS_REGION", AmazonS3ConfigKey::Region),
    ("AWS_ENDPOINT_URL", AmazonS3ConfigKey::Endpoint),
    ("AWS_ENDPOINT_URL_S3", AmazonS3ConfigKey::Endpoint),
    ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
    ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
    ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
    (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        AmazonS3ConfigKey::WebIdentityTokenFile,
    ),
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    (
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    ),
    (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ),
    (
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
    ),
];

/// What the environment may say about Azure. The same names as in Microsoft's own tools.
const AZURE_VARIABLES: &[(&str, AzureConfigKey)] = &[
    ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_ACCOUNT_NAME", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_ACCOUNT_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_SAS_TOKEN", AzureConfigKey::SasKey),
    ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
    ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
    ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
    ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
];

/// The bucket that `place` names.
pub(crate) fn bucket(place: &DepotUrl, environment: Environment<'_>) -> Result<Arc<dyn ObjectStore>, Error> {
    if place.authority.is_empty() {
        let bucket = if place.scheme == "s3" {
            "bucket"
        } else {
            "container"
        };
        return Err(place.refuse(&format!(
            "it names no {bucket}: write {}://{bucket}/prefix",
            place.scheme
        )));
    }
    let unusable = |error: object_store::Error| place.refuse(&frame::told(&error));
    if place.scheme == "s3" {
        return Ok(Arc::new(s3(place, environment)?.build().map_err(unusable)?));
    }
    Ok(Arc::new(azure(place, environment)?.build().map_err(unusable)?))
}

fn s3(place: &DepotUrl, environment: Environment<'_>) -> Result<AmazonS3Builder, Error> {
    place.allow(&["endpoint", "region"])?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.authority)
        .with_retry(once())
        .with_http_connector(Connector);
    for (name, key) in S3_VARIABLES {
        if let Some(value) = environment(name).filter(|value| !value.is_empty()) {
            builder = builder.with_config(*key, value);
        }
    }
    if let Some(region) = place.parameters.get("region") {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = place.parameters.get("endpoint") {
        builder = builder.with_endpoint(endpoint_of(place, endpoint)?);
    }
    let plain = builder
        .get_config_value(&AmazonS3ConfigKey::Endpoint)
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    Ok(builder.with_allow_http(plain))
}

fn azure(place: &DepotUrl, environment: Environment<'_>) -> Result<MicrosoftAzureBuilder, Error> {
    place.allow(&["endpoint", "account"])?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(&place.authority)
        .with_retry(once())
        .with_http_connector(Connector);
    for (name, key) in AZURE_VARIABLES {
        if let Some(value) = environment(name).filter(|value| !value.is_empty()) {
            builder = builder.with_config(*key, value);
        }
    }
    if let Some(account) = place.parameters.get("account") {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = place.parameters.get("endpoint") {
        let endpoint = endpoint_of(place, endpoint)?;
        let plain = endpoint.starts_with("http://");
        builder = builder.with_endpoint(endpoint).with_allow_http(plain);
    }
    Ok(builder)
}

fn endpoint_of(place: &DepotUrl, endpoint: &str) -> Result<String, Error> {
    let known = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    if known && !endpoint.contains('@') {
        return Ok(endpoint.trim_end_matches('/').to_owned());
    }
    Err(place.refuse("its endpoint must begin with https:// or http:// and hold no credentials"))
}

/// The library repeats a request that failed, even one whose first try may have happened: not here.
fn once() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::from_secs(1),
    }
}

/// The client that the depots on servers share.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed = |source| object_store::Error::Generic {
            store: "http",
            source,
        };
        crate::http::client().map(HttpClient::new).map_err(failed)
    }
}
