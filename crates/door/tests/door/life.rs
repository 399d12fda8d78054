//! Objects for tests and benches: bundles from rules as text, lives of a few records, and what they publish.

use std::collections::BTreeMap;
use std::sync::Arc;

use suijuris_core::bundle::{Bundle, Files};
use suijuris_core::class::{Class, ClassId, Instantiation, Keys, Source};
use suijuris_core::governance::{Action, Vocabulary};
use suijuris_core::id::{BlobId, BundleId, Digest};
use suijuris_core::inputs::{Founding, Inputs, Principal};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{
    Announcement, Body, Decision, Dormant, Fired, Head, Inception, Mutated, Outcome, Refused, Restoration,
    Restored, State, Stored, Woke,
};
use suijuris_core::manifest::{
    CallerKey, Gate, Manifest, Network, Protocol, Ready, SleepMode, Witness, Workload,
};
use suijuris_core::memory::{Change, Name, Schema};
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::trigger::{Timer, Triggers};

/// When the objects of tests are born.
pub(crate) const BORN: Timestamp = Timestamp(1_795_420_700_000);

/// A bundle with its bytes, as a depot keeps them.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) bytes: Vec<u8>,
}

/// What of a bundle tests differ in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Definition {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) source: String,
    pub(crate) topics: Vec<&'static str>,
    pub(crate) timers: BTreeMap<Name, Timer>,
    pub(crate) callers: Vec<CallerKey>,
    /// Requests do not wake it.
    pub(crate) deaf: bool,
}

impl Definition {
    pub(crate) fn of(vocabulary: &Vocabulary, source: &str) -> Self {
        Self {
            vocabulary: vocabulary.clone(),
            source: source.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn rules(source: &str) -> Self {
        let empty = Schema::try_from(BTreeMap::new()).unwrap();
        Self::of(&Vocabulary::of_memory(empty), source)
    }

    /// The bundle, if the rules compile.
    pub(crate) fn build(&self) -> Option<Built> {
        let compiled = suijuris_policy::compile(&self.vocabulary, &self.source).ok()?;
        let program = compiled.program.encode().unwrap();
        let manifest = self.manifest(&program).encode().unwrap();
        let source = self.source.clone().into_bytes();
        let files = Files {
            manifest,
            governance: source,
            program,
        };
        let bundle = Arc::new(files.open().unwrap());
        let bytes = files.encode().unwrap();
        Some(Built { bundle, bytes })
    }

    fn manifest(&self, program: &[u8]) -> Manifest {
        Manifest {
            v: 1,
            name: "sleeper".into(),
            workload: Workload {
                image: None,
                argv: vec!["true".into()],
                env: BTreeMap::new(),
                secret_env: BTreeMap::new(),
                cwd: None,
                user: None,
                port: 0,
                ready: Ready::Tcp,
                ready_within: Span(10_000),
                live: None,
                stop_signal: 15,
                stop_within: Span(5_000),
                network: Network::Private,
                egress: std::collections::BTreeSet::new(),
                limits: suijuris_core::manifest::UseLimits::default(),
                mounts: Vec::new(),
                read_only: true,
            },
            gate: Gate {
                protocol: Protocol::Http,
                headers: self.vocabulary.headers.clone(),
                max_held: 64,
                hold: Span(10_000),
                max_connections: 1_024,
                drain: Span(5_000),
                linger: Span(250),
                api: false,
                cors: Vec::new(),
            },
            memory: self.vocabulary.memory.clone(),
            governance: BlobId::of(self.source.as_bytes()),
            program: BlobId::of(program),
            triggers: Triggers {
                request: !self.deaf,
                topics: self.topics.iter().map(|topic| (*topic).to_owned()).collect(),
                timers: self.timers.clone(),
            },
            callers: self.callers.clone(),
            claims: self.vocabulary.claims.clone(),
            rates: self.vocabulary.rates.clone(),
            elsewhere: BTreeMap::new(),
            sleep: SleepMode::Stop,
            witness: Witness::Optional,
            lease: suijuris_core::manifest::LEASE,
            grace: Span(0),
            class: self.vocabulary.class.then(|| Class {
                key: Keys::Label,
                from: vec![Source::Host],
                max_instances: 1,
                archive_after: None,
                paths: false,
                per_peer: 1,
                per_class: 1,
            }),
            warm_forks: false,
            seal_within: Span(1_000),
        }
    }
}

/// An object, with its chain and its keys.
#[derive(Clone)]
pub(crate) struct Life {
    name: String,
    bundle: Arc<Bundle>,
    pub(crate) state: State,
    pub(crate) chain: Vec<Stored>,
}

impl Life {
    /// Creates an object; another `name` is another object.
    pub(crate) fn create(bundle: &Arc<Bundle>, name: &str) -> Self {
        Self::begin(bundle, name, None)
    }

    /// Creates the instance `key` of a class.
    pub(crate) fn instance(bundle: &Arc<Bundle>, name: &str, key: &str) -> Self {
        let mut decision = decision(Action::Instantiate, Outcome::Permit);
        decision.inputs.founding = Some(Founding {
            max_instances: 1,
            ..Founding::default()
        });
        let class = Instantiation {
            id: ClassId::of(name.as_bytes()),
            key: key.parse().unwrap(),
            decision,
        };
        Self::begin(bundle, name, Some(class))
    }

    fn begin(bundle: &Arc<Bundle>, name: &str, class: Option<Instantiation>) -> Self {
        let inception = Inception {
            name: name.to_owned(),
            controllers: vec![SecretKey::from_seed(&[0xc0; 32]).public()],
            threshold: 1,
            next: key(name, 1).public().commitment(),
            nonce: vec![7; 16],
            parent: None,
            class,
            ticket: None,
        };
        let schema = Arc::clone(bundle.schema());
        let (state, first) = State::create(inception, BORN, bundle.id(), schema, &key(name, 1)).unwrap();
        Self {
            name: name.to_owned(),
            bundle: Arc::clone(bundle),
            state,
            chain: vec![first],
        }
    }

    /// The key that the chain has committed to.
    pub(crate) fn waiting(&self) -> SecretKey {
        key(&self.name, self.state.head().epoch + 1)
    }

    fn extend(&mut self, body: Body, at: Timestamp, signer: Option<&SecretKey>) {
        let schema = Arc::clone(self.bundle.schema());
        let bundles = move |_: &BundleId| Some(Arc::clone(&schema));
        let stored = self.state.extend(body, at, None, signer, &bundles).unwrap();
        self.chain.push(stored);
    }

    /// Writes memory while asleep.
    pub(crate) fn write(&mut self, change: Change, at: Timestamp) {
        let by = "controller".to_owned();
        let signer = self.waiting();
        self.extend(
            Body::Mutated(Mutated {
                by,
                principal: None,
                change,
            }),
            at,
            Some(&signer),
        );
    }

    /// Wakes.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        let signer = self.waiting();
        let next = key(&self.name, self.state.head().epoch + 2).public().commitment();
        let woke = Woke {
            decision: decision(Action::Wake, Outcome::Permit),
            next,
            fired: Fired::new(),
        };
        self.extend(Body::Woke(Box::new(woke)), at, Some(&signer));
    }

    /// Refuses a wake, and records it.
    pub(crate) fn refuse(&mut self, at: Timestamp) {
        let signer = self.waiting();
        let refused = Refused {
            decision: decision(Action::Wake, Outcome::Refuse(None)),
            times: 1,
            window: Span(0),
            at: "gate".into(),
            fired: Fired::new(),
        };
        self.extend(Body::Refused(Box::new(refused)), at, Some(&signer));
    }

    /// Goes on in place of the history that `given_up` is the head of. Asleep before and afterwards.
    pub(crate) fn restored(&mut self, given_up: &Head, at: Timestamp) {
        let signer = self.waiting();
        let stated = Restoration::of(self.state.head(), given_up.record, given_up.seq, given_up.epoch);
        let restored = Restored {
            abandoned: given_up.record,
            seq: given_up.seq,
            epoch: given_up.epoch,
            approvals: vec![stated.approve(&SecretKey::from_seed(&[0xc0; 32])).unwrap()],
        };
        self.extend(Body::Restored(restored), at, Some(&signer));
    }

    /// Falls asleep.
    pub(crate) fn sleep(&mut self, at: Timestamp) {
        let running = key(&self.name, self.state.head().epoch);
        let dormant = Dormant {
            decision: decision(Action::Remain, Outcome::Refuse(None)),
            workload: "exited 0".into(),
            admitted: Vec::new(),
            suspend: false,
        };
        self.extend(Body::Dormant(Box::new(dormant)), at, Some(&running));
    }

    /// What it announces at rest.
    pub(crate) fn announcement(&self) -> Vec<u8> {
        Announcement::of(&self.state, self.chain.last().unwrap(), &self.waiting()).unwrap()
    }
}

/// The key of `epoch` of the object called `name`.
pub(crate) fn key(name: &str, epoch: u64) -> SecretKey {
    SecretKey::from_seed(&Digest::of_parts(&[b"epoch", name.as_bytes(), &epoch.to_be_bytes()]).0)
}

fn decision(action: Action, outcome: Outcome) -> Decision {
    Decision {
        action,
        outcome,
        explanation: None,
        inputs: Inputs::timeless(Principal::Host),
    }
}
