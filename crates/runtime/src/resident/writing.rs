//! Memory of the resident object: read with secrets veiled, written when the rules let, answered when durable.

use suijuris_api::Problem;
use suijuris_api::agent::{self, Patch, Patched};
use suijuris_core::inputs::Principal;
use suijuris_core::memory::Plain;
use suijuris_custody::chain;
use suijuris_custody::write::{WriteError, Written, unwitnessed};

use super::Resident;

impl Resident {
    /// Memory, secrets veiled.
    #[must_use]
    pub fn memory(&self) -> agent::Memory {
        let now = self.now();
        self.lineage.published(|state| crate::words::memory(state, now))
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

    /// Writes memory if the rules let `by`; answered when it may be acknowledged.
    ///
    /// # Errors
    /// The problem to answer with: not a fitting change, refused by the rules, the disk failed, or the witness does not have
    /// what it is to have.
    pub async fn patch(&self, by: Principal, patch: &Patch) -> Result<Patched, Problem> {
        let durable = match self
            .lineage
            .write(&self.claim, &self.bundle, self.inputs(by), patch)
        {
            Ok(staged) => staged.durable().await,
            Err(error) => Err(error),
        };
        let durable = durable.map_err(|error| self.not_written(error))?;
        self.changes.send("memory", &self.memory());
        self.reports.event(durable.event());
        self.stirred.notify_one();
        let Written { seq, root, .. } = self.claim.acknowledge_write(durable).await.map_err(unwitnessed)?;
        Ok(Patched { seq, root })
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
