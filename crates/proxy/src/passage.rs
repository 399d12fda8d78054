//! The permit of a request: which machine it goes to, its place in that machine's load, and how it came to this.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use suijuris_gate::{AnswerHead, Connecting, Forwarding, Route};

use crate::asked::Asked;
use crate::choice::Wanted;
use crate::fleet::{Counts, Fleet, Machine, Port, Service};
use crate::load::Taken;
use crate::metrics::InFlight;
use crate::relay::Leads;
use crate::replay::{Fallback, Replay, Transform};

/// How long a connection to a machine is kept whose service counts requests, milliseconds.
const POOLED_MS: u64 = 4_000;

/// What clients may not say of themselves, and what is written anew.
const FROM_CLIENT: &[&str] = &[
    "fly-client-ip",
    "fly-forwarded-port",
    "fly-region",
    "fly-request-id",
    "fly-replay-src",
    "fly-replay-failed",
    "fly-replay-cache-status",
    "fly-replay-state-signature",
    "fly-preferred-instance-unavailable",
    "x-suijuris-tls",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-ssl",
    "via",
];
/// What is between app and proxy.
const FROM_APP: &[&str] = &[
    "fly-replay",
    "fly-replay-cache",
    "fly-replay-cache-ttl-secs",
    "fly-replay-cache-allow-bypass",
    "fly-request-id",
    "server",
];
const FROM_APP_PRISTINE: &[&str] = &[
    "fly-replay",
    "fly-replay-cache",
    "fly-replay-cache-ttl-secs",
    "fly-replay-cache-allow-bypass",
];

/// Where a request is to go, which replays change.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    pub(crate) app: Arc<str>,
    pub(crate) wanted: Wanted,
    /// Until when it is tried.
    pub(crate) until: tokio::time::Instant,
    /// Where it goes back to where that fails.
    pub(crate) back: Option<Back>,
}

/// The way back from a replay that nobody serves.
#[derive(Debug, Clone)]
pub(crate) struct Back {
    pub(crate) fallback: Fallback,
    pub(crate) app: Arc<str>,
    pub(crate) machine: Arc<str>,
    pub(crate) began: tokio::time::Instant,
}

/// How a request came to be where it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Story {
    /// Replays so far.
    pub(crate) replays: u32,
    /// No more of them.
    pub(crate) is_last: bool,
    /// Fields for the machine.
    pub(crate) source: Option<(String, Option<String>)>,
    pub(crate) failed: Option<String>,
    pub(crate) transform: Option<Transform>,
    /// `fly-replay-cache-status`.
    pub(crate) cache: Option<&'static str>,
    /// Machines that took no connection, so far,
    pub(crate) attempts: u32,
    /// and since when.
    pub(crate) failing: Option<tokio::time::Instant>,
    /// Machines that took it and ended the connection without an answer.
    pub(crate) silent: u32,
    /// A machine was started for it.
    pub(crate) started: bool,
}

/// What an answer says of replays, until it is followed.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) header: Option<String>,
    pub(crate) cache: Option<String>,
    pub(crate) ttl_s: u64,
    pub(crate) allow_bypass: bool,
}

/// What the proxy says to a machine under its key.
#[derive(Debug, Default)]
pub(crate) struct Proved {
    /// That it carried the state of a replay there.
    pub(crate) state: Option<String>,
    /// What TLS came to.
    pub(crate) tls: Option<String>,
}

/// The permit.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) asked: Rc<Asked>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) service: Arc<Service>,
    pub(crate) port: usize,
    pub(crate) goal: Goal,
    pub(crate) story: Story,
    pub(crate) said: RefCell<Option<Said>>,
    pub(crate) fleet: Arc<dyn Fleet>,
    pub(crate) _taken: Taken,
    pub(crate) in_flight: InFlight,
}

impl Route for Passage {
    fn target(&self) -> u64 {
        self.service.load.target()
    }

    fn idle_ms(&self) -> u64 {
        let plain = self.served().is_none_or(|port| port.proxy_proto.is_none());
        match self.service.counts {
            Counts::Requests if plain => POOLED_MS,
            Counts::Requests | Counts::Connections => 0,
        }
    }

    fn h2c(&self) -> bool {
        self.served().is_some_and(|port| port.h2c)
    }

    fn connect(&self) -> Connecting {
        let connecting = self.fleet.connect(&self.machine.id, self.service.internal_port);
        let version = self.served().and_then(|port| port.proxy_proto);
        let client = self.asked.client;
        Box::pin(async move {
            let mut stream = connecting.await?;
            if let Some(version) = version {
                let header =
                    suijuris_edge::proxy_header::write(version, (client, 0).into(), stream.local_addr()?);
                tokio::io::AsyncWriteExt::write_all(&mut stream, &header).await?;
            }
            Ok(stream)
        })
    }
}

/// What remains of a passage that was left: who asked for what, and by which machine. Its place in the machine's load is free.
pub(crate) struct Left {
    pub(crate) asked: Rc<Asked>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) goal: Goal,
    pub(crate) story: Story,
}

impl Passage {
    /// Gives its place up: whoever takes another waits behind nobody but others.
    pub(crate) fn leave(self) -> Left {
        Left {
            asked: self.asked,
            machine: self.machine,
            goal: self.goal,
            story: self.story,
        }
    }

    /// Where it leads.
    pub(crate) fn leads(&self) -> Leads {
        Leads {
            app: self.goal.app.to_string(),
            machine: self.machine.id.to_string(),
            port: self.service.internal_port,
        }
    }

    /// The port at which it is served.
    pub(crate) fn served(&self) -> Option<&Port> {
        self.service.ports.get(self.port)
    }

    /// What the machine gets beside the client's own fields.
    pub(crate) fn forwarding(&self, proved: &Proved) -> Forwarding {
        let mut out = Forwarding::default();
        self.write(proved, &mut out);
        out
    }

    pub(crate) fn write(&self, proved: &Proved, out: &mut Forwarding) {
        let asked = &self.asked;
        out.hide(FROM_CLIENT);
        #[cfg(feature = "traces")]
        if let Some(span) = &asked.span {
            // Whoever serves it goes on from here.
            let _left_out = out.push(crate::traces::FIELD, &span.traceparent());
            out.hide_too(crate::traces::FIELD);
        }
        let mut add = |name: &str, value: &str| {
            // What cannot stand in a field is left out.
            let _left_out = out.push(name, value);
        };
        let client = asked.client.to_string();
        let port = asked.port.to_string();
        add("fly-client-ip", &client);
        add("fly-forwarded-port", &port);
        add("fly-region", &asked.edge);
        add("fly-request-id", &asked.id);
        add("x-forwarded-for", &format!("{}{client}", asked.forwarded_for));
        add("x-forwarded-proto", if asked.tls { "https" } else { "http" });
        add(
            "x-forwarded-port",
            asked.forwarded_port.as_deref().unwrap_or(&port),
        );
        add("x-forwarded-ssl", if asked.tls { "on" } else { "off" });
        add("via", &asked.via);
        let story = &self.story;
        if let Some((source, state)) = &story.source {
            let state = state
                .as_ref()
                .map_or(String::new(), |state| format!(";state={state}"));
            add("fly-replay-src", &format!("{source}{state}"));
        }
        let optional = [
            ("fly-replay-state-signature", proved.state.as_deref()),
            ("x-suijuris-tls", proved.tls.as_deref()),
            ("fly-replay-failed", story.failed.as_deref()),
            ("fly-replay-cache-status", story.cache),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                add(name, value);
            }
        }
        if let Some(preferred) = &asked.preferred
            && *preferred != self.machine.id
        {
            add("fly-preferred-instance-unavailable", preferred);
        }
        if let Some(transform) = &story.transform {
            transformed(transform, out);
        }
    }

    /// What the client gets of an answer beside its own fields.
    pub(crate) fn answer(&self, out: &mut Forwarding) {
        let pristine = self.served().is_some_and(|port| port.pristine);
        let add = |out: &mut Forwarding, name: &str, value: &str| {
            // What cannot stand in a field is left out.
            let _left_out = out.push(name, value);
        };
        if pristine {
            out.hide(FROM_APP_PRISTINE);
        } else {
            out.hide(FROM_APP);
            add(out, "server", "Suijuris");
            add(out, "via", "1.1 suijuris");
            add(out, "fly-request-id", &self.asked.id);
        }
        for (name, values) in self.served().map_or(&[][..], |port| &port.response_headers) {
            out.hide_too(name);
            for value in values {
                add(out, name, value);
            }
        }
    }

    /// Whether an answer is a replay, which is then taken: bytes of its body that are wanted.
    pub(crate) fn replays(&self, head: &AnswerHead<'_>) -> Option<usize> {
        let text = |name: &str| head.header(name).and_then(|value| str::from_utf8(value).ok());
        let json = text("content-type").is_some_and(|media| {
            media
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .eq_ignore_ascii_case(crate::replay::MEDIA_TYPE)
        });
        let header = text("fly-replay");
        if header.is_none() && !json {
            return None;
        }
        *self.said.borrow_mut() = Some(Said {
            header: header.filter(|_| !json).map(str::to_owned),
            cache: text("fly-replay-cache").map(str::to_owned),
            ttl_s: text("fly-replay-cache-ttl-secs")
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or_default(),
            allow_bypass: text("fly-replay-cache-allow-bypass") == Some("yes"),
        });
        Some(if json { crate::replay::MAX_BODY } else { 0 })
    }
}

/// What a replay changes of the request. Where a request is from and how long it is cannot be changed.
fn transformed(transform: &Transform, out: &mut Forwarding) {
    const KEPT: [&str; 5] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
    ];
    let changeable = |name: &str| {
        !KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept))
            && !FROM_CLIENT.iter().any(|kept| name.eq_ignore_ascii_case(kept))
    };
    if let Some(path) = &transform.path {
        // One that cannot be asked for stays as it was.
        let _stays = out.retarget(path);
    }
    for name in transform.delete.iter().filter(|name| changeable(name)) {
        out.hide_too(name);
    }
    for (name, value) in transform.set.iter().filter(|(name, _)| changeable(name)) {
        out.hide_too(name);
        let _left_out = out.push(name, value);
    }
}

/// What of a replay a goal is: the app and the machines of it.
pub(crate) fn wanted(replay: &Replay, edge: &Arc<str>, responder: &Arc<str>) -> Wanted {
    Wanted {
        edge: Arc::clone(edge),
        regions: replay.regions.clone(),
        strict: !replay.regions.is_empty(),
        only: replay.instance.as_deref().map(Arc::from),
        prefer: replay.prefer_instance.as_deref().map(Arc::from),
        except: if replay.elsewhere {
            vec![Arc::clone(responder)]
        } else {
            Vec::new()
        },
    }
}
