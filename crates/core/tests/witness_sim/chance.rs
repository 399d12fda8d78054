//! Seeded choices, and the plan of one simulated world: everything that differs between two seeds is drawn here.

use std::time::Duration;

use suijuris_core::manifest::Witness;
use suijuris_core::time::Span;
use suijuris_core::witness::Terms;

/// Nanoseconds of true time, or of a clock.
pub(crate) type Ns = u64;

pub(crate) const MS: Ns = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014): one number a seed, and no seed is a bad one.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub(crate) const fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) const fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    /// Whether something happens that happens `per_mille` times in a thousand.
    pub(crate) const fn happens(&mut self, per_mille: u64) -> bool {
        self.next() % 1_000 < per_mille
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Sixteen bytes that nobody drew before.
    pub(crate) fn name(&mut self) -> [u8; 16] {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&self.next().to_be_bytes());
        name[8..].copy_from_slice(&self.next().to_be_bytes());
        name
    }
}

/// What a depot can say of a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing, as object storage.
    Unknown,
    /// The truth, as a lock that ends with its process.
    True,
    /// That it has gone only some time after it went.
    Late(Ns),
}

/// What a fault can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Crash,
    ShortPause,
    LongPause,
    Partition,
    /// What is asked arrives, the answers do not.
    Deaf,
    WallStep,
    /// A snapshot of a disk is put aside.
    Snapshot,
    /// An older snapshot takes the place of a disk.
    Rollback,
    /// A disk, in use or not, is copied to another machine.
    DiskCopy,
    /// The disk of a machine that serves is copied and started elsewhere, while the machine is paused or cut off.
    Twin,
    /// A machine is suspended, copied, and both resume.
    DoubleThaw,
    /// A running machine is copied with its memory, and runs on.
    LiveClone,
    /// The same of one that sleeps; neither finds out.
    SleepingClone,
}

const FAULTS: &[Fault] = &[
    Fault::Crash,
    Fault::ShortPause,
    Fault::LongPause,
    Fault::Partition,
    Fault::Deaf,
    Fault::WallStep,
    Fault::Snapshot,
    Fault::Rollback,
    Fault::DiskCopy,
    Fault::DiskCopy,
    Fault::Twin,
    Fault::Twin,
    Fault::DoubleThaw,
    Fault::LiveClone,
    Fault::SleepingClone,
    Fault::SleepingClone,
];

/// One world.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) copies: usize,
    pub(crate) strength: Witness,
    pub(crate) lease_ms: i64,
    pub(crate) grace_ms: i64,
    pub(crate) pace: Duration,
    pub(crate) presence: Presence,
    /// Versions are digests of the content, so that the same content has the same version again.
    pub(crate) by_content: bool,
    /// Until when faults happen.
    pub(crate) faults_end: Ns,
    pub(crate) end: Ns,
    /// Time between two faults on average.
    pub(crate) fault_every: Ns,
    pub(crate) faults: Vec<Fault>,
    // Each per mille:
    /// What an awake object does is a write. Copies of one that seldom writes stay equal to it.
    pub(crate) writes: u64,
    /// What it does is going to sleep.
    pub(crate) sleeps: u64,
    pub(crate) lost_requests: u64,
    pub(crate) lost_answers: u64,
    pub(crate) slow: u64,
    /// The backend says that it did not answer, at once, and did or did not what was asked.
    pub(crate) lies: u64,
    pub(crate) denies: u64,
    pub(crate) crashes_at_effects: u64,
    pub(crate) pauses_at_effects: u64,
    /// A paused process does not find out that it was.
    pub(crate) unnoticed_pauses: u64,
    /// Whoever paused it says so.
    pub(crate) announced_pauses: u64,
}

impl Plan {
    /// Swarm testing: each world has some of the faults, and some worlds have few.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let lease_ms: i64 = chance.pick(&[1_000, 2_000, 5_000, 10_000]);
        let strength = chance.pick(&[Witness::Required, Witness::Required, Witness::Optional]);
        let grace_ms: i64 = match strength {
            Witness::Optional => chance.pick(&[0, 0, 1_000, 4_000]),
            Witness::Required => 0,
        };
        let lease = lease_ms.unsigned_abs() * MS;
        let stated = lease + grace_ms.unsigned_abs() * MS;
        let faults_end = lease * chance.within(8, 25);
        let share = chance.pick(&[300, 500, 1_000]);
        let mut faults: Vec<Fault> = FAULTS.iter().copied().filter(|_| chance.happens(share)).collect();
        faults.push(Fault::Crash);
        let late = Presence::Late(chance.within(0, 3_000) * MS);
        let mut sometimes = |per_mille: &[u64]| chance.pick(per_mille);
        Self {
            writes: sometimes(&[0, 20, 100, 500]),
            sleeps: sometimes(&[0, 20, 100]),
            lost_requests: sometimes(&[0, 0, 20, 200]),
            lost_answers: sometimes(&[0, 0, 20, 200, 700]),
            slow: sometimes(&[0, 0, 30, 150]),
            lies: sometimes(&[0, 0, 0, 30, 500]),
            denies: sometimes(&[0, 0, 0, 20]),
            crashes_at_effects: sometimes(&[0, 0, 2, 20]),
            pauses_at_effects: sometimes(&[0, 0, 2, 20]),
            unnoticed_pauses: sometimes(&[0, 300]),
            announced_pauses: sometimes(&[0, 500, 1_000]),
            copies: chance.within(2, 5) as usize,
            strength,
            lease_ms,
            grace_ms,
            pace: chance.pick(&[
                Duration::ZERO,
                Duration::ZERO,
                Duration::from_millis(100),
                Duration::from_secs(2),
            ]),
            presence: chance.pick(&[Presence::Unknown, Presence::Unknown, Presence::True, late]),
            by_content: chance.happens(400),
            fault_every: lease * chance.within(2, 12) / 10,
            faults,
            faults_end,
            end: faults_end + 8 * (stated + stated / 4) + 45_000 * MS,
        }
    }

    /// A world without any fault but those that a test makes.
    pub(crate) fn calm(self) -> Self {
        Self {
            faults: Vec::new(),
            lost_requests: 0,
            lost_answers: 0,
            slow: 0,
            lies: 0,
            denies: 0,
            crashes_at_effects: 0,
            pauses_at_effects: 0,
            ..self
        }
    }

    pub(crate) fn terms(&self) -> Terms {
        // Whoever is known to run at once is known by a lock.
        let locks = matches!(self.presence, Presence::True);
        Terms::new(self.strength, Span(self.lease_ms), Span(self.grace_ms), self.pace)
            .where_presence_is_a_lock(locks)
    }

    pub(crate) fn lease(&self) -> Ns {
        self.lease_ms.unsigned_abs() * MS
    }

    /// How long a renewal lets serve, by the server's clock.
    pub(crate) fn serves(&self) -> Ns {
        (self.lease_ms + self.grace_ms).unsigned_abs() * MS
    }
}
