//! What a durable append is compared with: a raw write into allocated space, SQLite and redb; each commits one record or
//! a group, and for many writers [`Grouped`] gives each the group commit that our store has by itself.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::Outcomes;

/// Something that makes records durable.
pub(crate) trait Peer: Send {
    /// Gets the next `records` ready that callers would have at hand; not measured.
    fn prepare(&mut self, records: usize) -> Outcomes<()> {
        let _nothing_to_prepare = records;
        Ok(())
    }

    /// Appends so many records and returns once they are durable.
    fn commit(&mut self, records: usize) -> Outcomes<()>;
}

/// One write and one `fdatasync` into space that is allocated and zeroed.
pub(crate) struct Raw {
    file: File,
    at: u64,
    allocated: u64,
    record_bytes: usize,
    bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(path: &Path, allocated: u64, record_bytes: usize) -> Outcomes<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..allocated).step_by(1 << 20) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_data()?;
        Ok(Self {
            file,
            at: 0,
            allocated,
            record_bytes,
            bytes: Vec::new(),
        })
    }
}

impl Peer for Raw {
    fn commit(&mut self, records: usize) -> Outcomes<()> {
        self.bytes.resize(self.record_bytes * records, 7);
        if self.at + self.bytes.len() as u64 > self.allocated {
            self.at = 0;
        }
        self.file.write_all_at(&self.bytes, self.at)?;
        self.at += self.bytes.len() as u64;
        Ok(self.file.sync_data()?)
    }
}

/// SQLite with a write-ahead log that is synced at every commit.
pub(crate) struct Sqlite {
    db: rusqlite::Connection,
    bytes: Vec<u8>,
}

impl Sqlite {
    pub(crate) fn new(path: &Path, record_bytes: usize) -> Outcomes<Self> {
        let db = rusqlite::Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.execute("CREATE TABLE r (seq INTEGER PRIMARY KEY, bytes BLOB)", ())?;
        Ok(Self {
            db,
            bytes: vec![7; record_bytes],
        })
    }
}

impl Peer for Sqlite {
    fn commit(&mut self, records: usize) -> Outcomes<()> {
        let all = self.db.transaction()?;
        {
            let mut insert = all.prepare_cached("INSERT INTO r (bytes) VALUES (?1)")?;
            for _ in 0..records {
                insert.execute((&self.bytes,))?;
            }
        }
        Ok(all.commit()?)
    }
}

/// redb with its own durable commit.
pub(crate) struct Redb {
    db: redb::Database,
    next: u64,
    bytes: Vec<u8>,
}

impl Redb {
    pub(crate) fn new(path: &Path, record_bytes: usize) -> Outcomes<Self> {
        Ok(Self {
            db: redb::Database::create(path)?,
            next: 0,
            bytes: vec![7; record_bytes],
        })
    }
}

impl Peer for Redb {
    fn commit(&mut self, records: usize) -> Outcomes<()> {
        const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("r");
        let all = self.db.begin_write()?;
        {
            let mut table = all.open_table(TABLE)?;
            for _ in 0..records {
                self.next += 1;
                table.insert(self.next, self.bytes.as_slice())?;
            }
        }
        Ok(all.commit()?)
    }
}

/// One record made durable by one of many writers.
pub(crate) trait Append: Sync {
    fn append(&self) -> Outcomes<()>;
}

/// A peer behind group commit: whoever finds nobody at it commits for all who wait.
pub(crate) struct Grouped<P> {
    peer: Mutex<P>,
    waiting: Mutex<Waiting>,
    moved: Condvar,
}

#[derive(Default)]
struct Waiting {
    records: usize,
    /// Number of the group that gathers now; those below it are durable or being made so.
    group: u64,
    durable: u64,
    leading: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Peer> Grouped<P> {
    pub(crate) fn new(peer: P) -> Self {
        Self {
            peer: Mutex::new(peer),
            waiting: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    fn lead(&self, mut waiting: MutexGuard<'_, Waiting>) -> Outcomes<()> {
        waiting.leading = true;
        waiting.group += 1;
        let (group, records) = (waiting.group, std::mem::take(&mut waiting.records));
        drop(waiting);
        lock(&self.peer).commit(records)?;
        let mut waiting = lock(&self.waiting);
        waiting.leading = false;
        waiting.durable = group;
        drop(waiting);
        self.moved.notify_all();
        Ok(())
    }
}

impl<P: Peer> Append for Grouped<P> {
    fn append(&self) -> Outcomes<()> {
        let mut waiting = lock(&self.waiting);
        waiting.records += 1;
        let group = waiting.group + 1;
        while waiting.durable < group {
            if waiting.leading {
                waiting = self.moved.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            } else {
                self.lead(waiting)?;
                waiting = lock(&self.waiting);
            }
        }
        Ok(())
    }
}
