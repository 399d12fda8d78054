//! A platform that knows nothing of objects: the calls and headers of Fly's documents that `deploy` and its machines use, over
//! processes in namespaces of their own, whose volumes are directories. As small as it can be, so that what passes here and on
//! a host of ours leans on nothing that only our host does. Only root can run it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "for tests: what is not as expected ends them"
)]

mod machine;
mod proxy;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// What was asked of the API: method, path, body.
pub type Asked = (String, String, Value);

/// An API and a proxy, until this is dropped.
#[derive(Debug)]
pub struct Plain {
    /// Host and port of the API.
    pub api: String,
    /// Host and port of the proxy.
    pub proxy: String,
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    dir: tempfile::TempDir,
    apps: Mutex<BTreeMap<String, App>>,
    asked: Mutex<Vec<Asked>>,
    made: AtomicUsize,
}

#[derive(Debug, Default)]
struct App {
    machines: BTreeMap<String, machine::Machine>,
    volumes: BTreeMap<String, Value>,
    secrets: BTreeMap<String, String>,
}

/// A request as it came.
struct Request {
    first: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// None where the peer went away.
    fn read(stream: impl Read) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
        };
        let first = line()?;
        let mut fields = Vec::new();
        while let Some((name, value)) = line()?.split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self {
            first,
            fields,
            body: Vec::new(),
        };
        let length = request.field("content-length").and_then(|text| text.parse().ok());
        request.body.resize(length.unwrap_or(0), 0);
        reader.read_exact(&mut request.body).ok()?;
        Some(request)
    }

    fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Waits until `is_so`; whether it came.
fn wait(mut is_so: impl FnMut() -> bool, within: Duration) -> bool {
    let limit = Instant::now() + within;
    while !is_so() {
        if Instant::now() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

impl Plain {
    /// Nothing runs on it yet. Machines whose services say so are stopped or suspended `idle` after their last request.
    #[must_use]
    pub fn start(idle: Duration) -> Self {
        let world = Arc::new(World {
            dir: tempfile::tempdir().unwrap(),
            apps: Mutex::default(),
            asked: Mutex::default(),
            made: AtomicUsize::new(1),
        });
        let listen = |serve: fn(&Arc<World>, std::net::TcpStream)| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let world = world.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let world = world.clone();
                    std::thread::spawn(move || serve(&world, stream));
                }
            });
            address
        };
        let api = listen(|world, mut stream| {
            let Some(request) = Request::read(&stream) else {
                return;
            };
            let _gone = stream.write_all(&world.answer(&request, None));
        });
        let proxy = listen(proxy::visit);
        let rests = world.clone();
        std::thread::spawn(move || {
            while Arc::strong_count(&rests) > 1 {
                rests.rest_the_idle(idle);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { api, proxy, world }
    }

    /// Where its volumes lie, each under its id.
    #[must_use]
    pub fn volumes(&self) -> &Path {
        self.world.dir.path()
    }

    /// What was asked of the API so far, machines' own sockets included.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.world.asked.lock().unwrap().clone()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let mut apps = self.world.apps();
        for machine in apps.values_mut().flat_map(|app| app.machines.values_mut()) {
            machine.state = "destroyed";
            machine.signal("KILL");
        }
    }
}

impl World {
    fn apps(&self) -> MutexGuard<'_, BTreeMap<String, App>> {
        // What a failed test leaves behind is still to be ended.
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer of the API; `own` is the machine whose socket it came by, which reaches that machine alone.
    fn answer(self: &Arc<Self>, request: &Request, own: Option<&str>) -> Vec<u8> {
        let mut words = request.first.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let body = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        self.asked
            .lock()
            .unwrap()
            .push((method.to_owned(), target.to_owned(), body.clone()));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let reached = own.is_none_or(|own| parts.get(3) == Some(&own));
        let shown = request.field("authorization").unwrap_or_default();
        // A deploy token of an app reaches that app.
        let of_app = || shown.strip_prefix("Bearer plain-") == parts.get(1).copied() && parts[0] == "apps";
        let allowed = own.is_some() || shown == "Bearer plain" || of_app();
        let (status, body) = match (allowed, reached) {
            (false, _) => (401, json!({"error": "Authenticate: token validation error"})),
            (_, false) => (403, json!({"error": "unauthorized"})),
            _ => self.route(method, &parts, query, &body),
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nConnection: close\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn route(self: &Arc<Self>, method: &str, parts: &[&str], query: &str, body: &Value) -> (u16, Value) {
        let missing = |what: &str| (404, json!({"error": format!("{what} not found")}));
        let mut apps = self.apps();
        if let ("POST", ["apps"]) = (method, parts) {
            let name = body["app_name"].as_str().unwrap_or_default();
            apps.insert(name.to_owned(), App::default());
            return (201, json!({"id": name, "created_at": 0}));
        }
        let Some(app) = parts.get(1).and_then(|name| apps.get_mut(*name)) else {
            return missing("app");
        };
        let name = parts[1];
        let fresh = format!("{:014x}", self.made.fetch_add(1, Ordering::Relaxed));
        match (method, &parts[2..]) {
            ("GET", []) => (200, json!({"name": name})),
            ("POST", ["deploy_token"]) => (200, json!({"token": format!("plain-{name}")})),
            ("GET", ["secrets"]) => {
                let secrets: Vec<Value> = app.secrets.keys().map(|name| json!({"name": name})).collect();
                (200, json!({ "secrets": secrets }))
            }
            ("POST", ["secrets"]) => {
                for (key, value) in body["values"].as_object().into_iter().flatten() {
                    app.secrets
                        .insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
                }
                (200, json!({"secrets": [], "version": 1}))
            }
            ("GET", ["volumes"]) => (200, app.volumes.values().cloned().collect()),
            ("POST", ["volumes"]) => {
                let id = format!("vol_{fresh}");
                let from = body["snapshot_id"].as_str().map(|id| self.dir.path().join(id));
                self.copy(from.as_deref(), &self.dir.path().join(&id));
                let volume =
                    json!({"id": id, "name": body["name"], "region": body["region"], "state": "created"});
                app.volumes.insert(id, volume.clone());
                (200, volume)
            }
            ("DELETE", ["volumes", id]) => (200, app.volumes.remove(*id).unwrap_or(Value::Null)),
            (method, ["volumes", id, "snapshots"]) => {
                let Some(volume) = app.volumes.get_mut(*id) else {
                    return missing("volume");
                };
                if method == "POST" {
                    self.copy(
                        Some(&self.dir.path().join(id)),
                        &self.dir.path().join(format!("vs_{fresh}")),
                    );
                    volume["snapshots"] = json!([{"id": format!("vs_{fresh}"), "status": "created"}]);
                }
                (200, volume["snapshots"].clone())
            }
            ("GET", ["machines"]) => (200, app.machines.values().map(machine::Machine::shown).collect()),
            ("POST", ["machines"]) => {
                let machine = machine::Machine::new(&fresh, name, body, &self.dir.path().join(&fresh));
                app.machines.insert(fresh.clone(), machine);
                self.socket(&fresh);
                drop(apps);
                self.start(name, &fresh);
                self.route("GET", &["apps", name, "machines", &fresh], "", &Value::Null)
            }
            (method, ["machines", id, rest @ ..]) if app.machines.contains_key(*id) => {
                drop(apps);
                self.machine(method, (name, id), rest, query, body)
            }
            _ => missing("machine"),
        }
    }

    /// Runs `look` on a machine; it is there.
    fn with<R>(&self, (app, id): (&str, &str), look: impl FnOnce(&mut machine::Machine) -> R) -> Option<R> {
        let mut apps = self.apps();
        apps.get_mut(app)?.machines.get_mut(id).map(look)
    }

    fn machine(
        self: &Arc<Self>,
        method: &str,
        at: (&str, &str),
        rest: &[&str],
        query: &str,
        body: &Value,
    ) -> (u16, Value) {
        let ok = || (200, json!({"ok": true}));
        let shown = || (200, self.with(at, |machine| machine.shown()).unwrap_or_default());
        match (method, rest) {
            ("GET", []) => shown(),
            ("POST", []) => {
                self.stop(at);
                self.with(at, |machine| machine.renew(body));
                self.socket(at.1);
                self.start(at.0, at.1);
                shown()
            }
            ("DELETE", []) => {
                self.with(at, |machine| machine.signal("KILL"));
                self.apps
                    .lock()
                    .unwrap()
                    .get_mut(at.0)
                    .unwrap()
                    .machines
                    .remove(at.1);
                ok()
            }
            ("POST", ["start"]) => {
                self.start(at.0, at.1);
                ok()
            }
            ("POST", ["stop"]) => {
                // Who asks may be the one to be stopped: it is answered first.
                let (world, app, id) = (self.clone(), at.0.to_owned(), at.1.to_owned());
                std::thread::spawn(move || world.stop((&app, &id)));
                ok()
            }
            ("POST", ["suspend"]) => {
                let (world, app, id) = (self.clone(), at.0.to_owned(), at.1.to_owned());
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(50));
                    world.with((&app, &id), machine::Machine::suspend);
                });
                ok()
            }
            ("GET", ["wait"]) => {
                let state = query.split('&').find_map(|pair| pair.strip_prefix("state="));
                let is_it = |machine: &mut machine::Machine| match state {
                    Some("settled") => machine.state != "stopping",
                    state => Some(machine.state) == state,
                };
                let there = || self.with(at, is_it) == Some(true);
                if wait(there, Duration::from_secs(60)) {
                    ok()
                } else {
                    (408, json!({"error": "deadline_exceeded"}))
                }
            }
            ("GET", ["events"]) => (
                200,
                self.with(at, |machine| json!(machine.events)).unwrap_or_default(),
            ),
            ("POST", ["metadata", key]) => {
                self.with(at, |machine| {
                    machine.config["metadata"][*key] = body["value"].clone();
                });
                (204, Value::Null)
            }
            ("POST", ["exec"]) => {
                let pid = self.with(at, |machine| machine.pid()).flatten();
                pid.map_or((412, json!({"error": "failed_precondition"})), |pid| {
                    (200, machine::exec(pid, body))
                })
            }
            _ => (404, json!({"error": "no such call"})),
        }
    }

    /// Starts or resumes a machine that rests; what is on its way is waited for.
    fn start(self: &Arc<Self>, app: &str, id: &str) {
        let at = (app, id);
        wait(
            || self.with(at, |machine| machine.state != "stopping") != Some(false),
            PATIENCE,
        );
        let secrets = self.apps()[app].secrets.clone();
        let started = self
            .with(at, |machine| machine.start(&secrets, self.dir.path()))
            .flatten();
        let Some(mut child) = started else { return };
        self.api_inside(child.id());
        let (world, app, id) = (self.clone(), app.to_owned(), id.to_owned());
        std::thread::spawn(move || {
            let code = child.wait().ok().and_then(|status| status.code());
            let again = world.with((&app, &id), |machine| machine.ended(code));
            if again == Some(true) {
                world.start(&app, &id);
            }
        });
    }

    /// The API as `_api.internal:4280` in a machine's network, for as long as that is there.
    fn api_inside(self: &Arc<Self>, outer: u32) {
        let world = Arc::downgrade(self);
        std::thread::spawn(move || {
            let gone = || !Path::new(&format!("/proc/{outer}")).exists();
            let inside = || proxy::listen(machine::first_in(outer)?, 4280);
            let mut listener = None;
            wait(
                || {
                    listener = inside();
                    listener.is_some() || gone()
                },
                PATIENCE,
            );
            let Some(listener) = listener else { return };
            listener.set_nonblocking(true).unwrap();
            while !gone() {
                let Some(world) = world.upgrade() else { return };
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                std::thread::spawn(move || {
                    if let Some(request) = Request::read(&stream) {
                        let _gone = stream.write_all(&world.answer(&request, None));
                    }
                });
            }
        });
    }

    fn stop(&self, at: (&str, &str)) {
        self.with(at, machine::Machine::stop);
        let gone = || self.with(at, |machine| machine.pid().is_none()) != Some(false);
        if !wait(gone, Duration::from_secs(30)) {
            self.with(at, |machine| machine.signal("KILL"));
            wait(gone, PATIENCE);
        }
    }

    /// The socket of a machine, in its files.
    fn socket(self: &Arc<Self>, id: &str) {
        let path = self.dir.path().join(id).join("root/.fly/api");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        let (world, id) = (Arc::downgrade(self), id.to_owned());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (Some(world), Some(request)) = (world.upgrade(), Request::read(&stream)) else {
                    return;
                };
                let _gone = stream.write_all(&world.answer(&request, Some(&id)));
            }
        });
    }

    fn rest_the_idle(self: &Arc<Self>, idle: Duration) {
        let mut idlers = Vec::new();
        for (name, app) in self.apps().iter() {
            let rests = app
                .machines
                .iter()
                .filter_map(|(id, machine)| Some((id.clone(), machine.rests(idle)?)));
            idlers.extend(rests.map(|(id, how)| (name.clone(), id, how)));
        }
        for (app, id, how) in idlers {
            let _state = self.machine("POST", (&app, &id), &[how], "", &Value::Null);
        }
    }

    /// A directory like another, or an empty one.
    fn copy(&self, from: Option<&Path>, to: &PathBuf) {
        match from {
            Some(from) => assert!(
                Command::new("cp")
                    .arg("-a")
                    .arg(from)
                    .arg(to)
                    .status()
                    .unwrap()
                    .success()
            ),
            None => std::fs::create_dir(to).unwrap(),
        }
    }
}
