//! What outlives the daemon: rows of JSON in one redb file, written by one thread that commits whatever waits together.
//!
//! The rows are read once, when the daemon starts, and live in memory; a write is acknowledged once it is on disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

/// Writes that wait for the thread.
const WAITING: usize = 1_024;
/// Most writes in one commit.
const TOGETHER: usize = 256;

/// A kind of row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Apps,
    Machines,
    Volumes,
    Secrets,
    Tokens,
    Documents,
    Backups,
}

impl Table {
    const ALL: [Self; 7] = [
        Self::Apps,
        Self::Machines,
        Self::Volumes,
        Self::Secrets,
        Self::Tokens,
        Self::Documents,
        Self::Backups,
    ];

    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Apps => "apps",
            Self::Machines => "machines",
            Self::Volumes => "volumes",
            Self::Secrets => "secrets",
            Self::Tokens => "tokens",
            Self::Documents => "documents",
            Self::Backups => "backups",
        })
    }
}

/// A row that is set, or removed.
#[derive(Debug)]
pub(crate) struct Write {
    table: Table,
    key: String,
    value: Option<Vec<u8>>,
}

impl Write {
    pub(crate) fn set(table: Table, key: &str, value: &impl Serialize) -> Result<Self, StoreError> {
        Ok(Self {
            table,
            key: key.to_owned(),
            value: Some(serde_json::to_vec(value).map_err(StoreError::Encode)?),
        })
    }

    pub(crate) fn remove(table: Table, key: &str) -> Self {
        Self {
            table,
            key: key.to_owned(),
            value: None,
        }
    }
}

/// Why the state cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon has it.
    #[error("{} is in use: another daemon runs on this data directory; stop it, or choose another with --data", .0.display())]
    InUse(PathBuf),
    /// It is damaged, or no such file.
    #[error("{} cannot be opened: restore it from a backup, or move it away to begin anew (machines that still run are then ended)", .path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        source: Box<redb::Error>,
    },
    /// A row is none of ours.
    #[error("row {key:?} of the state is not readable: it is of another version, or damaged")]
    Row {
        /// Its key.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A commit failed.
    #[error("the state cannot be written: {0}; is the disk full?")]
    Commit(String),
    /// A value has no JSON.
    #[error("a row cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// The writing thread has ended.
    #[error("the state is closed: the daemon is ending")]
    Closed,
    /// The system's answer.
    #[error("the state cannot be opened")]
    Io(#[from] std::io::Error),
}

/// The state on disk.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    file: Arc<StateFile>,
    writes: mpsc::Sender<Batch>,
}

/// The file. After a write that failed it is opened anew: nothing is read or written by what is in doubt.
#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    database: Mutex<Option<Database>>,
}

impl StateFile {
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match database.take() {
            Some(opened) => opened,
            None => Database::create(&self.path)?,
        };
        let done = work(&opened)?;
        *database = Some(opened);
        Ok(done)
    }
}

#[derive(Debug)]
struct Batch {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<(), String>>,
}

impl Store {
    /// Opens the state, and makes it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let damaged = |source: redb::Error| StoreError::Damaged {
            path: path.to_owned(),
            source: Box::new(source),
        };
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
            // What would begin anew here would end all machines that run.
            let empty = redb::Error::Corrupted("it is empty".to_owned());
            return Err(damaged(empty));
        }
        let database = match Database::create(path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse(path.to_owned())),
            Err(error) => return Err(damaged(error.into())),
        };
        let tables = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            for table in Table::ALL {
                transaction.open_table(table.definition())?;
            }
            transaction.commit()?;
            Ok(())
        };
        tables().map_err(damaged)?;
        let (writes, waiting) = mpsc::channel(WAITING);
        let file = Arc::new(StateFile {
            path: path.to_owned(),
            database: Mutex::new(Some(database)),
        });
        let of_thread = Arc::clone(&file);
        std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || write_all(&of_thread, waiting))?;
        Ok(Self { file, writes })
    }

    /// All rows of a table, by key.
    pub(crate) fn rows<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StoreError> {
        let read = self.file.with(|database| {
            let opened = database.begin_read()?.open_table(table.definition())?;
            let mut rows = Vec::new();
            for entry in opened.iter()? {
                let (key, value) = entry?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        });
        let rows = read.map_err(|source| StoreError::Damaged {
            path: self.file.path.clone(),
            source: Box::new(source),
        })?;
        let row = |(key, value): (String, Vec<u8>)| match serde_json::from_slice(&value) {
            Ok(row) => Ok((key, row)),
            Err(source) => Err(StoreError::Row { key, source }),
        };
        rows.into_iter().map(row).collect()
    }

    /// Writes all or nothing, and returns once it is on disk. Cancelled, it may have been written.
    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        let batch = Batch { writes, done };
        self.writes.send(batch).await.map_err(|_| StoreError::Closed)?;
        answer
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(StoreError::Commit)
    }

    /// Sets one row.
    pub(crate) async fn set(
        &self,
        table: Table,
        key: &str,
        value: &impl Serialize,
    ) -> Result<(), StoreError> {
        self.commit(vec![Write::set(table, key, value)?]).await
    }
}

fn write_all(file: &StateFile, mut waiting: mpsc::Receiver<Batch>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut batches = vec![first];
        while batches.len() < TOGETHER
            && let Ok(next) = waiting.try_recv()
        {
            batches.push(next);
        }
        let written = file
            .with(|database| write(database, &batches))
            .map_err(|error| error.to_string());
        for batch in batches {
            // Whoever asked may have gone.
            let _ = batch.done.send(written.clone());
        }
    }
}

fn write(database: &Database, batches: &[Batch]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for write in batches.iter().flat_map(|batch| &batch.writes) {
        let mut table = transaction.open_table(write.table.definition())?;
        match &write.value {
            Some(value) => drop(table.insert(write.key.as_str(), value.as_slice())?),
            None => drop(table.remove(write.key.as_str())?),
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_is_there_and_a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let store = Store::open(&path).unwrap();
        store.set(Table::Apps, "a", &1).await.unwrap();
        store
            .commit(vec![
                Write::set(Table::Apps, "b", &2).unwrap(),
                Write::remove(Table::Apps, "a"),
            ])
            .await
            .unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::InUse(_))));
        assert_eq!(store.rows::<u32>(Table::Apps).unwrap(), [("b".to_owned(), 2)]);
        assert!(matches!(
            store.rows::<String>(Table::Apps),
            Err(StoreError::Row { .. })
        ));
    }

    #[test]
    fn a_state_that_was_cut_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for content in [b"redb and then nothing".as_slice(), b""] {
            std::fs::write(&path, content).unwrap();
            let error = Store::open(&path).unwrap_err();
            assert!(error.to_string().contains("backup"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), content, "it is left as it is");
        }
    }
}
