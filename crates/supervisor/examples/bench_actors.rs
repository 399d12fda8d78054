//! Many objects of one process over machines that are played: due timers whose machines take their time to start, and a stop
//! while machines start. What a machine costs is not in it; what the supervisor adds is.
#![expect(clippy::unwrap_used, reason = "a bench stops where something fails")]

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use suijuris_api::Event;
use suijuris_api::event::Stamped;
use suijuris_bundle::{Built, build, scaffold};
use suijuris_core::activation::{Phase, Stop, Terms, requests};
use suijuris_core::inputs::{Host, Vehicle};
use suijuris_core::key::SecretKey;
use suijuris_core::time::Timestamp;
use suijuris_custody::claim::Claim;
use suijuris_custody::clock::Clock;
use suijuris_custody::relay;
use suijuris_door::PreparedBundle;
use suijuris_store::{BundleFiles, Creation, Depth, ObjectDir, Sizes, Writer, create};
use suijuris_supervisor::events::{EventSink, Origin};
use suijuris_supervisor::paths::ObjectPaths;
use suijuris_supervisor::services::fresh_server;
use suijuris_supervisor::{Front, Input, ObjectActor, ObjectHandle, Resting, RuntimeProgram, Services};
use suijuris_testkit::bench::{Better, Report, Row, Settings};
use suijuris_vehicle::fake::{Fake, Script, Starts, World};
use tokio::task::{JoinSet, LocalSet};
use zeroize::Zeroizing;

/// Objects whose timers are due at once.
const TIMERS: usize = 1_000;

/// Time that each of their machines takes to start.
const START: Duration = Duration::from_millis(300);

/// Objects whose machines start when the host stops.
const STARTING: usize = 100;

/// Due since long ago: a wake is proposed as soon as the object is there.
const TIMER: &str = "\n[timers.due]\nevery = \"1h\"\nmissed = \"once\"\n";

const RULES: &str =
    r#"@id("all") permit (principal, action in [Action::"wake", Action::"remain"], resource);"#;

/// Counts the machines that started.
#[derive(Debug, Default)]
struct Counting(Cell<usize>);

impl EventSink for Counting {
    fn event(&self, _: &Origin, told: Stamped) {
        if matches!(&told.event, Event::Machine { state, .. } if state == "started") {
            self.0.set(self.0.get() + 1);
        }
    }
}

/// Objects of one process over the machines of one world.
struct Rig {
    world: World,
    started: Rc<Counting>,
    services: Rc<Services<Fake>>,
    actors: Vec<ObjectActor<Fake>>,
    handles: Vec<ObjectHandle>,
    _temp: tempfile::TempDir,
}

impl Rig {
    fn new(count: usize, starts: Starts) -> Self {
        let (world, started) = (World::default(), Rc::<Counting>::default());
        let script = Script {
            starts,
            ..Script::default()
        };
        world.play("object", script);
        let vehicle = Vehicle {
            provider: "played",
            class: "",
        };
        let services = Services {
            driver: Fake::new(&world),
            clock: Arc::new(Clock::start(None).unwrap()),
            spent: suijuris_supervisor::services::SpentRequests::default(),
            relay: relay::Service::start().unwrap(),
            server: fresh_server().unwrap(),
            host: Host::of(vehicle, None, "bench"),
            runtime: RuntimeProgram {
                exe: "/bin/true".into(),
                argv: vec!["init".into()],
            },
            sink: started.clone(),
            logs: suijuris_supervisor::output_logs::OutputLogs::default(),
            access_log: suijuris_supervisor::access_log::AccessLog::default(),
            terms: Terms::DEFAULT,
            request_terms: requests::Terms::DEFAULT,
            private: Box::new(Vec::new),
            machines: None,
            depot: None,
            verifying: tokio::sync::Semaphore::new(1),
            publishing: tokio::sync::Semaphore::new(suijuris_supervisor::services::PUBLISHING),
            images: None,
            destinations: Vec::new(),
            sign_sleep: None,
        };
        let temp = tempfile::tempdir().unwrap();
        let mut rig = Self {
            world,
            started,
            services: Rc::new(services),
            actors: Vec::new(),
            handles: Vec::new(),
            _temp: temp,
        };
        let definition = rig._temp.path().join("definition");
        scaffold("http", &definition, "bench").unwrap();
        std::fs::write(definition.join("governance.cedar"), RULES).unwrap();
        let toml = definition.join("object.toml");
        let text = std::fs::read_to_string(&toml).unwrap();
        std::fs::write(&toml, text + TIMER).unwrap();
        let built = build(&definition).unwrap();
        for number in 0..count {
            let data = rig._temp.path().join(number.to_string());
            found(&built, &data, number);
            rig.open(data);
        }
        rig
    }

    fn open(&mut self, data: std::path::PathBuf) {
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
            url: "http://bench/".to_owned(),
            instance: None,
            served_as: None,
            foreign: None,
        };
        let (actor, handle) = ObjectActor::new(self.services.clone(), resting).unwrap();
        self.actors.push(actor);
        self.handles.push(handle);
    }

    /// Runs the actors until `reached`, and stops them: how long that took, until all of them had begun to stop, and until all had ended.
    fn run(mut self, reached: impl Fn(&Self) -> bool) -> [Duration; 3] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let actors = std::mem::take(&mut self.actors);
        runtime.block_on(LocalSet::new().run_until(async {
            let begun = Instant::now();
            let mut running = JoinSet::new();
            for actor in actors {
                running.spawn_local(actor.run());
            }
            while !reached(&self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (until, stopping) = (begun.elapsed(), Instant::now());
            for handle in &self.handles {
                handle.send(Input::Stop(Stop::Now)).await.unwrap();
            }
            let starts = |handle: &ObjectHandle| handle.phase() == Phase::Starting;
            while self.handles.iter().any(starts) {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            let begun = stopping.elapsed();
            running.join_all().await;
            [until, begun, stopping.elapsed()]
        }))
    }
}

fn found(built: &Built, data: &Path, number: usize) {
    let files = built.files();
    let creation = Creation {
        name: "bench".to_owned(),
        controllers: vec![SecretKey::from_seed(&[1; 32]).public()],
        threshold: 1,
        nonce: number.to_be_bytes().to_vec(),
        parent: None,
        class: None,
        at: Timestamp(1_000),
        bundle: BundleFiles {
            manifest: files.manifest,
            governance: files.governance.into_bytes(),
            program: files.program,
        },
        seed: Zeroizing::new([3; 32]),
    };
    create(&ObjectDir::at(data), creation).unwrap();
}

fn main() -> std::io::Result<()> {
    let settings = Settings::from_env();
    let mut report = Report::new("actors", &settings);
    let count = settings.scale(TIMERS);
    let [all, ..] = Rig::new(count, Starts::After(START)).run(|rig| rig.started.0.get() >= count);
    report.row(Row {
        what: format!("{count} due timers, until every machine has started"),
        unit: "s",
        better: Better::Lower,
        ours: all.as_secs_f64(),
        peer: "one machine's start".to_owned(),
        theirs: START.as_secs_f64(),
        budget: Some(0.06),
    });
    let starting = Rig::new(STARTING, Starts::Hangs);
    let [_, begun, ended] = starting.run(|rig| rig.world.starts() == STARTING as u64);
    for (until, took, budget) in [("all stop", begun, Some(1.0)), ("all have ended", ended, None)] {
        report.row(Row {
            what: format!("stop while {STARTING} machines start, until {until}"),
            unit: "ms",
            better: Better::Lower,
            ours: took.as_secs_f64() * 1_000.0,
            peer: "budget".to_owned(),
            theirs: 100.0,
            budget,
        });
    }
    report.note("machines are played: a start is a pause of 300 ms, or never ends; founding and opening are not timed");
    report.publish(&settings)
}
