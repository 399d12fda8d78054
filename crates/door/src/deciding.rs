//! Deciding for a sleeping object: `wake`, and where a request wants to be let in, `admit` as if the object were awake.
//!
//! The order of the two in words ([`evaluate`]), and with a permit for whoever holds the state itself ([`decide`]);
//! without words it is `core::decide::evaluate_quick`. A property test holds the three to the same answers. What an
//! action needs is `core::decide`.

use suijuris_core::decide::{self, Subject, Verdict, View};
use suijuris_core::governance::Action;
use suijuris_core::inputs::Inputs;
use suijuris_core::lineage::{Decision, Outcome};

/// The decision of `wake`, or that of `admit` where `wake` is permitted and a request asks.
pub(crate) fn evaluate(subject: Subject<'_>, inputs: Inputs) -> Decision {
    decide::evaluate_asleep(subject, inputs)
}

/// The same with a permit to wake, and the words of `wake` where both are permitted.
pub(crate) fn decide(view: View<'_>, inputs: Inputs) -> Verdict {
    match decide::decide(view, Action::Wake, view.head.object, inputs) {
        Verdict::Permit(permit, wake) => match admission(view.into(), &wake.inputs) {
            Some(admit) if admit.outcome != Outcome::Permit => Verdict::Refuse(Box::new(admit)),
            _ => Verdict::Permit(permit, wake),
        },
        refused => refused,
    }
}

/// What is decided of the request that asks; none where none does.
fn admission(subject: Subject<'_>, inputs: &Inputs) -> Option<Decision> {
    inputs.request.as_ref()?;
    Some(decide::evaluate_as_if_awake(
        subject,
        Action::Admit,
        inputs.clone(),
    ))
}
