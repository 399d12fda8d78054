//! Two daemons or more at one key, over a depot and disks that are played: crashes after every step, answers that are
//! lost, daemons that are slow. Founded at most once, and what was acknowledged is never lost.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// The depot: the one entry, and marks.
#[derive(Debug, Default)]
struct Depot {
    entry: Option<Entry>,
    marks: BTreeSet<ObjectId>,
    /// Every object that was ever founded under the key.
    founded: BTreeSet<ObjectId>,
}

impl Depot {
    fn write(&mut self, entry: Entry) {
        if entry.state == Stage::Founded {
            self.founded.insert(entry.object);
        }
        self.entry = Some(entry);
    }
}

/// A daemon: what lies on its disk survives, its foundings do not.
#[derive(Debug)]
struct Daemon {
    id: HolderId,
    alive: bool,
    /// Staged or published objects; `true` where published.
    disk: BTreeMap<ObjectId, bool>,
    running: Option<(ObjectId, Founding)>,
    born: u8,
}

fn who() -> String {
    "host 1".to_owned()
}

impl Daemon {
    fn new(number: u8) -> Self {
        Self {
            id: HolderId([number; 16]),
            alive: true,
            disk: BTreeMap::new(),
            running: None,
            born: 0,
        }
    }

    /// Somebody asks for the key.
    fn ask(&mut self) {
        if self.running.is_none() && self.alive {
            self.born += 1;
            let object = ObjectId::of(&[self.id.0[0], self.born]);
            self.running = Some((object, Founding::new(object, self.id, who())));
        }
    }

    fn crash(&mut self) {
        self.running = None;
        self.alive = false;
    }

    /// Starts again, under a fresh name, and takes up what lies on its disk.
    fn start(&mut self, depot: &Depot, lives: &BTreeSet<HolderId>) {
        self.alive = true;
        self.id.0[15] = self.id.0[15].wrapping_add(16);
        self.take_up(depot, lives);
    }

    fn take_up(&mut self, depot: &Depot, lives: &BTreeSet<HolderId>) {
        if self.running.is_some() || !self.alive {
            return;
        }
        let open = |object: &&ObjectId| !depot.founded.contains(object);
        if let Some(object) = self.disk.keys().find(open).copied() {
            let entry = depot.entry.clone().map(|entry| {
                let may = may_replace(&entry, depot, lives);
                (entry, may)
            });
            let found = recover(object, entry);
            self.running = Some((object, Founding::resume(object, self.id, who(), found)));
        }
    }

    /// Does the next step; `lost` does it and loses the answer, so that it is asked for again.
    fn step(&mut self, depot: &mut Depot, lives: &BTreeSet<HolderId>, lost: bool) {
        let Some((object, founding)) = self.running.take() else {
            return;
        };
        let answer = match founding.next() {
            Next::Over(_) => return,
            Next::Do(step) => self.perform(object, step, depot, lives),
        };
        let founding = if lost { founding } else { founding.after(answer) };
        match founding.next() {
            Next::Over(End::Founded(object)) => {
                // From here on it may acknowledge: it must be the one, and be there.
                assert_eq!(self.disk.get(&object), Some(&true));
                assert_eq!(depot.founded.first(), Some(&object));
                depot.marks.insert(object);
            }
            Next::Over(End::Taken(other)) => {
                assert_ne!(other.object, object);
                assert!(!self.disk.contains_key(&object));
            }
            Next::Do(_) => self.running = Some((object, founding)),
        }
    }

    fn perform(
        &mut self,
        object: ObjectId,
        step: Step,
        depot: &mut Depot,
        lives: &BTreeSet<HolderId>,
    ) -> Answer {
        let taken = |depot: &Depot, entry: &Entry| Answer::Taken {
            replaceable: may_replace(entry, depot, lives),
            entry: entry.clone(),
        };
        match step {
            Step::Stage => {
                self.disk.entry(object).or_insert(false);
                Answer::Done
            }
            Step::Create(entry) => match depot.entry.clone() {
                Some(found) => taken(depot, &found),
                None => {
                    depot.write(entry);
                    Answer::Done
                }
            },
            Step::Replace { old, new } => match depot.entry.clone() {
                Some(found) if found == old => {
                    // What is founded is replaced by nobody.
                    assert_eq!(found.state, Stage::Founding);
                    depot.write(new);
                    Answer::Done
                }
                Some(found) => taken(depot, &found),
                None => Answer::Gone,
            },
            Step::Publish => {
                assert!(self.disk.contains_key(&object), "staged before it is published");
                self.disk.insert(object, true);
                // The mark may come later, before the object serves.
                if self.born.is_multiple_of(2) {
                    depot.marks.insert(object);
                }
                Answer::Done
            }
            Step::Discard => {
                assert!(
                    !depot.founded.contains(&object),
                    "what is founded is not discarded"
                );
                self.disk.remove(&object);
                depot.marks.remove(&object);
                Answer::Done
            }
        }
    }
}

fn may_replace(entry: &Entry, depot: &Depot, lives: &BTreeSet<HolderId>) -> bool {
    replaceable(
        entry,
        depot.marks.contains(&entry.object),
        lives.contains(&entry.holder),
    )
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Ask,
    Step,
    Lost,
    Crash,
    Start,
    /// Others take it for gone, and it is only slow.
    Slow,
}

fn act() -> impl Strategy<Value = (usize, Act)> {
    let acts = prop_oneof![
        3 => Just(Act::Ask),
        10 => Just(Act::Step),
        2 => Just(Act::Lost),
        1 => Just(Act::Crash),
        2 => Just(Act::Start),
        1 => Just(Act::Slow),
    ];
    (0_usize..3, acts)
}

#[derive(Default)]
struct World {
    depot: Depot,
    daemons: Vec<Daemon>,
    slow: BTreeSet<usize>,
}

impl World {
    fn new(count: u8) -> Self {
        Self {
            daemons: (1..=count).map(Daemon::new).collect(),
            ..Self::default()
        }
    }

    fn lives(&self) -> BTreeSet<HolderId> {
        let alive = |(at, daemon): &(usize, &Daemon)| daemon.alive && !self.slow.contains(at);
        let daemons = self.daemons.iter().enumerate();
        daemons.filter(alive).map(|(_, daemon)| daemon.id).collect()
    }

    fn act(&mut self, at: usize, act: Act) {
        let lives = self.lives();
        let Some(daemon) = self.daemons.get_mut(at) else {
            return;
        };
        match act {
            Act::Ask => daemon.ask(),
            Act::Step => daemon.step(&mut self.depot, &lives, false),
            Act::Lost => daemon.step(&mut self.depot, &lives, true),
            Act::Crash => daemon.crash(),
            Act::Start if !daemon.alive => daemon.start(&self.depot, &lives),
            Act::Start => drop(self.slow.remove(&at)),
            Act::Slow => drop(self.slow.insert(at)),
        }
        self.check();
    }

    fn check(&self) {
        assert!(self.depot.founded.len() <= 1, "{:?}", self.depot.founded);
        for object in &self.depot.founded {
            let kept = self
                .daemons
                .iter()
                .any(|daemon| daemon.disk.get(object) == Some(&true));
            assert!(kept, "founded, and nowhere");
        }
    }

    /// All run, nobody is slow, nothing fails: what was begun comes to its end.
    fn settle(&mut self) {
        self.slow.clear();
        for _ in 0..20 {
            for at in 0..self.daemons.len() {
                self.act(at, Act::Start);
                let lives = self.lives();
                let daemon = &mut self.daemons[at];
                daemon.take_up(&self.depot, &lives);
                for _ in 0..20 {
                    self.act(at, Act::Step);
                }
            }
        }
        for daemon in &self.daemons {
            assert!(daemon.running.is_none(), "stuck: {daemon:?}");
            let left = daemon
                .disk
                .keys()
                .filter(|object| !self.depot.founded.contains(object));
            assert_eq!(left.count(), 0, "left behind: {daemon:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whatever_fails_an_instance_is_founded_at_most_once_and_nothing_is_left(
        acts in prop::collection::vec(act(), 0..80),
    ) {
        let mut world = World::new(3);
        for (at, act) in acts {
            world.act(at, act);
        }
        world.settle();
        world.act(0, Act::Ask);
        world.settle();
        prop_assert_eq!(world.depot.founded.len(), 1);
    }
}

/// Every step of one, crashed behind, while another founds; each with its answer lost too.
#[test]
fn a_crash_behind_every_step_leaves_one_or_the_other() {
    for steps in 0..6 {
        for others in 0..6 {
            let mut world = World::new(2);
            world.act(0, Act::Ask);
            (0..steps).for_each(|_| world.act(0, Act::Step));
            world.act(0, Act::Crash);
            world.act(1, Act::Ask);
            (0..others).for_each(|_| world.act(1, Act::Lost));
            (0..10).for_each(|_| world.act(1, Act::Step));
            world.settle();
            world.act(1, Act::Ask);
            world.settle();
            assert_eq!(world.depot.founded.len(), 1, "{steps} {others}");
        }
    }
}

#[test]
fn an_entry_reads_back_and_others_are_refused() {
    let entry = Entry::founding(ObjectId::of(b"o"), HolderId([7; 16]), who());
    for state in [Stage::Founding, Stage::Founded, Stage::Tombstone] {
        let entry = entry.at(state);
        assert_eq!(Entry::decode(&entry.encode().unwrap()).unwrap(), entry);
    }
    let later = Entry {
        v: 2,
        ..entry.clone()
    };
    assert!(matches!(
        Entry::decode(&later.encode().unwrap()),
        Err(EntryError::Version(2))
    ));
    let long = Entry {
        who: "x".repeat(MAX_WHO + 1),
        ..entry
    };
    assert!(matches!(
        Entry::decode(&long.encode().unwrap()),
        Err(EntryError::Holder)
    ));
    assert!(Entry::decode(&[0xff; 600]).is_err());
}

#[test]
fn only_a_founding_that_nobody_holds_and_that_has_no_mark_is_replaced() {
    let entry = Entry::founding(ObjectId::of(b"o"), HolderId([7; 16]), who());
    for state in [Stage::Founding, Stage::Founded, Stage::Tombstone] {
        for (mark, lives) in [(false, false), (false, true), (true, false), (true, true)] {
            let may = replaceable(&entry.at(state), mark, lives);
            assert_eq!(may, state == Stage::Founding && !mark && !lives);
        }
    }
}
