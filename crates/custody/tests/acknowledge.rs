//! What may be acknowledged: {required, optional} × {no depot, there, late, silent from the beginning, another copy's}.
#![expect(clippy::unwrap_used, reason = "tests: what is not as expected ends them")]

#[path = "../../store/tests/it/object.rs"]
#[expect(dead_code, reason = "shared with the tests of the store, which need more")]
mod object;

use std::sync::Arc;

use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Quarantined};
use suijuris_core::manifest::{Manifest, Witness as Strength};
use suijuris_core::memory::Schema;
use suijuris_core::time::Timestamp;
use suijuris_core::witness::HolderId;
use suijuris_custody::claim::{Acknowledged, Answer, Claim, Means, Unwitnessed};
use suijuris_custody::record::record;
use suijuris_custody::witness::Service;
use suijuris_depot::Marks as _;
use suijuris_depot::faults::{Fault, Faulty};
use suijuris_depot::memory::Memory;
use suijuris_store::{Creation, Depth, ObjectDir, Sizes, Writer, create};

const AT: Timestamp = Timestamp(2_000);

/// An object whose bundle asks this much of a witness, open for writing, and claimed over a depot that can be told to fail.
struct Rig {
    writer: Writer,
    claim: Claim,
    depot: Arc<Faulty>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(strength: Strength, with_depot: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = object::bundle_of("test", Schema::default()).unwrap();
        let (_, mut manifest) = Manifest::decode(&bundle.manifest).unwrap();
        manifest.witness = strength;
        bundle.manifest = manifest.encode().unwrap();
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
        let home = ObjectDir::at(dir.path());
        create(&home, founding).unwrap();
        let (writer, _) = Writer::open(&home, Depth::Tail, Sizes::default()).unwrap();
        let depot = Arc::new(Faulty::new(Arc::new(Memory::with_presence())));
        let means = with_depot.then(|| Means {
            service: Service::start().unwrap(),
            depot: depot.clone(),
            id: HolderId([1; 16]),
            who: "this copy".to_owned(),
        });
        let claim = Claim::open(means, &manifest, &writer);
        Self {
            writer,
            claim,
            depot,
            _dir: dir,
        }
    }

    /// Records something, and asks whether it may be told.
    async fn acknowledge(&self) -> Result<Acknowledged, Unwitnessed> {
        let reason = "a test".to_owned();
        record(&self.writer, Body::Quarantined(Quarantined { reason }), AT).unwrap();
        let seq = self.writer.published().head().seq;
        self.claim.acknowledge(seq).await
    }

    /// Another copy writes the mark, as a restore does.
    async fn lose(&self) {
        let object = self.claim.object();
        let (mut mark, version) = self.depot.mark(object).await.unwrap().unwrap();
        mark.holder.as_mut().unwrap().id = HolderId([2; 16]);
        self.depot.swap(&mark, Some(&version)).await.unwrap();
    }
}

const BOTH: [Strength; 2] = [Strength::Optional, Strength::Required];

// proves B12
#[tokio::test]
async fn without_a_depot_what_requires_a_witness_is_not_acknowledged() {
    for (strength, expected) in [
        (Strength::Optional, Ok(Acknowledged::Durable)),
        (Strength::Required, Err(Unwitnessed::NoDepot)),
    ] {
        let rig = Rig::new(strength, false);
        let answer = rig.claim.rest(&rig.writer, AT).await.unwrap();
        assert_eq!(matches!(answer, Answer::Ours), expected.is_ok());
        assert_eq!(rig.claim.may_write().is_ok(), expected.is_ok());
        assert_eq!(rig.acknowledge().await, expected);
    }
}

// proves B12
#[tokio::test]
async fn a_mark_that_follows_is_waited_for() {
    for strength in BOTH {
        let rig = Rig::new(strength, true);
        assert!(matches!(rig.claim.rest(&rig.writer, AT).await, Ok(Answer::Ours)));
        assert_eq!(rig.claim.may_write(), Ok(()));
        assert_eq!(
            rig.acknowledge().await,
            Ok(Acknowledged::Witnessed),
            "{strength:?}"
        );
        let mark = rig.depot.mark(rig.claim.object()).await.unwrap().unwrap().0;
        assert_eq!(mark.seq, rig.writer.published().head().seq);
    }
}

// proves B12
#[tokio::test]
async fn a_mark_that_is_late_is_missed_only_where_it_is_required() {
    for (strength, expected) in [
        (Strength::Optional, Ok(Acknowledged::Durable)),
        (Strength::Required, Err(Unwitnessed::Late)),
    ] {
        let rig = Rig::new(strength, true);
        assert!(matches!(rig.claim.rest(&rig.writer, AT).await, Ok(Answer::Ours)));
        rig.depot.always(Some(Fault::Silence));
        assert_eq!(rig.acknowledge().await, expected);
    }
}

// proves B12
#[tokio::test]
async fn a_depot_that_never_answers_is_told_before_anything_is_written() {
    for (strength, expected) in [
        (Strength::Optional, Ok(())),
        (Strength::Required, Err(Unwitnessed::NoAnswer)),
    ] {
        let rig = Rig::new(strength, true);
        rig.depot.always(Some(Fault::LostRequest));
        assert!(matches!(
            rig.claim.rest(&rig.writer, AT).await,
            Ok(Answer::Unasked(_))
        ));
        assert_eq!(rig.claim.may_write(), expected);
    }
}

// proves B12
#[tokio::test]
async fn a_copy_that_lost_the_object_acknowledges_nothing() {
    for strength in BOTH {
        let rig = Rig::new(strength, true);
        assert!(matches!(rig.claim.rest(&rig.writer, AT).await, Ok(Answer::Ours)));
        rig.lose().await;
        assert_eq!(rig.acknowledge().await, Err(Unwitnessed::Lost), "{strength:?}");
        assert_eq!(rig.claim.lost().await.code, "twin");
    }
}
