//! One sleeping object in some hundred bytes: what its rules can look at when somebody proposes to wake it or to be let
//! in, and nothing else.
//!
//! The form lives in RAM only and is made from verified states; it has no version and is never read from outside. All
//! that objects of one bundle share is in [`PreparedBundle`]. Called by the table of sleepers.

use std::sync::Arc;

use suijuris_core::class::{ClassId, Membership};
use suijuris_core::decide::Subject;
use suijuris_core::governance::Lineage;
use suijuris_core::id::Digest;
use suijuris_core::lineage::{Phase, State};
use suijuris_core::memory::{Cell, Cells};
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::{ObjectId, RecordId};

use crate::bytes::{Reader, Writer};
use crate::prepared::{Look, PreparedBundle};
use crate::value;

/// Where the time of the last look at the mark stands, and its length.
const CHECKED: std::ops::Range<usize> = 64..68;

const UNSEALED: u8 = 1;
const OWN_NAME: u8 = 1 << 1;
const WOKE: u8 = 1 << 2;
const SLEPT: u8 = 1 << 3;
const DUE: u8 = 1 << 4;
/// Awake when last looked at: nothing but position and epoch is known.
const AWAKE: u8 = 1 << 5;
/// An instance of a class.
const INSTANCE: u8 = 1 << 6;

/// A packed object. Object id, head, time of the last look, flags, phase, then numbers as variable-length integers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed(Box<[u8]>);

/// What is read from every packed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The head.
    pub head: RecordId,
    /// Its position.
    pub seq: u64,
    /// Activations so far.
    pub epoch: u64,
    /// It sleeps, and can be decided for.
    pub asleep: bool,
    /// When a timer is due next.
    pub due: Option<Timestamp>,
    /// When its mark was last seen, in ticks of the door's clock.
    pub(crate) checked: u32,
    pub(crate) bundle: u32,
    phase: Phase,
    flags: u8,
    /// Where what only its bundle explains begins.
    rest: u32,
}

impl Known {
    /// Its phase of life, as far as it is known from outside.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }
}

/// Everything that was packed, with the cells made anew.
#[derive(Debug, Clone)]
pub(crate) struct Unpacked<'a> {
    pub(crate) object: ObjectId,
    pub(crate) at: Timestamp,
    name: &'a str,
    phase: Phase,
    lineage: Lineage,
    instance: Option<Membership>,
    cells: Cells,
}

const PHASES: [Phase; 5] = [
    Phase::Dormant,
    Phase::Active,
    Phase::Departed,
    Phase::Quarantined,
    Phase::Terminated,
];

const fn code(phase: Phase) -> u8 {
    match phase {
        Phase::Dormant => 0,
        Phase::Active => 1,
        Phase::Departed => 2,
        Phase::Quarantined => 3,
        Phase::Terminated => 4,
    }
}

fn header(out: &mut Writer, object: ObjectId, head: RecordId, checked: u32) {
    out.raw(&object.digest().0);
    out.raw(&head.digest().0);
    out.raw(&checked.to_le_bytes());
}

impl Packed {
    /// Packs a state at rest; `index` stands for the bundle in `prepared`, `due` is when a timer wants it next.
    pub(crate) fn of(
        state: &State,
        prepared: &PreparedBundle,
        index: u32,
        due: Option<Timestamp>,
        checked: u32,
    ) -> Self {
        let head = state.head();
        let own_name = head.name != prepared.bundle().manifest.name;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(head.unsealed, UNSEALED)
            | flag(own_name, OWN_NAME)
            | flag(head.last_woke.is_some(), WOKE)
            | flag(head.last_dormant.is_some(), SLEPT)
            | flag(due.is_some(), DUE)
            | flag(head.class.is_some(), INSTANCE);
        let mut out = Writer::default();
        header(&mut out, head.object, head.record, checked);
        out.raw(&[flags, code(head.phase)]);
        out.number(head.seq);
        out.number(head.epoch);
        if let Some(due) = due {
            out.signed(due.0);
        }
        out.number(u64::from(index));
        out.number(head.refused);
        out.signed(head.awake.0);
        out.number(head.crashes);
        out.signed(head.at.0);
        out.signed(head.at.since(head.born).0);
        for at in [head.last_woke, head.last_dormant].into_iter().flatten() {
            out.signed(head.at.since(at).0);
        }
        if own_name {
            out.text(&head.name);
        }
        if let Some(class) = &head.class {
            out.raw(&class.id().digest().0);
            out.text(class.key().as_str());
        }
        for look in prepared.looks() {
            let cell = state.memory().cell_at(look.position);
            pack_cell(&mut out, cell, look, head.at);
        }
        Self(out.into_bytes())
    }

    /// Notes an object that is awake.
    pub(crate) fn awake(object: ObjectId, head: RecordId, seq: u64, epoch: u64, checked: u32) -> Self {
        let mut out = Writer::default();
        header(&mut out, object, head, checked);
        out.raw(&[AWAKE, code(Phase::Active)]);
        out.number(seq);
        out.number(epoch);
        Self(out.into_bytes())
    }

    /// The digest in the object's id: what the table hashes and compares.
    pub(crate) fn key(&self) -> &[u8] {
        self.0.get(..32).unwrap_or_default()
    }

    /// Length in memory, bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Notes that the mark was seen unchanged.
    pub(crate) fn touch(&mut self, checked: u32) {
        if let Some(place) = self.0.get_mut(CHECKED) {
            place.copy_from_slice(&checked.to_le_bytes());
        }
    }

    /// What is known of it without its bundle.
    pub(crate) fn known(&self) -> Option<Known> {
        let mut bytes = Reader::new(&self.0);
        let _object: [u8; 32] = bytes.array()?;
        let head = RecordId::from_digest(Digest(bytes.array()?));
        let checked = u32::from_le_bytes(bytes.array()?);
        let [flags, phase] = bytes.array()?;
        let phase = *PHASES.get(usize::from(phase))?;
        let (seq, epoch) = (bytes.number()?, bytes.number()?);
        let asleep = flags & AWAKE == 0;
        let mut due = None;
        let mut bundle = u32::MAX;
        if asleep {
            if flags & DUE != 0 {
                due = Some(Timestamp(bytes.signed()?));
            }
            bundle = u32::try_from(bytes.number()?).ok()?;
        }
        let known = Known {
            head,
            seq,
            epoch,
            asleep,
            due,
            checked,
            bundle,
            phase,
            flags,
            rest: u32::try_from(self.0.len().checked_sub(bytes.left())?).ok()?,
        };
        Some(known)
    }

    /// What stands behind what is known.
    fn rest(&self, known: &Known) -> Option<Reader<'_>> {
        let from = usize::try_from(known.rest).ok()?;
        self.0.get(from..).filter(|_| known.asleep).map(Reader::new)
    }

    /// When the last record was made, of an object that sleeps.
    pub(crate) fn last(&self) -> Option<Timestamp> {
        let mut bytes = self.rest(&self.known()?)?;
        let _refused = bytes.number()?;
        let _awake = bytes.signed()?;
        let _crashes = bytes.number()?;
        bytes.signed().map(Timestamp)
    }

    /// All of it; none where it is awake. `known` is what [`Packed::known`] says; `prepared` is the bundle that it was
    /// packed with; `scratch` are cells that were
    /// unpacked before, of whichever object.
    pub(crate) fn unpack<'a>(
        &'a self,
        known: &Known,
        prepared: &'a PreparedBundle,
        scratch: Option<Cells>,
    ) -> Option<Unpacked<'a>> {
        let mut bytes = self.rest(known)?;
        let object = ObjectId::from_digest(Digest(self.key().try_into().ok()?));
        let flags = known.flags;
        let refused = bytes.number()?;
        let awake = Span(bytes.signed()?);
        let crashes = bytes.number()?;
        let at = Timestamp(bytes.signed()?);
        let before = |bytes: &mut Reader<'_>| bytes.signed().map(|ms| Timestamp(at.0.wrapping_sub(ms)));
        let born = before(&mut bytes)?;
        let mut optional = |bit: u8| (flags & bit != 0).then(|| before(&mut bytes));
        let (last_woke, last_dormant) = (optional(WOKE), optional(SLEPT));
        let name = if flags & OWN_NAME == 0 {
            &prepared.bundle().manifest.name
        } else {
            bytes.text()?
        };
        let instance = if flags & INSTANCE == 0 {
            None
        } else {
            let id = ClassId::from_digest(Digest(bytes.array()?));
            Some(Membership::new(id, bytes.text()?.parse().ok()?))
        };
        // Rules look at no other cells than those that are filled here.
        let schema = prepared.bundle().schema();
        let mut cells = scratch
            .filter(|cells| Arc::ptr_eq(cells.schema(), schema))
            .unwrap_or_else(|| Cells::blank(schema.clone()));
        for look in prepared.looks() {
            unpack_cell(&mut bytes, look, at, cells.place(look.position)?)?;
        }
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Some(Unpacked {
            object,
            at,
            name,
            phase: known.phase,
            lineage: Lineage {
                length: number(known.seq.saturating_add(1)),
                epoch: number(known.epoch),
                unsealed: flags & UNSEALED != 0,
                born,
                last_woke: last_woke.flatten(),
                last_dormant: last_dormant.flatten(),
                refused: number(refused),
                crashes: number(crashes),
                awake,
                awake_since: None,
            },
            instance,
            cells,
        })
    }
}

impl Unpacked<'_> {
    /// The cells, for the next object.
    pub(crate) fn into_cells(self) -> Cells {
        self.cells
    }

    /// The object as decisions look at it.
    pub(crate) fn subject<'a>(&'a self, prepared: &'a PreparedBundle) -> Subject<'a> {
        let rules = &prepared.bundle().rules;
        Subject {
            object: self.object,
            name: self.name,
            phase: self.phase,
            lineage: self.lineage,
            memory: &self.cells,
            instance: self.instance.as_ref(),
            in_force: rules.bundle,
            bundle: rules.bundle,
            program: &rules.program,
            vocabulary: &rules.vocabulary,
        }
    }
}

/// A cell: whether and when it was written, and the value where rules look at it.
fn pack_cell(out: &mut Writer, cell: Option<&Cell>, look: &Look, at: Timestamp) {
    let as_of = cell.and_then(|cell| cell.as_of);
    let value = cell.and_then(|cell| cell.value.as_ref()).filter(|_| look.value);
    match as_of {
        None => out.number(0),
        // One more than the zigzag form, so that zero is left for "never".
        Some(as_of) => {
            out.number(1);
            out.signed(at.0.wrapping_sub(as_of.0));
        }
    }
    if look.value {
        value::pack(out, value, Some(&look.kind));
    }
}

fn unpack_cell(bytes: &mut Reader<'_>, look: &Look, at: Timestamp, cell: &mut Cell) -> Option<()> {
    cell.as_of = match bytes.number()? {
        0 => None,
        _ => Some(Timestamp(at.0.wrapping_sub(bytes.signed()?))),
    };
    if look.value {
        value::unpack_into(bytes, Some(&look.kind), &mut cell.value)
    } else {
        cell.value = None;
        Some(())
    }
}
