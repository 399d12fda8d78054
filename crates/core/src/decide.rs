//! One answer to every proposal: invariants first, then the rules the object carries.
//!
//! [`decide`] is pure, total and deterministic: the same state, program and inputs give the same bytes, so that a
//! recorded decision can be made again ([`replay`]). Only here a [`Permit`] is made; gate and lifecycle cannot move
//! without one. Requests at the gate take [`admit`], the same decision without the words.

use std::net::IpAddr;

use crate::class::Membership;
use crate::governance::{self, Action, Facts, Judgement, Program, Residual, RuleSet, Vocabulary};
use crate::id::{BundleId, ObjectId};
use crate::inputs::{Conditions, Inputs, Principal, Witnessed, WorkloadEnd};
use crate::lineage::{Decision, Head, Invariant, Outcome, Phase, State};
use crate::memory::{Cells, Memory};
use crate::time::Span;

/// The rules of one bundle, as decisions use them.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The bundle.
    pub bundle: BundleId,
    /// Its compiled rules.
    pub program: Program,
    /// Its words.
    pub vocabulary: Vocabulary,
}

/// What a decision is about: the object as it stands, and the rules it carries.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Head of the verified chain.
    pub head: &'a Head,
    /// Memory of the verified chain.
    pub memory: &'a Memory,
    /// The compiled rules.
    pub program: &'a Program,
    /// The words that its claims and headers are found by.
    pub vocabulary: &'a Vocabulary,
    /// The bundle that both belong to.
    pub bundle: BundleId,
}

impl<'a> View<'a> {
    /// The view of a state under the rules of a bundle.
    #[must_use]
    pub const fn new(state: &'a State, rules: &'a Rules) -> Self {
        let Rules {
            bundle,
            program,
            vocabulary,
        } = rules;
        Self {
            head: state.head(),
            memory: state.memory(),
            program,
            vocabulary,
            bundle: *bundle,
        }
    }
}

/// An object as invariants and rules look at it, from a state or from what a door keeps of one.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The object.
    pub object: ObjectId,
    /// Its name for people.
    pub name: &'a str,
    /// Its phase of life.
    pub phase: Phase,
    /// What its lineage says.
    pub lineage: governance::Lineage,
    /// What its memory holds, at least where its rules look.
    pub memory: &'a Cells,
    /// Which instance of which class it is, if any.
    pub instance: Option<&'a Membership>,
    /// The bundle in force.
    pub in_force: BundleId,
    /// The bundle of the rules at hand.
    pub bundle: BundleId,
    /// The rules at hand.
    pub program: &'a Program,
    /// Their words.
    pub vocabulary: &'a Vocabulary,
}

impl<'a> From<View<'a>> for Subject<'a> {
    fn from(view: View<'a>) -> Self {
        Self {
            object: view.head.object,
            name: &view.head.name,
            phase: view.head.phase,
            lineage: lineage_facts(view.head),
            memory: view.memory,
            instance: view.head.class.as_ref(),
            in_force: view.head.bundle,
            bundle: view.bundle,
            program: view.program,
            vocabulary: view.vocabulary,
        }
    }
}

/// Proof of a positive verdict. Only [`decide`] and [`admit`] make one.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(Action);

impl Permit {
    /// What is permitted.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.0
    }
}

/// The answer to a proposal, with the decision to record.
#[derive(Debug)]
pub enum Verdict {
    /// Yes.
    Permit(Permit, Box<Decision>),
    /// No.
    Refuse(Box<Decision>),
}

impl Verdict {
    /// The decision, whatever the answer.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        match self {
            Self::Permit(_, decision) | Self::Refuse(decision) => decision,
        }
    }
}

/// Answers a proposal to take `action` on `target`.
#[must_use]
pub fn decide(view: View<'_>, action: Action, target: ObjectId, inputs: Inputs) -> Verdict {
    answer(judge(view.into(), action, target, inputs))
}

/// What the object proposes of itself with these facts: its end or its move, where one of the rules that permit it names
/// `Self`. Rules that let anybody do it make no proposal.
#[must_use]
pub fn own_proposal(view: View<'_>, action: Action, inputs: Inputs) -> Option<(Permit, Box<Decision>)> {
    let named = view.program.naming_self(action);
    if named.is_empty() || inputs.principal != Principal::Own {
        return None;
    }
    let Verdict::Permit(permit, decision) = decide(view, action, view.head.object, inputs) else {
        return None;
    };
    let reasons = &decision.explanation.as_ref()?.reasons;
    let own = |id: &str| reasons.iter().any(|reason| reason.rule == id);
    let names_itself = named
        .iter()
        .filter_map(|rule| view.program.rule(rule))
        .any(|rule| own(&rule.id));
    names_itself.then_some((permit, decision))
}

/// Answers a proposal to found an instance; `template` is one as it would be born.
pub(crate) fn instantiate(template: Subject<'_>, inputs: Inputs) -> Verdict {
    answer(judge(template, Action::Instantiate, template.object, inputs))
}

fn answer(decision: Decision) -> Verdict {
    match decision.outcome {
        Outcome::Permit => Verdict::Permit(Permit(decision.action), Box::new(decision)),
        _ => Verdict::Refuse(Box::new(decision)),
    }
}

/// The answer to a proposal for the resident object itself, in words, without a permit: for refusals, `why` and
/// `what-if`.
#[must_use]
pub fn evaluate<'a>(subject: impl Into<Subject<'a>>, action: Action, inputs: Inputs) -> Decision {
    let subject = subject.into();
    judge(subject, action, subject.object, inputs)
}

/// What the rules would say of `action` if the object were awake; for the door, which turns away whoever would not be
/// admitted before anything is started.
#[must_use]
pub fn evaluate_as_if_awake<'a>(subject: impl Into<Subject<'a>>, action: Action, inputs: Inputs) -> Decision {
    let subject = Subject {
        phase: Phase::Active,
        ..subject.into()
    };
    judge(subject, action, subject.object, inputs)
}

/// The decision about an object asleep, before it is woken: `wake`; and where that is permitted and a request asks, that
/// of `admit` as if the object were awake.
pub fn evaluate_asleep<'a>(subject: impl Into<Subject<'a>>, inputs: Inputs) -> Decision {
    let subject = subject.into();
    let wake = evaluate(subject, Action::Wake, inputs);
    if wake.outcome != Outcome::Permit || wake.inputs.request.is_none() {
        return wake;
    }
    evaluate_as_if_awake(subject, Action::Admit, wake.inputs)
}

/// The answers of [`evaluate`] to `wake`, and where a request asks to `admit` as [`evaluate_as_if_awake`] gives it,
/// without their words: the rules that permit, or the action that is refused. For a door that answers for many objects:
/// facts are put together once, and nothing is allocated but where callers carry claims, scopes or declared headers.
/// `id` is the object's id as text; it may be empty where [`governance::Watches::identity`] says that the rules do not
/// look at it.
///
/// # Errors
/// [`Refused`], to be put in words by [`evaluate`] or [`evaluate_as_if_awake`].
pub fn evaluate_quick(
    subject: &Subject<'_>,
    id: &str,
    inputs: &Inputs,
) -> Result<RuleSet, (Action, Refused)> {
    let broken = |subject: &Subject<'_>, action| {
        invariant(subject, action, subject.object, &inputs.conditions)
            .map(|broken| (action, Refused::Invariant(broken)))
    };
    if let Some(refused) = broken(subject, Action::Wake) {
        return Err(refused);
    }
    let unadmitted = inputs.request.as_ref().and_then(|_| {
        let awake = Subject {
            phase: Phase::Active,
            ..*subject
        };
        broken(&awake, Action::Admit)
    });
    with_facts(subject, id, inputs, |facts| {
        let judge = |action| {
            let judgement = subject.program.judge(action, facts);
            match judgement.outcome {
                governance::Outcome::Permit => Ok(judgement.deciding),
                governance::Outcome::Refuse => Err((action, Refused::Rules(judgement))),
            }
        };
        let woken = judge(Action::Wake)?;
        match (unadmitted, &inputs.request) {
            (Some(refused), _) => Err(refused),
            (None, Some(_)) => judge(Action::Admit),
            (None, None) => Ok(woken),
        }
    })
}

/// For how long the rules' answer is known to stay the same if time passes and nothing else happens, as
/// [`Program::steady_for`] says.
#[must_use]
pub fn steady_for<'a>(subject: impl Into<Subject<'a>>, action: Action, inputs: &Inputs) -> Option<Span> {
    let subject = subject.into();
    // What rules compare with a clock is no name.
    with_facts(&subject, "", inputs, |facts| {
        subject.program.steady_for(action, facts)
    })
}

/// Makes a recorded decision again, from the state before its record.
#[must_use]
pub fn replay(view: View<'_>, recorded: &Decision) -> Decision {
    judge(
        view.into(),
        recorded.action,
        view.head.object,
        recorded.inputs.clone(),
    )
}

fn judge(subject: Subject<'_>, action: Action, target: ObjectId, inputs: Inputs) -> Decision {
    let broken = invariant(&subject, action, target, &inputs.conditions)
        .or_else(|| unfoundable(&subject, action, &inputs));
    let explanation = broken.is_none().then(|| {
        let id = subject.object.to_string();
        with_facts(&subject, &id, &inputs, |facts| {
            let judgement = subject.program.judge(action, facts);
            subject.program.explain(action, facts, &judgement)
        })
    });
    let permitted = explanation
        .as_ref()
        .is_some_and(|e| e.outcome == governance::Outcome::Permit);
    let outcome = if permitted {
        Outcome::Permit
    } else {
        Outcome::Refuse(broken)
    };
    Decision {
        action,
        outcome,
        explanation,
        inputs,
    }
}

/// Decides one request or connection at the gate: the permit and the rules that gave it, or the judgement that
/// refuses. No allocation. `residual` is the program with this very state worked in, where the caller keeps one; once
/// it is no longer valid the whole program judges.
///
/// # Errors
/// The [`Judgement`], to be put in words by [`evaluate`]; or the invariant that forbids any admission.
pub fn admit(
    view: View<'_>,
    residual: Option<&Residual>,
    facts: &Facts<'_>,
) -> Result<(Permit, RuleSet), Refused> {
    if let Some(broken) = wrong_phase(view.head.phase, Action::Admit) {
        return Err(Refused::Invariant(broken));
    }
    let residual = residual.and_then(|residual| residual.judge(facts));
    let judgement = residual.unwrap_or_else(|| view.program.judge(Action::Admit, facts));
    match judgement.outcome {
        governance::Outcome::Permit => Ok((Permit(Action::Admit), judgement.deciding)),
        governance::Outcome::Refuse => Err(Refused::Rules(judgement)),
    }
}

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// By an invariant.
    Invariant(Invariant),
    /// By the rules.
    Rules(Judgement),
}

/// The first invariant that does not hold.
fn invariant(
    subject: &Subject<'_>,
    action: Action,
    target: ObjectId,
    conditions: &Conditions,
) -> Option<Invariant> {
    wrong_identity(subject, target)
        .or_else(|| wrong_phase(subject.phase, action))
        .or_else(|| witness(conditions.witness).filter(|_| matches!(action, Action::Wake | Action::Remain)))
        .or_else(|| conditions.incapable.then_some(Invariant::Incapable))
        .or_else(|| workload(conditions.workload).filter(|_| action == Action::Remain))
}

/// Instances are founded of a class, which has no history, and only where there is room for one more.
fn unfoundable(subject: &Subject<'_>, action: Action, inputs: &Inputs) -> Option<Invariant> {
    if action != Action::Instantiate {
        return None;
    }
    match inputs.founding {
        Some(founding) if subject.lineage.length == 0 => {
            (founding.instances >= founding.max_instances).then_some(Invariant::ClassFull)
        }
        _ => Some(Invariant::WrongPhase),
    }
}

fn wrong_identity(subject: &Subject<'_>, target: ObjectId) -> Option<Invariant> {
    if target != subject.object {
        Some(Invariant::WrongObject)
    } else if subject.bundle != subject.in_force {
        Some(Invariant::WrongBundle)
    } else {
        None
    }
}

fn wrong_phase(phase: Phase, action: Action) -> Option<Invariant> {
    let ends = matches!(action, Action::Terminate | Action::Read);
    match (phase, action) {
        (Phase::Terminated, Action::Read) => None,
        (Phase::Terminated, _) => Some(Invariant::Terminated),
        (Phase::Quarantined, _) if !ends => Some(Invariant::Quarantined),
        (Phase::Departed, _) if !ends => Some(Invariant::Departed),
        (Phase::Dormant, Action::Remain | Action::Admit | Action::Sleep) => Some(Invariant::WrongPhase),
        (Phase::Active, Action::Migrate) => Some(Invariant::WrongPhase),
        _ => None,
    }
}

const fn witness(witnessed: Witnessed) -> Option<Invariant> {
    match witnessed {
        Witnessed::Absent | Witnessed::Agrees => None,
        Witnessed::Missing => Some(Invariant::NoWitness),
        Witnessed::Newer => Some(Invariant::RolledBack),
        Witnessed::Twin => Some(Invariant::Twin),
    }
}

const fn workload(end: Option<WorkloadEnd>) -> Option<Invariant> {
    match end {
        None => None,
        Some(WorkloadEnd::Failed) => Some(Invariant::WorkloadFailed),
        Some(WorkloadEnd::Gone | WorkloadEnd::Crashed) => Some(Invariant::WorkloadGone),
    }
}

/// What lineage offers to rules.
#[must_use]
pub fn lineage_facts(head: &Head) -> governance::Lineage {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    governance::Lineage {
        length: number(head.seq.saturating_add(1)),
        epoch: number(head.epoch),
        unsealed: head.unsealed,
        born: head.born,
        last_woke: head.last_woke,
        last_dormant: head.last_dormant,
        refused: number(head.refused),
        crashes: number(head.crashes),
        awake: head.awake,
        awake_since: head.awake_since(),
    }
}

/// Borrows recorded inputs and the object as the facts that rules look at.
fn with_facts<R>(subject: &Subject<'_>, id: &str, inputs: &Inputs, run: impl FnOnce(&Facts<'_>) -> R) -> R {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let object = governance::Object {
        id,
        name: subject.name,
        memory: subject.memory,
        lineage: subject.lineage,
        instance: subject.instance.map(Membership::facts),
    };
    let words = Words::of(&inputs.principal);
    let (audience, scopes): (Vec<&str>, Vec<&str>) = match &inputs.principal {
        Principal::Caller(caller) => (texts(&caller.audience), texts(&caller.scopes)),
        _ => (Vec::new(), Vec::new()),
    };
    let keys = texts(&words.keys);
    let claims = claims(subject.vocabulary, &inputs.principal);
    let principal = principal(&inputs.principal, &words, &audience, &scopes, &keys, &claims);
    let host = host(&inputs.host);
    let holds: Vec<&str> = inputs.holds.iter().map(String::as_str).collect();
    let fields: Vec<&str> = inputs.fields.iter().map(String::as_str).collect();
    let headers = headers(subject.vocabulary, inputs);
    let mut facts = Facts::new(principal, object, inputs.now, host);
    facts.holds = governance::Holds { names: &holds };
    facts.messages = number(inputs.pending);
    facts.trigger = inputs.trigger.as_ref().map(|trigger| governance::Trigger {
        kind: trigger.kind,
        name: trigger.name.as_deref(),
        topic: trigger.topic.as_deref(),
        field: trigger.field.as_deref(),
        missed: number(trigger.missed),
    });
    facts.request = inputs.request.as_ref().map(|request| governance::Request {
        protocol: request.protocol,
        peer_ip: canonical(request.peer_ip),
        method: &request.method,
        path: &request.path,
        query: &request.query,
        host: &request.host,
        port: request.port.map(i64::from),
        content_length: request.content_length.map(number),
        headers: &headers,
        tls: request.tls.as_ref().map(crate::inputs::Tls::facts),
        client_cert: request
            .client_cert
            .as_deref()
            .map(crate::inputs::ClientCert::facts),
    });
    facts.activity = inputs.activity.map(|activity| governance::Activity {
        active: activity.active,
        idle: activity.idle,
        connections: number(activity.connections),
        in_flight: number(activity.in_flight),
    });
    facts.fields = &fields;
    let changes = changes(subject, inputs);
    facts.changes = &changes;
    let rates = rates(subject.vocabulary, inputs);
    facts.rates = &rates;
    facts.field = fields.first().copied();
    facts.target = inputs.to.as_ref().map(self::host);
    facts.scope = inputs.scope.as_deref();
    facts.warm = inputs.warm;
    facts.founding = inputs.founding.map(|founding| governance::Founding {
        instances: number(founding.instances),
        max_instances: number(founding.max_instances),
        peer_rate: number(founding.peer_rate),
        class_rate: number(founding.class_rate),
    });
    run(&facts)
}

/// IPv4 mapped into IPv6 is IPv4, so that one rule holds for both kinds of socket.
const fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// A host as rules see it.
#[must_use]
pub fn host(host: &crate::inputs::Host) -> governance::Host<'_> {
    governance::Host {
        region: &host.region,
        provider: &host.provider,
        class: &host.class,
        id: &host.id,
    }
}

fn texts<'a>(list: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    list.into_iter().map(String::as_str).collect()
}

/// Texts of a principal that facts borrow, where it has none.
#[derive(Default)]
struct Words {
    keys: Vec<String>,
    peer: String,
}

impl Words {
    fn of(principal: &Principal) -> Self {
        match principal {
            Principal::Controller(owners) => Self {
                keys: owners.keys().iter().map(ToString::to_string).collect(),
                ..Self::default()
            },
            Principal::Peer(id) => Self {
                peer: id.to_string(),
                ..Self::default()
            },
            Principal::Caller(_)
            | Principal::Host
            | Principal::Timer
            | Principal::Workload
            | Principal::Own => Self::default(),
        }
    }
}

fn principal<'a>(
    principal: &'a Principal,
    words: &'a Words,
    audience: &'a [&'a str],
    scopes: &'a [&'a str],
    keys: &'a [&'a str],
    claims: &'a [Option<crate::memory::Value>],
) -> governance::Principal<'a> {
    match principal {
        Principal::Caller(caller) => governance::Principal::Caller(governance::Caller {
            authenticated: caller.authenticated,
            subject: caller.subject.as_deref(),
            issuer: caller.issuer.as_deref(),
            audience,
            scopes,
            claims,
        }),
        Principal::Host => governance::Principal::Host,
        Principal::Timer => governance::Principal::Timer,
        Principal::Peer(_) => governance::Principal::Peer(&words.peer),
        Principal::Controller(_) => governance::Principal::Controller(keys),
        Principal::Workload => governance::Principal::Workload,
        Principal::Own => governance::Principal::Own,
    }
}

/// The values that a write would leave, by the positions of their fields.
fn changes<'a>(subject: &Subject<'a>, inputs: &'a Inputs) -> Vec<governance::Changed<'a>> {
    let schema = subject.memory.schema();
    let changed = |(name, new): (&crate::memory::Name, &'a Option<crate::memory::Value>)| {
        Some(governance::Changed {
            position: u16::try_from(schema.position(name.as_str())?).ok()?,
            new: new.as_ref(),
        })
    };
    // Positions and names have the same order.
    inputs.written.iter().filter_map(changed).collect()
}

/// How often the one who asks did so, by the positions of the rates. Where nobody counted, or the rate was not declared then, a
/// request is the first.
fn rates(vocabulary: &Vocabulary, inputs: &Inputs) -> Vec<i64> {
    if inputs.request.is_none() {
        return Vec::new();
    }
    let number = |name| inputs.rates.get(name).copied().unwrap_or(1);
    vocabulary.rates.keys().map(number).collect()
}

/// A caller's claims by their position in the vocabulary.
fn claims(vocabulary: &Vocabulary, principal: &Principal) -> Vec<Option<crate::memory::Value>> {
    match principal {
        Principal::Caller(caller) => vocabulary
            .claims
            .keys()
            .map(|name| caller.claims.get(name).cloned())
            .collect(),
        _ => Vec::new(),
    }
}

/// A request's headers by their position in the vocabulary.
fn headers<'a>(vocabulary: &Vocabulary, inputs: &'a Inputs) -> Vec<Option<&'a str>> {
    let Some(request) = &inputs.request else {
        return Vec::new();
    };
    let value = |name: &String| request.headers.get(name).map(String::as_str);
    vocabulary.headers.iter().map(value).collect()
}
