//! A person's home with objects in it, and the program to ask about them.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use suijuris_bundle::{build, scaffold};
use suijuris_core::bundle::Bundle;
use suijuris_core::decide::{self, View};
use suijuris_core::governance::{Action, Protocol, TriggerKind};
use suijuris_core::id::{BlobId, Digest};
use suijuris_core::inputs::{Activity, Host, Inputs, Principal, Request, Trigger, Vehicle};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Decision, Dormant, Fired, Mutated, Outcome, Refused, State, Woke};
use suijuris_core::memory::{Name, Value, Write};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_store::{
    BundleFiles, Creation, Depth, Draft, ObjectDir, Sign, Sizes, StageError, Writer, create,
};

pub(crate) use crate::ran::Ran;
use crate::ran::run;

/// Birth of every object here: 2026-01-01T00:00:00Z.
const BORN: i64 = 1_767_225_600_000;
const OWNER: [u8; 32] = [7; 32];

/// A home of its own.
pub(crate) struct Rig {
    temp: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let config = temp.path().join("config/suijuris");
        std::fs::create_dir_all(&config).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let mut key = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(config.join("owner.key"))
            .unwrap();
        std::io::Write::write_all(&mut key, format!("{}\n", Digest(OWNER).hex()).as_bytes()).unwrap();
        Self { temp }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suijuris"));
        command.args(args).current_dir(self.path()).env_clear();
        command.env("HOME", self.path().join("home"));
        command.env("XDG_CONFIG_HOME", self.path().join("config"));
        command.env("XDG_DATA_HOME", self.path().join("share"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args))
    }

    /// An object of `template` in directory `name`, with some more fields, one of them secret.
    pub(crate) fn create(&self, template: &str, name: &str) -> Object {
        let dir = self.path().join(name);
        scaffold(template, &dir, name).unwrap();
        Self::create_in(dir, name)
    }

    /// As [`Rig::create`] from template `http`, with these rules added to its own.
    pub(crate) fn create_with(&self, name: &str, rules: &str) -> Object {
        let dir = self.path().join(name);
        scaffold("http", &dir, name).unwrap();
        let path = dir.join("governance.cedar");
        let text = std::fs::read_to_string(&path).unwrap() + rules;
        std::fs::write(path, text).unwrap();
        Self::create_in(dir, name)
    }

    /// An object of the definition in `dir`, as [`Rig::create`].
    pub(crate) fn create_in(dir: PathBuf, name: &str) -> Object {
        let mut definition = std::fs::read_to_string(dir.join("object.toml")).unwrap();
        definition += "\n[memory.token]\ntype = \"string\"\nsecret = true\n";
        definition += "[memory.tags]\ntype = { set = \"string\" }\n[memory.note]\ntype = \"string\"\n";
        std::fs::write(dir.join("object.toml"), definition).unwrap();
        let built = build(&dir).unwrap();
        let bundle = BundleFiles {
            manifest: built.manifest_bytes,
            governance: built.governance.into_bytes(),
            program: built.program_bytes,
        };
        Self::born(dir, name, bundle)
    }

    /// An object of the definition in `dir` whose text is another than its program was compiled from: whoever makes one has
    /// altered a bundle and named it anew.
    pub(crate) fn forge(dir: &Path, name: &str, governance: String) -> Object {
        let built = build(dir).unwrap();
        let mut manifest = built.manifest;
        manifest.governance = BlobId::of(governance.as_bytes());
        let bytes = manifest.encode().unwrap();
        let bundle = BundleFiles {
            manifest: bytes,
            governance: governance.into_bytes(),
            program: built.program_bytes,
        };
        Self::born(dir.to_owned(), name, bundle)
    }

    fn born(dir: PathBuf, name: &str, bundle: BundleFiles) -> Object {
        let creation = Creation {
            name: name.to_owned(),
            controllers: vec![SecretKey::from_seed(&OWNER).public()],
            threshold: 1,
            nonce: vec![1; 16],
            parent: None,
            class: None,
            at: Timestamp(BORN),
            bundle,
            seed: [1; 32].into(),
        };
        let home = ObjectDir::at(dir.join(".suijuris"));
        let id = create(&home, creation).unwrap().to_string();
        Object { dir, home, id }
    }
}

/// An object on disk.
pub(crate) struct Object {
    pub(crate) dir: PathBuf,
    pub(crate) home: ObjectDir,
    pub(crate) id: String,
}

impl Object {
    pub(crate) fn data(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn open(&self) -> Live {
        let (writer, _) = Writer::open(&self.home, Depth::Whole, Sizes::default()).unwrap();
        let id = writer.published().head().bundle;
        let bundle = writer.bundles().bundle(&id).unwrap();
        Live { writer, bundle }
    }

    /// A life: woken by a request, written to by its workload, asleep again, a request refused.
    pub(crate) fn live(&self) {
        let live = self.open();
        live.wake();
        live.write("note", Value::String("hello".to_owned()));
        live.sleep();
        live.write("open", Value::Bool(false));
        live.refuse(3);
        live.writer.close().unwrap();
    }

    /// Files of the data directory with their content, the lock aside.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![self.data().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(path).unwrap());
                }
            }
        }
        files
    }
}

/// An object that somebody runs.
pub(crate) struct Live {
    pub(crate) writer: Writer,
    bundle: Arc<Bundle>,
}

impl Live {
    fn state(&self) -> State {
        self.writer.published().clone()
    }

    /// A second after the last record.
    fn now(&self) -> Now {
        let at = self.state().head().at.saturating_add(Span(1_000));
        Now {
            at,
            quality: Quality::Host,
        }
    }

    fn decide(&self, action: Action, inputs: Inputs) -> Decision {
        let state = self.state();
        let verdict = decide::decide(
            View::new(&state, &self.bundle.rules),
            action,
            state.head().object,
            inputs,
        );
        verdict.decision().clone()
    }

    pub(crate) fn request(&self) -> Decision {
        self.decide(Action::Wake, self.asked("GET"))
    }

    /// Refuses a request at the door that wakes but is not admitted.
    pub(crate) fn refuse_admission(&self, method: &str) {
        let state = self.state();
        let view = View::new(&state, &self.bundle.rules);
        let decision = decide::evaluate_as_if_awake(view, Action::Admit, self.asked(method));
        assert_ne!(decision.outcome, Outcome::Permit);
        self.record(Body::Refused(Box::new(Refused {
            decision,
            times: 1,
            window: Span(0),
            at: "door".to_owned(),
            fired: Fired::new(),
        })));
    }

    fn asked(&self, method: &str) -> Inputs {
        let mut inputs = Inputs::new(self.now(), Principal::Caller(Box::default()), here());
        inputs.trigger = Some(Trigger::new(TriggerKind::Request));
        inputs.request = Some(Request {
            method: method.to_owned(),
            path: "/".to_owned(),
            query: String::new(),
            host: "localhost".to_owned(),
            port: None,
            protocol: Protocol::Http1,
            peer_ip: [127, 0, 0, 1].into(),
            content_length: None,
            headers: BTreeMap::new(),
            tls: None,
            client_cert: None,
        });
        inputs
    }

    pub(crate) fn wake(&self) {
        let (decision, at) = (self.request(), self.now().at);
        let woke = |_: &State, next| {
            Ok::<_, StageError>(Body::Woke(Box::new(Woke {
                decision,
                next,
                fired: Fired::new(),
            })))
        };
        self.writer.wake(&[2; 32], at, woke).unwrap();
    }

    pub(crate) fn write(&self, field: &str, value: Value) {
        let change = [(Name::new(field).unwrap(), Write::Set(value))].into();
        self.record(Body::Mutated(Mutated {
            by: "workload".to_owned(),
            principal: None,
            change,
        }));
    }

    pub(crate) fn sleep(&self) {
        let mut inputs = Inputs::new(self.now(), Principal::Workload, here());
        inputs.activity = Some(Activity {
            active: Span(60_000),
            idle: Span(20_000),
            ..Activity::default()
        });
        let decision = self.decide(Action::Remain, inputs);
        let workload = "exited 0".to_owned();
        self.record(Body::Dormant(Box::new(Dormant {
            decision,
            workload,
            admitted: vec![],
            suspend: false,
        })));
    }

    /// Refuses a request, then counts `more` of its kind in a later record, with something else in between.
    pub(crate) fn refuse(&self, more: u64) {
        let decision = self.request();
        let refused = |times| Refused {
            decision: decision.clone(),
            times,
            window: Span(60_000),
            at: "door".to_owned(),
            fired: Fired::new(),
        };
        self.record(Body::Refused(Box::new(refused(1))));
        self.write("note", Value::String("between".to_owned()));
        self.record(Body::Refused(Box::new(refused(more))));
    }

    /// A write that no signature covers yet.
    pub(crate) fn write_unsealed(&self, field: &str, value: Value) {
        let change = [(Name::new(field).unwrap(), Write::Set(value))].into();
        let by = "workload".to_owned();
        self.commit(
            Body::Mutated(Mutated {
                by,
                principal: None,
                change,
            }),
            Sign::Later,
        );
    }

    pub(crate) fn record(&self, body: Body) {
        self.commit(body, Sign::Now);
    }

    fn commit(&self, body: Body, sign: Sign) {
        let at = self.now().at;
        let draft = Draft {
            body,
            at,
            bundle: None,
            sign,
        };
        self.writer.stage(draft).unwrap().wait().unwrap();
    }
}

/// Where the objects of these tests are.
fn here() -> Host {
    let vehicle = Vehicle {
        provider: "process",
        class: "",
    };
    Host::of(vehicle, None, "test")
}
