//! `diff`: the definition in force and the one in the files, side by side.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;
use suijuris_core::bundle::Bundle;

use crate::object_paths::ObjectArg;
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, history, what_if};

/// Lines around a change of the rules.
const AROUND: usize = 3;

/// Show how the definition in the files differs from the one in force
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The definition in force is the one that the object took last; that in DIR may have been refused, or not been proposed
yet. Also says how many recorded decisions would come out otherwise (`suijuris what-if --rules` lists them).

Exit codes: 0 they are the same, 1 they differ.

Example:
  suijuris diff hello")]
pub(crate) struct Args {
    #[command(flatten)]
    at: ObjectArg,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A setting that is not the same.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Setting {
    setting: String,
    /// Absent where the definition in force does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<Value>,
    /// Absent where the files do not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Difference {
    /// Id of the definition in force.
    in_force: String,
    /// Id of that in the files.
    files: String,
    settings: Vec<Setting>,
    /// Changes of the rules, in the unified format.
    rules: String,
    /// Recorded decisions, and how many would come out otherwise.
    judged: u64,
    would_change: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let place = args.at.locate()?;
    let Some(dir) = &place.object_dir else {
        let what = place.data.display();
        return Err(Usage(format!(
            "{what} has no definition in files: name the object's directory"
        ))
        .into());
    };
    let reader = history::open(&place)?;
    let bundle = reader.bundle(&reader.state().head().bundle)?;
    let built = crate::add::build(dir)?;
    let (judged, would_change) = what_if::changes(&reader, &built)?;
    let difference = Difference {
        in_force: bundle.id().to_string(),
        files: built.id.to_string(),
        settings: settings(&flat(&bundle.manifest)?, &flat(&built.manifest)?),
        rules: rules(&bundle, &built.governance),
        judged,
        would_change,
    };
    if args.json {
        terminal::print_json(&difference)?;
    } else {
        terminal::print(&difference.text(Screen::stdout()))?;
    }
    Ok(if difference.in_force == difference.files {
        Answer::Yes
    } else {
        Answer::No
    })
}

fn rules(bundle: &Bundle, files: &str) -> String {
    let diff = TextDiff::from_lines(bundle.governance.as_str(), files);
    let mut unified = diff.unified_diff();
    unified
        .context_radius(AROUND)
        .header("in force", "governance.cedar");
    unified.to_string()
}

/// Settings by their path, as in `gate.hold`; what only stands for a text is left to the text.
fn flat(manifest: &impl Serialize) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    add("", serde_json::to_value(manifest)?, &mut found);
    found.retain(|path, _| !matches!(path.as_str(), "governance" | "program"));
    Ok(found)
}

fn add(path: &str, value: Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(parts) if !parts.is_empty() => {
            for (name, part) in parts {
                let dot = if path.is_empty() { "" } else { "." };
                add(&format!("{path}{dot}{name}"), part, found);
            }
        }
        value => drop(found.insert(path.to_owned(), value)),
    }
}

fn settings(in_force: &BTreeMap<String, Value>, files: &BTreeMap<String, Value>) -> Vec<Setting> {
    let mut names: Vec<&String> = in_force.keys().chain(files.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differs = |name: &&String| in_force.get(*name) != files.get(*name);
    let setting = |name: &String| Setting {
        setting: name.clone(),
        in_force: in_force.get(name).cloned(),
        files: files.get(name).cloned(),
    };
    names.into_iter().filter(differs).map(setting).collect()
}

impl Difference {
    fn text(&self, terminal: Screen) -> String {
        if self.in_force == self.files {
            return format!("the definition in the files is in force ({})\n", self.files);
        }
        let mut text = format!("in force   {}\nin files   {}\n", self.in_force, self.files);
        let line = |sign: &str, tone, setting: &str, value: &Option<Value>| {
            value.as_ref().map_or_else(String::new, |value| {
                let line = format!("{sign}{setting} = {}", terminal::clean(&value.to_string()));
                format!("{}\n", terminal.paint(tone, &line))
            })
        };
        for Setting {
            setting,
            in_force,
            files,
        } in &self.settings
        {
            text += &line("-", Tone::Bad, setting, in_force);
            text += &line("+", Tone::Good, setting, files);
        }
        for changed in self.rules.lines() {
            let tone = match changed.bytes().next() {
                Some(b'-') => Tone::Bad,
                Some(b'+') => Tone::Good,
                _ => Tone::Faint,
            };
            text += &format!("{}\n", terminal.paint(tone, &terminal::clean(changed)));
        }
        let (judged, changed) = (
            terminal::count(self.judged, "recorded decision"),
            self.would_change,
        );
        text + &format!("{judged} replayed, {changed} would change\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_are_told_by_their_path_and_both_values() {
        let in_force = flat(&json!({"gate": {"hold": 5, "api": true}, "name": "a", "program": "x"})).unwrap();
        let files = flat(&json!({"gate": {"hold": 6}, "name": "a", "program": "y", "memory": {}})).unwrap();
        let found: Vec<_> = settings(&in_force, &files)
            .into_iter()
            .map(|setting| (setting.setting, setting.in_force, setting.files))
            .collect();
        assert_eq!(
            found,
            [
                ("gate.api".to_owned(), Some(json!(true)), None),
                ("gate.hold".to_owned(), Some(json!(5)), Some(json!(6))),
                ("memory".to_owned(), None, Some(json!({}))),
            ]
        );
    }
}
