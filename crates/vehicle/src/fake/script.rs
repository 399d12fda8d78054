//! What a played machine does. Plain values; played by `machine`.

use std::time::Duration;

use crate::machine::Exit;

/// What a machine does from start to end. By default it starts at once, takes links without answering, says nothing,
/// ends with code 0 on any signal, suspends, and is taken over by a later supervisor.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// What becomes of its start.
    pub starts: Starts,
    /// When it ends by itself.
    pub ends: Ends,
    /// What a signal does to it.
    pub stops: Stops,
    /// What becomes of suspending it.
    pub suspends: Suspends,
    /// What it does with links.
    pub links: Links,
    /// What it writes.
    pub speaks: Speaks,
    /// What becomes of a later supervisor's attaching.
    pub taken_over: TakenOver,
}

/// What becomes of a start.
#[derive(Debug, Clone, Default)]
pub enum Starts {
    /// It works.
    #[default]
    AtOnce,
    /// It works after some time.
    After(Duration),
    /// It fails, for this reason.
    Fails(String),
    /// It never comes to an end.
    Hangs,
}

/// When a machine ends by itself.
#[derive(Debug, Clone, Default)]
pub enum Ends {
    /// It does not.
    #[default]
    Never,
    /// After some time of running, suspensions included.
    After(Duration, Exit),
}

/// What a signal other than SIGKILL does.
#[derive(Debug, Clone)]
pub enum Stops {
    /// The machine ends after some time, so.
    After(Duration, Exit),
    /// Nothing.
    Ignores,
}

impl Default for Stops {
    fn default() -> Self {
        Self::After(Duration::ZERO, Exit::Code(0))
    }
}

/// What becomes of suspending.
#[derive(Debug, Clone, Copy, Default)]
pub enum Suspends {
    /// It works.
    #[default]
    AtOnce,
    /// It fails, and the machine runs on.
    Fails,
    /// It never comes to an end.
    Hangs,
}

/// What a machine does with links.
#[derive(Debug, Clone, Copy, Default)]
pub enum Links {
    /// It takes them for [`super::Inside::link`] to play.
    #[default]
    Played,
    /// It takes them and says back what it hears.
    Echoes,
    /// It takes them and never answers.
    Silent,
    /// It closes each at once.
    Closes,
}

/// What a machine writes.
#[derive(Debug, Clone, Default)]
pub enum Speaks {
    /// Nothing by itself.
    #[default]
    Nothing,
    /// These lines, at once.
    Lines(Vec<String>),
    /// A line with a growing number, again and again, not while suspended.
    Counts(Duration),
    /// As much as is read, for ever.
    Floods,
}

/// What becomes of a later supervisor's attaching.
#[derive(Debug, Clone, Default)]
pub enum TakenOver {
    /// It works.
    #[default]
    AtOnce,
    /// It never comes to an end.
    Hangs,
    /// It fails for this reason, and the machine is killed.
    Killed(String),
}
