//! From the call that makes a machine of an image until the first byte of its answer: with the image here, and from a registry on
//! this machine.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suijuris_testkit::bench::host::{Host, machine_path};
use suijuris_testkit::bench::{Contender, Report, Running, Settings, free_port, interleave};
use suijuris_testkit::registry::Real;

use crate::wake::first_byte;
use crate::{Result, beside};

/// Machines of each kind.
const ROUNDS: usize = 10;
/// Before each: the disk has come to rest by then.
const PAUSE: Duration = Duration::from_millis(100);

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {said}")))
}

/// The image of `examples/image` with a page of its own, as a layout.
fn layout(folder: &Path, number: usize) -> io::Result<PathBuf> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/image");
    let copy = folder.join(format!("image-{number}"));
    run(Command::new("cp").arg("-r").arg(example).arg(&copy))?;
    std::fs::write(copy.join("site/index.html"), format!("image {number}\n"))?;
    run(Command::new("sh").arg(copy.join("make-image")))?;
    Ok(copy.join("layout"))
}

fn config(image: &str) -> Value {
    json!({"image": image, "restart": {"policy": "no"}, "guest": {"memory_mb": 256},
        "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}]})
}

/// The table of this bench.
pub(crate) fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rounds = settings.scale(ROUNDS);
    let registry = Real::open();
    let kept = layout(folder.path(), 0)?;
    // One for each round, the unmeasured one included.
    for number in 1..=rounds + 1 {
        let made = layout(folder.path(), number)?;
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}", made.display()))
            .arg(format!("docker://{}/image:{number}", registry.address)))?;
    }
    let root = folder.path().display().to_string();
    let arguments = [
        "--proxy",
        "127.0.0.1:0",
        "--oci-root",
        &root,
        "--allow-registry",
        &registry.address,
    ];
    let host = Host::start(&folder.path().join("data"), &arguments)?;
    let create = |image: &str| -> io::Result<f64> {
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        let id = host.machine(&config(image))?;
        // Between its creation and its start it is nobody to ask.
        let limit = begin + Duration::from_secs(10);
        let took = loop {
            let asked = begin.elapsed().as_secs_f64() * 1e3;
            match first_byte(host.proxy()?) {
                Ok(took) => break asked + took,
                Err(error) if Instant::now() > limit => return Err(error),
                Err(_) => {}
            }
        };
        let mut client = host.client()?;
        client.must("DELETE", &machine_path(&id, "?force=true"), None)?;
        client.wait(&id, "destroyed")?;
        Ok(took)
    };
    let number = Cell::new(0);
    let image = format!("oci:{}", kept.display());
    let from_registry = || {
        number.set(number.get() + 1);
        create(&format!("{}/image:{}", registry.address, number.get()))
    };
    let pull = || -> io::Result<f64> {
        let to = folder.path().join(format!("pulled-{}", number.get()));
        let begin = Instant::now();
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--src-tls-verify=false"])
            .arg(format!(
                "docker://{}/image:{}",
                registry.address,
                number.get().max(1)
            ))
            .arg(format!("oci:{}", to.display())))?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    };
    let bare = || -> io::Result<f64> {
        let port = free_port()?;
        let mut command = Command::new("busybox");
        command.args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"]);
        command
            .arg(folder.path().join("image-0/site"))
            .stdin(Stdio::null());
        let begin = Instant::now();
        let _running = Running(command.spawn()?);
        drop(crate::activation::reach(port)?);
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    };
    let failed = Cell::new(None);
    let figure = |took: io::Result<f64>| {
        took.unwrap_or_else(|error| {
            failed.set(Some(error));
            f64::NAN
        })
    };
    let mut contenders = [
        Contender::new("here", || figure(create(&image))),
        Contender::new("registry", || figure(from_registry())),
        Contender::new("skopeo", || figure(pull())),
        Contender::new("busybox", || figure(bare())),
    ];
    let samples = interleave(rounds, &mut contenders);
    drop(contenders);
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    if let [here, registry, skopeo, busybox] = samples.as_slice() {
        let (floor, pulled) = (busybox.median(), skopeo.median());
        beside(
            report,
            "create → first byte, the image is here",
            here.median(),
            "fork and exec of the same program",
            floor,
            None,
        );
        beside(
            report,
            "create → first byte, from a registry",
            registry.median(),
            "skopeo copies the image",
            pulled,
            None,
        );
        report.note(format!(
            "99th percentiles: here {:.1} ms, from a registry {:.1} ms",
            here.at(99),
            registry.at(99)
        ));
    }
    report.note("an image of 2 MB, Debian's busybox; machines in namespaces, in a private network");
    Ok(())
}
