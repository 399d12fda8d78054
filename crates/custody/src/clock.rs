//! The one place that reads clocks, and the detector of time that passed without us.
//!
//! [`Clock`] is the shell: three vDSO reads per look, no system call. A thread of its own, the pulse, stamps the
//! monotonic clock every [`PULSE_MS`] and asks the kernel now and then whether the wall clock is disciplined.
//! [`ResumeDetector`] is pure: fed with readings, it says whether one follows the other without a break. The runtime
//! checks on every admission and on its own tick; after a break the gate closes until the wake checks ran again.
//!
//! # What a break looks like
//! | What happened | Wall | Monotonic | Boot-time | Seen by |
//! |---|---|---|---|---|
//! | machine suspended | goes on | stands | goes on | boot-time runs away from monotonic |
//! | clock stepped | jumps | – | – | wall runs away from boot-time |
//! | process frozen (cgroup, SIGSTOP) | – | goes on | goes on | the pulse did not beat |
//! | snapshot restored | old or stepped | – | – | VM generation; the step when the guest's clock is set |
//!
//! # Busy or frozen?
//! A busy machine delays the pulse as a freeze does. The pulse sleeps nearly always, so that a fair scheduler owes it
//! the CPU within a few slices (3 ms each) for every thread that wants it: [`FREEZE_MS`] behind time would take some
//! 500 busy threads on one CPU. A main thread that blocks on a slow disk does not delay it at all. What is left
//! (a machine that gives us nothing for that long) is a freeze for all who wait for us, and the price of a false
//! alarm is one run of the wake checks. A freeze shorter than that cannot be told from scheduling, and does not
//! matter: leases are longer. A snapshot taken and restored within it shows by its generation where there is one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use suijuris_core::time::{Quality, Reading, STEP_TOLERANCE, Span, Timestamp};
use suijuris_core::witness::{Moment, Mono};

/// Time between two beats of the pulse.
pub const PULSE_MS: u64 = 250;

/// Time between two beats while nobody asks ([`Clock::register`]).
pub const REST_MS: u64 = 1_000;

/// A pulse this late means that the process did not run.
pub const FREEZE_MS: u64 = 1_500;

/// Boot-time ahead of monotonic by this much more than before means that the machine was suspended.
///
/// Above what a thread loses between two reads of the clocks on a loaded machine.
pub const SUSPEND_MS: u64 = 100;

/// Beats from one question to the kernel about clock discipline to the next: 1 s.
const BEATS_PER_QUALITY: u64 = 4;

/// Bytes of a generation file at most.
const GENERATION_BYTES: u64 = 256;

/// The wall clock may drift from the boot-time clock by a thousandth: twice what the kernel slews.
const DRIFT: u64 = 1_000;

const NS_PER_MS: u64 = 1_000_000;

/// Whether time passed that we did not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// No.
    Continuous,
    /// Yes: run the wake checks before the next byte is forwarded.
    Jumped {
        /// How long; for a stepped clock the step, negative if it went back; zero where nobody knows.
        paused: Span,
        /// How it showed.
        why: Why,
    },
}

/// How a break showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The machine's generation changed: it was restored from a snapshot.
    Restored,
    /// The machine was suspended.
    Suspended,
    /// The process was frozen or stopped.
    Frozen,
    /// The wall clock was stepped.
    ClockStepped,
}

impl Why {
    /// The word used in records, events and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Suspended => "suspended",
            Self::Frozen => "frozen",
            Self::ClockStepped => "clock_stepped",
        }
    }
}

/// What the pulse knows besides the clocks; both only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulse {
    /// Time that the process did not run so far, nanoseconds.
    pub frozen_ns: u64,
    /// Changes of the machine's generation so far.
    pub generations: u64,
}

/// Compares each look at the clocks with the one before. Pure: no clock is read here.
#[derive(Debug, Clone)]
pub struct ResumeDetector {
    last: Reading,
    pulse: Pulse,
}

impl ResumeDetector {
    /// A detector for which everything up to `reading` is accounted for.
    #[must_use]
    pub const fn new(reading: Reading, pulse: Pulse) -> Self {
        Self { last: reading, pulse }
    }

    /// Whether `reading` follows the last accepted one without a break.
    #[must_use]
    pub fn judge(&self, reading: &Reading, pulse: Pulse) -> Continuity {
        let mono = ns_between(self.last.mono_ns, reading.mono_ns);
        let boot = ns_between(self.last.boot_ns, reading.boot_ns);
        let suspended = boot.saturating_sub(mono);
        let frozen = ns_between(self.pulse.frozen_ns, pulse.frozen_ns);
        let step = reading.wall.since(self.last.wall).0.saturating_sub(to_ms(boot));
        let tolerance = STEP_TOLERANCE.0.saturating_add(to_ms(boot / DRIFT));

        let (paused, why) = if pulse.generations != self.pulse.generations {
            (to_ms(suspended.saturating_add(frozen)), Why::Restored)
        } else if suspended > SUSPEND_MS * NS_PER_MS {
            (to_ms(suspended.saturating_add(frozen)), Why::Suspended)
        } else if frozen > 0 {
            (to_ms(frozen), Why::Frozen)
        } else if step.saturating_abs() > tolerance {
            (step, Why::ClockStepped)
        } else {
            return Continuity::Continuous;
        };
        Continuity::Jumped {
            paused: Span(paused),
            why,
        }
    }

    /// Takes `reading` as seen: the next one is compared with it.
    pub const fn accept(&mut self, reading: Reading, pulse: Pulse) {
        self.last = reading;
        self.pulse = pulse;
    }
}

/// A clock that goes back counts as one that stands.
const fn ns_between(from: u64, to: u64) -> u64 {
    to.saturating_sub(from)
}

fn to_ms(ns: u64) -> i64 {
    i64::try_from(ns / NS_PER_MS).unwrap_or(i64::MAX)
}

/// What the pulse and the admissions share.
#[derive(Debug, Default)]
struct Shared {
    beat_ns: AtomicU64,
    frozen_ns: AtomicU64,
    generations: AtomicU64,
    quality: AtomicU8,
    over: AtomicBool,
    attending: AtomicUsize,
}

impl Shared {
    /// Accounts for the time since the last beat. Of two threads that find the same gap one counts it.
    fn note(&self, now_ns: u64, beating: bool) {
        let last = self.beat_ns.load(Ordering::Acquire);
        let gap = now_ns.saturating_sub(last);
        let late = gap > FREEZE_MS * NS_PER_MS;
        if !(late || beating && gap > 0) {
            return;
        }
        let mine = self
            .beat_ns
            .compare_exchange(last, now_ns, Ordering::AcqRel, Ordering::Acquire);
        if late && mine.is_ok() {
            self.frozen_ns.fetch_add(gap, Ordering::AcqRel);
        }
    }

    fn pulse(&self) -> Pulse {
        Pulse {
            frozen_ns: self.frozen_ns.load(Ordering::Acquire),
            generations: self.generations.load(Ordering::Acquire),
        }
    }

    fn ask_quality(&self) {
        let quality = match suijuris_sys::clock::is_synced() {
            Some(true) => 2,
            Some(false) => 1,
            None => 0,
        };
        self.quality.store(quality, Ordering::Relaxed);
    }
}

/// The clocks of this machine and the pulse. One per process; ends its thread when dropped.
#[derive(Debug)]
pub struct Clock {
    shared: Arc<Shared>,
    pulse: Option<JoinHandle<()>>,
    /// Of a process that may be asked at any time.
    always: Option<Attention>,
}

/// Somebody will ask whether time passed unseen: while one of these lives the pulse beats each [`PULSE_MS`].
#[derive(Debug)]
pub struct Attention(Arc<Shared>);

impl Attention {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.attending.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        self.0.attending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Clock {
    /// Starts the pulse. `generation` is a file that names the machine's generation, where the platform has one;
    /// a change of its content is seen at the next beat.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(generation: Option<PathBuf>) -> io::Result<Self> {
        let mut clock = Self::start_at_rest(generation)?;
        clock.always = Some(clock.register());
        Ok(clock)
    }

    /// The same for a process whose objects sleep mostly: whoever takes a detector to ask again registers ([`Clock::register`]).
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start_at_rest(generation: Option<PathBuf>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared
            .beat_ns
            .store(clock_ns(ClockId::CLOCK_MONOTONIC), Ordering::Release);
        shared.ask_quality();
        let beaten = Arc::clone(&shared);
        // Before the thread runs, so that a change from now on is seen.
        let known = generation.as_deref().and_then(read_generation);
        let pulse = std::thread::Builder::new()
            .name("pulse".to_owned())
            .stack_size(64 << 10)
            .spawn(move || beat(&beaten, generation.as_deref(), known))?;
        Ok(Self {
            shared,
            pulse: Some(pulse),
            always: None,
        })
    }

    /// Keeps the pulse at its full rate until the answer is dropped. Take it before the detector.
    #[must_use]
    pub fn register(&self) -> Attention {
        let attention = Attention::new(&self.shared);
        self.pulse.as_ref().map(JoinHandle::thread).map(Thread::unpark);
        attention
    }

    /// One look at the clocks: three vDSO reads, no system call.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let mono_ns = clock_ns(ClockId::CLOCK_MONOTONIC);
        let boot_ns = clock_ns(ClockId::CLOCK_BOOTTIME);
        let wall_ns = clock_ns(ClockId::CLOCK_REALTIME);
        Reading {
            wall: Timestamp(to_ms(wall_ns)),
            quality: match self.shared.quality.load(Ordering::Relaxed) {
                2 => Quality::Synced,
                1 => Quality::Host,
                _ => Quality::Unknown,
            },
            mono_ns,
            boot_ns,
        }
    }

    /// A detector for which everything up to now is accounted for.
    #[must_use]
    pub fn detector(&self) -> ResumeDetector {
        let reading = self.reading();
        self.shared.note(reading.mono_ns, false);
        ResumeDetector::new(reading, self.shared.pulse())
    }

    /// A detector for which everything up to `reading` is accounted for, which another process of this machine took.
    #[must_use]
    pub fn detector_since(&self, reading: Reading) -> ResumeDetector {
        self.shared.note(self.reading().mono_ns, false);
        ResumeDetector::new(reading, self.shared.pulse())
    }

    /// A look at the clocks and whether it follows the last one without a break. For every admission.
    ///
    /// A break is looked at twice, for a thread that loses the CPU between two reads sees clocks that disagree.
    pub fn check(&self, detector: &mut ResumeDetector) -> (Reading, Continuity) {
        let (mut reading, mut pulse, mut continuity) = self.look(detector);
        if continuity != Continuity::Continuous {
            (reading, pulse, continuity) = self.look(detector);
        }
        detector.accept(reading, pulse);
        (reading, continuity)
    }

    fn look(&self, detector: &ResumeDetector) -> (Reading, Pulse, Continuity) {
        let reading = self.reading();
        self.shared.note(reading.mono_ns, false);
        let pulse = self.shared.pulse();
        let continuity = detector.judge(&reading, pulse);
        (reading, pulse, continuity)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(pulse) = self.pulse.take() {
            pulse.thread().unpark();
            // A pulse that panicked has nothing left to say.
            let _ = pulse.join();
        }
    }
}

/// Nanoseconds of a clock; zero where it cannot be read, which no Linux does for these.
fn clock_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// One look at the clocks for the witness, whose thread has no [`Clock`]: boot-time, and the wall for people.
pub(crate) fn moment() -> Moment {
    Moment {
        mono: Mono(clock_ns(ClockId::CLOCK_BOOTTIME)),
        wall: Timestamp(to_ms(clock_ns(ClockId::CLOCK_REALTIME))),
    }
}

fn beat(shared: &Shared, generation: Option<&Path>, mut known: Option<Vec<u8>>) {
    let mut beats = 0_u64;
    while !shared.over.load(Ordering::Acquire) {
        let rests = shared.attending.load(Ordering::Acquire) == 0;
        let pace = if rests { REST_MS } else { PULSE_MS };
        std::thread::park_timeout(Duration::from_millis(pace));
        shared.note(clock_ns(ClockId::CLOCK_MONOTONIC), true);
        beats = beats.wrapping_add(1);
        if rests || beats.is_multiple_of(BEATS_PER_QUALITY) {
            shared.ask_quality();
        }
        let now = generation.and_then(read_generation);
        if now.is_some() && known.is_some() && now != known {
            shared.generations.fetch_add(1, Ordering::AcqRel);
        }
        known = now.or(known);
    }
}

fn read_generation(path: &Path) -> Option<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(GENERATION_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000 * NS_PER_MS;

    fn at(wall_ms: i64, mono_ns: u64, boot_ns: u64) -> Reading {
        Reading {
            wall: Timestamp(wall_ms),
            quality: Quality::Host,
            mono_ns,
            boot_ns,
        }
    }

    fn judged(reading: Reading, pulse: Pulse) -> Continuity {
        ResumeDetector::new(at(1_000_000, SECOND, SECOND), Pulse::default()).judge(&reading, pulse)
    }

    fn jumped(ms: i64, why: Why) -> Continuity {
        Continuity::Jumped {
            paused: Span(ms),
            why,
        }
    }

    #[test]
    fn each_break_is_seen_and_named() {
        let still = Pulse::default();
        let check = |wall, mono, boot, pulse, expect| {
            assert_eq!(judged(at(wall, mono, boot), pulse), expect);
        };
        check(1_001_000, 2 * SECOND, 2 * SECOND, still, Continuity::Continuous);
        check(
            1_061_000,
            2 * SECOND,
            62 * SECOND,
            still,
            jumped(60_000, Why::Suspended),
        );
        check(
            1_011_000,
            2 * SECOND,
            2 * SECOND,
            still,
            jumped(10_000, Why::ClockStepped),
        );
        check(
            991_000,
            2 * SECOND,
            2 * SECOND,
            still,
            jumped(-10_000, Why::ClockStepped),
        );
        let resumed = Pulse {
            frozen_ns: 30 * SECOND,
            generations: 0,
        };
        check(
            1_030_000,
            31 * SECOND,
            31 * SECOND,
            resumed,
            jumped(30_000, Why::Frozen),
        );
        let restored = Pulse {
            frozen_ns: 0,
            generations: 1,
        };
        check(1_000_000, SECOND, SECOND, restored, jumped(0, Why::Restored));
    }

    #[test]
    fn a_break_is_told_once() {
        let mut detector = ResumeDetector::new(at(0, 0, 0), Pulse::default());
        let later = at(60_000, SECOND, 60 * SECOND);
        assert_eq!(
            detector.judge(&later, Pulse::default()),
            jumped(59_000, Why::Suspended)
        );
        detector.accept(later, Pulse::default());
        assert_eq!(detector.judge(&later, Pulse::default()), Continuity::Continuous);
    }

    #[test]
    fn a_gap_counts_once_whoever_finds_it() {
        let shared = Shared::default();
        shared.note(SECOND, false);
        assert_eq!(shared.pulse().frozen_ns, 0, "one second late is a busy machine");
        shared.note(5 * SECOND, false);
        shared.note(5 * SECOND + 1, true);
        shared.note(4 * SECOND, false);
        assert_eq!(shared.pulse().frozen_ns, 5 * SECOND);
    }

    proptest! {
        #[test]
        fn any_two_readings_are_compared_without_a_panic(
            walls in any::<(i64, i64)>(), monos in any::<(u64, u64)>(), boots in any::<(u64, u64)>(),
            frozen in any::<(u64, u64)>(), generations in any::<(u64, u64)>(),
        ) {
            let before = Pulse { frozen_ns: frozen.0, generations: generations.0 };
            let after = Pulse { frozen_ns: frozen.1, generations: generations.1 };
            let mut detector = ResumeDetector::new(at(walls.0, monos.0, boots.0), before);
            let reading = at(walls.1, monos.1, boots.1);
            let _ = detector.judge(&reading, after);
            detector.accept(reading, after);
            prop_assert_eq!(detector.judge(&reading, after), Continuity::Continuous);
        }

        #[test]
        fn slow_drift_and_long_idle_are_continuous(
            idle_ms in 0_u64..86_400_000, drift_ppm in -500_i64..=500, unread_ns in 0_u64..50_000_000,
        ) {
            let elapsed = i64::try_from(idle_ms).unwrap();
            let wall = 1_000_000 + elapsed + elapsed * drift_ppm / 1_000_000;
            let mono = SECOND + idle_ms * NS_PER_MS;
            prop_assert_eq!(judged(at(wall, mono, mono + unread_ns), Pulse::default()), Continuity::Continuous);
        }

        #[test]
        fn a_step_either_way_is_a_break(step_ms in 2_001_i64..1_000_000_000, back: bool) {
            let step = if back { -step_ms } else { step_ms };
            let found = judged(at(1_000_000 + step, SECOND, SECOND), Pulse::default());
            prop_assert_eq!(found, jumped(step, Why::ClockStepped));
        }
    }
}
