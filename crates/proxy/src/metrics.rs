//! Counters of the proxy, under Fly's names where it has them: written as text by hand, so that a request costs a few additions and
//! no allocation.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use crate::fleet::Snapshot;

/// Upper bounds of response times, microseconds.
const TIMES_US: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 30_000_000,
];
/// Statuses of answers: from 100 on.
const STATUSES: usize = 500;
/// Apps that are counted apart, at most; what is gone by then is forgotten.
const MOST: usize = 10_000;

/// Counters of one app.
#[derive(Debug)]
struct OfApp {
    answers: [AtomicU64; STATUSES],
    /// Answers within each bound, and beyond all.
    times: [AtomicU64; TIMES_US.len() + 1],
    time_us: AtomicU64,
    started: AtomicU64,
    not_started: AtomicU64,
    rests: AtomicU64,
    replays: AtomicU64,
    connections: AtomicU64,
}

impl Default for OfApp {
    fn default() -> Self {
        Self {
            answers: [const { AtomicU64::new(0) }; STATUSES],
            times: [const { AtomicU64::new(0) }; TIMES_US.len() + 1],
            time_us: AtomicU64::new(0),
            started: AtomicU64::new(0),
            not_started: AtomicU64::new(0),
            rests: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }
}

/// Reads one counter.
type Read = fn(&OfApp) -> u64;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    apps: RwLock<HashMap<Arc<str>, Arc<OfApp>>>,
    in_flight: AtomicU64,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    fn app(&self, name: &str) -> Arc<OfApp> {
        {
            let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(app) = apps.get(name) {
                return Arc::clone(app);
            }
        }
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        if apps.len() >= MOST {
            apps.clear();
        }
        Arc::clone(apps.entry(name.into()).or_default())
    }

    pub(crate) fn answered(&self, app: &str, status: u16, since: Instant) {
        let app = self.app(app);
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let within = TIMES_US.partition_point(|bound| *bound < us);
        if let (Some(answers), Some(times)) = (
            app.answers.get(usize::from(status).saturating_sub(100)),
            app.times.get(within),
        ) {
            add(answers, 1);
            add(times, 1);
        }
        add(&app.time_us, us);
    }

    pub(crate) fn started(&self, app: &str, well: bool) {
        let app = self.app(app);
        add(if well { &app.started } else { &app.not_started }, 1);
    }

    pub(crate) fn rested(&self, app: &str) {
        add(&self.app(app).rests, 1);
    }

    pub(crate) fn replayed(&self, app: &str) {
        add(&self.app(app).replays, 1);
    }

    pub(crate) fn connected(&self, app: &str) {
        add(&self.app(app).connections, 1);
    }

    /// One more under way, until it is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        add(&self.in_flight, 1);
        InFlight(Arc::clone(self))
    }

    /// In the text format of Prometheus. Names of apps need no escapes: they are parts of host names.
    pub(crate) fn text(&self, now: &Snapshot) -> String {
        let mut text = Text(String::new());
        let apps: Vec<(Arc<str>, Arc<OfApp>)> = {
            let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
            apps.iter()
                .map(|(name, app)| (Arc::clone(name), Arc::clone(app)))
                .collect()
        };
        text.kind("fly_edge_http_responses_count", "counter");
        for (name, app) in &apps {
            for (at, answers) in app
                .answers
                .iter()
                .enumerate()
                .filter(|(_, answers)| value(answers) > 0)
            {
                text.line(
                    "fly_edge_http_responses_count",
                    format_args!("app=\"{name}\",status=\"{}\"", at + 100),
                    value(answers),
                );
            }
        }
        text.times(&apps);
        let counters: [(&str, &str, Read); 5] = [
            ("fly_edge_tcp_connects_count", "", |app| value(&app.connections)),
            ("suijuris_proxy_starts_total", ",outcome=\"started\"", |app| {
                value(&app.started)
            }),
            ("suijuris_proxy_starts_total", ",outcome=\"failed\"", |app| {
                value(&app.not_started)
            }),
            ("suijuris_proxy_rests_total", "", |app| value(&app.rests)),
            ("suijuris_proxy_replays_total", "", |app| value(&app.replays)),
        ];
        let mut before = "";
        for (metric, label, read) in counters {
            if metric != before {
                text.kind(metric, "counter");
            }
            before = metric;
            for (name, app) in &apps {
                text.line(metric, format_args!("app=\"{name}\"{label}"), read(app));
            }
        }
        text.kind("fly_app_concurrency", "gauge");
        for app in now.apps.values() {
            for machine in &app.machines {
                let load: usize = machine.services.iter().map(|service| service.load.now()).sum();
                let (app, id, region) = (&app.name, &machine.id, &machine.region);
                text.line(
                    "fly_app_concurrency",
                    format_args!("app=\"{app}\",instance=\"{id}\",region=\"{region}\""),
                    load,
                );
            }
        }
        text.kind("suijuris_proxy_requests_in_flight", "gauge");
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            text.0,
            "suijuris_proxy_requests_in_flight {}",
            value(&self.in_flight)
        );
        text.0
    }
}

struct Text(String);

impl Text {
    fn kind(&mut self, metric: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(self.0, "# TYPE {metric} {kind}");
    }

    fn line(&mut self, metric: &str, labels: std::fmt::Arguments<'_>, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(self.0, "{metric}{{{labels}}} {value}");
    }

    /// From a request to the head of its answer.
    fn times(&mut self, apps: &[(Arc<str>, Arc<OfApp>)]) {
        const METRIC: &str = "fly_app_http_response_time_seconds";
        self.kind(METRIC, "histogram");
        for (name, app) in apps {
            let mut all = 0;
            let bounds = TIMES_US.iter().map(|us| micros(*us)).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(&app.times) {
                all += value(count);
                self.line(
                    "fly_app_http_response_time_seconds_bucket",
                    format_args!("app=\"{name}\",le=\"{bound}\""),
                    all,
                );
            }
            let sum = micros(value(&app.time_us));
            self.line(
                "fly_app_http_response_time_seconds_sum",
                format_args!("app=\"{name}\""),
                sum,
            );
            self.line(
                "fly_app_http_response_time_seconds_count",
                format_args!("app=\"{name}\""),
                all,
            );
        }
    }
}

/// Microseconds as seconds, without the noise of binary fractions.
fn micros(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Metrics>);

impl InFlight {
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_stands_in_the_text() {
        let metrics = Arc::<Metrics>::default();
        let under_way = metrics.begin();
        metrics.answered("a", 200, Instant::now());
        metrics.answered("a", 503, Instant::now());
        metrics.answered("a", 999, Instant::now());
        metrics.started("a", false);
        let text = metrics.text(&Snapshot::default());
        for line in [
            "fly_edge_http_responses_count{app=\"a\",status=\"200\"} 1",
            "fly_edge_http_responses_count{app=\"a\",status=\"503\"} 1",
            "fly_app_http_response_time_seconds_bucket{app=\"a\",le=\"0.001000\"} 2",
            "fly_app_http_response_time_seconds_count{app=\"a\"} 2",
            "suijuris_proxy_starts_total{app=\"a\",outcome=\"failed\"} 1",
            "suijuris_proxy_requests_in_flight 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(text.matches("# TYPE suijuris_proxy_starts_total").count(), 1);
        drop(under_way);
        assert!(metrics.text(&Snapshot::default()).ends_with("in_flight 0\n"));
    }
}
