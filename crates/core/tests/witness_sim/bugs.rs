//! Known ways to get the protocol wrong. The simulation has to find each of them, or it proves nothing.
//!
//! A bug is put between the world and the keeper, which itself is the one that ships.

use suijuris_core::id::RecordId;
use suijuris_core::time::Span;
use suijuris_core::witness::{Input, Mark, Swapped};

use super::machine::Machine;

/// A known bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Leases are timed by wall clocks.
    WallClock,
    /// A lease counts from when the renewal was answered.
    LeaseFromAnswer,
    /// A lease counts as renewed when the renewal was asked for.
    LeaseFromAsking,
    /// A lease counts from when a write whose answer was lost is recognised.
    LeaseFromRecognition,
    /// Whoever was accepted serves until told otherwise.
    NoLease,
    /// The witnessed head is not looked for in the own history.
    NoContainment,
    /// Nobody's lease is waited for.
    EverybodyGone,
    /// A lease is waited for by too little.
    ShortWait,
    /// The depot swaps whatever stands there.
    BlindSwap,
    /// Writes are acknowledged when durable, before the mark covers them.
    HastyAcknowledgement,
    /// The mark names records that are not durable yet.
    NotYetDurable,
    /// A mark counts as one's own by the name in it.
    ByName,
    /// A process that may have been copied takes what it wrote before for its own.
    NoForgetting,
}

/// All of them.
pub(crate) const BUGS: &[Bug] = &[
    Bug::WallClock,
    Bug::LeaseFromAnswer,
    Bug::LeaseFromAsking,
    Bug::LeaseFromRecognition,
    Bug::NoLease,
    Bug::NoContainment,
    Bug::EverybodyGone,
    Bug::ShortWait,
    Bug::BlindSwap,
    Bug::HastyAcknowledgement,
    Bug::NotYetDurable,
    Bug::ByName,
    Bug::NoForgetting,
];

impl Bug {
    /// What the depot answered, as a keeper with this bug would understand it.
    pub(crate) fn misread(self, input: &mut Input<u64>, machine: &Machine) {
        let mark = match input {
            Input::Read(_, Ok(Some((mark, _)))) => mark,
            Input::Swapped(_, Ok(Swapped::Conflict(Some((mark, _))))) => mark,
            _ => return,
        };
        let me = machine.process.as_ref().map(|process| process.keeper.id());
        if mark.holder.as_ref().map(|holder| holder.id) != me {
            self.misread_mark(mark);
        }
    }

    fn misread_mark(self, mark: &mut Mark) {
        match (self, &mut mark.holder) {
            (Self::NoContainment, _) => {
                mark.seq = 0;
                mark.head = RecordId::of(b"inception");
            }
            (Self::ShortWait, Some(holder)) => holder.lease = Span(holder.lease.0 / 4),
            _ => {}
        }
    }
}
