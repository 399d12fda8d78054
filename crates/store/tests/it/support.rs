//! An object to store, the steps of its life, and the store's disk trait in front of the faulty disk.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use suijuris_core::governance::Action;
use suijuris_core::id::{Digest, ObjectId};
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Amended, Body, Dormant, Mutated, Seal, Statement, Unsealed, Woke};
use suijuris_core::memory::{Field, Kind, Name, Schema, Value, Write};
use suijuris_core::time::Timestamp;
use suijuris_store::disk::{Disk, File, How, Lock};
use suijuris_store::{
    BundleFiles, CommitError, CreateError, Creation, Depth, Draft, Fresh, ObjectDir, Secret, Sign, Sizes,
    StageError, Ticket, Writer, create,
};
use suijuris_testkit::disk::{FaultyDisk, FileId};

use crate::object;
pub(crate) use crate::object::decision;

/// Small, so that short histories rotate segments and write checkpoints.
pub(crate) const SIZES: Sizes = Sizes {
    segment_bytes: 4_096,
    extent_bytes: 2_048,
    checkpoint_records: 7,
};

pub(crate) fn bundle_with(name: &str) -> BundleFiles {
    let int = |name: &str| (Name::new(name).unwrap(), Field::new(Kind::INT));
    let text = |name: &str| (Name::new(name).unwrap(), Field::new(Kind::String));
    bundle_of(name, [int("count"), text("note")].into())
}

pub(crate) fn bundle_of(name: &str, fields: BTreeMap<Name, Field>) -> BundleFiles {
    object::bundle_of(name, Schema::try_from(fields).unwrap()).unwrap()
}

/// The one owner of every object here.
pub(crate) fn owner() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

pub(crate) fn create_at(object_dir: &ObjectDir, nonce: u8) -> Result<ObjectId, CreateError> {
    create_with(object_dir, nonce, bundle_with("test"))
}

pub(crate) fn create_with(
    object_dir: &ObjectDir,
    nonce: u8,
    bundle: BundleFiles,
) -> Result<ObjectId, CreateError> {
    let creation = Creation {
        name: "test".to_owned(),
        controllers: vec![owner().public()],
        threshold: 1,
        nonce: vec![nonce; 16],
        parent: None,
        class: None,
        at: Timestamp(1_000),
        bundle,
        seed: [nonce; 32].into(),
    };
    create(object_dir, creation)
}

pub(crate) fn draft(body: Body, sign: Sign) -> Draft {
    Draft {
        body,
        at: Timestamp(2_000),
        bundle: None,
        sign,
    }
}

pub(crate) fn count(value: i64) -> Draft {
    write("count", Value::Int(value))
}

pub(crate) fn note(text: &str) -> Draft {
    write("note", Value::String(text.to_owned()))
}

pub(crate) fn write(field: &str, value: Value) -> Draft {
    let mutated = Mutated {
        by: "workload".to_owned(),
        principal: None,
        change: [(Name::new(field).unwrap(), Write::Set(value))].into(),
    };
    draft(Body::Mutated(mutated), Sign::Later)
}

pub(crate) fn seal() -> Draft {
    draft(Body::Seal(Seal::default()), Sign::Now)
}

pub(crate) fn dormant() -> Draft {
    let body = Dormant {
        decision: decision(Action::Sleep),
        workload: "none".to_owned(),
        admitted: vec![],
        suspend: false,
    };
    draft(Body::Dormant(Box::new(body)), Sign::Now)
}

pub(crate) fn unsealed(writer: &Writer) -> Draft {
    let body = writer.staged(|state| Unsealed {
        mutations: state.head().uncovered(),
        sealed: state.head().sealed,
    });
    draft(Body::Unsealed(body), Sign::Now)
}

pub(crate) fn wake(writer: &Writer, seed: u8) -> Result<(), StageError> {
    let body = |_: &_, next| {
        Ok::<_, StageError>(Body::Woke(Box::new(Woke {
            decision: decision(Action::Wake),
            next,
            fired: BTreeMap::new(),
        })))
    };
    writer.wake(&[seed; 32], Timestamp(2_000), body).map(drop)
}

/// As [`wake`], with a key that was made beside the start, and that has not taken its place yet.
pub(crate) fn begin(writer: &Writer, spare: Option<Digest>, seed: u8) -> Result<(), StageError> {
    let body = |_: &_, next| {
        Ok::<_, StageError>(Body::Woke(Box::new(Woke {
            decision: decision(Action::Wake),
            next,
            fired: BTreeMap::new(),
        })))
    };
    let fresh = Fresh {
        spare,
        seed: &[seed; 32],
    };
    writer.begin(fresh, Timestamp(2_000), body).map(drop)
}

pub(crate) fn open(object_dir: &ObjectDir, depth: Depth) -> Writer {
    Writer::open(object_dir, depth, SIZES)
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
        .0
}

/// Stages and waits.
pub(crate) fn commit(writer: &Writer, draft: Draft) {
    writer.stage(draft).unwrap().wait().unwrap();
}

pub(crate) fn wait_all(tickets: &[Ticket]) -> Result<(), CommitError> {
    tickets.iter().try_for_each(Ticket::wait)
}

/// An error with its sources, as a user reads it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    text
}

/// An amendment to rules that are put into the bundle store first.
pub(crate) fn amend(writer: &Writer, to: &BundleFiles) {
    let to = writer.bundles().put(to).unwrap().id();
    let (statement, from) = writer.staged(|state| {
        let head = state.head();
        let statement = Statement {
            object: head.object,
            action: Action::Amend,
            content: head.amendment(&to),
        };
        (statement, head.bundle)
    });
    let amended = Amended {
        decision: decision(Action::Amend),
        from,
        approvals: vec![statement.approve(&owner()).unwrap()],
    };
    let amendment = Draft {
        bundle: Some(to),
        ..draft(Body::Amended(amended), Sign::Now)
    };
    commit(writer, amendment);
}

/// Sets the secret field `token`.
pub(crate) fn keep_token(writer: &Writer, value: &str, salt: u8) {
    let secret = Secret {
        salt: Digest([salt; 32]),
        value: Value::String(value.to_owned()),
    };
    let commitment = writer.object_dir().keep_secret(&secret).unwrap();
    commit(writer, write("token", Value::Commitment(commitment)));
}

/// The store's disk over the faulty one.
#[derive(Debug, Clone)]
pub(crate) struct Faulty(pub(crate) FaultyDisk);

#[derive(Debug)]
struct FaultyFile(FaultyDisk, FileId);

/// Names no parent, so that the directory's own name needs no directory.
pub(crate) const PATH: &str = "object";

pub(crate) fn dir_on(disk: &FaultyDisk) -> ObjectDir {
    dir_at(disk, PATH)
}

pub(crate) fn dir_at(disk: &FaultyDisk, path: &str) -> ObjectDir {
    ObjectDir::on(Arc::new(Faulty(disk.clone())), path)
}

impl Disk for Faulty {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>> {
        let file = match how {
            How::Create => self.0.create(path)?,
            How::Read | How::Write => self.0.open(path)?,
        };
        Ok(Box::new(FaultyFile(self.0.clone(), file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, _: &Path, _: &str) -> io::Result<Lock> {
        Ok(Lock::Held(Box::new(())))
    }

    fn is_locked(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }
}

impl File for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size(self.1)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(self.1, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(self.1, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync(self.1)
    }
}
