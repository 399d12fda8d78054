//! An object at rest, as whoever looks after it has it: open for writing, in a suspended machine whose runtime has the
//! writer, or elsewhere. In each form its state can be looked at; what is refused is recorded where that is possible, and
//! kept for whoever has the writer next where it is not.
//!
//! Who may wake it is not decided here: that is the door's, whose state this is. Who calls: `up`, the supervisor.

use suijuris_core::lineage::{Body, Fired, Head, Refused, Seal, State};
use suijuris_core::time::Timestamp;
use suijuris_store::{Reader, StageError, Ticket, Writer};

use crate::record::{record_crash, stage};

/// An object that nobody runs.
#[derive(Debug)]
pub enum AtRest {
    /// Its store is ours to read and to write.
    Open(Open),
    /// In a suspended machine.
    Suspended(Suspended),
    /// Its volume is a guest's or another host's: what we have is what it announced.
    Remote(Remote),
}

/// What is to be recorded by whoever has the writer next.
#[derive(Debug, Default)]
pub struct Unrecorded {
    /// Refusals, counted.
    pub refused: Vec<Refused>,
    /// Timer occurrences that were refused or skipped.
    pub fired: Fired,
}

/// An object on our disk, open for writing.
#[derive(Debug)]
pub struct Open {
    writer: Writer,
}

/// An object in a suspended machine, as of its last record, which is durable: its runtime asked for the pause after it.
#[derive(Debug)]
pub struct Suspended {
    reader: Reader,
    unrecorded: Unrecorded,
}

/// An object that lies elsewhere, as of its announcement.
#[derive(Debug)]
pub struct Remote {
    announced: State,
    unrecorded: Unrecorded,
}

impl AtRest {
    /// Looks at the state.
    pub fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        match self {
            Self::Open(open) => open.look(look),
            Self::Suspended(suspended) => look(suspended.reader.state()),
            Self::Remote(remote) => look(&remote.announced),
        }
    }

    /// Timer occurrences that are dealt with, recorded or not.
    #[must_use]
    pub fn fired(&self) -> Fired {
        match self {
            Self::Open(open) => open.look(|state| state.head().fired.clone()),
            Self::Suspended(suspended) => suspended.fired(),
            Self::Remote(remote) => remote.unrecorded.behind(&remote.announced.head().fired),
        }
    }

    /// Stages what was refused for the disk, where that is possible; the rest is kept.
    ///
    /// # Errors
    /// [`StageError`]: nothing may be acknowledged any more.
    pub fn record(&mut self, unrecorded: Unrecorded, at: Timestamp) -> Result<Recording, StageError> {
        let kept = match self {
            Self::Open(open) => return open.record(unrecorded, at),
            Self::Suspended(suspended) => &mut suspended.unrecorded,
            Self::Remote(remote) => &mut remote.unrecorded,
        };
        kept.add(unrecorded);
        Ok(Recording::default())
    }
}

impl Unrecorded {
    /// Adds what came later.
    pub fn add(&mut self, later: Self) {
        self.refused.extend(later.refused);
        self.fired.extend(later.fired);
    }

    /// Occurrences that are dealt with, these behind those recorded.
    fn behind(&self, recorded: &Fired) -> Fired {
        let mut fired = recorded.clone();
        fired.extend(self.fired.iter().map(|(name, at)| (name.clone(), *at)));
        fired
    }
}

impl Open {
    /// The object that `writer` has open; an activation that was cut off is recorded first, and a key that was made for a wake
    /// which came to nothing is removed.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn new(writer: Writer, at: Timestamp) -> Result<Self, StageError> {
        writer.discard_spare();
        record_crash(&writer, at)?;
        Ok(Self { writer })
    }

    /// For writing memory ([`crate::write::stage`]).
    #[must_use]
    pub const fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Looks at the state.
    pub fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.writer.published())
    }

    /// Stages refusals for the disk, and timer occurrences that they deal with.
    ///
    /// # Errors
    /// [`StageError`].
    pub fn record(&self, unrecorded: Unrecorded, at: Timestamp) -> Result<Recording, StageError> {
        let Unrecorded { refused, mut fired } = unrecorded;
        let mut recording = Recording::default();
        if self.writer.staged(|state| state.head().phase.is_closed()) {
            return Ok(recording);
        }
        for mut refused in refused {
            refused.fired.append(&mut fired);
            let body = Body::Refused(Box::new(refused.clone()));
            recording.tickets.push(stage(&self.writer, body, at)?);
            recording.refused.push(refused);
        }
        if !fired.is_empty() {
            // A repeated refusal is only counted, but its timer must not come due again.
            let seal = Seal {
                fired,
                admitted: Vec::new(),
            };
            recording.tickets.push(stage(&self.writer, Body::Seal(seal), at)?);
        }
        Ok(recording)
    }
}

/// Refusals on their way to the disk.
#[derive(Debug, Default)]
#[must_use = "nothing is durable before its tickets say so"]
pub struct Recording {
    refused: Vec<Refused>,
    tickets: Vec<Ticket>,
}

impl Recording {
    /// Whether nothing is on its way.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Waits for the disk; what is recorded.
    ///
    /// # Errors
    /// [`StageError`]: nothing may be acknowledged any more.
    pub async fn durable(self) -> Result<Vec<Refused>, StageError> {
        for ticket in self.tickets {
            ticket.await?;
        }
        Ok(self.refused)
    }

    /// As [`Recording::durable`], on this thread.
    ///
    /// # Errors
    /// As there.
    pub fn wait(self) -> Result<Vec<Refused>, StageError> {
        for ticket in self.tickets {
            ticket.wait()?;
        }
        Ok(self.refused)
    }
}

impl Suspended {
    /// The object that `reader` reads.
    #[must_use]
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            unrecorded: Unrecorded::default(),
        }
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> &State {
        self.reader.state()
    }

    /// Its last record.
    #[must_use]
    pub fn head(&self) -> &Head {
        self.reader.state().head()
    }

    /// Timer occurrences that are dealt with, recorded or not.
    #[must_use]
    pub fn fired(&self) -> Fired {
        self.unrecorded.behind(&self.head().fired)
    }

    /// Timer occurrences that nothing is resumed for.
    pub fn skip(&mut self, fired: Fired) {
        self.unrecorded.fired.extend(fired);
    }

    /// What its runtime, or whoever has the writer next, is to record.
    #[must_use]
    pub fn into_unrecorded(self) -> Unrecorded {
        self.unrecorded
    }
}

impl Remote {
    /// The object whose announcement came to this state.
    #[must_use]
    pub fn new(announced: State) -> Self {
        Self {
            announced,
            unrecorded: Unrecorded::default(),
        }
    }

    /// What whoever has the writer is to record.
    #[must_use]
    pub fn into_unrecorded(self) -> Unrecorded {
        self.unrecorded
    }
}
