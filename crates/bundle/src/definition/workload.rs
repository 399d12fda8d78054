//! `[workload]`: what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use suijuris_core::id::Digest;
use suijuris_core::manifest::{Destination, Live, Network, Protocol, Ready, UseLimits, Workload};
use suijuris_core::memory::Name;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::defaults;
use crate::fault::{Faults, code, nearest};
use crate::pins::{LOCK, Pins};
use crate::section::{Found, Section};

use super::{machine, secrets};

/// Words in braces that the runtime replaces in arguments, environment and working directory.
const PLACEHOLDERS: [&str; 3] = ["port", "data", "object"];

/// Signals by name, as Linux numbers them on every architecture we run on.
const SIGNALS: [(&str, i32); 9] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGTERM", 15),
    ("SIGWINCH", 28),
    ("SIGPWR", 30),
];

pub(super) fn read(root: &mut Section<'_>, pins: &Pins) -> Workload {
    let Some(mut section) = root.section("workload") else {
        if !root.has("workload") {
            root.missing(
                "workload",
                "add [workload] with command = [\"program\", \"argument\"]",
            );
        }
        return empty();
    };
    let in_image = section.has("image");
    let image = image(&mut section, pins);
    let command = section.texts("command").unwrap_or_default();
    if !section.has("command") && !in_image {
        section.missing("command", "write command = [\"program\", \"argument\"]");
    }
    let cwd = cwd(&mut section, in_image);
    let texts = Texts {
        faults: section.faults(),
        in_image,
    };
    command.iter().for_each(|arg| texts.check(arg.value, &arg.span));
    if let Some(program) = command.first().filter(|_| cwd.is_none()) {
        texts.check_program(program);
    }
    let (env, secret_env) = env(&mut section, &texts);
    let has_image = image.is_some();
    let workload = Workload {
        image,
        argv: command.into_iter().map(|arg| arg.value.to_owned()).collect(),
        env,
        secret_env,
        cwd,
        user: section.text("user").map(|user| user.value.to_owned()),
        port: port(&mut section),
        ready: question(&mut section, "ready", &READY).unwrap_or(Ready::Tcp),
        ready_within: section.length("ready_within").unwrap_or(defaults::READY_WITHIN),
        live: live(&mut section),
        stop_signal: stop_signal(&mut section, has_image),
        stop_within: section.length("stop_within").unwrap_or(defaults::STOP_WITHIN),
        network: section
            .word(
                "network",
                &[("private", Network::Private), ("host", Network::Host)],
            )
            .unwrap_or(Network::Private),
        egress: egress(&mut section),
        limits: machine::limits(&mut section),
        mounts: machine::mounts(&mut section),
        // What is written to an image is the machine's own, and gone with it.
        read_only: section.flag("read_only").unwrap_or(!in_image),
    };
    section.finish();
    workload
}

/// Stands in for a workload that the file lacks, so that the rest can be read.
fn empty() -> Workload {
    Workload {
        image: None,
        argv: vec!["false".to_owned()],
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        cwd: None,
        user: None,
        port: 0,
        ready: Ready::Tcp,
        ready_within: defaults::READY_WITHIN,
        live: None,
        stop_signal: defaults::STOP_SIGNAL,
        stop_within: defaults::STOP_WITHIN,
        network: Network::Private,
        egress: BTreeSet::new(),
        limits: UseLimits::default(),
        mounts: Vec::new(),
        read_only: true,
    }
}

/// What it may reach; what is no destination is told and left out.
fn egress(section: &mut Section<'_>) -> BTreeSet<Destination> {
    let texts = section.texts("egress").unwrap_or_default();
    let mut read = BTreeSet::new();
    for text in texts {
        match text.value.parse() {
            Ok(destination) => drop(read.insert(destination)),
            Err(why) => section.faults().error(
                code::BAD_VALUE,
                &text.span,
                format!("`{}` is nothing that a workload could be let reach: {why}", text.value),
                "write HOST:PORT: a host name, an IPv4 address or a network, as in \"db.example.com:5432\" or \"10.1.0.0/16:443\"",
            ),
        }
    }
    read
}

/// The digest itself, or the one that the name is pinned to.
fn image(section: &mut Section<'_>, pins: &Pins) -> Option<Digest> {
    let text = section.text("image")?;
    let hex = text.value.strip_prefix("sha256:");
    let digest = match hex {
        Some(hex) => hex.parse::<Digest>().ok(),
        None => pins.digest(text.value),
    };
    if digest.is_none() && hex.is_some() {
        section.faults().error(
            code::BAD_VALUE,
            &text.span,
            "`workload.image` is not the digest of an image",
            "write sha256: and 64 lower-case hexadecimal digits, or the name of an image, as in nginx:1.29, oci:DIRECTORY, docker-archive:FILE",
        );
    } else if digest.is_none() {
        section.faults().error(
            code::UNPINNED,
            &text.span,
            format!(
                "`{}` is not pinned to a digest, and what it names can change",
                text.value
            ),
            format!("`suijuris images pull` in this directory looks it up and writes {LOCK}"),
        );
    }
    digest
}

/// A relative directory is one beside `object.toml`.
fn cwd(section: &mut Section<'_>, in_image: bool) -> Option<String> {
    let found = section.text("cwd")?;
    let free = ["/", "{data}", "{object}"]
        .iter()
        .any(|start| found.value.starts_with(start));
    let climbs = found.value.split('/').any(|part| part == "..");
    if climbs || (in_image && !free) {
        section.faults().error(
            code::BAD_VALUE,
            &found.span,
            format!("`workload.cwd` cannot be `{}`", found.value),
            "name a directory beside object.toml without `..`, or an absolute one; in an image, an absolute one",
        );
        return None;
    }
    Texts {
        faults: section.faults(),
        in_image,
    }
    .check(found.value, &found.span);
    let plain = found.value.trim_start_matches("./").trim_end_matches('/');
    Some(match plain {
        _ if free => found.value.to_owned(),
        "" | "." => "{object}".to_owned(),
        inner => format!("{{object}}/{inner}"),
    })
}

/// Variables with their texts, and those whose values are secrets, with their fields.
fn env(section: &mut Section<'_>, texts: &Texts<'_>) -> (BTreeMap<String, String>, BTreeMap<String, Name>) {
    let (mut env, mut secret_env) = (BTreeMap::new(), BTreeMap::new());
    let Some((inner, entries)) = section.entries("env") else {
        return (env, secret_env);
    };
    for (name, value) in entries {
        let Some(text) = value.get_ref().as_str() else {
            let field = secrets::variable(&inner.name_of(name.value), value, texts.faults);
            secret_env.extend(field.map(|field| (name.value.to_owned(), field)));
            continue;
        };
        texts.check(text, &value.span());
        texts.check_secret(&name, text);
        env.insert(name.value.to_owned(), text.to_owned());
    }
    (env, secret_env)
}

fn port(section: &mut Section<'_>) -> u16 {
    match section.integer::<u16>("port") {
        Some(Found { value: 0, span }) => {
            section.faults().error(
                code::OUT_OF_BOUNDS,
                &span,
                "`workload.port` cannot be 0",
                "leave it out: the runtime picks a free port and says it as {port} and $PORT",
            );
            0
        }
        found => found.map_or(0, |found| found.value),
    }
}

/// Words of `ready`, in the order in which they are offered.
const READY: [(&str, Ready); 4] = [
    ("tcp", Ready::Tcp),
    ("agent", Ready::Agent),
    ("notify", Ready::Notify),
    ("spawned", Ready::Spawned),
];

/// Words of `live`: what can be asked again and again.
const LIVE: [(&str, Ready); 2] = [("tcp", Ready::Tcp), ("notify", Ready::Notify)];

/// One question about the workload: a word, `http:/path`, or a table with a command.
fn question(
    section: &mut Section<'_>,
    key: &'static str,
    words: &'static [(&'static str, Ready)],
) -> Option<Ready> {
    let value = section.value(key)?;
    if value.get_ref().is_table() {
        return command(section.as_section(key, value)?);
    }
    let text = section.text(key)?;
    if let Some(path) = text.value.strip_prefix("http:") {
        let plain = path.len() <= 1_024 && path.bytes().all(|b| b.is_ascii_graphic());
        if path.starts_with('/') && plain {
            return Some(Ready::Http(path.to_owned()));
        }
        section.faults().error(
            code::BAD_VALUE,
            &text.span,
            format!("`workload.{key}` has no path to ask for"),
            "write it as in http:/healthz",
        );
        return None;
    }
    let found = words.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let offered = words.iter().map(|(word, _)| *word);
        let offered = offered.chain(["http:/path", "{ command = [\"program\"] }"]);
        section.unknown_word(key, &text, offered);
    }
    found.map(|(_, question)| question.clone())
}

fn command(mut table: Section<'_>) -> Option<Ready> {
    let argv = table.texts("command");
    if argv.is_none() && !table.has("command") {
        table.missing("command", "write { command = [\"program\", \"argument\"] }");
    }
    table.finish();
    let argv = argv?;
    Some(Ready::Command(
        argv.into_iter().map(|arg| arg.value.to_owned()).collect(),
    ))
}

fn live(section: &mut Section<'_>) -> Option<Live> {
    let by = question(section, "live", &LIVE);
    let every = section.length("live_every");
    let failures = section.integer("live_failures").map(|found| found.value);
    for key in ["live_every", "live_failures"] {
        if section.has(key) && !section.has("live") {
            let help = "add live = \"tcp\", \"http:/path\", \"notify\" or { command = [\"program\"] }, or leave it out";
            let message = format!("`workload.{key}` belongs to `workload.live`");
            section
                .faults()
                .error(code::BAD_VALUE, &section.span(), message, help);
        }
    }
    Some(Live {
        by: by?,
        every: every.unwrap_or(defaults::LIVE_EVERY),
        failures: failures.unwrap_or(defaults::LIVE_FAILURES),
    })
}

/// A workload that connections are handed to listens on no port: it is ready at once unless it says so itself.
pub(super) fn ready_without_port(
    workload: &mut Workload,
    protocol: Protocol,
    table: &DeTable<'_>,
    faults: &Faults<'_>,
) {
    if protocol != Protocol::FdPassing {
        return;
    }
    let by_port = |how: &Ready| matches!(how, Ready::Tcp | Ready::Http(_));
    if workload.live.as_ref().is_some_and(|live| by_port(&live.by)) {
        let live = table
            .get("workload")
            .and_then(|workload| workload.get_ref().get("live"));
        faults.error(
            code::BAD_VALUE,
            &live.map_or(0..0, Spanned::span),
            "`workload.live` asks a port, and with `protocol = \"handover\"` the workload listens on none",
            "write \"notify\", or { command = [\"program\"] }",
        );
    }
    if !by_port(&workload.ready) {
        return;
    }
    let said = table
        .get("workload")
        .and_then(|workload| workload.get_ref().get("ready"));
    if let Some(ready) = said {
        faults.error(
            code::BAD_VALUE,
            &ready.span(),
            "`workload.ready` waits for a port, and with `protocol = \"handover\"` the workload listens on none",
            "leave it out, or write \"agent\" or \"notify\" for a workload that says when it can serve",
        );
    }
    workload.ready = Ready::Spawned;
}

fn stop_signal(section: &mut Section<'_>, in_image: bool) -> i32 {
    // 0 is that of the image.
    let default = if in_image { 0 } else { defaults::STOP_SIGNAL };
    let number = section
        .value("stop_signal")
        .is_some_and(|value| matches!(value.get_ref(), DeValue::Integer(_)));
    if number {
        let found = section.integer("stop_signal");
        return found.map_or(default, |found| found.value);
    }
    section.word("stop_signal", &SIGNALS).unwrap_or(default)
}

/// Checks texts in which the runtime replaces placeholders.
struct Texts<'f> {
    faults: &'f Faults<'f>,
    in_image: bool,
}

impl Texts<'_> {
    fn check(&self, text: &str, span: &Range<usize>) {
        for (start, _) in text.match_indices('{') {
            let rest = text.get(start + 1..).unwrap_or_default();
            let Some((word, _)) = rest.split_once('}') else {
                continue;
            };
            if word == "object" && self.in_image {
                self.faults.error(
                    code::PLACEHOLDER,
                    span,
                    "an image does not see the directory of object.toml",
                    "put the file into the image, or leave `image` out to run a command of the host",
                );
            } else if !PLACEHOLDERS.contains(&word)
                && word.bytes().all(|b| b.is_ascii_alphabetic())
                && let Some(near) = nearest(word, PLACEHOLDERS)
            {
                let message = format!("`{{{word}}}` is passed on unchanged");
                self.faults.warning(
                    code::PLACEHOLDER,
                    span,
                    message,
                    format!("did you mean `{{{near}}}`?"),
                );
            }
        }
    }

    /// Without `cwd` the workload starts in its data directory, where the author's program is not.
    fn check_program(&self, program: &Found<&str>) {
        let relative = program.value.contains('/') && !program.value.starts_with(['/', '{']);
        if relative && !self.in_image {
            let plain = program.value.trim_start_matches("./");
            self.faults.warning(
                code::PLACEHOLDER,
                &program.span,
                format!("`{}` is looked for in the data directory", program.value),
                format!("write \"{{object}}/{plain}\", or cwd = \".\" to start beside object.toml"),
            );
        }
    }

    fn check_secret(&self, name: &Found<&str>, value: &str) {
        const WORDS: [&str; 5] = ["SECRET", "PASSWORD", "TOKEN", "API_KEY", "PRIVATE_KEY"];
        let upper = name.value.to_ascii_uppercase();
        let named = WORDS.iter().any(|word| upper.ends_with(word));
        if named && !value.is_empty() && !value.contains('{') && !value.starts_with('/') {
            self.faults.warning(
                code::CLEAR_SECRET,
                &name.span,
                format!(
                    "`{}` looks like a secret and would be readable in the bundle",
                    name.value
                ),
                "write { secret = \"field\" } for a memory field with secret = true, and set that with `suijuris memory set`",
            );
        }
    }
}
