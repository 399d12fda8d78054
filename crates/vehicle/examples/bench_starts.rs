//! Processes that begin with the files of an image: from the call to the first byte of the program, over the program's own start, beside bwrap with
//! the same root directory, and runc where that runs.
//!
//! bwrap and runc bind the directory as it is; a machine of ours gets an overlay of it, which it may write to. With `__shim` this is the
//! driver's shim.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::cell::Cell;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Settings, interleave};
use suijuris_testkit::program;
use suijuris_vehicle::process::{Process, Shim, Want, shim};
use suijuris_vehicle::{
    Driver as _, ImageFiles, ImageRoot, Machine as _, Network, Output, Root, Since, Spec,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROUNDS: usize = 100;
const PROGRAM: &str = "/bin/busybox";
const ARGS: [&str; 2] = ["echo", "x"];
/// What the issue asks for: this many times bwrap's, and this much over a machine with the host's files.
const AT_MOST: f64 = 1.2;
const OVER_HOST_MS: f64 = 1.0;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("__shim") {
        return shim::main();
    }
    measure(&Settings::from_env());
    ExitCode::SUCCESS
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A directory with busybox.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    for name in ["bin", "proc", "dev", "sys", "tmp", "run"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    program::copy(PROGRAM, tree.join("bin/busybox"));
    tree
}

/// Until the first byte that a command writes.
fn first_byte(command: &mut Command) -> f64 {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = child.stdout.take().unwrap().read(&mut [0]).unwrap();
    let took = ms(begin);
    child.wait().unwrap();
    assert_eq!(said, 1, "{command:?} said nothing");
    took
}

fn bwrap(tree: &Path) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--bind"]);
    command.arg(tree).arg("/");
    command.args([
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run",
    ]);
    command.arg("--").arg(PROGRAM).args(ARGS);
    command
}

/// A bundle of runc's with this root, if runc runs it here; why not.
fn runc(dir: &Path, tree: &Path) -> Result<PathBuf, String> {
    let bundle = dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    let said = |output: std::io::Result<std::process::Output>| match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    };
    said(Command::new("runc").arg("spec").current_dir(&bundle).output())?;
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!([PROGRAM, ARGS[0], ARGS[1]]);
    spec["root"] = json!({ "path": tree, "readonly": false });
    fs::write(&config, spec.to_string()).unwrap();
    said(run_runc(&bundle, "trial").output())?;
    Ok(bundle)
}

fn run_runc(bundle: &Path, name: &str) -> Command {
    let mut command = Command::new("runc");
    command.arg("run").arg("--bundle").arg(bundle);
    command.arg(format!("suijuris-bench-{}-{name}", std::process::id()));
    command
}

/// Until the first line of a machine's program.
fn start(tokio: &Runtime, driver: &Process, root: Root) -> f64 {
    let mut spec = Spec::new("bench", PROGRAM).with_args(ARGS);
    (spec.root, spec.network) = (root, Network::Private);
    (spec.stdout, spec.stderr) = (Output::Lines, Output::Null);
    let took = tokio.block_on(async {
        let begin = Instant::now();
        let machine = driver.start(spec).await.unwrap();
        let mut lines = machine.output(Since::Kept).unwrap();
        lines.next().await.unwrap();
        let took = ms(begin);
        machine.wait().await;
        took
    });
    // As a supervisor does once a machine has ended: the next start finds a shim that waits.
    let _entered = tokio.enter();
    driver.prepare(None).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    took
}

fn measure(settings: &Settings) {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut report = Report::new("starts", settings);
    let temp = TempDir::new().unwrap();
    let tree = tree(temp.path());
    let detected = Process::detect(Shim::itself("__shim"), Want::default());
    let driver = tokio.block_on(detected).unwrap();
    let build = if cfg!(debug_assertions) {
        "unoptimised"
    } else {
        "optimised"
    };
    report.note(format!("machines: {}; the driver {build}", driver.describe()));
    let image = Root::Image(ImageRoot {
        files: ImageFiles::Layers(vec![tree.clone()]),
        scratch: temp.path().join("scratch"),
        user: (0, 0),
    });
    let bundle = runc(temp.path(), &tree);
    let number = Cell::new(0);
    let mut contenders = vec![
        Contender::new("own", || first_byte(Command::new(PROGRAM).args(ARGS))),
        Contender::new("image", || start(&tokio, &driver, image.clone())),
        Contender::new("host", || start(&tokio, &driver, Root::Host)),
        Contender::new("bwrap", || first_byte(&mut bwrap(&tree))),
    ];
    match &bundle {
        Ok(bundle) => contenders.push(Contender::new("runc", || {
            number.set(number.get() + 1);
            first_byte(&mut run_runc(bundle, &number.get().to_string()))
        })),
        Err(why) => report.note(format!("runc runs no container here: {why}")),
    }
    let samples = interleave(settings.scale(ROUNDS), &mut contenders);
    let own = samples[0].median();
    let over = |index: usize| samples[index].median() - own;
    for (index, peer) in samples.iter().enumerate().skip(3) {
        report.row(Row {
            what: "with the files of an image, start to first byte, over the program's own".to_owned(),
            unit: "ms",
            better: Better::Lower,
            ours: over(1),
            peer: peer.name.clone(),
            theirs: over(index),
            budget: (peer.name == "bwrap").then_some(1.0 / AT_MOST),
        });
    }
    report.row(Row {
        what: "the same over a machine with the host's files".to_owned(),
        unit: "ms",
        better: Better::Lower,
        ours: over(1) - over(2),
        peer: "budget".to_owned(),
        theirs: OVER_HOST_MS,
        budget: Some(1.0),
    });
    report.note(format!(
        "the program's own start: {own:.2} ms; a machine with the host's files: {:.2} ms over that",
        over(2)
    ));
    report.publish(settings).unwrap();
}
