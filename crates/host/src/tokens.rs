//! Tokens of the API: opaque, random, kept as their digest alone, each with what it may do and until when.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{self, NoRandomness, hex, random};
use crate::store::{Store, StoreError, Table, Write};

/// What every token begins with.
const PREFIX: &str = "sjm_";
/// Longest header that is looked at, and most tokens in it.
const MAX_HEADER: usize = 16 << 10;
const MAX_TOKENS: usize = 16;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everything in its scope.
    Full,
    /// Look.
    Read,
    /// Run commands in machines, and look at them.
    Exec,
    /// Let machines of any org come from another host, and nothing else.
    Receive,
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    /// SHA-256 of the token, hexadecimal; the key of its row.
    digest: String,
    pub(crate) org: String,
    /// Only this app, where one is named.
    pub(crate) app: Option<String>,
    pub(crate) access: Access,
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: Option<u64>,
    /// The machine that it is, where nobody else is.
    #[serde(skip)]
    pub(crate) machine: Option<String>,
}

impl Token {
    /// What a machine is over its own socket. It is kept nowhere and has no text.
    pub(crate) fn of_machine(machine: &crate::machine::Machine) -> Self {
        Self {
            id: machine.id.clone(),
            digest: String::new(),
            org: machine.org.clone(),
            app: Some(machine.app.clone()),
            access: Access::Full,
            created_ms: machine.created_ms,
            expires_ms: None,
            machine: Some(machine.id.clone()),
        }
    }
}

/// What somebody asks for when a token is made.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Its org.
    pub org: String,
    /// Its app; none: every app of the org.
    pub app: Option<String>,
    /// What it may do.
    pub access: Access,
    /// Milliseconds that it holds; none: until it is revoked.
    pub lasts_ms: Option<u64>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// Not kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    store: Store,
    all: RwLock<BTreeMap<String, Token>>,
}

impl Tokens {
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let all = store.rows::<Token>(Table::Tokens)?.into_iter().collect();
        Ok(Self {
            store: store.clone(),
            all: RwLock::new(all),
        })
    }

    /// Makes a token. It is shown once, here.
    pub(crate) async fn make(&self, grant: Grant, now_ms: u64) -> Result<(String, Token), TokenError> {
        let text = format!("{PREFIX}{}", hex(&random::<32>()?));
        let token = Token {
            id: ids::ulid(now_ms)?,
            digest: digest(&text),
            org: grant.org,
            app: grant.app,
            access: grant.access,
            created_ms: now_ms,
            expires_ms: grant.lasts_ms.map(|lasts| now_ms.saturating_add(lasts)),
            machine: None,
        };
        self.store.set(Table::Tokens, &token.digest, &token).await?;
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(token.digest.clone(), token.clone());
        Ok((text, token))
    }

    /// Revokes a token by its id; whether there was one.
    pub(crate) async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        let found = {
            let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
            all.values()
                .find(|token| token.id == id)
                .map(|token| token.digest.clone())
        };
        let Some(digest) = found else { return Ok(false) };
        self.store
            .commit(vec![Write::remove(Table::Tokens, &digest)])
            .await?;
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&digest);
        Ok(true)
    }

    /// Every token, revoked ones not.
    pub(crate) fn list(&self) -> Vec<Token> {
        self.all
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Whose header this is: `Bearer T`, `FlyV1 T`, several separated by commas.
    pub(crate) fn authenticate(&self, header: &str, now_ms: u64) -> Option<Token> {
        if header.len() > MAX_HEADER {
            return None;
        }
        let mut rest = header.trim();
        for scheme in ["bearer ", "flyv1 "] {
            if rest
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            {
                rest = rest.get(scheme.len()..).unwrap_or_default().trim();
            }
        }
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let known = |text: &str| {
            let token = all.get(&digest(text.trim()))?;
            token
                .expires_ms
                .is_none_or(|expires| expires > now_ms)
                .then(|| token.clone())
        };
        rest.split(',').take(MAX_TOKENS).find_map(known)
    }
}

/// Tokens have 256 random bits: their plain digest cannot be searched, and looking it up betrays nothing of them.
fn digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(lasts_ms: Option<u64>) -> Grant {
        Grant {
            org: "personal".to_owned(),
            app: None,
            access: Access::Full,
            lasts_ms,
        }
    }

    #[tokio::test]
    async fn a_token_is_known_in_every_spelling_until_it_expires_or_is_revoked_and_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let store = Store::open(&path).unwrap();
        let tokens = Tokens::load(&store).unwrap();
        let (text, token) = tokens.make(grant(Some(10)), 100).await.unwrap();
        for header in [
            format!("Bearer {text}"),
            format!("FlyV1 {text}"),
            format!("bearer FlyV1 fm2_other, {text}"),
            text.clone(),
        ] {
            assert_eq!(
                tokens.authenticate(&header, 105).unwrap().id,
                token.id,
                "{header}"
            );
        }
        for header in [
            "",
            "Bearer",
            "Bearer x",
            &"x".repeat(MAX_HEADER + 1),
            &format!("Basic {text}"),
        ] {
            assert_eq!(tokens.authenticate(header, 105), None);
        }
        assert_eq!(tokens.authenticate(&text, 110), None);
        let again = Tokens::load(&store).unwrap();
        assert!(again.authenticate(&text, 105).is_some());
        let kept = std::fs::read(&path).unwrap();
        assert!(!kept.windows(text.len()).any(|part| part == text.as_bytes()));
        assert!(again.revoke(&token.id).await.unwrap());
        assert!(!again.revoke(&token.id).await.unwrap());
        assert_eq!(again.authenticate(&text, 105), None);
    }
}
