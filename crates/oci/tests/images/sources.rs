//! One image in every form is the same image; what is wrong with a form is said.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use suijuris_oci::image::{Image, Platform};
use suijuris_oci::source::{Source, SourceError};
use suijuris_oci::store::Unobserved;
use suijuris_oci::{ContentDigest, Credentials, Options, Reference, Registry, Secret};
use suijuris_testkit::registry::Real;

use super::make::{Made, MadeLayer, descriptor};
use super::store::Shop;
use super::tarball::{Tarball, gzip};
use super::text;

async fn resolve(source: Result<Source, SourceError>) -> Result<Image, SourceError> {
    source?.resolve(&Platform::host()).await
}

#[track_caller]
fn refused(found: Result<Image, SourceError>, expect: &str) {
    match found {
        Ok(_) => panic!("succeeded instead of: {expect}"),
        Err(error) => assert!(text(&error).contains(expect), "{}", text(&error)),
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

// proves F6
#[tokio::test]
async fn an_image_is_the_same_wherever_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::usual();
    let real = Real::open();
    let registry = Arc::new(Registry::new(&real.address.parse().unwrap(), Options::default()).unwrap());
    let tagged: Reference = format!("{}/team/app:v1", real.address).parse().unwrap();
    made.push(&registry, &tagged, dir.path()).await;
    made.write_layout(&dir.path().join("layout"), "v1");
    let oci = write(dir.path(), "oci.tar", &made.oci_archive("v1"));
    let sources = [
        Source::registry(Arc::clone(&registry), &tagged),
        Source::registry(Arc::clone(&registry), &tagged.with_digest(made.digest())),
        Source::layout(&dir.path().join("layout"), None),
        Source::layout(&dir.path().join("layout"), Some("v1")),
        Source::archive(&oci, None),
    ];
    for source in sources {
        let image = resolve(source).await.unwrap();
        assert_eq!(image.digest(), made.digest());
        assert_eq!(image.manifest(), made.manifest);
        assert_eq!(image.config().argv(), ["/bin/app", "serve"]);
        let diff_ids: Vec<_> = image.layers().iter().map(|layer| layer.diff_id).collect();
        assert_eq!(
            diff_ids,
            [0, 1].map(|number: usize| ContentDigest::of(&made.layers[number].plain))
        );
    }
    // The classic archive has the same config and layers, and no manifest: one is made, always the same.
    let classic = write(dir.path(), "classic.tar", &made.classic("team/app:v1"));
    let mut digests = Vec::new();
    for name in [None, Some("team/app:v1"), Some("docker.io/team/app:v1")] {
        let image = resolve(Source::archive(&classic, name)).await.unwrap();
        assert_eq!(image.config_bytes(), made.config);
        let diff_ids: Vec<_> = image.layers().iter().map(|layer| layer.diff_id).collect();
        assert_eq!(
            diff_ids,
            image
                .layers()
                .iter()
                .map(|layer| layer.descriptor.digest)
                .collect::<Vec<_>>()
        );
        digests.push(image.digest());
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[tokio::test]
async fn what_is_no_image_or_not_the_named_one_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::usual();
    let archive = |name: &str, bytes: &[u8]| Source::archive(&write(dir.path(), name, bytes), None);
    let classic = made.classic("team/app:v1");
    let path = write(dir.path(), "classic.tar", &classic);
    refused(
        resolve(Source::archive(&path, Some("other"))).await,
        "no image `other` here, only `team/app:v1`",
    );
    refused(
        resolve(archive("packed.tar", &gzip(&classic))).await,
        "decompress it first",
    );
    refused(
        resolve(archive("empty.tar", &Tarball::default().end())).await,
        "neither an OCI layout",
    );
    refused(
        resolve(archive("text.tar", b"hello")).await,
        "no archive that can be read",
    );
    refused(
        resolve(Source::archive(dir.path(), None)).await,
        "not a plain file",
    );
    refused(
        resolve(Source::layout(dir.path(), None)).await,
        "neither an OCI layout",
    );
    let many = (0..10_001).fold(Tarball::default(), |many, number| {
        many.file(&number.to_string(), b"")
    });
    refused(
        resolve(archive("many.tar", &many.end())).await,
        "more than 10000 files",
    );
    let missing = json!([{"Config": "../../../etc/passwd", "RepoTags": null, "Layers": []}]);
    let missing = Tarball::default()
        .file("manifest.json", missing.to_string().as_bytes())
        .end();
    refused(
        resolve(archive("missing.tar", &missing)).await,
        "`../../../etc/passwd` is not in the layout or archive",
    );
    let loops = json!([{"Config": "a", "RepoTags": null, "Layers": []}]).to_string();
    let loops = Tarball::default()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("manifest.json", loops.as_bytes())
        .end();
    refused(resolve(archive("loops.tar", &loops)).await, "`a` is not in");
    let two = json!([{"Config": "a", "RepoTags": ["a:1"], "Layers": []}, {"Config": "b", "RepoTags": ["b:1"], "Layers": []}]);
    let two = Tarball::default()
        .file("manifest.json", two.to_string().as_bytes())
        .end();
    refused(
        resolve(archive("two.tar", &two)).await,
        "several images here: `a:1`, `b:1`",
    );
    let source = Source::archive(&path, None).unwrap();
    let other = source.resolve(&Platform::linux("mips")).await;
    refused(other, "this machine is linux/mips");
}

/// A layout whose files were changed by `change`, after its names were made.
async fn changed(change: impl Fn(&Path, &Made)) -> Result<Image, SourceError> {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::usual();
    made.write_layout(dir.path(), "v1");
    change(dir.path(), &made);
    resolve(Source::layout(dir.path(), None)).await
}

fn blob(dir: &Path, bytes: &[u8]) -> std::path::PathBuf {
    dir.join("blobs/sha256").join(ContentDigest::of(bytes).hex())
}

// proves F6
#[tokio::test]
async fn a_layout_that_was_tampered_with_is_found_out() {
    refused(
        changed(|dir, made| fs::write(blob(dir, &made.manifest), "{}").unwrap()).await,
        "manifest is not the one",
    );
    refused(
        changed(|dir, made| fs::write(blob(dir, &made.config), "{}").unwrap()).await,
        "config is not the one",
    );
    refused(
        changed(|dir, made| fs::remove_file(blob(dir, &made.config)).unwrap()).await,
        "is not in the layout",
    );
    let link = |dir: &Path, made: &Made| {
        fs::remove_file(blob(dir, &made.config)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", blob(dir, &made.config)).unwrap();
    };
    refused(changed(link).await, "not a plain file");
    let huge = |dir: &Path, made: &Made| fs::write(blob(dir, &made.config), vec![b' '; 5 << 20]).unwrap();
    refused(changed(huge).await, "the limit is 4194304");
    refused(
        changed(|dir, _| fs::write(dir.join("oci-layout"), "{}").unwrap()).await,
        "oci-layout",
    );
    let turns = |dir: &Path, made: &Made| {
        // An index that leads to itself cannot be made by honest digests; a chain can.
        let mut inner = descriptor(suijuris_oci::MANIFEST_TYPE, &made.manifest);
        for _ in 0..6 {
            let index = json!({"schemaVersion": 2, "manifests": [inner]}).to_string();
            fs::write(blob(dir, index.as_bytes()), &index).unwrap();
            inner = descriptor(suijuris_oci::INDEX_TYPE, index.as_bytes());
        }
        let top = json!({"schemaVersion": 2, "manifests": [inner]});
        fs::write(dir.join("index.json"), top.to_string()).unwrap();
    };
    refused(changed(turns).await, "leads to an index");
}

#[tokio::test]
async fn manifests_that_do_not_fit_their_config_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let check = |change: &dyn Fn(&mut serde_json::Value), expect: &'static str| {
        let mut made = Made::new(vec![MadeLayer::plain(Tarball::default().file("a", b"x"))]);
        let mut manifest: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
        change(&mut manifest);
        made.manifest = serde_json::to_vec(&manifest).unwrap();
        let place = tempfile::tempdir_in(dir.path()).unwrap();
        made.write_layout(place.path(), "v1");
        async move {
            let found = resolve(Source::layout(place.path(), None)).await;
            refused(found, expect);
        }
    };
    check(
        &|manifest| manifest["layers"] = json!([]),
        "has 0 layers and its config 1",
    )
    .await;
    check(
        &|manifest| {
            manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+encrypted");
        },
        "cannot be unpacked",
    )
    .await;
    check(
        &|manifest| manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"),
        "not that of an image",
    )
    .await;
    check(
        &|manifest| manifest["manifests"] = json!([]),
        "two things at once",
    )
    .await;
    check(
        &|manifest| manifest["config"]["size"] = json!(3),
        "config is not the one that is named",
    )
    .await;
}

// proves F6
#[tokio::test]
async fn an_image_that_needs_an_account_is_pulled_with_it_only() {
    let real = Real::with_accounts();
    let dir = tempfile::tempdir().unwrap();
    let made = Made::usual();
    let alice = Options {
        credentials: Credentials::Basic {
            user: "alice".to_owned(),
            password: Secret::new("open sesame"),
        },
        ..Options::default()
    };
    let client = |options| Arc::new(Registry::new(&real.address.parse().unwrap(), options).unwrap());
    let named: Reference = format!("{}/team/app:v1", real.address).parse().unwrap();
    made.push(&client(alice.clone()), &named, dir.path()).await;
    let shop = Shop::new();
    let here = Platform::host();
    let source = Source::registry(client(alice), &named).unwrap();
    let hold = shop
        .store
        .pull(&source, "app", &here, Arc::new(Unobserved))
        .await
        .unwrap();
    assert_eq!(hold.image().digest(), made.digest());
    let stranger = Source::registry(client(Options::default()), &named);
    refused(resolve(stranger).await, "does not accept who asks");
}

#[tokio::test]
async fn one_image_of_many_names_is_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::usual();
    made.write_layout(dir.path(), "v1");
    let entry = |name: &str, full: &str| {
        let mut entry = descriptor(suijuris_oci::MANIFEST_TYPE, &made.manifest);
        entry["annotations"] =
            json!({"org.opencontainers.image.ref.name": name, "io.containerd.image.name": full});
        entry
    };
    let listed = [
        entry("v1", "docker.io/team/app:v1"),
        entry("v2", "docker.io/team/app:v2"),
    ];
    let write = |entries: &[serde_json::Value]| {
        let top = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(dir.path().join("index.json"), top.to_string()).unwrap();
    };
    write(&listed);
    for name in [None, Some("v2"), Some("team/app:v1")] {
        let image = resolve(Source::layout(dir.path(), name)).await.unwrap();
        assert_eq!(image.digest(), made.digest(), "{name:?}");
    }
    let mut other = entry("v3", "docker.io/team/app:v3");
    other["digest"] = json!(ContentDigest::of(b"another"));
    write(&[listed[0].clone(), other]);
    refused(
        resolve(Source::layout(dir.path(), None)).await,
        "several images here",
    );
    refused(
        resolve(Source::layout(dir.path(), Some("v4"))).await,
        "no image `v4` here",
    );
    assert!(resolve(Source::layout(dir.path(), Some("v1"))).await.is_ok());
    fs::remove_file(dir.path().join("oci-layout")).unwrap();
    refused(
        resolve(Source::layout(dir.path(), Some("v1"))).await,
        "`oci-layout` is not in the layout",
    );
}
