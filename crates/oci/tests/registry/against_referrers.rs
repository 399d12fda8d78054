//! Referrers with the API, in pages, without it, and with servers that get it wrong.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use suijuris_oci::{ContentDigest, Descriptor, INDEX_TYPE, MANIFEST_TYPE, Options};

use super::liar::{Answer, Liar, Seen};
use super::{Artifact, KIND, Move as _, annotations, artifact, client, failed, reference};

fn subject() -> Descriptor {
    Descriptor::new(MANIFEST_TYPE.parse().unwrap(), ContentDigest::of(b"image"), 5)
}

fn tag() -> String {
    format!("sha256-{}", subject().digest.hex())
}

fn object(dir: &Path) -> Artifact {
    artifact(dir, b"capsule", Some(subject()))
}

fn is_api(seen: &Seen) -> bool {
    seen.path.contains("/referrers/")
}

async fn push(liar: &Liar, artifact: &Artifact) -> Result<ContentDigest, suijuris_oci::RegistryError> {
    let to = reference(&liar.address, "shop:v1");
    client(&liar.address, Options::default())
        .put(&to, artifact, &mut |_, _| {})
        .await
}

async fn list(liar: &Liar) -> Result<Vec<Descriptor>, suijuris_oci::RegistryError> {
    let image = reference(&liar.address, "shop:any").with_digest(subject().digest);
    client(&liar.address, Options::default())
        .referrers(&image, KIND)
        .await
}

#[tokio::test]
async fn a_registry_with_the_api_gets_no_tag() {
    let liar = Liar::start(|_| None).await;
    let dir = tempfile::tempdir().unwrap();
    let artifact = object(dir.path());
    push(&liar, &artifact).await.unwrap();
    let found = list(&liar).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, artifact.digest());
    assert_eq!(found[0].annotations, annotations());
    assert!(!liar.shelf.lock().unwrap().has(&tag()));
}

/// Forgets the header and the API, as a registry of before 1.1.
fn old(status: u16) -> impl Fn(&Seen) -> Option<Answer> + Send + Sync {
    move |seen| {
        let put = seen.method == "PUT" && seen.path.ends_with("/manifests/v1");
        if put {
            return Some(Answer::new(201, ""));
        }
        is_api(seen).then(|| Answer::new(status, "404 page not found"))
    }
}

#[tokio::test]
async fn a_registry_without_the_api_gets_the_tag() {
    for status in [404, 405, 501] {
        let liar = Liar::start(old(status)).await;
        let dir = tempfile::tempdir().unwrap();
        let artifact = object(dir.path());
        // What others have put there stays.
        let other = json!({"mediaType": MANIFEST_TYPE, "digest": "sha512:0", "size": 1, "extra": true});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [other]});
        let bytes = index.to_string();
        liar.shelf
            .lock()
            .unwrap()
            .put_manifest(&tag(), INDEX_TYPE, bytes.as_bytes());
        push(&liar, &artifact).await.unwrap();
        push(&liar, &artifact).await.unwrap();
        let found = list(&liar).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let kept: Vec<Seen> = liar
            .seen()
            .into_iter()
            .filter(|seen| seen.method == "PUT" && seen.path.ends_with(&tag()))
            .collect();
        assert_eq!(kept.len(), 1);
        let written: serde_json::Value = serde_json::from_slice(&kept[0].body).unwrap();
        assert_eq!(written["manifests"][0], other);
        assert_eq!(written["manifests"][1]["artifactType"], KIND);
    }
}

#[tokio::test]
async fn a_failing_api_is_an_error_and_no_empty_list() {
    let liar = Liar::start(|seen| is_api(seen).then(|| Answer::new(500, ""))).await;
    failed(list(&liar).await, "answered 500");
    let liar = Liar::start(|seen| is_api(seen).then(|| Answer::new(200, "<html>"))).await;
    failed(list(&liar).await, "the referrers it lists cannot be read");
}

#[tokio::test]
async fn a_tag_that_holds_an_image_is_not_written_over() {
    let liar = Liar::start(old(404)).await;
    let dir = tempfile::tempdir().unwrap();
    let artifact = object(dir.path());
    let image = artifact.manifest_bytes();
    liar.shelf
        .lock()
        .unwrap()
        .put_manifest(&tag(), MANIFEST_TYPE, image);
    failed(push(&liar, &artifact).await, "remove the tag from the registry");
    failed(list(&liar).await, "it is not an image index");
    assert!(
        liar.seen()
            .iter()
            .all(|seen| seen.method != "PUT" || !seen.path.ends_with(&tag()))
    );
}

#[tokio::test]
async fn a_tag_that_never_keeps_what_is_written_is_given_up() {
    let liar = Liar::start(|seen| {
        let tagged = seen.path.ends_with(&tag());
        let put = seen.method == "PUT" && seen.path.contains("/manifests/");
        match (put, tagged) {
            (true, _) => Some(Answer::new(201, "")),
            (false, true) => Some(Answer::new(404, "")),
            _ => None,
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    failed(
        push(&liar, &object(dir.path())).await,
        "others keep writing the tag",
    );
}

#[tokio::test]
async fn where_versions_are_marked_nobody_is_run_over() {
    let other = json!({"mediaType": MANIFEST_TYPE, "digest": ContentDigest::of(b"other"), "size": 1});
    let index = |entries: serde_json::Value| {
        json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).to_string()
    };
    // What the tag holds, and its version. Between our first reading and writing, somebody adds an entry.
    let state = std::sync::Mutex::new((index(json!([])), 1));
    let liar = Liar::start(move |seen| {
        if !seen.path.ends_with(&tag()) {
            return old(404)(seen);
        }
        let mut state = state.lock().unwrap();
        if seen.method != "PUT" {
            let mark = format!("\"{}\"", state.1);
            return Some(Answer::new(200, state.0.clone()).header("etag", mark));
        }
        if state.1 == 1 {
            *state = (index(json!([other])), 2);
        }
        if seen.if_match.as_deref() != Some(&format!("\"{}\"", state.1)) {
            return Some(Answer::new(412, ""));
        }
        *state = (String::from_utf8(seen.body.clone()).unwrap(), state.1 + 1);
        Some(Answer::new(201, ""))
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let artifact = object(dir.path());
    push(&liar, &artifact).await.unwrap();
    let written = liar
        .seen()
        .into_iter()
        .rfind(|seen| seen.method == "PUT")
        .unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written.body).unwrap();
    assert_eq!(
        written["manifests"][0]["digest"],
        ContentDigest::of(b"other").to_string()
    );
    assert_eq!(written["manifests"][1]["digest"], artifact.digest().to_string());
}

#[tokio::test]
async fn a_tag_that_fails_for_a_moment_is_tried_again_and_then_given_up() {
    for (failures, expect) in [(2, None), (usize::MAX, Some("answered 500"))] {
        let count = AtomicUsize::new(0);
        let liar = Liar::start(move |seen| {
            let fails = seen.path.ends_with(&tag()) && count.fetch_add(1, Ordering::SeqCst) < failures;
            if fails {
                Some(Answer::new(500, ""))
            } else {
                old(404)(seen)
            }
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let pushed = push(&liar, &object(dir.path())).await;
        match expect {
            Some(expect) => failed(pushed, expect),
            None => assert_eq!(
                list(&liar)
                    .await
                    .map(|found| (pushed.is_ok(), found.len()))
                    .unwrap(),
                (true, 1)
            ),
        }
    }
}

/// One page of `count` objects.
fn page(from: usize, count: usize) -> String {
    let entries: Vec<_> = (from..from + count)
        .map(|number| {
            let digest = ContentDigest::of(number.to_string().as_bytes());
            json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": 9, "artifactType": KIND})
        })
        .chain([json!({"mediaType": MANIFEST_TYPE, "digest": ContentDigest::of(b"s"), "size": 9, "artifactType": "a/signature"})])
        .collect();
    json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).to_string()
}

#[tokio::test]
async fn pages_are_joined_and_other_artifacts_left_out() {
    let liar = Liar::start(|seen| {
        let first =
            Answer::new(200, page(0, 3)).header("link", "</v2/shop/referrers/next?n=2>; rel=\"next\"");
        if seen.path == "/v2/shop/referrers/next?n=2" {
            return Some(Answer::new(200, page(3, 2)));
        }
        is_api(seen).then_some(first)
    })
    .await;
    let found = list(&liar).await.unwrap();
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|found| found.annotations.is_empty()));
    let asked = &liar.seen()[0].path;
    assert!(
        asked.ends_with("?artifactType=application%2Fvnd.example.thing.v1"),
        "{asked}"
    );
}

#[tokio::test]
async fn pages_without_end_end() {
    let liar = Liar::start(|seen| {
        let number: usize = seen
            .path
            .rsplit_once("p=")
            .map_or(0, |(_, number)| number.parse().unwrap());
        let next = format!("</v2/shop/referrers/x?p={}>; rel=\"next\"", number + 1);
        is_api(seen).then(|| Answer::new(200, page(number, 1)).header("link", next))
    })
    .await;
    assert_eq!(list(&liar).await.unwrap().len(), 64);
    let liar = Liar::start(|seen| {
        let next = "<http://127.0.0.1:1/v2/x>; rel=\"next\"";
        is_api(seen).then(|| Answer::new(200, page(0, 1)).header("link", next))
    })
    .await;
    failed(list(&liar).await, "is not its own");
}
