//! Cedar front end: schema from a bundle, validation, compilation to a decision program, oracle, findings.
