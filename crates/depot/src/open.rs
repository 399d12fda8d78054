//! From a URL to a depot. Credentials come from the environment, never from the URL, and are never shown.

use std::collections::BTreeMap;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::local::Local;
use crate::{Answer, Depot, Error};

/// What to write, for those who wrote something else.
const WRITE: &str =
    "write file:///directory, s3://bucket/prefix, az://container/prefix or etcd://host:port/prefix";

/// Looks up a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The default depot: `$SUIJURIS_DEPOT_DIR`, else `$XDG_DATA_HOME/suijuris/depot`, else `$HOME/.local/share/suijuris/depot`.
/// It is outside any object, so that an object that is copied or rolled back does not take it along.
///
/// # Errors
/// [`Error::Url`] where none of the three is set to an absolute path.
pub fn default_directory(environment: Environment<'_>) -> Result<PathBuf, Error> {
    let set = |name| {
        environment(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = set("SUIJURIS_DEPOT_DIR")
        .or_else(|| set("XDG_DATA_HOME").map(|data| data.join("suijuris/depot")))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/suijuris/depot")));
    match directory {
        Some(directory) if directory.is_absolute() => Ok(directory),
        Some(directory) => {
            let why = "the default depot needs an absolute path in SUIJURIS_DEPOT_DIR, XDG_DATA_HOME or HOME";
            Err(refused(&directory.display().to_string(), why))
        }
        None => Err(refused(
            "",
            "there is no default: set SUIJURIS_DEPOT_DIR or HOME, or name a depot",
        )),
    }
}

/// Opens the depot that `url` names:
///
/// - `file:///directory`, or the absolute path alone
/// - `s3://bucket/prefix?endpoint=…&region=…` (feature `object`)
/// - `az://container/prefix?endpoint=…&account=…` (feature `object`)
/// - `etcd://host:port[,host:port…]/prefix?user=…&tls=on` (feature `etcd`)
///
/// A directory is opened, and made, before this returns. A bucket is asked, when the answer is waited for, whether it
/// keeps conditions; where it cannot be reached it is asked again before the first swap. etcd is not asked.
pub fn open(url: &str, environment: Environment<'_>) -> Answer<'static, Arc<dyn Depot>> {
    match start(url, environment) {
        Ok(answer) => answer,
        Err(error) => Box::pin(ready(Err(error))),
    }
}

fn start(url: &str, environment: Environment<'_>) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    if url.starts_with('/') {
        return local(Path::new(url));
    }
    let place = DepotUrl::parse(url)?;
    match place.scheme.as_str() {
        "file" => {
            if !matches!(place.authority.as_str(), "" | "localhost") {
                return Err(place.refuse("a directory of this machine has three slashes: file:///directory"));
            }
            place.allow(&[])?;
            local(Path::new(&format!("/{}", place.path)))
        }
        "s3" | "az" => object(&place, environment),
        "etcd" => etcd(&place, environment),
        other => Err(place.refuse(&format!("`{other}` is no kind of depot: {WRITE}"))),
    }
}

fn local(directory: &Path) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    let depot: Arc<dyn Depot> = Arc::new(Local::open(directory)?);
    Ok(Box::pin(ready(Ok(depot))))
}

#[cfg(feature = "object")]
fn object(place: &DepotUrl, environment: Environment<'_>) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    crate::object::open(place, environment)
}

#[cfg(not(feature = "object"))]
fn object(place: &DepotUrl, _: Environment<'_>) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    Err(place.refuse("this program was built without object storage (feature `object` of suijuris-depot)"))
}

#[cfg(feature = "etcd")]
fn etcd(place: &DepotUrl, environment: Environment<'_>) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    crate::etcd::open(place, environment)
}

#[cfg(not(feature = "etcd"))]
fn etcd(place: &DepotUrl, _: Environment<'_>) -> Result<Answer<'static, Arc<dyn Depot>>, Error> {
    Err(place.refuse("this program was built without etcd (feature `etcd` of suijuris-depot)"))
}

/// A URL in parts, decoded; without secrets, since it may have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DepotUrl {
    pub(crate) scheme: String,
    pub(crate) authority: String,
    /// Without slashes at its ends.
    pub(crate) path: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl DepotUrl {
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url
            .split_once("://")
            .filter(|(scheme, _)| {
                !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
            .ok_or_else(|| refused(&shown(url), WRITE))?;
        let refuse = |why: &str| refused(&shown(url), why);
        if rest.contains('#') {
            return Err(refuse("a depot has no fragment: leave `#` out"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(refuse("credentials come from the environment, not from the URL"));
        }
        let decode = |text: &str| {
            decoded(text)
                .ok_or_else(|| refuse("a `%` in it is not followed by two hexadecimal digits of UTF-8"))
        };
        let mut parameters = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if parameters.insert(decode(name)?, decode(value)?).is_some() {
                return Err(refuse(&format!("`{name}` is there twice")));
            }
        }
        let path = decode(path)?.trim_matches('/').to_owned();
        let part = |part: &str| part == "." || part == ".." || part.chars().any(char::is_control);
        if path.split('/').any(part) {
            return Err(refuse(
                "its path must not have `.`, `..` or control characters as parts",
            ));
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            authority: decode(authority)?,
            path,
            parameters,
        })
    }

    /// Refuses parameters that are not among `names`.
    pub(crate) fn allow(&self, names: &[&str]) -> Result<(), Error> {
        let unknown = self
            .parameters
            .keys()
            .find(|name| !names.contains(&name.as_str()));
        unknown.map_or(Ok(()), |name| {
            let known = if names.is_empty() {
                "it takes none".to_owned()
            } else {
                format!("it takes {}", names.join(", "))
            };
            Err(self.refuse(&format!("it has a parameter `{name}`: {known}")))
        })
    }

    /// The URL, without parameters: for people.
    pub(crate) fn url(&self) -> String {
        let Self {
            scheme,
            authority,
            path,
            ..
        } = self;
        format!("{scheme}://{authority}/{path}")
            .trim_end_matches('/')
            .to_owned()
    }

    pub(crate) fn refuse(&self, why: &str) -> Error {
        refused(&self.url(), why)
    }
}

fn refused(url: &str, why: &str) -> Error {
    Error::Url {
        url: url.to_owned(),
        why: why.to_owned(),
    }
}

/// A URL that could not be taken apart, without whatever could be a secret in it.
fn shown(url: &str) -> String {
    let (rest, _) = url.split_once('?').unwrap_or((url, ""));
    let end = rest.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = rest.split_at_checked(end).unwrap_or(("", rest));
    let (authority, path) = rest
        .split_once('/')
        .map_or((rest, String::new()), |(authority, path)| {
            (authority, format!("/{path}"))
        });
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let text: String = format!("{scheme}{host}{path}")
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    text.chars().take(200).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        if *byte == b'%' {
            let (digits, after) = after.split_first_chunk::<2>()?;
            let digits = std::str::from_utf8(digits)
                .ok()
                .filter(|_| digits.iter().all(u8::is_ascii_hexdigit))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_url_comes_apart() {
        let place =
            DepotUrl::parse("S3://my-bucket/a%20b/c/?endpoint=http%3A%2F%2Flocalhost:1&region=x").unwrap();
        assert_eq!(place.scheme, "s3");
        assert_eq!(place.authority, "my-bucket");
        assert_eq!(place.path, "a b/c");
        assert_eq!(place.parameters["endpoint"], "http://localhost:1");
        assert_eq!(place.url(), "s3://my-bucket/a b/c");
        assert!(place.allow(&["endpoint", "region"]).is_ok());
        let error = place.allow(&["region"]).unwrap_err().to_string();
        assert!(
            error.contains("`endpoint`") && error.contains("it takes region"),
            "{error}"
        );
    }

    #[test]
    fn secrets_in_a_url_are_refused_and_not_repeated() {
        for url in [
            "s3://key:hunter2@bucket/prefix",
            "etcd://root:hunter2@host:2379/",
            "://x:hunter2@y/z?a=hunter2",
        ] {
            let error = DepotUrl::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let place = DepotUrl::parse("s3://bucket?password=hunter2").unwrap();
        let error = place.allow(&[]).unwrap_err().to_string();
        assert!(
            error.contains("`password`") && !error.contains("hunter2"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_refused(text in "\\PC{0,60}", url in "(s3|file|etcd)://[a-z%/?&=@#.0-9]{0,40}") {
            let _ = DepotUrl::parse(&text);
            let _ = DepotUrl::parse(&url);
            let _ = shown(&text);
        }
    }

    #[test]
    fn the_default_is_in_the_users_data() {
        let with = |set: &'static [(&str, &str)]| {
            move |name: &str| {
                set.iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            }
        };
        let of = |set| default_directory(&with(set)).map(|found| found.display().to_string());
        assert_eq!(
            of(&[("HOME", "/users/a")]).unwrap(),
            "/users/a/.local/share/suijuris/depot"
        );
        assert_eq!(
            of(&[("XDG_DATA_HOME", "/data"), ("HOME", "/h")]).unwrap(),
            "/data/suijuris/depot"
        );
        assert_eq!(
            of(&[("SUIJURIS_DEPOT_DIR", "/depot"), ("HOME", "/h")]).unwrap(),
            "/depot"
        );
        assert_eq!(
            of(&[("SUIJURIS_DEPOT_DIR", ""), ("HOME", "/h")]).unwrap(),
            "/h/.local/share/suijuris/depot"
        );
        assert!(of(&[]).is_err() && of(&[("HOME", "relative")]).is_err());
    }
}
