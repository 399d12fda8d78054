//! The witness's thread on a depot in memory, and what an object at rest leaves there.
#![expect(clippy::unwrap_used, reason = "tests: what is not as expected ends them")]

#[path = "../../store/tests/it/object.rs"]
mod object;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use suijuris_core::governance::Action;
use suijuris_core::id::{ObjectId, RecordId};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Seal, Stored, Woke, segment};
use suijuris_core::manifest::Witness as Strength;
use suijuris_core::memory::Schema;
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::witness::{HolderId, Mark, Point, Purpose, Terms, VERSION, Verdict};
use suijuris_custody::clock::Clock;
use suijuris_custody::witness::{
    ClaimError, Config, History, LeaseEvent, PublishError, Service, Uncovered, Witness, publish, republish,
};
use suijuris_depot::faults::{Call, Fault, Faulty};
use suijuris_depot::local::Local;
use suijuris_depot::memory::Memory;
use suijuris_depot::relay;
use suijuris_depot::{Archive as _, Depot, Marks as _, Session, Swap};
use suijuris_store::restore::{record_crash, restoration, restore};
use suijuris_store::{Creation, Depth, Draft, ObjectDir, Reader, Sign, Sizes, StageError, Writer, create};

/// Histories of these tests, up to a record: each is the digest of its position.
#[derive(Debug)]
struct Counted(u64);

impl History for Counted {
    fn holds(&self, seq: u64, record: &RecordId) -> Result<bool, String> {
        Ok(seq <= self.0 && point(seq).record == *record)
    }
}

#[derive(Debug)]
struct Unreadable;

impl History for Unreadable {
    fn holds(&self, _: u64, _: &RecordId) -> Result<bool, String> {
        Err("the disk is on fire".to_owned())
    }
}

fn point(seq: u64) -> Point {
    Point {
        seq,
        record: RecordId::of(&seq.to_be_bytes()),
        epoch: 3,
    }
}

fn object_id() -> ObjectId {
    ObjectId::of(b"object")
}

fn opening(id: u8, lease: i64, seq: u64) -> Config {
    Config {
        object: object_id(),
        id: HolderId([id; 16]),
        who: format!("copy {id}"),
        terms: Terms::new(Strength::Required, Span(lease), Span(0), Duration::ZERO),
        newest: point(seq),
        lent: None,
    }
}

const LONG: i64 = 60_000;

fn own(depot: &Arc<dyn Depot>) -> Arc<Session> {
    Arc::new(Session::new(Arc::clone(depot)))
}

fn start(opening: Config, depot: &Arc<dyn Depot>) -> Witness {
    start_on(opening, own(depot))
}

fn start_on(opening: Config, own: Arc<Session>) -> Witness {
    let counted = Counted(opening.newest.seq);
    Service::start().unwrap().open(opening, own, Arc::new(counted))
}

async fn wake(witness: &Witness) -> Verdict {
    witness.claim(Purpose::Wake).await.unwrap().verdict
}

fn boot_ns() -> u64 {
    Clock::start(None).unwrap().reading().boot_ns
}

fn memory() -> Arc<dyn Depot> {
    Arc::new(Memory::with_presence())
}

fn faulty() -> (Arc<Faulty>, Arc<dyn Depot>) {
    let faulty = Arc::new(Faulty::new(memory()));
    (Arc::clone(&faulty), faulty)
}

async fn mark(depot: &Arc<dyn Depot>) -> Mark {
    depot.mark(object_id()).await.unwrap().unwrap().0
}

// proves B6
#[tokio::test]
async fn of_two_copies_one_serves_and_the_other_is_told_who() {
    let depot = memory();
    let (first, second) = (
        start(opening(1, LONG, 8), &depot),
        start(opening(2, LONG, 8), &depot),
    );
    assert!(!first.lease().is_good(boot_ns()), "before any claim");
    assert_eq!(wake(&first).await, Verdict::Agrees(4));
    assert!(first.lease().is_good(boot_ns()));
    let Verdict::Live(evidence) = wake(&second).await else {
        panic!()
    };
    assert_eq!(evidence.witnessed.unwrap().holder.unwrap().who, "copy 1");
    assert!(!second.lease().is_good(boot_ns()));
    // A copy that ends is known to have ended: its long lease keeps nobody waiting.
    drop(first);
    while !matches!(wake(&second).await, Verdict::Agrees(5)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_is_lent_a_claim_goes_on_with_it_and_asks_nothing() {
    let (faulty, depot) = faulty();
    let session = own(&depot);
    let lender = start_on(opening(1, LONG, 8), session.clone());
    assert_eq!(wake(&lender).await, Verdict::Agrees(4));
    let lent = lender.hand_over().await;
    assert!(lent.is_some() && !lender.lease().is_good(boot_ns()));
    let before = faulty.calls().len();
    let borrower = start_on(
        Config {
            lent,
            ..opening(1, LONG, 8)
        },
        session,
    );
    assert!(borrower.lease().is_good(boot_ns()), "at once");
    assert_eq!((borrower.covers(), faulty.calls().len()), (Some(8), before));
    borrower.note(point(9));
    borrower.covered(9).await.unwrap();
    assert_eq!(faulty.calls()[before..], [Call::Swap]);
    assert_eq!(mark(&depot).await.epoch, 4);
}

#[tokio::test]
async fn the_mark_follows_and_whoever_waits_for_it_learns() {
    let depot = memory();
    let witness = start(opening(1, LONG, 8), &depot);
    wake(&witness).await;
    assert_eq!(witness.covers(), Some(8));
    for seq in 9..=20 {
        witness.note(point(seq));
    }
    witness.note(point(12));
    witness.covered(20).await.unwrap();
    assert_eq!((mark(&depot).await.seq, witness.covers()), (20, Some(20)));
    witness.covered(15).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_made_up_for() {
    let (faults, depot) = faulty();
    faults.once(Some(Call::Swap), Fault::LostAnswer);
    let witness = start(opening(1, LONG, 8), &depot);
    assert_eq!(wake(&witness).await, Verdict::Agrees(4));
    faults.once(Some(Call::Swap), Fault::LostAnswer);
    faults.once(Some(Call::Swap), Fault::LostRequest);
    witness.note(point(9));
    witness.covered(9).await.unwrap();
    assert_eq!(mark(&depot).await.seq, 9);
}

#[tokio::test]
async fn a_depot_that_takes_no_writes_is_missing_and_says_why() {
    let (faults, depot) = faulty();
    faults.always(Some(Fault::ReadOnly));
    let claimed = start(opening(1, LONG, 8), &depot)
        .claim(Purpose::Wake)
        .await
        .unwrap();
    assert_eq!(claimed.verdict, Verdict::Missing);
    let trouble = claimed.trouble.unwrap();
    assert!(trouble.contains("takes no writes"), "{trouble}");
}

#[tokio::test]
async fn silence_ends_the_lease_and_an_answer_brings_it_back() {
    let (faults, depot) = faulty();
    let witness = start(opening(1, 300, 8), &depot);
    wake(&witness).await;
    let mut news = witness.news();
    faults.always(Some(Fault::LostRequest));
    news.wait_for(|news| *news == LeaseEvent::Expired).await.unwrap();
    assert!(!witness.lease().is_good(boot_ns()));
    news.wait_for(|news| *news == LeaseEvent::Over).await.unwrap();
    faults.always(None);
    news.wait_for(|news| *news == LeaseEvent::Renewed).await.unwrap();
    assert!(witness.lease().is_good(boot_ns()));
}

// proves B6
#[tokio::test]
async fn another_copy_in_its_place_ends_it() {
    let depot = memory();
    let witness = start(opening(1, 300, 8), &depot);
    wake(&witness).await;
    // The other one swaps between two renewals; one that came between is overtaken once more.
    loop {
        let (mut mark, version) = depot.mark(object_id()).await.unwrap().unwrap();
        mark.seq = 30;
        mark.head = point(30).record;
        mark.holder.as_mut().unwrap().id = HolderId([2; 16]);
        if matches!(depot.swap(&mark, Some(&version)).await.unwrap(), Swap::Done(_)) {
            break;
        }
    }
    let mut news = witness.news();
    let lost = news
        .wait_for(|news| matches!(news, LeaseEvent::Lost(_)))
        .await
        .unwrap()
        .clone();
    let LeaseEvent::Lost(evidence) = lost else {
        panic!()
    };
    assert_eq!(evidence.witnessed.as_ref().unwrap().seq, 30);
    assert!(!witness.lease().is_good(boot_ns()));
    assert_eq!(witness.covered(9).await, Err(Uncovered::Lost));
    assert!(matches!(wake(&witness).await, Verdict::Live(_)));
}

// proves C6
#[tokio::test]
async fn a_pause_ends_the_lease_before_anything_is_awaited() {
    let depot = memory();
    let witness = start(opening(1, LONG, 8), &depot);
    wake(&witness).await;
    let told = witness.resumed(HolderId([9; 16]));
    assert!(!witness.lease().is_good(boot_ns()));
    told.await;
    assert_eq!(wake(&witness).await, Verdict::Agrees(5));
    assert!(witness.lease().is_good(boot_ns()));
    assert_eq!(mark(&depot).await.holder.unwrap().id, HolderId([9; 16]));
    // The fresh name is known to be in use.
    let other = start(opening(2, LONG, 8), &depot);
    assert!(matches!(wake(&other).await, Verdict::Live(_)));
}

/// What was sent before the pause, and arrives after it, is no sign of life of another copy.
// proves C6
#[tokio::test]
async fn a_renewal_that_is_on_its_way_during_a_pause_is_not_taken_for_a_twin() {
    // Nobody is known to be gone, as in etcd.
    let faults = Arc::new(Faulty::new(Arc::new(Memory::new())));
    let depot: Arc<dyn Depot> = faults.clone();
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    there.set_nonblocking(true).unwrap();
    let there = tokio::net::UnixStream::from_std(there).unwrap();
    // Behind a relay, as in a machine: what was sent happens, whether or not somebody still waits for it.
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(relay::serve(there, own(&depot), object_id()));
    let relayed: Arc<dyn Depot> = Arc::new(relay::Client::new(here).unwrap());
    let witness = start(opening(1, 2_000, 8), &relayed);
    wake(&witness).await;
    faults.once(Some(Call::Swap), Fault::DelayBefore(Duration::from_millis(400)));
    let swaps = || faults.calls().iter().filter(|call| **call == Call::Swap).count();
    while swaps() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    witness.resumed(HolderId([9; 16])).await;
    assert_eq!(wake(&witness).await, Verdict::Agrees(5));
    assert_eq!(mark(&depot).await.holder.unwrap().id, HolderId([9; 16]));
}

#[tokio::test]
async fn a_restored_copy_gives_way_to_the_one_that_ran_on() {
    let depot = memory();
    let (original, copy) = (
        start(opening(1, LONG, 8), &depot),
        start(opening(1, LONG, 8), &depot),
    );
    wake(&original).await;
    copy.resumed(HolderId([9; 16])).await;
    assert!(matches!(wake(&copy).await, Verdict::Live(_)));
    assert!(original.lease().is_good(boot_ns()));
}

/// A whole machine is copied, with the process that holds the sleeping object: both have its name and know what it is_own_write.
// proves B6, C6
#[tokio::test]
async fn of_two_copies_under_one_name_one_serves() {
    let depot = memory();
    let (original, copy) = (own(&depot), own(&depot));
    let asleep = start_on(opening(1, 300, 8), Arc::clone(&original));
    asleep.claim(Purpose::Rest).await.unwrap();
    asleep.hand_over().await;
    drop(asleep);
    let common = mark(&depot).await;
    copy.register(object_id(), HolderId([1; 16])).await.unwrap();
    assert!(matches!(
        copy.swap(&common, None).await.unwrap(),
        Swap::Conflict(_)
    ));
    assert!(copy.is_own_write(&common).await.unwrap());

    let awake = start_on(opening(1, 300, 8), original);
    assert_eq!(wake(&awake).await, Verdict::Agrees(4));
    let twin = start_on(opening(1, 300, 8), copy);
    let Verdict::Live(evidence) = wake(&twin).await else {
        panic!()
    };
    assert_eq!(evidence.witnessed.unwrap().holder.unwrap().id, HolderId([1; 16]));
    assert!(awake.lease().is_good(boot_ns()));
}

#[tokio::test]
async fn what_is_given_up_is_there_for_the_next() {
    let depot = memory();
    let witness = start(opening(1, LONG, 8), &depot);
    wake(&witness).await;
    witness.note(point(9));
    assert!(witness.release(Duration::from_secs(10)).await);
    let left = mark(&depot).await;
    assert_eq!((left.seq, left.holder), (9, None));
    assert_eq!(
        wake(&start(opening(2, LONG, 9), &depot)).await,
        Verdict::Agrees(5)
    );
}

#[tokio::test]
async fn giving_up_is_bounded() {
    let (faults, depot) = faulty();
    let witness = start(opening(1, LONG, 8), &depot);
    wake(&witness).await;
    faults.always(Some(Fault::Silence));
    assert!(!witness.release(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn a_successor_of_the_same_name_goes_on_without_waiting() {
    let depot: Arc<dyn Depot> = Arc::new(Memory::new());
    let own = own(&depot);
    let owner = start_on(opening(1, LONG, 8), Arc::clone(&own));
    assert_eq!(
        owner.claim(Purpose::Rest).await.unwrap().verdict,
        Verdict::Agrees(3)
    );
    owner.hand_over().await;
    assert!(!owner.lease().is_good(boot_ns()));
    let inside = start_on(opening(1, LONG, 8), own);
    assert_eq!(wake(&inside).await, Verdict::Agrees(4));
    inside.note(point(12));
    inside.covered(12).await.unwrap();
    drop(inside);
    owner.note(point(12));
    assert_eq!(
        owner.claim(Purpose::Rest).await.unwrap().verdict,
        Verdict::Agrees(4)
    );
}

// proves B6
#[tokio::test]
async fn an_older_copy_and_a_copy_whose_history_cannot_be_read_do_not_run() {
    let depot = memory();
    let newest = start(opening(1, LONG, 20), &depot);
    wake(&newest).await;
    assert!(newest.release(Duration::from_secs(10)).await);
    assert!(matches!(
        wake(&start(opening(2, LONG, 19), &depot)).await,
        Verdict::Newer(_)
    ));
    assert!(matches!(
        wake(&start(opening(2, LONG, 25), &depot)).await,
        Verdict::Agrees(_)
    ));
    let service = Service::start().unwrap();
    let unreadable = service.open(opening(3, LONG, 30), own(&depot), Arc::new(Unreadable));
    let error = unreadable.claim(Purpose::Wake).await.unwrap_err();
    assert_eq!(error, ClaimError::History("the disk is on fire".to_owned()));
}

/// An object on disk: founded, woken, and some records on.
fn life(dir: &Path, records: usize) -> ObjectDir {
    let home = ObjectDir::at(dir);
    let bundle = object::bundle_of("test", Schema::default()).unwrap();
    let founding = Creation {
        name: "test".to_owned(),
        controllers: vec![SecretKey::from_seed(&[9; 32]).public()],
        threshold: 1,
        nonce: vec![1; 16],
        parent: None,
        class: None,
        at: Timestamp(1_000),
        bundle,
        seed: [1; 32].into(),
    };
    create(&home, founding).unwrap();
    go_on(&home, records);
    home
}

fn go_on(home: &ObjectDir, records: usize) {
    let (writer, _) = Writer::open(home, Depth::Tail, Sizes::default()).unwrap();
    wake_up(&writer);
    (0..records).for_each(|_| seal(&writer));
    writer.close().unwrap();
}

/// Begins an activation, the one before ended as it may.
fn wake_up(writer: &Writer) {
    record_crash(writer, Timestamp(2_000)).unwrap();
    let body = |_: &_, next| {
        let woke = Woke {
            decision: object::decision(Action::Wake),
            next,
            fired: std::collections::BTreeMap::new(),
        };
        Ok::<_, StageError>(Body::Woke(Box::new(woke)))
    };
    writer.wake(&[2; 32], Timestamp(2_000), body).unwrap();
}

fn seal(writer: &Writer) {
    let draft = Draft {
        body: Body::Seal(Seal::default()),
        at: Timestamp(3_000),
        bundle: None,
        sign: Sign::Now,
    };
    writer.stage(draft).unwrap().wait().unwrap();
}

/// Copies a directory with everything in it.
fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => suijuris_testkit::program::copy(entry.path(), target),
        }
    }
}

#[test]
fn a_home_is_a_history() {
    let dir = tempfile::tempdir().unwrap();
    let home = life(dir.path(), 10);
    let reader = Reader::open(&home, Depth::Tail).unwrap();
    let head = reader.state().head();
    let head = (head.seq, head.record);
    assert_eq!(home.holds(head.0, &head.1), Ok(true));
    assert_eq!(home.holds(head.0 - 1, &head.1), Ok(false));
    assert_eq!(home.holds(head.0 + 1, &head.1), Ok(false));
    assert!(
        ObjectDir::at(dir.path().join("elsewhere"))
            .holds(0, &head.1)
            .is_err()
    );
}

/// The records that the depot has, in order.
async fn published(depot: &Memory, object: ObjectId) -> Vec<Stored> {
    let there = depot.segments(object).await.unwrap();
    let mut records = Vec::new();
    for positions in suijuris_depot::row(&there).unwrap() {
        let bytes = depot.segment(object, positions).await.unwrap().unwrap();
        records.extend(segment::decode(&bytes).map(|stored| stored.unwrap()));
    }
    records
}

fn history(home: &ObjectDir) -> Vec<Stored> {
    let reader = Reader::open(home, Depth::Tail).unwrap();
    let records = reader.records(0..u64::MAX).unwrap();
    records.map(|stored| stored.unwrap()).collect()
}

#[tokio::test]
async fn many_naps_leave_few_segments() {
    let dir = tempfile::tempdir().unwrap();
    let home = life(dir.path(), 0);
    let object = Reader::open(&home, Depth::Tail).unwrap().state().head().object;
    let (writer, _) = Writer::open(&home, Depth::Tail, Sizes::default()).unwrap();
    wake_up(&writer);
    let depot = Memory::new();
    let mut most = 0;
    for _ in 0..100 {
        seal(&writer);
        publish(&depot, &home, None, None).await.unwrap();
        most = most.max(depot.segments(object).await.unwrap().len());
        assert_eq!(published(&depot, object).await, history(&home));
    }
    assert_eq!(most, 32);
}

// proves B6
#[tokio::test]
async fn a_restored_copy_takes_the_place_of_what_it_gives_up_in_the_depot_too() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (home, copy) = (life(one.path(), 5), ObjectDir::at(other.path()));
    let depot = Memory::new();
    publish(&depot, &home, None, None).await.unwrap();
    copy_all(one.path(), other.path());
    go_on(&home, 40);
    publish(&depot, &home, None, None).await.unwrap();
    let newest = Reader::open(&home, Depth::Tail).unwrap();
    let head = newest.state().head();
    let mark = Mark {
        v: VERSION,
        object: head.object,
        epoch: head.epoch,
        seq: head.seq,
        head: head.record,
        holder: None,
    };
    let (writer, _) = Writer::open(&copy, Depth::Tail, Sizes::default()).unwrap();
    assert_eq!(copy.holds(mark.seq, &mark.head), Ok(false));
    record_crash(&writer, Timestamp(9_000)).unwrap();
    let approval = restoration(&writer, &mark)
        .unwrap()
        .approve(&SecretKey::from_seed(&[9; 32]))
        .unwrap();
    restore(&writer, &mark, vec![approval], Timestamp(9_000)).unwrap();
    assert_eq!(
        copy.holds(mark.seq, &mark.head),
        Ok(true),
        "given up by the controllers"
    );
    assert_eq!(copy.holds(mark.seq + 1, &mark.head), Ok(false));
    for _ in 0..2 {
        publish(&depot, &copy, None, None).await.unwrap();
        assert_eq!(published(&depot, head.object).await, history(&copy));
    }
}

#[tokio::test]
async fn what_sleeps_leaves_its_whole_history_its_rules_and_its_announcement() {
    let dir = tempfile::tempdir().unwrap();
    let home = life(dir.path(), 30);
    let depot = Memory::new();
    let (object, bundle) = {
        let reader = Reader::open(&home, Depth::Tail).unwrap();
        (reader.state().head().object, reader.state().head().bundle)
    };
    let due = Some(Timestamp(5_000));
    publish(&depot, &home, Some(b"announcement".to_vec()), due)
        .await
        .unwrap();
    publish(&depot, &home, Some(b"later".to_vec()), None)
        .await
        .unwrap();
    assert_eq!(depot.announcement(object).await.unwrap().unwrap(), b"later");
    assert_eq!(depot.due(Timestamp(9_000), 10).await.unwrap(), []);
    let segments = depot.segments(object).await.unwrap();
    assert_eq!(segments.len(), 1, "what is there is not put again");
    assert_eq!(published(&depot, object).await, history(&home));
    let files = depot.bundle(bundle).await.unwrap().unwrap();
    assert_eq!(
        suijuris_core::bundle::Files::open_named(bundle, &files)
            .unwrap()
            .id(),
        bundle
    );
}

#[tokio::test]
async fn what_is_announced_already_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let home = life(&dir.path().join("object"), 3);
    let object = Reader::open(&home, Depth::Tail).unwrap().state().head().object;
    let depot = Local::open(&dir.path().join("depot")).unwrap();
    let announcement = b"announcement".to_vec();
    assert!(
        !republish(&depot, object, &announcement, None).await,
        "nothing is there"
    );
    publish(&depot, &home, Some(announcement.clone()), None)
        .await
        .unwrap();
    // Whoever replaces a file makes another one.
    let numbers = || {
        let mut open = vec![dir.path().join("depot")];
        let mut numbers = std::collections::BTreeSet::new();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(
                    std::fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            } else {
                numbers.insert((
                    path.clone(),
                    std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap()),
                ));
            }
        }
        numbers
    };
    let before = numbers();
    assert!(republish(&depot, object, &announcement, None).await);
    assert_eq!(numbers(), before, "nothing was written");
    assert!(!republish(&depot, object, b"of a later head", None).await);
    let due = Some(Timestamp(5_000));
    assert!(
        republish(&depot, object, &announcement, due).await,
        "only the due time is another"
    );
    assert_eq!(
        depot.due(Timestamp(9_000), 10).await.unwrap(),
        [(Timestamp(5_000), object)]
    );
}

#[tokio::test]
async fn a_history_in_the_depot_that_is_not_ours_is_not_extended() {
    let dir = tempfile::tempdir().unwrap();
    let home = life(dir.path(), 3);
    let object = Reader::open(&home, Depth::Tail).unwrap().state().head().object;
    let depot = Memory::new();
    depot.put_segment(object, 4..=6, b"other").await.unwrap();
    let error = publish(&depot, &home, None, None).await.unwrap_err();
    assert!(matches!(error, PublishError::Gap(0)));
}
