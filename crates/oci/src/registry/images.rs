//! What images need of a registry beyond artifacts: documents of either kind, small blobs, and large ones that are fetched
//! on from where the last attempt ended.

use std::io::{self, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::http::{Action, Ask, Session};
use super::upload::{self, longest};
use super::{IMAGE_TYPES, Progress, Registry, RegistryError};
use crate::blob::{Blob, Meter};
use crate::descriptor::{ContentDigest, Descriptor, MediaType};
use crate::reference::Reference;
use crate::{MANIFEST_TYPE, MAX_MANIFEST_BYTES};

/// Attempts in a row that brought nothing, before we give up.
const MAX_IDLE_ATTEMPTS: u32 = 3;

/// Attempts in all.
const MAX_ATTEMPTS: u32 = 100;

/// Wait before the first attempt again; doubled for each that brings nothing.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Bytes read at a time of what is there already.
const PIECE_BYTES: usize = 64 * 1024;

/// Told how far a fetch is: bytes done, bytes in all. `Break` ends it.
pub(crate) type Watch<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + Send + 'a;

/// How a fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The file has the digest and size of the descriptor.
    Whole,
    /// The watcher ended it; the file has what came until then.
    Stopped,
}

impl Registry {
    /// A manifest or index, and its media type.
    pub(crate) async fn document(
        &self,
        reference: &Reference,
    ) -> Result<(Vec<u8>, MediaType), RegistryError> {
        let mut session = self.session(reference, Action::Pull)?;
        session.manifest(reference, IMAGE_TYPES).await
    }

    /// A blob that fits into memory; verified.
    pub(crate) async fn small_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        let what = format!("the blob {}", descriptor.digest);
        let max = MAX_MANIFEST_BYTES as u64;
        if descriptor.size > max {
            return Err(RegistryError::TooLarge {
                what,
                size: descriptor.size,
                max,
            });
        }
        let mut session = self.session(reference, Action::Pull)?;
        let url = session.url(&["blobs", &descriptor.digest.to_string()])?;
        let response = session.expect(&Ask::get(url, &what), &[StatusCode::OK]).await?;
        let bytes = session.read(response, MAX_MANIFEST_BYTES, &what).await?;
        let mut meter = Meter::default();
        meter.update(&bytes);
        check(meter, descriptor, &what)?;
        Ok(bytes)
    }

    /// Whether the registry has a blob in a repository.
    pub(crate) async fn has_blob(
        &self,
        reference: &Reference,
        digest: ContentDigest,
    ) -> Result<bool, RegistryError> {
        let mut session = self.session(reference, Action::Push)?;
        upload::has(&mut session, digest).await
    }

    /// Fetches a blob into `file`, which lies at `path`, on from what is in it. Breaks of the connection are met by asking again for the rest, as
    /// long as each attempt brings something. A registry that knows no ranges sends it anew. What turns out to be other
    /// bytes is emptied; if they were not all from now, one attempt from the beginning follows.
    ///
    /// May be dropped at any await: the file then has a beginning of the blob, or will be found out.
    pub(crate) async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        (file, path): (std::fs::File, &Path),
        watch: &mut Watch<'_>,
    ) -> Result<Fetched, RegistryError> {
        let (size, max) = (descriptor.size, self.options.max_blob_bytes);
        if size > max {
            return Err(RegistryError::TooLarge {
                what: format!("the blob {}", descriptor.digest),
                size,
                max,
            });
        }
        let mut fetch = Fetch {
            file: File::from_std(file),
            path,
            descriptor,
            meter: Meter::default(),
            watch,
        };
        let resumed = fetch.take_stock().await.map_err(unwritten(path))? > 0;
        let mut session = self.session(reference, Action::Pull)?;
        match fetch.finish(&mut session).await {
            Err(RegistryError::Digest { .. }) if resumed => {
                fetch.empty().await.map_err(unwritten(path))?;
                fetch.finish(&mut session).await
            }
            other => other,
        }
    }
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> RegistryError + '_ {
    move |source| RegistryError::Write {
        path: path.to_owned(),
        source,
    }
}

fn check(meter: Meter, descriptor: &Descriptor, what: &str) -> Result<(), RegistryError> {
    let (digest, size) = meter.end();
    if size != descriptor.size {
        return Err(RegistryError::Size {
            what: what.to_owned(),
            wanted: descriptor.size,
            found: size,
        });
    }
    if digest == descriptor.digest {
        return Ok(());
    }
    Err(RegistryError::Digest {
        what: "blob".to_owned(),
        wanted: descriptor.digest,
        found: digest,
    })
}

struct Fetch<'a, 'w> {
    file: File,
    path: &'a Path,
    descriptor: &'a Descriptor,
    /// Of what is in the file.
    meter: Meter,
    watch: &'a mut Watch<'w>,
}

impl Fetch<'_, '_> {
    /// Measures what is in the file, and stands at its end. More than there should be is nothing.
    async fn take_stock(&mut self) -> io::Result<u64> {
        if self.file.metadata().await?.len() > self.descriptor.size {
            self.empty().await?;
        }
        self.file.seek(SeekFrom::Start(0)).await?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let length = self.file.read(&mut buffer).await?;
            if length == 0 {
                return Ok(self.meter.size());
            }
            self.meter.update(buffer.get(..length).unwrap_or_default());
        }
    }

    async fn empty(&mut self) -> io::Result<()> {
        self.file.set_len(0).await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        self.meter = Meter::default();
        Ok(())
    }

    async fn finish(&mut self, session: &mut Session<'_>) -> Result<Fetched, RegistryError> {
        let mut idle = 0;
        for _ in 0..MAX_ATTEMPTS {
            let before = self.meter.size();
            match self.attempt(session).await {
                Err(error) if is_passing(&error) => {
                    idle = if self.meter.size() > before { 0 } else { idle + 1 };
                    if idle >= MAX_IDLE_ATTEMPTS {
                        return Err(error);
                    }
                    tokio::time::sleep(RETRY_AFTER.saturating_mul(1 << idle)).await;
                }
                Err(error) => {
                    if matches!(error, RegistryError::Digest { .. } | RegistryError::Size { .. }) {
                        self.empty().await.map_err(unwritten(self.path))?;
                    }
                    return Err(error);
                }
                Ok(ControlFlow::Break(())) => return Ok(Fetched::Stopped),
                Ok(ControlFlow::Continue(())) => return Ok(Fetched::Whole),
            }
        }
        Err(RegistryError::Protocol(
            "it breaks off again and again".to_owned(),
        ))
    }

    /// One request for what is missing.
    async fn attempt(&mut self, session: &mut Session<'_>) -> Result<ControlFlow<()>, RegistryError> {
        let what = format!("the blob {}", self.descriptor.digest);
        let have = self.meter.size();
        if (self.watch)(have, self.descriptor.size).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if have < self.descriptor.size {
            let url = session.url(&["blobs", &self.descriptor.digest.to_string()])?;
            let ask = Ask::get(url.clone(), &what).from(have);
            let wanted: &[StatusCode] = if have > 0 {
                &[StatusCode::OK, StatusCode::PARTIAL_CONTENT]
            } else {
                &[StatusCode::OK]
            };
            let response = session.expect(&ask, wanted).await?;
            if response.status() == StatusCode::PARTIAL_CONTENT {
                self.check_range(&response, have)?;
            } else if have > 0 {
                self.empty().await.map_err(unwritten(self.path))?;
            }
            let limit = session
                .registry
                .options
                .answer_within
                .saturating_add(longest(self.descriptor.size));
            let whole = self.receive(session, response, &what);
            if session
                .within(&url, limit, "the end of the blob", whole)
                .await??
                .is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        check(std::mem::take(&mut self.meter), self.descriptor, &what)?;
        Ok(ControlFlow::Continue(()))
    }

    fn check_range(&self, response: &reqwest::Response, have: u64) -> Result<(), RegistryError> {
        let size = self.descriptor.size;
        let says = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        let rest = format!("bytes {have}-{}/", size.saturating_sub(1));
        let total = says.and_then(|says| says.strip_prefix(&rest));
        if total.is_some_and(|total| total == "*" || total.parse() == Ok(size)) {
            return Ok(());
        }
        Err(RegistryError::Protocol(format!(
            "it sends another part of the blob than bytes {have} to the end"
        )))
    }

    async fn receive(
        &mut self,
        session: &Session<'_>,
        mut response: reqwest::Response,
        what: &str,
    ) -> Result<ControlFlow<()>, RegistryError> {
        let wanted = self.descriptor.size;
        let url = response.url().clone();
        let idle = session.registry.options.idle;
        let wrong = |found| RegistryError::Size {
            what: what.to_owned(),
            wanted,
            found,
        };
        if let Some(length) = response.content_length()
            && self.meter.size().saturating_add(length) != wanted
        {
            return Err(wrong(self.meter.size().saturating_add(length)));
        }
        let done = loop {
            let piece = session
                .within(&url, idle, "the next piece of the blob", response.chunk())
                .await
                .and_then(|piece| piece.map_err(|error| RegistryError::of(&url, error)));
            let piece = match piece {
                Ok(Some(piece)) => piece,
                Ok(None) => break Ok(ControlFlow::Continue(())),
                Err(error) => break Err(error),
            };
            if self.meter.size().saturating_add(piece.len() as u64) > wanted {
                return Err(wrong(self.meter.size().saturating_add(piece.len() as u64)));
            }
            self.file.write_all(&piece).await.map_err(unwritten(self.path))?;
            self.meter.update(&piece);
            if (self.watch)(self.meter.size(), wanted).is_break() {
                break Ok(ControlFlow::Break(()));
            }
        };
        // Whatever happened: what was counted is in the file.
        self.file.flush().await.map_err(unwritten(self.path))?;
        done
    }
}

/// Whether asking again may help.
fn is_passing(error: &RegistryError) -> bool {
    match error {
        RegistryError::Broken { .. } | RegistryError::Timeout { .. } | RegistryError::Unreachable { .. } => {
            true
        }
        RegistryError::Status { status, .. } => *status >= 500,
        _ => false,
    }
}

impl Registry {
    /// Sends a blob from its file, unless it is there.
    pub(crate) async fn put_blob(
        &self,
        reference: &Reference,
        blob: &Blob,
        progress: &mut Progress<'_>,
    ) -> Result<(), RegistryError> {
        let mut session = self.session(reference, Action::Push)?;
        upload::blob(&mut session, blob, progress).await
    }

    /// Sends an image's config, and then its manifest under the tag or digest of `reference`.
    pub(crate) async fn put_image(
        &self,
        reference: &Reference,
        config: &[u8],
        manifest: &[u8],
    ) -> Result<(), RegistryError> {
        let mut session = self.session(reference, Action::Push)?;
        upload::small(&mut session, config).await?;
        let target = reference
            .tag()
            .map_or_else(|| reference.target(), ToString::to_string);
        upload::manifest(&mut session, &target, MANIFEST_TYPE, manifest, None).await?;
        Ok(())
    }
}
