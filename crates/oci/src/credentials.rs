//! Who asks a registry: nobody, a user with a password, or a token; from the caller or from Docker's configuration.
//!
//! Secrets are wiped when dropped and never shown. Where the configuration names a credential helper, that program is
//! asked ([`helper`]), in Docker's order: the helper of the registry, the store for all, then the file itself.

mod helper;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

pub use self::helper::HelperError;
use super::reference::Host;
use crate::file::{self, FileError};

/// Size of a configuration file at most, bytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// A password or token; wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    #[cfg(feature = "registry")]
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A user; also what a token is bought with where a registry asks for one.
    Basic {
        /// Name.
        user: String,
        /// Password or access token.
        password: Secret,
    },
    /// A bearer token that the registry itself takes.
    Token(Secret),
}

/// Why credentials cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file.
    #[error("the registry configuration cannot be taken; check the file or give user and password")]
    File(#[from] FileError),
    /// Not the JSON of a configuration. The cause is left out on purpose: it may quote a secret.
    #[error("the registry configuration is not JSON as Docker writes it (line {line}); log in again")]
    Json {
        /// Line of the first fault, from 1.
        line: usize,
    },
    /// An entry that cannot be read.
    #[error(
        "the entry for `{0}` in the registry configuration has no readable user and password; log in again"
    )]
    Entry(Host),
    /// The secret is with a program that does not give it.
    #[error("the credential helper `docker-credential-{helper}` gives nothing for `{host}`")]
    Helper {
        /// The registry.
        host: Host,
        /// The helper.
        helper: String,
        /// Why not.
        #[source]
        source: HelperError,
    },
    /// The secret is a token that only Docker's own protocol exchanges.
    #[error(
        "the entry for `{0}` has an identity token, which is not supported; give user and password or a token"
    )]
    IdentityToken(Host),
}

/// Docker's configuration as far as it concerns credentials. Podman's `auth.json` has the same form.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    registrytoken: Option<Secret>,
    identitytoken: Option<Secret>,
}

/// Where Docker's configuration is: in `docker_config` (the variable `DOCKER_CONFIG`) if set, else under `home`.
#[must_use]
pub fn docker_config_path(docker_config: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    docker_config
        .map(Path::to_owned)
        .or_else(|| home.map(|home| home.join(".docker")))
        .map(|directory| directory.join("config.json"))
}

impl DockerConfig {
    /// Reads a configuration file of at most [`MAX_CONFIG_BYTES`].
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        Self::decode(&Zeroizing::new(file::bytes(path, MAX_CONFIG_BYTES)?))
    }

    /// Reads the text of a configuration.
    ///
    /// # Errors
    /// Not JSON of the form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialsError> {
        serde_json::from_slice(bytes).map_err(|error| CredentialsError::Json { line: error.line() })
    }

    /// Who asks the registry `host`; anonymous where nothing is kept for it. May run a credential helper, and then
    /// wait for it, up to a minute.
    ///
    /// # Errors
    /// A helper fails, or the secret cannot be read.
    pub fn credentials(&self, host: &Host) -> Result<Credentials, CredentialsError> {
        self.credentials_by(host, |name| {
            helper::ask(helper::program(name)?, host, helper::WITHIN)
        })
    }

    fn credentials_by(
        &self,
        host: &Host,
        ask: impl FnOnce(&str) -> Result<Option<Credentials>, HelperError>,
    ) -> Result<Credentials, CredentialsError> {
        let own = self.cred_helpers.iter().find(|(key, _)| concerns(key, host));
        let store = self.creds_store.as_ref().filter(|store| !store.is_empty());
        if let Some(name) = own.map(|(_, name)| name).or(store) {
            let kept = ask(name).map_err(|source| CredentialsError::Helper {
                host: host.clone(),
                helper: super::printable(name),
                source,
            })?;
            if let Some(credentials) = kept {
                return Ok(credentials);
            }
        }
        match self.auths.iter().find(|(key, _)| concerns(key, host)) {
            Some((_, entry)) => entry.credentials(host),
            None => Ok(Credentials::Anonymous),
        }
    }
}

impl Entry {
    fn credentials(&self, host: &Host) -> Result<Credentials, CredentialsError> {
        if let Some(token) = &self.registrytoken {
            return Ok(Credentials::Token(token.clone()));
        }
        if self
            .identitytoken
            .as_ref()
            .is_some_and(|token| !token.0.is_empty())
        {
            return Err(CredentialsError::IdentityToken(host.clone()));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.0.is_empty()) {
            return decode_basic(auth).ok_or_else(|| CredentialsError::Entry(host.clone()));
        }
        match (&self.username, &self.password) {
            (Some(user), Some(password)) if !user.is_empty() => Ok(Credentials::Basic {
                user: user.clone(),
                password: password.clone(),
            }),
            _ => Ok(Credentials::Anonymous),
        }
    }
}

/// `user:password` in base64.
fn decode_basic(auth: &Secret) -> Option<Credentials> {
    let bytes = Zeroizing::new(STANDARD.decode(auth.0.as_bytes()).ok()?);
    // Docker pads with zero bytes.
    let text = std::str::from_utf8(&bytes).ok()?.trim_end_matches('\0');
    let (user, password) = text.split_once(':').filter(|(user, _)| !user.is_empty())?;
    Some(Credentials::Basic {
        user: user.to_owned(),
        password: Secret::new(password),
    })
}

/// Whether a key of the configuration means `host`: `host`, `https://host`, `https://host/v1/`.
fn concerns(key: &str, host: &Host) -> bool {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let bare = bare.split('/').next().unwrap_or_default();
    let docker = ["docker.io", "index.docker.io"];
    bare.eq_ignore_ascii_case(host.as_str()) || (docker.contains(&host.as_str()) && docker.contains(&bare))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: &str = r#"{
        "auths": {
            "registry.example": {"auth": "YWxpY2U6b3BlbjpzZXNhbWU="},
            "https://index.docker.io/v1/": {"username": "bob", "password": "pw"},
            "http://localhost:5000": {"registrytoken": "abc"},
            "broken.example": {"auth": "%%%"},
            "identity.example": {"auth": "", "identitytoken": "x"},
            "empty.example": {}
        },
        "credHelpers": {"helped.example": "pass"},
        "HttpHeaders": {"x": "y"}
    }"#;

    fn find(host: &str) -> Result<Credentials, CredentialsError> {
        asking(CONFIG, host, |name| panic!("`{name}` was asked"))
    }

    fn asking(
        config: &str,
        host: &str,
        ask: impl FnOnce(&str) -> Result<Option<Credentials>, HelperError>,
    ) -> Result<Credentials, CredentialsError> {
        let config = DockerConfig::decode(config.as_bytes()).unwrap();
        config.credentials_by(&host.parse().unwrap(), ask)
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic {
            user: user.to_owned(),
            password: Secret::new(password),
        }
    }

    #[test]
    fn each_form_of_entry_is_found() {
        assert_eq!(find("registry.example").unwrap(), basic("alice", "open:sesame"));
        assert_eq!(find("docker.io").unwrap(), basic("bob", "pw"));
        assert_eq!(
            find("localhost:5000").unwrap(),
            Credentials::Token(Secret::new("abc"))
        );
        assert_eq!(find("elsewhere.example").unwrap(), Credentials::Anonymous);
        assert_eq!(find("registry.example:5000").unwrap(), Credentials::Anonymous);
        assert_eq!(find("empty.example").unwrap(), Credentials::Anonymous);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let text = |host: &str| find(host).unwrap_err().to_string();
        assert!(text("broken.example").contains("log in again"));
        assert!(text("identity.example").contains("identity token"));
    }

    #[test]
    fn helpers_are_asked_in_dockers_order() {
        let config = r#"{
            "auths": {"a.example": {}, "b.example": {"username": "bob", "password": "pw"}},
            "credsStore": "desktop",
            "credHelpers": {"helped.example": "pass"}
        }"#;
        for (host, helper) in [
            ("helped.example", "pass"),
            ("a.example", "desktop"),
            ("unheard.example", "desktop"),
        ] {
            let found = asking(config, host, |name| Ok(Some(basic(name, "s")))).unwrap();
            assert_eq!(found, basic(helper, "s"), "{host}");
            let none = asking(config, host, |_| Ok(None)).unwrap();
            assert_eq!(none, Credentials::Anonymous, "{host}");
        }
        // What the helper does not keep may still stand in the file.
        assert_eq!(
            asking(config, "b.example", |_| Ok(None)).unwrap(),
            basic("bob", "pw")
        );
        let error = asking(config, "helped.example", |_| Err(HelperError::Json)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`docker-credential-pass` gives nothing for `helped.example`")
        );
        assert!(asking(r#"{"credsStore": ""}"#, "a.example", |_| panic!("asked")).is_ok());
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = DockerConfig::decode(CONFIG.as_bytes()).unwrap();
        let shown = format!("{config:?} {:?}", find("registry.example").unwrap());
        for secret in ["YWxp", "sesame", "pw\"", "abc"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        let broken = r#"{"auths": {"a.example": {"auth": 12345678}}}"#;
        let error = DockerConfig::decode(broken.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("12345678"));
    }

    #[test]
    fn the_place_is_dockers() {
        let path = |config, home| docker_config_path(config, home);
        let home = Some(Path::new("/h/a"));
        assert_eq!(path(None, home), Some("/h/a/.docker/config.json".into()));
        assert_eq!(
            path(Some(Path::new("/etc/d")), home),
            Some("/etc/d/config.json".into())
        );
        assert_eq!(path(None, None), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, auth: String) {
            let _ = DockerConfig::decode(&bytes);
            let _ = decode_basic(&Secret::new(auth));
        }
    }
}
