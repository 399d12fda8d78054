//! What is wrong, or worth knowing, about rules: with spans, for terminals (`miette`) and for JSON.

use std::fmt;

use serde::{Deserialize, Serialize};
use suijuris_core::governance::Rule;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The bundle cannot be built.
    Error,
    /// The bundle can be built, but likely does not say what was meant.
    Warning,
    /// Worth knowing.
    Advice,
}

/// A stretch of the rule text with a word on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label {
    /// First byte.
    pub start: usize,
    /// Length, bytes.
    pub len: usize,
    /// What is to be said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One thing to tell the author of rules.
///
/// As a [`miette::Diagnostic`] it has no source: attach the text with `miette::Report::with_source_code`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Where; the first is the main one.
    pub labels: Vec<Label>,
    /// How bad.
    pub severity: Severity,
    /// Stable code, as in `rules.type`; `docs/rules.md` lists them.
    pub code: String,
    /// What is the matter.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(severity: Severity, code: &str, message: impl Into<String>) -> Self {
        Self {
            labels: Vec::new(),
            severity,
            code: code.to_owned(),
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn at(mut self, start: usize, end: usize, text: Option<&str>) -> Self {
        self.labels.push(Label {
            start,
            len: end.saturating_sub(start),
            text: text.map(str::to_owned),
        });
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Names the rule that Cedar speaks of as its author does: Cedar counts rules in text order, from zero.
    pub(crate) fn by_id(mut self, rules: &[Rule]) -> Self {
        let named = |text: &str| {
            let rest = text.strip_prefix("for policy `policy")?;
            let (number, rest) = rest.split_once('`')?;
            let rule = rules.get(number.parse::<usize>().ok()?)?;
            let said = rest.strip_prefix(", ")?;
            // Here they are rules.
            let said = said.replace(
                "policy is impossible: the policy expression",
                "it is impossible: the expression",
            );
            Some(format!("rule `{}`: {said}", rule.id))
        };
        if let Some(message) = named(&self.message) {
            self.message = message;
        }
        self
    }

    /// Takes over what Cedar found.
    pub(crate) fn of_cedar(severity: Severity, code: &str, error: &dyn miette::Diagnostic) -> Self {
        let labels = error.labels().into_iter().flatten().map(|label| Label {
            start: label.offset(),
            len: label.len(),
            text: label.label().map(str::to_owned),
        });
        Self {
            labels: labels.collect(),
            severity,
            code: code.to_owned(),
            message: error.to_string(),
            help: error.help().map(|help| help.to_string()),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
            Severity::Advice => miette::Severity::Advice,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let spans = self
            .labels
            .iter()
            .map(|label| miette::LabeledSpan::new(label.text.clone(), label.start, label.len));
        Some(Box::new(spans))
    }
}
