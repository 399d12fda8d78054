//! The face of the host's own registry, `/v2/`, as the distribution specification (1.1) has it: push and pull by the API's tokens,
//! as a password or as a bearer.
//!
//! A repository is named by its app, or begins with it: `APP`, `APP/PART`. Whoever reaches the app reads it; a token of full access
//! writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use suijuris_oci::{ContentDigest, INDEX_TYPE, MAX_MANIFEST_BYTES, Repository};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::Api;
use crate::clock::now_ms;
use crate::host::Inner;
use crate::pieces::Pieces;
use crate::registry::{Repo, Shelf, ShelfError, Upload};
use crate::tokens::{Access, Token};

/// How long the next piece of a body may take.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a blob that are sent at a time.
const CHUNK: usize = 256 << 10;
/// Most tags and repositories of one answer.
const MAX_LISTED: usize = 1_000;

/// Why a request is refused: its status, the specification's code, and what to do.
#[derive(Debug)]
struct Refused(StatusCode, &'static str, String);

impl From<ShelfError> for Refused {
    fn from(error: ShelfError) -> Self {
        let (status, code) = match &error {
            ShelfError::Invalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            ShelfError::Unknown(what) if what.starts_with("upload ") => {
                (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN")
            }
            ShelfError::Unknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            ShelfError::Missing(_) => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            ShelfError::Digest { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            ShelfError::TooMuch(_) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            ShelfError::Disk(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        };
        Self(status, code, crate::machine::effects::chain(&error))
    }
}

impl Refused {
    fn into_response(self) -> Response<Body> {
        let document = json!({"errors": [{"code": self.1, "message": self.2}]});
        let mut response = super::error::json_response(self.0, document.to_string());
        if self.0 == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"suijuris host\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

type Answered = Result<Response<Body>, Refused>;

/// One request below `/v2/`.
struct Ask {
    host: Arc<Inner>,
    token: Token,
    method: Method,
    query: Vec<(String, String)>,
    headers: HeaderMap,
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq)]
enum About<'a> {
    Root,
    Catalog,
    Tags(&'a str),
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Referrers(&'a str, &'a str),
}

impl<'a> About<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("/v2")?.trim_start_matches('/');
        match path {
            "" => return Some(Self::Root),
            "_catalog" => return Some(Self::Catalog),
            _ => {}
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Some(Self::Tags(name));
        }
        let (rest, last) = path.rsplit_once('/')?;
        let uploads = rest.strip_suffix("/blobs/uploads").map(|name| match last {
            "" => Self::Uploads(name),
            id => Self::Upload(name, id),
        });
        uploads
            // Some clients leave the slash out.
            .or_else(|| {
                Some(Self::Uploads(
                    rest.strip_suffix("/blobs").filter(|_| last == "uploads")?,
                ))
            })
            .or_else(|| Some(Self::Blob(rest.strip_suffix("/blobs")?, last)))
            .or_else(|| Some(Self::Manifest(rest.strip_suffix("/manifests")?, last)))
            .or_else(|| Some(Self::Referrers(rest.strip_suffix("/referrers")?, last)))
    }
}

/// Answers a request below `/v2/`.
pub(super) async fn answer(State(api): State<Api>, request: Request) -> Response<Body> {
    let is_head = request.method() == Method::HEAD;
    let mut response = match serve(api, request).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    };
    let version = HeaderValue::from_static("registry/2.0");
    response
        .headers_mut()
        .insert("docker-distribution-api-version", version);
    if is_head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn serve(api: Api, request: Request) -> Answered {
    let (parts, body) = request.into_parts();
    let shown = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = shown.and_then(|shown| authenticate(&api.host.0, shown));
    let token = token.ok_or_else(|| {
        let text = "log in with a token of the API as the password, under any name, or as a bearer";
        Refused(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text.to_owned())
    })?;
    let path = parts.uri.path().to_owned();
    let ask = Ask {
        host: Arc::clone(&api.host.0),
        token,
        method: parts.method,
        query: super::call::query(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
    };
    let about = About::of(&path).ok_or_else(|| {
        Refused(
            StatusCode::NOT_FOUND,
            "UNSUPPORTED",
            "there is no such path".to_owned(),
        )
    })?;
    match about {
        About::Root => Ok(super::error::json_response(StatusCode::OK, "{}".to_owned())),
        About::Catalog => ask.catalog().await,
        About::Tags(name) => ask.tags(name).await,
        About::Manifest(name, reference) => ask.manifest(name, reference.to_owned(), body).await,
        About::Blob(name, digest) => ask.blob(name, digest).await,
        About::Uploads(name) => ask.begin(name, body).await,
        About::Upload(name, id) => ask.upload(name, id.to_owned(), body).await,
        About::Referrers(name, digest) => ask.referrers(name, digest).await,
    }
}

/// Whose header this is; of a name and a password, the password.
fn authenticate(host: &Inner, shown: &str) -> Option<Token> {
    let Some(basic) = shown
        .get(..6)
        .filter(|scheme| scheme.eq_ignore_ascii_case("basic "))
    else {
        return host.tokens.authenticate(shown, now_ms());
    };
    let pair = base64::engine::general_purpose::STANDARD
        .decode(shown.get(basic.len()..)?.trim())
        .ok()?;
    let pair = String::from_utf8(pair).ok()?;
    host.tokens.authenticate(pair.split_once(':')?.1, now_ms())
}

fn method_not_allowed() -> Refused {
    Refused(
        StatusCode::METHOD_NOT_ALLOWED,
        "UNSUPPORTED",
        "this path does not take the method".to_owned(),
    )
}

fn digest_of(text: &str) -> Result<ContentDigest, Refused> {
    let wrong = || {
        Refused(
            StatusCode::BAD_REQUEST,
            "DIGEST_INVALID",
            "a digest is sha256:HEX".to_owned(),
        )
    };
    text.parse().map_err(|_| wrong())
}

fn respond(status: StatusCode, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

impl Ask {
    fn named(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The repository, which the token reaches; to write where `writes`.
    fn repo(&self, name: &str, writes: bool) -> Result<Repo, Refused> {
        let invalid = |_| {
            Refused(
                StatusCode::BAD_REQUEST,
                "NAME_INVALID",
                "a repository is APP or APP/PART, in small letters".to_owned(),
            )
        };
        name.parse::<Repository>().map_err(invalid)?;
        let first = name.split('/').next().unwrap_or_default();
        let app = self.host.app(first).filter(|app| !app.leaving);
        let app = app.ok_or_else(|| {
            let text =
                format!("there is no app {first}: a repository is named by its app, which is created first");
            Refused(StatusCode::NOT_FOUND, "NAME_UNKNOWN", text)
        })?;
        let reaches =
            app.org == self.token.org && self.token.app.as_ref().is_none_or(|only| *only == app.name);
        if !reaches || self.token.access == Access::Receive || (writes && self.token.access != Access::Full) {
            let text = format!(
                "this token may not {} app {first}",
                if writes { "push to" } else { "read" }
            );
            return Err(Refused(StatusCode::FORBIDDEN, "DENIED", text));
        }
        Ok(Repo {
            org: app.org,
            name: name.to_owned(),
        })
    }

    /// Work on the disk, off the event loop.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> Result<T, ShelfError> + Send + 'static,
    ) -> Result<T, Refused> {
        let world = Arc::clone(&self.host.shared.world);
        let done = tokio::task::spawn_blocking(move || work(&world.images.shelf)).await;
        done.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", error.to_string()))?
            .map_err(Refused::from)
    }

    /// A part of a sorted list, as `n` and `last` ask for, and how the next is asked for.
    fn page(&self, all: Vec<String>, path: &str) -> (Vec<String>, Vec<(&'static str, String)>) {
        let limit = self
            .named("n")
            .and_then(|n| n.parse().ok())
            .unwrap_or(MAX_LISTED)
            .min(MAX_LISTED);
        let after = self.named("last").unwrap_or_default();
        let rest: Vec<String> = all.into_iter().filter(|name| name.as_str() > after).collect();
        let more = rest.len() > limit;
        let page: Vec<String> = rest.into_iter().take(limit).collect();
        let next = page
            .last()
            .filter(|_| more)
            .map(|last| ("link", format!("<{path}?n={limit}&last={last}>; rel=\"next\"")));
        (page, next.into_iter().collect())
    }

    async fn catalog(&self) -> Answered {
        if self.method != Method::GET {
            return Err(method_not_allowed());
        }
        let org = self.token.org.clone();
        let mut all = self.work(move |shelf| Ok(shelf.repositories(&org))).await?;
        if let Some(only) = &self.token.app {
            all.retain(|name| name.split('/').next() == Some(only));
        }
        let (page, headers) = self.page(all, "/v2/_catalog");
        Ok(listed(&json!({ "repositories": page }), &headers))
    }

    async fn tags(&self, name: &str) -> Answered {
        if self.method != Method::GET {
            return Err(method_not_allowed());
        }
        let repo = self.repo(name, false)?;
        let tags = self.work(move |shelf| {
            if shelf.has(&repo) {
                Ok(shelf.tags(&repo))
            } else {
                Err(ShelfError::Unknown(repo.name))
            }
        });
        let unknown = |refused: Refused| Refused(refused.0, "NAME_UNKNOWN", refused.2);
        let (page, headers) = self.page(tags.await.map_err(unknown)?, &format!("/v2/{name}/tags/list"));
        Ok(listed(&json!({"name": name, "tags": page}), &headers))
    }

    async fn referrers(&self, name: &str, digest: &str) -> Answered {
        if self.method != Method::GET {
            return Err(method_not_allowed());
        }
        let (repo, digest) = (self.repo(name, false)?, digest_of(digest)?);
        let kind = self.named("artifactType").map(str::to_owned);
        let filter = kind.as_ref().map(|_| ("oci-filters-applied", "artifactType"));
        let rows = self
            .work(move |shelf| Ok(shelf.referrers(&repo, digest, kind.as_deref())))
            .await?;
        let document = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": rows});
        let headers: Vec<(&str, &str)> = [("content-type", INDEX_TYPE)].into_iter().chain(filter).collect();
        Ok(respond(StatusCode::OK, &headers, document.to_string().into()))
    }

    async fn manifest(&self, name: &str, reference: String, body: Body) -> Answered {
        match self.method {
            Method::GET | Method::HEAD => {
                let repo = self.repo(name, false)?;
                let found = self.work(move |shelf| {
                    let digest = shelf.find(&repo, &reference)?;
                    Ok((digest, shelf.manifest(&repo, digest)?))
                });
                let (digest, (media_type, bytes)) = found.await?;
                let (digest, length) = (digest.to_string(), bytes.len().to_string());
                let headers = [
                    ("content-type", &*media_type),
                    ("docker-content-digest", &digest),
                    ("content-length", &length),
                ];
                Ok(respond(StatusCode::OK, &headers, bytes.into()))
            }
            Method::PUT => self.put_manifest(name, reference, body).await,
            Method::DELETE => {
                let repo = self.repo(name, true)?;
                self.work(move |shelf| shelf.remove(&repo, &reference)).await?;
                Ok(respond(StatusCode::ACCEPTED, &[], Body::empty()))
            }
            _ => Err(method_not_allowed()),
        }
    }

    async fn put_manifest(&self, name: &str, reference: String, body: Body) -> Answered {
        let repo = self.repo(name, true)?;
        let media_type = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let limited = Limited::new(body, MAX_MANIFEST_BYTES).collect();
        let bytes = tokio::time::timeout(PIECE_WITHIN, limited).await;
        let broken = || {
            Refused(
                StatusCode::BAD_REQUEST,
                "MANIFEST_INVALID",
                "the manifest is too large, or did not arrive".to_owned(),
            )
        };
        let bytes = bytes.map_err(|_| broken())?.map_err(|_| broken())?.to_bytes();
        let put = self.work(move |shelf| shelf.put(&repo, &reference, &media_type, &bytes));
        let (digest, subject) = put.await?;
        let (location, digest) = (format!("/v2/{name}/manifests/{digest}"), digest.to_string());
        let mut headers = vec![("location", &*location), ("docker-content-digest", &*digest)];
        headers.extend(subject.as_deref().map(|subject| ("oci-subject", subject)));
        Ok(respond(StatusCode::CREATED, &headers, Body::empty()))
    }

    async fn blob(&self, name: &str, digest: &str) -> Answered {
        if ![Method::GET, Method::HEAD].contains(&self.method) {
            return Err(method_not_allowed());
        }
        let (repo, digest) = (self.repo(name, false)?, digest_of(digest)?);
        let unknown = |refused: Refused| Refused(refused.0, "BLOB_UNKNOWN", refused.2);
        let path = self
            .work(move |shelf| shelf.blob(&repo, digest))
            .await
            .map_err(unknown)?;
        let range = self
            .headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok());
        send(
            &self.host,
            path,
            &digest.to_string(),
            range,
            self.method == Method::HEAD,
        )
        .await
    }

    async fn begin(&self, name: &str, body: Body) -> Answered {
        if self.method != Method::POST {
            return Err(method_not_allowed());
        }
        let repo = self.repo(name, true)?;
        if let (Some(digest), Some(from)) = (self.named("mount"), self.named("from")) {
            // What the token does not reach is not mounted, and may be sent.
            if let (Ok(from), Ok(digest)) = (self.repo(from, false), digest_of(digest)) {
                let into = repo.clone();
                if self.work(move |shelf| shelf.mount(&into, &from, digest)).await? {
                    return Ok(created(name, digest));
                }
            }
        }
        let (uploads, into) = (self.host.uploads.clone(), repo.clone());
        let upload = self.work(move |shelf| shelf.start(&into, &uploads)).await?;
        match self.named("digest").map(digest_of).transpose()? {
            Some(digest) => self.finish(name, upload, digest, body).await,
            None => Ok(going_on(StatusCode::ACCEPTED, name, &upload)),
        }
    }

    async fn upload(&self, name: &str, id: String, body: Body) -> Answered {
        let repo = self.repo(name, true)?;
        let uploads = self.host.uploads.clone();
        let upload = self.work(move |shelf| shelf.resume(&repo, &id, &uploads)).await?;
        match self.method {
            Method::GET => Ok(going_on(StatusCode::NO_CONTENT, name, &upload)),
            Method::DELETE => {
                self.work(move |shelf| shelf.cancel(&upload)).await?;
                Ok(respond(StatusCode::NO_CONTENT, &[], Body::empty()))
            }
            Method::PATCH => {
                let upload = self.receive(name, upload, body).await?;
                Ok(going_on(StatusCode::ACCEPTED, name, &upload))
            }
            Method::PUT => {
                let digest = digest_of(self.named("digest").unwrap_or_default())?;
                self.finish(name, upload, digest, body).await
            }
            _ => Err(method_not_allowed()),
        }
    }

    async fn finish(&self, name: &str, upload: Upload, digest: ContentDigest, body: Body) -> Answered {
        let upload = self.receive(name, upload, body).await?;
        self.work(move |shelf| shelf.finish(&upload, digest)).await?;
        Ok(created(name, digest))
    }

    /// Takes the body in, at the place that it says it is for.
    async fn receive(&self, name: &str, mut upload: Upload, mut body: Body) -> Result<Upload, Refused> {
        let range = self
            .headers
            .get(header::CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        let begin = range.and_then(|range| {
            range
                .trim_start_matches("bytes")
                .trim()
                .split('-')
                .next()?
                .parse::<u64>()
                .ok()
        });
        if range.is_some() && begin != Some(upload.size()) {
            let text = format!("the upload goes on at byte {} of {name}", upload.size());
            return Err(Refused(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "BLOB_UPLOAD_INVALID",
                text,
            ));
        }
        let broken = |text: &str| {
            Refused(
                StatusCode::BAD_REQUEST,
                "BLOB_UPLOAD_INVALID",
                format!("{text}; what came is kept, go on from there"),
            )
        };
        loop {
            let piece = tokio::time::timeout(PIECE_WITHIN, body.frame()).await;
            let Some(frame) = piece.map_err(|_| broken("the body did not arrive in time"))? else {
                break;
            };
            let frame = frame.map_err(|_| broken("the body broke off"))?;
            if let Ok(bytes) = frame.into_data() {
                let took = move || -> Result<Upload, ShelfError> {
                    upload.take(&bytes)?;
                    Ok(upload)
                };
                upload = self.work(move |_| took()).await?;
            }
        }
        Ok(upload)
    }
}

fn listed(document: &Value, headers: &[(&str, String)]) -> Response<Body> {
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut response = respond(StatusCode::OK, &headers, document.to_string().into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn created(name: &str, digest: ContentDigest) -> Response<Body> {
    let (location, digest) = (format!("/v2/{name}/blobs/{digest}"), digest.to_string());
    respond(
        StatusCode::CREATED,
        &[("location", &location), ("docker-content-digest", &digest)],
        Body::empty(),
    )
}

fn going_on(status: StatusCode, name: &str, upload: &Upload) -> Response<Body> {
    let location = format!("/v2/{name}/blobs/uploads/{}", upload.id);
    let range = format!("0-{}", upload.size().saturating_sub(1));
    let headers = [
        ("location", &*location),
        ("range", &range),
        ("docker-upload-uuid", &upload.id),
    ];
    respond(status, &headers, Body::empty())
}

/// A blob, or what `bytes=N-` or `bytes=N-M` names of it.
async fn send(host: &Inner, path: PathBuf, digest: &str, range: Option<&str>, is_head: bool) -> Answered {
    let failed = |error: std::io::Error| Refused::from(ShelfError::Disk(error));
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let part = range.and_then(|range| {
        let (begin, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        let (begin, end) = (begin.parse::<u64>().ok()?, end.parse::<u64>().unwrap_or(u64::MAX));
        Some((begin, end.min(size.saturating_sub(1))))
    });
    let (status, begin, length) = match part {
        Some((begin, end)) if begin < size && begin <= end => {
            (StatusCode::PARTIAL_CONTENT, begin, end - begin + 1)
        }
        Some(_) => {
            let text = format!("the blob has {size} bytes");
            return Err(Refused(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", text));
        }
        None => (StatusCode::OK, 0, size),
    };
    let content_range = format!(
        "bytes {begin}-{}/{size}",
        begin.saturating_add(length).saturating_sub(1)
    );
    let count = length.to_string();
    let mut headers = vec![
        ("content-type", "application/octet-stream"),
        ("docker-content-digest", digest),
        ("content-length", &count),
        ("accept-ranges", "bytes"),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        headers.push(("content-range", &content_range));
    }
    if is_head {
        return Ok(respond(status, &headers, Body::empty()));
    }
    file.seek(std::io::SeekFrom::Start(begin)).await.map_err(failed)?;
    let (pieces, body) = mpsc::channel(PIECES);
    host.spawn(read_all(file.take(length), pieces));
    Ok(respond(status, &headers, Body::new(Pieces(body))))
}

/// Pieces of a blob that wait for their reader.
const PIECES: usize = 2;

/// Reads until the end, or until nobody wants more.
async fn read_all(mut file: tokio::io::Take<tokio::fs::File>, pieces: mpsc::Sender<std::io::Result<Bytes>>) {
    loop {
        let mut piece = BytesMut::with_capacity(CHUNK);
        let read = match file.read_buf(&mut piece).await {
            Ok(0) => return,
            Ok(_) => Ok(piece.freeze()),
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if pieces.send(read).await.is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        use About as A;
        for (path, about) in [
            ("/v2/", Some(A::Root)),
            ("/v2", Some(A::Root)),
            ("/v2/_catalog", Some(A::Catalog)),
            ("/v2/a/b/tags/list", Some(A::Tags("a/b"))),
            ("/v2/a/manifests/v1", Some(A::Manifest("a", "v1"))),
            ("/v2/a/manifests/sha256:x", Some(A::Manifest("a", "sha256:x"))),
            ("/v2/a/b/blobs/sha256:x", Some(A::Blob("a/b", "sha256:x"))),
            ("/v2/a/blobs/uploads/", Some(A::Uploads("a"))),
            ("/v2/a/blobs/uploads", Some(A::Uploads("a"))),
            ("/v2/a/blobs/uploads/x", Some(A::Upload("a", "x"))),
            ("/v2/a/referrers/sha256:x", Some(A::Referrers("a", "sha256:x"))),
            ("/v2/a", None),
            ("/v1/a/tags/list", None),
        ] {
            assert_eq!(About::of(path), about, "{path}");
        }
    }
}
