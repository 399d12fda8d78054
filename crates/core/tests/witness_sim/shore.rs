//! The simulated depot: one linearizable compare-and-swap, and everything that was ever witnessed.

use suijuris_core::id::RecordId;
use suijuris_core::witness::{Mark, Swapped};

/// The depot.
#[derive(Debug, Default)]
pub(crate) struct Shore {
    present: Option<(Mark, u64)>,
    by_content: bool,
    /// Distinct contents, each with its place as version, where versions are digests.
    contents: Vec<Mark>,
    swaps: u64,
    /// Heads that marks had, each new one once.
    witnessed: Vec<(u64, RecordId)>,
    /// A known bug: swaps whatever stands there.
    pub(crate) blind: bool,
}

impl Shore {
    pub(crate) fn new(by_content: bool) -> Self {
        Self {
            by_content,
            ..Self::default()
        }
    }

    pub(crate) fn read(&self) -> Option<(Mark, u64)> {
        self.present.clone()
    }

    pub(crate) fn swap(&mut self, mark: &Mark, expected: Option<u64>) -> Swapped<u64> {
        if self.present.as_ref().map(|(_, version)| *version) != expected && !self.blind {
            return Swapped::Conflict(self.present.clone());
        }
        self.swaps += 1;
        let version = if self.by_content {
            self.content(mark)
        } else {
            self.swaps
        };
        self.present = Some((mark.clone(), version));
        if self.witnessed.last() != Some(&(mark.seq, mark.head)) {
            self.witnessed.push((mark.seq, mark.head));
        }
        Swapped::Done(version)
    }

    fn content(&mut self, mark: &Mark) -> u64 {
        let place = self.contents.iter().rposition(|content| content == mark);
        let place = place.unwrap_or_else(|| {
            self.contents.push(mark.clone());
            self.contents.len() - 1
        });
        place as u64
    }

    pub(crate) fn witnessed(&self) -> &[(u64, RecordId)] {
        &self.witnessed
    }

    pub(crate) fn mark(&self) -> Option<&Mark> {
        self.present.as_ref().map(|(mark, _)| mark)
    }
}
