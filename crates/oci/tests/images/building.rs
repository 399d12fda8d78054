//! An image on another one: in a layout, in a registry, the other one untouched.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use suijuris_oci::build::{Build, LayerWriter};
use suijuris_oci::image::Platform;
use suijuris_oci::source::Source;
use suijuris_oci::store::Unobserved;
use suijuris_oci::{ContentDigest, Options, Reference, Registry};
use suijuris_testkit::registry::Real;

use super::liar::Liar;
use super::make::Made;
use super::store::Shop;
use super::text;

fn layer(dir: &Path) -> PathBuf {
    let path = dir.join("added.tar");
    let mut writer = LayerWriter::new(File::create(&path).unwrap());
    writer.directory("suijuris", 0o755).unwrap();
    writer.file("suijuris/init", 0o755, 4, &b"init"[..]).unwrap();
    writer.symlink("suijuris/here", "init").unwrap();
    writer.end().unwrap();
    path
}

async fn build(shop: &Shop, source: &Source) -> Build {
    let base = source.resolve(&Platform::host()).await.unwrap();
    let entrypoint = vec!["/suijuris/init".to_owned(), "--".to_owned()];
    Build::on(source, base)
        .append_layer(&layer(shop.dir.path()))
        .unwrap()
        .with_entrypoint(entrypoint, None)
}

#[tokio::test]
async fn an_image_of_nothing_but_what_is_added_says_how_it_is_run() {
    let shop = Shop::new();
    let build = Build::from_scratch(&Platform::host())
        .unwrap()
        .append_layer(&layer(shop.dir.path()))
        .unwrap()
        .with_entrypoint(vec!["/suijuris/init".to_owned()], Some(Vec::new()))
        .with_setting("User", "0".into())
        .with_setting("StopSignal", "SIGTERM".into());
    let out = shop.dir.path().join("out");
    build.write_layout(&out, None).await.unwrap();
    let new = Source::layout(&out, None).unwrap();
    let image = new.resolve(&Platform::host()).await.unwrap();
    assert_eq!(image.config().argv(), ["/suijuris/init"]);
    assert_eq!(image.config().user, "0");
    assert_eq!(image.layers().len(), 1);
    let manifest: Value = serde_json::from_slice(image.manifest()).unwrap();
    assert_eq!(manifest["annotations"].as_object().map_or(0, |all| all.len()), 0);
}

#[tokio::test]
async fn a_layer_and_an_entrypoint_are_added_and_the_base_stays() {
    let shop = Shop::new();
    let made = Made::usual();
    let source = shop.layout(&made);
    let before: Vec<_> = made.layout_files("v1");
    let build = build(&shop, &source).await;
    let out = shop.dir.path().join("out");
    let written = build.write_layout(&out, Some("wrapped")).await.unwrap();
    let new = Source::layout(&out, Some("wrapped")).unwrap();
    let image = new.resolve(&Platform::host()).await.unwrap();
    assert_eq!(image.digest(), written.digest);
    assert_eq!(image.config().argv(), ["/suijuris/init", "--", "serve"]);
    assert_eq!(image.config().env, [("A".to_owned(), "1".to_owned())]);
    let config: Value = serde_json::from_slice(image.config_bytes()).unwrap();
    assert_eq!(config["author"], "kept");
    assert_eq!(config["history"].as_array().unwrap().len(), 3);
    let manifest: Value = serde_json::from_slice(image.manifest()).unwrap();
    assert_eq!(
        manifest["annotations"]["org.opencontainers.image.base.digest"],
        made.digest().to_string()
    );
    let hold = shop
        .store
        .pull(&new, "wrapped", &Platform::host(), Arc::new(Unobserved))
        .await
        .unwrap();
    let root = shop.dir.path().join("root");
    hold.root().unwrap().copy_to(&root).unwrap();
    assert_eq!(fs::read(root.join("suijuris/here")).unwrap(), b"init");
    assert_eq!(
        fs::metadata(root.join("suijuris/init"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o755
    );
    assert_eq!(fs::read(root.join("etc/motd")).unwrap(), b"top");
    for (path, bytes) in before {
        let found = fs::read(shop.dir.path().join(made.digest().hex()).join(&path)).unwrap();
        assert_eq!(found, bytes, "{path}");
    }
    // The same again is the same, byte for byte.
    let again = shop.dir.path().join("again");
    assert_eq!(
        build.write_layout(&again, Some("wrapped")).await.unwrap(),
        written
    );
    assert_eq!(
        fs::read(again.join("index.json")).unwrap(),
        fs::read(out.join("index.json")).unwrap()
    );
    let error = build.write_layout(&out, None).await.unwrap_err();
    assert!(text(&error).contains("not empty"), "{}", text(&error));
}

#[tokio::test]
async fn an_image_is_built_from_a_registry_into_a_registry() {
    let shop = Shop::new();
    let real = Real::open();
    let made = Made::usual();
    let registry = Arc::new(Registry::new(&real.address.parse().unwrap(), Options::default()).unwrap());
    let named = |rest: &str| -> Reference { format!("{}/{rest}", real.address).parse().unwrap() };
    made.push(&registry, &named("team/app:v1"), shop.dir.path()).await;
    let source = Source::registry(Arc::clone(&registry), &named("team/app:v1")).unwrap();
    let build = build(&shop, &source).await;
    for to in ["team/app:wrapped", "other/app:v1"] {
        let scratch = tempfile::tempdir().unwrap();
        let pushed = build.push(&registry, &named(to), scratch.path()).await.unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        let new = Source::registry(Arc::clone(&registry), &named(to)).unwrap();
        let hold = shop
            .store
            .pull(&new, to, &Platform::host(), Arc::new(Unobserved))
            .await
            .unwrap();
        assert_eq!(hold.image().digest(), pushed.digest);
        assert_eq!(hold.image().layers().len(), 3);
    }
    assert_eq!(
        source.resolve(&Platform::host()).await.unwrap().digest(),
        made.digest()
    );
    let wrong = named("team/app:v1").with_digest(ContentDigest::of(b"x"));
    let error = build.push(&registry, &wrong, shop.dir.path()).await.unwrap_err();
    assert!(
        text(&error).contains("not the one that is named"),
        "{}",
        text(&error)
    );
}

#[tokio::test]
async fn layers_that_the_registry_has_are_not_sent_again() {
    let shop = Shop::new();
    let made = Made::usual();
    let liar = Liar::start(|_| None).await;
    let registry = Registry::new(&liar.address.parse().unwrap(), Options::default()).unwrap();
    let build = build(&shop, &shop.layout(&made)).await;
    let to: Reference = format!("{}/app:v1", liar.address).parse().unwrap();
    build.push(&registry, &to, shop.dir.path()).await.unwrap();
    let puts = || liar.seen().iter().filter(|seen| seen.method == "PUT").count();
    assert_eq!(puts(), 5, "three layers, config, manifest");
    build.push(&registry, &to, shop.dir.path()).await.unwrap();
    assert_eq!(puts(), 6, "the manifest only");
}

#[tokio::test]
async fn a_layer_that_lies_about_itself_is_not_written() {
    let mut writer = LayerWriter::new(Vec::new());
    assert!(
        writer
            .file("../a", 0o644, 1, &b"x"[..])
            .unwrap_err()
            .to_string()
            .contains("contains `..`")
    );
    assert!(writer.file("a", 0o644, 5, &b"x"[..]).is_err());
    let shop = Shop::new();
    let source = shop.layout(&Made::usual());
    let build = build(&shop, &source).await;
    fs::write(shop.dir.path().join("added.tar"), "something else by now").unwrap();
    let error = build
        .write_layout(&shop.dir.path().join("out"), None)
        .await
        .unwrap_err();
    assert!(
        text(&error).contains("changed while it was read"),
        "{}",
        text(&error)
    );
    assert!(!shop.dir.path().join("out").exists());
}
