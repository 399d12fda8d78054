//! Memory of the resident object: read with secrets veiled, written when the rules let, answered when durable.

use std::collections::BTreeSet;

use suijuris_api::agent::{self, Patch, Patched};
use suijuris_api::{Event, Problem, verdict};
use suijuris_core::decide::Verdict;
use suijuris_core::governance::Action;
use suijuris_core::inputs::Principal;
use suijuris_core::lineage::{Body, Mutated};
use suijuris_core::memory::{Change, Plain, Write};

use crate::ledger::{self, Sign};
use crate::patch;
use crate::report::chain;

use super::Resident;

impl Resident {
    /// Memory, secrets veiled.
    #[must_use]
    pub fn memory(&self) -> agent::Memory {
        let now = self.now();
        self.ledger.published(|state| crate::words::memory(state, now))
    }

    /// The value of a secret field; `None` for any other field.
    ///
    /// # Errors
    /// When the secret cannot be read.
    pub fn secret(&self, name: &str) -> Result<Option<serde_json::Value>, Problem> {
        let secret = self.ledger.secret(name).map_err(|error| {
            Problem::new(500, "secret_unreadable", "The secret cannot be read").with_detail(chain(&error))
        })?;
        Ok(secret.map(|value| serde_json::to_value(Plain(&value)).unwrap_or_default()))
    }

    /// Writes memory if the rules let `by`; answered when it is durable.
    ///
    /// # Errors
    /// The problem to answer with: not a fitting change, refused by the rules, or the disk failed.
    pub async fn patch(&self, by: Principal, patch: &Patch) -> Result<Patched, Problem> {
        let parsed = self
            .ledger
            .staged(|state| patch::parse(patch, state.memory()))
            .map_err(|error| {
                let (status, code) = error.status();
                memory_problem(status, code, &error)
            })?;
        let fields: BTreeSet<String> = parsed
            .change
            .keys()
            .chain(parsed.secrets.keys())
            .map(ToString::to_string)
            .collect();
        self.may_write(by.clone(), &fields)?;
        let mut change = parsed.change;
        for (name, value) in parsed.secrets {
            let commitment = self
                .ledger
                .keep_secret(&value)
                .map_err(|error| disk_problem(&error))?;
            change.insert(
                name,
                Write::Set(suijuris_core::memory::Value::Commitment(commitment)),
            );
        }
        let patched = self
            .mutate(by.as_str(), change, fields)
            .await
            .map_err(|error| disk_problem(&error))?;
        match self.holding.acknowledged(patched.seq).await {
            Ok(()) => Ok(patched),
            Err(error) => Err(Problem::new(503, "unwitnessed", "The write is not witnessed")
                .with_detail(format!("it may be lost: {}", chain(&error)))),
        }
    }

    fn may_write(&self, by: Principal, fields: &BTreeSet<String>) -> Result<(), Problem> {
        let mut inputs = self.inputs(by);
        inputs.fields.clone_from(fields);
        match self.decide(Action::Mutate, inputs) {
            Verdict::Permit(..) => Ok(()),
            Verdict::Refuse(decision) => {
                let problem = verdict::problem(&decision, &self.id);
                self.refused_at_gate(&decision);
                Err(problem)
            }
        }
    }

    async fn mutate(
        &self,
        by: &str,
        change: Change,
        fields: BTreeSet<String>,
    ) -> Result<Patched, ledger::Error> {
        let body = Body::Mutated(Mutated {
            by: by.to_owned(),
            change,
        });
        let sign = if self.bundle.manifest.seal_within.0 == 0 {
            Sign::Now
        } else {
            Sign::Later
        };
        let committed = self.ledger.commit(body, self.now().at, sign).await?;
        let root = self.ledger.published(|state| state.memory().root().hex());
        let fields: Vec<String> = fields.into_iter().collect();
        self.changes.send("memory", &self.memory());
        self.reports.event(Event::Mutated {
            fields,
            by: by.to_owned(),
            seq: committed.seq,
        });
        self.stirred.notify_one();
        Ok(Patched {
            seq: committed.seq,
            root,
        })
    }
}

fn memory_problem(status: u16, code: &'static str, error: &patch::Error) -> Problem {
    let problem = match code {
        "memory_conflict" => Problem::new(status, "memory_conflict", "Memory has changed"),
        _ => Problem::new(status, "memory_refused", "The write does not fit memory"),
    };
    problem.with_detail(error.to_string())
}

fn disk_problem(error: &dyn std::error::Error) -> Problem {
    Problem::new(
        507,
        "not_durable",
        "The write could not be made durable; nothing was written",
    )
    .with_detail(chain(error))
}
