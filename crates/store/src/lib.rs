//! The object on disk: lineage segments, checkpoint, recovery.
