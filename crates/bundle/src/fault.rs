//! Collects what is wrong with one file while it is read, under stable codes.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;

use crate::report::{Diagnostic, Label, MAX_DIAGNOSTICS, Severity};

/// The stable words; `docs/object-toml.md` says of each what it means and what to do.
pub(crate) mod code {
    macro_rules! codes {
        ($($name:ident = $text:literal),* $(,)?) => {
            $(pub(crate) const $name: &str = $text;)*
            #[cfg(test)]
            pub(crate) const ALL: &[&str] = &[$($text),*];
        };
    }
    codes! {
        FILE = "object.file",
        SYNTAX = "object.syntax",
        UNKNOWN_KEY = "object.unknown_key",
        MISSING_KEY = "object.missing_key",
        WRONG_TYPE = "object.wrong_type",
        UNKNOWN_WORD = "object.unknown_word",
        BAD_NAME = "object.bad_name",
        BAD_VALUE = "object.bad_value",
        OUT_OF_BOUNDS = "object.out_of_bounds",
        BAD_TYPE = "object.bad_type",
        BAD_DEFAULT = "object.bad_default",
        SECRET_DEFAULT = "object.secret_default",
        BAD_TIMER = "object.bad_timer",
        BAD_KEY = "object.bad_key",
        PRIVATE_KEY = "object.private_key",
        TWICE = "object.twice",
        PLACEHOLDER = "object.placeholder",
        RULES_UNCHECKED = "object.rules_unchecked",
        CLEAR_SECRET = "object.clear_secret",
        UNUSED_TRIGGER = "object.unused_trigger",
        UNUSED_CLAIM = "object.unused_claim",
        UNUSED_HEADER = "object.unused_header",
        NO_REQUEST_WORDS = "object.no_request_words",
        TLS_WORDS = "object.tls_words",
        SECRET_LITERAL = "object.secret_literal",
        NO_SECRET = "object.no_secret",
        PREFLIGHT = "object.preflight",
        UNPINNED = "object.unpinned",
        NEVER_FIRES = "object.never_fires",
    }
}

/// The faults of one file; shared by its readers.
pub(crate) struct Faults<'t> {
    file: &'t str,
    text: &'t str,
    list: RefCell<Vec<Diagnostic>>,
}

impl<'t> Faults<'t> {
    pub(crate) const fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            list: RefCell::new(Vec::new()),
        }
    }

    pub(crate) fn error(
        &self,
        code: &'static str,
        span: &Range<usize>,
        message: impl Display,
        help: impl Display,
    ) {
        self.add(Severity::Error, code, span, &message, &help);
    }

    /// Something that is fine where it is meant.
    pub(crate) fn advice(
        &self,
        code: &'static str,
        span: &Range<usize>,
        message: impl Display,
        help: impl Display,
    ) {
        self.add(Severity::Advice, code, span, &message, &help);
    }

    pub(crate) fn warning(
        &self,
        code: &'static str,
        span: &Range<usize>,
        message: impl Display,
        help: impl Display,
    ) {
        self.add(Severity::Warning, code, span, &message, &help);
    }

    fn add(
        &self,
        severity: Severity,
        code: &'static str,
        span: &Range<usize>,
        message: &dyn Display,
        help: &dyn Display,
    ) {
        let mut list = self.list.borrow_mut();
        // Each label walks the text: a file of a million faults must not buy a million walks.
        if list.iter().filter(|had| had.severity == severity).count() >= MAX_DIAGNOSTICS {
            return;
        }
        let help = help.to_string();
        list.push(Diagnostic {
            severity,
            code: code.into(),
            message: message.to_string(),
            file: self.file.to_owned(),
            labels: vec![Label::new(self.text, span)],
            help: Some(help).filter(|help| !help.is_empty()),
        });
    }

    /// Whether an error already stands at, in or around `span`.
    pub(crate) fn touches(&self, span: &Range<usize>) -> bool {
        self.list.borrow().iter().any(|diagnostic| {
            diagnostic.labels.iter().any(|label| {
                label.start < span.end.max(span.start + 1) && span.start < label.end.max(label.start + 1)
            })
        })
    }

    pub(crate) fn into_list(self) -> Vec<Diagnostic> {
        self.list.into_inner()
    }
}

/// The word of `known` that somebody who wrote `found` most likely meant.
pub(crate) fn nearest<'k>(found: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // A long key of a hostile file must not buy quadratic time.
    if found.len() > 64 {
        return None;
    }
    let likeness = |word: &&str| strsim::jaro_winkler(found, word);
    let best = known
        .into_iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.75).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_explains_every_code() {
        let reference = include_str!("../../../docs/object-toml.md");
        for code in code::ALL {
            assert!(reference.contains(&format!("| `{code}` |")), "{code}");
        }
    }

    #[test]
    fn the_word_that_was_meant_is_near_and_a_stranger_is_not() {
        assert_eq!(nearest("comand", ["command", "cwd", "env"]), Some("command"));
        assert_eq!(nearest("colour", ["command", "cwd", "env"]), None);
        assert_eq!(nearest("a", []), None);
    }
}
