//! Which artifacts refer to an image: the referrers API, or the referrers tag where a registry lacks it.
//!
//! The tag (`sha256-<hex>`) names an index that clients keep themselves (distribution-spec 1.1, "Referrers Tag
//! Schema"). Where the registry marks versions (`ETag`), [`link`] replaces only the one it has read. Where it does not,
//! two pushes at the same moment can run over each other: [`link`] reads back what it wrote, which finds most of that;
//! what is lost then is the entry in the list and not the object, and pushing again puts it back.

use std::time::Duration;

use reqwest::header::{ETAG, HeaderValue, LINK};
use reqwest::{Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::descriptor::{ContentDigest, Descriptor};
use super::super::{INDEX_TYPE, MAX_MANIFEST_BYTES};
use super::http::{Ask, Session};
use super::{RegistryError, upload};

/// Pages of the referrers API that are read at most.
const MAX_PAGES: usize = 64;

/// Referrers that are kept at most.
const MAX_REFERRERS: usize = 10_000;

/// Times a referrers tag is written before giving up.
const MAX_LINKS: u32 = 8;

/// Time between two of them, times the number of the try.
const PAUSE: Duration = Duration::from_millis(40);

/// What a registry answers that lists referrers, or does not: beside 404, what older ones say to an unknown path.
const LISTED_OR_NOT: &[StatusCode] = &[
    StatusCode::OK,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::NOT_IMPLEMENTED,
];

/// An image index as far as it matters here. Entries stay as they are: those of others are written back unchanged.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u64,
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Value>,
    /// What others may have added.
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl Index {
    fn empty() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(INDEX_TYPE.to_owned()),
            manifests: Vec::new(),
            rest: serde_json::Map::new(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match index.media_type.as_deref() {
            None | Some(INDEX_TYPE) if index.schema_version == 2 => Ok(index),
            _ => Err("it is not an image index".to_owned()),
        }
    }

    fn names(&self, digest: ContentDigest) -> bool {
        let digest = digest.to_string();
        self.manifests
            .iter()
            .any(|entry| entry.get("digest").and_then(Value::as_str) == Some(&digest))
    }

    /// The artifacts of a type; entries of other types, or in no form we know, are passed over.
    fn of_type(self, artifact_type: &str) -> impl Iterator<Item = Descriptor> {
        self.manifests
            .into_iter()
            .filter_map(|entry| serde_json::from_value::<Descriptor>(entry).ok())
            .filter(move |found| {
                found
                    .artifact_type
                    .as_ref()
                    .is_some_and(|kind| kind.as_str() == artifact_type)
            })
    }
}

/// The tag under which the referrers of `subject` are listed.
fn tag_of(subject: ContentDigest) -> String {
    format!("sha256-{}", subject.hex())
}

/// Lists the artifacts of a type that refer to `subject`.
pub(super) async fn list(
    session: &mut Session<'_>,
    subject: ContentDigest,
    artifact_type: &str,
) -> Result<Vec<Descriptor>, RegistryError> {
    let mut url = session.url(&["referrers", &subject.to_string()])?;
    url.query_pairs_mut().append_pair("artifactType", artifact_type);
    let mut found: Vec<Descriptor> = Vec::new();
    for page in 0..MAX_PAGES {
        let ask = Ask::get(url.clone(), format!("the referrers of {subject}")).accept(&[INDEX_TYPE]);
        let wanted = if page == 0 {
            LISTED_OR_NOT
        } else {
            &[StatusCode::OK]
        };
        let response = session.expect(&ask, wanted).await?;
        if response.status() != StatusCode::OK {
            let index = tagged(session, &tag_of(subject)).await?;
            return Ok(index.map_or_else(Vec::new, |(index, _)| {
                index.of_type(artifact_type).take(MAX_REFERRERS).collect()
            }));
        }
        let next = next_page(session, &url, &response)?;
        let bytes = session.read(response, MAX_MANIFEST_BYTES, &ask.what).await?;
        let index = Index::decode(&bytes).map_err(|why| {
            RegistryError::Protocol(format!("the referrers it lists cannot be read: {why}"))
        })?;
        let room = MAX_REFERRERS.saturating_sub(found.len());
        found.extend(index.of_type(artifact_type).take(room));
        match next {
            Some(next) if found.len() < MAX_REFERRERS => url = next,
            _ => break,
        }
    }
    Ok(found)
}

/// The next page (RFC 8288), which has to be the registry's own.
fn next_page(session: &Session<'_>, asked: &Url, response: &Response) -> Result<Option<Url>, RegistryError> {
    let Some(target) = response
        .headers()
        .get(LINK)
        .and_then(|value| value.to_str().ok())
        .and_then(next_of)
    else {
        return Ok(None);
    };
    let url = asked
        .join(target)
        .ok()
        .filter(|url| url.origin() == session.registry.base.origin() && url != asked)
        .ok_or_else(|| RegistryError::Protocol("the next page of referrers is not its own".to_owned()))?;
    Ok(Some(url))
}

/// The target of the link `rel="next"` in a header.
fn next_of(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters
            .split(';')
            .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        next.then_some(target)
    })
}

/// The index behind a referrers tag, if there is one, with the mark of its version if the registry gives one.
async fn tagged(
    session: &mut Session<'_>,
    tag: &str,
) -> Result<Option<(Index, Option<HeaderValue>)>, RegistryError> {
    let url = session.url(&["manifests", tag])?;
    let ask = Ask::get(url, format!("{}:{tag}", session.repository)).accept(&[INDEX_TYPE]);
    let response = session
        .expect(&ask, &[StatusCode::OK, StatusCode::NOT_FOUND])
        .await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let mark = response.headers().get(ETAG).cloned();
    let bytes = session.read(response, MAX_MANIFEST_BYTES, &ask.what).await?;
    match Index::decode(&bytes) {
        Ok(index) => Ok(Some((index, mark))),
        Err(why) => Err(RegistryError::Referrers {
            tag: tag.to_owned(),
            why,
        }),
    }
}

/// Puts an artifact on the list behind the referrers tag of its subject.
pub(super) async fn link(
    session: &mut Session<'_>,
    artifact: &Descriptor,
    subject: ContentDigest,
) -> Result<(), RegistryError> {
    let tag = tag_of(subject);
    let entry = serde_json::to_value(artifact).map_err(|error| unwritable(&error))?;
    let mut last = RegistryError::Contended(tag.clone());
    for pause in 0..MAX_LINKS {
        tokio::time::sleep(PAUSE.saturating_mul(pause)).await;
        match add(session, &tag, &entry, artifact.digest).await {
            Ok(Link::There) => return Ok(()),
            Ok(Link::Written | Link::Overtaken) => last = RegistryError::Contended(tag.clone()),
            // A registry on a plain file system fails to read a tag that is being written.
            Err(error @ RegistryError::Status { status: 500.., .. }) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Cannot happen: what is written was read, or is made of texts and numbers.
fn unwritable(error: &serde_json::Error) -> RegistryError {
    RegistryError::Protocol(format!("what it lists cannot be written again: {error}"))
}

/// How one round of linking ended.
enum Link {
    /// It stands in the list.
    There,
    /// We have written it; whether it stays has to be seen.
    Written,
    /// Somebody else has written between our reading and writing.
    Overtaken,
}

async fn add(
    session: &mut Session<'_>,
    tag: &str,
    entry: &Value,
    digest: ContentDigest,
) -> Result<Link, RegistryError> {
    let (mut index, mark) = match tagged(session, tag).await? {
        Some((index, _)) if index.names(digest) => return Ok(Link::There),
        Some(found) => found,
        None => (Index::empty(), None),
    };
    index.manifests.push(entry.clone());
    let bytes = serde_json::to_vec(&index).map_err(|error| unwritable(&error))?;
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(RegistryError::Referrers {
            tag: tag.to_owned(),
            why: "it is full".to_owned(),
        });
    }
    match upload::manifest(session, tag, INDEX_TYPE, &bytes, mark).await {
        Ok(_) => Ok(Link::Written),
        Err(RegistryError::Status {
            status: 409 | 412, ..
        }) => Ok(Link::Overtaken),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(
            next_of(r#"</v2/a/referrers/x?n=2>; rel="next""#),
            Some("/v2/a/referrers/x?n=2")
        );
        assert_eq!(next_of(r#"</a>; rel="prev", </b>; rel="next""#), Some("/b"));
        for header in ["", "<", "</a>", r#"</a>; rel="prev""#, r#"/a; rel="next""#] {
            assert_eq!(next_of(header), None, "{header}");
        }
    }

    #[test]
    fn entries_of_others_stay_and_are_passed_over() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX_TYPE}","manifests":[{{"digest":"sha512:ab","x":1}},7],"annotations":{{"a":"b"}}}}"#
        );
        let index = Index::decode(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&index).unwrap(), text);
        assert_eq!(index.of_type("application/vnd.example").count(), 0);
    }

    #[test]
    fn an_image_behind_the_tag_is_no_index() {
        let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
        assert!(Index::decode(text.as_bytes()).is_err());
        assert!(Index::decode(br#"{"schemaVersion":1}"#).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, header: String) {
            if let Ok(index) = Index::decode(&bytes) {
                let _ = index.of_type("application/vnd.example").count();
            }
            let _ = next_of(&header);
        }
    }
}
