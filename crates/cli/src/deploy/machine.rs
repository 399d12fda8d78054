//! What a machine is that carries an object by itself, in the words of the Machines API and of `fly.toml`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use suijuris_core::manifest::Protocol;

/// Where the volume is mounted.
pub(super) const VOLUME: &str = "/data";
/// Name of volumes that hold objects.
pub(super) const VOLUME_NAME: &str = "object";
/// Metadata by which the machine is found again.
pub(super) const MARK: &str = "suijuris";
/// What the object has to fall asleep in order when the platform stops it, seconds.
const STOP_S: u32 = 30;
/// Memory of the smallest shape, MiB.
const MEMORY: u32 = 256;

/// What stands in a machine's config.
pub(super) struct Wanted<'a> {
    pub(super) image: &'a str,
    pub(super) volume: &'a str,
    pub(super) ticket: &'a str,
    pub(super) depot: Option<&'a str>,
    pub(super) bundle: &'a str,
    pub(super) protocol: Protocol,
    /// Where the gate listens in the machine.
    pub(super) port: u16,
    /// `off`, `stop` or `suspend`.
    pub(super) autostop: &'a str,
    /// What owners signed of a changed definition.
    pub(super) amend: Option<&'a str>,
}

impl Wanted<'_> {
    /// The config, whole: an update replaces all of it.
    pub(super) fn config(&self) -> Value {
        let listen = format!("0.0.0.0:{}", self.port);
        let mut env = json!({ "SUIJURIS_TICKET": self.ticket, "SUIJURIS_LISTEN": listen });
        let optional = [("SUIJURIS_DEPOT", self.depot), ("SUIJURIS_AMEND", self.amend)];
        for (name, value) in optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
        {
            if let Some(env) = env.as_object_mut() {
                env.insert(name.to_owned(), json!(value));
            }
        }
        json!({
            "image": self.image,
            "env": env,
            // A host of ours says what it knows of clients' TLS to whoever asks for it.
            "metadata": { MARK: "object", "suijuris_bundle": self.bundle, "client_tls": "true" },
            "guest": { "cpu_kind": "shared", "cpus": 1, "memory_mb": MEMORY },
            "mounts": [{ "volume": self.volume, "path": VOLUME }],
            // An object that sleeps, or refuses to wake, exits with 0: only what is broken is started again.
            "restart": { "policy": "on-failure", "max_retries": 3 },
            "stop_config": { "signal": "SIGTERM", "timeout": format!("{STOP_S}s") },
            "services": [self.service()],
        })
    }

    fn service(&self) -> Value {
        let ports = match self.protocol {
            Protocol::Http => {
                json!([{ "port": 80, "handlers": ["http"] }, { "port": 443, "handlers": ["tls", "http"] }])
            }
            Protocol::H2c => json!([{ "port": 443, "handlers": ["tls"], "tls_options": { "alpn": ["h2"] } }]),
            Protocol::Tcp | Protocol::FdPassing => json!([{ "port": self.port, "handlers": [] }]),
        };
        json!({
            "protocol": "tcp",
            "internal_port": self.port,
            "autostart": true,
            "autostop": self.autostop,
            "min_machines_running": 0,
            "ports": ports,
        })
    }
}

/// A `fly.toml` that says the same of an app, for those who deploy with Fly's own tools: the image and the ticket are theirs to
/// give.
pub(super) fn fly_toml(
    app: &str,
    region: Option<&str>,
    (protocol, port): (Protocol, u16),
    autostop: &str,
) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = format!("app = {}\n", quoted(app));
    if let Some(region) = region {
        let _ = writeln!(text, "primary_region = {}", quoted(region));
    }
    let _ = write!(
        text,
        "kill_signal = \"SIGTERM\"\nkill_timeout = \"{STOP_S}s\"\n\n[[mounts]]\n  source = \"{VOLUME_NAME}\"\n  destination = \"{VOLUME}\"\n\n[[restart]]\n  policy = \"on-failure\"\n  retries = 3\n\n[[vm]]\n  memory = \"{MEMORY}mb\"\n  cpu_kind = \"shared\"\n  cpus = 1\n\n"
    );
    let service = format!(
        "  internal_port = {port}\n  auto_start_machines = true\n  auto_stop_machines = \"{autostop}\"\n  min_machines_running = 0\n"
    );
    match protocol {
        Protocol::Http => {
            let _ = write!(text, "[http_service]\n{service}  force_https = true\n");
        }
        Protocol::H2c => {
            let _ = write!(
                text,
                "[[services]]\n  protocol = \"tcp\"\n{service}\n  [[services.ports]]\n    port = 443\n    handlers = [\"tls\"]\n    tls_options = {{ alpn = [\"h2\"] }}\n"
            );
        }
        Protocol::Tcp | Protocol::FdPassing => {
            let _ = write!(
                text,
                "[[services]]\n  protocol = \"tcp\"\n{service}\n  [[services.ports]]\n    port = {port}\n"
            );
        }
    }
    text
}
