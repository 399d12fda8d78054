//! A proposal that nobody made, from the command line: what `what-if` asks an object about.

use std::net::{IpAddr, Ipv4Addr};

use clap::ValueEnum;
use suijuris_api::history::Supposed;
use suijuris_core::governance::{Action, Protocol, TriggerKind};
use suijuris_core::time::{ParseError, Span, Timestamp};

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
    /// What TLS came to: version=1.3, sni=NAME; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    tls: Vec<String>,
    /// Verified certificate of the client: name=, subject=, issuer=, fingerprint=, not_after=; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    client_cert: Vec<String>,
    /// Subject of the caller's verified token
    #[arg(long)]
    subject: Option<String>,
    /// Scope of the caller's verified token; may be given several times
    #[arg(long)]
    scope: Vec<String>,
    /// Claim of the caller's verified token; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    /// How often the one who asks did so in the running window, this time included; may be given several times
    #[arg(long, value_name = "NAME=N")]
    rate: Vec<String>,
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

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(at) => at.fmt(f),
            Self::In(span) => span.fmt(f),
        }
    }
}

impl By {
    const fn word(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Host => "host",
            Self::Timer => "timer",
            Self::Controller => "controller",
            Self::Workload => "workload",
            Self::Own => "self",
        }
    }
}

/// What is written, or supposed to have been: `FIELD=VALUE`, and names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written<'a> {
    pub(crate) set: &'a [String],
    pub(crate) add: &'a [String],
    pub(crate) append: &'a [String],
    pub(crate) unset: &'a [String],
}

impl Options {
    /// The document that asks about `action`, as if this were written, or about writing it.
    pub(crate) fn supposed(&self, action: Action, written: Written<'_>) -> Supposed {
        Supposed {
            action: action.to_string(),
            by: self.by.map(|by| by.word().to_owned()),
            trigger: self.trigger.map(|trigger| trigger.to_string()),
            timer: self.timer.clone(),
            topic: self.topic.clone(),
            fields: self.field.clone(),
            method: Some(self.method.clone()),
            path: self.path.clone(),
            host: Some(self.host.clone()),
            peer: Some(self.peer.to_string()),
            protocol: Some(self.protocol.to_string()),
            headers: self.header.clone(),
            tls: self.tls.clone(),
            client_cert: self.client_cert.clone(),
            subject: self.subject.clone(),
            scopes: self.scope.clone(),
            claims: self.claim.clone(),
            rates: self.rate.clone(),
            holds: self.hold.clone(),
            idle: Some(self.idle.to_string()),
            active: Some(self.active.to_string()),
            at: self.at.map(|at| at.to_string()),
            set: written.set.to_vec(),
            add: written.add.to_vec(),
            append: written.append.to_vec(),
            unset: written.unset.to_vec(),
        }
    }
}
