//! The registry on disk: what a repository has, what is refused, what is collected.

use std::time::Duration;

use super::*;

fn shelf() -> (tempfile::TempDir, Shelf, Uploads) {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(dir.path().to_owned()).unwrap();
    (dir, shelf, Uploads::default())
}

fn repo(org: &str, name: &str) -> Repo {
    Repo {
        org: org.to_owned(),
        name: name.to_owned(),
    }
}

fn push(shelf: &Shelf, uploads: &Uploads, repo: &Repo, bytes: &[u8]) -> ContentDigest {
    let mut upload = shelf.start(repo, uploads).unwrap();
    upload.take(bytes).unwrap();
    shelf.finish(&upload, ContentDigest::of(bytes)).unwrap();
    ContentDigest::of(bytes)
}

fn manifest(blob: ContentDigest) -> String {
    json!({"schemaVersion": 2, "config": {"digest": blob.to_string()}, "layers": []}).to_string()
}

#[test]
fn a_repository_has_what_was_pushed_to_it_and_what_is_mounted_within_its_org() {
    let (_dir, shelf, uploads) = shelf();
    let (ours, beside, theirs) = (repo("o", "a"), repo("o", "b/c"), repo("p", "d"));
    let blob = push(&shelf, &uploads, &ours, b"blob");
    assert!(shelf.blob(&ours, blob).is_ok());
    let missing = shelf.put(&beside, "v1", "m", manifest(blob).as_bytes());
    assert!(matches!(missing, Err(ShelfError::Missing(named)) if named == blob));
    assert!(!shelf.mount(&theirs, &ours, blob).unwrap() && shelf.blob(&theirs, blob).is_err());
    assert!(shelf.mount(&beside, &ours, blob).unwrap());
    let (digest, _) = shelf.put(&beside, "v1", "m", manifest(blob).as_bytes()).unwrap();
    assert_eq!(shelf.find(&beside, "v1").unwrap(), digest);
    assert_eq!(
        shelf.manifest(&beside, digest).unwrap(),
        ("m".to_owned(), manifest(blob).into_bytes())
    );
    assert!(shelf.manifest(&ours, digest).is_err() && shelf.layout(&ours, "v1").is_err());
    assert_eq!(
        (shelf.repositories("o"), shelf.tags(&beside)),
        (vec!["a".to_owned(), "b/c".to_owned()], vec!["v1".to_owned()])
    );
    let layout = shelf.layout(&beside, "v1").unwrap();
    assert!(layout.path().join("blobs/sha256").join(blob.hex()).exists());
    let path = layout.path().to_owned();
    drop(layout);
    assert!(!path.exists());
    shelf.forget("o", "b").unwrap();
    assert!(!shelf.has(&beside) && shelf.has(&ours));
}

#[test]
fn what_is_not_what_it_says_is_refused() {
    let (_dir, shelf, uploads) = shelf();
    let repo = repo("o", "a");
    let blob = push(&shelf, &uploads, &repo, b"blob");
    let wrong = shelf.start(&repo, &uploads).unwrap();
    assert!(matches!(
        shelf.finish(&wrong, blob),
        Err(ShelfError::Digest { .. })
    ));
    for (reference, bytes) in [
        ("v1", "["),
        ("v1", "[]"),
        ("v1", r#"{"config": {}}"#),
        ("../x", &*manifest(blob)),
        (".x", &manifest(blob)),
        ("sha256:00", &manifest(blob)),
        (&*blob.to_string(), &manifest(blob)),
    ] {
        assert!(
            shelf.put(&repo, reference, "m", bytes.as_bytes()).is_err(),
            "{reference} {bytes}"
        );
    }
    for reference in ["none", "../a", "sha256:zz", ""] {
        assert!(shelf.find(&repo, reference).is_err());
    }
    for id in ["", "../../x", &"f".repeat(32), &"z".repeat(32)] {
        assert!(shelf.resume(&repo, id, &uploads).is_err());
    }
    let mut upload = shelf.start(&repo, &uploads).unwrap();
    assert!(matches!(
        shelf.resume(&repo, &upload.id, &uploads),
        Err(ShelfError::TooMuch(_))
    ));
    upload.take(b"half").unwrap();
    let id = upload.id.clone();
    drop(upload);
    assert_eq!(
        shelf.resume(&repo, &id, &uploads).unwrap().size(),
        4,
        "it goes on where it was"
    );
}

#[test]
fn what_nobody_refers_to_goes_and_all_else_stays() {
    let (_dir, shelf, uploads) = shelf();
    let repo = repo("o", "a");
    let (kept, lone) = (
        push(&shelf, &uploads, &repo, b"kept"),
        push(&shelf, &uploads, &repo, b"lone"),
    );
    let (image, _) = shelf.put(&repo, "v1", "m", manifest(kept).as_bytes()).unwrap();
    let index = json!({"manifests": [{"digest": image.to_string()}]}).to_string();
    let (index, _) = shelf.put(&repo, "all", "i", index.as_bytes()).unwrap();
    shelf.remove(&repo, "v1").unwrap();
    let about = json!({"subject": {"digest": image.to_string()}, "layers": []}).to_string();
    let digest = ContentDigest::of(about.as_bytes());
    let (about, subject) = shelf
        .put(&repo, &digest.to_string(), "m", about.as_bytes())
        .unwrap();
    assert_eq!(subject, Some(image.to_string()));
    assert_eq!(shelf.referrers(&repo, image, None).len(), 1);
    let begun = shelf.start(&repo, &uploads).unwrap().id.clone();
    shelf.collect(AGES).unwrap();
    assert!(
        shelf.blob(&repo, lone).is_ok(),
        "it may be part of what is being pushed"
    );
    let at_once = (Duration::ZERO, Duration::ZERO);
    shelf.collect(at_once).unwrap();
    assert!(shelf.blob(&repo, lone).is_err() && !shelf.content(lone).exists());
    assert!(shelf.resume(&repo, &begun, &uploads).is_err());
    for manifest in [image, index, about] {
        assert!(shelf.manifest(&repo, manifest).is_ok(), "{manifest}");
    }
    assert!(shelf.blob(&repo, kept).is_ok());
    shelf.remove(&repo, &index.to_string()).unwrap();
    assert_eq!(shelf.tags(&repo), [""; 0]);
    shelf.collect(at_once).unwrap();
    assert!(shelf.manifest(&repo, image).is_err() && !shelf.content(kept).exists());
}
