//! Retired names stay out of the crates: one meaning a word, one word a meaning. A name stands here once nothing carries it
//! any more, and only if it has no other good use.

use super::Finding;
use crate::source::words;
use crate::tree::File;

/// Identifiers that were given up, and what says it now. Literals and comments are not looked at: formats keep their words.
const RETIRED: &[(&str, &str)] = &[
    (
        "House",
        "`ObjectActor` in the supervisor, `BootContext` in the runtime, a rig in tests",
    ),
    ("Stay", "`activation::State`"),
    ("furnish", "one struct for each phase of the boot"),
    ("mop_up", "`clean_up`"),
    ("Landing", "`Staging`"),
    ("mend", "`repair`"),
    ("FoundError", "`CreateError`: what is found was searched for"),
    ("beget", "`commit`"),
    ("Conception", "`ForkRequest`"),
    ("bear", "`fork`"),
    ("Errand", "`ControlRequest`"),
    ("Errands", "`ControlRequest`"),
    ("ToUp", "`ControlRequest`"),
    ("Desk", "the server or state that it is"),
    ("desk", "the server or state that it is"),
    ("telling", "`EventPrinter`"),
    ("Handed", "`LeaseGrant`, `Handoff`, or what was passed on"),
    ("HandedOver", "`Granted`, or `Handoff` at the gate"),
    ("handing", "`handoff`, or `fd_passing` for connections"),
    ("handover", "`fd_passing`; only the format keeps the word"),
    ("Owed", "`Unrecorded`"),
    ("Ledger", "`LineageWriter`"),
    ("GateJudge", "`ObjectAuthorizer`"),
    ("Folded", "`Residual`"),
    ("Agenda", "`Plan`"),
    ("Settled", "`Known`"),
    ("consider", "`evaluate`"),
    ("foresee", "`evaluate_as_if_awake`"),
    ("weigh", "`evaluate_quick`"),
    ("Weighed", "`QuickDecision`"),
    ("Attendance", "`PresenceGuard`"),
    ("attend", "`register`"),
    ("Where", "`ObjectArg` or `ObjectPaths`"),
    ("Which", "what it selects, as in `ChildSelector`"),
    ("turned_away", "`rejected`"),
    ("Census", "`Counts`"),
    ("Flight", "`SingleFlight`"),
    ("see_out", "`shut_down`"),
    ("settle_down", "`prewarm`"),
    (
        "Standing",
        "`ConnectionStatus`, `ObjectStatus`, `Conditions` or `LeaseStatus`",
    ),
    ("stir", "`notify_changed`"),
    ("narrows", "`attenuation`"),
    ("Wider", "`NotAttenuated`"),
    ("Disbelief", "an `…Error`"),
    ("NotAFork", "an `…Error`"),
    ("Unusable", "an `…Error`"),
    ("refused_at_gate", "`refused`"),
    ("Thawed", "`Resumed`"),
    ("thawed", "`resumed`"),
    ("Freezing", "`Suspending`"),
    ("ask_to_be_frozen", "`ask_to_be_suspended`"),
    ("keep_house", "what is kept in order, as in `enforce_deadlines`"),
];

/// Files, without their ending, that were given up.
const RETIRED_FILES: &[(&str, &str)] = &[
    ("house", "`rig` in tests, else what it holds"),
    ("errands", "`requests`"),
    ("desk", "`control_server`"),
    ("say", "`event_printer`"),
    ("telling", "`render`"),
    ("screen", "`terminal`"),
    ("handing", "`handoff`"),
    ("judge", "`authorizer`"),
    ("shell", "`lifecycle_driver`"),
    ("family", "`process_tree`"),
    ("sealing", "`key_wrap`"),
    ("holding", "`claim`"),
    ("held", "`offline`"),
];

/// Checks the crates' Rust files; this program may name what it looks for.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let crates = files.iter().filter(|file| file.path.starts_with("crates/"));
    crates
        .filter_map(|file| Some((file, file.rust.as_ref()?)))
        .flat_map(|(file, source)| {
            let of_code = RETIRED.iter().flat_map(|(name, instead)| {
                let at = words(&source.code, name);
                at.map(|at| finding(file, source.line(at), name, instead))
            });
            let stem = file.name().trim_end_matches(".rs");
            let of_file = RETIRED_FILES
                .iter()
                .filter(|(name, _)| *name == stem)
                .map(|(name, instead)| finding(file, 0, name, instead));
            of_code.chain(of_file).collect::<Vec<_>>()
        })
        .collect()
}

fn finding(file: &File, line: usize, name: &str, instead: &str) -> Finding {
    let advice = format!("`{name}` is a retired name: say {instead}");
    Finding::error(&file.path, line, "retired-name", advice)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::rules;
    use super::*;

    fn check_at(path: &str, text: &str) -> Vec<Finding> {
        check(&[File::new(path, text)])
    }

    #[test]
    fn each_retired_name_is_caught_with_its_line_and_replacement() {
        for (name, instead) in RETIRED {
            let found = check_at("crates/x/src/a.rs", &format!("//! A.\nlet x = {name}::new();\n"));
            assert_eq!(rules(&found), ["retired-name"], "{name}");
            assert_eq!(found[0].line, 2);
            assert!(found[0].advice.contains(instead), "{}", found[0].advice);
        }
    }

    #[test]
    fn each_retired_file_is_caught() {
        for (name, _) in RETIRED_FILES {
            let found = check_at(&format!("crates/x/tests/up/{name}.rs"), "//! A.\n");
            assert_eq!(rules(&found), ["retired-name"], "{name}");
        }
    }

    #[test]
    fn longer_words_literals_comments_and_other_folders_are_free() {
        let text = "//! The House.\nlet greenhouse = Houses::new(\"House\"); // weigh\n";
        assert_eq!(check_at("crates/x/src/a.rs", text), []);
        assert_eq!(check_at("xtask/src/a.rs", "//! A.\nstruct House;\n"), []);
    }

    #[test]
    fn no_name_is_retired_twice() {
        for table in [RETIRED, RETIRED_FILES] {
            let names: BTreeSet<&str> = table.iter().map(|(name, _)| *name).collect();
            assert_eq!(names.len(), table.len());
        }
    }
}
