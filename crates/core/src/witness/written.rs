//! Which marks a copy wrote: how it tells its own from those of a copy of itself.
//!
//! A name cannot tell. Where a whole virtual machine is copied, both copies go by one name, and neither may know it; what
//! each of them wrote since then differs.

use super::mark::Mark;

/// Marks that are remembered at most; an older one counts as a stranger's, and its lease is waited for.
const MAX: usize = 32;

/// The marks that one copy sent to its depot last, whether or not an answer came. Kept by the shell of its keeper, for all
/// processes that hold the object one after the other, and forgotten when the memory of this process may have been copied
/// while the object was served.
#[derive(Debug, Clone, Default)]
pub struct Written(Vec<Mark>);

impl Written {
    /// This mark is about to be sent.
    pub fn note(&mut self, mark: &Mark) {
        if !self.has(mark) {
            self.0.push(mark.clone());
            let excess = self.0.len().saturating_sub(MAX);
            self.0.drain(..excess);
        }
    }

    /// Whether this very mark was sent.
    #[must_use]
    pub fn has(&self, mark: &Mark) -> bool {
        self.0.contains(mark)
    }

    /// From now on all of them count as another's.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}
