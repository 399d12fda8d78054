//! The actor of an object over machines that are played: nothing that a machine does, or does not do, keeps it from
//! answering.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests: what is not as expected ends them"
)]

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use suijuris_api::Event;
use suijuris_api::control::{ControlRequest, Reply};
use suijuris_api::event::Stamped;
use suijuris_bundle::{build, scaffold};
use suijuris_core::activation::{Phase, Stop, Terms, requests};
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::key::SecretKey;
use suijuris_custody::claim::Claim;
use suijuris_custody::clock::Clock;
use suijuris_custody::relay;
use suijuris_door::PreparedBundle;
use suijuris_store::{BundleFiles, Creation, Depth, ObjectDir, Sizes, Writer, create};
use suijuris_supervisor::control::PendingRequest;
use suijuris_supervisor::events::{EventSink, Origin};
use suijuris_supervisor::paths::ObjectPaths;
use suijuris_supervisor::services::{SpentRequests, fresh_server};
use suijuris_supervisor::{
    Ended, Front, Input, ObjectActor, ObjectHandle, Resting, RuntimeProgram, Services,
};
use suijuris_vehicle::fake::{Fake, Script, Starts, World};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(60);

const RULES: &str = r#"
@id("all")
permit (principal, action in [Action::"wake", Action::"remain", Action::"admit", Action::"sleep", Action::"mutate"], resource);
"#;

/// What actors told.
#[derive(Debug, Default)]
struct Told(RefCell<Vec<Event>>);

impl EventSink for Told {
    fn event(&self, _: &Origin, event: Stamped) {
        self.0.borrow_mut().push(event.event);
    }
}

/// Objects of one process over machines of one world.
struct Rig {
    world: World,
    told: Rc<Told>,
    services: Rc<Services<Fake>>,
    temp: tempfile::TempDir,
}

impl Rig {
    fn new(script: Script) -> Self {
        let (world, told) = (World::default(), Rc::<Told>::default());
        world.play("object", script);
        let vehicle = Vehicle {
            provider: "played",
            class: "",
        };
        let services = Services {
            driver: Fake::new(&world),
            clock: Arc::new(Clock::start(None).unwrap()),
            relay: relay::Service::start().unwrap(),
            server: fresh_server().unwrap(),
            spent: SpentRequests::default(),
            host: Host::of(vehicle, None, "test"),
            runtime: RuntimeProgram {
                exe: "/bin/true".into(),
                argv: vec!["init".into()],
            },
            sink: told.clone(),
            terms: Terms::DEFAULT,
            request_terms: requests::Terms::DEFAULT,
            logs: suijuris_supervisor::output_logs::OutputLogs::default(),
            access_log: suijuris_supervisor::access_log::AccessLog::default(),
            private: Box::new(Vec::new),
            machines: None,
            depot: None,
            verifying: tokio::sync::Semaphore::new(1),
            publishing: tokio::sync::Semaphore::new(suijuris_supervisor::services::PUBLISHING),
            images: None,
            destinations: Vec::new(),
            sign_sleep: None,
        };
        Self {
            world,
            told,
            services: Rc::new(services),
            temp: tempfile::tempdir().unwrap(),
        }
    }

    fn actor(&self, name: &str) -> (ObjectActor<Fake>, ObjectHandle) {
        let data = object_in(&self.temp.path().join(name));
        let dir = ObjectDir::at(&data);
        let (writer, _) = Writer::open(&dir, Depth::Tail, Sizes::default()).unwrap();
        let id = writer.published().head().bundle;
        let bundle = writer.bundles().bundle(&id).unwrap();
        let resting = Resting {
            paths: ObjectPaths {
                object_dir: None,
                data,
            },
            claim: Claim::open(None, &bundle.manifest, &writer),
            writer,
            prepared: Arc::new(PreparedBundle::new(bundle).unwrap()),
            front: Front::Shared,
            url: "http://test/".to_owned(),
            instance: None,
            served_as: None,
            foreign: None,
        };
        ObjectActor::new(self.services.clone(), resting).unwrap()
    }

    fn says(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.told.0.borrow().iter().filter(|event| wanted(event)).count()
    }
}

fn object_in(dir: &Path) -> std::path::PathBuf {
    scaffold("http", dir, "played").unwrap();
    std::fs::write(dir.join("governance.cedar"), RULES).unwrap();
    let built = build(dir).unwrap();
    let files = built.files();
    let data = dir.join("data");
    let creation = Creation {
        name: "played".to_owned(),
        controllers: vec![SecretKey::from_seed(&[1; 32]).public()],
        threshold: 1,
        nonce: vec![2; 16],
        parent: None,
        class: None,
        at: suijuris_core::time::Timestamp(1_000),
        bundle: BundleFiles {
            manifest: files.manifest,
            governance: files.governance.into_bytes(),
            program: files.program,
        },
        seed: Zeroizing::new([3; 32]),
    };
    create(&ObjectDir::at(&data), creation).unwrap();
    data
}

async fn ask(object: &ObjectHandle, message: ControlRequest) -> tokio::sync::oneshot::Receiver<Reply> {
    let (request, answered) = PendingRequest::of(message).unwrap();
    object.send(Input::Request(Box::new(request))).await.unwrap();
    answered
}

async fn phase(object: &ObjectHandle) -> String {
    match timeout(PATIENCE, ask(object, ControlRequest::Status).await)
        .await
        .unwrap()
        .unwrap()
    {
        Reply::Status { phase, .. } => phase,
        other => panic!("{other:?}"),
    }
}

/// Runs the rig's future beside actors, on one thread.
async fn beside<R>(actors: Vec<ObjectActor<Fake>>, test: impl Future<Output = R>) -> (R, Vec<Ended>) {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut running = JoinSet::new();
            for actor in actors {
                running.spawn_local(actor.run());
            }
            let result = test.await;
            let ended = timeout(PATIENCE, running.join_all()).await.unwrap();
            (result, ended.into_iter().map(Result::unwrap).collect())
        })
        .await
}

#[tokio::test]
async fn a_machine_that_hangs_at_its_start_keeps_nobody_from_an_answer_and_no_host_from_a_stop() {
    let rig = Rig::new(Script {
        starts: Starts::Hangs,
        ..Script::default()
    });
    let (actors, objects): (Vec<_>, Vec<_>) = (0..20).map(|n| rig.actor(&format!("o{n}"))).unzip();
    let (woken, ended) = beside(actors, async {
        let mut woken = Vec::new();
        for object in &objects {
            woken.push(ask(object, ControlRequest::Wake).await);
        }
        for object in &objects {
            assert_eq!(phase(object).await, "waking");
            assert_eq!(object.phase(), Phase::Starting);
        }
        for object in &objects {
            object.send(Input::Stop(Stop::Now)).await.unwrap();
        }
        let mut answers = Vec::new();
        for waiting in woken {
            answers.push(timeout(PATIENCE, waiting).await.unwrap().unwrap());
        }
        answers
    })
    .await;
    assert!(
        woken.iter().all(|reply| matches!(reply, Reply::Error { .. })),
        "{woken:?}"
    );
    assert_eq!(ended.len(), 20);
    assert!(ended.iter().all(|ended| !ended.lost && !ended.refused_to_sleep));
    assert_eq!(rig.world.running(), []);
    assert!(rig.world.starts() >= 20);
}

#[tokio::test]
async fn a_start_that_fails_is_told_its_owner_and_followed_by_a_pause_that_an_owner_passes() {
    let rig = Rig::new(Script {
        starts: Starts::Fails("no room".to_owned()),
        ..Script::default()
    });
    let (actor, object) = rig.actor("o");
    let ((), ended) = beside(vec![actor], async {
        for tries in 1..=3 {
            let reply = timeout(PATIENCE, ask(&object, ControlRequest::Wake).await)
                .await
                .unwrap()
                .unwrap();
            assert!(matches!(reply, Reply::Error { .. }), "{reply:?}");
            assert_eq!(
                rig.world.starts(),
                tries,
                "an owner is not kept waiting by a pause"
            );
            assert_eq!(phase(&object).await, "dormant");
        }
        object.send(Input::Stop(Stop::Now)).await.unwrap();
    })
    .await;
    assert_eq!(ended.len(), 1);
    let failed = |event: &Event| matches!(event, Event::Error { code, message } if code == "machine_failed" && message.contains("no room"));
    assert_eq!(rig.says(failed), 3);
    assert!(rig.says(|event| matches!(event, Event::Machine { state, .. } if state == "paused")) >= 1);
}

#[tokio::test]
async fn memory_is_written_at_rest_and_what_no_rule_permits_is_refused_with_a_reason() {
    let rig = Rig::new(Script::default());
    let (actor, object) = rig.actor("o");
    let (replies, ended) = beside(vec![actor], async {
        let patch = |text: &str| ControlRequest::Patch(serde_json::from_str(text).unwrap());
        let written = timeout(PATIENCE, ask(&object, patch(r#"{"set":{"linger":"5s"}}"#)).await);
        let written = written.await.unwrap().unwrap();
        let wrong = timeout(PATIENCE, ask(&object, patch(r#"{"set":{"nothing":1}}"#)).await);
        let wrong = wrong.await.unwrap().unwrap();
        object.send(Input::Stop(Stop::Graceful(PATIENCE))).await.unwrap();
        (written, wrong)
    })
    .await;
    assert!(matches!(replies.0, Reply::Patched { seq: 1, .. }), "{replies:?}");
    assert!(
        matches!(&replies.1, Reply::Error { code, .. } if code == "memory_refused"),
        "{replies:?}"
    );
    assert_eq!(ended.len(), 1);
    assert_eq!(rig.world.starts(), 0, "nothing was started for it");
}

// proves A12
#[tokio::test]
async fn a_key_is_made_beside_the_start_and_none_is_left_where_the_start_comes_to_nothing() {
    let rig = Rig::new(Script {
        starts: Starts::Hangs,
        ..Script::default()
    });
    let (actor, object) = rig.actor("o");
    let spare = rig.temp.path().join("o/data/spare.key");
    let ((), _ended) = beside(vec![actor], async {
        assert!(!spare.exists(), "asleep there is the key of one epoch");
        let _woken = ask(&object, ControlRequest::Wake).await;
        let made = async {
            while !spare.exists() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, made).await.unwrap();
        object.send(Input::Stop(Stop::Now)).await.unwrap();
    })
    .await;
    assert!(!spare.exists(), "asleep again");
}
