//! Memory of the resident object: read with secrets veiled, written when the rules let, answered when durable.

use suijuris_api::Problem;
use suijuris_api::agent::{self, Patch, Patched};
use suijuris_core::inputs::Principal;
use suijuris_core::lineage::{Body, Decision, Refused, State};
use suijuris_core::memory::Plain;
use suijuris_custody::caller_api::{self, Ask, NotRead};
use suijuris_custody::chain;
use suijuris_custody::write::{WriteError, Written, unwitnessed};
use suijuris_words::verdict;

use super::Resident;
use crate::lineage_writer::{self, Sign};

impl Resident {
    /// Memory, secrets veiled.
    #[must_use]
    pub fn memory(&self) -> agent::Memory {
        let now = self.now();
        self.lineage
            .published(|state| suijuris_words::memory::memory(state, now))
    }

    /// The value of a secret field; `None` for any other field.
    ///
    /// # Errors
    /// When the secret cannot be read.
    pub fn secret(&self, name: &str) -> Result<Option<serde_json::Value>, Problem> {
        let secret = self.lineage.secret(name).map_err(|error| {
            Problem::new(500, "secret_unreadable", "The secret cannot be read").with_detail(chain(&error))
        })?;
        Ok(secret.map(|value| serde_json::to_value(Plain(&value)).unwrap_or_default()))
    }

    /// Records what was refused, counted since the last record of its kind.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) async fn record_refused(&self, refused: Refused) -> Result<(), lineage_writer::Error> {
        self.reports.event(verdict::refused(&refused));
        let body = Body::Refused(Box::new(refused));
        self.lineage.commit(body, self.now().at, Sign::Now).await?;
        Ok(())
    }

    /// Writes memory if the rules let `by`; answered when it may be acknowledged.
    ///
    /// # Errors
    /// The problem to answer with: not a fitting change, refused by the rules, the disk failed, or the witness does not have
    /// what it is to have.
    pub async fn patch(&self, by: Principal, patch: &Patch) -> Result<Patched, Problem> {
        self.write(by, patch, Self::not_written).await
    }

    /// As [`Resident::patch`], with what to answer where nothing was written.
    async fn write(
        &self,
        by: Principal,
        patch: &Patch,
        not_written: fn(&Self, WriteError) -> Problem,
    ) -> Result<Patched, Problem> {
        let durable = match self
            .lineage
            .write(&self.claim, &self.bundle, self.inputs(by), patch)
        {
            Ok(staged) => staged.durable().await,
            Err(error) => Err(error),
        };
        let durable = durable.map_err(|error| not_written(self, error))?;
        self.changes.send("memory", &self.memory());
        self.reports.event(durable.event());
        self.stirred.notify_one();
        let Written { seq, root, .. } = self.claim.acknowledge_write(durable).await.map_err(unwitnessed)?;
        Ok(Patched { seq, root })
    }

    /// Answers a verified caller, or another object, that asks the object itself over its own listener.
    ///
    /// # Errors
    /// The problem to answer with: a caller reads of a refusal what callers read.
    pub async fn answer_caller(&self, by: Principal, ask: &Ask) -> Result<Vec<u8>, Problem> {
        if let Ask::Write(patch) = ask {
            // Whatever is acknowledged stands on an activation that the witness knows.
            self.may_answer().await;
            let inputs = self.inputs(by.clone());
            let rules = &self.bundle.rules;
            let ask = |state: &State| {
                caller_api::may_write((state, rules), &inputs, patch)?;
                Ok(caller_api::reads_all((state, rules), &inputs))
            };
            let all = self.lineage.staged(ask).map_err(|why| self.not_read(why))?;
            let patched = self.write(by, patch, Self::not_written_for_caller).await?;
            return Ok(caller_api::patched(&patched, all));
        }
        let inputs = self.inputs(by);
        let (phase, holds) = self.phase_and_holds();
        self.lineage
            .published(|state| caller_api::read((state, &self.bundle.rules), &inputs, ask, phase, holds))
            .map_err(|why| self.not_read(why))
    }

    fn not_read(&self, why: NotRead) -> Problem {
        match why {
            NotRead::Refused(decision) => self.refused_caller(&decision),
            NotRead::NoField(problem) => *problem,
        }
    }

    fn refused_caller(&self, decision: &Decision) -> Problem {
        let id = self.refused(decision);
        self.public_problem(decision, &id)
    }

    fn not_written_for_caller(&self, error: WriteError) -> Problem {
        match error {
            WriteError::Refused(decision) => self.refused_caller(&decision),
            error => error.public_problem(&self.id),
        }
    }

    /// The answer to a write that did not happen; a refusal is counted.
    fn not_written(&self, error: WriteError) -> Problem {
        let problem = error.problem(&self.id);
        if let WriteError::Refused(decision) = error {
            self.refused(&decision);
        }
        problem
    }
}
