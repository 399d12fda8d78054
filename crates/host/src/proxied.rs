//! Machines as the proxy sees them: records become a snapshot that all requests share until one changes, and what the proxy asks
//! is asked of a machine's owner like everything else.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use suijuris_proxy::fleet::{
    App, Boxed, CacheRule, Counts, Fleet, Machine, Port, Rest, Service, Snapshot, StartError, State,
};
use suijuris_proxy::load::Load;
use suijuris_proxy::{Entry, Key, Options, Proxy, ServeError};
use tokio::net::TcpStream;

use crate::clock::now_ms;
use crate::config;
use crate::host::{Host, Inner};
use crate::machine::actor::Handle;
use crate::machine::requests::Request;
use crate::machine::{By, Machine as Record, State as Now};
use crate::sealed::{SealError, key_file};

/// A snapshot is made anew after this long, whatever changed: apps and addresses say nothing when they do.
const FRESH: Duration = Duration::from_millis(500);
/// Load at which another machine is started, where a config says nothing.
const SOFT_LIMIT: u32 = 20;
/// Fields that a config adds to answers, and replays that it wants remembered, at most.
const MAX_ENTRIES: usize = 100;

/// Why the proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The key of replays' states.
    #[error(transparent)]
    Key(#[from] SealError),
    /// Sockets, threads, certificates.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Serves the machines of `host` at `entries`, with what `set` changes of the proxy's defaults.
///
/// # Errors
/// [`ProxyError`].
pub fn proxy(host: &Host, entries: &[Entry], set: impl FnOnce(&mut Options)) -> Result<Proxy, ProxyError> {
    let mut options = Options::new(key(&host.0.options.data)?, Duration::from_millis(now_ms()));
    set(&mut options);
    let machines = Machines {
        host: Arc::clone(&host.0),
        seen: RwLock::default(),
    };
    let proxy = Proxy::serve(Arc::new(machines), options, entries)?;
    // Clients of the API learn where apps are reached.
    let web = entries
        .iter()
        .find(|entry| entry.port.is_none() && !entry.proxy_header);
    if let Some(Ok(address)) = web.map(|entry| entry.listener.local_addr()) {
        let _of_the_first = host.0.proxy_port.set(address.port());
    }
    // Of several proxies the first is counted.
    let _counted = host.0.counters.set(Counters(Box::new(proxy.metrics_reader())));
    Ok(proxy)
}

/// What the proxy signs with.
pub(crate) fn key(data: &Path) -> Result<Key, SealError> {
    Ok(Key::new(*key_file(&data.join("proxy.key"))?))
}

/// Reads the proxy's counters.
pub(crate) struct Counters(Box<dyn Fn() -> String + Send + Sync>);

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counters")
    }
}

impl Counters {
    /// In the text format of Prometheus.
    pub(crate) fn text(&self) -> String {
        (self.0)()
    }
}

/// The host's machines.
#[derive(Debug)]
struct Machines {
    host: Arc<Inner>,
    seen: RwLock<Seen>,
}

/// A record, whether checks let each of its services be used, and what these became.
type Made = (Arc<Record>, Vec<bool>, Arc<Machine>);

/// The last snapshot, and what it was made of.
#[derive(Debug, Default)]
struct Seen {
    changes: u64,
    at: Option<Instant>,
    now: Arc<Snapshot>,
    /// What each record became, with whether checks let each of its services be used.
    made: HashMap<String, Made>,
}

impl Seen {
    fn is_fresh(&self, changes: u64) -> bool {
        self.changes == changes && self.at.is_some_and(|at| at.elapsed() < FRESH)
    }
}

impl Machines {
    fn handle(&self, id: &str) -> Result<Handle, StartError> {
        let machines = self.host.machines.read().unwrap_or_else(PoisonError::into_inner);
        machines
            .get(id)
            .cloned()
            .ok_or_else(|| StartError("the machine is gone".to_owned()))
    }

    fn see(&self, changes: u64) -> Arc<Snapshot> {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if seen.is_fresh(changes) {
            return Arc::clone(&seen.now);
        }
        let primary = self.host.options.regions.first().map_or("", String::as_str);
        let mut made = HashMap::new();
        let mut by_app: HashMap<String, Vec<Arc<Machine>>> = HashMap::new();
        let records: Vec<(Arc<Record>, Vec<bool>)> = {
            let machines = self.host.machines.read().unwrap_or_else(PoisonError::into_inner);
            machines.values().map(looked_at).collect()
        };
        for (record, healthy) in records
            .into_iter()
            .filter(|(record, _)| record.state != Now::Destroyed)
        {
            let machine = match seen.made.remove(&record.id) {
                Some((before, was, machine)) if Arc::ptr_eq(&before, &record) && was == healthy => machine,
                before => Arc::new(machine(
                    &record,
                    &healthy,
                    before.as_ref().map(|(.., machine)| &**machine),
                    primary,
                )),
            };
            by_app
                .entry(record.app.clone())
                .or_default()
                .push(Arc::clone(&machine));
            made.insert(record.id.clone(), (record, healthy, machine));
        }
        let now = Arc::new(self.snapshot(by_app));
        *seen = Seen {
            changes,
            at: Some(Instant::now()),
            now: Arc::clone(&now),
            made,
        };
        now
    }

    fn snapshot(&self, mut by_app: HashMap<String, Vec<Arc<Machine>>>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let apps = self.host.apps.read().unwrap_or_else(PoisonError::into_inner);
        for (name, app) in apps.iter().filter(|(_, app)| !app.leaving) {
            let name: Arc<str> = name.as_str().into();
            for (document, key) in [("ip", "ip"), ("certificate", "hostname")] {
                for value in self.host.documents.list(document, &name) {
                    let shared = value.get("shared").and_then(Value::as_bool).unwrap_or_default();
                    let Some(text) = value.get(key).and_then(Value::as_str) else {
                        continue;
                    };
                    match text.parse::<IpAddr>() {
                        Ok(ip) if document == "ip" && !shared => {
                            snapshot.addresses.insert(ip, Arc::clone(&name));
                        }
                        Err(_) if document == "certificate" => {
                            snapshot
                                .hostnames
                                .insert(text.to_ascii_lowercase().into(), Arc::clone(&name));
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
            }
            let served = App {
                org: app.org.as_str().into(),
                network: app.network.as_str().into(),
                machines: by_app.remove(&*name).unwrap_or_default(),
                name: Arc::clone(&name),
            };
            let services = served.machines.iter().flat_map(|machine| &machine.services);
            snapshot.hooked |= services.into_iter().any(|service| service.hook.is_some());
            snapshot.apps.insert(name, Arc::new(served));
        }
        snapshot
    }
}

impl Fleet for Machines {
    fn now(&self) -> Arc<Snapshot> {
        let changes = self.host.shared.changes.load(Ordering::Acquire);
        {
            let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
            if seen.is_fresh(changes) {
                return Arc::clone(&seen.now);
            }
        }
        self.see(changes)
    }

    fn start(&self, machine: &str) -> Boxed<Result<(), StartError>> {
        let host = Arc::clone(&self.host);
        let handle = self.handle(machine);
        Box::pin(async move {
            let handle = handle?;
            let told = |why: &dyn std::fmt::Display| StartError(why.to_string());
            let asked = host.ask(&handle, Request::Start, None, By::Proxy).await;
            asked.map_err(|refusal| told(&refusal))?;
            let mut record = handle.record.clone();
            let ended = record.wait_for(|record| record.state.is_settled()).await;
            let ended = ended.map_err(|_| told(&"the machine is gone"))?;
            match ended.state {
                Now::Started => Ok(()),
                state => Err(match &ended.failure {
                    Some(failure) => told(&format!("it is {} again: {}", state.name(), failure.why)),
                    None => told(&format!("it is {} again: its program ended", state.name())),
                }),
            }
        })
    }

    fn rest(&self, machine: &str, how: Rest) -> Boxed<Result<(), StartError>> {
        let host = Arc::clone(&self.host);
        let handle = self.handle(machine);
        Box::pin(async move {
            let handle = handle?;
            let stop = || Request::Stop {
                signal: None,
                budget_ms: None,
            };
            let suspended = match how {
                Rest::Suspend => host.ask(&handle, Request::Suspend, None, By::Proxy).await.is_ok(),
                Rest::Stop => false,
            };
            if !suspended {
                let asked = host.ask(&handle, stop(), None, By::Proxy).await;
                asked.map_err(|refusal| StartError(refusal.to_string()))?;
            }
            let mut record = handle.record.clone();
            let ended = record.wait_for(|record| record.state.is_settled()).await;
            // Whether it rests, or was started again meanwhile: both are well.
            ended
                .map(drop)
                .map_err(|_| StartError("the machine is gone".to_owned()))
        })
    }

    fn connect(&self, machine: &str, port: u16) -> Boxed<io::Result<TcpStream>> {
        let processes = self
            .handle(machine)
            .map(|handle| handle.processes.borrow().clone());
        let world = Arc::clone(&self.host.shared.world);
        Box::pin(async move {
            let Ok(Some(processes)) = processes else {
                return Err(io::ErrorKind::NotFound.into());
            };
            world.connect(&processes, port).await
        })
    }
}

/// A machine's record, and of each of its services whether checks let it be used.
fn looked_at(handle: &Handle) -> (Arc<Record>, Vec<bool>) {
    let record = handle.now();
    let services = record.config.services.iter().flatten();
    let healthy = services
        .map(|service| handle.is_healthy(service.internal_port))
        .collect();
    (record, healthy)
}

/// What a record becomes; `before` is what it was, whose loads go on.
fn machine(record: &Record, healthy: &[bool], before: Option<&Machine>, primary: &str) -> Machine {
    let env = record.config.env.as_ref();
    let primary = env
        .and_then(|env| env.get("PRIMARY_REGION"))
        .map_or(primary, String::as_str);
    let startable = record.config.disable_machine_autostart != Some(true);
    let services = record.config.services.iter().flatten().zip(healthy);
    Machine {
        id: record.id.as_str().into(),
        region: record.region.as_str().into(),
        state: state(record.state),
        cordoned: record.cordoned,
        primary_region: primary.into(),
        services: services
            .filter_map(|(found, healthy)| {
                let mut made = service(found, *healthy, before, startable)?;
                made.hook = hook(record, made.internal_port);
                made.tells_tls = tells_tls(record);
                Some(Arc::new(made))
            })
            .collect(),
    }
}

/// Who decides on requests to a service, by the machine's metadata: `authz_PORT`, with the internal port, else `authz`.
fn hook(record: &Record, internal_port: u16) -> Option<Arc<str>> {
    let metadata = record.config.metadata.as_ref()?;
    let of_port = metadata.get(&format!("authz_{internal_port}"));
    of_port
        .or_else(|| metadata.get("authz"))
        .map(|url| url.as_str().into())
}

/// Whether the machine's metadata asks for what is known of clients' TLS.
fn tells_tls(record: &Record) -> bool {
    let metadata = record.config.metadata.as_ref();
    metadata
        .and_then(|metadata| metadata.get("client_tls"))
        .map(String::as_str)
        == Some("true")
}

const fn state(state: Now) -> State {
    match state {
        Now::Started => State::Started,
        Now::Starting | Now::Restarting => State::Starting,
        // A start calls a suspend off.
        Now::Stopped | Now::Suspended | Now::Suspending => State::Resting,
        Now::Creating | Now::Stopping | Now::Replacing => State::Moving,
        Now::Created | Now::Failed | Now::Destroying | Now::Destroyed => State::Away,
    }
}

fn service(
    found: &config::Service,
    healthy: bool,
    before: Option<&Machine>,
    startable: bool,
) -> Option<Service> {
    let internal_port = u16::try_from(found.internal_port).ok()?;
    let limits = found.concurrency.clone().unwrap_or_default();
    let same = |service: &&Arc<Service>| service.internal_port == internal_port;
    let known = before.and_then(|before| before.services.iter().find(same));
    let limit = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    let hard = limits.hard_limit.filter(|hard| *hard > 0).map(limit);
    let soft = limit(limits.soft_limit.filter(|soft| *soft > 0).unwrap_or(SOFT_LIMIT));
    Some(Service {
        internal_port,
        hook: None,
        tells_tls: false,
        ports: found.ports.iter().flatten().filter_map(port).collect(),
        counts: match limits.kind.as_deref() {
            Some("requests") => Counts::Requests,
            _ => Counts::Connections,
        },
        soft: hard.map_or(soft, |hard| soft.min(hard)),
        hard,
        autostart: startable && found.autostart != Some(false),
        autostop: match found.autostop {
            None | Some(config::Autostop::Off) => None,
            Some(config::Autostop::Stop) => Some(Rest::Stop),
            Some(config::Autostop::Suspend) => Some(Rest::Suspend),
        },
        min_running: limit(found.min_machines_running.unwrap_or_default()),
        healthy,
        load: known.map_or_else(|| Arc::new(Load::default()), |known| Arc::clone(&known.load)),
    })
}

fn port(found: &config::Port) -> Option<Port> {
    let from = found.port.or(found.start_port)?;
    let handles = |name: &str| {
        let mut handlers = found.handlers.iter().flatten();
        handlers.any(|handler| handler == name)
    };
    let http = found.http_options.as_ref();
    let flag = |name: &str| {
        http.and_then(|http| http.get(name)?.as_bool())
            .unwrap_or_default()
    };
    let response = http.and_then(|http| http.get("response"));
    let version = found
        .proxy_proto_options
        .as_ref()
        .and_then(|options| options.get("version"));
    let version = match version.and_then(Value::as_str) {
        Some("v2") => 2,
        _ => 1,
    };
    Some(Port {
        from,
        to: found.port.or(found.end_port).unwrap_or(from),
        http: handles("http"),
        tls: handles("tls"),
        pg_tls: handles("pg_tls"),
        proxy_proto: handles("proxy_proto").then_some(version),
        force_https: found.force_https.unwrap_or_default(),
        h2c: flag("h2_backend"),
        pristine: response
            .and_then(|response| response.get("pristine")?.as_bool())
            .unwrap_or_default(),
        response_headers: response
            .and_then(|response| response.get("headers"))
            .map(fields)
            .unwrap_or_default(),
        replay_cache: http
            .and_then(|http| http.get("replay_cache")?.as_array())
            .map(|rules| rules.iter().take(MAX_ENTRIES).filter_map(cache_rule).collect())
            .unwrap_or_default(),
    })
}

/// Fields of answers: a text, several, or `false` for none.
fn fields(headers: &Value) -> Vec<(String, Vec<String>)> {
    let values = |value: &Value| match value {
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        one => one.as_str().map(str::to_owned).into_iter().collect(),
    };
    let all = headers.as_object().into_iter().flatten().take(MAX_ENTRIES);
    all.map(|(name, value)| (name.to_ascii_lowercase(), values(value)))
        .collect()
}

fn cache_rule(rule: &Value) -> Option<CacheRule> {
    let text = |key: &str| rule.get(key).and_then(Value::as_str);
    Some(CacheRule {
        path_prefix: text("path_prefix").unwrap_or("/").to_owned(),
        ttl_s: rule.get("ttl_seconds").and_then(Value::as_u64)?,
        cookie: text("type") != Some("header"),
        name: text("name")?.to_owned(),
        allow_bypass: rule
            .get("allow_bypass")
            .and_then(Value::as_bool)
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(service: &Value) -> Service {
        let config = json!({"image": "a", "services": [service]});
        let config = config::MachineConfig::read(config).unwrap();
        let found = config.services.unwrap().remove(0);
        super::service(&found, true, None, true).unwrap()
    }

    #[test]
    fn what_a_config_leaves_out() {
        let service = read(
            &json!({"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}),
        );
        assert!(service.autostart && service.autostop.is_none() && service.hard.is_none());
        assert_eq!(
            (service.soft, service.min_running, service.counts),
            (20, 0, Counts::Connections)
        );
        let port = service.port(80).unwrap().1;
        assert!(port.http && !port.tls && !port.force_https && !port.h2c && !port.pristine);
        assert!(service.port(443).is_none());
    }

    #[test]
    fn every_key_is_read() {
        let service = read(&json!({
            "protocol": "tcp", "internal_port": 1, "autostart": false, "autostop": "suspend", "min_machines_running": 2,
            "concurrency": {"type": "requests", "soft_limit": 5, "hard_limit": 3},
            "ports": [{"start_port": 100, "end_port": 200, "handlers": ["tls", "http", "proxy_proto"], "force_https": true,
                "proxy_proto_options": {"version": "v2"},
                "http_options": {"h2_backend": true, "response": {"pristine": true, "headers": {"X-A": "1", "X-B": ["2", "3"], "X-C": false}},
                    "replay_cache": [{"path_prefix": "/u", "ttl_seconds": 60, "type": "cookie", "name": "user", "allow_bypass": true}, {"name": "no ttl"}]}}],
        }));
        assert!(!service.autostart && service.autostop == Some(Rest::Suspend) && service.min_running == 2);
        assert_eq!(
            (service.soft, service.hard, service.counts),
            (3, Some(3), Counts::Requests)
        );
        let port = service.port(150).unwrap().1;
        assert!(
            port.http
                && port.tls
                && port.force_https
                && port.h2c
                && port.pristine
                && port.proxy_proto == Some(2)
        );
        let field = |name: &str, values: &[&str]| {
            (
                name.to_owned(),
                values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            port.response_headers,
            [field("x-a", &["1"]), field("x-b", &["2", "3"]), field("x-c", &[])]
        );
        assert_eq!(port.replay_cache.len(), 1);
    }
}
