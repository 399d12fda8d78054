//! Small documents of apps that the API keeps for its clients and that nothing else reads: addresses, certificates, policies.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use serde_json::Value;

use crate::store::{Store, StoreError, Table, Write};

/// All of them, by `kind/app/name`.
#[derive(Debug)]
pub(crate) struct Documents {
    store: Store,
    all: RwLock<BTreeMap<String, Value>>,
}

fn key(kind: &str, app: &str, name: &str) -> String {
    format!("{kind}/{app}/{name}")
}

impl Documents {
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let all = store.rows::<Value>(Table::Documents)?.into_iter().collect();
        Ok(Self {
            store: store.clone(),
            all: RwLock::new(all),
        })
    }

    pub(crate) fn get(&self, kind: &str, app: &str, name: &str) -> Option<Value> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&key(kind, app, name)).cloned()
    }

    /// Those of one kind of an app, by name.
    pub(crate) fn list(&self, kind: &str, app: &str) -> Vec<Value> {
        let begin = key(kind, app, "");
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let of_app = all
            .range(begin.clone()..)
            .take_while(|(key, _)| key.starts_with(&begin));
        of_app.map(|(_, value)| value.clone()).collect()
    }

    /// The same with their names.
    pub(crate) fn named(&self, kind: &str, app: &str) -> Vec<(String, Value)> {
        let begin = key(kind, app, "");
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let of_app = all.range(begin.clone()..);
        of_app
            .map_while(|(key, value)| Some((key.strip_prefix(&begin)?.to_owned(), value.clone())))
            .collect()
    }

    pub(crate) async fn put(
        &self,
        (kind, app, name): (&str, &str, &str),
        value: Value,
    ) -> Result<(), StoreError> {
        let key = key(kind, app, name);
        self.store.set(Table::Documents, &key, &value).await?;
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, value);
        Ok(())
    }

    /// Removes one; whether it was there.
    pub(crate) async fn remove(&self, kind: &str, app: &str, name: &str) -> Result<bool, StoreError> {
        let key = key(kind, app, name);
        self.store
            .commit(vec![Write::remove(Table::Documents, &key)])
            .await?;
        Ok(self
            .all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key)
            .is_some())
    }

    /// Removes all of an app.
    pub(crate) async fn forget(&self, app: &str) -> Result<(), StoreError> {
        let part = format!("/{app}/");
        let meant = |key: &String| {
            key.split_once('/')
                .is_some_and(|(_, rest)| format!("/{rest}").starts_with(&part))
        };
        let keys: Vec<String> = {
            let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
            all.keys().filter(|key| meant(key)).cloned().collect()
        };
        self.store
            .commit(
                keys.iter()
                    .map(|key| Write::remove(Table::Documents, key))
                    .collect(),
            )
            .await?;
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| !keys.contains(key));
        Ok(())
    }
}
