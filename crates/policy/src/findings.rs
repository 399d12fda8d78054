//! What `check` tells the author of valid rules: what likely was not meant.

use suijuris_core::governance::{Action, Program, Vocabulary};

use crate::compile::permitted;
use crate::diagnostic::{Diagnostic, Severity};

/// All findings; `warnings` are Cedar's own.
pub(crate) fn all(
    _vocabulary: &Vocabulary,
    _source: &str,
    program: &Program,
    warnings: Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let mut all = warnings;
    all.extend(unpermitted(program));
    all
}

fn unpermitted(program: &Program) -> Vec<Diagnostic> {
    let permitted = permitted(program);
    let missing: Vec<&str> = Action::ALL
        .iter()
        .filter(|action| !permitted.contains(action))
        .map(|action| action.as_str())
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let message = format!("no rule permits {}: always refused", missing.join(", "));
    vec![Diagnostic::new(Severity::Advice, "rules.no_permit", message)]
}
