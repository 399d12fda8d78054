//! The door of a class: whether an instance is founded for whoever asks, decided by the template's rule `instantiate`
//! before anything is written.
//!
//! Counting, rates and founding are the caller's, who runs the class. Called by the supervisor.

use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_core::class::{Instantiation, Key, Template, instantiate};
use suijuris_core::decide::Verdict;
use suijuris_core::id::{ClassId, ObjectId};
use suijuris_core::inputs::{Caller, Founding, Host, Inputs, Principal, Request};
use suijuris_core::lineage::Decision;
use suijuris_core::memory::Memory;
use suijuris_core::refusals::RefusalId;
use suijuris_core::time::{Ratchet, Reading, Timestamp};

use crate::authenticate::{self, Credentials};
use crate::prepared::PreparedBundle;
use crate::problems;

/// A class at its door.
#[derive(Debug)]
pub struct ClassDoor {
    prepared: Arc<PreparedBundle>,
    id: ClassId,
    name: String,
    memory: Memory,
    place: Host,
    ratchet: Ratchet,
}

impl ClassDoor {
    /// The class `id`, called `name`, whose template is in `prepared`; `place` is where its instances would run.
    #[must_use]
    pub fn new(prepared: Arc<PreparedBundle>, id: ClassId, name: String, place: Host) -> Self {
        let memory = Memory::new(Arc::clone(prepared.bundle().schema()));
        let ratchet = Ratchet::new(Timestamp(0));
        Self {
            prepared,
            id,
            name,
            memory,
            place,
            ratchet,
        }
    }

    /// Its template.
    #[must_use]
    pub const fn prepared(&self) -> &Arc<PreparedBundle> {
        &self.prepared
    }

    /// Its id as that of an object: what stands for the instance that there is not yet, as the audience of tokens too.
    #[must_use]
    pub fn object(&self) -> ObjectId {
        ObjectId::from_digest(*self.id.digest())
    }

    /// Who shows these credentials: anonymous without a token, and where the class pins no keys.
    ///
    /// # Errors
    /// The [`Problem`] to answer with.
    pub fn caller(&mut self, credentials: Credentials<'_>, reading: Reading) -> Result<Arc<Caller>, Problem> {
        let now = self.ratchet.observe(reading);
        authenticate::caller(&self.prepared, self.object(), now, credentials.authorization)
    }

    /// Decides whether the instance `key` is founded: what goes into its inception, or the decision that refuses.
    ///
    /// # Errors
    /// The decision, where it refuses.
    pub fn decide(
        &mut self,
        key: &Key,
        founding: Founding,
        caller: &Caller,
        request: Option<Request>,
        reading: Reading,
    ) -> Result<Instantiation, Box<Decision>> {
        let now = self.ratchet.observe(reading);
        let by = Principal::Caller(Box::new(caller.clone()));
        let mut inputs = Inputs::new(now, by, self.place.clone());
        inputs.request = request;
        let template = Template {
            id: self.id,
            name: &self.name,
            rules: &self.prepared.bundle().rules,
            memory: &self.memory,
        };
        match instantiate(&template, key, founding, inputs) {
            Verdict::Permit(_, decision) => Ok(Instantiation {
                id: self.id,
                key: key.clone(),
                decision: *decision,
            }),
            Verdict::Refuse(decision) => Err(decision),
        }
    }

    /// The problem document of a refusal, as its caller reads it. It is recorded nowhere: there is no object.
    #[must_use]
    pub fn problem(&self, decision: &Decision) -> Problem {
        let id = RefusalId::of(self.object(), self.prepared.bundle().id(), decision);
        problems::refused(&self.prepared, self.object(), decision, &id)
    }
}
