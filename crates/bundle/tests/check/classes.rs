//! What `check` tells authors of classes.

use super::{BOUNDS, GOOD, RULES, UNKNOWN, VALUE, WRONG, check, checked};

/// [`GOOD`] and a class with these lines.
fn class(lines: &str) -> String {
    format!("{GOOD}\n[class]\nmax_instances = 10\n{lines}\n")
}

#[test]
fn each_mistake_in_a_class_is_told_at_its_place() {
    for (lines, code, place, says) in [
        (
            "max_instance = 5",
            UNKNOWN,
            "max_instance",
            "did you mean `max_instances`?",
        ),
        ("paths = 1", WRONG, "1", "true or false"),
        ("key = \"[A-Z]{3}\"", VALUE, "\"[A-Z]{3}\"", "[a-z0-9-]"),
        ("key = \".*\"", VALUE, "\".*\"", "key = \"digest\""),
        ("from = [\"hots\"]", VALUE, "\"hots\"", "did you mean `host`?"),
        (
            "from = [\"header Host\"]",
            VALUE,
            "\"header Host\"",
            "header x-tenant",
        ),
        (
            "from = [\"header cookie\"]",
            VALUE,
            "\"header cookie\"",
            "meaning of its own",
        ),
        (
            "from = [\"host\", \"host\"]",
            "object.twice",
            "\"host\"",
            "leave one out",
        ),
        ("from = []", VALUE, "[]", "at least one source"),
        (
            "from = [\"claim tenant\"]",
            VALUE,
            "[\"claim tenant\"]",
            "[callers.claims]",
        ),
        ("from = [\"host\"]\npaths = true", VALUE, "true", "add \"path\""),
        ("archive_after = \"1s\"", BOUNDS, "\"1s\"", "between 1m"),
        ("per_peer = 0", BOUNDS, "0", "between 1 and 100000"),
        (
            "per_peer = 9\nper_class = 5",
            BOUNDS,
            "9",
            "no more than class.per_class",
        ),
    ] {
        check(&class(lines), code, place, says);
    }
    let missing = format!("{GOOD}\n[class]\n");
    check(&missing, "object.missing_key", "[class]", "max_instances = 1000");
    let raw = class("from = [\"host\"]\n[gate]\nprotocol = \"tcp\"");
    check(&raw, VALUE, "[\"host\"]", "use sni, client_cert or port");
}

#[test]
fn a_class_says_all_that_it_may_and_is_part_of_the_identity() {
    let lines = "key = \"t-[a-f0-9]{8}\"\nfrom = [\"host\", \"path\", \"header x-tenant\", \"claim tenant\", \"sni\", \
                 \"client_cert\", \"port\"]\narchive_after = \"720h\"\npaths = true\nper_peer = 1\nper_class = 2\n\
                 [callers.claims]\ntenant = \"string\"";
    let (diagnostics, built) = checked(&class(lines), RULES);
    let built = built.unwrap_or_else(|| panic!("{diagnostics:#?}"));
    let class_of = built.manifest.class.as_ref().expect("a class");
    assert_eq!(class_of.from.len(), 7);
    let (_, plain) = checked(GOOD, RULES);
    assert_ne!(plain.expect("built").id, built.id);
}

#[test]
fn rules_of_founding_and_classes_go_together() {
    let founds = "permit (principal, action == Action::\"instantiate\", resource);";
    let both = format!(
        "{founds}\npermit (principal, action in [Action::\"wake\", Action::\"instantiate\"], resource);"
    );
    let (diagnostics, built) = checked(GOOD, &both);
    assert!(built.is_none());
    let codes: Vec<_> = diagnostics.iter().map(|found| found.code.as_ref()).collect();
    assert_eq!(codes, ["rules.no_class", "rules.no_class"], "{diagnostics:#?}");

    let warned = |rules: &str| {
        let (diagnostics, built) = checked(&class(""), rules);
        assert!(built.is_some(), "{diagnostics:#?}");
        diagnostics.iter().any(|found| found.code == "rules.no_instance")
    };
    assert!(warned(
        "permit (principal, action == Action::\"wake\", resource);"
    ));
    assert!(!warned(founds));
    assert!(!warned(RULES));
}

#[test]
fn rules_read_class_and_key_as_what_they_are() {
    let tenant = "permit (principal is Caller, action in [Action::\"wake\", Action::\"admit\", Action::\"instantiate\"], \
                  resource) when { principal.claims has tenant && principal.claims.tenant == resource.key };";
    let with = |definition: &str| format!("{definition}\n[callers.claims]\ntenant = \"string\"\n");
    let (diagnostics, built) = checked(&with(&class("")), tenant);
    assert!(built.is_some(), "{diagnostics:#?}");
    // An object of no class may have none: the rule must ask.
    let wake = tenant.replace(", Action::\"instantiate\"", "");
    let (diagnostics, built) = checked(&with(GOOD), &wake);
    assert!(
        built.is_none() && diagnostics.iter().any(|found| found.code == "rules.type"),
        "{diagnostics:#?}"
    );
    let asks = wake.replace("when {", "when { resource has key &&");
    assert!(checked(&with(GOOD), &asks).1.is_some());
}
