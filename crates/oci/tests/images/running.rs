//! A small root file system that runs: Debian's static busybox, through a registry and the store into a directory.

use std::process::Command;
use std::sync::Arc;

use suijuris_oci::image::Platform;
use suijuris_oci::source::Source;
use suijuris_oci::store::Unobserved;
use suijuris_oci::{Options, Reference, Registry};
use suijuris_testkit::registry::Real;
use tar::EntryType;

use super::make::{Made, MadeLayer};
use super::store::Shop;
use super::tarball::{Fields, Tarball};

fn busybox() -> Vec<u8> {
    let paths = ["/usr/bin/busybox", "/bin/busybox"];
    paths
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .unwrap_or_else(|| panic!("no busybox: run tools/setup --test"))
}

#[tokio::test]
async fn what_was_pulled_runs() {
    let program = Fields {
        mode: 0o755,
        ..Fields::default()
    };
    let base = Tarball::default()
        .dir("./")
        .dir("bin/")
        .member(EntryType::Regular, b"bin/busybox", b"", &busybox(), program)
        .symlink("bin/sh", "busybox")
        .symlink("bin/cat", "/bin/busybox")
        .file("etc/motd", b"base\n");
    let top = Tarball::default()
        .file("etc/motd", b"the top layer\n")
        .link("etc/again", "etc/motd");
    let made = Made::new(vec![MadeLayer::gzip(base), MadeLayer::plain(top)]);
    let shop = Shop::new();
    let real = Real::open();
    let registry = Arc::new(Registry::new(&real.address.parse().unwrap(), Options::default()).unwrap());
    let named: Reference = format!("{}/busybox:v1", real.address).parse().unwrap();
    made.push(&registry, &named, shop.dir.path()).await;
    let source = Source::registry(registry, &named).unwrap();
    let hold = shop
        .store
        .pull(&source, "busybox", &Platform::host(), Arc::new(Unobserved))
        .await
        .unwrap();
    // Not below a file system that may forbid to run anything.
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    hold.root().unwrap().copy_to(&root).unwrap();
    let mut command = Command::new("unshare");
    let out = command
        .arg("-rR")
        .arg(&root)
        .args(["/bin/sh", "-c", "cat /etc/motd /etc/again"])
        .output()
        .unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    if said.contains("unshare failed") {
        return; // No user namespaces here, so nothing can be run in another root.
    }
    assert_eq!(
        String::from_utf8(out.stdout).unwrap(),
        "the top layer\nthe top layer\n",
        "{said}"
    );
}
