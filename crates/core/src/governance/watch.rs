//! What an action's rules depend on, so that a shell knows when to decide again and what may be decided early.

use std::collections::{BTreeMap, BTreeSet};

use super::action::{Action, PrincipalKind};
use super::node::{Node, NodeId};
use super::program::Program;
use super::slot::Slot;

/// What the rules of one action look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watches {
    /// Positions of memory fields whose value counts.
    pub memory: BTreeSet<u16>,
    /// Positions of memory fields whose freshness counts: decide again at their deadlines.
    pub fresh: BTreeSet<u16>,
    /// Positions of memory fields whose value after the proposed write counts.
    pub changes: BTreeSet<u16>,
    /// The object's identity counts.
    pub identity: bool,
    /// The lineage counts.
    pub lineage: bool,
    /// The time counts: decide again as it passes.
    pub now: bool,
    /// Holds count.
    pub holds: bool,
    /// Pending messages count.
    pub messages: bool,
    /// Time active or idle, connections or requests in flight count.
    pub activity: bool,
    /// The caller's token counts.
    pub caller: bool,
    /// Method, path, query, host, length, headers, TLS or the client's certificate count: each request must be decided.
    pub request: bool,
    /// Protocol or peer address count: known when a connection opens.
    pub connection: bool,
    /// Where the object is counts.
    pub host: bool,
    /// The trigger counts.
    pub trigger: bool,
}

impl Watches {
    /// Whether a connection can be decided when it opens, for all that will pass over it, until something changes
    /// that is watched.
    #[must_use]
    pub const fn at_connect(&self) -> bool {
        !self.request && !self.caller
    }

    fn add(&mut self, slot: Slot) {
        match slot {
            Slot::Memory(position) => drop(self.memory.insert(position)),
            // It falls back to zero by the clock alone.
            Slot::Counter(position) => {
                self.memory.insert(position);
                self.now = true;
            }
            Slot::ChangeOld(position) => {
                self.memory.insert(position);
                self.changes.insert(position);
            }
            Slot::Changed(position) | Slot::ChangeNew(position) => drop(self.changes.insert(position)),
            Slot::Fresh(position) => drop(self.fresh.insert(position)),
            Slot::Length
            | Slot::Epoch
            | Slot::Unsealed
            | Slot::Born
            | Slot::LastWoke
            | Slot::LastDormant
            | Slot::Refused
            | Slot::Crashes => self.lineage = true,
            // Awake, it grows by itself.
            Slot::Awake => {
                self.lineage = true;
                self.now = true;
            }
            Slot::Now | Slot::Clock => self.now = true,
            Slot::HoldCount | Slot::HoldNames => self.holds = true,
            Slot::Pending => self.messages = true,
            Slot::Active | Slot::Idle | Slot::Connections | Slot::InFlight => self.activity = true,
            Slot::Principal
            | Slot::Authenticated
            | Slot::Subject
            | Slot::Issuer
            | Slot::Audience
            | Slot::Scopes
            | Slot::Claim(_) => self.caller = true,
            Slot::Method
            | Slot::Path
            | Slot::Query
            | Slot::RequestHost
            | Slot::RequestPort
            | Slot::ContentLength
            | Slot::Header(_) => self.request = true,
            // A proxy may speak for another client with each request.
            Slot::HasTls
            | Slot::TlsVersion
            | Slot::TlsSni
            | Slot::HasClientCert
            | Slot::CertName
            | Slot::CertSubject
            | Slot::CertIssuer
            | Slot::CertFingerprint
            | Slot::CertNotAfter => self.request = true,
            Slot::Protocol | Slot::PeerIp | Slot::HasRequest | Slot::Rate(_) => self.connection = true,
            Slot::HostRegion | Slot::HostProvider | Slot::HostClass | Slot::HostId => self.host = true,
            Slot::TriggerKind
            | Slot::TriggerName
            | Slot::TriggerTopic
            | Slot::TriggerField
            | Slot::TriggerMissed => self.trigger = true,
            Slot::Resource | Slot::ObjectId => self.identity = true,
            // What is fixed for an object or given by a single proposal.
            Slot::ObjectName
            | Slot::Class
            | Slot::Key
            | Slot::Instances
            | Slot::MaxInstances
            | Slot::PeerRate
            | Slot::ClassRate
            | Slot::PeerId
            | Slot::Keys
            | Slot::Fields
            | Slot::Scope
            | Slot::Warm
            | Slot::ReadField
            | Slot::TargetRegion
            | Slot::TargetProvider
            | Slot::TargetClass
            | Slot::TargetId => {}
        }
    }
}

impl Program {
    /// What the rules of `action` look at, whoever proposes.
    #[must_use]
    pub fn watches(&self, action: Action) -> Watches {
        let mut watches = Watches::default();
        self.slots(action, None)
            .into_iter()
            .for_each(|slot| watches.add(slot));
        watches
    }

    /// The slots that rules of `action` read, for one sort of principal or all.
    pub(super) fn slots(&self, action: Action, principal: Option<PrincipalKind>) -> BTreeSet<Slot> {
        let kinds = PrincipalKind::ALL
            .iter()
            .filter(|kind| principal.is_none_or(|only| only == **kind));
        let bodies = kinds.flat_map(|kind| self.bodies(action, *kind));
        self.slots_of(bodies.flat_map(|body| body.clauses.iter().map(|(node, _)| *node)))
    }

    /// The slots that these expressions read.
    pub(super) fn slots_of(&self, nodes: impl Iterator<Item = NodeId>) -> BTreeSet<Slot> {
        let reached = self.reached(nodes);
        let slot = |node: &Node| match node {
            Node::Slot(slot) | Node::Has(slot) => Some(*slot),
            _ => None,
        };
        reached.values().copied().filter_map(slot).collect()
    }

    /// These expressions and their operands, operands first.
    pub(super) fn reached(&self, nodes: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, &Node> {
        let mut open: Vec<NodeId> = nodes.collect();
        let mut reached = BTreeMap::new();
        while let Some(id) = open.pop() {
            let node = usize::try_from(id)
                .ok()
                .and_then(|id| self.listing().nodes.get(id));
            let Some(node) = node else { continue };
            if reached.insert(id, node).is_none() {
                node.operands(|id| open.push(id));
            }
        }
        reached
    }
}
