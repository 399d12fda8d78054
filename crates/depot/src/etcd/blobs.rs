//! Bytes too large for one request of etcd: in pieces under their digest, and a key that names it.
//!
//! Pieces are put first; the key, create-only, makes them count.

use suijuris_core::id::Digest;

use super::gateway::{Op, Range, Sort};
use super::keyspace::Keyspace;
use crate::{Error, frame};

/// Size of a piece, bytes; etcd takes requests of 1.5 MiB.
const PIECE: usize = 1 << 20;

/// What stands under the key: length, eight bytes, and digest of the whole.
const NAMED: usize = 8 + 32;

/// Pieces read in one answer.
const PAGE: usize = 4;

fn piece(digest: &Digest, number: usize) -> String {
    format!("pieces/{}/{number:04}", digest.hex())
}

/// Keeps `bytes` under `key` unless something is there; the same bytes again are no error.
pub(crate) async fn keep(space: &Keyspace, key: &str, bytes: &[u8], what: &str) -> Result<(), Error> {
    let digest = Digest::of(bytes);
    let mut named = (bytes.len() as u64).to_be_bytes().to_vec();
    named.extend_from_slice(&digest.0);
    let same = |found: &[u8]| {
        if *found == *named {
            Ok(())
        } else {
            Err(Error::Different(what.to_owned()))
        }
    };
    if let Some((found, _)) = space.value(key, NAMED).await? {
        return same(&found);
    }
    for (number, part) in bytes.chunks(PIECE).enumerate() {
        let key = space.key(&piece(&digest, number));
        let put = space.gateway().put(&key, part, None).await;
        put.map_err(|cause| space.failed(cause))?;
    }
    let put = Op::Put(space.key(key), named.clone(), None);
    if space.change(key, 0, &[put], &[]).await?.succeeded {
        return Ok(());
    }
    match space.value(key, NAMED).await? {
        Some((found, _)) => same(&found),
        None => Err(Error::Unreachable(
            space.url.clone(),
            Some("a key was there and is gone".into()),
        )),
    }
}

/// What [`keep`] keeps under `key`, of at most `max` bytes.
pub(crate) async fn get(space: &Keyspace, key: &str, max: usize) -> Result<Option<Vec<u8>>, Error> {
    let Some((named, _)) = space.value(key, NAMED).await? else {
        return Ok(None);
    };
    let (length, digest) = read_named(space, key, &named, max)?;
    let garbage = |why: &str| frame::garbage(&space.place(key), why);
    let mut bytes = Vec::new();
    let pieces = length.div_ceil(PIECE);
    for first in (0..pieces).step_by(PAGE) {
        let end = space.key(&piece(&digest, (first + PAGE).min(pieces)));
        let range = Range::between(space.key(&piece(&digest, first)), &end).sorted(Sort::Key);
        for found in space.range(range).await?.found {
            bytes.extend_from_slice(&found.value);
        }
        if bytes.len() > length {
            break;
        }
    }
    if bytes.len() != length || Digest::of(&bytes) != digest {
        return Err(garbage("its pieces are not all there, or others"));
    }
    Ok(Some(bytes))
}

fn read_named(space: &Keyspace, key: &str, named: &[u8], max: usize) -> Result<(usize, Digest), Error> {
    let garbage = |why: &str| frame::garbage(&space.place(key), why);
    let (length, digest) = named
        .split_first_chunk::<8>()
        .and_then(|(length, digest)| Some((u64::from_be_bytes(*length), Digest(digest.try_into().ok()?))))
        .ok_or_else(|| garbage("it is not a length and a digest"))?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= max)
        .ok_or_else(|| garbage(&format!("it has more than {max} bytes")))?;
    Ok((length, digest))
}

/// Removes what [`keep`] keeps under `key`, its pieces with it; nothing where nothing is there. Nobody keeps the same
/// bytes at the same time: a blob has one writer.
pub(crate) async fn remove(space: &Keyspace, key: &str, max: usize) -> Result<(), Error> {
    let Some((named, revision)) = space.value(key, NAMED).await? else {
        return Ok(());
    };
    let (length, digest) = read_named(space, key, &named, max)?;
    let mut gone = vec![Op::Delete(space.key(key))];
    gone.extend((0..length.div_ceil(PIECE)).map(|number| Op::Delete(space.key(&piece(&digest, number)))));
    // Somebody else removed it where this does nothing.
    space.change(key, revision, &gone, &[]).await.map(drop)
}
