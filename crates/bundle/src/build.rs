//! From a directory to a bundle, or to a report of everything that is in the way.

use std::path::Path;

use suijuris_core::governance::Program;
use suijuris_core::manifest::{MAX_BYTES, Manifest};
use suijuris_core::{BlobId, BundleId};
use suijuris_oci::file;
use toml::de::DeTable;

use crate::advice;
use crate::definition::{self, Controllers, Definition};
use crate::fault::{Faults, code};
use crate::files::{self, DEFINITION, FileError, Files, GOVERNANCE, vocabulary};
use crate::report::{Diagnostic, Report, Severity};
use crate::rules::{self, Compiled};

/// A bundle, and what the author should know of it.
#[derive(Debug, Clone)]
pub struct Built {
    /// Identity: the CID of `manifest_bytes`.
    pub id: BundleId,
    /// The definition.
    pub manifest: Manifest,
    /// The canonical bytes of the manifest.
    pub manifest_bytes: Vec<u8>,
    /// The Cedar text, as written.
    pub governance: String,
    /// The decision program that the rules compile to.
    pub program: Program,
    /// The canonical bytes of the program.
    pub program_bytes: Vec<u8>,
    /// Warnings and advice; no errors.
    pub findings: Report,
    /// Owners, if `object.toml` names them.
    pub controllers: Option<Controllers>,
}

impl Built {
    /// The bundle as files.
    #[must_use]
    pub fn files(&self) -> Files {
        Files {
            manifest: self.manifest_bytes.clone(),
            governance: self.governance.clone(),
            program: self.program_bytes.clone(),
        }
    }
}

/// Builds the bundle of the object in `dir`. The same definition gives the same bytes on every machine.
///
/// # Errors
/// A [`Report`] of everything that is wrong in `object.toml`, in the keys it names, and in `governance.cedar`.
pub fn build(dir: &Path) -> Result<Built, Report> {
    let mut unread = Vec::new();
    let mut text = |file, max| {
        let read = files::text(&dir.join(file), max);
        read.map_err(|error| unread.push(unreadable(file, &error))).ok()
    };
    let definition = text(DEFINITION, files::MAX_DEFINITION_BYTES);
    let governance = text(GOVERNANCE, files::MAX_GOVERNANCE_BYTES);
    match (definition, governance) {
        (Some(definition), Some(governance)) => build_texts(&definition, &governance, dir),
        (definition, _) => {
            let mut report = Report::default();
            if let Some(definition) = definition {
                let read = read_definition(&definition, dir, BlobId::of(&[]));
                report.source(DEFINITION, definition.as_str());
                report.extend(read.diagnostics);
            }
            report.extend(unread);
            Err(report)
        }
    }
}

/// As [`build`], of texts at hand; key files that `definition` names are read from `dir`.
///
/// # Errors
/// As [`build`].
pub fn build_texts(definition: &str, governance: &str, dir: &Path) -> Result<Built, Report> {
    let mut report = Report::default();
    report.source(DEFINITION, definition);
    report.source(GOVERNANCE, governance);
    let read = read_definition(definition, dir, BlobId::of(governance.as_bytes()));
    report.extend(read.diagnostics);
    let compiled = compile(&read.definition, governance);
    let built = match compiled {
        Ok(compiled) => {
            let advice = advice::of(definition, &read.definition.manifest, &compiled.program);
            report.extend(compiled.findings);
            report.extend(advice);
            finish(read.definition, compiled.program, &mut report)
        }
        Err(diagnostics) => {
            report.extend(diagnostics);
            None
        }
    };
    report.sort();
    match built {
        Some(built) if !report.has_errors() => Ok(Built {
            governance: governance.to_owned(),
            findings: report,
            ..built
        }),
        _ => Err(report),
    }
}

/// The Cedar schema that the rules of the object in `dir` are checked against, as text. It follows from `object.toml` alone.
///
/// # Errors
/// A [`Report`] of what is wrong in `object.toml`.
pub fn rules_schema(dir: &Path) -> Result<String, Report> {
    let mut report = Report::default();
    let definition = match files::text(&dir.join(DEFINITION), files::MAX_DEFINITION_BYTES) {
        Ok(definition) => definition,
        Err(error) => {
            report.extend([unreadable(DEFINITION, &error)]);
            return Err(report);
        }
    };
    let read = read_definition(&definition, dir, BlobId::of(&[]));
    report.source(DEFINITION, definition);
    report.extend(read.diagnostics);
    report.sort();
    match report.has_errors() {
        true => Err(report),
        false => Ok(suijuris_policy::schema_text(&vocabulary(
            &read.definition.manifest,
        ))),
    }
}

/// The bundle without its texts; nothing, and the reason in `report`, where its bytes are too many.
fn finish(definition: Definition, program: Program, report: &mut Report) -> Option<Built> {
    let program_bytes = program.encode().map_err(|error| error.to_string());
    let manifest = |program_bytes: &[u8]| Manifest {
        program: BlobId::of(program_bytes),
        ..definition.manifest
    };
    let bytes = program_bytes.and_then(|program_bytes| {
        let manifest = manifest(&program_bytes);
        let bytes = manifest.encode().map_err(|error| error.to_string())?;
        if bytes.len() > MAX_BYTES {
            return Err(format!(
                "the manifest takes {} bytes, where {MAX_BYTES} are allowed",
                bytes.len()
            ));
        }
        Ok((manifest, bytes, program_bytes))
    });
    match bytes {
        Ok((manifest, manifest_bytes, program_bytes)) => Some(Built {
            id: BundleId::of(&manifest_bytes),
            manifest,
            manifest_bytes,
            governance: String::new(),
            program,
            program_bytes,
            findings: Report::default(),
            controllers: definition.controllers,
        }),
        Err(message) => {
            report.extend([whole_file(
                DEFINITION,
                code::OUT_OF_BOUNDS,
                message,
                "make the definition smaller",
            )]);
            None
        }
    }
}

/// What was read, and what was wrong with it.
struct Read {
    definition: Definition,
    diagnostics: Vec<Diagnostic>,
}

fn read_definition(text: &str, dir: &Path, governance: BlobId) -> Read {
    let (document, errors) = DeTable::parse_recoverable(text);
    let faults = Faults::new(DEFINITION, text);
    let mut definition = definition::read(&document, &faults, dir, governance);
    let mut diagnostics = faults.into_list();
    if !errors.is_empty() {
        definition.vocabulary_whole = false;
        let syntax = syntax(text, errors);
        // What was read from a broken line is a guess of the parser, and what is missing may stand in one.
        diagnostics
            .retain(|diagnostic| diagnostic.code != code::MISSING_KEY && !same_line(diagnostic, &syntax));
        diagnostics.extend(syntax);
    }
    diagnostics.sort_by_key(|diagnostic| diagnostic.labels.first().map(|label| label.start));
    Read {
        definition,
        diagnostics,
    }
}

fn syntax(text: &str, errors: Vec<toml::de::Error>) -> Vec<Diagnostic> {
    let faults = Faults::new(DEFINITION, text);
    for error in errors {
        let help = if error.message() == "duplicate key" {
            "each key and each [table] may appear once; merge the two"
        } else {
            "object.toml is TOML: https://toml.io/en/v1.1.0"
        };
        faults.error(code::SYNTAX, &error.span().unwrap_or(0..0), error.message(), help);
    }
    faults.into_list()
}

fn same_line(diagnostic: &Diagnostic, others: &[Diagnostic]) -> bool {
    let line = |diagnostic: &Diagnostic| diagnostic.labels.first().map(|label| label.line);
    others.iter().any(|other| line(other) == line(diagnostic))
}

fn compile(definition: &Definition, governance: &str) -> Result<Compiled, Vec<Diagnostic>> {
    if definition.vocabulary_whole {
        return rules::compile(&vocabulary(&definition.manifest), governance);
    }
    let mut unchecked = rules::syntax_errors(governance);
    if unchecked.is_empty() {
        let mut note = whole_file(
            GOVERNANCE,
            code::RULES_UNCHECKED,
            "the rules were not checked against memory, claims and headers, which have errors of their own",
            "fix object.toml and check again",
        );
        note.severity = Severity::Advice;
        unchecked.push(note);
    }
    Err(unchecked)
}

fn unreadable(name: &str, error: &FileError) -> Diagnostic {
    let help = match (name, error) {
        (GOVERNANCE, FileError::Bytes(file::FileError::Read { .. })) => {
            "an object needs its rules beside object.toml; start from `suijuris new http DIR`"
        }
        (_, FileError::Bytes(file::FileError::Read { .. })) => {
            "give the directory of an object, or start one with `suijuris new http DIR`"
        }
        _ => "",
    };
    let cause = match error {
        FileError::Bytes(file::FileError::Read { source, .. }) => {
            format!("`{name}` cannot be read: {source}")
        }
        FileError::Bytes(file::FileError::NotPlain(_)) => format!("`{name}` is not a plain file"),
        FileError::Bytes(file::FileError::TooLong { max, .. }) => {
            format!("`{name}` is longer than {max} bytes")
        }
        FileError::NotText { at, .. } => format!("`{name}` is not UTF-8 from byte {at} on"),
    };
    whole_file(name, code::FILE, cause, help)
}

fn whole_file(file: &str, code: &'static str, message: impl Into<String>, help: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: code.into(),
        message: message.into(),
        file: file.to_owned(),
        labels: Vec::new(),
        help: Some(help.to_owned()).filter(|help| !help.is_empty()),
    }
}
