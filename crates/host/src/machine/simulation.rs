//! Thousands of lives of a machine in a world that is played: the daemon dies anywhere, effects fail, programs end by themselves.
//! Whatever happens, an operation ends in a state at rest in which what is recorded and what is there agree.

use std::collections::VecDeque;

use proptest::prelude::*;
use serde_json::json;
use suijuris_vehicle::Exit;

use super::plan::{Effect, Next, Outcome, Seen, after, plan};
use super::requests::{Request, Update, accept};
use super::{By, ImageRef, Kind, Machine, Operation, Stamp, State, Step, Version};
use crate::config::MachineConfig;

/// Steps within which everything has come to rest.
const STEPS: usize = 200;

fn config(restart: &str) -> MachineConfig {
    MachineConfig::read(json!({"image": "x", "restart": {"policy": restart, "max_retries": 2}})).unwrap()
}

fn machine(restart: &str, launch: bool) -> Machine {
    let config = config(restart);
    let first = Version {
        version: "v1".to_owned(),
        config: config.clone(),
    };
    Machine {
        id: "0123456789abcd".to_owned(),
        app: "a".to_owned(),
        org: "o".to_owned(),
        name: "n".to_owned(),
        region: "fra".to_owned(),
        state: State::Creating,
        version: "v1".to_owned(),
        config,
        image: None,
        created_ms: 0,
        updated_ms: 0,
        network: super::default_network(),
        events: VecDeque::new(),
        versions: VecDeque::from([first]),
        cordoned: false,
        lease: None,
        operation: Some(Operation {
            kind: Kind::Create { launch },
            step: Step::Begun,
            from: State::Creating,
            by: By::User,
        }),
        run: None,
        lives: 0,
        restarts_ms: Vec::new(),
        keeps_rootfs: false,
        secrets_version: 0,
        failure: None,
        not_before_ms: None,
        awake: Default::default(),
        shown: crate::machine::Shown::default(),
    }
}

/// What is really there, and what the daemon knows of it.
#[derive(Debug)]
struct World {
    /// On disk.
    recorded: Machine,
    /// The driver's machine: the name of its life, and what it is.
    real: Option<(String, Seen)>,
    /// Whether the daemon holds it.
    held: bool,
    now_ms: u64,
    /// Whether programs react to a signal.
    polite: bool,
    launches: usize,
}

/// What goes wrong, one for each step, over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    Good,
    /// The daemon dies before the effect or the record.
    DiesBefore,
    /// It dies after the effect, before it is recorded.
    DiesAfter,
    Fails,
    /// The program ends by itself.
    Ends,
}

impl World {
    fn seen(&self) -> Seen {
        match &self.real {
            Some((_, seen)) if self.held => *seen,
            _ => Seen::Nothing,
        }
    }

    /// The daemon dies, and the next one attaches.
    fn restart(&mut self) {
        let run = self.recorded.run.as_ref().map(|run| run.name.clone());
        if let Some((name, seen)) = &self.real {
            self.held = run.as_ref() == Some(name);
            // What is nobody's is ended.
            if !self.held || matches!(seen, Seen::Ended(_)) {
                let ended = matches!(seen, Seen::Ended(_));
                if !(self.held && ended) {
                    self.real = None;
                }
            }
        }
    }

    fn perform(&mut self, effect: Effect, fails: bool) -> Outcome {
        if fails && !matches!(effect, Effect::Kill | Effect::Signal(_) | Effect::Clean) {
            return Outcome::Failed("bad luck".to_owned());
        }
        let name = self.recorded.run.as_ref().map(|run| run.name.clone());
        match effect {
            Effect::Fetch => return Outcome::Fetched(ImageRef::default()),
            Effect::Launch => {
                assert!(
                    self.real
                        .as_ref()
                        .is_none_or(|(_, seen)| matches!(seen, Seen::Ended(_))),
                    "two lives at once"
                );
                self.real = Some((name.expect("a life is recorded before it begins"), Seen::Running));
                self.held = true;
                self.launches += 1;
            }
            Effect::Signal(_) => self.set(if self.polite {
                Seen::Ended(Exit::Signal(2))
            } else {
                Seen::Running
            }),
            Effect::Kill => self.set(Seen::Ended(Exit::Signal(9))),
            Effect::Suspend => self.set(Seen::Suspended),
            Effect::Resume => self.set(Seen::Running),
            Effect::Prepare => assert!(
                !matches!(self.seen(), Seen::Running | Seen::Suspended),
                "files change under a life"
            ),
            Effect::Clean => assert!(
                !matches!(self.seen(), Seen::Running | Seen::Suspended),
                "cleaned while it runs"
            ),
        }
        Outcome::Done
    }

    fn set(&mut self, to: Seen) {
        if let Some((_, seen)) = &mut self.real
            && !matches!(seen, Seen::Ended(_))
        {
            *seen = to;
        }
    }

    fn commit(&mut self, next: Machine) {
        let run = next.run.as_ref().map(|run| run.name.clone());
        self.recorded = next;
        if let Some((name, Seen::Ended(_))) = &self.real
            && run.as_ref() != Some(name)
        {
            self.real = None;
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            now_ms: self.now_ms,
            random: u128::from(self.now_ms),
        }
    }

    /// Goes on until it rests. Luck is used up; then all is well.
    fn run(&mut self, luck: &mut dyn Iterator<Item = Luck>) {
        for _ in 0..STEPS {
            self.now_ms += 1;
            let luck = luck.next().unwrap_or(Luck::Good);
            if luck == Luck::Ends {
                self.set(Seen::Ended(Exit::Code(1)));
            }
            match plan(&self.recorded, self.seen(), &self.stamp()) {
                Next::Rest => return,
                Next::Wait(until) => self.now_ms = self.now_ms.max(until),
                _ if luck == Luck::DiesBefore => self.restart(),
                Next::Record(next) => self.commit(*next),
                Next::Do(effect) => {
                    let outcome = self.perform(effect, luck == Luck::Fails);
                    if luck == Luck::DiesAfter {
                        self.restart();
                    } else if let Some(next) = after(&self.recorded, effect, &outcome, &self.stamp()) {
                        self.commit(next);
                    }
                }
            }
        }
        panic!("it does not come to rest: {:?}", self.recorded);
    }

    fn check(&self) {
        let machine = &self.recorded;
        assert!(machine.state.is_settled(), "{machine:?}");
        assert_eq!(machine.operation, None);
        match (machine.state, self.seen()) {
            (State::Started, Seen::Running) | (State::Suspended, Seen::Suspended) => {
                assert!(machine.run.is_some());
            }
            (State::Started | State::Suspended, seen) => panic!("{:?} and {seen:?}", machine.state),
            (_, Seen::Nothing) => assert_eq!(machine.run, None),
            (state, seen) => panic!("{state:?} and {seen:?}"),
        }
    }
}

fn update(n: usize) -> Request {
    Request::Update(Box::new(Update {
        config: config("no"),
        current: None,
        version: format!("u{n}"),
        skip_launch: false,
        name: None,
        region: None,
        secrets_version: None,
        cordon: false,
        lease: None,
    }))
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..9, 0..8)
}

fn luck() -> impl Strategy<Value = Vec<Luck>> {
    let one = prop_oneof![
        6 => Just(Luck::Good),
        1 => Just(Luck::DiesBefore),
        1 => Just(Luck::DiesAfter),
        1 => Just(Luck::Fails),
        1 => Just(Luck::Ends),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    #[test]
    fn every_operation_completes_or_unwinds_wherever_the_daemon_dies(
        asked in requests(),
        luck in luck(),
        restart in prop_oneof![Just("no"), Just("on-failure"), Just("always")],
        launch in any::<bool>(),
        polite in any::<bool>(),
    ) {
        let mut luck = luck.into_iter();
        let mut world = World { recorded: machine(restart, launch), real: None, held: false, now_ms: 1, polite, launches: 0 };
        world.run(&mut luck);
        world.check();
        for (n, asked) in asked.into_iter().enumerate() {
            let request = match asked {
                0 | 1 => Request::Start,
                2 => Request::Stop { signal: None, budget_ms: Some(100) },
                3 => Request::Restart { signal: None, budget_ms: None, force: false },
                4 | 5 => Request::Suspend,
                6 => update(n),
                7 => Request::Destroy { force: false },
                _ => Request::Destroy { force: true },
            };
            if let Ok(next) = accept(&world.recorded, &request, None, By::User, &world.stamp()) {
                world.commit(next);
            }
            world.run(&mut luck);
            world.check();
        }
    }

    #[test]
    fn with_good_luck_each_request_does_what_it_says(polite in any::<bool>(), restart in prop_oneof![Just("no"), Just("always")]) {
        let mut world = World { recorded: machine(restart, true), real: None, held: false, now_ms: 1, polite, launches: 0 };
        let mut go = |request: Option<Request>, state: State| {
            if let Some(request) = request {
                let next = accept(&world.recorded, &request, None, By::User, &world.stamp()).unwrap();
                world.commit(next);
            }
            world.run(&mut std::iter::empty());
            assert_eq!(world.recorded.state, state);
            world.check();
            world.launches
        };
        assert_eq!(go(None, State::Started), 1);
        assert_eq!(go(Some(Request::Suspend), State::Suspended), 1);
        assert_eq!(go(Some(Request::Start), State::Started), 1);
        assert_eq!(go(Some(Request::Restart { signal: None, budget_ms: None, force: false }), State::Started), 2);
        assert_eq!(go(Some(update(1)), State::Started), 3);
        assert_eq!(go(Some(Request::Stop { signal: None, budget_ms: None }), State::Stopped), 3);
        assert_eq!(go(Some(update(2)), State::Stopped), 3);
        assert_eq!(go(Some(Request::Start), State::Started), 4);
        assert_eq!(go(Some(Request::Destroy { force: false }), State::Destroyed), 4);
    }
}
