//! A client of the Machines API: Fly's, or that of a host of ours. The same calls, another base.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{Usage, terminal};

/// Where Fly answers.
const FLY: &str = "https://api.machines.dev";
/// The same from within a machine, where there is a private network.
const INSIDE: &str = "http://_api.internal:4280";
/// A machine's own socket.
const SOCKET: &str = "/.fly/api";
/// Field in which a host of ours says where its proxy stands for port 80.
const PROXY_PORT: &str = "suijuris-proxy-port";
const WEB: u16 = 80;
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
    /// Where its proxy stands for port 80, as it says.
    proxy_port: std::sync::atomic::AtomicU16,
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
        Ok(Self {
            base: base.to_owned(),
            registry: registry.to_owned(),
            is_fly,
            token: token(token_file)?,
            client: client(base)?.build().context("the client cannot be made")?,
            proxy_port: WEB.into(),
        })
    }

    /// Behind the name of an app in its address: where its proxy is not at the web's own port.
    pub(super) fn port_of_apps(&self) -> String {
        match self.proxy_port.load(std::sync::atomic::Ordering::Relaxed) {
            WEB => String::new(),
            port => format!(":{port}"),
        }
    }

    /// What carries the machine that this program runs in, where `token` reaches `path`: by the name that it has in private networks, else by
    /// the machine's own socket.
    pub(super) async fn within(token: Zeroizing<String>, path: &str) -> anyhow::Result<Self> {
        let mut why = anyhow::anyhow!("nothing that carries machines is reached from here");
        for socket in [None, Some(SOCKET)] {
            let mut client = client(INSIDE)?;
            if let Some(socket) = socket {
                client = client.unix_socket(socket);
            }
            let vehicle = Self {
                base: INSIDE.to_owned(),
                registry: String::new(),
                is_fly: false,
                token: token.clone(),
                client: client.build().context("the client cannot be made")?,
                proxy_port: WEB.into(),
            };
            match vehicle.call(Method::GET, path, None).await {
                Ok(answer) if answer.status == 200 => return Ok(vehicle),
                Ok(answer) => {
                    why = why.context(format!("{} answers {}", socket.unwrap_or(INSIDE), answer.status));
                }
                Err(error) => why = error.context(why),
            }
        }
        Err(why)
    }

    /// Sees to it that the machine is up, whatever the update left it as.
    pub(super) async fn started(&self, app: &str, id: &str) -> anyhow::Result<String> {
        let path = format!("/apps/{app}/machines/{id}");
        let wait = format!("{path}/wait?state=settled&timeout=60");
        self.call(Method::GET, &wait, None).await?;
        let machine = self
            .call(Method::GET, &path, None)
            .await?
            .good("the machine is gone")?;
        let state = machine
            .get("state")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if ["created", "stopped", "suspended"].contains(&state.as_str()) {
            let start = format!("{path}/start");
            self.call(Method::POST, &start, Some(&json!({})))
                .await?
                .good("the machine cannot be started")?;
        }
        let wait = format!("{path}/wait?state=started&timeout=60");
        self.call(Method::GET, &wait, None)
            .await?
            .good("the machine did not start")?;
        Ok("started".to_owned())
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
        let port = answer
            .headers()
            .get(PROXY_PORT)
            .and_then(|port| port.to_str().ok()?.parse().ok());
        if let Some(port) = port {
            self.proxy_port.store(port, std::sync::atomic::Ordering::Relaxed);
        }
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

fn client(base: &str) -> anyhow::Result<reqwest::ClientBuilder> {
    // What is asked in clear text needs no certificates of the system, which machines may not have.
    let tls = match base.starts_with("https:") {
        true => suijuris_oci::tls_config(&[]),
        false => suijuris_oci::tls_trusting_nobody(),
    };
    let tls = tls.map_err(anyhow::Error::msg)?;
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(WITHIN)
        .user_agent(concat!("suijuris/", env!("CARGO_PKG_VERSION"))))
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
