//! The played driver passes the suite like any other, and misbehaves as its scripts say.

use std::time::Duration;

use suijuris_vehicle::fake::{Ends, Fake, Links, Script, Speaks, Starts, Stops, Suspends, TakenOver, World};
use suijuris_vehicle::{
    AttachError, Driver as _, Exit, Lifetime, Machine as _, MachineId, Output, Signal, Since, Spec,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::suite::{self, Part, Stage};

struct Played {
    world: World,
    driver: Fake,
}

impl Played {
    fn new() -> Self {
        let world = World::default();
        let driver = Fake::new(&world);
        Self { world, driver }
    }
}

fn script(part: Part) -> Script {
    let says = |text: &str| Speaks::Lines(text.split('\n').map(str::to_owned).collect());
    let after = |code| Stops::After(Duration::ZERO, Exit::Code(code));
    let script = Script::default();
    match part {
        Part::Exits(code) => Script {
            ends: Ends::After(Duration::ZERO, Exit::Code(code.into())),
            ..script
        },
        Part::Polite => Script {
            stops: after(7),
            speaks: says("ready"),
            ..script
        },
        Part::Deaf => Script {
            stops: Stops::Ignores,
            speaks: says("ready"),
            ..script
        },
        Part::Counts => Script {
            speaks: Speaks::Counts(Duration::from_millis(1)),
            ..script
        },
        Part::Says(text) => Script {
            speaks: says(text),
            ends: Ends::After(Duration::ZERO, Exit::Code(0)),
            ..script
        },
        Part::Floods => Script {
            speaks: Speaks::Floods,
            ..script
        },
        Part::Echoes => Script {
            links: Links::Echoes,
            speaks: says("ready"),
            ..script
        },
    }
}

impl Stage for Played {
    type Driver = Fake;

    fn driver(&self) -> &Fake {
        &self.driver
    }

    fn spec(&self, part: Part) -> Spec {
        self.world.play("test", script(part));
        let mut spec = Spec::new("test", "/played");
        (spec.stdout, spec.stderr) = (Output::Lines, Output::Lines);
        spec.link = Some(5);
        spec
    }

    async fn orphan(&mut self, part: Part, suspended: bool) -> MachineId {
        let mut spec = self.spec(part);
        spec.lifetime = Lifetime::Detached;
        let machine = self.driver.start(spec).await.unwrap();
        if suspended {
            machine.suspend().await.unwrap();
        }
        self.world.crash();
        self.driver = Fake::new(&self.world);
        machine.id().clone()
    }
}

// proves F5
#[tokio::test]
async fn played_machines_conform() {
    suite::conforms(&mut Played::new()).await;
}

async fn started(script: Script) -> (World, Fake, suijuris_vehicle::fake::Machine) {
    let stage = Played::new();
    let mut spec = stage.spec(Part::Deaf);
    spec.lifetime = Lifetime::Detached;
    stage.world.play("test", script);
    let machine = stage.driver.start(spec).await.unwrap();
    (stage.world, stage.driver, machine)
}

#[tokio::test(start_paused = true)]
async fn scripts_go_wrong_as_they_say() {
    let long = Duration::from_secs(3600);
    let stage = Played::new();
    let spec = || stage.spec(Part::Deaf);
    for (starts, expected) in [
        (Starts::Hangs, None),
        (Starts::Fails("no disk".to_owned()), Some("no disk")),
    ] {
        let spec = spec();
        let script = Script {
            starts,
            ..Script::default()
        };
        stage.world.play("test", script);
        let started = timeout(long, stage.driver.start(spec)).await;
        let error = started.ok().map(|started| started.unwrap_err().to_string());
        assert_eq!(error.as_deref(), expected);
    }
    assert!(stage.world.running().is_empty(), "nothing is left of such starts");
    assert_eq!(stage.world.starts(), 2);

    let (.., machine) = started(Script {
        suspends: Suspends::Fails,
        ..Script::default()
    })
    .await;
    assert!(machine.suspend().await.is_err());
    let (.., machine) = started(Script {
        suspends: Suspends::Hangs,
        ..Script::default()
    })
    .await;
    assert!(timeout(long, machine.suspend()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_over_is_killed_and_said() {
    let (world, driver, machine) = started(Script {
        taken_over: TakenOver::Killed("its keeper does not know its secret".to_owned()),
        ..Script::default()
    })
    .await;
    world.crash();
    let error = driver.attach(machine.id()).await.unwrap_err();
    assert!(matches!(error, AttachError::Killed { .. }), "{error}");
    assert!(world.running().is_empty());
    assert_eq!(machine.wait().await, Exit::Lost);
}

#[tokio::test]
async fn a_test_can_play_the_inside() {
    let (world, _driver, machine) = started(Script::default()).await;
    let inside = world.inside(machine.id()).unwrap();
    let mut outer = machine.link().await.unwrap().stream;
    let mut inner = inside.link().await;
    outer.write_all(b"launch").await.unwrap();
    let mut heard = [0; 6];
    inner.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"launch");
    inside.say("hello");
    let mut lines = machine.output(Since::Kept).unwrap();
    assert_eq!(lines.next().await.unwrap().text, "hello");
    machine.signal(Signal::INT).await.unwrap();
    assert_eq!(inside.signals(), [Signal::INT]);
    inside.exit(Exit::Code(5));
    assert_eq!(machine.wait().await, Exit::Code(5));
}
