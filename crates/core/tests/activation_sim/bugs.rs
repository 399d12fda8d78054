//! Known ways to drive an activation wrong. The simulation has to find each of them, or it proves nothing.
//!
//! A bug is put between the world and the activation, which itself is the one that ships: most are what an actor that
//! performs its effects carelessly would do.

/// A known bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A machine counts as ended when it was told to end.
    EarlyExit,
    /// Answers that are about an earlier machine are taken for answers about this one.
    StaleBelieved,
    /// The claim's result is not waited for before the runtime goes on.
    HastyHandOver,
    /// A claim that failed is told as won.
    FailedClaimWon,
    /// After a restart nobody looks for machines.
    NobodyLooks,
    /// A machine that cannot be attached to is taken for none.
    UnattachedIsNone,
    /// An object that is lost keeps its machine.
    LostLives,
    /// Deadlines never come.
    NoTicks,
    /// Who is to be decided about again is forgotten.
    Forgotten,
    /// Owners' writes are made on the disk, whoever has it.
    WritesAnywhere,
    /// The account of failures is forgotten.
    NoPause,
    /// What a crash left is not recorded.
    Unrecorded,
}

/// All of them.
pub(crate) const BUGS: &[Bug] = &[
    Bug::EarlyExit,
    Bug::StaleBelieved,
    Bug::HastyHandOver,
    Bug::FailedClaimWon,
    Bug::NobodyLooks,
    Bug::UnattachedIsNone,
    Bug::LostLives,
    Bug::NoTicks,
    Bug::Forgotten,
    Bug::WritesAnywhere,
    Bug::NoPause,
    Bug::Unrecorded,
];
