//! Slots: every word that a rule may read, resolved when rules are compiled, read from [`Facts`] by position.

use serde::{Deserialize, Serialize};

use super::action::PrincipalKind;
use super::facts::{Caller, Changed, Facts, Principal};
use super::judgement::Fault;
use super::operand::{EntityKind, Items, Net, Operand};
use crate::memory::{Freshness, Value};

/// One fact. The word it stands for in rules is given in `docs/rules.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the word of the same name in docs/rules.md")]
pub enum Slot {
    Principal,
    Authenticated,
    Subject,
    Issuer,
    Audience,
    Scopes,
    Claim(u16),
    PeerId,
    Keys,
    Resource,
    ObjectId,
    ObjectName,
    Memory(u16),
    Fresh(u16),
    Length,
    Epoch,
    Unsealed,
    Born,
    LastWoke,
    LastDormant,
    Refused,
    HoldCount,
    HoldNames,
    Pending,
    Now,
    Clock,
    HostRegion,
    HostProvider,
    HostClass,
    HostId,
    TargetRegion,
    TargetProvider,
    TargetClass,
    TargetId,
    TriggerKind,
    TriggerName,
    TriggerTopic,
    TriggerField,
    TriggerMissed,
    Protocol,
    PeerIp,
    Method,
    Path,
    Query,
    RequestHost,
    RequestPort,
    ContentLength,
    Header(u16),
    Active,
    Idle,
    Connections,
    InFlight,
    Fields,
    Scope,
    ReadField,
    HasRequest,
    Class,
    Key,
    Instances,
    MaxInstances,
    PeerRate,
    ClassRate,
    Crashes,
    Awake,
    Counter(u16),
    Changed(u16),
    ChangeOld(u16),
    ChangeNew(u16),
    Rate(u16),
    HasTls,
    TlsVersion,
    TlsSni,
    HasClientCert,
    CertName,
    CertSubject,
    CertIssuer,
    CertFingerprint,
    CertNotAfter,
    Warm,
}

impl Slot {
    /// The fact as a number: integers, decimals in ten-thousandths, instants and lengths of time in milliseconds.
    #[inline]
    pub(super) fn number(self, facts: &Facts<'_>) -> Option<i64> {
        Some(match self {
            Self::Memory(position) => return value_number(memory_value(facts, position)?),
            Self::Counter(position) => facts
                .object
                .memory
                .count_at(usize::from(position), facts.now.at)?,
            Self::ChangeOld(position) => return value_number(old_value(facts, position)?),
            Self::ChangeNew(position) => return value_number(new_value(facts, position)?),
            Self::Now => facts.now.at.0,
            Self::Length => facts.object.lineage.length,
            Self::Epoch => facts.object.lineage.epoch,
            Self::Born => facts.object.lineage.born.0,
            Self::LastWoke => facts.object.lineage.last_woke?.0,
            Self::LastDormant => facts.object.lineage.last_dormant?.0,
            Self::Refused => facts.object.lineage.refused,
            Self::Crashes => facts.object.lineage.crashes,
            Self::Awake => facts.object.lineage.awake_at(facts.now.at).0,
            Self::HoldCount => i64::try_from(facts.holds.names.len()).ok()?,
            Self::Pending => facts.messages,
            Self::TriggerMissed => facts.trigger.as_ref()?.missed,
            Self::RequestPort => facts.request.as_ref()?.port?,
            Self::ContentLength => facts.request.as_ref()?.content_length?,
            Self::CertNotAfter => facts.request.as_ref()?.client_cert?.not_after.0,
            Self::Active => facts.activity.as_ref()?.active.0,
            Self::Idle => facts.activity.as_ref()?.idle.0,
            Self::Connections => facts.activity.as_ref()?.connections,
            Self::InFlight => facts.activity.as_ref()?.in_flight,
            Self::Instances => facts.founding?.instances,
            Self::MaxInstances => facts.founding?.max_instances,
            Self::PeerRate => facts.founding?.peer_rate,
            Self::ClassRate => facts.founding?.class_rate,
            Self::Claim(position) => return value_number(claim(facts, position)?),
            Self::Rate(position) => *facts.rates.get(usize::from(position))?,
            _ => return None,
        })
    }

    /// The fact as a bool.
    #[inline]
    pub(super) fn flag(self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Self::Memory(position) => match memory_value(facts, position)? {
                Value::Bool(v) => Some(*v),
                _ => None,
            },
            Self::ChangeOld(position) => value_flag(old_value(facts, position)?),
            Self::ChangeNew(position) => value_flag(new_value(facts, position)?),
            Self::Fresh(position) => {
                let freshness = facts
                    .object
                    .memory
                    .freshness_at(usize::from(position), facts.now)?;
                Some(freshness == Freshness::Fresh)
            }
            Self::Authenticated => caller(facts).map(|caller| caller.authenticated),
            Self::Unsealed => Some(facts.object.lineage.unsealed),
            Self::Warm => Some(facts.warm),
            Self::HasRequest => Some(facts.request.is_some()),
            Self::HasTls => Some(facts.request.as_ref()?.tls.is_some()),
            Self::HasClientCert => Some(facts.request.as_ref()?.client_cert.is_some()),
            Self::Claim(position) => match claim(facts, position)? {
                Value::Bool(v) => Some(*v),
                _ => None,
            },
            _ => None,
        }
    }

    /// The fact as text.
    #[inline]
    pub(super) fn text<'a>(self, facts: &Facts<'a>) -> Option<&'a str> {
        let (target, request) = (facts.target.as_ref(), facts.request.as_ref());
        match self {
            Self::Memory(position) => value_text(memory_value(facts, position)?),
            Self::ChangeOld(position) => value_text(old_value(facts, position)?),
            Self::ChangeNew(position) => value_text(new_value(facts, position)?),
            Self::Method => Some(request?.method),
            Self::Path => Some(request?.path),
            Self::Query => Some(request?.query),
            Self::RequestHost => Some(request?.host),
            Self::Protocol => Some(request?.protocol.as_str()),
            Self::TlsVersion => Some(request?.tls?.version),
            Self::TlsSni => request?.tls?.sni,
            Self::CertName => request?.client_cert?.name,
            Self::CertSubject => Some(request?.client_cert?.subject),
            Self::CertIssuer => Some(request?.client_cert?.issuer),
            Self::CertFingerprint => Some(request?.client_cert?.fingerprint),
            Self::Header(position) => request?.headers.get(usize::from(position)).copied()?,
            Self::Subject => caller(facts)?.subject,
            Self::Issuer => caller(facts)?.issuer,
            Self::Claim(position) => value_text(claim(facts, position)?),
            Self::PeerId => match facts.principal {
                Principal::Peer(id) => Some(id),
                _ => None,
            },
            Self::ObjectId => Some(facts.object.id),
            Self::ObjectName => Some(facts.object.name),
            Self::Class => Some(facts.object.instance?.class),
            Self::Key => Some(facts.object.instance?.key),
            Self::Clock => Some(facts.now.quality.as_str()),
            Self::HostRegion => Some(facts.host.region),
            Self::HostProvider => Some(facts.host.provider),
            Self::HostClass => Some(facts.host.class),
            Self::HostId => Some(facts.host.id),
            Self::TargetRegion => Some(target?.region),
            Self::TargetProvider => Some(target?.provider),
            Self::TargetClass => Some(target?.class),
            Self::TargetId => Some(target?.id),
            Self::TriggerKind => facts.trigger.map(|trigger| trigger.kind.as_str()),
            Self::TriggerName => facts.trigger?.name,
            Self::TriggerTopic => facts.trigger?.topic,
            Self::TriggerField => facts.trigger?.field,
            Self::Scope => facts.scope,
            Self::ReadField => facts.field,
            _ => None,
        }
    }

    /// The fact as a list of names.
    #[inline]
    pub(super) fn names<'a>(self, facts: &Facts<'a>) -> Option<&'a [&'a str]> {
        match self {
            Self::Audience => caller(facts).map(|caller| caller.audience),
            Self::Scopes => caller(facts).map(|caller| caller.scopes),
            Self::Keys => match facts.principal {
                Principal::Controller(keys) => Some(keys),
                _ => None,
            },
            Self::HoldNames => Some(facts.holds.names),
            Self::Fields => Some(facts.fields),
            _ => None,
        }
    }

    /// The fact as any operand.
    pub(super) fn operand<'a>(self, facts: &Facts<'a>) -> Result<Operand<'a>, Fault> {
        match self {
            Self::Memory(position) => memory_value(facts, position)
                .map(Operand::of)
                .ok_or(Fault::Missing)?,
            Self::Claim(position) => claim(facts, position).map(Operand::of).ok_or(Fault::Missing)?,
            Self::ChangeOld(position) => old_value(facts, position)
                .map(Operand::of)
                .ok_or(Fault::Missing)?,
            Self::ChangeNew(position) => new_value(facts, position)
                .map(Operand::of)
                .ok_or(Fault::Missing)?,
            Self::Principal => Ok(principal(facts)),
            Self::Resource => Ok(Operand::Entity(EntityKind::Object, facts.object.id)),
            Self::PeerIp => {
                let request = facts.request.as_ref().ok_or(Fault::Missing)?;
                Ok(Operand::Ip(Net::single(request.peer_ip.to_canonical())))
            }
            _ => self
                .text(facts)
                .map(Operand::Text)
                .or_else(|| self.number(facts).map(Operand::Number))
                .or_else(|| self.flag(facts).map(Operand::Bool))
                .or_else(|| self.names(facts).map(|names| Operand::Set(Items::Names(names))))
                .ok_or(Fault::Missing),
        }
    }

    /// Whether the fact is there; `has` of an optional word.
    pub(super) fn present(self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Memory(position) => memory_value(facts, position).is_some(),
            Self::Claim(position) => claim(facts, position).is_some(),
            Self::Changed(position) => change(facts, position).is_some(),
            Self::ChangeOld(position) => old_value(facts, position).is_some(),
            Self::ChangeNew(position) => new_value(facts, position).is_some(),
            Self::HasRequest => facts.request.is_some(),
            Self::HasTls => facts
                .request
                .as_ref()
                .is_some_and(|request| request.tls.is_some()),
            Self::HasClientCert => facts
                .request
                .as_ref()
                .is_some_and(|request| request.client_cert.is_some()),
            Self::RequestPort | Self::ContentLength => self.number(facts).is_some(),
            Self::Subject | Self::Header(_) | Self::TlsSni | Self::CertName => self.text(facts).is_some(),
            _ => self.operand(facts).is_ok(),
        }
    }
}

#[inline]
fn memory_value<'a>(facts: &Facts<'a>, position: u16) -> Option<&'a Value> {
    facts.object.memory.cell_at(usize::from(position))?.value.as_ref()
}

/// The write to the field at `position`, if the proposal has one.
fn change<'a>(facts: &Facts<'a>, position: u16) -> Option<&'a Changed<'a>> {
    let found = facts
        .changes
        .binary_search_by_key(&position, |change| change.position);
    facts.changes.get(found.ok()?)
}

/// What a field that is written holds before the write.
fn old_value<'a>(facts: &Facts<'a>, position: u16) -> Option<&'a Value> {
    change(facts, position)?;
    memory_value(facts, position)
}

fn new_value<'a>(facts: &Facts<'a>, position: u16) -> Option<&'a Value> {
    change(facts, position)?.new
}

#[inline]
fn value_flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(v) => Some(*v),
        _ => None,
    }
}

#[inline]
fn value_number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(v) => Some(*v),
        Value::Decimal(v) => Some(v.0),
        Value::Timestamp(v) => Some(v.0),
        Value::Duration(v) => Some(v.0),
        _ => None,
    }
}

#[inline]
fn value_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(v) | Value::Enum(v) => Some(v),
        _ => None,
    }
}

#[inline]
fn caller<'f, 'a>(facts: &'f Facts<'a>) -> Option<&'f Caller<'a>> {
    match &facts.principal {
        Principal::Caller(caller) => Some(caller),
        _ => None,
    }
}

fn claim<'a>(facts: &Facts<'a>, position: u16) -> Option<&'a Value> {
    let claims = caller(facts)?.claims;
    claims.get(usize::from(position))?.as_ref()
}

fn principal<'a>(facts: &Facts<'a>) -> Operand<'a> {
    let (kind, id) = match facts.principal {
        Principal::Caller(caller) => (EntityKind::Caller, caller.subject.unwrap_or("")),
        Principal::Host => (EntityKind::Host, "host"),
        Principal::Timer => (EntityKind::Timer, "timer"),
        Principal::Peer(id) => (EntityKind::Peer, id),
        Principal::Controller(_) => (EntityKind::Controller, "controller"),
        Principal::Workload => (EntityKind::Workload, "workload"),
        Principal::Own => (EntityKind::Own, "self"),
    };
    Operand::Entity(kind, id)
}

impl From<PrincipalKind> for EntityKind {
    fn from(kind: PrincipalKind) -> Self {
        match kind {
            PrincipalKind::Caller => Self::Caller,
            PrincipalKind::Host => Self::Host,
            PrincipalKind::Timer => Self::Timer,
            PrincipalKind::Peer => Self::Peer,
            PrincipalKind::Controller => Self::Controller,
            PrincipalKind::Workload => Self::Workload,
            PrincipalKind::Own => Self::Own,
        }
    }
}
