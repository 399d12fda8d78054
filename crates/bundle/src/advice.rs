//! What only `object.toml` and the rules together show: triggers that no rule lets wake, words that never have a value.
//!
//! Works on the compiled program, so that it sees what is decided and not how it is spelt. Never an error: each is a
//! bundle that runs and likely does less than its author thinks.

use std::ops::Range;

use suijuris_core::governance::{
    Action, Const, Effect, Listing, Node, NodeId, PrincipalKind, Program, Slot, TriggerKind,
};
use suijuris_core::manifest::{Manifest, Protocol};
use suijuris_core::time::Timestamp;
use suijuris_core::trigger::{Checked, Schedule};
use toml::Spanned;
use toml::de::DeTable;

use crate::fault::{Faults, code};
use crate::files::DEFINITION;
use crate::report::Diagnostic;
use crate::section::locate;

/// When a timer is asked whether it ever comes: all that comes at all comes within some years of any instant.
const ANY_TIME: Timestamp = Timestamp(1_800_000_000_000);

/// Findings about `manifest`, whose text is `definition`, under the rules that compiled to `program`.
pub(crate) fn of(definition: &str, manifest: &Manifest, program: &Program) -> Vec<Diagnostic> {
    let Ok(document) = DeTable::parse(definition) else {
        return Vec::new();
    };
    let finder = Finder {
        document: document.get_ref(),
        manifest,
        listing: program.listing(),
        faults: Faults::new(DEFINITION, definition),
    };
    finder.triggers();
    finder.words();
    finder.protocol();
    finder.tls();
    finder.secrets();
    finder.preflights();
    finder.never();
    finder.faults.into_list()
}

struct Finder<'a> {
    document: &'a DeTable<'a>,
    manifest: &'a Manifest,
    listing: &'a Listing,
    faults: Faults<'a>,
}

/// A wake that is proposed: what is known of it before anything else is.
#[derive(Clone, Copy)]
struct Proposal<'a> {
    kind: TriggerKind,
    /// Who proposes; unknown for messages and memory, which come from callers, peers and owners.
    principal: Option<PrincipalKind>,
    name: Option<&'a str>,
    topic: Option<&'a str>,
    field: Option<&'a str>,
}

impl<'a> Proposal<'a> {
    const fn new(kind: TriggerKind) -> Self {
        Self {
            kind,
            principal: None,
            name: None,
            topic: None,
            field: None,
        }
    }

    /// The text that `slot` has in this proposal: outer none where it is not known, inner none where it is absent.
    fn text(&self, slot: Slot) -> Option<Option<&'a str>> {
        match slot {
            Slot::TriggerKind => Some(Some(self.kind.as_str())),
            Slot::TriggerName => Some(self.name),
            Slot::TriggerTopic => Some(self.topic),
            Slot::TriggerField => Some(self.field),
            _ => None,
        }
    }
}

impl Finder<'_> {
    fn triggers(&self) {
        for name in self.manifest.triggers.timers.keys() {
            let proposal = Proposal {
                principal: Some(PrincipalKind::Timer),
                name: Some(name.as_str()),
                ..Proposal::new(TriggerKind::Timer)
            };
            let what = format!("timer `{name}`");
            self.expect_wake(
                &proposal,
                &what,
                &locate(self.document, &format!("timers.{name}")),
            );
        }
        for topic in &self.manifest.triggers.topics {
            let proposal = Proposal {
                topic: Some(topic),
                ..Proposal::new(TriggerKind::Message)
            };
            let place = locate(self.document, "messages.topics");
            self.expect_wake(&proposal, &format!("a message on `{topic}`"), &place);
        }
        for (name, _) in self.manifest.memory.iter().filter(|(_, field)| field.wakes) {
            let proposal = Proposal {
                field: Some(name.as_str()),
                ..Proposal::new(TriggerKind::Memory)
            };
            let what = format!("a change of `{name}`");
            self.expect_wake(
                &proposal,
                &what,
                &locate(self.document, &format!("memory.{name}.wakes")),
            );
        }
    }

    fn expect_wake(&self, proposal: &Proposal<'_>, what: &str, place: &Range<usize>) {
        if !self.can_wake(proposal) {
            let kind = proposal.kind;
            self.faults.warning(
                code::UNUSED_TRIGGER,
                place,
                format!("{what} proposes `wake`, and no rule can ever permit it"),
                format!(
                    "add to governance.cedar: permit (principal, action == Action::\"wake\", resource) when {{ context.trigger.kind == \"{kind}\" }};"
                ),
            );
        }
    }

    /// Whether some permit of `wake` may be satisfied by this proposal, whatever else is the case.
    fn can_wake(&self, proposal: &Proposal<'_>) -> bool {
        let known = truths(&self.listing.nodes, proposal);
        let truth = |id: &NodeId| {
            known
                .get(usize::try_from(*id).unwrap_or(usize::MAX))
                .copied()
                .flatten()
        };
        let groups = self.listing.groups.iter().filter(|group| {
            group.action == Action::Wake
                && proposal
                    .principal
                    .is_none_or(|principal| principal == group.principal)
        });
        let bodies = groups.flat_map(|group| &group.bodies);
        let mut bodies = bodies.filter_map(|index| self.listing.bodies.get(usize::from(*index)));
        bodies.any(|body| {
            let rule = self.listing.rules.get(usize::from(body.rule));
            rule.is_some_and(|rule| rule.effect == Effect::Permit)
                && body.clauses.iter().all(|(node, _)| truth(node) != Some(false))
        })
    }

    fn reads(&self, wanted: Slot) -> bool {
        let reads = |node: &Node| matches!(node, Node::Slot(slot) | Node::Has(slot) if *slot == wanted);
        self.listing.nodes.iter().any(reads)
    }

    /// Claims and headers that are declared for rules and that no rule reads.
    fn words(&self) {
        let help = "leave it out, or use it in a rule";
        for (index, name) in self.manifest.claims.keys().enumerate() {
            let read = u16::try_from(index).is_ok_and(|index| self.reads(Slot::Claim(index)));
            if !read {
                let place = locate(self.document, &format!("callers.claims.{name}"));
                let message = format!("no rule reads claim `{name}`");
                self.faults.warning(code::UNUSED_CLAIM, &place, message, help);
            }
        }
        for (index, name) in self.manifest.gate.headers.iter().enumerate() {
            let read = u16::try_from(index).is_ok_and(|index| self.reads(Slot::Header(index)));
            if !read {
                let place = self.item("gate", "headers", name);
                let message = format!("no rule reads header `{name}`");
                self.faults.warning(code::UNUSED_HEADER, &place, message, help);
            }
        }
    }

    /// Texts of the rules that headers are compared with which, by their names, carry secrets.
    fn secrets(&self) {
        for (index, name) in self.manifest.gate.headers.iter().enumerate() {
            let slot = u16::try_from(index).map(Slot::Header);
            if is_secret(name) && slot.is_ok_and(|slot| self.is_compared(slot)) {
                self.faults.warning(
                    code::SECRET_LITERAL,
                    &self.item("gate", "headers", name),
                    format!("a rule compares header `{name}` with a literal string; anyone who has the bundle can read it"),
                    "let callers show a token, whose public key is in [callers] keys, and ask for principal.authenticated",
                );
            }
        }
    }

    /// Rules that list methods, none of them that of preflights, where pages of other origins may read.
    fn preflights(&self) {
        let nodes = &self.listing.nodes;
        let is_options = |node: &Node| match node {
            Node::Const(Const::Text(text)) => text == "OPTIONS",
            Node::Const(Const::Set(items)) => items
                .iter()
                .any(|item| matches!(item, Const::Text(text) if text == "OPTIONS")),
            _ => false,
        };
        if self.manifest.gate.cors.is_empty()
            || !self.is_compared(Slot::Method)
            || nodes.iter().any(is_options)
        {
            return;
        }
        self.faults.warning(
            code::PREFLIGHT,
            &locate(self.document, "gate.cors"),
            "rules compare the method of requests, and none names OPTIONS, which a browser asks with before most requests to another origin",
            "permit OPTIONS where the workload answers it; only the gate's own answers are readable by gate.cors",
        );
    }

    /// Timers with a day that does not come.
    fn never(&self) {
        for (name, timer) in &self.manifest.triggers.timers {
            let Schedule::Cron { expression, .. } = &timer.schedule else {
                continue;
            };
            let comes = |schedule: Checked| schedule.next_after(ANY_TIME, ANY_TIME).is_some();
            if !timer.schedule.check().is_ok_and(comes) {
                self.faults.warning(
                    code::NEVER_FIRES,
                    &locate(self.document, &format!("timers.{name}.cron")),
                    format!("timer `{name}` never fires: no day fits `{expression}`"),
                    "see day of month (third) and month (fourth): 30 2 is no date, and 2 is February",
                );
            }
        }
    }

    /// Words of TLS: who ends it must say what it came to, and not every platform does.
    fn tls(&self) {
        let of_tls = |slot: &Slot| {
            matches!(
                slot,
                Slot::HasTls
                    | Slot::TlsVersion
                    | Slot::TlsSni
                    | Slot::HasClientCert
                    | Slot::CertName
                    | Slot::CertSubject
                    | Slot::CertIssuer
                    | Slot::CertFingerprint
                    | Slot::CertNotAfter
            )
        };
        let nodes = &self.listing.nodes;
        let reads = |node: &Node| matches!(node, Node::Slot(slot) | Node::Has(slot) if of_tls(slot));
        if nodes.iter().any(reads) {
            self.faults.advice(
                code::TLS_WORDS,
                &locate(self.document, "gate"),
                "rules read context.request.tls or client_cert, which are there only where whoever ends TLS says so",
                "`serve` and a `host` of ours do, with --client-ca and --proxy-client-ca; `up` and Fly do not, and there what needs them is refused",
            );
        }
    }

    /// Whether `slot` is compared with a text that stands in the rules.
    fn is_compared(&self, slot: Slot) -> bool {
        let nodes = &self.listing.nodes;
        let is_slot = |id: &NodeId| matches!(node(nodes, *id), Some(Node::Slot(found)) if *found == slot);
        let is_const = |id: &NodeId| matches!(node(nodes, *id), Some(Node::Const(_)));
        nodes.iter().any(|node| match node {
            Node::Equal(a, b) => (is_slot(a) && is_const(b)) || (is_slot(b) && is_const(a)),
            Node::Contains(set, item) => is_slot(item) && is_const(set),
            Node::Like(text, pieces) => is_slot(text) && pieces.iter().any(|piece| !piece.is_empty()),
            _ => false,
        })
    }

    /// The place of a text in a list.
    fn item(&self, table: &str, key: &str, text: &str) -> Range<usize> {
        let list = self
            .document
            .get(table)
            .and_then(|table| table.get_ref().get(key));
        let items = list.and_then(|list| list.get_ref().as_array());
        let mut items = items.into_iter().flat_map(|items| items.iter());
        let item = items.find(|item| item.get_ref().as_str() == Some(text));
        item.map_or_else(|| locate(self.document, &format!("{table}.{key}")), Spanned::span)
    }

    /// Words of HTTP where the gate sees nothing but connections.
    fn protocol(&self) {
        if !matches!(self.manifest.gate.protocol, Protocol::Tcp | Protocol::FdPassing) {
            return;
        }
        let of_http = |slot: Slot| match slot {
            Slot::Method => Some("request.method"),
            Slot::Path => Some("request.path"),
            Slot::Query => Some("request.query"),
            Slot::RequestHost => Some("request.host"),
            Slot::RequestPort => Some("request.port"),
            Slot::ContentLength => Some("request.content_length"),
            Slot::Header(_) => Some("request.headers"),
            Slot::Authenticated => Some("principal.authenticated"),
            Slot::Claim(_) => Some("principal.claims"),
            _ => None,
        };
        let mut words: Vec<_> = self
            .listing
            .nodes
            .iter()
            .filter_map(|node| match node {
                Node::Slot(slot) | Node::Has(slot) => of_http(*slot),
                _ => None,
            })
            .collect();
        words.sort_unstable();
        words.dedup();
        for word in words {
            self.faults.warning(
                code::NO_REQUEST_WORDS,
                &locate(self.document, "gate.protocol"),
                format!("a rule reads `{word}`, which has no value on raw connections"),
                "use protocol = \"http\", or decide by context.request.peer_ip, memory, host and time",
            );
        }
    }
}

/// Whether a header of this name likely carries a secret.
fn is_secret(header: &str) -> bool {
    const WORDS: [&str; 12] = [
        "apikey",
        "auth",
        "authorization",
        "cookie",
        "credential",
        "key",
        "passwd",
        "password",
        "secret",
        "session",
        "signature",
        "token",
    ];
    header.split(['-', '_']).any(|word| WORDS.contains(&word))
}

/// For each expression whether it is true or false in every case of `proposal`; none where it depends on more.
/// Operands stand before their expressions, so that one pass suffices.
fn truths(nodes: &[Node], proposal: &Proposal<'_>) -> Vec<Option<bool>> {
    let mut known: Vec<Option<bool>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let of = |id: &NodeId| {
            known
                .get(usize::try_from(*id).unwrap_or(usize::MAX))
                .copied()
                .flatten()
        };
        let truth = match node {
            Node::Const(Const::Bool(truth)) => Some(*truth),
            Node::Has(Slot::HasRequest) | Node::Slot(Slot::HasRequest)
                if proposal.kind != TriggerKind::Request =>
            {
                Some(false)
            }
            Node::Has(slot) => proposal.text(*slot).map(|text| text.is_some()),
            Node::Not(a) => of(a).map(|truth| !truth),
            Node::All(items) => all(items.iter().map(of)),
            Node::Any(items) => {
                all(items.iter().map(|item| of(item).map(|truth| !truth))).map(|truth| !truth)
            }
            Node::If(a, b, c) => match of(a) {
                Some(true) => of(b),
                Some(false) => of(c),
                None => of(b).filter(|truth| of(c) == Some(*truth)),
            },
            Node::Equal(a, b) => {
                compare(nodes, *a, *b, proposal).or_else(|| compare(nodes, *b, *a, proposal))
            }
            Node::Contains(set, item) => contains(nodes, *set, *item, proposal),
            _ => None,
        };
        known.push(truth);
    }
    known
}

/// False if some is false, true if all are true.
fn all(mut truths: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    truths
        .try_fold(Some(true), |sofar, truth| match truth {
            Some(false) => Err(()),
            Some(true) => Ok(sofar),
            None => Ok(None),
        })
        .unwrap_or(Some(false))
}

fn node(nodes: &[Node], id: NodeId) -> Option<&Node> {
    nodes.get(usize::try_from(id).ok()?)
}

fn compare(nodes: &[Node], slot: NodeId, constant: NodeId, proposal: &Proposal<'_>) -> Option<bool> {
    let (Node::Slot(slot), Node::Const(Const::Text(text))) = (node(nodes, slot)?, node(nodes, constant)?)
    else {
        return None;
    };
    Some(proposal.text(*slot)? == Some(text.as_str()))
}

fn contains(nodes: &[Node], set: NodeId, item: NodeId, proposal: &Proposal<'_>) -> Option<bool> {
    let (Node::Const(Const::Set(items)), Node::Slot(slot)) = (node(nodes, set)?, node(nodes, item)?) else {
        return None;
    };
    let text = proposal.text(*slot)?;
    let is = |item: &Const| matches!(item, Const::Text(have) if Some(have.as_str()) == text);
    Some(items.iter().any(is))
}
