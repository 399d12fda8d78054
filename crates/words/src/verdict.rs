//! Decisions in the words of the wire: what an event, a problem document and the log say of one and the same decision.

use suijuris_api::Problem;
use suijuris_api::event::{Event, Verdict};
use suijuris_api::problem::Rule;
use suijuris_core::governance::{Action, Explanation};
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::{Decision, Invariant, Outcome, Refused};
use suijuris_core::refusals::RefusalId;
use suijuris_core::time::Span;

/// The decision, as events and `--json` show it; `place` is `door` or `runtime`.
#[must_use]
pub fn verdict(decision: &Decision, place: &str) -> Verdict {
    let (outcome, invariant) = match decision.outcome {
        Outcome::Permit => ("permit", None),
        Outcome::Refuse(invariant) => ("refuse", invariant),
    };
    Verdict {
        action: decision.action.to_string(),
        outcome: outcome.to_owned(),
        rules: rules(decision).into_iter().map(|rule| rule.id).collect(),
        reasons: reasons(decision),
        invariant: invariant.map(|invariant| invariant.as_str().to_owned()),
        retry_after: retry_after_s(decision.explanation.as_ref()),
        place: place.to_owned(),
    }
}

/// Counted refusals as an event.
#[must_use]
pub fn refused(refused: &Refused) -> Event {
    let words = verdict(&refused.decision, &refused.at);
    Event::Refused {
        action: words.action,
        reason: words.invariant.unwrap_or_else(|| "rules".to_owned()),
        rules: words.rules,
        reasons: words.reasons,
        times: refused.times,
        evidence: None,
    }
}

/// Rules that decided or could not be evaluated.
#[must_use]
pub fn rules(decision: &Decision) -> Vec<Rule> {
    let Some(explanation) = &decision.explanation else {
        return Vec::new();
    };
    let deciding = explanation.reasons.iter().map(|reason| Rule {
        id: reason.rule.clone(),
        reason: reason.reason.clone().unwrap_or_default(),
    });
    let erred = explanation.erred.iter().map(|erred| Rule {
        id: erred.rule.clone(),
        reason: format!("could not be evaluated: {}", erred.fault),
    });
    deciding.chain(erred).collect()
}

/// Everything that explains the answer, in sentences without a full stop.
#[must_use]
pub fn reasons(decision: &Decision) -> Vec<String> {
    let mut reasons: Vec<String> = match decision.outcome {
        Outcome::Refuse(Some(Invariant::WrongPhase)) => vec![wrong_phase(decision.action).to_owned()],
        Outcome::Refuse(Some(invariant)) => vec![sentence(invariant).to_owned()],
        _ => Vec::new(),
    };
    reasons.extend(
        rules(decision)
            .into_iter()
            .map(|rule| rule.reason)
            .filter(|reason| !reason.is_empty()),
    );
    if decision.outcome == Outcome::Permit {
        return reasons;
    }
    if let Some(explanation) = &decision.explanation {
        let stale = |not: &suijuris_core::governance::NotFresh| {
            format!(
                "memory.{} is not fresh: {}",
                not.field,
                not.freshness.as_str().replace('_', " ")
            )
        };
        reasons.extend(explanation.not_fresh.iter().map(stale));
        if explanation.reasons.is_empty() && explanation.erred.is_empty() {
            reasons.push(no_rule_permits(decision.action, explanation));
            reasons.extend(nobody_vouches(&decision.inputs, explanation));
        }
    }
    reasons
}

/// For the owner alone: it quotes a rule.
fn no_rule_permits(action: Action, explanation: &Explanation) -> String {
    match explanation.near_misses.first() {
        Some(near) => format!(
            "no rule permits {action}; closest is {}, which failed at `{}`",
            near.rule, near.condition
        ),
        None => format!("no rule permits {action}"),
    }
}

/// What was missing of a request where the closest rule looks at TLS: it is not there because nobody said it whose word counts.
fn nobody_vouches(inputs: &Inputs, explanation: &Explanation) -> Option<String> {
    let (near, request) = (explanation.near_misses.first()?, inputs.request.as_ref()?);
    let looks = |word: &str| near.condition.contains(word);
    let missing = if looks("client_cert") && request.client_cert.is_none() {
        "no client certificate came with this request: none was shown, or TLS ended where nobody says so"
    } else if looks("request.tls") && request.tls.is_none() {
        "nothing of TLS came with this request: it came without, or TLS ended where nobody says so"
    } else {
        return None;
    };
    Some(missing.to_owned())
}

/// Why an activation ended: `idle 2s (remain-while-visited no longer holds)` where no rule kept the object awake, else the
/// rules' reasons, else who asked.
#[must_use]
pub fn sleep_reason(decision: &Decision) -> String {
    if let Some(idle) = idle(decision) {
        return idle;
    }
    let reasons = reasons(decision);
    if reasons.is_empty() {
        format!(
            "{} requested {}",
            person(decision.inputs.principal.as_str()),
            decision.action
        )
    } else {
        reasons.join("; ")
    }
}

/// A nap by the object's own rules: nothing forbids it to stay awake, and no rule permits it any longer.
fn idle(decision: &Decision) -> Option<String> {
    let explanation = decision.explanation.as_ref()?;
    let rules_ended = decision.action == Action::Remain && decision.outcome == Outcome::Refuse(None);
    let undecided = explanation.reasons.is_empty() && explanation.erred.is_empty();
    if !rules_ended || !undecided {
        return None;
    }
    let rule = explanation.near_misses.first().map(|near| near.rule.as_str());
    let rule = rule.map_or_else(
        || "no rule permits remain".to_owned(),
        |rule| format!("{rule} no longer holds"),
    );
    let activity = decision.inputs.activity.as_ref();
    Some(
        match activity.map(|activity| activity.idle.0).filter(|idle| *idle > 0) {
            Some(idle) => format!("idle {} ({rule})", seconds(idle)),
            None => rule,
        },
    )
}

/// A length in seconds with one decimal, as in `2.0 s`.
fn seconds(milliseconds: i64) -> String {
    let tenths = milliseconds.saturating_add(50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// A principal as people read it: rules and formats say `controller` for the owner.
#[must_use]
pub fn person(principal: &str) -> &str {
    match principal {
        "controller" => "owner",
        other => other,
    }
}

/// What is not allowed now, and why.
const fn wrong_phase(action: Action) -> &'static str {
    match action {
        Action::Remain | Action::Admit | Action::Sleep => "not allowed while dormant",
        Action::Migrate => "not allowed while active",
        Action::Instantiate => "not allowed for an object that exists already",
        _ => sentence(Invariant::WrongPhase),
    }
}

/// What an invariant means, and what to do.
#[must_use]
pub const fn sentence(invariant: Invariant) -> &'static str {
    match invariant {
        Invariant::WrongObject => "the request is for another object: send it where that object lives",
        Invariant::WrongBundle => "these rules are not the ones in force: build the bundle again, or amend",
        Invariant::Quarantined => "the object is quarantined until its owners decide",
        Invariant::Terminated => "the object has been terminated: it never wakes again",
        Invariant::Departed => "the object has moved to another host",
        Invariant::WrongPhase => "not allowed in the current phase",
        Invariant::Incapable => "this machine cannot run the workload",
        Invariant::NoWitness => "the object requires a witness, and none answers",
        Invariant::RolledBack => "rolled back: the witness knows a newer history",
        Invariant::Twin => "twin: the witness knows another live copy",
        Invariant::WorkloadFailed => "the workload could not be started or did not become ready",
        Invariant::WorkloadGone => "the workload ended, so nothing keeps the object awake",
        Invariant::ClassFull => "the class has reached max_instances",
    }
}

/// Codes of invariants, each with a page under `docs/errors`.
const CODES: [(Invariant, &str); 12] = [
    (Invariant::WrongBundle, "wrong_bundle"),
    (Invariant::Quarantined, "quarantined"),
    (Invariant::Terminated, "terminated"),
    (Invariant::Departed, "departed"),
    (Invariant::WrongPhase, "wrong_phase"),
    (Invariant::Incapable, "incapable"),
    (Invariant::NoWitness, "no_witness"),
    (Invariant::RolledBack, "rolled_back"),
    (Invariant::Twin, "twin"),
    (Invariant::WorkloadFailed, "workload_failed"),
    (Invariant::WorkloadGone, "workload_gone"),
    (Invariant::ClassFull, "class_full"),
];

fn code(invariant: Invariant) -> &'static str {
    CODES
        .iter()
        .find(|(of, _)| *of == invariant)
        .map_or(invariant.as_str(), |(_, code)| code)
}

/// Seconds until asking again may help, rounded up.
#[must_use]
pub fn retry_after_s(explanation: Option<&Explanation>) -> Option<u64> {
    let Span(ms) = explanation?.retry_after?;
    u64::try_from(ms).ok().map(|ms| ms.div_ceil(1_000))
}

/// The refusal as the object's own workload and its owner read it, with rules and reasons.
#[must_use]
pub fn problem(decision: &Decision, object: &str) -> Problem {
    let mut problem = bare(decision, object);
    problem.detail = reasons(decision).join("; ");
    problem.rules = rules(decision);
    problem
}

/// What the owner knows and a caller needs beside the decision.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The object.
    pub object: &'a str,
    /// What the owner finds the record by.
    pub id: &'a RefusalId,
    /// The bundle pins keys of callers, and the rules look at who calls: with a token the answer may be another.
    pub token_helps: bool,
}

/// The refusal as a caller reads it: `@reason`, `@status` and `@retry_after` of the deciding rules, and an id to quote.
/// Nothing else of rules, memory or other objects.
#[must_use]
pub fn public(decision: &Decision, circumstances: Circumstances<'_>) -> Problem {
    let explanation = decision.explanation.as_ref();
    let mut problem = bare(decision, circumstances.object);
    circumstances.id.as_str().clone_into(&mut problem.id);
    match decision.outcome {
        Outcome::Refuse(Some(Invariant::WrongObject)) => {
            // Who asks for another learns nothing of this one.
            problem.object.clear();
            sentence(Invariant::WrongObject).clone_into(&mut problem.detail);
        }
        Outcome::Refuse(Some(invariant)) if is_public(invariant) => {
            sentence(invariant).clone_into(&mut problem.detail);
        }
        Outcome::Refuse(Some(_)) => {
            let unavailable = unavailable();
            (problem.kind, problem.code) = (unavailable.kind, unavailable.code);
            problem.detail = unavailable.detail;
        }
        _ => problem.detail = said(explanation).join("; "),
    }
    let undecided = explanation.is_some_and(|explanation| explanation.reasons.is_empty());
    if undecided && circumstances.token_helps && is_anonymous(decision) {
        let token = Problem::new(401, "token_required", "A caller's token is required");
        (problem.kind, problem.title, problem.code) = (token.kind, token.title, token.code);
        problem.status = token.status;
    }
    problem
}

/// The object cannot serve for a cause that is its owner's affair: what callers read in place of code and cause.
#[must_use]
pub fn unavailable() -> Problem {
    Problem::new(503, "unavailable", "The object cannot serve").with_detail(OWNER_KNOWS)
}

/// What callers read where only the owner is told the cause.
pub const OWNER_KNOWS: &str = "the owner can see the cause in its events";

/// Whether callers may read the invariant's code and meaning: states that last, and how their own request fared.
const fn is_public(invariant: Invariant) -> bool {
    use Invariant::{Departed, Quarantined, Terminated, WorkloadFailed, WorkloadGone};
    matches!(
        invariant,
        Quarantined | Terminated | Departed | WorkloadFailed | WorkloadGone
    )
}

/// `@reason` of each deciding rule.
fn said(explanation: Option<&Explanation>) -> Vec<String> {
    let reasons = explanation
        .into_iter()
        .flat_map(|explanation| &explanation.reasons);
    reasons.filter_map(|reason| reason.reason.clone()).collect()
}

fn is_anonymous(decision: &Decision) -> bool {
    matches!(&decision.inputs.principal, Principal::Caller(caller) if !caller.authenticated)
}

/// Code and status: what the deciding rules say, else 503 where they say when to ask again, else 403; 421 for another
/// object (RFC 9110 §15.5.20), 503 where the object cannot serve.
fn bare(decision: &Decision, object: &str) -> Problem {
    let explanation = decision.explanation.as_ref();
    let again = retry_after_s(explanation);
    let status = explanation.and_then(|explanation| explanation.status);
    let status = status.unwrap_or(if again.is_some() { 503 } else { 403 });
    let mut problem = match (decision.outcome.clone(), decision.action) {
        (Outcome::Refuse(Some(Invariant::WrongObject)), _) => {
            Problem::new(421, "wrong_object", "Another object lives here")
        }
        (Outcome::Refuse(Some(Invariant::Terminated)), _) => {
            Problem::new(410, "terminated", "The object has ended for good")
        }
        (Outcome::Refuse(Some(invariant)), _) => {
            Problem::new(503, code(invariant), "The object cannot serve")
        }
        (_, Action::Wake) => Problem::new(status, "wake_refused", "The object refuses to wake"),
        (_, Action::Admit) => Problem::new(status, "admit_refused", "The object refuses this request"),
        (_, Action::Instantiate) => Problem::new(
            403,
            "instantiate_refused",
            "The class refuses to create this object",
        ),
        (_, Action::Remain) => Problem::new(503, "remain_refused", "The object is going to sleep"),
        _ => Problem::new(status, "refused", "The object refuses"),
    };
    object.clone_into(&mut problem.object);
    problem.action = decision.action.to_string();
    problem.retry_after = again;
    problem
}
