//! Images that are too much: a disk that is full in the middle of unpacking or of a copy, one that cannot be written, one that shares no
//! blocks; and ten thousand layers.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use suijuris_oci::image::{LAYER_TYPE, Platform};
use suijuris_oci::source::Source;
use suijuris_oci::store::{How, ImageStore, StoreOptions, Unobserved};

use super::make::{Made, MadeLayer, descriptor};
use super::tarball::Tarball;
use super::text;

/// Names the small disk to the test that runs itself again with one.
const DISK: &str = "SMALL_DISK";

/// Runs the test `name` again where `dir` is a disk of its own of two MiB; whether such a thing can be made here.
fn runs_with_a_small_disk(name: &str, dir: &Path) -> bool {
    let namespaced = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command.arg("sh").env(DISK, dir);
        command
    };
    let mount = format!("mount -t tmpfs -o size=2m small \"${DISK}\"");
    if !namespaced(&mount).status().is_ok_and(|status| status.success()) {
        return false;
    }
    let mut again = namespaced(&format!("{mount} && exec \"$@\""));
    again.arg(std::env::current_exe().unwrap());
    let ran = again.args(["--exact", name, "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    true
}

/// What cannot be compressed away.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24).try_into().unwrap()
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn image(files: &[(&str, usize)]) -> Made {
    let layer =
        |(name, length): &(&str, usize)| MadeLayer::gzip(Tarball::default().file(name, &noise(*length)));
    Made::new(files.iter().map(layer).collect())
}

fn entries(store: &ImageStore, name: &str) -> usize {
    std::fs::read_dir(store.dir().join(name)).unwrap().count()
}

#[tokio::test]
async fn a_disk_that_is_full_in_the_middle_leaves_nothing_half_made() {
    let Some(disk) = std::env::var_os(DISK) else {
        let dir = tempfile::tempdir().unwrap();
        let name = "full::a_disk_that_is_full_in_the_middle_leaves_nothing_half_made";
        if !runs_with_a_small_disk(name, dir.path()) {
            eprintln!("skipped: no file system can be mounted here");
        }
        return;
    };
    let sources = tempfile::tempdir().unwrap();
    let source = |made: &Made| {
        let dir = sources.path().join(made.digest().hex());
        made.write_layout(&dir, "v1");
        Source::layout(&dir, None).unwrap()
    };
    let store = ImageStore::open(&Path::new(&disk).join("store"), StoreOptions::default()).unwrap();
    let pull = |source: Source, name: &'static str| {
        let store = store.clone();
        async move {
            store
                .pull(&source, name, &Platform::host(), Arc::new(Unobserved))
                .await
        }
    };
    let small = image(&[("small", 100_000)]);
    drop(pull(source(&small), "small").await.unwrap());
    // Its first layer has room, its second has not.
    let big = image(&[("first", 200_000), ("second", 3_000_000)]);
    let error = pull(source(&big), "big").await.unwrap_err();
    assert!(
        text(&error).contains("No space left on device"),
        "{}",
        text(&error)
    );
    // What was there is whole; of the other nothing is taken for an image, or for a layer.
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.image("big").is_err());
    let hold = store.image("small").unwrap();
    let kept = hold.unpacked().unwrap();
    drop(kept);
    store.gc().unwrap();
    assert_eq!((entries(&store, "layers"), store.list().unwrap().len()), (1, 1));
    // The next one that fits goes in.
    let other = image(&[("other", 300_000)]);
    drop(pull(source(&other), "other").await.unwrap());
    // With room it is pulled after all.
    let grown = Command::new("mount")
        .args(["-o", "remount,size=32m"])
        .arg(&disk)
        .status();
    assert!(grown.unwrap().success());
    let hold = pull(source(&big), "big").await.unwrap();
    let root = tempfile::tempdir_in(&disk).unwrap();
    hold.root().unwrap().copy_to(&root.path().join("all")).unwrap();
    assert_eq!(
        std::fs::read(root.path().join("all/second")).unwrap(),
        noise(3_000_000)
    );
}

/// A copy that finds no room leaves nothing. A store on a disk that cannot be written is refused by name, and is whole afterwards.
#[tokio::test]
async fn a_store_that_cannot_be_written_is_refused_and_stays_whole() {
    let Some(disk) = std::env::var_os(DISK) else {
        let dir = tempfile::tempdir().unwrap();
        let name = "full::a_store_that_cannot_be_written_is_refused_and_stays_whole";
        if !runs_with_a_small_disk(name, dir.path()) {
            eprintln!("skipped: no file system can be mounted here");
        }
        return;
    };
    let disk = Path::new(&disk);
    let sources = tempfile::tempdir().unwrap();
    let made = image(&[("first", 600_000), ("second", 600_000)]);
    let (layout, dir) = (sources.path().join("layout"), disk.join("store"));
    made.write_layout(&layout, "v1");
    let store = ImageStore::open(&dir, StoreOptions::default()).unwrap();
    let pull = async |store: &ImageStore, layout: &Path, name: &str| {
        let source = Source::layout(layout, None).unwrap();
        store
            .pull(&source, name, &Platform::host(), Arc::new(Unobserved))
            .await
    };
    let hold = pull(&store, &layout, "app").await.unwrap();
    // Its two layers have room, a copy of both beside them has not.
    let error = hold.root().unwrap().copy_to(&disk.join("all")).unwrap_err();
    assert!(text(&error).contains("No space left"), "{}", text(&error));
    assert!(!disk.join("all").exists(), "nothing half made");
    let beside: Vec<_> = std::fs::read_dir(disk).unwrap().flatten().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    drop((hold, store));
    let closed = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(disk)
        .status();
    assert!(closed.unwrap().success());
    let other = image(&[("other", 10)]);
    let elsewhere = sources.path().join("other");
    other.write_layout(&elsewhere, "v1");
    // Who uses an image says so by a file in the store: without that a collection would take it away.
    let store = ImageStore::open(&dir, StoreOptions::default()).unwrap();
    let held = store.image("app").map(drop);
    for refused in [held, pull(&store, &elsewhere, "other").await.map(drop)] {
        let said = text(&refused.unwrap_err());
        let names = said.contains("Read-only file system") && said.contains(dir.to_str().unwrap());
        assert!(names, "{said}");
    }
    let opened = Command::new("mount")
        .args(["-o", "remount,rw"])
        .arg(disk)
        .status();
    assert!(opened.unwrap().success());
    assert_eq!(store.list().unwrap().len(), 1);
    let hold = store.image("app").unwrap();
    let to = sources.path().join("all");
    hold.root().unwrap().copy_to(&to).unwrap();
    assert_eq!(std::fs::read(to.join("second")).unwrap(), noise(600_000));
}

/// Where blocks can be shared they are, and else all bytes are copied; which it was is told.
#[tokio::test]
async fn files_are_copied_where_they_cannot_be_shared() {
    let dir = tempfile::tempdir().unwrap();
    let mut mounted = None;
    let mut places = vec![(std::path::PathBuf::from("/dev/shm"), How::Copy)];
    let xfs = dir.path().join("xfs");
    if rustix::process::geteuid().is_root() {
        let script = "truncate -s 400M \"$1.img\" && mkfs.xfs -q -m reflink=1 \"$1.img\" && mkdir \"$1\" && mount -o loop \"$1.img\" \"$1\"";
        let made = Command::new("sh")
            .args(["-ec", script, "sh"])
            .arg(&xfs)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .status();
        assert!(made.unwrap().success(), "run tools/setup --test");
        mounted = Some(Mounted(xfs.clone()));
        places.push((xfs, How::Reflink));
    } else {
        eprintln!("skipped in part: only root mounts an XFS");
    }
    let made = image(&[("file", 300_000)]);
    let layout = dir.path().join("layout");
    made.write_layout(&layout, "v1");
    for (place, how) in places {
        let place = tempfile::tempdir_in(place).unwrap();
        let store = ImageStore::open(&place.path().join("store"), StoreOptions::default()).unwrap();
        let source = Source::layout(&layout, None).unwrap();
        let hold = store
            .pull(&source, "app", &Platform::host(), Arc::new(Unobserved))
            .await
            .unwrap();
        let to = place.path().join("all");
        let copied = hold.root().unwrap().copy_to(&to).unwrap();
        assert_eq!(copied.how(), Some(how));
        assert_eq!(std::fs::read(to.join("file")).unwrap(), noise(300_000));
    }
    drop(mounted);
}

/// Unmounted when dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn ten_thousand_layers_are_refused_before_anything_is_fetched() {
    let mut made = image(&[("a", 10)]);
    let layer = descriptor(&format!("{LAYER_TYPE}+gzip"), &made.layers[0].blob);
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    manifest["layers"] = json!(vec![layer; 10_000]);
    made.manifest = serde_json::to_vec(&manifest).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    made.write_layout(&layout, "v1");
    let store = ImageStore::open(&dir.path().join("store"), StoreOptions::default()).unwrap();
    let source = Source::layout(&layout, None).unwrap();
    let pulled = store
        .pull(&source, "many", &Platform::host(), Arc::new(Unobserved))
        .await;
    let said = text(&pulled.unwrap_err());
    assert!(said.contains("10000") && said.contains("layers"), "{said}");
    assert!(store.list().unwrap().is_empty());
    assert_eq!(entries(&store, "layers") + entries(&store, "partial"), 0);
}
