//! Names of the states, for people, tables and the request queue.

/// How far a stop by the host has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostStop {
    /// None was asked for.
    None,
    /// It is under way.
    UnderWay,
    /// No machine is left, or none that could be ended in time.
    Done,
}

/// The state's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// [`State::Resting`](super::State::Resting).
    Resting,
    /// [`State::Starting`](super::State::Starting).
    Starting,
    /// [`State::Running`](super::State::Running), while the gate takes what comes.
    Running,
    /// [`State::Running`](super::State::Running), while the object falls asleep.
    Draining,
    /// [`State::Suspending`](super::State::Suspending).
    Suspending,
    /// [`State::Suspended`](super::State::Suspended).
    Suspended,
    /// [`State::Resuming`](super::State::Resuming).
    Resuming,
    /// [`State::Stopping`](super::State::Stopping).
    Stopping,
    /// [`State::Settling`](super::State::Settling).
    Settling,
    /// [`State::BackingOff`](super::State::BackingOff).
    BackingOff,
    /// [`State::Lost`](super::State::Lost).
    Lost,
}

impl Phase {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Resting,
        Self::Starting,
        Self::Running,
        Self::Draining,
        Self::Suspending,
        Self::Suspended,
        Self::Resuming,
        Self::Stopping,
        Self::Settling,
        Self::BackingOff,
        Self::Lost,
    ];

    /// The word for people and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resting => "resting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Resuming => "resuming",
            Self::Stopping => "stopping",
            Self::Settling => "settling",
            Self::BackingOff => "backing_off",
            Self::Lost => "lost",
        }
    }
}
