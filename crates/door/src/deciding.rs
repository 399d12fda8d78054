//! Deciding for a sleeping object: `wake`, and where a request wants to be let in, `admit` as if the object were awake.
//!
//! The order of the two, in three forms: without words for many objects ([`weigh`]), in words ([`consider`]), and with
//! a permit for whoever holds the state itself ([`decide`]). A property test holds them to the same answers. What an
//! action needs is `core::decide`.

use suijuris_core::decide::{self, Refused, Subject, Verdict, View};
use suijuris_core::governance::{Action, RuleSet};
use suijuris_core::inputs::Inputs;
use suijuris_core::lineage::{Decision, Outcome, Phase};

/// The rules that permit, those of `admit` for a request; or the action that is refused, and why. `id` as for
/// [`decide::weigh`].
pub(crate) fn weigh(subject: &Subject<'_>, id: &str, inputs: &Inputs) -> Result<RuleSet, (Action, Refused)> {
    let weigh = |subject: &Subject<'_>, action| {
        decide::weigh(subject, id, action, inputs).map_err(|refused| (action, refused))
    };
    let woken = weigh(subject, Action::Wake)?;
    if inputs.request.is_none() {
        return Ok(woken);
    }
    let awake = Subject {
        phase: Phase::Active,
        ..*subject
    };
    weigh(&awake, Action::Admit)
}

/// The same in words: the decision of `wake`, or that of `admit` where `wake` is permitted and a request asks.
pub(crate) fn consider(subject: Subject<'_>, inputs: Inputs) -> Decision {
    let wake = decide::consider(subject, Action::Wake, inputs);
    if wake.outcome != Outcome::Permit {
        return wake;
    }
    admission(subject, &wake.inputs).unwrap_or(wake)
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
    Some(decide::foresee(subject, Action::Admit, inputs.clone()))
}
