//! What an object's own dormancy saves over an idle timer, on one recorded day, decided by real rules: printed, and held to.
//!
//! The machine is played (it starts and stops at once); who is awake when is decided by the compiled rules, at each event and where they
//! say that time alone turns them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that prints what it measured"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use suijuris_core::governance::{
    Action, Activity, Caller, Facts, Host, Lineage, Object, Outcome, Principal, Program, Trigger,
    TriggerKind, Vocabulary,
};
use suijuris_core::memory::{Change, Field, Kind, Memory, Name, Schema, Value, Write};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_policy::compile;

const TRACE: &str = include_str!("saving/agent.trace");
const DAY_MS: i64 = 86_400_000;
/// What Fly's documents give as an example, and what many people set.
const TIMER_MS: i64 = 300_000;

const RULES: &str = r#"
permit (principal is Caller, action == Action::"wake", resource);
permit (principal, action == Action::"remain", resource)
when { resource.memory.jobs > 0 || context.activity.in_flight > 0 || context.activity.idle < duration("5s") };
"#;

enum Event {
    Begins,
    Ends,
    Jobs(i64),
}

fn events() -> Vec<(i64, Event)> {
    let mut events = Vec::new();
    for line in TRACE.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let at: i64 = word().parse::<i64>().unwrap() * 1_000;
        let (what, number) = (word(), word().parse().unwrap());
        match what {
            "request" => {
                events.push((at, Event::Begins));
                events.push((at + number, Event::Ends));
            }
            "jobs" => events.push((at, Event::Jobs(number))),
            other => panic!("{other}"),
        }
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

/// The object of the day, as its rules see it.
struct Agent {
    program: Program,
    memory: Memory,
    in_flight: i64,
    last_traffic: i64,
    woke: i64,
}

impl Agent {
    fn new() -> Self {
        let mut jobs = Field::new(Kind::INT);
        jobs.default = Some(Value::Int(0));
        let fields = BTreeMap::from([(Name::new("jobs").unwrap(), jobs)]);
        let vocabulary = Vocabulary::of_memory(Schema::try_from(fields).unwrap());
        let compiled = compile(&vocabulary, RULES).unwrap_or_else(|errors| panic!("{errors:#?}"));
        Self {
            program: compiled.program,
            memory: Memory::new(Arc::new(vocabulary.memory)),
            in_flight: 0,
            last_traffic: 0,
            woke: 0,
        }
    }

    fn decide<R>(&self, action: Action, at: i64, look: impl FnOnce(&Program, &Facts<'_>) -> R) -> R {
        let object = Object {
            id: "o",
            name: "agent",
            memory: &self.memory,
            lineage: Lineage::default(),
            instance: None,
        };
        let now = Now {
            at: Timestamp(at),
            quality: Quality::Synced,
        };
        let by = match action {
            Action::Wake => Principal::Caller(Caller::default()),
            _ => Principal::Host,
        };
        let mut facts = Facts::new(by, object, now, Host::default());
        facts.trigger = Some(Trigger {
            kind: TriggerKind::Request,
            name: None,
            topic: None,
            field: None,
            missed: 0,
        });
        let idle = if self.in_flight > 0 {
            0
        } else {
            at - self.last_traffic.max(self.woke)
        };
        facts.activity = Some(Activity {
            active: Span(at - self.woke),
            idle: Span(idle),
            connections: self.in_flight,
            in_flight: self.in_flight,
        });
        look(&self.program, &facts)
    }

    fn may(&self, action: Action, at: i64) -> bool {
        self.decide(action, at, |program, facts| {
            program.judge(action, facts).outcome == Outcome::Permit
        })
    }

    /// When it falls asleep by itself before `until`, from `at` on.
    fn sleeps(&self, mut at: i64, until: i64) -> Option<i64> {
        while at < until {
            if !self.may(Action::Remain, at) {
                return Some(at);
            }
            let steady = self.decide(Action::Remain, at, |program, facts| {
                program.steady_for(Action::Remain, facts)
            });
            at = at.saturating_add(steady?.0);
        }
        None
    }

    fn happens(&mut self, at: i64, event: &Event) {
        match event {
            Event::Begins => self.in_flight += 1,
            Event::Ends => self.in_flight -= 1,
            Event::Jobs(number) => {
                let write = Write::Set(Value::Int(*number));
                let change = Change::from([(Name::new("jobs").unwrap(), write)]);
                self.memory.apply(&change, Timestamp(at)).unwrap();
            }
        }
        if !matches!(event, Event::Jobs(_)) {
            self.last_traffic = at;
        }
    }
}

/// Milliseconds awake, milliseconds of work that was cut off or waited, and starts.
#[derive(Debug, Default)]
struct Day {
    awake: i64,
    cut: i64,
    starts: u32,
}

/// The day, with `sleeps` saying when the machine rests between two events.
fn live(sleeps: impl Fn(&Agent, i64, i64) -> Option<i64>) -> Day {
    let (mut agent, mut day) = (Agent::new(), Day::default());
    let (mut awake, mut jobs, mut before) = (false, 0, 0);
    let mut events = events();
    events.push((DAY_MS, Event::Jobs(0)));
    for (at, event) in &events {
        if awake {
            let rests = sleeps(&agent, before, *at);
            let until = rests.unwrap_or(*at);
            day.awake += until - before;
            if rests.is_some() {
                awake = false;
                day.cut += if jobs > 0 { *at - until } else { 0 };
            }
        } else if jobs > 0 {
            day.cut += *at - before;
        }
        if !awake && matches!(event, Event::Begins) {
            assert!(agent.may(Action::Wake, *at));
            awake = true;
            agent.woke = *at;
            day.starts += 1;
        }
        agent.happens(*at, event);
        if let Event::Jobs(number) = event {
            jobs = *number;
        }
        before = *at;
    }
    day
}

#[test]
fn an_objects_own_dormancy_costs_less_than_an_idle_timer_and_cuts_no_work_off() {
    let own = live(Agent::sleeps);
    let timed = |ms: i64| {
        live(|agent, from, until| {
            let due = (agent.last_traffic.max(agent.woke) + ms).max(from);
            (agent.in_flight == 0 && due < until).then_some(due)
        })
    };
    let timer = timed(TIMER_MS);
    // What a timer has to be set to where no work is to be cut off, by whole minutes.
    let patient_ms = (1..)
        .map(|minutes| minutes * 60_000)
        .find(|ms| timed(*ms).cut == 0)
        .unwrap();
    let patient = timed(patient_ms);
    let always = DAY_MS;
    println!("one day of an agent, policy/tests/saving/agent.trace");
    println!("{:<28} {:>9} {:>9} {:>7}", "", "awake s", "cut off s", "starts");
    let named = format!("idle timer of {} s", patient_ms / 1_000);
    for (name, day) in [
        ("its own rules", &own),
        ("idle timer of 300 s", &timer),
        (&named, &patient),
    ] {
        println!(
            "{name:<28} {:>9} {:>9} {:>7}",
            day.awake / 1_000,
            day.cut / 1_000,
            day.starts
        );
    }
    println!("{:<28} {:>9}", "always on", always / 1_000);
    println!(
        "saved over the timer that cuts nothing off: {} s of {}; over that of 300 s: {} s, and {} s of work that it cuts off",
        (patient.awake - own.awake) / 1_000,
        patient.awake / 1_000,
        (timer.awake - own.awake) / 1_000,
        timer.cut / 1_000
    );
    assert_eq!(own.cut, 0, "{own:?}");
    assert!(
        timer.cut > 0,
        "a timer that sees traffic alone ends work: {timer:?}"
    );
    assert!(own.awake < timer.awake, "{own:?} {timer:?}");
    assert!(own.awake * 2 < patient.awake, "{own:?} {patient:?}");
}
