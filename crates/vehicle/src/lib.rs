//! Drivers that start, stop, suspend and resume machines. Knows nothing of objects.
