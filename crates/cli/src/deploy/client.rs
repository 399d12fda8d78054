//! A client of the Machines API: Fly's, or that of a host of ours. The same calls, another base.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Client, Method};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{Usage, terminal};

/// Where Fly answers.
const FLY: &str = "https://api.machines.dev";
/// Fly's registry.
const FLY_REGISTRY: &str = "registry.fly.io";
/// Variables with a token, ours first.
const TOKENS: [&str; 2] = ["SUIJURIS_TOKEN", "FLY_API_TOKEN"];
/// Size of a token's file at most, bytes.
const MAX_TOKEN: usize = 64 << 10;
/// Size of an answer at most, bytes.
const MAX_ANSWER: usize = 4 << 20;
/// How long an answer may take: a `wait` takes a minute.
const WITHIN: Duration = Duration::from_secs(90);
/// Tries of a call that was told to wait.
const TRIES: u32 = 6;
/// Pause before the second of them; it doubles.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What carries machines.
pub(super) struct Vehicle {
    base: String,
    /// Host and port of its registry.
    pub(super) registry: String,
    pub(super) is_fly: bool,
    token: Zeroizing<String>,
    client: Client,
}

/// An answer that is no error of the way there.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Answer {
    /// What it says, where it is no refusal.
    pub(super) fn good(self, what: &str) -> anyhow::Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let text = ["error", "message"]
            .iter()
            .find_map(|key| self.body.get(key)?.as_str());
        let text = text.map_or_else(|| self.body.to_string(), str::to_owned);
        bail!(
            "{what}: the vehicle answered {}: {}",
            self.status,
            terminal::clean(&text)
        )
    }
}

impl Vehicle {
    /// `fly`, or the base URL of a host.
    pub(super) fn new(named: &str, token_file: Option<&Path>) -> anyhow::Result<Self> {
        let is_fly = named == "fly";
        let base = if is_fly { FLY } else { named }.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let Some((_, authority)) = base
            .split_once("://")
            .filter(|(scheme, _)| ["http", "https"].contains(scheme))
        else {
            return Err(Usage(format!(
                "`{named}` is neither `fly` nor a URL such as http://127.0.0.1:4280"
            ))
            .into());
        };
        let registry = if is_fly { FLY_REGISTRY } else { authority };
        let tls = suijuris_oci::tls_config(&[]).map_err(anyhow::Error::msg)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(WITHIN)
            .user_agent(concat!("suijuris/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            base: base.to_owned(),
            registry: registry.to_owned(),
            is_fly,
            token: token(token_file)?,
            client: client.build().context("the client cannot be made")?,
        })
    }

    /// What the registry of this vehicle is asked as.
    pub(super) fn credentials(&self) -> suijuris_oci::Credentials {
        suijuris_oci::Credentials::Basic {
            user: "x".to_owned(),
            password: suijuris_oci::Secret::new(self.token.as_str()),
        }
    }

    /// One call; asked again where the vehicle says that it was one too many.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut pause = TRY_AGAIN;
        for _ in 1..TRIES {
            let answer = self.call_once(method.clone(), path, body).await?;
            if answer.status != 429 {
                return Ok(answer);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.call_once(method, path, body).await
    }

    async fn call_once(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let url = format!("{}/v1{path}", self.base);
        let scheme = if self.token.starts_with("fm2_") {
            "FlyV1"
        } else {
            "Bearer"
        };
        let mut request = self
            .client
            .request(method, &url)
            .header("Authorization", format!("{scheme} {}", self.token.as_str()));
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let unreachable = || format!("{} does not answer", self.base);
        let mut answer = request.send().await.with_context(unreachable)?;
        let status = answer.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.with_context(unreachable)? {
            if bytes.len().saturating_add(piece.len()) > MAX_ANSWER {
                bail!("the vehicle's answer to {path} is longer than {MAX_ANSWER} bytes");
            }
            bytes.extend_from_slice(&piece);
        }
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Ok(Answer { status, body })
    }
}

/// The token, from a file or the environment: arguments are everybody's to read.
fn token(file: Option<&Path>) -> anyhow::Result<Zeroizing<String>> {
    let found = match file {
        Some(path) => {
            let bytes = Zeroizing::new(suijuris_oci::file::bytes(path, MAX_TOKEN)?);
            let text = std::str::from_utf8(&bytes).context("the token's file is no text")?;
            Some(Zeroizing::new(text.to_owned()))
        }
        None => TOKENS
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|token| !token.is_empty()))
            .map(Zeroizing::new),
    };
    let token = found.unwrap_or_default();
    let token = token.trim();
    let token = token
        .strip_prefix("FlyV1 ")
        .or_else(|| token.strip_prefix("Bearer "))
        .unwrap_or(token);
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why =
            "no token for the vehicle: set SUIJURIS_TOKEN or FLY_API_TOKEN, or name a file with --token-file";
        return Err(Usage(why.to_owned()).into());
    }
    Ok(Zeroizing::new(token.to_owned()))
}
