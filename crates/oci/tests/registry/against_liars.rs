//! Servers that lie, stall, break off, send us around in circles or ask for our password elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use suijuris_oci::{
    ContentDigest, Credentials, MANIFEST_TYPE, Options, Registry, RegistryError, Secret, Transport,
};

use super::liar::{Answer, End, Liar, Seen};
use super::{Artifact, Move as _, artifact, client, failed, reference, restless, soon, text};

/// A server with one artifact, tag `v1`, which lies as `lie` says.
struct Stage {
    liar: Liar,
    artifact: Artifact,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new(lie: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let liar = Liar::start(lie).await;
        let dir = tempfile::tempdir().unwrap();
        let artifact = artifact(dir.path(), b"capsule", None);
        let bytes = artifact.manifest_bytes();
        liar.shelf
            .lock()
            .unwrap()
            .put_manifest("v1", MANIFEST_TYPE, bytes);
        Self { liar, artifact, dir }
    }

    fn client(&self, options: Options) -> Registry {
        client(&self.liar.address, options)
    }

    async fn pull(&self, options: Options) -> Result<Artifact, RegistryError> {
        let from = reference(&self.liar.address, "object:v1");
        let work = tempfile::tempdir_in(self.dir.path()).unwrap();
        let result = self
            .client(options)
            .get(&from, &work.path().join("out.sui"), &mut |_, _| {})
            .await;
        let left = std::fs::read_dir(work.path()).unwrap().count();
        assert_eq!(left, usize::from(result.is_ok()), "a failed pull leaves no file");
        result
    }

    async fn push(&self, options: Options) -> Result<ContentDigest, RegistryError> {
        let to = reference(&self.liar.address, "object:v2");
        self.client(options)
            .put(&to, &self.artifact, &mut |_, _| {})
            .await
    }
}

/// Pulls from a server whose blobs are answered so.
async fn blob(options: Options, answer: Answer, expect: &str) {
    let stage = Stage::new(move |seen| seen.path.contains("/blobs/").then(|| answer.clone())).await;
    failed(stage.pull(options).await, expect);
}

/// Pulls from a server whose manifests are answered so.
async fn manifest(options: Options, answer: Answer, expect: &str) {
    let stage = Stage::new(move |seen| seen.path.contains("/manifests/").then(|| answer.clone())).await;
    failed(stage.pull(options).await, expect);
}

#[tokio::test]
async fn other_bytes_than_the_digest_says_are_refused() {
    blob(
        Options::default(),
        Answer::new(200, "capsulf"),
        "the blob is not the one that is named",
    )
    .await;
    blob(
        Options::default(),
        Answer::new(200, "caps"),
        "has 4 bytes instead of 7",
    )
    .await;
    blob(
        Options::default(),
        Answer::new(200, "capsules"),
        "bytes instead of 7",
    )
    .await;
    blob(
        Options::default(),
        Answer::new(200, "capsules").header("content-length", "8"),
        "has 8 bytes instead",
    )
    .await;
    let stage = Stage::new(|seen| {
        let manifest = seen.path.contains("/manifests/");
        manifest.then(|| Answer::new(200, "{}").header("content-type", MANIFEST_TYPE))
    })
    .await;
    let by_digest = reference(&stage.liar.address, "object:v1").with_digest(stage.artifact.digest());
    let registry = stage.client(Options::default());
    let out = stage.dir.path().join("out.sui");
    failed(
        registry.get(&by_digest, &out, &mut |_, _| {}).await,
        "the manifest is not the one that is named",
    );
    failed(
        registry.resolve(&by_digest).await,
        "the manifest is not the one that is named",
    );
}

#[tokio::test]
async fn answers_that_break_off_are_no_answers() {
    let cut = Answer::new(200, "cap")
        .header("content-length", "7")
        .ending(End::Breaks);
    blob(Options::default(), cut, "broke; try again").await;
    let cut = Answer::new(200, "{").ending(End::Breaks);
    manifest(Options::default(), cut, "broke; try again").await;
}

#[tokio::test]
async fn endless_answers_are_cut_off() {
    let endless = Answer::new(200, vec![b' '; 1 << 16])
        .header("content-type", MANIFEST_TYPE)
        .ending(End::Repeats);
    manifest(Options::default(), endless.clone(), "the limit is 4194304").await;
    blob(Options::default(), endless.clone(), "bytes instead of 7").await;
    let refusal = Answer {
        status: 500,
        ..endless
    };
    blob(Options::default(), refusal, "answered 500").await;
    let announced = Answer::new(200, "{}")
        .header("content-length", "99999999999")
        .ending(End::Hangs);
    manifest(Options::default(), announced, "has 99999999999 bytes").await;
}

#[tokio::test]
async fn slow_servers_are_given_up() {
    let silent = Answer::new(200, "cap").ending(End::Hangs);
    blob(
        restless(),
        silent.clone(),
        "did not answer in time (the next piece of the blob)",
    )
    .await;
    manifest(
        soon(),
        silent,
        "did not answer in time (the end of a short answer)",
    )
    .await;
    // Takes the connection and says nothing at all.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let from = reference(&address, "object:v1");
    let out = dir.path().join("out.sui");
    failed(
        client(&address, soon()).get(&from, &out, &mut |_, _| {}).await,
        "in time (an answer)",
    );
    let artifact = artifact(dir.path(), b"capsule", None);
    failed(
        client(&address, soon())
            .put(&from, &artifact, &mut |_, _| {})
            .await,
        "in time (an answer)",
    );
}

/// A registry that takes the beginning of an upload and then neither reads nor answers.
#[tokio::test]
async fn an_upload_that_stalls_is_given_up() {
    let stalled = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}/upload", stalled.local_addr().unwrap());
    let stage = Stage::new(move |seen| {
        (seen.method == "POST").then(|| Answer::new(202, "").header("location", place.clone()))
    })
    .await;
    stage.liar.shelf.lock().unwrap().answer(&Seen {
        method: "PUT".to_owned(),
        path: format!(
            "/v2/object/blobs/uploads/1?state=a&digest={}",
            ContentDigest::of(b"{}").to_string().replace(':', "%3A")
        ),
        authorization: None,
        content_type: String::new(),
        if_match: None,
        range: None,
        body: b"{}".to_vec(),
    });
    // More than the buffers of two sockets take.
    let large = artifact(stage.dir.path(), &vec![7; 32 << 20], None);
    let to = reference(&stage.liar.address, "object:v2");
    failed(
        stage.client(restless()).put(&to, &large, &mut |_, _| {}).await,
        "did not answer in time (the next piece of the upload)",
    );
}

#[tokio::test]
async fn circles_and_long_ways_of_redirects_end() {
    let away = |to: &'static str| Answer::new(307, "").header("location", to);
    blob(Options::default(), away("?"), "where we have been").await;
    let stage = Stage::new(move |seen| match seen.path.as_str() {
        path if path.contains("/blobs/") => Some(away("/a")),
        "/a" => Some(away("/b")),
        "/b" => Some(away("/a")),
        _ => None,
    })
    .await;
    failed(stage.pull(Options::default()).await, "where we have been");
    let count = Arc::new(AtomicUsize::new(0));
    let stage = Stage::new(move |seen| {
        let next = count.fetch_add(1, Ordering::SeqCst);
        seen.path
            .contains("/blobs/")
            .then(|| Answer::new(302, "").header("location", format!("{}x{next}", seen.path)))
    })
    .await;
    failed(stage.pull(Options::default()).await, "after too many redirects");
    assert!(stage.liar.seen().len() < 10);
    blob(
        Options::default(),
        Answer::new(302, ""),
        "names no place to go on at",
    )
    .await;
    blob(
        Options::default(),
        away("http://registry.example/x"),
        "which is not protected by TLS",
    )
    .await;
    blob(
        Options::default(),
        away("ftp://registry.example/x"),
        "which is not protected by TLS",
    )
    .await;
    blob(
        Options::default(),
        away("file:///etc/passwd"),
        "which is not protected by TLS",
    )
    .await;
    blob(
        Options::default(),
        away("http://[nonsense"),
        "names no place to go on at",
    )
    .await;
    let stage = Stage::new(move |seen| (seen.method == "POST").then(|| away("/elsewhere"))).await;
    failed(stage.push(Options::default()).await, "not followed when writing");
}

fn alice() -> Options {
    Options {
        credentials: Credentials::Basic {
            user: "alice".to_owned(),
            password: Secret::new("open sesame"),
        },
        ..Options::default()
    }
}

/// A lie of a registry that wants a password.
fn basic(seen: &Seen) -> Option<Answer> {
    let challenge = Answer::new(401, "").header("www-authenticate", "Basic realm=\"x\"");
    seen.authorization.is_none().then_some(challenge)
}

#[tokio::test]
async fn a_password_is_not_sent_to_another_host() {
    let other = Liar::start(|_| Some(Answer::new(200, "capsule"))).await;
    let place = format!("http://{}/blob?sig=1", other.address);
    let stage = Stage::new(move |seen| {
        let blob = seen.path.contains("/blobs/") && seen.authorization.is_some();
        basic(seen).or_else(|| blob.then(|| Answer::new(307, "").header("location", place.clone())))
    })
    .await;
    stage.pull(alice()).await.unwrap();
    let [seen] = other.seen().try_into().unwrap();
    assert_eq!((seen.path.as_str(), seen.authorization), ("/blob?sig=1", None));
    assert!(stage.liar.seen().iter().any(|seen| seen.authorization.is_some()));
}

#[tokio::test]
async fn an_upload_that_is_sent_elsewhere_goes_without_password() {
    let other = Liar::start(|_| Some(Answer::new(201, ""))).await;
    let place = format!("http://{}/upload?sig=1", other.address);
    let stage = Stage::new(move |seen| {
        let post = seen.method == "POST";
        basic(seen).or_else(|| post.then(|| Answer::new(202, "").header("location", place.clone())))
    })
    .await;
    stage.push(alice()).await.unwrap();
    let seen = other.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.authorization.is_none()));
    assert!(seen.iter().any(|seen| seen.body == b"capsule"));
}

#[tokio::test]
async fn a_password_is_sent_only_when_it_is_asked_for() {
    let stage = Stage::new(|_| None).await;
    failed(stage.pull(alice()).await, "is not in");
    assert!(stage.liar.seen().iter().all(|seen| seen.authorization.is_none()));
    let bearer = Options {
        credentials: Credentials::Token(Secret::new("abc")),
        ..Options::default()
    };
    failed(stage.pull(bearer).await, "is not in");
    assert_eq!(
        stage.liar.seen().last().unwrap().authorization.as_deref(),
        Some("Bearer abc")
    );
}

/// A registry that wants a token of the token server at `/token`.
async fn with_tokens(answer: Answer) -> Stage {
    let address = Arc::new(std::sync::OnceLock::<String>::new());
    let own = Arc::clone(&address);
    let stage = Stage::new(move |seen| {
        if seen.path.starts_with("/token?") {
            return Some(answer.clone());
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"me\"",
            own.get().unwrap()
        );
        let known = seen.authorization.as_deref() == Some("Bearer T0ken");
        (!known).then(|| Answer::new(401, "").header("www-authenticate", realm))
    })
    .await;
    address.set(stage.liar.address.clone()).unwrap();
    stage
}

#[tokio::test]
async fn a_token_is_bought_for_this_repository_and_action_only() {
    let stage = with_tokens(Answer::new(200, r#"{"access_token":"T0ken","expires_in":60}"#)).await;
    stage.push(alice()).await.unwrap();
    stage.pull(Options::default()).await.unwrap();
    let bought: Vec<Seen> = stage
        .liar
        .seen()
        .into_iter()
        .filter(|seen| seen.path.starts_with("/token"))
        .collect();
    let [push, pull] = bought.try_into().unwrap();
    assert_eq!(
        push.path,
        "/token?service=me&scope=repository%3Aobject%3Apull%2Cpush"
    );
    assert_eq!(
        push.authorization.as_deref(),
        Some("Basic YWxpY2U6b3BlbiBzZXNhbWU=")
    );
    assert_eq!(pull.path, "/token?service=me&scope=repository%3Aobject%3Apull");
    assert_eq!(pull.authorization, None);
}

#[tokio::test]
async fn token_servers_that_fail_are_told_apart() {
    for (answer, expect) in [
        (Answer::new(401, ""), "does not accept who asks"),
        (Answer::new(403, ""), "does not accept who asks"),
        (Answer::new(500, ""), "answered 500"),
        (Answer::new(200, "{}"), "gives no token"),
        (Answer::new(200, r#"{"token":"a\nb"}"#), "gives no token"),
        (
            Answer::new(200, r#"{"token":"wrong"}"#),
            "does not accept who asks",
        ),
        (
            Answer::new(302, "").header("location", "/x"),
            "a token server that is somewhere else",
        ),
        (Answer::new(200, vec![b'x'; 100_000]), "the limit is 65536"),
    ] {
        failed(with_tokens(answer).await.pull(alice()).await, expect);
    }
    for (realm, expect) in [
        ("http://auth.example/token", "not protected by TLS"),
        ("nonsense", "not a URL"),
    ] {
        let header = format!("Bearer realm=\"{realm}\"");
        let stage =
            Stage::new(move |_| Some(Answer::new(401, "").header("www-authenticate", header.clone()))).await;
        failed(stage.pull(alice()).await, expect);
    }
}

#[tokio::test]
async fn the_password_is_in_no_error() {
    let stage = Stage::new(|_| Some(Answer::new(401, "").header("www-authenticate", "Basic realm=x"))).await;
    let error = stage.pull(alice()).await.unwrap_err();
    let registry = stage.client(alice());
    for shown in [text(&error), format!("{error:?}"), format!("{registry:?}")] {
        assert!(!shown.contains("sesame") && !shown.contains("YWxpY2U"), "{shown}");
    }
}

#[tokio::test]
async fn hostile_upload_places_are_refused() {
    for (place, expect) in [
        ("http://[nonsense", "names no place to go on at"),
        ("http://upload.example/x", "not protected by TLS"),
        ("gopher://x/", "not protected by TLS"),
    ] {
        let stage = Stage::new(move |seen| {
            (seen.method == "POST").then(|| Answer::new(202, "").header("location", place))
        })
        .await;
        failed(stage.push(Options::default()).await, expect);
    }
    let stage = Stage::new(|seen| (seen.method == "POST").then(|| Answer::new(202, ""))).await;
    failed(stage.push(Options::default()).await, "names no place to go on at");
    let stage = Stage::new(|seen| (seen.method == "POST").then(|| Answer::new(200, "<html>"))).await;
    failed(
        stage.push(Options::default()).await,
        "does not answer like an OCI registry",
    );
}

#[tokio::test]
async fn a_registry_that_keeps_another_manifest_is_found_out() {
    let stage = Stage::new(|seen| {
        let put = seen.method == "PUT" && seen.path.contains("/manifests/");
        let other = ContentDigest::of(b"other").to_string();
        put.then(|| Answer::new(201, "").header("docker-content-digest", other))
    })
    .await;
    failed(
        stage.push(Options::default()).await,
        "manifest as the registry keeps it",
    );
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    for (status, expect) in [
        (403, "ask its owner"),
        (404, "check repository"),
        (413, "raise the limit of the registry"),
        (429, "asked too often"),
        (503, "try again later"),
    ] {
        let stage = Stage::new(move |seen| (seen.method == "PUT").then(|| Answer::new(status, ""))).await;
        failed(stage.push(Options::default()).await, expect);
    }
    let invalid = r#"{"errors":[{"code":"NAME_INVALID","message":"no \u001b[31m"}]}"#;
    let stage = Stage::new(move |_| Some(Answer::new(404, invalid))).await;
    failed(
        stage.pull(Options::default()).await,
        "NAME_INVALID no \\u{1b}[31m); use another repository",
    );
}

#[tokio::test]
async fn what_is_no_manifest_is_not_taken() {
    let hollow = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    manifest(
        Options::default(),
        Answer::new(200, hollow).header("content-type", MANIFEST_TYPE),
        "the manifest cannot be read",
    )
    .await;
    manifest(
        Options::default(),
        Answer::new(200, "<html>"),
        "without a media type",
    )
    .await;
    let html = Answer::new(200, "<html>").header("content-type", "text/html");
    manifest(Options::default(), html, "the manifest cannot be read").await;
}

#[tokio::test]
async fn plain_http_beyond_this_machine_needs_to_be_asked_for() {
    // Nobody is there; what matters is that TLS is tried, and without it nothing is sent.
    let stage = Stage::new(|_| None).await;
    let tls = Options {
        transport: Transport::Tls,
        ..Options::default()
    };
    failed(stage.pull(tls).await, "ask for plain HTTP");
    assert_eq!(stage.liar.seen().len(), 0);
    let plain = Options {
        transport: Transport::Plain,
        ..Options::default()
    };
    failed(stage.pull(plain).await, "is not in");
}

#[tokio::test]
async fn nothing_of_this_machine_is_reached_by_who_wants_only_what_is_elsewhere() {
    // Someone is there, under its address, under a name, and behind a redirect; nothing is asked of him.
    let stage = Stage::new(|_| None).await;
    let elsewhere = Options {
        only_elsewhere: true,
        ..Options::default()
    };
    failed(stage.pull(elsewhere.clone()).await, "is this machine");
    for name in ["localhost", "localhost.localdomain"] {
        let port = stage.liar.address.rsplit_once(':').unwrap().1.to_owned();
        let reference: suijuris_oci::Reference = format!("{name}:{port}/a/b:v1").parse().unwrap();
        let registry = Registry::new(reference.host(), elsewhere.clone()).unwrap();
        let refused = registry.resolve(&reference).await;
        assert!(
            matches!(refused, Err(RegistryError::Unreachable { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(stage.liar.seen().len(), 0);
}
