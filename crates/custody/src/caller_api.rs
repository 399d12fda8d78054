//! What callers who are not on this host ask of the object itself, below `/.suijuris/` of its own listener: its status,
//! memory, and writes to memory. Pure but for what the caller of a write does with it.
//!
//! The runtime asks here while the object is awake, its supervisor while it sleeps, so that the same question has the same
//! answer. Who asks is verified before; reads are decided by `read` and writes by `mutate`. Not here: HTTP (the gate),
//! tokens (`auth`), the write itself ([`mod@crate::write`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use suijuris_api::Problem;
use suijuris_api::agent::{Patch, Patched};
use suijuris_core::ObjectId;
use suijuris_core::decide::{self, Rules, View};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::key::PublicKey;
use suijuris_core::lineage::{Decision, Outcome, State};
use suijuris_depot::Depot;

use suijuris_words::memory as words;

use crate::patch;

/// Size of a request's body at most, bytes: a field of 1 MiB in JSON, twice over.
pub const MAX_BODY: usize = 2 << 20;

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// How the object is.
    Object,
    /// All fields that the rules let the caller read.
    Memory,
    /// One field.
    Field(String),
    /// Writes that take effect together or not at all.
    Write(Patch),
}

/// Why nothing is answered to a read.
#[derive(Debug)]
pub enum NotRead {
    /// By the rules.
    Refused(Box<Decision>),
    /// Memory has no such field.
    NoField(Box<Problem>),
}

impl Ask {
    /// Reads a request; `path` is canonical.
    ///
    /// # Errors
    /// The document to answer with: no such route, or a body that is not the JSON of its route.
    pub fn of(method: &str, path: &str, body: &[u8]) -> Result<Self, Problem> {
        let rest = path.strip_prefix("/.suijuris/").unwrap_or_default();
        let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["v1", "object"]) => Ok(Self::Object),
            ("GET", ["v1", "memory"]) => Ok(Self::Memory),
            ("GET", ["v1", "memory", field]) => Ok(Self::Field((*field).to_owned())),
            ("PATCH", ["v1", "memory"]) => suijuris_api::json::from_slice(body).map(Self::Write).map_err(|error| {
                Problem::new(400, "bad_json", "The request body is not the JSON of this route")
                    .with_detail(error.to_string())
            }),
            _ => Err(
                Problem::new(404, "no_such_route", "There is nothing here").with_detail(
                    "the object answers GET /.suijuris/v1/object, GET and PATCH /.suijuris/v1/memory, GET /.suijuris/v1/memory/FIELD",
                ),
            ),
        }
    }
}

/// What the object at `state` answers to a read, as JSON. `phase` and `holds` are what its status says of them. The read of
/// its status is decided like that of a field without a name; memory as a whole has the fields that may be read.
///
/// # Errors
/// [`NotRead`]. A write is no read and not answered here: it counts as one of memory.
pub fn read(
    (state, rules): (&State, &Rules),
    inputs: &Inputs,
    ask: &Ask,
    phase: &str,
    holds: BTreeMap<String, u64>,
) -> Result<Vec<u8>, NotRead> {
    let object = (state, rules);
    match ask {
        Ask::Object => {
            may(object, inputs, Action::Read, [String::new()])?;
            let mut status = value(&words::status(state, phase, holds));
            if !reads_all(object, inputs) {
                status.remove("memory_root");
            }
            Ok(json(&status))
        }
        Ask::Field(name) => {
            // Whether there is such a field is for those who may read it.
            may(object, inputs, Action::Read, [name.clone()])?;
            let mut memory = words::memory(state, inputs.now);
            let field = memory.fields.remove(name).ok_or_else(|| {
                let problem = Problem::new(404, "no_such_field", "Memory has no such field");
                let listed = "GET /.suijuris/v1/memory lists those that you may read";
                NotRead::NoField(Box::new(problem.with_detail(listed)))
            })?;
            Ok(json(&field))
        }
        Ask::Memory | Ask::Write(_) => {
            let mut memory = words::memory(state, inputs.now);
            let mut refused = None;
            memory.fields.retain(
                |name, _| match may(object, inputs, Action::Read, [name.clone()]) {
                    Ok(()) => true,
                    Err(why) => {
                        refused.get_or_insert(why);
                        false
                    }
                },
            );
            match refused {
                Some(why) if memory.fields.is_empty() => Err(why),
                Some(_) => {
                    let mut memory = value(&memory);
                    memory.remove("root");
                    Ok(json(&memory))
                }
                None => Ok(json(&memory)),
            }
        }
    }
}

/// Whether the object at `state` would let a caller write `patch`, and read what it expects: a write that is refused, or whose
/// conditions ask what its caller may not read, tells nothing of memory. Asked before [`crate::write::stage`], which decides.
///
/// # Errors
/// [`NotRead::Refused`].
pub fn may_write((state, rules): (&State, &Rules), inputs: &Inputs, patch: &Patch) -> Result<(), NotRead> {
    let object = (state, rules);
    // What cannot be read has no values to judge; it is refused for that once the rules let it pass.
    let memory = state.memory();
    let judged = patch::writes(patch, memory)
        .and_then(|parsed| patch::judged(&parsed, memory, &rules.program, inputs.now.at));
    let mut write = inputs.clone();
    write.written = judged.unwrap_or_default();
    may(object, &write, Action::Mutate, patch.fields().cloned())?;
    for name in patch.expect.keys() {
        may(object, inputs, Action::Read, [name.clone()])?;
    }
    if patch.expect_root.is_some() {
        for (name, ..) in state.memory().iter() {
            may(object, inputs, Action::Read, [name.to_string()])?;
        }
    }
    Ok(())
}

/// The answer to a write that was made; `all`: its caller may read all of memory.
#[must_use]
pub fn patched(patched: &Patched, all: bool) -> Vec<u8> {
    let mut answer = value(patched);
    if !all {
        answer.remove("root");
    }
    json(&answer)
}

/// Whether a caller may read all of memory. Others are told no root over it: with the root, and all fields but one, that one
/// could be found by trying.
#[must_use]
pub fn reads_all(object: (&State, &Rules), inputs: &Inputs) -> bool {
    let mut names = object.0.memory().iter();
    names.all(|(name, ..)| may(object, inputs, Action::Read, [name.to_string()]).is_ok())
}

fn may(
    (state, rules): (&State, &Rules),
    inputs: &Inputs,
    action: Action,
    fields: impl IntoIterator<Item = String>,
) -> Result<(), NotRead> {
    let mut inputs = inputs.clone();
    inputs.fields = fields.into_iter().collect();
    let decision = decide::evaluate(View::new(state, rules), action, inputs);
    if decision.outcome == Outcome::Permit {
        Ok(())
    } else {
        Err(NotRead::Refused(Box::new(decision)))
    }
}

fn value(of: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// One answer, as lines of JSON end.
#[must_use]
pub fn json(value: &impl Serialize) -> Vec<u8> {
    // Texts, numbers and maps by text only: writing them as JSON cannot fail.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The principal that an object is elsewhere, which showed a good token of `epoch` by `key`: if that is the key of the epoch that
/// it is in now, as `depot` shows. Asked for each request, so that a token ends with its epoch.
///
/// # Errors
/// The document to answer with. Where no depot answers there is no such principal.
pub async fn peer(
    depot: Option<Arc<dyn Depot>>,
    object: ObjectId,
    (epoch, key): (u64, PublicKey),
) -> Result<Principal, Problem> {
    let unreachable = || {
        let mut problem = Problem::new(503, "depot_unreachable", "The depot does not answer")
            .with_detail("whether the token is that of the object it names cannot be said now: try again");
        problem.retry_after = Some(5);
        problem
    };
    let depot = depot.ok_or_else(unreachable)?;
    let shown = match depot.epoch(object).await {
        Ok(shown) => shown,
        Err(error) if error.is_retryable() => return Err(unreachable()),
        // What is wrong with the history of another object is for those who can read it.
        Err(_) => None,
    };
    match shown {
        Some(shown) if shown.number == epoch && shown.key == key.commitment() => Ok(Principal::Peer(object)),
        _ => Err(
            Problem::new(401, "invalid_token", "The caller's token is not valid").with_detail(
                "the depot does not show that its key is that of the epoch which the object is in: issue a new token, and share one depot",
            ),
        ),
    }
}

/// A question without a token, or with credentials of another sort: nobody who is anonymous is answered.
#[must_use]
pub fn token_required(object: &str) -> Problem {
    let mut problem = Problem::new(401, "token_required", "A caller's token is required").with_detail(
        "send `Authorization: Bearer TOKEN` with a token that the object's definition pins a key for",
    );
    object.clone_into(&mut problem.object);
    problem
}

/// A question from a page of another site.
#[must_use]
pub fn cross_site() -> Problem {
    Problem::new(403, "cross_site", "Pages of other sites are not answered here")
        .with_detail("send the request from a program, or from a page of the object's own origin")
}

/// The object is between two states, and neither its machine nor its host can answer for it.
#[must_use]
pub fn not_now(object: &str) -> Problem {
    let mut problem = Problem::new(503, "not_now", "The object cannot answer now")
        .with_detail("it is waking or falling asleep, or its suspended machine has its memory: nothing was done, try again");
    object.clone_into(&mut problem.object);
    problem.retry_after = Some(1);
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_few_and_bodies_are_patches() {
        let ask =
            |method, path, body: &str| Ask::of(method, path, body.as_bytes()).map_err(|problem| problem.code);
        assert_eq!(ask("GET", "/.suijuris/v1/object", ""), Ok(Ask::Object));
        assert_eq!(ask("GET", "/.suijuris/v1/memory/", ""), Ok(Ask::Memory));
        assert_eq!(
            ask("GET", "/.suijuris/v1/memory/open", ""),
            Ok(Ask::Field("open".into()))
        );
        let patch = Patch {
            set: [("open".to_owned(), true.into())].into(),
            ..Patch::default()
        };
        assert_eq!(
            ask("PATCH", "/.suijuris/v1/memory", r#"{"set":{"open":true}}"#),
            Ok(Ask::Write(patch))
        );
        assert_eq!(ask("PATCH", "/.suijuris/v1/memory", "{"), Err("bad_json".into()));
        assert_eq!(
            ask("PATCH", "/.suijuris/v1/memory", r#"{"sets":{}}"#),
            Err("bad_json".into())
        );
        let twice = r#"{"set":{"open":true,"open":false}}"#;
        assert_eq!(
            ask("PATCH", "/.suijuris/v1/memory", twice),
            Err("bad_json".into())
        );
        for (method, path) in [
            ("GET", "/.suijuris"),
            ("GET", "/.suijuris/"),
            ("GET", "/.suijuris/v1/memory/a/b"),
            ("POST", "/.suijuris/v1/memory"),
            ("POST", "/.suijuris/v1/sleep"),
            ("POST", "/.suijuris/v1/token"),
        ] {
            assert_eq!(
                ask(method, path, ""),
                Err("no_such_route".into()),
                "{method} {path}"
            );
        }
    }
}
