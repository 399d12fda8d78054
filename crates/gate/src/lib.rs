//! The gate: a reverse proxy that forwards only what a permit lets through.
