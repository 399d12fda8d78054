//! Records and decisions in words and as JSON: what log, `why` and `what-if` have in common. Whoever prints the words on a
//! terminal cleans them first: they quote what strangers sent.

use serde_json::{Map, json};
use suijuris_api::history::{Explained, Fact, Record, RuleText};
use suijuris_core::class::Instantiation;
use suijuris_core::governance::Effect;
use suijuris_core::inputs::{Caller, Inputs, Principal, Request, Trigger};
use suijuris_core::lineage::{Body, Count, Decision, Dormant, Invariant, Mutated, Outcome, Stored};
use suijuris_core::memory::{Plain, Value, Write};
use suijuris_words::verdict;

use super::{decision as decision_of, place};

/// Characters of a value in a line of words at most.
const MAX_CELL: usize = 64;

/// What a record says, in a line.
pub(super) fn summary(body: &Body) -> String {
    match body {
        Body::Inception(body) => join([
            format!(
                "{}, {} of {} owners must sign",
                body.name,
                body.threshold,
                body.controllers.len()
            ),
            body.class.as_ref().map_or_else(String::new, instance),
        ]),
        Body::Mutated(body) => format!("{} by {}", writes(body), writer(body)),
        Body::Seal(body) if body.admitted.is_empty() => String::new(),
        Body::Seal(body) => admitted(&body.admitted),
        Body::Dormant(body) => join([
            verdict::sleep_reason(&body.decision),
            format!("workload {}", ended(body)),
            admitted(&body.admitted),
        ]),
        Body::Refused(body) => {
            let times = if body.times > 1 {
                format!("{} times in {}", body.times, body.window)
            } else {
                String::new()
            };
            join([decided(&body.decision), times])
        }
        Body::Resumed(body) => join([decided(&body.decision), format!("suspended for {}", body.paused)]),
        Body::Unsealed(body) => format!(
            "unclean shutdown, {} after record {}",
            count(body.mutations, "unsigned write"),
            body.sealed
        ),
        Body::Quarantined(body) => body.reason.clone(),
        Body::Restored(body) => format!(
            "replaces the history up to record {}, …{}",
            body.seq,
            body.abandoned.short()
        ),
        Body::Arrived(body) => format!("at {}", body.inputs.host.provider),
        Body::Forked(body) => join([decided(&body.decision), format!("child …{}", body.child.short())]),
        Body::Departed(body) => join([decided(&body.decision), format!("to {}", body.to)]),
        Body::Woke(_) | Body::Amended(_) | Body::Terminated(_) => {
            decision_of(body).map_or_else(String::new, decided)
        }
    }
}

/// How the workload ended. One that was asked to stop dies of the signal that asked it.
fn ended(body: &Dormant) -> &str {
    let alone = matches!(
        body.decision.outcome,
        Outcome::Refuse(Some(Invariant::WorkloadFailed | Invariant::WorkloadGone))
    );
    match body.workload.as_str() {
        STOPPED if !alone => "stopped on request",
        how => how,
    }
}

/// How a workload ends that follows the usual request to stop.
pub const STOPPED: &str = "killed by signal 15";

fn join<const N: usize>(parts: [String; N]) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

/// Who wrote: a caller with the subject of their token, another object with its id.
fn writer(body: &Mutated) -> String {
    let who = match body.principal.as_deref() {
        Some(Principal::Caller(caller)) => caller.subject.clone(),
        Some(Principal::Peer(object)) => Some(object.to_string()),
        _ => None,
    };
    // People say owner.
    let by = match body.by.as_str() {
        "controller" => "owner",
        by => by,
    };
    match who {
        Some(who) => format!("{by} {who}"),
        None => by.to_owned(),
    }
}

fn writes(body: &Mutated) -> String {
    let write = |(name, write): (&_, &Write)| match write {
        Write::Set(value) => format!("{name} = {}", cell(value)),
        Write::Append(value) => format!("{name} += {}", cell(value)),
        Write::Unset => format!("{name} emptied"),
        Write::Add(more) => format!("{name} + {more}"),
    };
    body.change.iter().map(write).collect::<Vec<_>>().join(", ")
}

fn admitted(counts: &[Count]) -> String {
    let times: u64 = counts.iter().map(|count| count.times).sum();
    if times == 0 {
        String::new()
    } else {
        format!("{times} admitted")
    }
}

/// A decision in a few words: action, what proposed it, and the rules' reasons or what stands for them.
fn decided(decision: &Decision) -> String {
    let asked = proposed(decision);
    let rules: Vec<String> = verdict::rules(decision).into_iter().map(|rule| rule.id).collect();
    let by = match decision.outcome {
        Outcome::Refuse(Some(invariant)) => invariant.as_str().to_owned(),
        _ if rules.is_empty() => "no rule permits it".to_owned(),
        _ => rules.join(", "),
    };
    format!("{} ({asked}): {by}", decision.action)
}

/// Who proposed, and what made them.
pub(super) fn proposed(decision: &Decision) -> String {
    let inputs = &decision.inputs;
    let mut text = named(&inputs.principal);
    if let Some(trigger) = &inputs.trigger {
        text += &format!(", {}", triggered(trigger));
    }
    if let Some(request) = &inputs.request {
        text += &format!(" {}", requested(request));
    }
    text
}

/// The principal; a caller with a token by subject and issuer.
fn named(principal: &Principal) -> String {
    let Principal::Caller(caller) = principal else {
        return verdict::person(principal.as_str()).to_owned();
    };
    let subject = caller.subject.as_ref().map(|subject| format!(" `{subject}`"));
    let issuer = caller.issuer.as_ref().map(|issuer| format!(" of {issuer}"));
    format!(
        "caller{}{}",
        subject.unwrap_or_default(),
        issuer.unwrap_or_default()
    )
}

/// What a caller's token said beside subject and issuer.
fn token(caller: &Caller) -> String {
    let list =
        |texts: &std::collections::BTreeSet<String>| texts.iter().cloned().collect::<Vec<_>>().join(" ");
    let claims = caller
        .claims
        .iter()
        .map(|(name, value)| format!("{name} = {}", cell(value)));
    let parts = [
        ("scopes ", list(&caller.scopes)),
        ("audience ", list(&caller.audience)),
        ("", claims.collect::<Vec<_>>().join(", ")),
    ];
    let parts = parts.into_iter().filter(|(_, text)| !text.is_empty());
    parts
        .map(|(name, text)| format!("{name}{text}"))
        .collect::<Vec<_>>()
        .join("; ")
}

fn triggered(trigger: &Trigger) -> String {
    let of = trigger
        .name
        .as_ref()
        .or(trigger.topic.as_ref())
        .or(trigger.field.as_ref());
    of.map_or_else(|| trigger.kind.to_string(), |of| format!("{} {of}", trigger.kind))
}

fn requested(request: &Request) -> String {
    if request.method.is_empty() {
        return format!("connection from {}", request.peer_ip);
    }
    let question = if request.query.is_empty() { "" } else { "?…" };
    format!("{} {}{question}", request.method, request.path)
}

/// Which instance of which class an object is.
pub(super) fn instance(class: &Instantiation) -> String {
    format!("instance {} of class {}", class.key, class.id)
}

/// A record as a document; the body as in `spec/records.md`, writes in the plain form of their fields.
pub(super) fn record(stored: &Stored) -> Result<Record, serde_json::Error> {
    let record = &stored.record;
    let verdict = |decision| verdict::verdict(decision, place(&record.body));
    Ok(Record {
        seq: record.seq,
        id: stored.id.to_string(),
        kind: record.body.kind().to_owned(),
        at: record.at.to_string(),
        epoch: record.epoch,
        signed: record.sig.is_some(),
        memory: record.memory.hex(),
        bundle: record.bundle.to_string(),
        summary: summary(&record.body),
        verdict: decision_of(&record.body).map(verdict),
        body: body_json(&record.body)?,
    })
}

fn body_json(body: &Body) -> Result<serde_json::Value, serde_json::Error> {
    if let Body::Mutated(mutated) = body {
        let write = |(name, write): (&suijuris_core::memory::Name, &Write)| {
            let write = match write {
                Write::Set(value) => json!({"set": plain_json(value)}),
                Write::Append(value) => json!({"append": plain_json(value)}),
                Write::Unset => json!("unset"),
                Write::Add(more) => json!({"add": more}),
            };
            (name.to_string(), write)
        };
        let change: Map<_, _> = mutated.change.iter().map(write).collect();
        let principal = mutated.principal.as_deref().map(principal_json).transpose()?;
        return Ok(match principal {
            Some(principal) => json!({"by": mutated.by, "principal": principal, "change": change}),
            None => json!({"by": mutated.by, "change": change}),
        });
    }
    // The keyed union's one value.
    let union = serde_json::to_value(body)?;
    Ok(union
        .as_object()
        .and_then(|union| union.values().next().cloned())
        .unwrap_or_default())
}

/// Who exactly, with claims in the plain form of their types.
fn principal_json(principal: &Principal) -> Result<serde_json::Value, serde_json::Error> {
    let Principal::Caller(caller) = principal else {
        return serde_json::to_value(principal);
    };
    let claim = |(name, value): (&suijuris_core::memory::Name, &_)| (name.to_string(), plain_json(value));
    let claims: Map<_, _> = caller.claims.iter().map(claim).collect();
    Ok(json!({"caller": {
        "subject": caller.subject,
        "issuer": caller.issuer,
        "audience": caller.audience,
        "scopes": caller.scopes,
        "claims": claims,
    }}))
}

/// A decision for people: everything that led to it but rules and memory.
pub(super) fn explained(decision: &Decision) -> Explained {
    let mut grounds = verdict::reasons(decision);
    if let Some(seconds) = verdict::retry_after_s(decision.explanation.as_ref()) {
        grounds.push(format!("try again in {seconds} s"));
    }
    if let Some(explanation) = &decision.explanation {
        // The nearest one stands in the reasons.
        for miss in explanation.near_misses.iter().skip(1) {
            grounds.push(format!(
                "also close: {} met {} of {} conditions and failed at `{}`",
                miss.rule, miss.held, miss.of, miss.condition
            ));
        }
    }
    Explained {
        proposed: proposed(decision),
        grounds,
        facts: facts(&decision.inputs),
    }
}

fn facts(inputs: &Inputs) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut know = |name: &str, text: String| {
        let name = name.to_owned();
        facts.push(Fact { name, text });
    };
    know(
        "time",
        format!("{} ({})", inputs.now.at, inputs.now.quality.as_str()),
    );
    if let Principal::Caller(caller) = &inputs.principal {
        let who = if caller.authenticated {
            named(&inputs.principal)
        } else {
            "without a token".to_owned()
        };
        know("caller", join([who, token(caller)]));
    }
    if let Some(request) = &inputs.request {
        know(
            "request",
            format!(
                "{} from {} over {}",
                requested(request),
                request.peer_ip,
                request.protocol
            ),
        );
    }
    if let Some(founding) = &inputs.founding {
        let text = format!(
            "{} of {} instances; in the last second {} for this peer, {} in all",
            founding.instances, founding.max_instances, founding.peer_rate, founding.class_rate
        );
        know("founding", text);
    }
    if let Some(activity) = &inputs.activity {
        let text = format!(
            "awake {}, idle {}, {} connections, {} requests in flight",
            activity.active, activity.idle, activity.connections, activity.in_flight
        );
        know("activity", text);
    }
    if !inputs.holds.is_empty() {
        know(
            "holds",
            inputs.holds.iter().cloned().collect::<Vec<_>>().join(", "),
        );
    }
    if !inputs.fields.is_empty() {
        know(
            "fields",
            inputs.fields.iter().cloned().collect::<Vec<_>>().join(", "),
        );
    }
    if !inputs.host.provider.is_empty() {
        know("host", inputs.host.provider.clone());
    }
    facts
}

/// The rules that decided, with their text in the bundle.
pub(super) fn rule_texts(decision: &Decision, bundle: &suijuris_core::bundle::Bundle) -> Vec<RuleText> {
    let offset = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let text = |rule: &suijuris_core::governance::Rule| {
        let (start, end) = (offset(rule.span.start), offset(rule.span.end));
        let source = &bundle.governance;
        let before = source.get(..start).unwrap_or_default().matches('\n').count();
        RuleText {
            id: rule.id.clone(),
            effect: match rule.effect {
                Effect::Permit => "permit",
                Effect::Forbid => "forbid",
            }
            .to_owned(),
            reason: rule.reason.clone(),
            line: u64::try_from(before).unwrap_or(u64::MAX).saturating_add(1),
            text: source.get(start..end).unwrap_or_default().to_owned(),
        }
    };
    let decided = verdict::rules(decision);
    let rules = bundle.rules.program.rules().iter();
    rules
        .filter(|rule| decided.iter().any(|one| one.id == rule.id))
        .map(text)
        .collect()
}

/// A value in a line: short, secrets veiled.
fn cell(value: &Value) -> String {
    let text = match plain_json(value) {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    match text.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// A value as JSON, secrets veiled.
fn plain_json(value: &Value) -> serde_json::Value {
    serde_json::to_value(Plain(value)).unwrap_or_default()
}

fn count(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{ending}")
}
