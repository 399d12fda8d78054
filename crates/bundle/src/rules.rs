//! The rule compiler of `suijuris-policy`, its diagnostics made those of this crate.

use std::collections::BTreeSet;

use suijuris_core::governance::{Program, Vocabulary};
use suijuris_policy as policy;

use crate::files::GOVERNANCE;
use crate::report::{Diagnostic, Label, MAX_DIAGNOSTICS, Severity};

/// Code of text that is not Cedar.
const SYNTAX: &str = "rules.parse";

/// Compiled rules with what the compiler has to say of them.
pub(crate) struct Compiled {
    pub(crate) program: Program,
    pub(crate) findings: Vec<Diagnostic>,
}

/// Compiles `source`; all of its errors otherwise.
pub(crate) fn compile(vocabulary: &Vocabulary, source: &str) -> Result<Compiled, Vec<Diagnostic>> {
    let converted = |diagnostics: Vec<policy::Diagnostic>| {
        // A rule is checked for each action and principal that it applies to; one mistake is told once. Errors come
        // alone and findings without errors, so that the cut loses no error among advice.
        let mut told = BTreeSet::new();
        let first = |diagnostic: &policy::Diagnostic| {
            let place = diagnostic.labels.first().map(|label| (label.start, label.len));
            place.is_none() || told.insert((diagnostic.code.clone(), place))
        };
        let all = diagnostics.into_iter().filter(first).take(MAX_DIAGNOSTICS);
        all.map(|diagnostic| convert(source, diagnostic))
            .collect::<Vec<_>>()
    };
    match policy::compile(vocabulary, source) {
        Ok(compiled) => Ok(Compiled {
            findings: converted(compiled.findings),
            program: compiled.program,
        }),
        Err(diagnostics) => Err(converted(diagnostics)),
    }
}

fn convert(source: &str, diagnostic: policy::Diagnostic) -> Diagnostic {
    let label = |label: policy::Label| Label {
        text: label.text,
        ..Label::new(source, &(label.start..label.start.saturating_add(label.len)))
    };
    Diagnostic {
        severity: match diagnostic.severity {
            policy::Severity::Error => Severity::Error,
            policy::Severity::Warning => Severity::Warning,
            policy::Severity::Advice => Severity::Advice,
        },
        code: diagnostic.code.into(),
        message: diagnostic.message,
        file: GOVERNANCE.to_owned(),
        labels: diagnostic.labels.into_iter().map(label).collect(),
        help: diagnostic.help,
    }
}

/// What is wrong with `source` whatever the words of its bundle are.
pub(crate) fn syntax_errors(source: &str) -> Vec<Diagnostic> {
    let compiled = compile(&Vocabulary::default(), source);
    let mut diagnostics = compiled.err().unwrap_or_default();
    diagnostics.retain(|diagnostic| diagnostic.code == SYNTAX);
    diagnostics
}
