//! An image of 100 MB from a registry into a store, unpacked, beside skopeo and umoci; and the file system of a machine from an image
//! that is here, beside tar.
//!
//! The registry is Debian's `docker-registry` on loopback. Each round begins with an empty store; what the registry reads is in memory for
//! all. As root the second half also runs on an XFS of its own, where files share their content.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a benchmark")]

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use suijuris_oci::build::{Build, LayerWriter};
use suijuris_oci::image::Platform;
use suijuris_oci::source::Source;
use suijuris_oci::store::{Hold, ImageStore, StoreOptions, Unobserved};
use suijuris_oci::{Options, Reference, Registry};
use suijuris_testkit::bench::{Better, Contender, Report, Row, Samples, Settings, interleave};
use suijuris_testkit::registry::Real;
use tempfile::TempDir;

/// Rounds of pulling, and of making a machine's files.
const PULLS: usize = 9;
const STARTS: usize = 25;

/// Layers, files of each, and bytes of a file: 100 MB.
const LAYERS: usize = 4;
const FILES: usize = 500;
const BYTES: usize = 50_000;

/// What the issue asks of a machine's files from an image that is here, ms.
const CREATE_MS: f64 = 5.0;

fn main() {
    let settings = Settings::from_env();
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let mut report = Report::new("images", &settings);
    let real = Real::open();
    let made = TempDir::new().unwrap();
    tokio.block_on(push(&real, made.path()));
    report.note(format!(
        "{LAYERS} layers of {FILES} files, {BYTES} bytes each, half of them random"
    ));
    report.note(version("skopeo"));
    report.note(version("umoci"));
    pull(&settings, &tokio, &real, &mut report);
    let here = TempDir::new().unwrap();
    let what = "machine's files from an image that is here";
    create(&settings, &tokio, &real, here.path(), what, &mut report);
    match Xfs::new(made.path()) {
        Ok(xfs) => {
            let what = "the same on XFS, by reflinks";
            create(&settings, &tokio, &real, &xfs.at, what, &mut report);
        }
        Err(why) => report.note(format!("without reflinks: {why}")),
    }
    report.publish(&settings).unwrap();
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Bytes of which every other kilobyte is random, from a number.
fn content(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(BYTES);
    while bytes.len() < BYTES {
        let is_random = (bytes.len() >> 10) & 1 == 0;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let next = if is_random { state } else { 0x2020_2020_6161_6161 };
        bytes.extend(next.to_le_bytes());
    }
    bytes.truncate(BYTES);
    bytes
}

fn named(real: &Real) -> Reference {
    format!("{}/bench:v1", real.address).parse().unwrap()
}

fn registry(real: &Real) -> Arc<Registry> {
    Arc::new(Registry::new(&real.address.parse().unwrap(), Options::default()).unwrap())
}

fn source(real: &Real) -> Source {
    Source::registry(registry(real), &named(real)).unwrap()
}

/// Makes the image, and pushes it.
async fn push(real: &Real, dir: &Path) {
    let mut build = Build::from_scratch(&Platform::host()).unwrap();
    for layer in 0..LAYERS {
        let path = dir.join(format!("layer-{layer}.tar"));
        let mut writer = LayerWriter::new(File::create(&path).unwrap());
        writer.directory(&format!("layer-{layer}"), 0o755).unwrap();
        for file in 0..FILES {
            let bytes = content(layer * FILES + file);
            let name = format!("layer-{layer}/file-{file}");
            writer
                .file(&name, 0o644, bytes.len() as u64, bytes.as_slice())
                .unwrap();
        }
        writer.end().unwrap();
        build = build.append_layer(&path).unwrap();
    }
    let build = build.with_entrypoint(vec!["/none".to_owned()], Some(Vec::new()));
    build.push(&registry(real), &named(real), dir).await.unwrap();
}

/// A store at `dir` that has the image.
async fn store(dir: &Path, real: &Real) -> (ImageStore, Hold) {
    let store = ImageStore::open(dir, StoreOptions::default()).unwrap();
    let hold = store
        .pull(&source(real), "bench", &Platform::host(), Arc::new(Unobserved))
        .await
        .unwrap();
    hold.unpacked().unwrap();
    (store, hold)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn pull(settings: &Settings, tokio: &tokio::runtime::Runtime, real: &Real, report: &mut Report) {
    let mut contenders = [
        Contender::new("ours", || {
            let dir = TempDir::new().unwrap();
            let begin = Instant::now();
            let _pulled = tokio.block_on(store(&dir.path().join("store"), real));
            ms(begin)
        }),
        Contender::new("skopeo copy, umoci unpack", || {
            let dir = TempDir::new().unwrap();
            let (layout, bundle) = (dir.path().join("layout"), dir.path().join("bundle"));
            let begin = Instant::now();
            run(Command::new("skopeo")
                .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
                .arg(format!("docker://{}", named(real)))
                .arg(format!("oci:{}:v1", layout.display())));
            let mut umoci = Command::new("umoci");
            umoci.arg("unpack");
            if !rustix::process::geteuid().is_root() {
                umoci.arg("--rootless");
            }
            run(umoci
                .arg("--image")
                .arg(format!("{}:v1", layout.display()))
                .arg(bundle));
            ms(begin)
        }),
    ];
    let samples = interleave(settings.scale(PULLS), &mut contenders);
    let what = "pull and unpack 100 MB, cold";
    let [ours, theirs] = samples.as_slice() else {
        return;
    };
    row(report, what, ours, theirs, Some(1.0));
}

fn row(report: &mut Report, what: &str, ours: &Samples, theirs: &Samples, budget: Option<f64>) {
    report.row(Row {
        what: what.to_owned(),
        unit: "ms",
        better: Better::Lower,
        ours: ours.median(),
        peer: theirs.name.clone(),
        theirs: theirs.median(),
        budget,
    });
}

/// The files of a machine: laid over one another where overlayfs takes them, and copied.
fn create(
    settings: &Settings,
    tokio: &tokio::runtime::Runtime,
    real: &Real,
    dir: &Path,
    what: &str,
    report: &mut Report,
) {
    let (images, hold) = tokio.block_on(store(&dir.join("store"), real));
    let digest = hold.image().digest();
    let all = dir.join("all");
    hold.root().unwrap().copy_to(&all).unwrap();
    let archive = dir.join("all.tar");
    run(Command::new("tar")
        .arg("cf")
        .arg(&archive)
        .arg("-C")
        .arg(&all)
        .arg("."));
    let number = Cell::new(0);
    let fresh = || -> PathBuf {
        number.set(number.get() + 1);
        dir.join(format!("machine-{}", number.get()))
    };
    let mut contenders = [
        Contender::new("layers", || {
            let begin = Instant::now();
            let hold = images.by_digest(digest).unwrap();
            let unpacked = hold.unpacked().unwrap();
            assert!(unpacked.overlay && unpacked.layers.len() == LAYERS);
            ms(begin)
        }),
        Contender::new("copy", || {
            let (to, begin) = (fresh(), Instant::now());
            hold.root().unwrap().copy_to(&to).unwrap();
            let took = ms(begin);
            fs::remove_dir_all(to).unwrap();
            took
        }),
        Contender::new("tar x", || {
            let (to, begin) = (fresh(), Instant::now());
            fs::create_dir(&to).unwrap();
            run(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(&to));
            let took = ms(begin);
            fs::remove_dir_all(to).unwrap();
            took
        }),
    ];
    let samples = interleave(settings.scale(STARTS), &mut contenders);
    let [layers, copy, tar] = samples.as_slice() else {
        return;
    };
    row(
        report,
        &format!("{what}: layers for overlayfs"),
        layers,
        tar,
        None,
    );
    report.row(Row {
        what: format!("{what}: layers for overlayfs"),
        unit: "ms",
        better: Better::Lower,
        ours: layers.median(),
        peer: "budget".to_owned(),
        theirs: CREATE_MS,
        budget: Some(1.0),
    });
    row(report, &format!("{what}: all files"), copy, tar, None);
    let copied = hold.root().unwrap().copy_to(&fresh()).unwrap();
    report.note(format!("{what}: {:?}", copied.how()));
}

/// A file system that shares blocks, as root.
struct Xfs {
    at: PathBuf,
}

impl Xfs {
    fn new(dir: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("no root, who could mount an XFS".to_owned());
        }
        let (file, at) = (dir.join("xfs"), dir.join("mounted"));
        File::create(&file)
            .and_then(|made| made.set_len(2 << 30))
            .unwrap();
        fs::create_dir(&at).unwrap();
        run(Command::new("mkfs.xfs")
            .args(["-q", "-m", "reflink=1"])
            .arg(&file));
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .arg(&file)
            .arg(&at)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self { at }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if let Err(error) = Command::new("umount").arg(&self.at).status() {
            eprintln!("{} stays mounted: {error}", self.at.display());
        }
    }
}
