//! Sending blobs and manifests: each blob in one `POST` and one `PUT`, which every registry takes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use tokio::fs::File;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::sync::watch;

use super::super::blob::{Blob, BlobError};
use super::super::descriptor::ContentDigest;
use super::http::{Ask, Session};
use super::{Progress, RegistryError};

/// Bytes read and sent at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// A transfer slower than this is given up: nobody holds us for ever, and a modem would pass.
const LOWEST_BYTES_PER_SECOND: u64 = 4096;

/// How long a transfer of `size` bytes may take at most, beside the time for an answer.
pub(super) fn longest(size: u64) -> Duration {
    Duration::from_secs(size / LOWEST_BYTES_PER_SECOND)
}

/// What a registry says of a manifest that it took.
pub(super) struct Put {
    /// It keeps the list of referrers itself.
    pub(super) linked: bool,
}

/// Sends a manifest under a tag or digest; with a mark, only in place of the version that has it.
pub(super) async fn manifest(
    session: &mut Session<'_>,
    target: &str,
    media_type: &str,
    bytes: &[u8],
    replaces: Option<HeaderValue>,
) -> Result<Put, RegistryError> {
    let url = session.url(&["manifests", target])?;
    let ask = Ask::new(Method::PUT, url, format!("{}:{target}", session.repository))
        .body(media_type, bytes.to_vec())
        .replacing(replaces);
    let response = session.expect(&ask, &[StatusCode::CREATED]).await?;
    let says = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let digest = ContentDigest::of(bytes);
    if let Some(found) = says("docker-content-digest").and_then(|text| text.parse().ok())
        && found != digest
    {
        return Err(RegistryError::Digest {
            what: "manifest as the registry keeps it".to_owned(),
            wanted: digest,
            found,
        });
    }
    Ok(Put {
        linked: says("oci-subject").is_some(),
    })
}

/// Whether the registry has a blob, at the size it should have.
pub(super) async fn has(session: &mut Session<'_>, digest: ContentDigest) -> Result<bool, RegistryError> {
    let url = session.url(&["blobs", &digest.to_string()])?;
    let ask = Ask::new(Method::HEAD, url, digest.to_string());
    let wanted = [StatusCode::OK, StatusCode::NOT_FOUND];
    Ok(session.expect(&ask, &wanted).await?.status() == StatusCode::OK)
}

/// Where to send a blob to.
async fn begin(session: &mut Session<'_>, digest: ContentDigest) -> Result<Url, RegistryError> {
    let asked = session.url(&["blobs", "uploads/"])?;
    let ask = Ask::new(Method::POST, asked.clone(), session.repository.to_string());
    let response = session.expect(&ask, &[StatusCode::ACCEPTED]).await?;
    let mut url = session.named(&asked, &response)?;
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    Ok(url)
}

/// Sends a blob that fits into memory.
pub(super) async fn small(session: &mut Session<'_>, bytes: &[u8]) -> Result<(), RegistryError> {
    let digest = ContentDigest::of(bytes);
    if has(session, digest).await? {
        return Ok(());
    }
    let url = begin(session, digest).await?;
    let ask = Ask::new(Method::PUT, url, digest.to_string()).body("application/octet-stream", bytes.to_vec());
    session.expect(&ask, &[StatusCode::CREATED]).await?;
    Ok(())
}

/// Sends a blob from its file.
pub(super) async fn blob(
    session: &mut Session<'_>,
    blob: &Blob,
    progress: &mut Progress<'_>,
) -> Result<(), RegistryError> {
    let size = blob.size();
    progress(0, size);
    if !has(session, blob.digest()).await? {
        let url = begin(session, blob.digest()).await?;
        let (body, sent) = FileBody::open(blob).await?;
        let request = session
            .request(Method::PUT, &url)?
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap(body))
            .send();
        let answer_within = session.registry.options.answer_within;
        let whole = watched(session, &url, request, sent, size, progress);
        let limit = answer_within.saturating_add(longest(size));
        let response = session
            .within(&url, limit, "the end of the upload", whole)
            .await??;
        session
            .check(response, &[StatusCode::CREATED], &blob.digest().to_string())
            .await?;
    }
    progress(size, size);
    Ok(())
}

/// Waits for the answer to an upload while pieces go out; gives up where nothing moves.
async fn watched(
    session: &Session<'_>,
    url: &Url,
    request: impl Future<Output = reqwest::Result<reqwest::Response>>,
    mut sent: watch::Receiver<u64>,
    size: u64,
    progress: &mut Progress<'_>,
) -> Result<reqwest::Response, RegistryError> {
    let mut request = Box::pin(request);
    let options = &session.registry.options;
    let mut open = true;
    loop {
        let done = *sent.borrow_and_update();
        progress(done, size);
        let limit = if open && done < size {
            options.idle
        } else {
            options.answer_within
        };
        tokio::select! {
            answer = &mut request => return answer.map_err(|error| RegistryError::of(url, error)),
            changed = sent.changed(), if open => open = changed.is_ok(),
            () = tokio::time::sleep(limit) => return Err(RegistryError::Timeout {
                host: super::error::authority(url),
                what: "the next piece of the upload",
            }),
        }
    }
}

/// A file as a request body: exactly as many bytes as were measured.
struct FileBody {
    file: File,
    buffer: Vec<u8>,
    size: u64,
    left: u64,
    sent: watch::Sender<u64>,
}

impl FileBody {
    async fn open(blob: &Blob) -> Result<(Self, watch::Receiver<u64>), RegistryError> {
        let file = File::open(blob.path()).await.map_err(|source| BlobError::Read {
            path: blob.path().to_owned(),
            source,
        })?;
        let (sent, receiver) = watch::channel(0);
        let body = Self {
            file,
            buffer: vec![0; PIECE_BYTES],
            size: blob.size(),
            left: blob.size(),
            sent,
        };
        Ok((body, receiver))
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let most = usize::try_from(this.left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let mut piece = ReadBuf::new(this.buffer.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(&mut this.file).poll_read(context, &mut piece))?;
        let piece = piece.filled();
        if piece.is_empty() {
            let short = "the file became shorter while it was sent";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, short))));
        }
        this.left = this.left.saturating_sub(piece.len() as u64);
        this.sent.send_replace(this.size.saturating_sub(this.left));
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
