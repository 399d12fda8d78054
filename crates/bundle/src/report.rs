//! What is wrong with a bundle, all at once, each fault at its place in its file.
//!
//! One type for `object.toml`, rules and keys; drawn for a terminal by `miette` or written as JSON. Filled by the
//! other modules of this crate, shown by `check`, `build` and `up`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource};
use serde::Serialize;

/// How much a diagnostic weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// No bundle can be built.
    Error,
    /// The bundle can be built and will likely not do what its author wants.
    Warning,
    /// Worth knowing.
    Advice,
}

/// A place in a file, and what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// First byte.
    pub start: usize,
    /// Byte behind the last.
    pub end: usize,
    /// Line of the first byte, from 1.
    pub line: usize,
    /// Column of the first byte in characters, from 1.
    pub column: usize,
    /// What is there, if the message does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One fault or advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How much it weighs.
    pub severity: Severity,
    /// Stable word for programs: `object.…` is listed in `docs/object-toml.md`, `rules.…` in `docs/rules.md`.
    pub code: Cow<'static, str>,
    /// What is wrong.
    pub message: String,
    /// File, relative to the object's directory.
    pub file: String,
    /// Where; the first is the place itself, the others belong to it. Empty where the file as a whole is meant.
    pub labels: Vec<Label>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// How a report is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With colour: on a terminal that wants it. Colour never says anything that the text does not.
    pub colour: bool,
    /// Columns of the terminal.
    pub width: usize,
}

impl Style {
    /// For a pipe or file: no colour, 100 columns.
    pub const PLAIN: Self = Self {
        colour: false,
        width: 100,
    };
}

/// Diagnostics with the texts they speak of. As JSON, the list of diagnostics.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Report {
    diagnostics: Vec<Diagnostic>,
    #[serde(skip)]
    sources: Vec<(String, String)>,
}

/// Diagnostics of one weight that a file's report keeps at most; nonsense need not be told off line by line.
pub const MAX_DIAGNOSTICS: usize = 100;

impl Report {
    /// Takes the text of `file` in, for drawing.
    pub(crate) fn source(&mut self, file: impl Into<String>, text: impl Into<String>) {
        self.sources.push((file.into(), text.into()));
    }

    /// Adds diagnostics.
    pub(crate) fn extend(&mut self, diagnostics: impl IntoIterator<Item = Diagnostic>) {
        self.diagnostics.extend(diagnostics);
    }

    /// Sorts by file as taken in, then place, so that a report reads from top to bottom.
    pub(crate) fn sort(&mut self) {
        let sources = &self.sources;
        self.diagnostics.sort_by_key(|diagnostic| {
            let file = sources.iter().position(|(file, _)| *file == diagnostic.file);
            (file, diagnostic.labels.first().map(|label| label.start))
        });
    }

    /// The diagnostics, file by file from top to bottom.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether an error is among them.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// Diagnostics of this weight.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    }

    /// The report drawn with its sources, as `check` prints it.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let theme = if style.colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(style.width.max(40))
            .with_links(false);
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            if !out.is_empty() {
                out.push('\n');
            }
            let drawn = self.drawable(diagnostic);
            // Drawing fails only where a place lies outside its text; the words must not be lost then.
            if handler.render_report(&mut out, drawn.as_ref()).is_err() {
                out += &format!("{diagnostic}\n");
            }
        }
        out
    }

    fn drawable(&self, diagnostic: &Diagnostic) -> miette::Report {
        let labels = diagnostic.labels.iter().map(|label| {
            LabeledSpan::new(
                label.text.clone(),
                label.start,
                label.end.saturating_sub(label.start),
            )
        });
        let mut drawn = MietteDiagnostic::new(diagnostic.message.clone())
            .with_code(diagnostic.code.as_ref())
            .with_severity(match diagnostic.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
                Severity::Advice => miette::Severity::Advice,
            })
            .with_labels(labels);
        if let Some(help) = &diagnostic.help {
            drawn = drawn.with_help(help.clone());
        }
        let report = miette::Report::new(drawn);
        match self.sources.iter().find(|(file, _)| *file == diagnostic.file) {
            Some((file, text)) => report.with_source_code(NamedSource::new(file, text.clone())),
            None => report,
        }
    }
}

impl fmt::Display for Report {
    /// One line a diagnostic; [`Report::render`] shows the places.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Diagnostic {
    /// As `object.toml:3:1: message [code]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(label) = self.labels.first() {
            write!(f, ":{}:{}", label.line, label.column)?;
        }
        write!(f, ": {} [{}]", self.message, self.code)
    }
}

impl Label {
    /// The label of `span` in `text`; a span outside of it is moved to its end.
    #[must_use]
    pub fn new(text: &str, span: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            start,
            end,
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            text: None,
        }
    }
}
