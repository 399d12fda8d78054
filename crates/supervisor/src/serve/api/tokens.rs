//! Tokens of the control API: who may look, and who may ask, over an address. A token makes nobody an owner. Kept are digests
//! alone; what a token has open ends when it is revoked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use suijuris_api::daemon::{ApiToken, NewApiToken, Scope};
use suijuris_core::id::Digest;
use suijuris_core::time::Timestamp;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::serve::catalog::{self, CatalogError, check_name};

/// Name of the file, in the daemon's directory.
const FILE: &str = "api-tokens.json";

/// Tokens at most.
const MAX_TOKENS: usize = 1_000;

/// What every token begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "suijuris_";

/// The tokens of a daemon.
#[derive(Debug)]
pub struct Tokens {
    root: PathBuf,
    kept: RefCell<BTreeMap<String, Kept>>,
    /// Counts revocations.
    revoked: watch::Sender<u64>,
}

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    scope: Scope,
    digest: Digest,
    created: Timestamp,
}

/// A token that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    name: String,
    digest: Digest,
    /// What it allows.
    pub scope: Scope,
}

/// Why a token is not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its name is no name, is taken, or cannot be kept.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A token of this name is there.
    #[error("a token named `{0}` is there: revoke it, or choose another name")]
    Taken(String),
    /// Too many.
    #[error("there are {MAX_TOKENS} tokens, which is the most: revoke some")]
    TooMany,
    /// The system gives no randomness.
    #[error("the system gives no randomness: try again")]
    Random(#[from] getrandom::Error),
}

impl Tokens {
    /// Those of the daemon of this directory.
    ///
    /// # Errors
    /// [`CatalogError`] where there are some that cannot be read.
    pub fn open(root: &Path) -> Result<Self, CatalogError> {
        let path = root.join(FILE);
        let kept = if path.exists() {
            catalog::note(&path)?
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            root: root.to_owned(),
            kept: RefCell::new(kept),
            revoked: watch::Sender::new(0),
        })
    }

    /// Makes a token; its text is here and nowhere else.
    ///
    /// # Errors
    /// [`TokenError`]; none was made then.
    pub fn create(&self, name: &str, scope: Scope, created: Timestamp) -> Result<NewApiToken, TokenError> {
        check_name(name)?;
        let mut kept = self.kept.borrow().clone();
        if kept.contains_key(name) {
            return Err(TokenError::Taken(name.to_owned()));
        }
        if kept.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice())?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret.as_slice()));
        let digest = Digest::of(token.as_bytes());
        kept.insert(
            name.to_owned(),
            Kept {
                scope,
                digest,
                created,
            },
        );
        self.keep(kept)?;
        Ok(NewApiToken {
            name: name.to_owned(),
            scope,
            token,
        })
    }

    /// Revokes a token; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`CatalogError`]; it is good still.
    pub fn revoke(&self, name: &str) -> Result<Option<ApiToken>, CatalogError> {
        let mut kept = self.kept.borrow().clone();
        let Some(removed) = kept.remove(name) else {
            return Ok(None);
        };
        self.keep(kept)?;
        self.revoked.send_modify(|count| *count += 1);
        Ok(Some(document(name, &removed)))
    }

    /// All of them, by name.
    #[must_use]
    pub fn list(&self) -> Vec<ApiToken> {
        let kept = self.kept.borrow();
        kept.iter().map(|(name, kept)| document(name, kept)).collect()
    }

    /// The token with this text, if it is good. What is compared is a digest of 256 random bits.
    #[must_use]
    pub fn check(&self, token: &str) -> Option<Shown> {
        let digest = Digest::of(token.as_bytes());
        let kept = self.kept.borrow();
        let (name, found) = kept.iter().find(|(_, kept)| kept.digest == digest)?;
        Some(Shown {
            name: name.clone(),
            digest,
            scope: found.scope,
        })
    }

    /// Resolves when this token is revoked.
    pub async fn revoked(&self, shown: Shown) {
        let mut revoked = self.revoked.subscribe();
        let is_good = || {
            let kept = self.kept.borrow();
            kept.get(&shown.name)
                .is_some_and(|kept| kept.digest == shown.digest)
        };
        while is_good() {
            if revoked.changed().await.is_err() {
                return;
            }
        }
    }

    fn keep(&self, kept: BTreeMap<String, Kept>) -> Result<(), CatalogError> {
        catalog::write(&self.root, FILE, &kept)?;
        *self.kept.borrow_mut() = kept;
        Ok(())
    }
}

fn document(name: &str, kept: &Kept) -> ApiToken {
    ApiToken {
        name: name.to_owned(),
        scope: kept.scope,
        created: kept.created.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_good_until_it_is_revoked_and_stands_nowhere_in_clear() {
        let temp = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(temp.path()).unwrap();
        let made = tokens.create("ci", Scope::Read, Timestamp(0)).unwrap();
        assert!(matches!(
            tokens.create("ci", Scope::Operate, Timestamp(0)),
            Err(TokenError::Taken(_))
        ));
        assert_eq!(tokens.check(&made.token).unwrap().scope, Scope::Read);
        assert_eq!(tokens.check(&format!("{}x", made.token)), None);
        let file = temp.path().join(FILE);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        let secret = made.token.strip_prefix(PREFIX).unwrap();
        assert!(!text.contains(secret), "{text}");
        let again = Tokens::open(temp.path()).unwrap();
        assert!(again.check(&made.token).is_some(), "the next daemon knows it");
        assert!(again.revoke("ci").unwrap().is_some());
        assert!(again.revoke("ci").unwrap().is_none());
        assert_eq!(again.check(&made.token), None);
    }

    #[test]
    fn names_are_labels() {
        let temp = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(temp.path()).unwrap();
        for name in ["", "A", "a/b", "../x", "-a", &"a".repeat(100)] {
            assert!(tokens.create(name, Scope::Read, Timestamp(0)).is_err(), "{name}");
        }
        assert!(tokens.list().is_empty());
    }
}
