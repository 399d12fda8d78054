//! What the door counts, in the text format of Prometheus. All metrics are here; their names begin with `suijuris_door_`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A single label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Word {
    outcome: &'static str,
}

/// The label of a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct State {
    state: &'static str,
}

/// What refused, and what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refusal {
    action: &'static str,
    code: String,
}

type Words = Family<Word, Counter>;

/// Seconds of a decision: from 50 µs to half a second.
const DECIDED: [f64; 12] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5,
];

/// Seconds of a wake: from 5 ms to a minute.
const WOKEN: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// The door's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    answers: Words,
    refusals: Family<Refusal, Counter>,
    wakes: Words,
    messages: Words,
    heads: Words,
    /// Decisions of requests for sleeping objects, depot and words included.
    pub(crate) decided: Histogram,
    /// Wakes that succeeded.
    pub(crate) woken: Histogram,
    /// Objects by state; set before each look.
    objects: Family<State, Gauge>,
    /// Bytes of the table; set before each look.
    pub(crate) bytes: Gauge,
    /// Bundles in use; set before each look.
    pub(crate) bundles: Gauge,
    /// Connections open.
    pub(crate) connections: Gauge,
    /// Whether the depot answered when last asked.
    pub(crate) depot: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("suijuris_door"),
            answers: Words::default(),
            refusals: Family::default(),
            wakes: Words::default(),
            messages: Words::default(),
            heads: Words::default(),
            decided: Histogram::new(DECIDED),
            woken: Histogram::new(WOKEN),
            objects: Family::default(),
            bytes: Gauge::default(),
            bundles: Gauge::default(),
            connections: Gauge::default(),
            depot: Gauge::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("answers", "Requests asked about, by answer", self.answers.clone());
        registry.register("refusals", "Refusals, by action and code", self.refusals.clone());
        registry.register("wakes", "Wakes, by outcome", self.wakes.clone());
        registry.register("messages", "Messages, by outcome", self.messages.clone());
        let help = "Heads that were not believed or could not be read, by reason";
        registry.register("heads_refused", help, self.heads.clone());
        let help = "Time to decide for a sleeping object";
        registry.register_with_unit("decision", help, Unit::Seconds, self.decided.clone());
        let help = "Time to wake an object";
        registry.register_with_unit("wake", help, Unit::Seconds, self.woken.clone());
        registry.register("objects", "Objects known, by state", self.objects.clone());
        let help = "Memory for sleeping objects and bundles";
        registry.register_with_unit("table", help, Unit::Bytes, self.bytes.clone());
        registry.register("bundles", "Bundles in use", self.bundles.clone());
        registry.register("connections", "Connections open", self.connections.clone());
        registry.register("depot_up", "Whether the depot answers", self.depot.clone());
        self
    }

    pub(crate) fn answered(&self, outcome: &'static str) {
        self.answers.get_or_create(&Word { outcome }).inc();
    }

    pub(crate) fn refused(&self, action: &'static str, code: &str) {
        let code = code.to_owned();
        self.refusals.get_or_create(&Refusal { action, code }).inc();
    }

    pub(crate) fn wake(&self, outcome: &'static str) {
        self.wakes.get_or_create(&Word { outcome }).inc();
    }

    pub(crate) fn message(&self, outcome: &'static str) {
        self.messages.get_or_create(&Word { outcome }).inc();
    }

    pub(crate) fn head_refused(&self, outcome: &'static str) {
        self.heads.get_or_create(&Word { outcome }).inc();
    }

    pub(crate) fn objects(&self, state: &'static str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.objects.get_or_create(&State { state }).set(count);
    }

    /// The text.
    pub(crate) fn text(&self, beside: Option<&Registry>) -> String {
        let mut text = String::new();
        for registry in [Some(&self.registry), beside].into_iter().flatten() {
            // Writing to a string does not fail.
            let _ = encode_registry(&mut text, registry);
        }
        let _ = encode_eof(&mut text);
        text
    }
}
