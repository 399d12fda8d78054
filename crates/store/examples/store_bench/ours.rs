//! Our store as the bench drives it: an object that is awake, and mutations to append.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use suijuris_core::governance::Action;
use suijuris_core::key::SecretKey;
use suijuris_core::lineage::{Body, Mutated, State, Unsealed, Woke};
use suijuris_core::memory::{Field, Kind, Name, Schema, Value, Write};
use suijuris_core::time::Timestamp;
use suijuris_store::frame::FRAME_BYTES;
use suijuris_store::{
    Creation, Depth, Draft, ObjectDir, Reader, Sign, Sizes, StageError, Ticket, Writer, create,
};

use crate::Outcomes;
use crate::object::{bundle_of, decision};
use crate::peers::{Append, Peer};

/// Fields of the objects that are stored.
pub(crate) const FIELDS: usize = 10;

pub(crate) fn schema(fields: usize) -> Outcomes<Schema> {
    let field = |n| Ok((Name::new(format!("field{n:04}"))?, Field::new(Kind::INT)));
    let fields: Outcomes<BTreeMap<_, _>> = (0..fields).map(field).collect();
    Ok(Schema::try_from(fields?)?)
}

/// The `n`-th write to a memory of so many fields.
pub(crate) fn mutation(fields: usize, n: usize) -> Outcomes<Draft> {
    let name = Name::new(format!("field{:04}", n % fields))?;
    let change = [(name, Write::Set(Value::Int(i64::try_from(n)?)))].into();
    Ok(Draft {
        body: Body::Mutated(Mutated {
            by: "workload".to_owned(),
            principal: None,
            change,
        }),
        at: Timestamp(2_000),
        bundle: None,
        sign: Sign::Later,
    })
}

/// Wakes the object; an activation that did not end is closed first.
pub(crate) fn wake(writer: &Writer, seed: u8) -> Outcomes<()> {
    if writer.published().head().key.is_some() {
        let (mutations, sealed) = writer.staged(|state| (state.head().uncovered(), state.head().sealed));
        let body = Body::Unsealed(Unsealed { mutations, sealed });
        let draft = Draft {
            body,
            at: Timestamp(2_000),
            bundle: None,
            sign: Sign::Now,
        };
        writer.stage(draft)?.wait()?;
    }
    let body = |_: &State, next| {
        Ok::<_, StageError>(Body::Woke(Box::new(Woke {
            decision: decision(Action::Wake),
            next,
            fired: BTreeMap::new(),
        })))
    };
    writer.wake(&[seed; 32], Timestamp(2_000), body)?;
    Ok(())
}

/// A new object, awake.
pub(crate) fn object(path: &Path) -> Outcomes<Writer> {
    let object_dir = ObjectDir::at(path);
    let creation = Creation {
        name: "bench".to_owned(),
        controllers: vec![SecretKey::from_seed(&[9; 32]).public()],
        threshold: 1,
        nonce: vec![0; 16],
        parent: None,
        class: None,
        at: Timestamp(1_000),
        bundle: bundle_of("bench", schema(FIELDS)?)?,
        seed: [1; 32].into(),
    };
    create(&object_dir, creation)?;
    let (writer, _) = Writer::open(&object_dir, Depth::Tail, Sizes::default())?;
    wake(&writer, 2)?;
    Ok(writer)
}

/// Size of one framed mutation.
pub(crate) fn record_bytes(writer: &Writer) -> Outcomes<usize> {
    let ticket = writer.stage(mutation(FIELDS, 1_000_000)?)?;
    ticket.wait()?;
    let reader = Reader::open(writer.object_dir(), Depth::Tail)?;
    let stored = reader.find(&ticket.id())?.ok_or("the record is not found")?;
    Ok(FRAME_BYTES + stored.bytes.len())
}

/// One writer that appends groups.
pub(crate) struct Ours<'w> {
    writer: &'w Writer,
    drafts: Vec<Draft>,
}

impl<'w> Ours<'w> {
    pub(crate) const fn new(writer: &'w Writer) -> Self {
        Self {
            writer,
            drafts: Vec::new(),
        }
    }
}

impl Peer for Ours<'_> {
    fn prepare(&mut self, records: usize) -> Outcomes<()> {
        self.drafts = (0..records)
            .map(|n| mutation(FIELDS, n))
            .collect::<Outcomes<_>>()?;
        Ok(())
    }

    fn commit(&mut self, records: usize) -> Outcomes<()> {
        let first = self.drafts.len().saturating_sub(records);
        let mut last = None;
        for draft in self.drafts.drain(first..) {
            last = Some(self.writer.stage(draft)?);
        }
        Ok(last.as_ref().map_or(Ok(()), Ticket::wait)?)
    }
}

/// Many writers of one object.
pub(crate) struct Shared<'w> {
    writer: &'w Writer,
    next: AtomicUsize,
}

impl<'w> Shared<'w> {
    pub(crate) const fn new(writer: &'w Writer) -> Self {
        Self {
            writer,
            next: AtomicUsize::new(0),
        }
    }
}

impl Append for Shared<'_> {
    fn append(&self) -> Outcomes<()> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(self.writer.stage(mutation(FIELDS, n)?)?.wait()?)
    }
}
