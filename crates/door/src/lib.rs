//! Decides for sleeping objects.
