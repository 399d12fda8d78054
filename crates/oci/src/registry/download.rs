//! Fetching a blob into a file, measured while it comes.

use std::io;
use std::path::Path;

use reqwest::{Response, StatusCode};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::super::blob::{Blob, Meter};
use super::super::descriptor::Descriptor;
use super::http::{Ask, Session};
use super::upload::longest;
use super::{Progress, RegistryError};

/// Fetches the blob of `descriptor` to the new file `out`; a file beside it until it is whole.
pub(super) async fn blob(
    session: &mut Session<'_>,
    descriptor: &Descriptor,
    out: &Path,
    progress: &mut Progress<'_>,
) -> Result<Blob, RegistryError> {
    let (size, max) = (descriptor.size, session.registry.options.max_blob_bytes);
    let what = format!("the blob {}", descriptor.digest);
    if size > max {
        return Err(RegistryError::TooLarge { what, size, max });
    }
    let failed = |source: io::Error| RegistryError::Write {
        path: out.to_owned(),
        source,
    };
    if std::fs::symlink_metadata(out).is_ok() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let directory = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let stage = tempfile::Builder::new()
        .prefix(".pull-")
        .tempfile_in(directory)
        .map_err(failed)?;
    let mut file = File::from_std(stage.reopen().map_err(failed)?);

    let url = session.url(&["blobs", &descriptor.digest.to_string()])?;
    let ask = Ask::get(url.clone(), &what);
    let response = session.expect(&ask, &[StatusCode::OK]).await?;
    let limit = session
        .registry
        .options
        .answer_within
        .saturating_add(longest(size));
    let whole = receive(session, response, descriptor, &what, &mut file, progress);
    let piece = session.within(&url, limit, "the end of the blob", whole).await?;
    piece?.map_err(failed)?;
    file.sync_all().await.map_err(failed)?;
    stage
        .persist_noclobber(out)
        .map_err(|error| failed(error.error))?;
    Ok(Blob::measured(out.to_owned(), descriptor.digest, size))
}

/// Takes the pieces in and holds them to the descriptor; the inner error is of the file.
async fn receive(
    session: &Session<'_>,
    mut response: Response,
    descriptor: &Descriptor,
    what: &str,
    file: &mut File,
    progress: &mut Progress<'_>,
) -> Result<io::Result<()>, RegistryError> {
    let wanted = descriptor.size;
    let wrong = |found: u64| RegistryError::Size {
        what: what.to_owned(),
        wanted,
        found,
    };
    if let Some(found) = response.content_length().filter(|found| *found != wanted) {
        return Err(wrong(found));
    }
    let url = response.url().clone();
    let idle = session.registry.options.idle;
    let mut meter = Meter::default();
    progress(0, wanted);
    loop {
        let piece = session
            .within(&url, idle, "the next piece of the blob", response.chunk())
            .await?
            .map_err(|error| RegistryError::of(&url, error))?;
        let Some(piece) = piece else { break };
        meter.update(&piece);
        if meter.size() > wanted {
            return Err(wrong(meter.size()));
        }
        if let Err(error) = file.write_all(&piece).await {
            return Ok(Err(error));
        }
        progress(meter.size(), wanted);
    }
    let (digest, size) = meter.end();
    if size != wanted {
        return Err(wrong(size));
    }
    if digest != descriptor.digest {
        return Err(RegistryError::Digest {
            what: "blob".to_owned(),
            wanted: descriptor.digest,
            found: digest,
        });
    }
    Ok(file.flush().await)
}
