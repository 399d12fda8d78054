//! A proposal to wake a sleeping object: who proposes, and because of what. What is known beside it (where, what the
//! witness says, how many messages wait) is added by whoever decides.
//!
//! Called by both kinds of door: the one over a table of packed heads, and the one of `up`.

use suijuris_core::governance::TriggerKind;
use suijuris_core::inputs::{Caller, Host, Inputs, Principal, Request, Trigger, Witnessed};
use suijuris_core::lineage::Fired;
use suijuris_core::memory::Name;
use suijuris_core::time::Now;
use suijuris_core::trigger::Due;

/// A proposal to wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Because of what.
    pub trigger: Trigger,
    /// By whom.
    pub principal: Principal,
    /// The request that wants to be let in, where one does: `admit` is decided as well then.
    pub request: Option<Request>,
    /// Timer occurrences that this proposal deals with.
    pub fired: Fired,
}

impl Proposal {
    fn new(trigger: Trigger, principal: Principal) -> Self {
        Self {
            trigger,
            principal,
            request: None,
            fired: Fired::new(),
        }
    }

    /// Because somebody wants to be let in.
    #[must_use]
    pub fn request(caller: Caller, request: Request) -> Self {
        let principal = Principal::Caller(Box::new(caller));
        Self {
            request: Some(request),
            ..Self::new(Trigger::new(TriggerKind::Request), principal)
        }
    }

    /// Because these timers are due: named after the first that fires. None where all occurrences are skipped, which
    /// proposes nothing.
    #[must_use]
    pub fn timers(due: &[(Name, Due)]) -> Option<Self> {
        let (name, first) = due.iter().find(|(_, due)| !due.fire.is_empty())?;
        let trigger = Trigger {
            name: Some(name.to_string()),
            missed: first.missed,
            ..Trigger::new(TriggerKind::Timer)
        };
        Some(Self {
            fired: dealt_with(due),
            ..Self::new(trigger, Principal::Timer)
        })
    }

    /// Because a message of `sender` waits on this topic.
    #[must_use]
    pub fn message(topic: String, sender: Caller) -> Self {
        let trigger = Trigger {
            topic: Some(topic),
            ..Trigger::new(TriggerKind::Message)
        };
        Self::new(trigger, Principal::Caller(Box::new(sender)))
    }

    /// By an owner, for no other reason than that they ask.
    #[must_use]
    pub fn manual(owner: Principal) -> Self {
        Self::new(Trigger::new(TriggerKind::Manual), owner)
    }

    /// Because an owner wrote a field that wakes.
    #[must_use]
    pub fn memory(owner: Principal, field: String) -> Self {
        let trigger = Trigger {
            field: Some(field),
            ..Trigger::new(TriggerKind::Memory)
        };
        Self::new(trigger, owner)
    }

    /// The facts of a decision at `now`.
    #[must_use]
    pub fn inputs(self, now: Now, place: Host, witnessed: Witnessed, pending: u64) -> Inputs {
        let mut inputs = Inputs::new(now, self.principal, place);
        inputs.trigger = Some(self.trigger);
        inputs.request = self.request;
        inputs.conditions.witness = witnessed;
        inputs.pending = pending;
        inputs
    }
}

/// The occurrences of these timers, fired or skipped, to be recorded as dealt with.
#[must_use]
pub fn dealt_with(due: &[(Name, Due)]) -> Fired {
    due.iter().map(|(name, due)| (name.clone(), due.up_to)).collect()
}

#[cfg(test)]
mod tests {
    use suijuris_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_timer_that_fires_gives_its_name_and_those_that_are_skipped_are_dealt_with_too() {
        let name = |name: &str| Name::new(name).unwrap();
        let due = |fire: &[i64], missed| Due {
            fire: fire.iter().copied().map(Timestamp).collect(),
            missed,
            up_to: Timestamp(60),
        };
        let skipped = (name("a"), due(&[], 3));
        assert_eq!(Proposal::timers(std::slice::from_ref(&skipped)), None);
        let both = [skipped, (name("b"), due(&[60], 1))];
        let proposal = Proposal::timers(&both).unwrap();
        assert_eq!(
            (proposal.trigger.name.as_deref(), proposal.trigger.missed),
            (Some("b"), 1)
        );
        assert_eq!(proposal.fired.len(), 2);
    }
}
