//! A recorded decision explained, and made again from its recorded inputs.

use std::sync::Arc;

use serde_json::json;
use suijuris_api::history::{Replay, Why};
use suijuris_core::codec;
use suijuris_core::decide::View;
use suijuris_core::governance::Action;
use suijuris_core::id::{BundleId, Digest};
use suijuris_core::lineage::{Body, Decision, Refused, State, Stored};
use suijuris_core::refusals::RefusalId;
use suijuris_core::time::Timestamp;
use suijuris_store::Reader;
use suijuris_words::verdict;

use super::{HistoryError, Past, again, decision as decision_of, place, walk, words};

/// Which decision is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionSelector {
    /// The last one.
    Last,
    /// That of the record at this position.
    Seq(u64),
    /// The one that a refused caller quotes.
    Refusal(RefusalId),
}

impl DecisionSelector {
    /// As people write it: `last`, a position, or a refusal's id.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        if word == "last" {
            return Some(Self::Last);
        }
        let id = || RefusalId::parse(word).map(Self::Refusal);
        word.parse().ok().map(Self::Seq).or_else(id)
    }
}

/// A decision with the state that it was made on.
struct Found {
    stored: Stored,
    decision: Decision,
    /// The last state in force when it was made, by which it comes out the same if any does.
    state: State,
    again: Decision,
}

/// Explains it; nothing where nothing has been decided yet.
///
/// # Errors
/// [`HistoryError`].
pub fn why(
    past: Past<'_>,
    which: &DecisionSelector,
    action: Option<Action>,
) -> Result<Option<Why>, HistoryError> {
    let Some((stored, decision)) = select(past.reader, which, action)? else {
        return Ok(None);
    };
    tell(past.reader, remake(past, stored, decision)?).map(Some)
}

/// Explains a refusal that no record of the object keeps, since a door gave it while the object rested: by the state that was in
/// force then. The record named is the one that it was decided after.
///
/// # Errors
/// [`HistoryError`].
pub fn of_a_door(past: Past<'_>, refused: &Refused) -> Result<Why, HistoryError> {
    let (reader, decision) = (past.reader, &refused.decision);
    let (at, recorded) = (decision.inputs.now.at, codec::encode(decision)?);
    let mut best: Option<(State, Decision, bool)> = None;
    let mut compare = |state: &State, until: Option<Timestamp>| {
        if state.head().at > at || until.is_some_and(|until| until < at) {
            return Ok::<_, HistoryError>(());
        }
        let bundle = reader.bundle(&state.head().bundle)?;
        let again = super::at_place(View::new(state, &bundle.rules), &refused.at, decision);
        let same = codec::encode(&again)? == recorded;
        if same || !best.as_ref().is_some_and(|(_, _, same)| *same) {
            best = Some((state.clone(), again, same));
        }
        Ok(())
    };
    let last = walk(past, u64::MAX, |state, next| compare(state, Some(next.record.at)))?;
    compare(&last, None)?;
    let (state, again, _) = best.ok_or(HistoryError::NeverInForce)?;
    let seq = state.head().seq;
    let stored = reader.records(seq..seq.saturating_add(1))?.next();
    let stored = stored.ok_or(HistoryError::Empty)??;
    let found = Found {
        stored,
        decision: decision.clone(),
        state,
        again,
    };
    let why = tell(reader, found)?;
    let verdict = verdict::verdict(decision, &refused.at);
    Ok(Why {
        kind: "refused".to_owned(),
        at: at.to_string(),
        verdict,
        ..why
    })
}

fn select(
    reader: &Reader,
    which: &DecisionSelector,
    action: Option<Action>,
) -> Result<Option<(Stored, Decision)>, HistoryError> {
    let range = match which {
        DecisionSelector::Last | DecisionSelector::Refusal(_) => 0..u64::MAX,
        DecisionSelector::Seq(seq) => *seq..seq.saturating_add(1),
    };
    let mut last = None;
    for stored in reader.records(range)? {
        let stored = stored?;
        let decision = decision_of(&stored.record.body);
        let decision = decision
            .filter(|decision| action.is_none_or(|action| decision.action == action))
            .cloned();
        match (decision, which) {
            (decision, DecisionSelector::Refusal(id)) => {
                // Counted again later, the same decision stands in several records: the last one counts all.
                let counts = |decision: &Decision| {
                    RefusalId::of(reader.state().head().object, stored.record.bundle, decision) == *id
                };
                last = decision
                    .filter(counts)
                    .map(|decision| (stored, decision))
                    .or(last);
            }
            (Some(decision), _) => last = Some((stored, decision)),
            (None, DecisionSelector::Seq(seq)) => {
                let kind = stored.record.body.kind();
                return Err(HistoryError::Asked(format!(
                    "record {seq} is `{kind}` and keeps no such decision; see `suijuris log`"
                )));
            }
            (None, DecisionSelector::Last) => {}
        }
    }
    match (last, which) {
        (None, DecisionSelector::Refusal(id)) => Err(HistoryError::Asked(format!(
            "no record counts the refusal {}: refusals are recorded within a minute; of those of `suijuris door`, whoever runs it has the newest",
            id.as_str()
        ))),
        (None, DecisionSelector::Seq(seq)) => {
            let head = reader.state().head().seq;
            Err(HistoryError::Asked(format!(
                "there is no record {seq}: the history ends at {head}"
            )))
        }
        (last, _) => Ok(last),
    }
}

/// Makes a decision again on the state it was made on: one in force at its instant and older than the first record that
/// keeps it. Mostly that is the one before its record; a refusal that is counted again later was made earlier, and
/// several records may share one millisecond. That which founded an instance was made before there was any state; what
/// is shown is the one it was born with.
fn remake(past: Past<'_>, stored: Stored, decision: Decision) -> Result<Found, HistoryError> {
    let reader = past.reader;
    if let Body::Inception(inception) = &stored.record.body
        && let Some(class) = &inception.class
    {
        let bundle = reader.bundle(&stored.record.bundle)?;
        let bundles = |id: &BundleId| (*id == stored.record.bundle).then(|| Arc::clone(bundle.schema()));
        return Ok(Found {
            again: class.replay(&inception.name, &bundle),
            state: State::begin(&stored, &bundles)?,
            stored,
            decision,
        });
    }
    let (at, recorded) = (decision.inputs.now.at, codec::encode(&decision)?);
    let mut best: Option<(State, Decision, bool)> = None;
    let mut kept = false;
    walk(past, stored.record.seq, |state, next| {
        let in_force =
            state.head().at <= at && (next.record.at >= at || next.record.seq == stored.record.seq);
        if in_force && !kept {
            let bundle = reader.bundle(&state.head().bundle)?;
            let view = View::new(state, &bundle.rules);
            let again = again(view, &stored.record.body, &decision);
            let same = codec::encode(&again)? == recorded;
            if same || !best.as_ref().is_some_and(|(_, _, same)| *same) {
                best = Some((state.clone(), again, same));
            }
        }
        kept |= decision_of(&next.record.body) == Some(&decision);
        Ok(())
    })?;
    let (state, again, _) = best.ok_or(HistoryError::NeverInForce)?;
    Ok(Found {
        stored,
        decision,
        state,
        again,
    })
}

fn tell(reader: &Reader, found: Found) -> Result<Why, HistoryError> {
    let Found {
        stored,
        decision,
        state,
        again,
    } = found;
    let bundle = reader.bundle(&state.head().bundle)?;
    let record = &stored.record;
    let (recorded, made) = (codec::encode(&decision)?, codec::encode(&again)?);
    let instance = match &record.body {
        Body::Inception(inception) => inception.class.as_ref().map(words::instance),
        _ => None,
    };
    let explanation = decision.explanation.as_ref();
    let not_fresh = explanation.into_iter().flat_map(|found| &found.not_fresh);
    let near_misses = explanation.into_iter().flat_map(|found| &found.near_misses);
    Ok(Why {
        seq: record.seq,
        record: stored.id.to_string(),
        kind: record.body.kind().to_owned(),
        at: record.at.to_string(),
        epoch: record.epoch,
        after: state.head().seq,
        bundle: state.head().bundle.to_string(),
        instance,
        verdict: verdict::verdict(&decision, place(&record.body)),
        explained: words::explained(&decision),
        rules: words::rule_texts(&decision, &bundle),
        not_fresh: not_fresh.map(|found| json!(found)).collect(),
        near_misses: near_misses.map(|found| json!(found)).collect(),
        inputs: serde_json::to_value(&decision.inputs)?,
        memory: suijuris_words::memory::memory(&state, decision.inputs.now),
        replay: Replay {
            same: recorded == made,
            recorded: Digest::of(&recorded).hex(),
            again: Digest::of(&made).hex(),
            outcome: verdict::verdict(&again, "runtime").outcome,
        },
    })
}
