//! One simulated machine: its clocks, its disk, and the process that may run on it.

use suijuris_core::id::RecordId;
use suijuris_core::time::Timestamp;
use suijuris_core::witness::{Keeper, LeaseStatus, Moment, Mono, Point, Written};

use super::chance::{Chance, MS, Ns};
use super::world::Event;

/// An object on a disk: its records by position, each with its epoch. A record's id depends on the one before it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    chain: Vec<(RecordId, u64)>,
    /// It knows that it is not the object any more.
    pub(crate) quarantined: bool,
}

impl Disk {
    /// A disk with the inception record.
    pub(crate) fn created() -> Self {
        Self {
            chain: vec![(RecordId::of(b"inception"), 0)],
            quarantined: false,
        }
    }

    pub(crate) fn append(&mut self, begins: bool, nonce: u64) -> Point {
        let newest = self.newest();
        let mut bytes = newest.record.to_string().into_bytes();
        bytes.extend(nonce.to_be_bytes());
        self.chain
            .push((RecordId::of(&bytes), newest.epoch + u64::from(begins)));
        self.newest()
    }

    pub(crate) fn newest(&self) -> Point {
        let seq = self.chain.len() - 1;
        let (record, epoch) = self.chain[seq];
        Point {
            seq: seq as u64,
            record,
            epoch,
        }
    }

    pub(crate) fn record(&self, seq: u64) -> RecordId {
        self.chain[usize::try_from(seq).unwrap()].0
    }

    pub(crate) fn holds(&self, seq: u64, record: &RecordId) -> bool {
        usize::try_from(seq)
            .ok()
            .and_then(|seq| self.chain.get(seq))
            .is_some_and(|(there, _)| there == record)
    }
}

/// What the object of a process is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Waits for a verdict, to rest or to wake.
    Asking { wake: bool },
    /// Holds, asleep.
    Resting,
    /// The record with which the epoch begins is on its way.
    Beginning,
    /// It is durable; with a required witness the mark has to cover it.
    Covering(u64),
    /// Serves as long as the lease is good.
    Awake,
    /// Gives the object up.
    Leaving,
}

/// A process does not run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    /// It finds out when it goes on, before anything else.
    pub(crate) noticed: bool,
    /// Whoever paused it says so, and that nothing was served meanwhile; otherwise a copy of it may be running on.
    pub(crate) announced: bool,
}

/// A record on its way to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    Begin,
    Change,
    /// The last one before it leaves; without waiting for anybody where the lease is over.
    Sleep {
        over: bool,
    },
}

/// A running copy.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) keeper: Keeper<u64>,
    /// What this process and those before it wrote, for whoever it hands over to.
    pub(crate) written: Written,
    /// Tells its events from those of the process before it.
    pub(crate) run: u64,
    pub(crate) life: Life,
    pub(crate) pause: Option<Pause>,
    /// What came while it was suspended.
    pub(crate) deferred: Vec<Event>,
    /// Positions written and not yet acknowledged.
    pub(crate) unacknowledged: Vec<u64>,
    pub(crate) writing: Option<(Writing, u64)>,
    /// Notices said before it was paused are not heard.
    pub(crate) hearing: u64,
    /// Which alarm is the valid one.
    pub(crate) alarm: u64,
    /// It was copied asleep and does not know: an answer that it already had may have come long ago, and so may its lease.
    /// Until the depot agrees to its waking, or answers later; where it goes on because none does, it is without a witness.
    pub(crate) deluded: bool,
    /// What a known bug takes for the end of the lease.
    pub(crate) believed_until: Option<Ns>,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    mono_offset: Ns,
    /// Its seconds are longer or shorter than true ones by so many millionths.
    rate_ppm: i64,
    wall_offset_ms: i64,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    /// Cut off from the depot until then.
    pub(crate) cut_until: Ns,
    /// Hears no answer of the depot until then.
    pub(crate) deaf_until: Ns,
    /// Names of ended processes, and when they ended.
    pub(crate) gone: Vec<([u8; 16], Ns)>,
    /// A known bug: wall time is taken for monotonic time.
    pub(crate) by_wall: bool,
}

impl Machine {
    pub(crate) fn draw(chance: &mut Chance, disk: Disk) -> Self {
        Self {
            mono_offset: chance.within(0, 1_000_000) * MS,
            rate_ppm: chance.within(0, 20_000).cast_signed() - 10_000,
            wall_offset_ms: chance.within(0, 600_000).cast_signed() - 300_000,
            disk,
            process: None,
            cut_until: 0,
            deaf_until: 0,
            gone: Vec::new(),
            by_wall: false,
        }
    }

    fn elapsed(&self, now: Ns) -> Ns {
        now.saturating_add_signed(now.cast_signed() / 1_000_000 * self.rate_ppm)
    }

    fn wall_ms(&self, now: Ns) -> i64 {
        1_000_000_000 + self.wall_offset_ms + (self.elapsed(now) / MS).cast_signed()
    }

    /// Goes by the clocks of `other` from now on, as a copy of its memory does.
    pub(crate) fn take_clocks(&mut self, other: &Self) {
        self.mono_offset = other.mono_offset;
        self.rate_ppm = other.rate_ppm;
        self.wall_offset_ms = other.wall_offset_ms;
    }

    /// Its clocks stood still so long.
    pub(crate) fn stop_clocks(&mut self, length: Ns) {
        let length = self.elapsed(length);
        self.mono_offset = self.mono_offset.wrapping_sub(length);
        self.wall_offset_ms -= (length / MS).cast_signed();
    }

    pub(crate) fn step_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }

    pub(crate) fn mono(&self, now: Ns) -> Ns {
        if self.by_wall {
            self.wall_ms(now).unsigned_abs() * MS
        } else {
            self.mono_offset.wrapping_add(self.elapsed(now))
        }
    }

    pub(crate) fn moment(&self, now: Ns) -> Moment {
        Moment {
            mono: Mono(self.mono(now)),
            wall: Timestamp(self.wall_ms(now)),
        }
    }

    /// True time of a length by this machine's clock.
    pub(crate) fn truly(&self, length: Ns) -> Ns {
        (length.cast_signed() - length.cast_signed() / 1_000_000 * self.rate_ppm).unsigned_abs()
    }

    /// The process of run `run`, if it still is the one.
    pub(crate) fn run(&mut self, run: u64) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| process.run == run)
    }

    /// Whether it may serve at this instant, by its own clock and keeper. A pause that will be noticed counts as one that
    /// will not happen to be over between the look at the clock and the byte that is served.
    pub(crate) fn may_serve(&self, now: Ns) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        if process.life != Life::Awake || process.pause.is_some_and(|pause| pause.noticed) {
            return false;
        }
        let until = process
            .keeper
            .good_until()
            .map(|until| process.believed_until.map_or(until, Mono));
        until.is_some_and(|until| Mono(self.mono(now)) < until)
    }

    /// Whether it serves on a lease, and not without any witness.
    pub(crate) fn serves_witnessed(&self, now: Ns) -> bool {
        self.may_serve(now)
            && self.process.as_ref().is_some_and(|process| {
                process.keeper.lease_status() != LeaseStatus::Without && !process.deluded
            })
    }
}
