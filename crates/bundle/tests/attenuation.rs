//! What a child's bundle may change against its parent's, on bundles as they are built.

#![expect(clippy::panic, reason = "a test ends by panicking")]

use std::path::Path;

use suijuris_bundle::{Style, build_texts};
use suijuris_core::bundle::{Bundle, NotAttenuated, check_attenuation};

const DEFINITION: &str = r#"name = "parent"

[sleep]
mode = "suspend"

[workload]
command = ["python3", "-m", "http.server", "{port}"]
network = "host"

[gate]
headers = ["x-tenant"]
hold = "20s"

[memory]
budget = { type = "int", default = 100, min = 0 }
done = { type = "bool" }

[witness]
lease = "20s"

[messages]
topics = ["a", "b"]

[timers.nightly]
cron = "0 3 * * *"
zone = "Europe/Berlin"
"#;

const RULES: &str = r#"@id("funded") permit (principal, action, resource)
when { resource.memory.budget > 0 };
"#;

const FORBID: &str = r#"@id("quiet") forbid (principal, action == Action::"admit", resource);"#;

fn bundle(definition: &str, rules: &str) -> Bundle {
    let built = build_texts(definition, rules, Path::new("."))
        .unwrap_or_else(|report| panic!("{}", report.render(Style::PLAIN)));
    let files = built.files();
    match Bundle::open(&files.manifest, files.governance.into(), &files.program) {
        Ok(bundle) => bundle,
        Err(error) => panic!("{error}"),
    }
}

fn against_parent(definition: &str, rules: &str) -> Result<(), NotAttenuated> {
    check_attenuation(&bundle(DEFINITION, RULES), &bundle(definition, rules))
}

// proves B7
#[test]
fn the_same_or_less_is_narrower() {
    assert_eq!(against_parent(DEFINITION, RULES), Ok(()));
    assert_eq!(against_parent(DEFINITION, &format!("{RULES}{FORBID}")), Ok(()));
    for (from, to) in [
        ("name = \"parent\"", "name = \"child\""),
        ("\"suspend\"", "\"stop\""),
        ("\"host\"", "\"private\""),
        ("[\"x-tenant\"]", "[]"),
        ("hold = \"20s\"", "hold = \"5s\""),
        ("lease = \"20s\"", "lease = \"5s\""),
        ("done = { type = \"bool\" }\n", ""),
        ("[\"a\", \"b\"]", "[\"b\"]"),
    ] {
        let less = DEFINITION.replace(from, to);
        assert_ne!(less, DEFINITION, "{from}");
        assert_eq!(against_parent(&less, RULES), Ok(()), "{from}");
    }
    let (untimed, _) = DEFINITION
        .split_once("[timers")
        .unwrap_or_else(|| panic!("no timers"));
    assert_eq!(against_parent(untimed, RULES), Ok(()));
}

// proves B7
#[test]
fn a_child_reaches_no_more_than_its_parent() {
    let reaching = |network: &str| bundle(&DEFINITION.replace("network = \"host\"", network), RULES);
    let named = reaching("egress = [\"a:1\", \"10.0.0.0/8:2\"]");
    let more = NotAttenuated::Part {
        part: "workload.egress",
        allowed: "some of the parent's, unchanged",
    };
    for (child, expected) in [
        ("egress = [\"a:1\"]", Ok(())),
        ("network = \"private\"", Ok(())),
        ("egress = [\"a:2\"]", Err(more.clone())),
        ("egress = [\"a:1\", \"b:1\"]", Err(more.clone())),
        // Not by what it means: a network within the parent's is another entry.
        ("egress = [\"10.1.0.0/16:2\"]", Err(more)),
    ] {
        assert_eq!(check_attenuation(&named, &reaching(child)), expected, "{child}");
    }
    // Of one that reaches everything, anything is less.
    assert_eq!(
        against_parent(
            &DEFINITION.replace("network = \"host\"", "egress = [\"c:3\"]"),
            RULES
        ),
        Ok(())
    );
}

// proves B7
#[test]
fn whatever_may_be_more_is_wider() {
    let permit = r#"@id("open") permit (principal, action, resource);"#;
    assert_eq!(
        against_parent(DEFINITION, &format!("{RULES}{FORBID}{permit}")),
        Err(NotAttenuated::Permits("open".to_owned()))
    );
    for rules in [
        permit,
        FORBID,
        &RULES.replace("> 0", "> 1"),
        &format!("{FORBID}{RULES}"),
    ] {
        assert_eq!(
            against_parent(DEFINITION, rules),
            Err(NotAttenuated::Text),
            "{rules}"
        );
    }
    for (from, to, part) in [
        ("\"x-tenant\"", "\"x-tenant\", \"accept\"", "gate.headers"),
        ("hold = \"20s\"", "hold = \"21s\"", "gate.hold"),
        ("lease = \"20s\"", "lease = \"21s\"", "witness.lease"),
        (
            "lease = \"20s\"",
            "lease = \"20s\"\ngrace = \"1s\"",
            "witness.grace",
        ),
        ("default = 100", "default = 101", "memory"),
        ("min = 0", "min = -1", "memory"),
        (
            "done = { type = \"bool\" }",
            "more = { type = \"bool\" }",
            "memory",
        ),
        ("[\"a\", \"b\"]", "[\"a\", \"c\"]", "messages.topics"),
        ("0 3 * * *", "0 4 * * *", "timers"),
        ("timers.nightly", "timers.daily", "timers"),
        ("\"-m\"", "\"-i\"", "workload"),
    ] {
        let more = DEFINITION.replace(from, to);
        assert_ne!(more, DEFINITION, "{from}");
        match against_parent(&more, RULES) {
            Err(NotAttenuated::Part { part: found, .. }) => assert_eq!(found, part, "{from}"),
            other => panic!("{from}: {other:?}"),
        }
    }
    // The parent of a narrower child is not narrower than the child.
    for (from, to) in [("\"suspend\"", "\"stop\""), ("\"host\"", "\"private\"")] {
        let less = bundle(&DEFINITION.replace(from, to), RULES);
        assert!(
            check_attenuation(&less, &bundle(DEFINITION, RULES)).is_err(),
            "{from}"
        );
    }
}
