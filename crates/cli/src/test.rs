//! `test`: what rules decide, held against what their author expects, in files beside them.
//!
//! Each case is an object that nobody made, in a situation, and a proposal; `suijuris_supervisor::history::imagined` decides.
//! Nothing runs and nothing is written.

mod file;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use suijuris_api::event::Verdict;
use suijuris_bundle::{Style, build};
use suijuris_core::bundle::Bundle;
use suijuris_supervisor::history::imagined::{self, Answered};

use self::file::{Case, Expected};
use crate::carrier::opened;
use crate::terminal::{self, Screen, Tone, clean};
use crate::{Answer, render};

/// Where cases are looked for, beside `object.toml`.
const FOLDER: &str = "tests";

/// Files of cases at most.
const MAX_FILES: usize = 1_000;

/// Test an object's rules by the cases in its tests/*.toml
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing runs and nothing is recorded. A case says how an object stands, what is proposed, and what its rules
are to decide:

  [[case]]
  name = \"closed for visitors\"
  action = \"wake\"
  path = \"/\"
  memory = { open = false }
  expect = \"refuse\"
  rules = [\"closed\"]

docs/rules.md lists the keys. Rules by which no case is decided are named at the end.

Exit codes: 0 all as expected, 1 some otherwise, 3 the definition or a file of cases is broken, or there is none.

Example:
  suijuris test hello")]
pub(crate) struct Args {
    /// Object's directory
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// File of cases, in place of those in DIR/tests; may be given several times
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of all cases.
#[derive(Debug, Serialize)]
struct Tested {
    bundle: String,
    passed: usize,
    failed: usize,
    /// Rules by which no case was decided.
    untested: Vec<String>,
    cases: Vec<Result>,
}

/// What came of one.
#[derive(Debug, Serialize)]
struct Result {
    file: String,
    line: usize,
    name: String,
    passed: bool,
    expected: Expected,
    /// What was decided; nothing where the case does not fit the definition.
    verdict: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// What is otherwise than expected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
    #[serde(skip)]
    grounds: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let built = build(&args.dir).map_err(|report| {
        let style = Style {
            colour: terminal::colour(&std::io::stderr()),
            ..Style::PLAIN
        };
        anyhow::anyhow!(
            "the definition in `{}` cannot be built\n{}",
            args.dir.display(),
            report.render(style).trim_end()
        )
    })?;
    let bundle = opened(&built)?;
    let mut cases = Vec::new();
    for path in files(args)? {
        for case in file::read(&path)? {
            cases.push(tried(&bundle, &path, case));
        }
    }
    anyhow::ensure!(
        !cases.is_empty(),
        "there is no [[case]] in the files of cases: add one"
    );
    let failed = cases.iter().filter(|case| !case.passed).count();
    let tested = Tested {
        bundle: built.id.to_string(),
        passed: cases.len() - failed,
        failed,
        untested: untested(&bundle, &cases),
        cases,
    };
    if args.json {
        terminal::print_json(&tested)?;
    } else {
        terminal::print(&text(&tested, Screen::stdout()))?;
    }
    Ok(if failed == 0 { Answer::Yes } else { Answer::No })
}

/// The files that are named, or those in the folder of cases, in the order of their names.
fn files(args: &Args) -> anyhow::Result<Vec<PathBuf>> {
    if !args.file.is_empty() {
        return Ok(args.file.clone());
    }
    let folder = args.dir.join(FOLDER);
    let none = || {
        anyhow::anyhow!(
            "there are no cases in `{}`: write tests/rules.toml, or name a file with --file",
            folder.display()
        )
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none()),
        Err(error) => {
            return Err(anyhow::Error::from(error).context(format!("`{}` cannot be read", folder.display())));
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "toml") {
            found.push(path);
        }
    }
    anyhow::ensure!(
        found.len() <= MAX_FILES,
        "there are more than {MAX_FILES} files of cases in `{}`: name some with --file",
        folder.display()
    );
    found.sort();
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn tried(bundle: &Bundle, path: &Path, case: Case) -> Result {
    let answered = imagined::decide(bundle, &case.situation, &case.supposed, case.now);
    let (verdict, status, wrong, grounds) = match answered {
        Ok(Answered { what_if, status }) => {
            let wrong = case.expected.otherwise(bundle, &what_if.verdict, status);
            let grounds = render::grounds(&what_if.explained);
            (Some(what_if.verdict), status, wrong, grounds)
        }
        Err(error) => (None, None, vec![error.to_string()], String::new()),
    };
    Result {
        file: path.display().to_string(),
        line: case.line,
        name: case.name,
        passed: wrong.is_empty(),
        expected: case.expected,
        verdict,
        status,
        wrong,
        grounds,
    }
}

/// Rules by which no case was decided.
fn untested(bundle: &Bundle, cases: &[Result]) -> Vec<String> {
    let decided: BTreeSet<&String> = cases
        .iter()
        .filter_map(|case| case.verdict.as_ref())
        .flat_map(|verdict| &verdict.rules)
        .collect();
    let rules = bundle.rules.program.rules().iter().map(|rule| &rule.id);
    rules.filter(|rule| !decided.contains(rule)).cloned().collect()
}

fn text(tested: &Tested, terminal: Screen) -> String {
    let mut text = String::new();
    for case in tested.cases.iter().filter(|case| !case.passed) {
        let word = terminal.paint(Tone::Bad, "failed");
        text += &format!(
            "{word}  {}  ({}:{})\n",
            clean(&case.name),
            clean(&case.file),
            case.line
        );
        for wrong in &case.wrong {
            text += &format!("  {}\n", clean(wrong));
        }
        text += &case.grounds;
        text += "\n";
    }
    let counted = terminal::count(u64::try_from(tested.cases.len()).unwrap_or(u64::MAX), "case");
    text += &format!("{counted}: {} passed, {} failed\n", tested.passed, tested.failed);
    if !tested.untested.is_empty() {
        let rules: Vec<_> = tested.untested.iter().map(|rule| clean(rule)).collect();
        text += &format!("no case is decided by {}\n", rules.join(", "));
    }
    text
}
