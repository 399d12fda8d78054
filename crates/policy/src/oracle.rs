//! The oracle: the same decision by Cedar's own authorizer, built from the facts without any of our slots.
//!
//! For tests, `check --oracle` and benchmarks; far too slow and too forgiving of errors to run in a machine.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId,
    PolicySet, Request, RestrictedExpression as Expr,
};
use suijuris_core::governance::{self as gov, Action, Facts, Principal, Vocabulary};
use suijuris_core::memory::{Kind, Name, Value};

/// Cedar's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether Cedar allows.
    pub allowed: bool,
    /// Indices of the rules that decided, in text order.
    pub reasons: BTreeSet<usize>,
    /// Indices of the rules that erred. Cedar skips them.
    pub errors: BTreeSet<usize>,
}

/// Why Cedar could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("cedar cannot take {what}: {why}")]
pub struct OracleError {
    what: &'static str,
    why: String,
}

fn fault<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> OracleError {
    move |error| OracleError {
        what,
        why: error.to_string(),
    }
}

/// Rules as Cedar holds them.
#[derive(Debug)]
pub struct Oracle {
    policies: PolicySet,
    order: HashMap<PolicyId, usize>,
    authorizer: Authorizer,
}

impl Oracle {
    /// Parses rules that have been compiled before.
    ///
    /// # Errors
    /// [`OracleError`] if Cedar does not parse them.
    pub fn new(source: &str) -> Result<Self, OracleError> {
        let policies = PolicySet::from_str(source).map_err(fault("rules"))?;
        // Cedar names static policies policy0, policy1, … in text order.
        let number = |id: &PolicyId| id.to_string().strip_prefix("policy")?.parse().ok();
        let order = policies
            .policies()
            .filter_map(|policy| Some((policy.id().clone(), number(policy.id())?)))
            .collect();
        Ok(Self {
            policies,
            order,
            authorizer: Authorizer::new(),
        })
    }

    /// Asks Cedar.
    ///
    /// # Errors
    /// [`OracleError`] if the facts cannot be put as entities.
    pub fn authorize(
        &self,
        vocabulary: &Vocabulary,
        action: Action,
        facts: &Facts<'_>,
    ) -> Result<Answer, OracleError> {
        let entities = entities(vocabulary, facts)?;
        let request = request(vocabulary, action, facts)?;
        Ok(self.decide(&request, &entities))
    }

    /// Asks Cedar with entities and request made before.
    #[must_use]
    pub fn decide(&self, request: &Request, entities: &Entities) -> Answer {
        let response = self.authorizer.is_authorized(request, &self.policies, entities);
        let index = |id: &PolicyId| self.order.get(id).copied();
        let diagnostics = response.diagnostics();
        let errors = diagnostics.errors().filter_map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => index(error.policy_id()),
        });
        Answer {
            allowed: response.decision() == Decision::Allow,
            reasons: diagnostics.reason().filter_map(index).collect(),
            errors: errors.collect(),
        }
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, OracleError> {
    let kind = EntityTypeName::from_str(kind).map_err(fault("an entity type"))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn text(value: &str) -> Expr {
    Expr::new_string(value.to_owned())
}

fn texts(values: &[&str]) -> Expr {
    Expr::new_set(values.iter().map(|value| text(value)))
}

fn instant(ms: i64) -> Expr {
    // Cedar has no instant from a number; an offset from the epoch is its canonical form.
    Expr::from_str(&format!("datetime(\"1970-01-01\").offset(duration(\"{ms}ms\"))"))
        .unwrap_or_else(|_| text(""))
}

fn duration(ms: i64) -> Expr {
    Expr::new_duration(format!("{ms}ms"))
}

fn record(parts: Vec<(String, Expr)>) -> Result<Expr, OracleError> {
    Expr::new_record(parts).map_err(fault("a record"))
}

/// Attributes under construction.
#[derive(Default)]
struct Parts(Vec<(String, Expr)>);

impl Parts {
    fn with(mut self, name: &str, value: Expr) -> Self {
        self.0.push((name.to_owned(), value));
        self
    }

    fn maybe(self, name: &str, value: Option<Expr>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn record(self) -> Result<Expr, OracleError> {
        record(self.0)
    }
}

/// A memory value or claim as Cedar sees it.
fn value_of(kind: &Kind, value: &Value) -> Result<Expr, OracleError> {
    let all = |kind: &Kind, values: &mut dyn Iterator<Item = &Value>| {
        let items: Vec<Expr> = values
            .map(|value| value_of(kind, value))
            .collect::<Result<_, _>>()?;
        Ok(Expr::new_set(items))
    };
    match (kind, value) {
        (_, Value::Bool(v)) => Ok(Expr::new_bool(*v)),
        (_, Value::Int(v)) => Ok(Expr::new_long(*v)),
        (_, Value::Decimal(v)) => Ok(Expr::new_decimal(v.to_string())),
        (_, Value::String(v) | Value::Enum(v)) => Ok(text(v)),
        (_, Value::Bytes(v)) => Ok(Expr::new_string(base64(v))),
        (_, Value::Timestamp(v)) => Ok(instant(v.0)),
        (_, Value::Duration(v)) => Ok(duration(v.0)),
        (Kind::Set(kind), Value::Set(v)) => all(kind, &mut v.iter()),
        (Kind::List(kind), Value::List(v)) => all(kind, &mut v.iter()),
        (Kind::Map(kind), Value::Map(v)) => {
            let entry = |(key, value): (&String, &Value)| {
                Parts::default()
                    .with("key", text(key))
                    .with("value", value_of(kind, value)?)
                    .record()
            };
            Ok(Expr::new_set(v.iter().map(entry).collect::<Result<Vec<_>, _>>()?))
        }
        (Kind::Record(kinds), Value::Record(v)) => {
            let part = |(name, value): (&String, &Value)| {
                let kind = kinds.get(name.as_str()).unwrap_or(&Kind::Bool);
                Ok((name.clone(), value_of(kind, value)?))
            };
            record(v.iter().map(part).collect::<Result<_, OracleError>>()?)
        }
        _ => Err(OracleError {
            what: "a value",
            why: "it is not of its declared type".to_owned(),
        }),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let chunk = |start: usize| {
        let chunk: String = bits.chars().skip(start).take(6).collect();
        usize::from_str_radix(&format!("{chunk:0<6}"), 2).unwrap_or(0)
    };
    let digits = (0..bits.len()).step_by(6).map(|start| DIGITS.get(chunk(start)));
    digits.flatten().map(|digit| char::from(*digit)).collect()
}

/// The object and the principal as entities.
///
/// # Errors
/// [`OracleError`] if a value is not of its declared type.
pub fn entities(vocabulary: &Vocabulary, facts: &Facts<'_>) -> Result<Entities, OracleError> {
    let object = Entity::new(
        uid("Object", facts.object.id)?,
        object_parts(vocabulary, facts)?.0.into_iter().collect(),
        Default::default(),
    );
    let principal = Entity::new(
        uid(facts.principal.kind().as_str(), facts.principal.id())?,
        principal_parts(vocabulary, &facts.principal)?
            .0
            .into_iter()
            .collect(),
        Default::default(),
    );
    Entities::from_entities(
        [
            object.map_err(fault("the object"))?,
            principal.map_err(fault("the principal"))?,
        ],
        None,
    )
    .map_err(fault("entities"))
}

fn object_parts(vocabulary: &Vocabulary, facts: &Facts<'_>) -> Result<Parts, OracleError> {
    let object = &facts.object;
    let (mut memory, mut fresh) = (Parts::default(), Parts::default());
    for (name, field) in vocabulary.memory.iter() {
        let value = object.memory.value_at(name.as_str(), facts.now.at);
        if let Some(value) = value.filter(|_| !field.secret) {
            memory = memory.with(name.as_str(), value_of(&field.kind, &value)?);
        }
        let freshness = object.memory.freshness(name.as_str(), facts.now);
        let is_fresh = freshness == Some(suijuris_core::memory::Freshness::Fresh);
        fresh = fresh.with(name.as_str(), Expr::new_bool(is_fresh));
    }
    let lineage = Parts::default()
        .with("length", Expr::new_long(object.lineage.length))
        .with("epoch", Expr::new_long(object.lineage.epoch))
        .with("unsealed", Expr::new_bool(object.lineage.unsealed))
        .with("born", instant(object.lineage.born.0))
        .maybe("last_woke", object.lineage.last_woke.map(|at| instant(at.0)))
        .maybe(
            "last_dormant",
            object.lineage.last_dormant.map(|at| instant(at.0)),
        )
        .with("refused", Expr::new_long(object.lineage.refused))
        .with("crashes", Expr::new_long(object.lineage.crashes));
    let awake = object.lineage.awake_at(facts.now.at);
    let usage = Parts::default().with("awake", duration(awake.0));
    let count = i64::try_from(facts.holds.names.len()).map_err(fault("holds"))?;
    let holds = Parts::default()
        .with("count", Expr::new_long(count))
        .with("names", texts(facts.holds.names));
    let messages = Parts::default().with("pending", Expr::new_long(facts.messages));
    Ok(Parts::default()
        .with("id", text(object.id))
        .with("name", text(object.name))
        .maybe("class", object.instance.map(|instance| text(instance.class)))
        .maybe("key", object.instance.map(|instance| text(instance.key)))
        .with("memory", memory.record()?)
        .with("fresh", fresh.record()?)
        .with("lineage", lineage.record()?)
        .with("usage", usage.record()?)
        .with("holds", holds.record()?)
        .with("messages", messages.record()?))
}

fn principal_parts(vocabulary: &Vocabulary, principal: &Principal<'_>) -> Result<Parts, OracleError> {
    Ok(match principal {
        Principal::Caller(caller) => {
            let mut claims = Parts::default();
            for ((name, kind), value) in vocabulary.claims.iter().zip(caller.claims) {
                if let Some(value) = value {
                    claims = claims.with(name.as_str(), value_of(kind, value)?);
                }
            }
            Parts::default()
                .with("authenticated", Expr::new_bool(caller.authenticated))
                .maybe("subject", caller.subject.map(text))
                .maybe("issuer", caller.issuer.map(text))
                .with("audience", texts(caller.audience))
                .with("scopes", texts(caller.scopes))
                .with("claims", claims.record()?)
        }
        Principal::Peer(id) => Parts::default().with("id", text(id)),
        Principal::Controller(keys) => Parts::default().with("keys", texts(keys)),
        Principal::Host | Principal::Timer | Principal::Workload | Principal::Own => Parts::default(),
    })
}

fn host_parts(host: &gov::Host<'_>) -> Result<Expr, OracleError> {
    Parts::default()
        .with("region", text(host.region))
        .with("provider", text(host.provider))
        .with("class", text(host.class))
        .with("id", text(host.id))
        .record()
}

fn request_parts(vocabulary: &Vocabulary, request: &gov::Request<'_>) -> Result<Expr, OracleError> {
    let mut headers = Parts::default();
    for (name, value) in vocabulary.headers.iter().zip(request.headers) {
        headers = headers.maybe(name, value.map(text));
    }
    Parts::default()
        .with("protocol", text(request.protocol.as_str()))
        .with(
            "peer_ip",
            Expr::new_ip(request.peer_ip.to_canonical().to_string()),
        )
        .with("method", text(request.method))
        .with("path", text(request.path))
        .with("query", text(request.query))
        .with("host", text(request.host))
        .maybe("port", request.port.map(Expr::new_long))
        .maybe("content_length", request.content_length.map(Expr::new_long))
        .with("headers", headers.record()?)
        .maybe("tls", request.tls.as_ref().map(tls_parts).transpose()?)
        .maybe(
            "client_cert",
            request.client_cert.as_ref().map(cert_parts).transpose()?,
        )
        .record()
}

fn tls_parts(tls: &gov::Tls<'_>) -> Result<Expr, OracleError> {
    Parts::default()
        .with("version", text(tls.version))
        .maybe("sni", tls.sni.map(text))
        .record()
}

fn cert_parts(cert: &gov::ClientCert<'_>) -> Result<Expr, OracleError> {
    Parts::default()
        .maybe("name", cert.name.map(text))
        .with("subject", text(cert.subject))
        .with("issuer", text(cert.issuer))
        .with("fingerprint", text(cert.fingerprint))
        .with("not_after", instant(cert.not_after.0))
        .record()
}

fn trigger_parts(trigger: &gov::Trigger<'_>) -> Result<Expr, OracleError> {
    Parts::default()
        .with("kind", text(trigger.kind.as_str()))
        .maybe("name", trigger.name.map(text))
        .maybe("topic", trigger.topic.map(text))
        .maybe("field", trigger.field.map(text))
        .with("missed", Expr::new_long(trigger.missed))
        .record()
}

fn change_parts(vocabulary: &Vocabulary, facts: &Facts<'_>) -> Result<Expr, OracleError> {
    let mut all = Parts::default();
    for change in facts.changes {
        let Some((name, field)) = vocabulary.memory.at(usize::from(change.position)) else {
            continue;
        };
        let old = facts.object.memory.value_at(name.as_str(), facts.now.at);
        let old = old.map(|old| value_of(&field.kind, &old)).transpose()?;
        let new = change.new.map(|new| value_of(&field.kind, new)).transpose()?;
        let parts = Parts::default().maybe("old", old).maybe("new", new);
        all = all.with(name.as_str(), parts.record()?);
    }
    all.record()
}

fn rate_parts(vocabulary: &Vocabulary, facts: &Facts<'_>) -> Result<Expr, OracleError> {
    let numbers = vocabulary.rates.keys().zip(facts.rates);
    let with =
        |parts: Parts, (name, number): (&Name, &i64)| parts.with(name.as_str(), Expr::new_long(*number));
    numbers.fold(Parts::default(), with).record()
}

fn activity_parts(activity: &gov::Activity) -> Result<Expr, OracleError> {
    Parts::default()
        .with("active", duration(activity.active.0))
        .with("idle", duration(activity.idle.0))
        .with("connections", Expr::new_long(activity.connections))
        .with("in_flight", Expr::new_long(activity.in_flight))
        .record()
}

fn instantiate_parts(vocabulary: &Vocabulary, facts: &Facts<'_>, parts: Parts) -> Result<Parts, OracleError> {
    let request = facts.request.as_ref();
    let request = request
        .map(|request| request_parts(vocabulary, request))
        .transpose()?;
    let parts = parts
        .maybe("key", facts.object.instance.map(|instance| text(instance.key)))
        .maybe("request", request);
    let Some(founding) = facts.founding else {
        return Ok(parts);
    };
    let rate = Parts::default()
        .with("peer", Expr::new_long(founding.peer_rate))
        .with("class", Expr::new_long(founding.class_rate));
    Ok(parts
        .with("instances", Expr::new_long(founding.instances))
        .with("max_instances", Expr::new_long(founding.max_instances))
        .with("rate", rate.record()?))
}

/// The proposal as a Cedar request.
///
/// # Errors
/// [`OracleError`] if the facts cannot be put as a context.
pub fn request(vocabulary: &Vocabulary, action: Action, facts: &Facts<'_>) -> Result<Request, OracleError> {
    let mut parts = Parts::default()
        .with("now", instant(facts.now.at.0))
        .with("clock", text(facts.now.quality.as_str()))
        .with("host", host_parts(&facts.host)?);
    let request = facts.request.as_ref();
    match action {
        Action::Wake => {
            let trigger = facts.trigger.as_ref().map(trigger_parts).transpose()?;
            let request = request
                .map(|request| request_parts(vocabulary, request))
                .transpose()?;
            let rate = request
                .as_ref()
                .map(|_| rate_parts(vocabulary, facts))
                .transpose()?;
            parts = parts.maybe("trigger", trigger).maybe("request", request);
            parts = parts.maybe("rate", rate);
        }
        Action::Admit => {
            let request = request
                .map(|request| request_parts(vocabulary, request))
                .transpose()?;
            parts = parts.maybe("request", request);
            parts = parts.with("rate", rate_parts(vocabulary, facts)?);
        }
        Action::Remain | Action::Sleep => {
            let activity = facts.activity.as_ref().map(activity_parts).transpose()?;
            parts = parts.maybe("activity", activity);
        }
        Action::Mutate => {
            parts = parts
                .with("fields", texts(facts.fields))
                .with("change", change_parts(vocabulary, facts)?);
        }
        Action::Migrate => parts = parts.maybe("target", facts.target.as_ref().map(host_parts).transpose()?),
        Action::Fork => {
            let warm = Expr::new_bool(facts.warm);
            parts = parts.maybe("scope", facts.scope.map(text)).with("warm", warm);
        }
        Action::Read => parts = parts.maybe("field", facts.field.map(text)),
        Action::Instantiate => parts = instantiate_parts(vocabulary, facts, parts)?,
        Action::Amend | Action::Terminate => {}
    }
    Request::new(
        uid(facts.principal.kind().as_str(), facts.principal.id())?,
        uid("Action", action.as_str())?,
        uid("Object", facts.object.id)?,
        Context::from_pairs(parts.0).map_err(fault("the context"))?,
        None,
    )
    .map_err(fault("the request"))
}
