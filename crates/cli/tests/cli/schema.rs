//! `schema`: what editors are given.

use std::path::Path;
use std::process::Command;

use suijuris_bundle::scaffold;

use crate::ran::run;
use crate::rig::Rig;

#[test]
fn the_schema_of_rules_follows_from_the_definition() {
    let rig = Rig::new();
    scaffold("agent", &rig.path().join("worker"), "worker").unwrap();
    let said = rig.run(&["schema", "worker"]).code(0).out;
    assert!(
        said.contains("entity Object") && said.contains("budget"),
        "{said}"
    );
    rig.run(&["schema", "worker", "-o", "rules.cedarschema"]).code(0);
    let written = std::fs::read_to_string(rig.path().join("rules.cedarschema")).unwrap();
    assert_eq!(written.trim_end(), said.trim_end());
    std::fs::write(rig.path().join("worker/object.toml"), "name = 1\n").unwrap();
    let ran = rig.run(&["schema", "worker"]).code(3);
    assert!(ran.err.contains("`name` has the wrong type"), "{ran:?}");
    assert!(ran.out.is_empty());
}

/// Holds object.toml files against a schema, as an editor does: those of `good` fit it, those of `bad` do not.
const EDITOR: &str = r##"
import json, sys, tomllib, jsonschema_rs
schema = jsonschema_rs.validator_for(json.load(open(sys.argv[1])))
def plain(value):
    if isinstance(value, dict): return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list): return [plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float)) else value.isoformat()
for path in sys.argv[2:]:
    for text in open(path).read().split("#---\n"):
        print([error.message for error in schema.iter_errors(plain(tomllib.loads(text)))])
"##;

const BAD: &str = "name = \"a\"
#---
name = \"a\"
workload = { command = \"sh\" }
#---
name = \"a\"
workload = { command = [\"sh\"], network = \"bridge\" }
#---
name = \"a\"
workload = { command = [\"sh\"] }
memory = { x = { typ = \"int\" } }
#---
name = \"a\"
workload = { command = [\"sh\"] }
gates = {}
";

#[test]
fn editors_take_what_check_takes_and_mark_what_it_does_not() {
    let rig = Rig::new();
    rig.run(&["schema", "--object", "-o", "schema.json"]).code(0);
    std::fs::write(rig.path().join("bad.toml"), BAD).unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut good = Vec::new();
    for template in suijuris_bundle::templates() {
        scaffold(template.name, &rig.path().join(template.name), "a").unwrap();
        good.push(rig.path().join(template.name).join("object.toml"));
    }
    for example in std::fs::read_dir(workspace.join("examples")).unwrap() {
        let file = example.unwrap().path().join("object.toml");
        good.extend(file.exists().then_some(file));
    }
    let python = workspace.join("target/test/schemathesis/bin/python");
    assert!(
        python.exists(),
        "run `tools/setup --test`: it installs schemathesis"
    );
    let mut command = Command::new(python);
    command
        .current_dir(rig.path())
        .args(["-c", EDITOR, "schema.json"]);
    let ran = run(command.args(&good).arg("bad.toml")).code(0);
    let (fits, others) =
        ran.out
            .lines()
            .map(|line| line == "[]")
            .fold((0, 0), |(fits, others), fit| match fit {
                true => (fits + 1, others),
                false => (fits, others + 1),
            });
    assert_eq!((fits, others), (good.len(), 5), "{}", ran.out);
    for file in good {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.starts_with("#:schema https://"), "{text}");
    }
}
