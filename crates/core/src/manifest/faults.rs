//! What is out of bounds in a manifest, part by part as `object.toml` names them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::egress::MAX_DESTINATIONS;
use super::{
    Error, Gate, HostMount, Manifest, Network, Place, Protocol, Ready, Witness, Workload, is_label, secrets,
};
use crate::class::{
    Class, MAX_ARCHIVE_AFTER, MAX_FOUNDINGS_PER_SECOND, MAX_INSTANCES, MIN_ARCHIVE_AFTER, Source,
};
use crate::memory::Kind;
use crate::rates::{MAX_RATES, Rate, WINDOWS};
use crate::time::Span;

/// Shortest and longest lease, ms.
const LEASES: RangeInclusive<i64> = 1_000..=300_000;

/// Longest grace, ms.
const MAX_GRACE_MS: i64 = 300_000;

/// What is wrong so far.
#[derive(Default)]
struct Faults(Vec<Error>);

impl Faults {
    fn part(&mut self, ok: bool, part: &'static str, why: &str) {
        if !ok {
            let why = why.to_owned();
            self.0.push(Error::Part { part, why });
        }
    }
}

fn within(span: Span, most: i64) -> bool {
    (1..=most).contains(&span.0)
}

impl Manifest {
    fn secret_env(&self, faults: &mut Faults) {
        let Workload { env, secret_env, .. } = &self.workload;
        let named = |name: &String| is_variable(name) && !env.contains_key(name);
        faults.part(
            secret_env.keys().all(named) && env.len() + secret_env.len() <= 256,
            "workload.env",
            "each name once, without `=`, at most 256",
        );
        let mut fields = secret_env.values();
        faults.part(
            fields.all(|field| secrets::fits_variable(&self.memory, field.as_str())),
            "workload.env",
            "a secret variable is a field of memory with type = \"string\" and secret = true",
        );
    }

    /// Everything that is wrong with this manifest; `check` shows all at once.
    #[must_use]
    pub fn faults(&self) -> Vec<Error> {
        let mut faults = Faults::default();
        faults.part(
            is_label(&self.name),
            "name",
            "use 1 to 63 lower-case letters, digits and hyphens, a letter first",
        );
        workload(&self.workload, &mut faults);
        self.secret_env(&mut faults);
        gate(&self.gate, &mut faults);
        faults.part(self.callers.len() <= 64, "callers.keys", "at most 64 keys");
        faults.part(self.claims.len() <= 64, "callers.claims", "at most 64 claims");
        faults.part(
            !self.claims.values().any(Kind::counts),
            "callers.claims",
            "a claim cannot be a counter: only fields of memory are",
        );
        faults.part(
            (0..=60_000).contains(&self.seal_within.0),
            "lineage.seal_within",
            "at most 1m",
        );
        self.rates(&mut faults);
        self.elsewhere(&mut faults);
        self.witness(&mut faults);
        if let Some(class) = &self.class {
            self.instances(class, &mut faults);
        }
        faults.part(self.triggers.timers.len() <= 256, "timers", "at most 256 timers");
        let topic = |topic: &String| !topic.is_empty() && topic.len() <= 255;
        faults.part(
            self.triggers.topics.iter().all(topic),
            "messages.topics",
            "topics of 1 to 255 characters",
        );
        let timers = self.triggers.timers.iter();
        let timers = timers.filter_map(|(name, timer)| {
            let error = timer.schedule.check().err()?;
            Some(Error::Timer(name.clone(), error))
        });
        faults.0.into_iter().chain(timers).collect()
    }

    fn rates(&self, faults: &mut Faults) {
        let within = |rate: &Rate| WINDOWS.contains(&rate.window);
        faults.part(self.rates.len() <= MAX_RATES, "rates", "at most 8 rates");
        faults.part(
            self.rates.values().all(within),
            "rates",
            "windows between 1s and 1d",
        );
    }

    fn elsewhere(&self, faults: &mut Faults) {
        let name = |name: &String, more: &[u8]| {
            let plain = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || more.contains(&byte)
            };
            (1..=256).contains(&name.len()) && name.bytes().all(plain)
        };
        let sound = |(host, place): (&String, &Place)| {
            name(host, b".")
                && place
                    .app
                    .iter()
                    .chain(&place.instance)
                    .all(|text| name(text, b"_"))
                && place.region.iter().all(|text| name(text, b","))
                && (place.app.is_some() || place.region.is_some() || place.instance.is_some())
        };
        faults.part(
            self.elsewhere.len() <= 1_024 && self.elsewhere.iter().all(sound),
            "elsewhere",
            "at most 1024 hosts in lower case without port, each with one of app, region and instance: letters, digits and hyphens",
        );
        faults.part(
            self.elsewhere.is_empty()
                || self.gate.protocol == Protocol::Http
                || self.gate.protocol == Protocol::H2c,
            "elsewhere",
            "left out: a raw connection names no host",
        );
    }

    fn instances(&self, class: &Class, faults: &mut Faults) {
        faults.part(
            (1..=MAX_INSTANCES).contains(&class.max_instances),
            "class.max_instances",
            "between 1 and 100000000",
        );
        let archive = class
            .archive_after
            .is_none_or(|after| (MIN_ARCHIVE_AFTER..=MAX_ARCHIVE_AFTER).contains(&after));
        faults.part(archive, "class.archive_after", "between 1m and ten years");
        rates(class, faults);
        let distinct: BTreeSet<_> = class.from.iter().collect();
        faults.part(
            !class.from.is_empty() && distinct.len() == class.from.len(),
            "class.from",
            "at least one source, none twice",
        );
        faults.part(
            !class.paths || distinct.contains(&Source::Path),
            "class.paths",
            "add \"path\" to class.from: without it no instance is found by its path",
        );
        let raw = matches!(self.gate.protocol, Protocol::Tcp | Protocol::FdPassing);
        let of_http = |source: &&Source| {
            matches!(
                source,
                Source::Host | Source::Path | Source::Header(_) | Source::Claim(_)
            )
        };
        faults.part(
            !(raw && class.from.iter().any(|source| of_http(&source))),
            "class.from",
            "raw connections have no host, path, header or claim: use sni, client_cert or port",
        );
        faults.part(
            class.from.iter().all(|source| self.is_claim_of_text(source)),
            "class.from",
            "declare the claim in [callers.claims] as a string: only declared claims are read",
        );
    }

    /// Whether a source that is a claim is one that rules may look at, and a text.
    fn is_claim_of_text(&self, source: &Source) -> bool {
        let Source::Claim(name) = source else {
            return true;
        };
        let declared = self.claims.iter().find(|(have, _)| have.as_str() == name);
        matches!(declared, Some((_, Kind::String | Kind::Enum(_))))
    }

    fn witness(&self, faults: &mut Faults) {
        faults.part(
            LEASES.contains(&self.lease.0),
            "witness.lease",
            "between 1s and 5m",
        );
        faults.part(
            (0..=MAX_GRACE_MS).contains(&self.grace.0),
            "witness.grace",
            "at most 5m",
        );
        faults.part(
            self.grace.0 == 0 || self.witness == Witness::Optional,
            "witness.grace",
            "only an object that does not require its witness may keep serving without it: set strength = \"optional\", or no grace",
        );
    }
}

fn rates(class: &Class, faults: &mut Faults) {
    let rate = |rate: u32| (1..=MAX_FOUNDINGS_PER_SECOND).contains(&rate);
    faults.part(
        rate(class.per_peer),
        "class.per_peer",
        "between 1 and 100000 a second",
    );
    faults.part(
        rate(class.per_class),
        "class.per_class",
        "between 1 and 100000 a second",
    );
    faults.part(
        class.per_peer <= class.per_class,
        "class.per_peer",
        "no more than class.per_class: one peer cannot create more than all peers together",
    );
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && name.len() <= 256
}

fn workload(workload: &Workload, faults: &mut Faults) {
    let program = match workload.argv.first() {
        Some(program) => !program.is_empty(),
        // That of the image.
        None => workload.image.is_some(),
    };
    faults.part(program, "workload.command", "name the program to run");
    let plain = |arg: &String| !arg.contains('\0') && arg.len() <= 65_536;
    faults.part(
        workload.argv.iter().all(plain) && workload.argv.len() <= 256,
        "workload.command",
        "at most 256 arguments, none with a NUL",
    );
    let mut env = workload.env.iter();
    faults.part(
        env.all(|(name, value)| is_variable(name) && plain(value)) && workload.env.len() <= 256,
        "workload.env",
        "names without `=`, values without NUL",
    );
    faults.part(
        within(workload.ready_within, 3_600_000),
        "workload.ready_within",
        "between 1ms and 1h",
    );
    ready(workload, faults);
    faults.part(
        within(workload.stop_within, 300_000),
        "workload.stop_within",
        "between 1ms and 5m",
    );
    faults.part(
        (1..=64).contains(&workload.stop_signal) || (workload.stop_signal == 0 && workload.image.is_some()),
        "workload.stop_signal",
        "a signal from 1 to 64",
    );
    for (part, why) in workload.limits.faults() {
        faults.part(false, part, why);
    }
    egress(workload, faults);
    faults.part(
        workload.mounts.len() <= 64 && workload.mounts.iter().all(HostMount::is_sound),
        "workload.mounts",
        "at most 64, `from` absolute or below {object}, `to` absolute, without `.` and `..`",
    );
}

fn egress(workload: &Workload, faults: &mut Faults) {
    let Workload {
        egress,
        network,
        port,
        ..
    } = workload;
    faults.part(
        egress.len() <= MAX_DESTINATIONS,
        "workload.egress",
        "at most 64 destinations",
    );
    faults.part(
        egress.is_empty() || *network == Network::Private,
        "workload.egress",
        "left out with `network = \"host\"`, which reaches everything",
    );
    faults.part(
        egress.iter().all(|destination| destination.port != *port),
        "workload.egress",
        "a port other than `workload.port`, on which the workload itself listens",
    );
}

fn ready(workload: &Workload, faults: &mut Faults) {
    let runs = |how: &Ready| match how {
        Ready::Command(argv) => {
            let plain = |arg: &String| !arg.contains('\0') && arg.len() <= 65_536;
            argv.first().is_some_and(|program| !program.is_empty())
                && argv.len() <= 256
                && argv.iter().all(plain)
        }
        _ => true,
    };
    let command = "a program and at most 255 arguments, none with a NUL";
    faults.part(runs(&workload.ready), "workload.ready", command);
    let Some(live) = &workload.live else { return };
    faults.part(runs(&live.by), "workload.live", command);
    faults.part(
        !matches!(live.by, Ready::Agent | Ready::Spawned),
        "workload.live",
        "tcp, http:/path, notify or a command: what can be asked again and again",
    );
    faults.part(
        (100..=3_600_000).contains(&live.every.0),
        "workload.live_every",
        "between 100ms and 1h",
    );
    faults.part(
        (1..=1_000).contains(&live.failures),
        "workload.live_failures",
        "between 1 and 1000",
    );
}

fn gate(gate: &Gate, faults: &mut Faults) {
    faults.part(
        gate.cors.len() <= 64 && gate.cors.iter().all(|origin| is_origin(origin)),
        "gate.cors",
        "at most 64 origins as browsers write them, https://app.example or with a port, without a path; or \"*\"",
    );
    faults.part(
        gate.cors.is_empty() || matches!(gate.protocol, Protocol::Http | Protocol::H2c),
        "gate.cors",
        "left out: a raw connection has no words that a browser could read",
    );
    faults.part(
        (1..=65_536).contains(&gate.max_connections),
        "gate.max_connections",
        "between 1 and 65536",
    );
    faults.part(gate.max_held <= 65_536, "gate.max_held", "at most 65536");
    faults.part(within(gate.hold, 600_000), "gate.hold", "between 1ms and 10m");
    faults.part(within(gate.drain, 300_000), "gate.drain", "between 1ms and 5m");
    faults.part((0..=60_000).contains(&gate.linger.0), "gate.linger", "at most 1m");
    faults.part(gate.headers.len() <= 64, "gate.headers", "at most 64 headers");
    faults.part(
        !gate.api || matches!(gate.protocol, Protocol::Http | Protocol::H2c),
        "gate.api",
        "off: raw connections have no paths that the object could answer",
    );
    faults.part(
        gate.headers.iter().all(|name| is_header(name)),
        "gate.headers",
        "lower-case header names such as `x-tenant`",
    );
}

/// Whether this is an origin as `Origin` has it (RFC 6454 §6.2), or any.
fn is_origin(text: &str) -> bool {
    let host = |host: &str| {
        let host = host.split_once(':').map_or(
            host,
            |(host, port)| {
                if port.parse::<u16>().is_ok() { host } else { "" }
            },
        );
        !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
    };
    let scheme =
        |scheme: &str| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let whole = |(before, after): (&str, &str)| scheme(before) && host(after);
    text == "*" || (text.len() <= 255 && text.split_once("://").is_some_and(whole))
}

fn is_header(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}
