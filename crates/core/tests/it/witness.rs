//! The keeper, one answer at a time: what it asks, what it says, and until when the object may serve. What many of them do
//! together is in the simulation (`witness_sim`).

use std::time::Duration;

use proptest::prelude::*;
use suijuris_core::codec;
use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::manifest::Witness;
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::witness::{
    Ask, Effect, Error, Failure, Holder, HolderId, Input, Keeper, LeaseStatus, MAX_LEASE, MAX_WHO, Mark,
    Moment, Mono, Notice, Point, Purpose, Swapped, Terms, Verdict, Witnessed, Written,
};

const MS: u64 = 1_000_000;
const LEASE: u64 = 10_000 * MS;
/// What the simulation waits for another's lease: five quarters, and a quarter of a second.
const OUTLIVED: u64 = LEASE / 4 * 5 + 250 * MS;

const ME: HolderId = HolderId([1; 16]);
const OTHER: HolderId = HolderId([2; 16]);

fn point(seq: u64) -> Point {
    Point {
        seq,
        record: RecordId::of(&seq.to_be_bytes()),
        epoch: 3,
    }
}

fn mark(seq: u64, holder: Option<(HolderId, u64)>) -> Mark {
    let holder = holder.map(|(id, beat)| Holder {
        id,
        who: "elsewhere".to_owned(),
        lease: Span(10_000),
        at: Timestamp(0),
        beat,
    });
    Mark {
        v: 1,
        object: ObjectId::of(b"object"),
        epoch: 5,
        seq,
        head: point(seq).record,
        holder,
    }
}

/// A keeper whose questions are answered by hand.
struct Rig {
    keeper: Option<Keeper<u64>>,
    now: u64,
    written: Written,
    asked: Vec<Effect<u64>>,
    said: Vec<Notice>,
}

impl Rig {
    fn new(strength: Witness) -> Self {
        let terms = Terms::new(strength, Span(10_000), Span(0), Duration::ZERO);
        Self {
            keeper: Some(Keeper::new(ObjectId::of(b"object"), ME, "here", terms, point(8))),
            now: 1_000_000 * MS,
            written: Written::default(),
            asked: Vec::new(),
            said: Vec::new(),
        }
    }

    /// One that holds the object since now.
    fn holding(strength: Witness) -> Self {
        let mut rig = Self::new(strength);
        rig.give(Input::Claim(Purpose::Rest));
        rig.read(Ok(None));
        rig.swapped(Ok(Swapped::Done(1)));
        assert_eq!(
            rig.heard(),
            [Notice::Covered(8), Notice::Verdict(Verdict::Agrees(3))]
        );
        rig
    }

    fn give(&mut self, input: Input<u64>) {
        let moment = Moment {
            mono: Mono(self.now),
            wall: Timestamp(0),
        };
        let (keeper, effects) = self.keeper.take().unwrap().on(moment, input);
        self.keeper = Some(keeper);
        let mut recalled = None;
        for effect in effects {
            match effect {
                Effect::Say(notice) => self.said.push(notice),
                Effect::Recall(ask, mark, _) => {
                    recalled = Some(Input::Recalled(ask, self.written.has(&mark)));
                }
                question => {
                    if let Effect::Swap(_, mark, ..) = &question {
                        self.written.note(mark);
                    }
                    self.asked.push(question);
                }
            }
        }
        if let Some(answer) = recalled {
            self.give(answer);
        }
    }

    fn keeper(&self) -> &Keeper<u64> {
        self.keeper.as_ref().unwrap()
    }

    /// What it said since the last look.
    fn heard(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.said)
    }

    fn verdict(&mut self) -> Verdict {
        match self.heard().pop() {
            Some(Notice::Verdict(verdict)) => verdict,
            other => panic!("{other:?}"),
        }
    }

    /// The one question that waits for its answer.
    fn question(&mut self) -> Effect<u64> {
        assert_eq!(self.asked.len(), 1, "{:?}", self.asked);
        self.asked.remove(0)
    }

    fn read(&mut self, answer: Result<Option<(Mark, u64)>, Failure>) {
        let Effect::Read(ask, _) = self.question() else {
            panic!()
        };
        self.give(Input::Read(ask, answer));
    }

    fn swap(&mut self) -> (Ask, Mark, Option<u64>) {
        match self.question() {
            Effect::Swap(ask, mark, expected, _) => (ask, *mark, expected),
            other => panic!("{other:?}"),
        }
    }

    fn swapped(&mut self, answer: Result<Swapped<u64>, Failure>) -> Mark {
        let (ask, mark, _) = self.swap();
        self.give(Input::Swapped(ask, answer));
        mark
    }

    fn looked(&mut self, runs: Option<bool>) {
        let Effect::Look(ask, holder, _) = self.question() else {
            panic!()
        };
        assert_eq!(holder, OTHER);
        self.give(Input::Looked(ask, runs));
    }

    /// Lets time pass to where the keeper wants to be told, at most to `until`.
    fn pass(&mut self, until: u64) {
        let next = self.keeper().wait_until().map_or(u64::MAX, |at| at.0);
        self.now = next.clamp(self.now, until);
        self.give(Input::Tick);
    }
}

#[test]
fn the_first_copy_leaves_the_first_mark_and_counts_its_lease_from_before_it_asked() {
    let mut rig = Rig::new(Witness::Required);
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Ok(None));
    let asked_at = rig.now;
    let (ask, mark, expected) = rig.swap();
    assert_eq!(
        (mark.seq, mark.head, mark.epoch, expected),
        (8, point(8).record, 4, None)
    );
    assert_eq!(mark.holder.unwrap().id, ME);
    assert_eq!(rig.keeper().good_until(), None);
    rig.now += 2_000 * MS;
    rig.give(Input::Swapped(ask, Ok(Swapped::Done(1))));
    assert_eq!(rig.verdict(), Verdict::Agrees(4));
    assert_eq!(rig.keeper().good_until(), Some(Mono(asked_at + LEASE)));
    assert_eq!(rig.keeper().lease_status(), LeaseStatus::Holding);
}

// proves B6
#[test]
fn an_older_copy_is_refused_before_anybody_is_asked_who_holds_it() {
    let mut rig = Rig::new(Witness::Required);
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Ok(Some((mark(9, Some((OTHER, 1))), 1))));
    let Effect::Find(ask, 9, _) = rig.question() else {
        panic!()
    };
    rig.give(Input::Found(ask, false));
    let Verdict::Newer(evidence) = rig.verdict() else {
        panic!()
    };
    assert_eq!(evidence.ours, point(8));
    assert_eq!(evidence.witnessed.unwrap().seq, 9);
    assert!(rig.asked.is_empty());
}

// proves B6
#[test]
fn a_copy_that_went_another_way_is_refused() {
    // At our head, and below it.
    for seq in [8, 5] {
        let mut rig = Rig::new(Witness::Optional);
        rig.give(Input::Claim(Purpose::Rest));
        let witnessed = Mark {
            head: RecordId::of(b"another"),
            ..mark(seq, None)
        };
        rig.read(Ok(Some((witnessed, 1))));
        let Effect::Find(ask, at, record) = rig.question() else {
            panic!()
        };
        assert_eq!((at, record), (seq, RecordId::of(b"another")));
        rig.give(Input::Found(ask, false));
        let verdict = rig.verdict();
        assert!(matches!(verdict, Verdict::Diverged(_)) && verdict.is_final());
        assert_eq!(verdict.witnessed(), Witnessed::Twin);
        assert!(rig.asked.is_empty());
    }
}

// proves B6
#[test]
fn a_history_that_gives_up_the_witnessed_one_by_its_controllers_word_takes_over_once_nobody_runs_it() {
    for (runs, taken) in [(true, false), (false, true)] {
        let mut rig = Rig::new(Witness::Required);
        rig.give(Input::Claim(Purpose::Rest));
        rig.read(Ok(Some((mark(20, Some((OTHER, 1))), 7))));
        let Effect::Find(ask, 20, _) = rig.question() else {
            panic!()
        };
        rig.give(Input::Found(ask, true));
        let Effect::Look(ask, OTHER, _) = rig.question() else {
            panic!()
        };
        rig.give(Input::Looked(ask, Some(runs)));
        if taken {
            let (_, mark, expected) = rig.swap();
            assert_eq!((mark.seq, expected), (8, Some(7)));
        } else {
            assert!(matches!(rig.verdict(), Verdict::Live(_)));
        }
    }
}

#[test]
fn a_history_that_goes_on_from_the_witnessed_head_is_taken_and_the_mark_follows() {
    let mut rig = Rig::new(Witness::Required);
    rig.give(Input::Claim(Purpose::Rest));
    rig.read(Ok(Some((mark(5, None), 7))));
    let Effect::Find(ask, 5, _) = rig.question() else {
        panic!()
    };
    rig.give(Input::Found(ask, true));
    let (ask, mark, expected) = rig.swap();
    assert_eq!((mark.seq, mark.epoch, expected), (8, 5, Some(7)));
    rig.give(Input::Swapped(ask, Ok(Swapped::Done(8))));
    assert_eq!(
        rig.heard(),
        [Notice::Covered(8), Notice::Verdict(Verdict::Agrees(5))]
    );
    assert!(
        rig.asked.is_empty(),
        "nothing to say until a third of the lease has expired"
    );
}

// proves B6
#[test]
fn whoever_is_known_to_run_is_not_waited_for_and_whoever_is_known_to_have_ended_neither() {
    for (runs, taken) in [(true, false), (false, true)] {
        let mut rig = Rig::new(Witness::Required);
        rig.give(Input::Claim(Purpose::Wake));
        rig.read(Ok(Some((mark(8, Some((OTHER, 1))), 1))));
        rig.looked(Some(runs));
        if taken {
            assert_eq!(rig.swap().2, Some(1));
        } else {
            assert!(matches!(rig.verdict(), Verdict::Live(_)));
        }
    }
}

/// A claim that watches another's mark from `Rig::now` on.
fn watching() -> Rig {
    let mut rig = Rig::new(Witness::Required);
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Ok(Some((mark(8, Some((OTHER, 1))), 1))));
    rig.looked(None);
    rig
}

#[test]
fn a_lease_that_nobody_renews_is_waited_for_and_taken() {
    let mut rig = watching();
    let since = rig.now;
    while !matches!(rig.asked.last(), Some(Effect::Swap(..))) {
        rig.pass(u64::MAX);
        if matches!(rig.asked.last(), Some(Effect::Read(..))) {
            rig.read(Ok(Some((mark(8, Some((OTHER, 1))), 1))));
        }
    }
    assert!(rig.now - since >= OUTLIVED, "only {} ns", rig.now - since);
    assert!(rig.now - since < OUTLIVED + 1_000 * MS);
    assert_eq!(rig.swap().2, Some(1), "the version that stood all the time");
}

// proves B6
#[test]
fn a_lease_that_is_renewed_while_we_watch_is_a_twins() {
    let mut rig = watching();
    rig.pass(u64::MAX);
    rig.read(Ok(Some((mark(8, Some((OTHER, 2))), 2))));
    assert!(matches!(rig.verdict(), Verdict::Live(_)));
}

#[test]
fn an_object_given_up_while_we_watch_is_taken_at_once() {
    let mut rig = watching();
    rig.pass(u64::MAX);
    rig.read(Ok(Some((mark(8, None), 2))));
    assert_eq!(rig.swap().2, Some(2));
}

// proves B6
#[test]
fn of_two_who_claim_at_once_the_second_begins_again() {
    let mut rig = Rig::new(Witness::Required);
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Ok(Some((mark(8, None), 1))));
    rig.swapped(Ok(Swapped::Conflict(Some((mark(9, Some((OTHER, 1))), 2)))));
    let Effect::Find(ask, 9, _) = rig.question() else {
        panic!()
    };
    rig.give(Input::Found(ask, false));
    assert!(matches!(rig.verdict(), Verdict::Newer(_)));
}

#[test]
fn a_claim_whose_answer_was_lost_recognises_what_it_wrote() {
    let mut rig = Rig::new(Witness::Required);
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Ok(None));
    let sent = rig.now;
    let written = rig.swapped(Err(Failure::Unknown));
    rig.pass(u64::MAX);
    rig.read(Ok(Some((written, 1))));
    assert_eq!(rig.verdict(), Verdict::Agrees(4));
    assert_eq!(rig.keeper().good_until(), Some(Mono(sent + LEASE)));
}

#[test]
fn without_a_depot_an_object_that_needs_it_is_refused_and_another_goes_on_and_keeps_asking() {
    for (strength, expected) in [
        (Witness::Required, Witnessed::Missing),
        (Witness::Optional, Witnessed::Absent),
    ] {
        let mut rig = Rig::new(strength);
        rig.give(Input::Claim(Purpose::Wake));
        let began = rig.now;
        while rig.said.is_empty() {
            rig.read(Err(Failure::Unknown));
            if rig.said.is_empty() {
                rig.pass(u64::MAX);
            }
        }
        assert_eq!(rig.verdict().witnessed(), expected);
        assert!(rig.now - began >= 5_000 * MS);
        if strength == Witness::Optional {
            assert_eq!(rig.keeper().good_until(), Some(Mono(u64::MAX)));
            rig.pass(u64::MAX);
            rig.read(Ok(None));
            rig.swapped(Ok(Swapped::Done(1)));
            assert_eq!(rig.heard(), [Notice::Covered(8), Notice::Renewed]);
            assert!(rig.keeper().good_until() < Some(Mono(u64::MAX)));
        }
    }
}

// proves B6
#[test]
fn a_copy_that_went_on_without_a_depot_stops_when_it_meets_another() {
    let mut rig = Rig::new(Witness::Optional);
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Err(Failure::Denied));
    assert_eq!(rig.verdict(), Verdict::Absent);
    rig.pass(u64::MAX);
    rig.read(Ok(Some((mark(8, Some((OTHER, 1))), 1))));
    rig.looked(Some(true));
    assert!(matches!(&rig.heard()[..], [Notice::Lost(_)]));
    assert_eq!(
        (rig.keeper().good_until(), rig.keeper().lease_status()),
        (None, LeaseStatus::Lost)
    );
}

#[test]
fn a_lease_is_renewed_in_time_and_a_lost_answer_is_made_up_for() {
    let mut rig = Rig::holding(Witness::Required);
    let first = rig.now;
    rig.pass(u64::MAX);
    assert_eq!(rig.now - first, LEASE / 3);
    let sent = rig.now;
    let written = rig.swapped(Err(Failure::Unknown));
    rig.pass(u64::MAX);
    let (ask, again, expected) = rig.swap();
    assert_eq!((&again, expected), (&written, Some(1)), "sent again as it was");
    rig.give(Input::Swapped(ask, Ok(Swapped::Conflict(Some((written, 2))))));
    assert_eq!(
        rig.keeper().good_until(),
        Some(Mono(sent + LEASE)),
        "from its first sending"
    );
    assert_eq!(rig.heard(), []);
}

#[test]
fn the_mark_follows_what_is_durable_one_write_at_a_time() {
    let mut rig = Rig::holding(Witness::Required);
    rig.give(Input::Note(point(9)));
    let (ask, mark, _) = rig.swap();
    assert_eq!((mark.seq, mark.head), (9, point(9).record));
    rig.give(Input::Note(point(10)));
    rig.give(Input::Note(point(11)));
    rig.give(Input::Note(point(10)));
    assert!(rig.asked.is_empty());
    rig.give(Input::Swapped(ask, Ok(Swapped::Done(2))));
    assert_eq!(rig.heard(), [Notice::Covered(9)]);
    assert_eq!(rig.swapped(Ok(Swapped::Done(3))).seq, 11);
    assert_eq!(rig.heard(), [Notice::Covered(11)]);
    assert!(rig.asked.is_empty());
}

#[test]
fn a_depot_that_falls_silent_ends_the_lease_and_then_the_stay() {
    let mut rig = Rig::holding(Witness::Required);
    let good_until = rig.keeper().good_until().unwrap().0;
    while rig.keeper().lease_status() == LeaseStatus::Holding {
        rig.pass(u64::MAX);
        if !rig.asked.is_empty() {
            rig.swapped(Err(Failure::Unknown));
        }
    }
    assert_eq!(rig.now, good_until, "told at the instant");
    assert_eq!(rig.heard(), [Notice::Expired]);
    while rig.said.is_empty() {
        rig.pass(u64::MAX);
        if !rig.asked.is_empty() {
            rig.swapped(Err(Failure::Unknown));
        }
    }
    assert_eq!(rig.heard(), [Notice::Over]);
    assert_eq!(rig.keeper().good_until(), Some(Mono(good_until)));
}

#[test]
fn a_lease_found_over_after_a_pause_is_renewed_before_the_stay_ends() {
    let mut rig = Rig::holding(Witness::Required);
    rig.now += 100 * LEASE;
    rig.give(Input::Tick);
    assert_eq!(rig.heard(), [Notice::Expired]);
    rig.swapped(Ok(Swapped::Done(2)));
    assert_eq!(rig.heard(), [Notice::Renewed]);
    assert_eq!(rig.keeper().good_until(), Some(Mono(rig.now + LEASE)));
}

// proves B6
#[test]
fn whoever_finds_another_in_its_place_serves_no_more() {
    for present in [
        Some((mark(9, Some((OTHER, 1))), 9)),
        Some((mark(8, Some((ME, 77))), 9)),
        Some((mark(8, None), 9)),
        None,
    ] {
        let mut rig = Rig::holding(Witness::Optional);
        rig.pass(u64::MAX);
        rig.swapped(Ok(Swapped::Conflict(present)));
        assert!(matches!(&rig.heard()[..], [Notice::Lost(_)]));
        assert_eq!(rig.keeper().good_until(), None);
        rig.give(Input::Claim(Purpose::Wake));
        assert!(matches!(rig.verdict(), Verdict::Live(_)));
        assert!(rig.asked.is_empty(), "it asks nothing and writes nothing");
    }
}

#[test]
fn giving_up_leaves_the_newest_head_and_nobody() {
    let mut rig = Rig::holding(Witness::Required);
    rig.give(Input::Note(point(9)));
    rig.give(Input::Release(Duration::from_secs(3)));
    rig.swapped(Ok(Swapped::Done(2)));
    let (ask, mark, _) = rig.swap();
    assert_eq!((mark.seq, mark.holder), (9, None));
    rig.give(Input::Swapped(ask, Ok(Swapped::Done(3))));
    assert_eq!(rig.heard(), [Notice::Covered(9), Notice::Released(true)]);
    assert_eq!(rig.keeper().lease_status(), LeaseStatus::Idle);
}

#[test]
fn giving_up_does_not_wait_for_ever() {
    let mut rig = Rig::holding(Witness::Required);
    rig.give(Input::Release(Duration::from_secs(3)));
    let until = rig.now + 3_000 * MS;
    while rig.said.is_empty() {
        if !rig.asked.is_empty() {
            rig.swapped(Err(Failure::Unknown));
        }
        rig.pass(u64::MAX);
    }
    assert_eq!((rig.heard(), rig.now), (vec![Notice::Released(false)], until));
}

#[test]
fn a_wake_while_holding_raises_the_epoch_first() {
    let mut rig = Rig::holding(Witness::Required);
    rig.give(Input::Claim(Purpose::Wake));
    assert_eq!(rig.heard(), []);
    assert_eq!(rig.swapped(Ok(Swapped::Done(2))).epoch, 4);
    assert_eq!(rig.heard(), [Notice::Verdict(Verdict::Agrees(4))]);
}

// proves C6
#[test]
fn after_a_pause_nothing_is_served_until_a_claim() {
    let fresh = HolderId([3; 16]);
    // After a pause that was announced, what stands there is ours; after another a copy may run on under the old name.
    for (name, waits) in [(ME, false), (fresh, true)] {
        let mut rig = Rig::new(Witness::Required);
        rig.give(Input::Claim(Purpose::Wake));
        rig.read(Ok(None));
        let mark = rig.swapped(Ok(Swapped::Done(1)));
        rig.heard();
        rig.give(Input::Resumed(name));
        if waits {
            rig.written.forget();
        }
        assert_eq!((rig.keeper().good_until(), rig.keeper().id()), (None, name));
        rig.give(Input::Claim(Purpose::Wake));
        rig.read(Ok(Some((mark, 1))));
        if waits {
            assert!(matches!(rig.question(), Effect::Look(_, ME, _)));
        } else {
            let (ask, mark, expected) = rig.swap();
            assert_eq!((mark.holder.unwrap().id, expected), (ME, Some(1)));
            rig.give(Input::Swapped(ask, Ok(Swapped::Done(2))));
            assert_eq!(rig.verdict(), Verdict::Agrees(5));
        }
    }
}

#[test]
fn whoever_takes_over_what_was_written_goes_on_at_once() {
    let mut rig = Rig::new(Witness::Required);
    let beat = 3_000_000 * MS;
    let theirs = mark(8, Some((ME, beat)));
    rig.written.note(&theirs);
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Ok(Some((theirs, 1))));
    let (_, mark, _) = rig.swap();
    assert_eq!(mark.holder.unwrap().beat, beat + 1, "each write differs");
}

/// The copy of a whole machine: it has the same name, and wrote since.
// proves B6, C6
#[test]
fn a_mark_of_ones_own_name_that_one_did_not_write_is_anothers() {
    for renewed in [false, true] {
        let mut rig = Rig::new(Witness::Required);
        rig.written.note(&mark(8, Some((ME, 40))));
        rig.give(Input::Claim(Purpose::Wake));
        // Nobody is asked whether that name runs: it does, since it is ours.
        rig.read(Ok(Some((mark(8, Some((ME, 41))), 1))));
        let since = rig.now;
        while rig.said.is_empty() && !matches!(rig.asked.last(), Some(Effect::Swap(..))) {
            rig.pass(u64::MAX);
            if matches!(rig.asked.last(), Some(Effect::Read(..))) {
                let (beat, version) = if renewed { (42, 2) } else { (41, 1) };
                rig.read(Ok(Some((mark(8, Some((ME, beat))), version))));
            }
        }
        if renewed {
            assert!(matches!(rig.verdict(), Verdict::Live(_)));
        } else {
            assert!(rig.now - since >= OUTLIVED, "only {} ns", rig.now - since);
        }
    }
}

#[test]
fn only_the_last_marks_are_remembered_and_only_until_they_are_forgotten() {
    let mut written = Written::default();
    let marks: Vec<Mark> = (0..33).map(|beat| mark(8, Some((ME, beat)))).collect();
    for mark in marks.iter().chain(&marks[1..]) {
        written.note(mark);
    }
    let has: Vec<bool> = marks.iter().map(|mark| written.has(mark)).collect();
    assert_eq!((has[0], has[1..].iter().all(|has| *has)), (false, true));
    written.forget();
    assert!(!marks.iter().any(|mark| written.has(mark)));
}

#[test]
fn grace_serves_on_and_is_stated_so_that_others_wait_for_it() {
    let terms = Terms::new(Witness::Optional, Span(10_000), Span(4_000), Duration::ZERO);
    let mut rig = Rig::new(Witness::Optional);
    rig.keeper = Some(Keeper::new(ObjectId::of(b"object"), ME, "here", terms, point(8)));
    rig.give(Input::Claim(Purpose::Wake));
    rig.read(Ok(None));
    let sent = rig.now;
    let written = rig.swapped(Ok(Swapped::Done(1)));
    assert_eq!(written.holder.unwrap().lease, Span(14_000));
    assert_eq!(rig.keeper().good_until(), Some(Mono(sent + LEASE + 4_000 * MS)));
    rig.heard();
    // Through the grace nothing is said: it serves.
    rig.now = sent + LEASE + 4_000 * MS - 1;
    rig.give(Input::Tick);
    assert_eq!(rig.heard(), []);
    rig.now += 1;
    rig.give(Input::Tick);
    assert_eq!(rig.heard(), [Notice::Expired]);
}

#[test]
fn marks_out_of_bounds_are_not_read() {
    let altered = |alter: fn(&mut Holder)| {
        let mut mark = mark(8, Some((ME, 1)));
        alter(mark.holder.as_mut().unwrap());
        Mark::decode(&mark.encode().unwrap())
    };
    assert!(altered(|holder| holder.lease = MAX_LEASE).is_ok());
    for bad in [
        altered(|holder| holder.lease = Span(0)),
        altered(|holder| holder.lease = Span(MAX_LEASE.0 + 1)),
        altered(|holder| holder.who = "x".repeat(MAX_WHO + 1)),
    ] {
        assert!(matches!(bad, Err(Error::Holder)));
    }
    let later = Mark {
        v: 2,
        ..mark(8, None)
    };
    assert!(matches!(
        Mark::decode(&later.encode().unwrap()),
        Err(Error::Version(2))
    ));
    let long = vec![0; suijuris_core::witness::MAX_BYTES + 1];
    assert!(matches!(
        Mark::decode(&long),
        Err(Error::Encoding(codec::Error::TooLong { .. }))
    ));
}

#[test]
fn whatever_people_call_themselves_a_mark_fits() {
    let terms = Terms::new(Witness::Optional, Span(10_000), Span(0), Duration::ZERO);
    let mut rig = Rig::new(Witness::Optional);
    let long = "é".repeat(300);
    rig.keeper = Some(Keeper::new(ObjectId::of(b"object"), ME, &long, terms, point(8)));
    rig.give(Input::Claim(Purpose::Rest));
    rig.read(Ok(None));
    let (_, mark, _) = rig.swap();
    assert_eq!(Mark::decode(&mark.encode().unwrap()).unwrap(), mark);
}

proptest! {
    #[test]
    fn any_bytes_are_a_mark_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..1_100), at in any::<prop::sample::Index>(), byte: u8) {
        let _ = Mark::decode(&bytes);
        let whole = mark(300, Some((ME, 24))).encode().unwrap();
        let mut changed = whole.clone();
        changed[at.index(whole.len())] = byte;
        if let Ok(read) = Mark::decode(&changed) {
            prop_assert_eq!(read.encode().unwrap(), changed);
        }
    }

    /// Whatever comes in whatever order: no panic, one write at a time, and never a word of serving without a lease.
    #[test]
    fn any_order_of_inputs_is_taken(steps in prop::collection::vec((0_u8..12, 0_u64..20_000), 0..80), required: bool) {
        let strength = if required { Witness::Required } else { Witness::Optional };
        let mut rig = Rig::new(strength);
        for (step, ms) in steps {
            rig.now += ms * MS;
            let question = (!rig.asked.is_empty()).then(|| rig.asked.remove(0));
            let swaps = rig.asked.iter().filter(|asked| matches!(asked, Effect::Swap(..))).count();
            prop_assert!(swaps <= 2, "one, and one that nobody waits for any more");
            match (step, question) {
                (0, _) => rig.give(Input::Claim(Purpose::Wake)),
                (1, _) => rig.give(Input::Claim(Purpose::Rest)),
                (2, _) => rig.give(Input::Note(point(8 + ms % 7))),
                (3, _) => rig.give(Input::Release(Duration::from_millis(ms))),
                (4, _) => rig.give(Input::HandOver),
                (5, _) => rig.give(Input::Resumed(HolderId([4; 16]))),
                (_, Some(Effect::Read(ask, _))) if ms % 3 == 0 => rig.give(Input::Read(ask, Err(Failure::Unknown))),
                (_, Some(Effect::Read(ask, _))) => rig.give(Input::Read(ask, Ok(Some((mark(8, None), ms))))),
                (_, Some(Effect::Swap(ask, ..))) if ms % 3 == 0 => rig.give(Input::Swapped(ask, Err(Failure::Unknown))),
                (6, Some(Effect::Swap(ask, ..))) => {
                    rig.give(Input::Swapped(ask, Ok(Swapped::Conflict(Some((mark(8, Some((OTHER, 1))), ms))))));
                }
                (_, Some(Effect::Swap(ask, ..))) => rig.give(Input::Swapped(ask, Ok(Swapped::Done(ms)))),
                (_, Some(Effect::Look(ask, ..))) => rig.give(Input::Looked(ask, [None, Some(true), Some(false)][(ms % 3) as usize])),
                (_, Some(Effect::Find(ask, ..))) => rig.give(Input::Found(ask, ms % 2 == 0)),
                (_, _) => rig.give(Input::Tick),
            }
            let serving = rig.keeper().good_until().is_some();
            let holds = matches!(rig.keeper().lease_status(), LeaseStatus::Holding | LeaseStatus::Expired | LeaseStatus::Without);
            prop_assert_eq!(serving, holds);
            prop_assert!(!(required && rig.keeper().lease_status() == LeaseStatus::Without));
        }
    }
}

#[test]
fn at_rest_a_lock_that_says_the_holder_lives_needs_no_renewals() {
    let terms =
        Terms::new(Witness::Required, Span(10_000), Span(0), Duration::ZERO).where_presence_is_a_lock(true);
    let mut rig = Rig::new(Witness::Required);
    rig.keeper = Some(Keeper::new(ObjectId::of(b"object"), ME, "here", terms, point(8)));
    rig.give(Input::Claim(Purpose::Rest));
    rig.read(Ok(None));
    rig.swapped(Ok(Swapped::Done(1)));
    rig.heard();
    // For a day nothing is written, and nothing ends.
    assert_eq!(rig.keeper().wait_until(), None);
    rig.now += 86_400_000 * MS;
    rig.give(Input::Tick);
    assert_eq!((rig.asked.len(), rig.heard()), (0, vec![]));
    // What is recorded asleep is followed all the same.
    rig.give(Input::Note(point(9)));
    rig.swapped(Ok(Swapped::Done(2)));
    assert_eq!(rig.heard(), [Notice::Covered(9)]);
    assert_eq!(rig.keeper().wait_until(), None);
    // Awake it holds by its lease, as everywhere.
    rig.give(Input::Claim(Purpose::Wake));
    let sent = rig.now;
    rig.swapped(Ok(Swapped::Done(3)));
    assert_eq!(rig.heard(), [Notice::Verdict(Verdict::Agrees(4))]);
    assert_eq!(rig.keeper().good_until(), Some(Mono(sent + LEASE)));
    rig.now = sent + LEASE;
    rig.give(Input::Tick);
    assert!(rig.heard().contains(&Notice::Expired));
}

#[test]
fn what_was_claimed_for_another_is_gone_on_with_and_not_asked_again() {
    let mut rig = Rig::holding(Witness::Required);
    rig.give(Input::Claim(Purpose::Wake));
    assert_eq!(rig.keeper().lent(), None, "a write is on its way");
    let sent = rig.now;
    let written = rig.swapped(Ok(Swapped::Done(2)));
    rig.heard();
    let lent = rig.keeper().lent().unwrap();
    assert_eq!((&lent.mark, lent.version, lent.sent), (&written, 2, Mono(sent)));
    rig.give(Input::HandOver);
    assert_eq!((rig.keeper().lent(), rig.keeper().good_until()), (None, None));
    // The other one serves at once, and renews what stands there.
    let terms = Terms::new(Witness::Required, Span(10_000), Span(0), Duration::ZERO);
    rig.keeper = Some(Keeper::from_lent(
        ObjectId::of(b"object"),
        ME,
        "there",
        terms,
        point(8),
        lent,
    ));
    assert_eq!(rig.keeper().good_until(), Some(Mono(sent + LEASE)));
    rig.give(Input::Note(point(9)));
    let Effect::Swap(_, mark, expected, _) = rig.asked[0].clone() else {
        panic!()
    };
    assert_eq!((mark.seq, mark.epoch, expected), (9, written.epoch, Some(2)));
    assert!(mark.holder.unwrap().beat > written.holder.unwrap().beat);
    rig.swapped(Ok(Swapped::Done(3)));
    assert_eq!(rig.heard(), [Notice::Covered(9)]);
}
