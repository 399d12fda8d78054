//! Names of artifacts in registries: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`, as distribution-spec writes them.
//!
//! Stricter than Docker on purpose: the registry is always named, and so is a tag or digest. A name is a capability to
//! push somewhere, and guessing one is how private things become public.

use std::fmt;
use std::str::FromStr;

use super::descriptor::{ContentDigest, NotAContentDigest};
use super::printable;

/// Length of a registry's name and port at most, bytes.
const MAX_HOST_BYTES: usize = 255;

/// Length of a repository's name at most, bytes.
const MAX_REPOSITORY_BYTES: usize = 255;

/// Length of a tag at most, bytes (distribution-spec 1.1).
const MAX_TAG_BYTES: usize = 128;

/// A registry: host name or address, and a port if it is not the usual one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host(String);

/// A repository in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository(String);

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(String);

/// Where an artifact is, or shall be. Has a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: Host,
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<ContentDigest>,
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No registry.
    #[error(
        "`{0}` names no registry; write it as in registry.example/team/object:v1 or localhost:5000/object:v1"
    )]
    NoHost(String),
    /// A host that is none.
    #[error("`{0}` is not a registry's host name or address with an optional port")]
    Host(String),
    /// A repository that is none.
    #[error(
        "`{0}` is not a repository; write lower-case letters, digits and `.`, `_`, `-` between them, parts joined by `/`"
    )]
    Repository(String),
    /// A tag that is none.
    #[error(
        "`{0}` is not a tag; write up to {MAX_TAG_BYTES} letters, digits, `_`, `.`, `-`, and no `.` or `-` first"
    )]
    Tag(String),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] NotAContentDigest),
    /// Neither tag nor digest.
    #[error("`{0}` has neither tag nor digest; add one, as in {0}:v1")]
    Open(String),
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(Host);
text!(Repository);
text!(Tag);

impl Host {
    /// Whether the name means this machine, so that no network lies between.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(self.split().0)
    }

    fn split(&self) -> (&str, Option<&str>) {
        match self.0.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (&self.0, None),
        }
    }
}

/// Whether a host without port is this machine: `localhost` or a loopback address.
pub(super) fn is_loopback(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl FromStr for Host {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let host = Self(text.to_ascii_lowercase());
        let (name, port) = host.split();
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let address = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        let good_port = port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if text.len() <= MAX_HOST_BYTES && good_port && (address || name.split('.').all(label)) {
            Ok(host)
        } else {
            Err(ReferenceError::Host(printable(text)))
        }
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() <= MAX_REPOSITORY_BYTES && text.split('/').all(is_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReferenceError::Repository(printable(text)))
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let separators = text
        .split(|letter: char| u8::try_from(letter).is_ok_and(word))
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'));
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| word(*byte));
    separators && edge(text.as_bytes().first()) && edge(text.as_bytes().last())
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let good = !text.is_empty()
            && text.len() <= MAX_TAG_BYTES
            && !text.starts_with(['.', '-'])
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReferenceError::Tag(printable(text)))
        }
    }
}

impl Reference {
    /// Reads an image's name as Docker does: without a registry it is on `docker.io`, without a path in `library/`, with
    /// neither tag nor digest it is `latest`. For images only, which are pulled: what is pushed is named in full.
    ///
    /// # Errors
    /// See [`ReferenceError`].
    pub fn familiar(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = text
            .split_once('@')
            .map_or((text, None), |(name, digest)| (name, Some(digest)));
        // A colon behind the last slash is that of a tag; before it, that of a port.
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let open = digest.is_none() && !has_tag;
        let named = match name.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
            Some(_) => format!("docker.io/{name}"),
            None => format!("docker.io/library/{name}"),
        };
        // An older name of the same registry.
        let named = named
            .strip_prefix("index.docker.io/")
            .map_or(named.clone(), |rest| format!("docker.io/{rest}"));
        let tail = if open {
            ":latest".to_owned()
        } else {
            digest.map_or(String::new(), |digest| format!("@{digest}"))
        };
        format!("{named}{tail}").parse()
    }

    /// The registry.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The repository.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag.
    #[must_use]
    pub const fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> Option<ContentDigest> {
        self.digest
    }

    /// What is asked for: the digest if there is one (the tag is then for people), else the tag.
    #[must_use]
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_string(),
            (None, None) => String::new(),
        }
    }

    /// The same repository, by digest.
    #[must_use]
    pub fn with_digest(&self, digest: ContentDigest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let none = || ReferenceError::NoHost(printable(text));
        let (host, rest) = text.split_once('/').ok_or_else(none)?;
        // `team/object:v1` is Docker's short form of something on its own registry; a registry has a dot or a port.
        if !host.contains(['.', ':']) && host != "localhost" {
            return Err(none());
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse()?)),
            None => (rest, None),
        };
        let found = Self {
            host: host.parse()?,
            repository: repository.parse()?,
            tag,
            digest,
        };
        if found.tag.is_none() && found.digest.is_none() {
            return Err(ReferenceError::Open(found.to_string()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expect: &str) {
        match text.parse::<Reference>() {
            Ok(found) => assert_eq!(found.to_string(), expect, "{text}"),
            Err(error) => assert!(error.to_string().contains(expect), "{text}: {error}"),
        }
    }

    #[test]
    fn references_read_back_or_say_what_is_wrong() {
        let digest = ContentDigest::of(b"x");
        for text in [
            "registry.example/object:v1",
            "localhost/object:v1",
            "localhost:5000/a/b/c:V_1.2-x",
            "127.0.0.1:80/a-b__c.d:1",
            "[::1]:5000/object:v1",
            &format!("registry.example/object@{digest}"),
            &format!("registry.example:443/object:v1@{digest}"),
        ] {
            check(text, text);
        }
        check("Registry.Example/object:v1", "registry.example/object:v1");
        check("object:v1", "names no registry");
        check("team/object:v1", "names no registry");
        check("", "names no registry");
        check("registry.example/object", "neither tag nor digest");
        check("registry.example/Object:v1", "not a repository");
        check("registry.example/../etc:v1", "not a repository");
        check("registry.example//a:v1", "not a repository");
        check("registry.example/a_-b:v1", "not a repository");
        check("registry.example/a/:v1", "not a repository");
        check("registry.example/a:.v1", "not a tag");
        check("registry.example/a:", "not a tag");
        check(&format!("registry.example/a:{}", "x".repeat(129)), "not a tag");
        check("registry.example/a@sha256:zz", "not a digest");
        check("registry.example:0/a:v1", "not a registry");
        check("registry.example:99999/a:v1", "not a registry");
        check("registry..example/a:v1", "not a registry");
        check("user@registry.example/a:v1", "not a registry");
        check("registry.example:80?x/a:v1", "not a registry");
    }

    #[test]
    fn familiar_names_of_images_are_made_full() {
        let check = |text: &str, expect: &str| {
            let found = Reference::familiar(text).map(|found| found.to_string());
            assert_eq!(found.ok().as_deref(), Some(expect), "{text}");
        };
        let digest = ContentDigest::of(b"x");
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.2", "docker.io/library/nginx:1.2");
        check("team/app", "docker.io/team/app:latest");
        check("registry.example/app", "registry.example/app:latest");
        check("localhost:5000/app", "localhost:5000/app:latest");
        check("index.docker.io/team/app:v1", "docker.io/team/app:v1");
        check(
            &format!("nginx@{digest}"),
            &format!("docker.io/library/nginx@{digest}"),
        );
        check(
            &format!("nginx:1@{digest}"),
            &format!("docker.io/library/nginx:1@{digest}"),
        );
        for text in ["", "Nginx", "a b", "nginx:", "nginx@", "/nginx", "../x"] {
            assert!(Reference::familiar(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_is_told_from_a_name_that_looks_like_it() {
        let loopback = |text: &str| text.parse::<Host>().unwrap().is_loopback();
        for text in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(loopback(text), "{text}");
        }
        for text in [
            "localhost.example",
            "127.0.0.1.example",
            "10.0.0.1",
            "[::2]:5000",
            "registry.example",
        ] {
            assert!(!loopback(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_reads_back(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,60}") {
            if let Ok(found) = text.parse::<Reference>() {
                prop_assert_eq!(found.to_string().parse::<Reference>(), Ok(found));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<Reference>();
        }
    }
}
