//! Push, pull, subject and referrers with `docker-registry`, which has no referrers API: the tag stands in for it.

use std::fs;

use suijuris_oci::{ContentDigest, Credentials, Descriptor, DockerConfig, Options, Secret, Transport};
use suijuris_testkit::registry::{Real, falsify, noise};

use super::{Artifact, KIND, Move as _, annotations, artifact, client, failed, reference};

fn alice(password: &str) -> Options {
    Options {
        credentials: Credentials::Basic {
            user: "alice".to_owned(),
            password: Secret::new(password),
        },
        ..Options::default()
    }
}

#[tokio::test]
async fn what_is_pushed_is_pulled_by_tag_and_by_digest() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let bytes = noise(3 << 20);
    let artifact = artifact(dir.path(), &bytes, None);
    let tagged = reference(&real.address, "team/object:v1");

    let mut steps = Vec::new();
    let digest = registry
        .put(&tagged, &artifact, &mut |done, total| steps.push((done, total)))
        .await
        .unwrap();
    assert_eq!(digest, artifact.digest());
    let total = bytes.len() as u64;
    assert_eq!(steps.first(), Some(&(0, total)));
    assert_eq!(steps.last(), Some(&(total, total)));
    assert!(steps.windows(2).all(|pair| pair[0].0 <= pair[1].0));

    for (name, from) in [("a.sui", tagged.clone()), ("b.sui", tagged.with_digest(digest))] {
        let out = dir.path().join(name);
        let mut steps = Vec::new();
        let found = registry
            .get(&from, &out, &mut |done, total| steps.push((done, total)))
            .await
            .unwrap();
        assert_eq!(found.digest(), artifact.digest());
        assert_eq!(found.digest(), digest);
        assert_eq!(fs::read(&out).unwrap(), bytes);
        assert_eq!(steps.last(), Some(&(total, total)));
        assert!(steps.len() > 2, "{steps:?}");
    }
    // Pushing the same again is no error and sends the capsule no second time.
    let mut steps = Vec::new();
    registry
        .put(&tagged, &artifact, &mut |done, total| steps.push((done, total)))
        .await
        .unwrap();
    assert_eq!(steps, [(0, total), (total, total)]);
}

#[tokio::test]
async fn a_digest_in_the_reference_must_be_the_artifacts() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let artifact = artifact(dir.path(), b"capsule", None);
    let tagged = reference(&real.address, "object:v1");
    let other = tagged.with_digest(ContentDigest::of(b"other"));
    failed(
        registry.put(&other, &artifact, &mut |_, _| {}).await,
        "the artifact is not the one that is named",
    );
    let own = tagged.with_digest(artifact.digest());
    registry.put(&own, &artifact, &mut |_, _| {}).await.unwrap();
    let out = dir.path().join("out.sui");
    registry.get(&own, &out, &mut |_, _| {}).await.unwrap();
    failed(
        registry.get(&tagged, &dir.path().join("x"), &mut |_, _| {}).await,
        "MANIFEST_UNKNOWN",
    );
}

/// An artifact without subject stands in for an image: its manifest is one.
async fn image(registry: &suijuris_oci::Registry, address: &str, dir: &std::path::Path) -> Descriptor {
    let image = reference(address, "shop:image");
    let stand_in = artifact(dir, b"the image", None);
    registry.put(&image, &stand_in, &mut |_, _| {}).await.unwrap();
    registry.resolve(&image).await.unwrap()
}

#[tokio::test]
async fn artifacts_are_found_by_the_image_they_refer_to() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let subject = image(&registry, &real.address, dir.path()).await;
    let by_tag = reference(&real.address, "shop:image");
    assert_eq!(registry.referrers(&by_tag, KIND).await.unwrap(), []);

    let mut pushed: Vec<Artifact> = Vec::new();
    for bytes in [b"first", b"other"] {
        let artifact = artifact(dir.path(), bytes, Some(subject.clone()));
        let tag = format!("shop:{}", String::from_utf8_lossy(bytes));
        for _ in 0..2 {
            registry
                .put(&reference(&real.address, &tag), &artifact, &mut |_, _| {})
                .await
                .unwrap();
        }
        pushed.push(artifact);
    }
    for name in [by_tag.clone(), by_tag.with_digest(subject.digest)] {
        let found = registry.referrers(&name, KIND).await.unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        for (found, pushed) in found.iter().zip(&pushed) {
            assert_eq!(found.digest, pushed.digest());
            assert_eq!(found.annotations, annotations());
        }
    }
    // The subject travels with the artifact.
    let out = dir.path().join("out.sui");
    let found = registry
        .get(&reference(&real.address, "shop:first"), &out, &mut |_, _| {})
        .await
        .unwrap();
    assert_eq!(found.subject.as_ref(), Some(&subject));
    // An image that nobody has may still be referred to.
    let absent = by_tag.with_digest(ContentDigest::of(b"absent"));
    assert_eq!(registry.referrers(&absent, KIND).await.unwrap(), []);
}

/// This registry marks no versions, so that one push may drop another from the list; it must not fail, and pushing
/// again must mend it.
#[tokio::test]
async fn pushes_at_the_same_time_succeed_and_again_are_all_listed() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let subject = image(&registry, &real.address, dir.path()).await;
    let artifacts: Vec<Artifact> = [b"a", b"b", b"c"]
        .map(|bytes| artifact(dir.path(), bytes, Some(subject.clone())))
        .into();
    let tags = ["shop:a", "shop:b", "shop:c"].map(|tag| reference(&real.address, tag));
    let (mut p, mut q, mut r) = (|_, _| {}, |_, _| {}, |_, _| {});
    let (a, b, c) = tokio::join!(
        registry.put(&tags[0], &artifacts[0], &mut p),
        registry.put(&tags[1], &artifacts[1], &mut q),
        registry.put(&tags[2], &artifacts[2], &mut r),
    );
    for pushed in [a, b, c] {
        pushed.unwrap();
    }
    for (tag, artifact) in tags.iter().zip(&artifacts) {
        registry.put(tag, artifact, &mut |_, _| {}).await.unwrap();
    }
    let found = registry
        .referrers(&tags[0].with_digest(subject.digest), KIND)
        .await
        .unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
}

#[tokio::test]
async fn accounts_are_respected() {
    let real = Real::with_accounts();
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact(dir.path(), b"capsule", None);
    let tagged = reference(&real.address, "object:v1");
    for options in [Options::default(), alice("wrong")] {
        let registry = client(&real.address, options);
        failed(
            registry.put(&tagged, &artifact, &mut |_, _| {}).await,
            "log in, or give user and password",
        );
        let out = dir.path().join("never.sui");
        failed(
            registry.get(&tagged, &out, &mut |_, _| {}).await,
            "does not accept who asks",
        );
        assert!(!out.exists());
    }
    let registry = client(&real.address, alice("open sesame"));
    registry.put(&tagged, &artifact, &mut |_, _| {}).await.unwrap();

    // The same account from Docker's configuration.
    let config = format!(
        r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6b3BlbiBzZXNhbWU="}}}}}}"#,
        real.address
    );
    let credentials = DockerConfig::decode(config.as_bytes())
        .unwrap()
        .credentials(tagged.host())
        .unwrap();
    let registry = client(
        &real.address,
        Options {
            credentials,
            ..Options::default()
        },
    );
    let out = dir.path().join("out.sui");
    registry.get(&tagged, &out, &mut |_, _| {}).await.unwrap();
    assert_eq!(fs::read(out).unwrap(), b"capsule");
}

#[tokio::test]
async fn what_is_not_there_or_not_an_object_is_said() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let pull = |rest: &str| {
        let from = reference(&real.address, rest);
        let registry = &registry;
        let out = dir.path().join("out.sui");
        async move { registry.get(&from, &out, &mut |_, _| {}).await }
    };
    failed(pull("nobody/here:v1").await, "is not in");
    failed(pull("nobody/here:v1").await, "check repository, tag and digest");
    // The list of referrers is an index, and stands under a tag like any other.
    let subject = image(&registry, &real.address, dir.path()).await;
    let artifact = artifact(dir.path(), b"capsule", Some(subject.clone()));
    let tagged = reference(&real.address, "shop:v1");
    registry.put(&tagged, &artifact, &mut |_, _| {}).await.unwrap();
    failed(
        pull(&format!("shop:sha256-{}", subject.digest.hex())).await,
        "index of several manifests",
    );
    let elsewhere = reference("registry.example", "object:v1");
    failed(
        registry.get(&elsewhere, dir.path(), &mut |_, _| {}).await,
        "make a client for its own registry",
    );
}

#[tokio::test]
async fn nothing_is_written_over_and_a_limit_holds() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let artifact = artifact(dir.path(), b"capsule", None);
    let tagged = reference(&real.address, "object:v1");
    registry.put(&tagged, &artifact, &mut |_, _| {}).await.unwrap();
    let out = dir.path().join("out.sui");
    fs::write(&out, "mine").unwrap();
    failed(
        registry.get(&tagged, &out, &mut |_, _| {}).await,
        "name a new file",
    );
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    let tight = Options {
        max_blob_bytes: 6,
        ..Options::default()
    };
    let fresh = dir.path().join("fresh.sui");
    failed(
        client(&real.address, tight)
            .get(&tagged, &fresh, &mut |_, _| {})
            .await,
        "has 7 bytes, the limit is 6",
    );
    assert!(!fresh.exists());
}

#[tokio::test]
async fn a_registry_whose_disk_was_tampered_with_is_found_out() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let artifact = artifact(dir.path(), &noise(1 << 20), None);
    let tagged = reference(&real.address, "object:v1");
    registry.put(&tagged, &artifact, &mut |_, _| {}).await.unwrap();
    falsify(&real.blob(&artifact.blob().digest().hex()));
    let work = tempfile::tempdir().unwrap();
    let out = work.path().join("out.sui");
    failed(
        registry.get(&tagged, &out, &mut |_, _| {}).await,
        "the blob is not the one that is named",
    );
    assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_capsule_that_changed_since_it_was_measured_is_not_pushed() {
    let real = Real::open();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let artifact = artifact(dir.path(), b"capsule", None);
    let tagged = reference(&real.address, "object:v1");
    fs::write(artifact.blob().path(), "capsulf").unwrap();
    failed(
        registry.put(&tagged, &artifact, &mut |_, _| {}).await,
        "DIGEST_INVALID",
    );
    fs::write(artifact.blob().path(), "cap").unwrap();
    failed(
        registry.put(&tagged, &artifact, &mut |_, _| {}).await,
        "became shorter",
    );
}

#[tokio::test]
async fn a_registry_that_is_gone_is_unreachable() {
    let mut real = Real::open();
    real.stop();
    let dir = tempfile::tempdir().unwrap();
    let registry = client(&real.address, Options::default());
    let artifact = artifact(dir.path(), b"capsule", None);
    let tagged = reference(&real.address, "object:v1");
    failed(
        registry.put(&tagged, &artifact, &mut |_, _| {}).await,
        "cannot be reached",
    );
}

#[tokio::test]
async fn tls_is_trusted_only_with_its_certificate() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let real = Real::with_tls(&certificate.cert.pem(), &certificate.signing_key.serialize_pem());
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact(dir.path(), b"capsule", None);
    let address = real.at("localhost");
    let tagged = reference(&address, "object:v1");
    let tls = Options {
        transport: Transport::Tls,
        ..Options::default()
    };
    let trusting = Options {
        roots_pem: certificate.cert.pem().into_bytes(),
        ..tls.clone()
    };
    let registry = client(&address, trusting.clone());
    registry.put(&tagged, &artifact, &mut |_, _| {}).await.unwrap();
    let out = dir.path().join("out.sui");
    registry.get(&tagged, &out, &mut |_, _| {}).await.unwrap();
    assert_eq!(fs::read(out).unwrap(), b"capsule");

    failed(
        client(&address, tls)
            .put(&tagged, &artifact, &mut |_, _| {})
            .await,
        "no TLS that can be trusted",
    );
    // Another name than the certificate's.
    let registry = client(&real.address, trusting);
    let by_number = reference(&real.address, "object:v1");
    failed(
        registry.put(&by_number, &artifact, &mut |_, _| {}).await,
        "no TLS that can be trusted",
    );
    // TLS where there is none.
    let plain = Real::open();
    let tls = Options {
        transport: Transport::Tls,
        ..Options::default()
    };
    let by_number = reference(&plain.address, "object:v1");
    failed(
        client(&plain.address, tls)
            .put(&by_number, &artifact, &mut |_, _| {})
            .await,
        "ask for plain HTTP",
    );
}

#[tokio::test]
async fn certificates_that_are_none_are_refused() {
    let options = Options {
        roots_pem: b"nonsense".to_vec(),
        ..Options::default()
    };
    let error = suijuris_oci::Registry::new(&"localhost:1".parse().unwrap(), options).unwrap_err();
    assert!(error.to_string().contains("give certificates in PEM"), "{error}");
}
