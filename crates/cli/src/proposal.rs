//! A proposal that nobody made, from the command line: what `what-if` asks an object about.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::ValueEnum;
use serde::de::DeserializeSeed as _;
use suijuris_core::governance::{Action, Protocol, TriggerKind, Vocabulary};
use suijuris_core::inputs::{Activity, Caller, Inputs, Principal, Request, Trigger};
use suijuris_core::lineage::Head;
use suijuris_core::memory::Name;
use suijuris_core::time::{Now, ParseError, Span, Timestamp};
use suijuris_gate::RequestHead;

use crate::{Usage, here};

/// Who proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Caller,
    Host,
    Timer,
    Controller,
    Workload,
    #[value(name = "self")]
    Own,
}

/// A proposal's options.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Proposal")]
pub(crate) struct Options {
    /// What is proposed: wake, remain, admit, sleep, mutate, read, migrate, fork, amend, terminate
    #[arg(long)]
    pub(crate) action: Option<Action>,
    /// Who proposes [default: whom the action and trigger suggest]
    #[arg(long)]
    by: Option<By>,
    /// What made them: request, timer, manual, memory, message, boot
    #[arg(long)]
    trigger: Option<TriggerKind>,
    /// Timer that fires
    #[arg(long, value_name = "NAME")]
    timer: Option<String>,
    /// Topic of the message
    #[arg(long)]
    topic: Option<String>,
    /// Field that changed, or that is to be written or read; may be given several times
    #[arg(long, value_name = "NAME")]
    field: Vec<String>,
    /// Method of the request
    #[arg(long, default_value = "GET")]
    method: String,
    /// Path of the request, query included
    #[arg(long)]
    path: Option<String>,
    /// Host that the request names
    #[arg(long, default_value = "localhost")]
    host: String,
    /// Address of the peer
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    peer: IpAddr,
    /// Protocol: http/1.1, http/2, websocket, tcp
    #[arg(long, default_value = "http/1.1")]
    protocol: Protocol,
    /// Header of the request that the rules may read; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// Subject of the caller's verified token
    #[arg(long)]
    subject: Option<String>,
    /// Scope of the caller's verified token; may be given several times
    #[arg(long)]
    scope: Vec<String>,
    /// Claim of the caller's verified token; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    /// Hold in force; may be given several times
    #[arg(long, value_name = "NAME")]
    hold: Vec<String>,
    /// Time without traffic
    #[arg(long, value_name = "TIME", default_value = "0s")]
    idle: Span,
    /// Time since the wake
    #[arg(long, value_name = "TIME", default_value = "0s")]
    active: Span,
    /// When: an instant, or a length of time from now
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
}

/// An instant, or a length of time from now.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    At(Timestamp),
    In(Span),
}

impl std::str::FromStr for Moment {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self::In).or_else(|_| text.parse().map(Self::At))
    }
}

impl Options {
    /// The time that is asked about.
    pub(crate) fn now(&self, now: Now) -> Now {
        let at = match self.at {
            None => now.at,
            Some(Moment::At(at)) => at,
            Some(Moment::In(span)) => now.at.saturating_add(span),
        };
        Now { at, ..now }
    }

    /// The facts of this proposal of `action`.
    pub(crate) fn inputs(
        &self,
        action: Action,
        head: &Head,
        words: &Vocabulary,
        now: Now,
    ) -> Result<Inputs, Usage> {
        let trigger = self.trigger(action);
        let by = self.principal(action, trigger.as_ref(), head, words)?;
        let mut inputs = Inputs::new(now, by, here::host());
        let asks = trigger
            .as_ref()
            .is_some_and(|trigger| trigger.kind == TriggerKind::Request);
        if asks || action == Action::Admit {
            inputs.request = Some(self.request(words)?);
        }
        if matches!(action, Action::Remain | Action::Sleep) {
            inputs.activity = Some(Activity {
                active: self.active,
                idle: self.idle,
                ..Activity::default()
            });
        }
        inputs.trigger = trigger;
        inputs.holds = self.hold.iter().cloned().collect();
        if matches!(action, Action::Mutate | Action::Read) {
            inputs.fields = self.field.iter().cloned().collect();
        }
        Ok(inputs)
    }

    fn trigger(&self, action: Action) -> Option<Trigger> {
        let guessed = match (&self.timer, &self.topic, self.field.first()) {
            (Some(_), _, _) => TriggerKind::Timer,
            (_, Some(_), _) => TriggerKind::Message,
            (_, _, Some(_)) => TriggerKind::Memory,
            _ if self.path.is_some() => TriggerKind::Request,
            _ => TriggerKind::Manual,
        };
        (action == Action::Wake).then(|| Trigger {
            name: self.timer.clone(),
            topic: self.topic.clone(),
            field: self.field.first().cloned(),
            ..Trigger::new(self.trigger.unwrap_or(guessed))
        })
    }

    fn principal(
        &self,
        action: Action,
        trigger: Option<&Trigger>,
        head: &Head,
        words: &Vocabulary,
    ) -> Result<Principal, Usage> {
        let likely = match (action, trigger.map(|trigger| trigger.kind)) {
            (Action::Admit | Action::Read, _) | (_, Some(TriggerKind::Request | TriggerKind::Message)) => {
                By::Caller
            }
            (_, Some(TriggerKind::Timer)) => By::Timer,
            (Action::Remain, _) => By::Workload,
            (_, Some(TriggerKind::Boot)) => By::Host,
            _ => By::Controller,
        };
        Ok(match self.by.unwrap_or(likely) {
            By::Caller => Principal::Caller(Box::new(self.caller(words)?)),
            By::Host => Principal::Host,
            By::Timer => Principal::Timer,
            By::Controller => Principal::supposed_controller(head.controllers.clone()),
            By::Workload => Principal::Workload,
            By::Own => Principal::Own,
        })
    }

    fn caller(&self, words: &Vocabulary) -> Result<Caller, Usage> {
        let claims = self.claim.iter().map(|text| {
            let (name, value) = split(text, "--claim")?;
            let wrong = |why: String| Usage(format!("--claim {name}: {why}"));
            let name = Name::new(name).map_err(|error| wrong(error.to_string()))?;
            let kind = words
                .claims
                .get(&name)
                .ok_or_else(|| wrong("the bundle declares no such claim".to_owned()))?;
            let json = crate::memory::value(value);
            let value = kind.deserialize(&json).or_else(|error| {
                let text = serde_json::Value::String(value.to_owned());
                kind.deserialize(&text).map_err(|_| wrong(error.to_string()))
            })?;
            Ok((name, value))
        });
        let claims: std::collections::BTreeMap<_, _> = claims.collect::<Result<_, Usage>>()?;
        Ok(Caller {
            authenticated: self.subject.is_some() || !self.scope.is_empty() || !claims.is_empty(),
            subject: self.subject.clone(),
            scopes: self.scope.iter().cloned().collect(),
            claims,
            ..Caller::default()
        })
    }

    /// Method, path and host as the gate would have them decided.
    fn canonical(&self) -> Result<RequestHead<'_>, Usage> {
        let target = self.path.as_deref().unwrap_or("/");
        RequestHead::bare(&self.method, target, &self.host, SocketAddr::new(self.peer, 0))
            .map_err(|reject| Usage(format!("the gate refuses such a request: {}", reject.detail)))
    }

    fn request(&self, words: &Vocabulary) -> Result<Request, Usage> {
        let raw = self.protocol == Protocol::Tcp;
        let text = |text: &str| if raw { String::new() } else { text.to_owned() };
        let head = self.canonical()?;
        let headers = self.header.iter().map(|text| {
            let (name, value) = split(text, "--header")?;
            let name = name.to_ascii_lowercase();
            let known = words.headers.contains(&name);
            let unknown = || {
                Usage(format!(
                    "--header {name}: the bundle declares no such header, so no rule reads it"
                ))
            };
            known
                .then(|| (name.clone(), value.to_owned()))
                .ok_or_else(unknown)
        });
        Ok(Request {
            method: text(head.method),
            path: text(&head.path),
            query: text(head.query.unwrap_or_default()),
            host: text(&head.host),
            port: head.port.filter(|_| !raw),
            protocol: self.protocol,
            peer_ip: self.peer,
            content_length: None,
            headers: headers.collect::<Result<_, Usage>>()?,
        })
    }
}

fn split<'t>(text: &'t str, option: &str) -> Result<(&'t str, &'t str), Usage> {
    text.split_once('=')
        .ok_or_else(|| Usage(format!("{option} {text}: write NAME=VALUE")))
}
