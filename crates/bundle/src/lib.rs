//! Authoring: `object.toml` and `governance.cedar` become a bundle; templates to start from.
//!
//! [`build`] reports everything that is wrong at once, each fault at its place. This is build-time code, used by the
//! command line: Cedar is in here, and nothing that runs in a machine depends on it. What a bundle is, is defined by
//! [`suijuris_core::manifest`]. [`artifact`] says what an exported object is to a registry.

mod advice;
pub mod artifact;
mod build;
pub mod defaults;
mod definition;
mod fault;
mod files;
mod pem;
pub mod pins;
mod report;
mod rules;
mod section;
mod template;

pub use build::{Built, build, build_texts, rules_schema};
pub use definition::Controllers;
pub use files::{
    DEFINITION, FileError, Files, GOVERNANCE, MAX_DEFINITION_BYTES, MAX_GOVERNANCE_BYTES, Verified,
    VerifyError, verify_files, vocabulary,
};
pub use report::{Diagnostic, Label, MAX_DIAGNOSTICS, Report, Severity, Style};

/// The JSON schema of `object.toml`, for editors.
pub const OBJECT_SCHEMA: &str = include_str!("../../../docs/object.schema.json");

pub use template::{ScaffoldError, Template, scaffold, templates};
