//! Messages: stored first, then a reason to wake where their topic is declared.

use std::sync::Arc;

use suijuris_api::Problem;
use suijuris_core::ObjectId;
use suijuris_core::inputs::Caller;
use suijuris_core::message::Message;
use suijuris_core::time::Ratchet;
use suijuris_depot::Posted;

use super::{Door, ObjectStatus};
use crate::proposal::Proposal;
use crate::{authenticate, problems};

impl Door {
    /// Stores a message for `object`, and wakes it for a topic that it declares. `authorization` is the sender's.
    ///
    /// # Errors
    /// The [`Problem`] to answer with; nothing was stored then, but where the depot did not answer.
    pub async fn post(
        self: &Arc<Self>,
        object: ObjectId,
        message: &Message,
        authorization: Option<&str>,
    ) -> Result<Posted, Problem> {
        let status = match self.look(object).await {
            Ok(ObjectStatus::Unknown) => {
                self.metrics.message("unknown_object");
                return Err(problems::unknown(object));
            }
            Ok(status) => status,
            Err(error) if error.is_unreachable() => {
                self.metrics.message("depot");
                return Err(problems::head(&error, object));
            }
            // A head that is not believed wakes nobody, but whoever has a mark may be written to.
            Err(_) => ObjectStatus::Awake,
        };
        let sender = self.sender(object, authorization)?;
        let stored = tokio::time::timeout(self.limits.depot_within, self.depot.post(object, message)).await;
        let posted = stored.map_or_else(
            |_| Err(problems::slow(object)),
            |stored| stored.map_err(|error| problems::depot(&error, object)),
        );
        let posted = posted.inspect_err(|_| self.metrics.message("not_stored"))?;
        self.metrics.message(match posted {
            Posted::Stored => "stored",
            Posted::Duplicate => "duplicate",
        });
        if posted == Posted::Stored && status == ObjectStatus::Asleep {
            self.wake_for(object, message, sender);
        }
        Ok(posted)
    }

    fn sender(&self, object: ObjectId, authorization: Option<&str>) -> Result<Arc<Caller>, Problem> {
        let reading = (self.clock)();
        let sender = self.sleepers.with_prepared(object, |prepared, at| {
            let now = Ratchet::new(at).observe(reading);
            authenticate::caller(prepared, object, now, authorization)
        });
        sender.unwrap_or_else(|| Ok(Arc::default()))
    }

    /// Proposes a wake beside, where the topic is declared.
    fn wake_for(self: &Arc<Self>, object: ObjectId, message: &Message, sender: Arc<Caller>) {
        let wakes = self
            .sleepers
            .with_prepared(object, |prepared, _| prepared.wakes_for(&message.topic));
        if wakes != Some(true) {
            return;
        }
        let proposal = Proposal::message(message.topic.clone(), Arc::unwrap_or_clone(sender));
        let inputs = self.inputs(proposal);
        let door = Arc::clone(self);
        self.aside(async move {
            // The answer is in metrics and events; the message waits in any case.
            let _ = door.propose(object, inputs).await;
        });
    }
}
