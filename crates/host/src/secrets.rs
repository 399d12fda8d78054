//! Secrets of apps, sealed at rest. Machines see them at their next version; values never leave but to a caller who asks for
//! them by name.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::ids::hex;
use crate::sealed::{SealError, Sealer};
use crate::store::{Store, StoreError, Table, Write};

/// Most secrets of an app.
pub(crate) const MAX_SECRETS: usize = 1_000;
/// Longest value, bytes.
pub(crate) const MAX_VALUE: usize = 64 << 10;

/// Most values of a name that are kept for machines of earlier versions.
const MAX_CHANGES: usize = 20;

/// One secret as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret {
    pub(crate) name: String,
    /// What tells values apart and betrays nothing: keyed by the sealer, of 16 digits.
    pub(crate) digest: String,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    sealed: String,
}

/// The secrets of one app, and how often they changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfApp {
    pub(crate) version: u64,
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// What each name was from which version on, oldest first: machines go on with what they know.
    history: BTreeMap<String, Vec<Change>>,
}

/// A name's value from a version on; `None`: it was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    version: u64,
    sealed: Option<String>,
}

impl OfApp {
    fn note(&mut self, name: &str, sealed: Option<String>) {
        let changes = self.history.entry(name.to_owned()).or_default();
        changes.push(Change {
            version: self.version + 1,
            sealed,
        });
        changes.drain(..changes.len().saturating_sub(MAX_CHANGES));
    }
}

/// Why a secret is not set or given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("secret not found")]
    None,
    #[error(
        "invalid_argument: a secret's name is 1 to 255 of A-Z, a-z, 0-9 and _, and its value {MAX_VALUE} bytes at most"
    )]
    Form,
    #[error("invalid_argument: an app has {MAX_SECRETS} secrets at most; remove some first")]
    TooMany,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All apps' secrets.
#[derive(Debug)]
pub(crate) struct Secrets {
    store: Store,
    pub(crate) sealer: Sealer,
    apps: RwLock<BTreeMap<String, OfApp>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Secrets {
    pub(crate) fn load(store: &Store, sealer: Sealer) -> Result<Self, StoreError> {
        let apps = store.rows::<OfApp>(Table::Secrets)?.into_iter().collect();
        Ok(Self {
            store: store.clone(),
            sealer,
            apps: RwLock::new(apps),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// What is known of an app's secrets.
    pub(crate) fn of(&self, app: &str) -> OfApp {
        let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
        apps.get(app).cloned().unwrap_or_default()
    }

    /// Sets and removes (`None`), all or nothing; the secrets after that.
    pub(crate) async fn change(
        &self,
        app: &str,
        values: BTreeMap<String, Option<Zeroizing<String>>>,
        now_ms: u64,
    ) -> Result<OfApp, SecretError> {
        let _one = self.changing.lock().await;
        let mut of_app = self.of(app);
        for (name, value) in values {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || name.len() > 255 || !name.bytes().all(plain) {
                return Err(SecretError::Form);
            }
            let Some(value) = value else {
                if of_app.secrets.remove(&name).is_some() {
                    of_app.note(&name, None);
                }
                continue;
            };
            if value.len() > MAX_VALUE || value.contains('\0') {
                return Err(SecretError::Form);
            }
            let sealed = hex(&self.sealer.seal(place(app, &name).as_bytes(), value.as_bytes())?);
            let created_ms = of_app
                .secrets
                .get(&name)
                .map_or(now_ms, |before| before.created_ms);
            let digest = Sha256::digest([place(app, &name).as_bytes(), sealed.as_bytes()].concat());
            of_app.note(&name, Some(sealed.clone()));
            let secret = Secret {
                digest: hex(digest.get(..8).unwrap_or_default()),
                created_ms,
                updated_ms: now_ms,
                sealed,
                name: name.clone(),
            };
            of_app.secrets.insert(name, secret);
        }
        if of_app.secrets.len() > MAX_SECRETS {
            return Err(SecretError::TooMany);
        }
        of_app.version += 1;
        self.store.set(Table::Secrets, app, &of_app).await?;
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        apps.insert(app.to_owned(), of_app.clone());
        Ok(of_app)
    }

    /// Forgets an app's secrets.
    pub(crate) async fn forget(&self, app: &str) -> Result<(), StoreError> {
        let _one = self.changing.lock().await;
        self.store
            .commit(vec![Write::remove(Table::Secrets, app)])
            .await?;
        self.apps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(app);
        Ok(())
    }

    /// A secret's value.
    pub(crate) fn value(&self, app: &str, name: &str) -> Result<Zeroizing<String>, SecretError> {
        let sealed = self.of(app).secrets.get(name).map(|secret| secret.sealed.clone());
        self.opened(app, name, &sealed.ok_or(SecretError::None)?)
    }

    /// What a machine that knows `version` sees: all but what came later.
    pub(crate) fn environment(&self, app: &str, version: u64) -> Vec<(String, Zeroizing<String>)> {
        let of_app = self.of(app);
        let value = |(name, changes): (&String, &Vec<Change>)| {
            let change = changes.iter().rev().find(|change| change.version <= version)?;
            let value = self.opened(app, name, change.sealed.as_deref()?).ok()?;
            Some((name.clone(), value))
        };
        of_app.history.iter().filter_map(value).collect()
    }

    fn opened(&self, app: &str, name: &str, sealed: &str) -> Result<Zeroizing<String>, SecretError> {
        let sealed = unhex(sealed).ok_or(SealError::Broken)?;
        let opened = self.sealer.open_sealed(place(app, name).as_bytes(), &sealed)?;
        let text = std::str::from_utf8(&opened).map_err(|_| SealError::Broken)?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

fn place(app: &str, name: &str) -> String {
    format!("secret {app}/{name}")
}

/// Bytes of hexadecimal text.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}
