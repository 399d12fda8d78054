//! The tables of `docs/activation.md`, made from the machine itself: every event in every state. `BLESS=1` writes them.

use std::fmt::Write as _;
use std::time::Duration;

use suijuris_core::activation::requests::{Denial, Kind, Meanwhile, Verdict, Way, judge};
use suijuris_core::activation::{
    Answer, Attached, By, Claimed, Effect, Event, Found, HostStop, Leave, Loss, Phase, Proposal, ProposalId,
    Recorded, Refusal, Report, Stop, Word,
};
use suijuris_core::witness::Purpose;

use super::actor::Actor;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/activation.md");
const BEGIN: &str =
    "<!-- made by the test `the_tables_in_the_docs_are_the_machines`: BLESS=1 writes them -->\n";
const END: &str = "<!-- end of what is made -->\n";

/// An actor, and what its state is called in the table.
fn states() -> Vec<(&'static str, Actor)> {
    let mut named: Vec<(&'static str, Actor)> = Phase::ALL
        .iter()
        .map(|phase| (phase.as_str(), Actor::at(*phase)))
        .collect();
    let at = |named: &[(&'static str, Actor)], name| {
        named.iter().position(|(other, _)| *other == name).unwrap() + 1
    };
    let mut handed_over = Actor::at(Phase::Starting);
    handed_over.handed_over();
    named.insert(at(&named, "starting"), ("starting, handed over", handed_over));
    let mut claiming = Actor::at(Phase::Suspending);
    let run = claiming.run();
    claiming.tell(Event::Suspended(run));
    named.insert(at(&named, "suspending"), ("suspending, claiming", claiming));
    let mut not_recorded = Actor::at(Phase::Settling);
    not_recorded.record(Recorded::Failed);
    named.insert(at(&named, "settling"), ("settling, failed", not_recorded));
    let mut asked = Actor::at(Phase::Running);
    asked.tell(Event::Stop(Stop::Graceful(Duration::from_secs(30))));
    named.push(("host stops: asked to sleep", asked.clone()));
    asked.hear(Word::Leaving(Leave::Slept));
    asked.ends(Recorded::Clean);
    named.push(("host stops: published", asked.clone()));
    let ask = asked.asked();
    asked.tell(Event::Published(ask));
    named.push(("stopped", asked));
    named.insert(0, ("after a restart", Actor::new(Found::Machine)));
    named
}

/// Every event, with the numbers that this actor waits for.
fn events(actor: &Actor) -> Vec<(String, Event)> {
    let mut events: Vec<(String, Event)> = vec![
        (
            "connection".into(),
            Event::Proposed(Proposal::new(90, By::Request)),
        ),
        (
            "timer, message".into(),
            Event::Proposed(Proposal::new(90, By::Timer)),
        ),
        ("memory".into(), Event::Proposed(Proposal::new(90, By::Memory))),
        ("owner".into(), Event::Proposed(Proposal::new(90, By::Owner))),
        ("witness answers".into(), Event::Witnessed),
        ("lost".into(), Event::Lost(Loss::Twin)),
        ("give up".into(), Event::GiveUp),
        (
            "host stops".into(),
            Event::Stop(Stop::Graceful(Duration::from_secs(30))),
        ),
        ("host stops now".into(), Event::Stop(Stop::Now)),
    ];
    if let Some(run) = actor.activation.machine() {
        let words = [
            ("heartbeat", Word::Heartbeat),
            ("woke", Word::Woke),
            ("serving", Word::Serving),
            ("taken", Word::Taken(ProposalId(1))),
            ("draining", Word::Draining),
            ("refused inside", Word::Refused(None)),
            ("sleep refused", Word::SleepRefused),
            ("to be suspended", Word::Suspend),
            ("leaves: slept", Word::Leaving(Leave::Slept)),
            ("leaves: workload failed", Word::Leaving(Leave::WorkloadFailed)),
            ("channel closed", Word::Closed),
        ];
        events.extend(words.map(|(name, word)| (name.to_owned(), Event::Heard(run, word))));
        events.extend([
            ("started".into(), Event::Started(run)),
            ("start failed".into(), Event::StartFailed(run)),
            ("resume failed".into(), Event::ResumeFailed(run)),
            ("suspended".into(), Event::Suspended(run)),
            ("suspend failed".into(), Event::SuspendFailed(run)),
            ("exited".into(), Event::Exited(run)),
        ]);
        let found = [
            ("attached: waits for the claim", Attached::Waiting),
            ("attached: wakes", Attached::Waking),
            ("attached: awake", Attached::Serving),
            ("attached: falls asleep", Attached::Draining),
            ("attached: suspended", Attached::Suspended),
            ("attached: nothing there", Attached::Nothing),
            ("attached: not proved", Attached::Failed),
        ];
        events.extend(found.map(|(name, attached)| (name.to_owned(), Event::Attached(run, attached))));
    }
    if let Some(ask) = actor.asks.last().copied() {
        events.extend([
            ("claim won".into(), Event::Claimed(ask, Claimed::Won)),
            (
                "claim refused".into(),
                Event::Claimed(ask, Claimed::Refused(Loss::Twin)),
            ),
            ("claim failed".into(), Event::Claimed(ask, Claimed::Failed)),
            ("recorded: clean".into(), Event::Recorded(ask, Recorded::Clean)),
            (
                "recorded: crashed".into(),
                Event::Recorded(ask, Recorded::Crashed),
            ),
            (
                "recorded: not the object".into(),
                Event::Recorded(ask, Recorded::Refused(Loss::Twin)),
            ),
            ("recording failed".into(), Event::Recorded(ask, Recorded::Failed)),
            ("published".into(), Event::Published(ask)),
        ]);
    }
    events.push(("deadline".into(), Event::Tick));
    events
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Claim(_, Purpose::Wake) => "claim to wake".into(),
        Effect::Claim(_, Purpose::Rest) => "claim to rest".into(),
        Effect::Start(..) => "start".into(),
        Effect::Attach(_) => "attach".into(),
        Effect::HandOver(_) => "**hand over**".into(),
        Effect::Deliver(..) => "deliver".into(),
        Effect::Sleep(_) => "ask to sleep".into(),
        Effect::Suspend(_) => "suspend".into(),
        Effect::Resume(..) => "resume".into(),
        Effect::Probe(_) => "probe".into(),
        Effect::Stop(_) => "stop".into(),
        Effect::Kill(_) => "kill".into(),
        Effect::RecordEnd(_) => "record the end".into(),
        Effect::Publish(_) => "publish".into(),
        Effect::Look => "look".into(),
        Effect::Answer(_, Answer::Woke) => "answer: awake".into(),
        Effect::Answer(_, Answer::Again) => "decide again".into(),
        Effect::Answer(_, Answer::Refused(refusal)) => format!("refuse: {}", refused(*refusal)),
        Effect::Report(report) => format!("report: {}", reported(*report)),
    }
}

fn refused(refusal: Refusal) -> String {
    match refusal {
        Refusal::Failed(failure) => failure.to_string(),
        Refusal::NotTheObject(loss) => loss.to_string(),
        other => other.to_string(),
    }
}

fn reported(report: Report) -> String {
    match report {
        Report::Lost(loss) => loss.to_string(),
        Report::Failed(failure) => failure.to_string(),
        Report::Paused(..) => "paused".into(),
        Report::SleepRefused => "the object refuses to sleep".into(),
        Report::NotSuspended => "the machine cannot be suspended".into(),
        Report::Unkillable(_) => "the machine does not end".into(),
        Report::NotRecorded(_) => "not recorded".into(),
        Report::Stopped(true) => "stopped".into(),
        Report::Stopped(false) => "stopped, not cleanly".into(),
        Report::Abandoned(_) => "the machine is abandoned".into(),
    }
}

/// What an event brings in a state: the next state, and what is done. Nothing where it means nothing there.
fn outcome(actor: &Actor, event: Event) -> Option<(&'static str, String)> {
    let mut after = actor.clone();
    if event == Event::Tick {
        after.now = after.now.max(after.activation.deadline()?);
    }
    let before = after.activation.clone();
    let effects: Vec<String> = after.tell(event).iter().map(effect).collect();
    if effects.is_empty() && after.activation == before {
        return None;
    }
    let next = if after.phase() == actor.phase() {
        ""
    } else {
        after.phase().as_str()
    };
    let done = match (effects.is_empty(), event) {
        (true, Event::Proposed(_)) => "waits".to_owned(),
        (true, _) => "–".to_owned(),
        (false, _) => effects.join(", "),
    };
    Some((next, done))
}

/// Events that bring the same in a state share a line.
fn transitions() -> String {
    let mut table = String::from("| State | Event | Next | What is done, in order |\n|---|---|---|---|\n");
    for (name, actor) in states() {
        let mut lines: Vec<(Vec<String>, (&str, String))> = Vec::new();
        for (event_name, event) in events(&actor) {
            let Some(outcome) = outcome(&actor, event) else {
                continue;
            };
            match lines.iter_mut().find(|(_, other)| *other == outcome) {
                Some((names, _)) => names.push(event_name),
                None => lines.push((vec![event_name], outcome)),
            }
        }
        for (names, (next, done)) in lines {
            writeln!(table, "| {name} | {} | {next} | {done} |", names.join("; ")).unwrap();
        }
    }
    table
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Accept(Way::Propose) => "propose".into(),
        Verdict::Accept(Way::Stop) => "stop".into(),
        Verdict::Accept(Way::AtRest) => "do at rest".into(),
        Verdict::Accept(Way::Runtime(_)) => "ask the runtime".into(),
        Verdict::Accept(Way::Answer) => "answer".into(),
        Verdict::Queue(Meanwhile::Nothing) => "queue".into(),
        Verdict::Queue(Meanwhile::Unlock) => "queue, unlock".into(),
        Verdict::Queue(Meanwhile::GiveUp) => "queue, give up".into(),
        Verdict::Ignore => "ignore".into(),
        Verdict::Deny(denial) => format!("deny: {}", short(denial)),
    }
}

const fn short(denial: Denial) -> &'static str {
    match denial {
        Denial::Awake => "awake",
        Denial::FallsAsleep => "falls asleep",
        Denial::NotRunning => "not running",
        Denial::Stopping => "stopping",
        Denial::NotTheObject => "not the object",
        Denial::Full | Denial::Late | Denial::Unanswered => "late",
    }
}

fn requests() -> String {
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let mut table = format!(
        "| State | {} |\n|---{}|\n",
        kinds.join(" | "),
        "|---".repeat(kinds.len())
    );
    let mut row = |name: &str, phase, stop, machine| {
        let cells = Kind::ALL.map(|kind| verdict(judge(kind, phase, stop, machine)));
        writeln!(table, "| {name} | {} |", cells.join(" | ")).unwrap();
    };
    for phase in Phase::ALL {
        let machine = Actor::at(phase).activation.machine();
        row(phase.as_str(), phase, HostStop::None, machine);
    }
    row("host stops", Phase::Stopping, HostStop::UnderWay, None);
    row("stopped", Phase::Resting, HostStop::Done, None);
    table
}

#[test]
fn the_tables_in_the_docs_are_the_machines() {
    let made = format!(
        "{BEGIN}\n## Every transition\n\n{}\n## Every request\n\n{}\n{END}",
        transitions(),
        requests()
    );
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{made}{after}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(PAGE, &wanted).unwrap();
    }
    let first = page.lines().zip(wanted.lines()).find(|(is, should)| is != should);
    let same = page == wanted || std::env::var_os("BLESS").is_some();
    assert!(
        same,
        "docs/activation.md is not what the machine does; `BLESS=1 cargo test -p suijuris-core --test activation table` writes it; first difference: {first:?}"
    );
}

#[test]
fn every_state_is_reached_and_no_event_is_without_meaning_everywhere() {
    let table = transitions();
    for (name, _) in states() {
        assert!(
            table.contains(&format!("| {name} |")),
            "nothing happens in `{name}`"
        );
    }
    for event in states()
        .iter()
        .flat_map(|(_, actor)| events(actor))
        .map(|(name, _)| name)
    {
        let means = table.lines().any(|line| {
            let names = line.split(" | ").nth(1).unwrap_or_default();
            names.split("; ").any(|name| name == event)
        });
        // A heartbeat at the very instant of the last word moves nothing.
        assert!(means || event == "heartbeat", "`{event}` means nothing anywhere");
    }
}
