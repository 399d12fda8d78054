//! `test`: what rules decide, held against what their author expects.

use std::fs;

use serde_json::Value;
use suijuris_bundle::scaffold;

use crate::rig::Rig;

/// A definition of template `http` in `hello`, with these cases in place of its own.
fn with_cases(cases: &str) -> Rig {
    let rig = Rig::new();
    let dir = rig.path().join("hello");
    scaffold("http", &dir, "hello").unwrap();
    fs::write(dir.join("tests/rules.toml"), cases).unwrap();
    rig
}

// proves G10
#[test]
fn each_template_brings_cases_that_hold_and_that_try_every_rule() {
    let rig = Rig::new();
    for template in ["http", "tcp", "agent", "class"] {
        scaffold(template, &rig.path().join(template), template).unwrap();
        let ran = rig.run(&["test", template]).code(0);
        assert!(ran.out.contains("0 failed"), "{}", ran.out);
        assert!(
            !ran.out.contains("no case is decided by"),
            "{template}: {}",
            ran.out
        );
        assert!(!rig.path().join(template).join(".suijuris").exists());
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/agent");
    rig.run(&["test", example]).code(0);
}

// proves G10
#[test]
fn a_case_that_comes_out_otherwise_fails_and_says_how() {
    let rig = with_cases(
        r#"
[defaults]
path = "/"

[[case]]
name = "closed, but by whom"
action = "wake"
memory = { open = false }
expect = "refuse"
rules = ["owner"]
status = 403
reason = "never said"

[[case]]
name = "wrong outcome"
action = "wake"
memory = { open = false }
expect = "permit"

[[case]]
name = "no such rule"
action = "wake"
expect = "permit"
rules = ["wake-for-guests"]

[[case]]
name = "no such field"
action = "mutate"
write = { opened = true }
expect = "permit"

[[case]]
name = "this one holds"
action = "wake"
expect = "permit"
"#,
    );
    let ran = rig.run(&["test", "hello"]).code(1);
    for part in [
        "failed  closed, but by whom  (hello/tests/rules.toml:5)",
        "expected it by owner, found it by closed",
        "expected status 403, found 503",
        "expected the reason `never said`",
        "expected permit, found refuse by closed",
        "there is no rule `wake-for-guests`",
        "there is no field `opened`",
        "5 cases: 1 passed, 4 failed",
        "no case is decided by wake-by-hand, remain-while-visited, admit-readers, owner",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let json = rig.run(&["test", "hello", "--json"]).code(1).json();
    assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &4.into()));
    let first = &json["cases"][0];
    assert_eq!((&first["line"], &first["passed"]), (&5.into(), &false.into()));
    assert_eq!(first["verdict"]["rules"][0], "closed");
    assert_eq!(first["status"], 503);
    assert_eq!(first["wrong"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["cases"][3]["verdict"], Value::Null);
}

// proves G10
#[test]
fn a_situation_has_memory_of_any_age_a_history_a_caller_and_a_time() {
    let rig = with_cases(
        r#"
[[case]]
name = "five crashes"
action = "wake"
trigger = "boot"
lineage = { crashes = 5, epoch = 7, awake = "2d" }
expect = "refuse"
rules = ["broken"]

[[case]]
name = "of an old day"
action = "wake"
lineage = { slept_ago = "8d" }
at = "2026-11-23T08:00:00Z"
expect = "permit"

[[case]]
name = "calls of today"
action = "admit"
path = "/?x=1"
memory = { calls = 3 }
ages = { calls = "11h" }
subject = "ann"
claims = { tenant = "acme" }
headers = { x-team = "red" }
expect = "refuse"
rules = ["spent"]
status = 429

[[case]]
name = "calls of yesterday"
action = "admit"
path = "/"
memory = { calls = 3 }
ages = { calls = "13h" }
subject = "ann"
claims = { tenant = "acme" }
headers = { x-team = "red" }
expect = "permit"
rules = ["acme"]

[[case]]
name = "one more call"
action = "mutate"
by = "workload"
memory = { calls = 3 }
add = { calls = 1 }
expect = "permit"
rules = ["spends"]

[[case]]
name = "too many at once"
action = "mutate"
by = "workload"
add = { calls = 2 }
expect = "refuse"
"#,
    );
    let dir = rig.path().join("hello");
    let definition = fs::read_to_string(dir.join("object.toml")).unwrap();
    let definition = definition.replace("[gate]\n", "[gate]\nheaders = [\"x-team\"]\n")
        + "calls = { type = { counter = { window = \"24h\" } } }\n[callers.claims]\ntenant = \"string\"\n";
    fs::write(dir.join("object.toml"), definition).unwrap();
    let rules = r#"
@id("broken") forbid (principal, action == Action::"wake", resource) when { resource.lineage.crashes >= 5 };
@id("rested") permit (principal, action == Action::"wake", resource)
when { resource.lineage has last_dormant && context.now.durationSince(resource.lineage.last_dormant) > duration("7d") };
@id("spent") @status("429") forbid (principal, action == Action::"admit", resource)
when { resource.memory.calls >= 3 };
@id("acme") permit (principal is Caller, action == Action::"admit", resource)
when { principal has claims.tenant && principal.claims.tenant == "acme" && principal has subject
  && principal.subject == "ann" && context.request.headers has "x-team" && context.request.headers["x-team"] == "red" };
@id("spends") permit (principal is Workload, action == Action::"mutate", resource)
when { context.change has calls && context.change.calls.new - context.change.calls.old == 1 };
@id("rest") permit (principal is Controller, action == Action::"mutate", resource);
"#;
    fs::write(dir.join("governance.cedar"), rules).unwrap();
    rig.run(&["test", "hello"]).code(0);
}

// proves G10
#[test]
fn what_is_no_case_is_told_with_its_place() {
    let broken = |cases: &str, says: &str| {
        let ran = with_cases(cases).run(&["test", "hello"]).code(3);
        assert!(ran.err.contains(says), "{says}: {}", ran.err);
    };
    broken("", "add one");
    broken("[[case]]\nname = ", "is no file of cases");
    broken("[[cases]]\n", "unknown field `cases`");
    broken("\n[[case]]\nname = \"x\"\naction = \"wake\"\n", "rules.toml:2");
    broken(
        "[[case]]\nname = \"x\"\naction = \"wake\"\n",
        "missing field `expect`",
    );
    let unknown = "[[case]]\nname = \"x\"\naction = \"wake\"\nexpect = \"permit\"\npaht = \"/\"\n";
    broken(unknown, "unknown field `paht`");
    let rig = with_cases("");
    fs::remove_dir_all(rig.path().join("hello/tests")).unwrap();
    let ran = rig.run(&["test", "hello"]).code(3);
    assert!(ran.err.contains("write tests/rules.toml"), "{}", ran.err);
    fs::write(rig.path().join("hello/governance.cedar"), "permit (").unwrap();
    let ran = rig.run(&["test", "hello"]).code(3);
    assert!(ran.err.contains("cannot be built"), "{}", ran.err);
}
