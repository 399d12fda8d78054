//! Whether a child's bundle allows no more than its parent's: what a fork without wider scope must show.
//!
//! The rule is about form, not meaning, so that everybody answers alike: the child's rules are the parent's text with
//! `forbid`s behind it, and whatever proposes, admits or holds something is the same or less. That the program is what
//! the text compiles to, a compiler says (`check`, `verify`); ask it too.

use super::Bundle;
use crate::governance::Effect;
use crate::manifest::{Gate, Manifest, Network, SleepMode, Witness, Workload};

/// Where a child's bundle may allow more than its parent's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wider {
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
/// - Sleep and witness: the same, or `stop` for `suspend`, `required` for `optional`. A mutation is sealed as soon or sooner.
/// - The name is free.
///
/// # Errors
/// The first [`Wider`] found.
pub fn narrows(parent: &Bundle, child: &Bundle) -> Result<(), Wider> {
    governance(parent, child)?;
    manifest(&parent.manifest, &child.manifest)
}

fn governance(parent: &Bundle, child: &Bundle) -> Result<(), Wider> {
    if !child.governance.starts_with(&parent.governance) {
        return Err(Wider::Text);
    }
    let (parents, childs) = (parent.rules.program.rules(), child.rules.program.rules());
    let added = childs.strip_prefix(parents).ok_or(Wider::Rules)?;
    match added.iter().find(|rule| rule.effect == Effect::Permit) {
        Some(rule) => Err(Wider::Permits(rule.id.clone())),
        None => Ok(()),
    }
}

fn part(ok: bool, part: &'static str, allowed: &'static str) -> Result<(), Wider> {
    if ok {
        Ok(())
    } else {
        Err(Wider::Part { part, allowed })
    }
}

fn manifest(parent: &Manifest, child: &Manifest) -> Result<(), Wider> {
    const SOME: &str = "some of the parent's, unchanged";
    let (from, to) = (&parent.triggers, &child.triggers);
    part(
        from.request || !to.request,
        "triggers.request",
        "off, or as the parent's",
    )?;
    part(to.topics.is_subset(&from.topics), "messages.topics", SOME)?;
    let timer = |(name, timer)| from.timers.get(name) == Some(timer);
    part(to.timers.iter().all(timer), "timers", SOME)?;
    let kept = |(name, field): (&crate::memory::Name, _)| {
        let position = parent.memory.position(name.as_str());
        position
            .and_then(|at| parent.memory.at(at))
            .map(|(_, field)| field)
            == Some(field)
    };
    part(child.memory.iter().all(kept), "memory", SOME)?;
    let claim = |(name, kind)| parent.claims.get(name) == Some(kind);
    part(child.claims.iter().all(claim), "callers.claims", SOME)?;
    let key = |key| parent.callers.contains(key);
    part(child.callers.iter().all(key), "callers.keys", SOME)?;
    gate(&parent.gate, &child.gate)?;
    workload(&parent.workload, &child.workload)?;
    let sleeps = child.sleep == parent.sleep || child.sleep == SleepMode::Stop;
    part(sleeps, "sleep", "`stop`, or as the parent's")?;
    let witness = child.witness == parent.witness || child.witness == Witness::Required;
    part(witness, "witness", "`required`, or as the parent's")?;
    part(
        child.seal_within <= parent.seal_within,
        "lineage.seal_within",
        "as long as the parent's, or less",
    )
}

fn gate(parent: &Gate, child: &Gate) -> Result<(), Wider> {
    const LESS: &str = "as the parent's, or less";
    part(
        child.protocol == parent.protocol,
        "gate.protocol",
        "as the parent's",
    )?;
    let header = |header| parent.headers.contains(header);
    part(
        child.headers.iter().all(header),
        "gate.headers",
        "some of the parent's",
    )?;
    part(child.max_held <= parent.max_held, "gate.max_held", LESS)?;
    part(
        child.max_connections <= parent.max_connections,
        "gate.max_connections",
        LESS,
    )?;
    part(child.hold <= parent.hold, "gate.hold", LESS)?;
    part(child.drain <= parent.drain, "gate.drain", LESS)?;
    part(child.linger <= parent.linger, "gate.linger", LESS)
}

fn workload(parent: &Workload, child: &Workload) -> Result<(), Wider> {
    let network = match child.network {
        Network::Private => parent.network,
        Network::Host => Network::Host,
    };
    let same = Workload {
        network,
        ..child.clone()
    };
    part(
        same == *parent,
        "workload",
        "as the parent's, but for `network = \"private\"`",
    )
}
