//! Whether a child's bundle allows no more than its parent's: what a fork without wider scope must show.
//!
//! The rule is about form, not meaning, so that everybody answers alike: the child's rules are the parent's text with
//! `forbid`s behind it, and whatever proposes, admits or holds something is the same or less. That the program is what
//! the text compiles to, a compiler says (`check`, `verify`); ask it too.

use super::Bundle;
use crate::governance::Effect;
use crate::manifest::{Gate, Manifest, Network, SleepMode, Witness, Workload};
use crate::memory::Name;
use crate::trigger::Triggers;

/// What lists may be.
const SOME: &str = "some of the parent's, unchanged";
/// What limits and times may be.
const LESS: &str = "as the parent's, or less";

/// Where a child's bundle may allow more than its parent's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAttenuated {
    /// Its text does not begin with the parent's.
    #[error("the child's governance must be the parent's text, unchanged, with more `forbid`s behind it")]
    Text,
    /// The first rules of its program are not the parent's.
    #[error(
        "the child's program does not begin with the parent's rules; build it again from the parent's text"
    )]
    Rules,
    /// An added rule permits.
    #[error("rule `{0}` of the child permits; only `forbid`s may be added")]
    Permits(String),
    /// Another part of the definition.
    #[error("{part} of the child may be {allowed}")]
    Part {
        /// Which part, as `object.toml` names it.
        part: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// Whether `child` allows no more than `parent`:
///
/// - Governance: the parent's text as it stands, then only `forbid`s.
/// - Triggers: a request proposes a wake only if it does for the parent; topics and timers are some of the parent's.
/// - Memory: fields are some of the parent's, unchanged. Claims and caller keys likewise.
/// - Gate: the same protocol; headers are some of the parent's; limits and times are the parent's or less.
/// - Workload: the same, but for a network that may be private where the parent's is the host's.
/// - Sleep and witness: the same, or `stop` for `suspend`, `required` for `optional`; lease and grace are the parent's or
///   less. A mutation is sealed as soon or sooner.
/// - Class: none, or the same.
/// - The name is free.
///
/// # Errors
/// The first [`NotAttenuated`] found.
pub fn check_attenuation(parent: &Bundle, child: &Bundle) -> Result<(), NotAttenuated> {
    governance(parent, child)?;
    manifest(&parent.manifest, &child.manifest)
}

fn governance(parent: &Bundle, child: &Bundle) -> Result<(), NotAttenuated> {
    if !child.governance.starts_with(&parent.governance) {
        return Err(NotAttenuated::Text);
    }
    let (parents, childs) = (parent.rules.program.rules(), child.rules.program.rules());
    let added = childs.strip_prefix(parents).ok_or(NotAttenuated::Rules)?;
    match added.iter().find(|rule| rule.effect == Effect::Permit) {
        Some(rule) => Err(NotAttenuated::Permits(rule.id.clone())),
        None => Ok(()),
    }
}

fn part(ok: bool, part: &'static str, allowed: &'static str) -> Result<(), NotAttenuated> {
    if ok {
        Ok(())
    } else {
        Err(NotAttenuated::Part { part, allowed })
    }
}

/// Each part by name, so that a new one cannot be forgotten here. Governance and program have been looked at.
fn manifest(parent: &Manifest, child: &Manifest) -> Result<(), NotAttenuated> {
    let Manifest {
        v: _,
        name: _,
        governance: _,
        program: _,
        workload: runs,
        gate: through,
        memory,
        triggers,
        callers,
        claims,
        rates,
        sleep,
        witness,
        lease,
        grace,
        class,
        elsewhere,
        warm_forks,
        seal_within,
    } = child;
    proposals(&parent.triggers, triggers)?;
    let kept = |(name, field): (&Name, _)| {
        let position = parent.memory.position(name.as_str());
        let theirs = position.and_then(|at| parent.memory.at(at));
        theirs.is_some_and(|(_, theirs)| theirs == field)
    };
    part(memory.iter().all(kept), "memory", SOME)?;
    let claim = |(name, kind)| parent.claims.get(name) == Some(kind);
    part(claims.iter().all(claim), "callers.claims", SOME)?;
    let rate = |(name, rate)| parent.rates.get(name) == Some(rate);
    part(rates.iter().all(rate), "rates", SOME)?;
    let key = |key| parent.callers.contains(key);
    part(callers.iter().all(key), "callers.keys", SOME)?;
    gate(&parent.gate, through)?;
    workload(&parent.workload, runs)?;
    let sleeps = *sleep == parent.sleep || *sleep == SleepMode::Stop;
    part(sleeps, "sleep.mode", "`stop`, or as the parent's")?;
    let witnessed = *witness == parent.witness || *witness == Witness::Required;
    part(witnessed, "witness.strength", "`required`, or as the parent's")?;
    part(*lease <= parent.lease, "witness.lease", LESS)?;
    part(*grace <= parent.grace, "witness.grace", LESS)?;
    let templates = class.is_none() || *class == parent.class;
    part(templates, "class", "left out, or as the parent's")?;
    let place = |(host, place)| parent.elsewhere.get(host) == Some(place);
    part(elsewhere.iter().all(place), "elsewhere", SOME)?;
    let warm = parent.warm_forks || !warm_forks;
    part(warm, "lineage.warm_forks", "off, or as the parent's")?;
    part(*seal_within <= parent.seal_within, "lineage.seal_within", LESS)
}

fn proposals(parent: &Triggers, child: &Triggers) -> Result<(), NotAttenuated> {
    let Triggers {
        request,
        topics,
        timers,
    } = child;
    let requests = parent.request || !request;
    part(requests, "gate.wakes", "off, or as the parent's")?;
    part(topics.is_subset(&parent.topics), "messages.topics", SOME)?;
    let timer = |(name, timer)| parent.timers.get(name) == Some(timer);
    part(timers.iter().all(timer), "timers", SOME)
}

fn gate(parent: &Gate, child: &Gate) -> Result<(), NotAttenuated> {
    let Gate {
        protocol,
        headers,
        max_held,
        hold,
        max_connections,
        drain,
        linger,
        api,
        cors,
    } = child;
    part(!api || parent.api, "gate.api", "off, or as the parent's")?;
    part(*protocol == parent.protocol, "gate.protocol", "as the parent's")?;
    let reads = |origin| parent.cors.contains(origin);
    part(cors.iter().all(reads), "gate.cors", SOME)?;
    let header = |header| parent.headers.contains(header);
    part(headers.iter().all(header), "gate.headers", SOME)?;
    part(*max_held <= parent.max_held, "gate.max_held", LESS)?;
    let connections = *max_connections <= parent.max_connections;
    part(connections, "gate.max_connections", LESS)?;
    part(*hold <= parent.hold, "gate.hold", LESS)?;
    part(*drain <= parent.drain, "gate.drain", LESS)?;
    part(*linger <= parent.linger, "gate.linger", LESS)
}

fn workload(parent: &Workload, child: &Workload) -> Result<(), NotAttenuated> {
    let network = match child.network {
        Network::Private => parent.network,
        Network::Host => Network::Host,
    };
    let reaches = |destination| parent.egress.contains(destination) || parent.network == Network::Host;
    part(child.egress.iter().all(reaches), "workload.egress", SOME)?;
    let same = Workload {
        network,
        egress: parent.egress.clone(),
        ..child.clone()
    };
    part(
        same == *parent,
        "workload",
        "as the parent's, but for `network = \"private\"` and less `egress`",
    )
}
