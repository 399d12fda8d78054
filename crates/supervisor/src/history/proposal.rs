//! A proposal that nobody made, read from its document: what `what-if` asks an object about.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::de::DeserializeSeed as _;
use suijuris_api::history::Supposed;
use suijuris_core::governance::{Action, Protocol, TriggerKind, Vocabulary};
use suijuris_core::inputs::{Activity, Caller, ClientCert, Host, Inputs, Principal, Request, Tls, Trigger};
use suijuris_core::lineage::Head;
use suijuris_core::memory::Name;
use suijuris_core::time::{Now, ParseError, Span, Timestamp};
use suijuris_gate::RequestHead;

use super::HistoryError;

/// The end of a certificate that says none: the last second of the year 9999.
const FOR_EVER: Timestamp = Timestamp(253_402_300_799_000);

/// Who proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Caller,
    Host,
    Timer,
    Controller,
    Workload,
    Own,
}

impl FromStr for By {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "caller" => Self::Caller,
            "host" => Self::Host,
            "timer" => Self::Timer,
            "controller" => Self::Controller,
            "workload" => Self::Workload,
            "self" => Self::Own,
            _ => return Err("write caller, host, timer, controller, workload or self"),
        })
    }
}

/// A proposal, read.
#[derive(Debug)]
pub(super) struct Proposal<'a> {
    pub(super) action: Action,
    by: Option<By>,
    trigger: Option<TriggerKind>,
    method: &'a str,
    host: &'a str,
    peer: IpAddr,
    protocol: Protocol,
    idle: Span,
    active: Span,
    at: Option<Moment>,
    /// What needs no reading.
    of: &'a Supposed,
}

/// An instant, or a length of time from now.
#[derive(Debug, Clone, Copy)]
enum Moment {
    At(Timestamp),
    In(Span),
}

impl FromStr for Moment {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self::In).or_else(|_| text.parse().map(Self::At))
    }
}

/// What is written of `name`, read.
fn read<T: FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: Option<&String>,
) -> Result<Option<T>, HistoryError> {
    let wrong = |text: &str, why: T::Err| asked(format!("--{name} {text}: {why}"));
    text.map(|text| text.parse().map_err(|why| wrong(text, why)))
        .transpose()
}

const fn asked(why: String) -> HistoryError {
    HistoryError::Asked(why)
}

impl<'a> Proposal<'a> {
    pub(super) fn read(of: &'a Supposed) -> Result<Self, HistoryError> {
        let action = read("action", Some(&of.action))?;
        Ok(Self {
            action: action.ok_or_else(|| asked("say what is proposed with --action".to_owned()))?,
            by: read("by", of.by.as_ref())?,
            trigger: read("trigger", of.trigger.as_ref())?,
            method: of.method.as_deref().unwrap_or("GET"),
            host: of.host.as_deref().unwrap_or("localhost"),
            peer: read("peer", of.peer.as_ref())?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            protocol: read("protocol", of.protocol.as_ref())?.unwrap_or(Protocol::Http1),
            idle: read("idle", of.idle.as_ref())?.unwrap_or(Span(0)),
            active: read("active", of.active.as_ref())?.unwrap_or(Span(0)),
            at: read("at", of.at.as_ref())?,
            of,
        })
    }

    /// The time that is asked about.
    pub(super) fn now(&self, now: Now) -> Now {
        let at = match self.at {
            None => now.at,
            Some(Moment::At(at)) => at,
            Some(Moment::In(span)) => now.at.saturating_add(span),
        };
        Now { at, ..now }
    }

    /// The facts of this proposal of `action`.
    pub(super) fn inputs(
        &self,
        head: &Head,
        words: &Vocabulary,
        now: Now,
        host: Host,
    ) -> Result<Inputs, HistoryError> {
        let action = self.action;
        let trigger = self.trigger();
        let by = self.principal(trigger.as_ref(), head, words)?;
        let mut inputs = Inputs::new(now, by, host);
        let asks = trigger
            .as_ref()
            .is_some_and(|trigger| trigger.kind == TriggerKind::Request);
        let founds = action == Action::Instantiate && self.of.path.is_some();
        if asks || founds || action == Action::Admit {
            inputs.request = Some(self.request(words)?);
            inputs.rates = self.rates(words)?;
        }
        if matches!(action, Action::Remain | Action::Sleep) {
            inputs.activity = Some(Activity {
                active: self.active,
                idle: self.idle,
                ..Activity::default()
            });
        }
        inputs.trigger = trigger;
        inputs.holds = self.of.holds.iter().cloned().collect();
        if matches!(action, Action::Mutate | Action::Read) {
            inputs.fields = self.of.fields.iter().cloned().collect();
        }
        Ok(inputs)
    }

    fn rates(&self, words: &Vocabulary) -> Result<BTreeMap<Name, i64>, HistoryError> {
        let rate = |text: &String| {
            let (name, number) = split(text, "--rate")?;
            let wrong = |why: String| asked(format!("--rate {name}: {why}"));
            let name = Name::new(name).map_err(|error| wrong(error.to_string()))?;
            if !words.rates.contains_key(&name) {
                return Err(wrong("the bundle declares no such rate".to_owned()));
            }
            let number = number.parse().ok().filter(|number: &i64| *number > 0);
            Ok((
                name,
                number.ok_or_else(|| wrong("write a number from 1".to_owned()))?,
            ))
        };
        self.of.rates.iter().map(rate).collect()
    }

    fn trigger(&self) -> Option<Trigger> {
        let guessed = match (&self.of.timer, &self.of.topic, self.of.fields.first()) {
            (Some(_), _, _) => TriggerKind::Timer,
            (_, Some(_), _) => TriggerKind::Message,
            (_, _, Some(_)) => TriggerKind::Memory,
            _ if self.of.path.is_some() => TriggerKind::Request,
            _ => TriggerKind::Manual,
        };
        (self.action == Action::Wake).then(|| Trigger {
            name: self.of.timer.clone(),
            topic: self.of.topic.clone(),
            field: self.of.fields.first().cloned(),
            ..Trigger::new(self.trigger.unwrap_or(guessed))
        })
    }

    fn principal(
        &self,
        trigger: Option<&Trigger>,
        head: &Head,
        words: &Vocabulary,
    ) -> Result<Principal, HistoryError> {
        let likely = match (self.action, trigger.map(|trigger| trigger.kind)) {
            (Action::Instantiate, _) if self.of.path.is_some() => By::Caller,
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

    fn caller(&self, words: &Vocabulary) -> Result<Caller, HistoryError> {
        let claims = self.of.claims.iter().map(|text| {
            let (name, value) = split(text, "--claim")?;
            let wrong = |why: String| asked(format!("--claim {name}: {why}"));
            let name = Name::new(name).map_err(|error| wrong(error.to_string()))?;
            let kind = words
                .claims
                .get(&name)
                .ok_or_else(|| wrong("the bundle declares no such claim".to_owned()))?;
            let json = super::what_if::as_typed(None, value);
            let value = kind.deserialize(&json).or_else(|error| {
                let text = serde_json::Value::String(value.to_owned());
                kind.deserialize(&text).map_err(|_| wrong(error.to_string()))
            })?;
            Ok((name, value))
        });
        let claims: BTreeMap<_, _> = claims.collect::<Result<_, HistoryError>>()?;
        Ok(Caller {
            authenticated: self.of.subject.is_some() || !self.of.scopes.is_empty() || !claims.is_empty(),
            subject: self.of.subject.clone(),
            scopes: self.of.scopes.iter().cloned().collect(),
            claims,
            ..Caller::default()
        })
    }

    /// Method, path and host as the gate would have them decided.
    fn canonical(&self) -> Result<RequestHead<'_>, HistoryError> {
        let target = self.of.path.as_deref().unwrap_or("/");
        RequestHead::bare(self.method, target, self.host, SocketAddr::new(self.peer, 0))
            .map_err(|reject| asked(format!("the gate refuses such a request: {}", reject.detail)))
    }

    fn request(&self, words: &Vocabulary) -> Result<Request, HistoryError> {
        let raw = self.protocol == Protocol::Tcp;
        let text = |text: &str| if raw { String::new() } else { text.to_owned() };
        let head = self.canonical()?;
        let headers = self.of.headers.iter().map(|text| {
            let (name, value) = split(text, "--header")?;
            let name = name.to_ascii_lowercase();
            let known = words.headers.contains(&name);
            let unknown = || {
                asked(format!(
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
            headers: headers.collect::<Result<_, HistoryError>>()?,
            tls: self.tls()?,
            client_cert: self.client_cert()?.map(Box::new),
        })
    }

    fn tls(&self) -> Result<Option<Tls>, HistoryError> {
        let mut tls = (!self.of.tls.is_empty()).then(|| Tls {
            version: "1.3".to_owned(),
            sni: None,
        });
        for text in &self.of.tls {
            let (word, value) = split(text, "--tls")?;
            match (&mut tls, word) {
                (Some(tls), "version") => value.clone_into(&mut tls.version),
                (Some(tls), "sni") => tls.sni = Some(value.to_owned()),
                _ => return Err(asked(format!("--tls {text}: it is version=1.3 or sni=NAME"))),
            }
        }
        Ok(tls)
    }

    /// What is not said of it is empty, and it is valid for ever.
    fn client_cert(&self) -> Result<Option<ClientCert>, HistoryError> {
        let mut shown = (!self.of.client_cert.is_empty()).then(|| ClientCert {
            name: None,
            subject: String::new(),
            issuer: String::new(),
            fingerprint: String::new(),
            not_after: FOR_EVER,
        });
        for text in &self.of.client_cert {
            let (word, value) = split(text, "--client-cert")?;
            let Some(shown) = &mut shown else { break };
            match word {
                "name" => shown.name = Some(value.to_owned()),
                "subject" => value.clone_into(&mut shown.subject),
                "issuer" => value.clone_into(&mut shown.issuer),
                "fingerprint" => value.clone_into(&mut shown.fingerprint),
                "not_after" => {
                    let read = value.parse::<Timestamp>();
                    shown.not_after =
                        read.map_err(|error| asked(format!("--client-cert {text}: {error}")))?;
                }
                _ => {
                    return Err(asked(format!(
                        "--client-cert {text}: it is name=, subject=, issuer=, fingerprint= or not_after="
                    )));
                }
            }
        }
        Ok(shown)
    }
}

fn split<'t>(text: &'t str, option: &str) -> Result<(&'t str, &'t str), HistoryError> {
    text.split_once('=')
        .ok_or_else(|| asked(format!("{option} {text}: write NAME=VALUE")))
}
