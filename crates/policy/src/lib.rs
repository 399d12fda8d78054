//! Cedar front end: schema from a vocabulary, strict validation, compilation to a decision program, oracle, findings.
//!
//! Cedar is a build-time tool here: it parses and validates, and in tests it is the oracle. Inside the machine runs
//! only the program ([`suijuris_core::governance::Program`]). Called from the bundle builder, the command line, tests.

mod compile;
mod diagnostic;
mod findings;
mod literal;
mod lower;
mod nesting;
#[cfg(feature = "oracle")]
pub mod oracle;
mod words;

pub use compile::{MAX_SOURCE_BYTES, compile};
pub use diagnostic::{Diagnostic, Label, Severity};
use suijuris_core::governance::Program;
pub use words::schema_text;

/// Rules that are good to go.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// What likely was not meant, sorted by place.
    pub findings: Vec<Diagnostic>,
}
