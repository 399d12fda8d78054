//! `why` and `what-if`.

use crate::rig::Rig;

// proves A11
#[test]
fn every_recorded_decision_comes_out_the_same_again() {
    let rig = Rig::new();
    rig.create("http", "hello").live();
    let records = rig.run(&["log", "hello", "--json"]).code(0).lines();
    let mut explained = 0;
    for record in records.iter().filter(|record| !record["verdict"].is_null()) {
        let seq = record["seq"].to_string();
        let why = rig.run(&["why", "hello", &seq, "--json"]).code(0).json();
        assert_eq!(why["replay"]["same"], true, "{why}");
        assert_eq!(why["replay"]["recorded"], why["replay"]["again"]);
        assert_eq!(why["verdict"]["outcome"], record["verdict"]["outcome"]);
        explained += 1;
    }
    assert_eq!(explained, 4);
}

#[test]
fn why_names_rule_reason_text_facts_and_memory() {
    let rig = Rig::new();
    rig.create("http", "hello").live();
    let why = rig.run(&["why", "hello"]).code(0).out;
    for part in [
        "denied: wake, proposed by",
        "caller, request GET /",
        "This object is closed at the moment",
        "try again in 300 s",
        "@id(\"closed\")",
        "governance.cedar:",
        "memory after record 4",
        "replayed: identical",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let why = rig.run(&["why", "hello", "1", "--json"]).code(0).json();
    assert_eq!(why["rules"][0]["id"], "wake-for-visitors");
    assert!(
        why["rules"][0]["text"].as_str().unwrap().starts_with("@id"),
        "{why}"
    );
    assert_eq!(
        (&why["after"], &why["inputs"]["request"]["path"]),
        (&0.into(), &"/".into())
    );
    let remain = rig.run(&["why", "hello", "--action", "remain"]).code(0).out;
    let closest = "no rule permits remain; closest is remain-while-visited, which failed at `";
    assert!(remain.contains(closest), "{remain}");
    assert_eq!(
        rig.run(&["why", "hello", "--action", "remain", "--json"])
            .code(0)
            .json()["seq"],
        3
    );
}

#[test]
fn what_if_answers_a_proposal_that_nobody_made() {
    let rig = Rig::new();
    rig.create("http", "hello").live();
    let ask = |more: &[&str]| rig.run(&[&["what-if", "hello", "--json"], more].concat());
    let wake = ["--action", "wake", "--trigger", "request", "--path", "/"];
    let no = ask(&wake).code(1).json();
    assert_eq!(
        (&no["verdict"]["outcome"], &no["verdict"]["rules"][0]),
        (&"refuse".into(), &"closed".into())
    );
    let yes = ask(&[&wake[..], &["--set", "open=true", "--at", "2h"]].concat())
        .code(0)
        .json();
    assert_eq!(yes["verdict"]["rules"][0], "wake-for-visitors");
    ask(&["--action", "wake"]).code(0);
    ask(&["--action", "wake", "--trigger", "boot"]).code(1);
    ask(&["--action", "admit", "--path", "/a?b=c", "--set", "open=true"]).code(0);
    ask(&[
        "--action",
        "admit",
        "--path",
        "/",
        "--method",
        "POST",
        "--set",
        "open=true",
    ])
    .code(1);
    ask(&["--action", "remain", "--idle", "5s"]).code(0);
    ask(&["--action", "remain", "--idle", "15s"]).code(1);
    ask(&["--action", "remain", "--idle", "15s", "--hold", "job"]).code(0);
    ask(&["--action", "mutate", "--field", "open", "--by", "workload"]).code(1);
    assert_eq!(
        rig.run(&["memory", "get", "hello", "open"]).out,
        "false\n",
        "nothing was written"
    );
}

#[test]
fn what_if_looks_ahead_to_when_something_grows_stale() {
    let rig = Rig::new();
    rig.create("tcp", "lines");
    let ask = |at| {
        let consent = "consent=2026-11-23T08:00:00Z";
        let asked = [
            "what-if", "lines", "--action", "wake", "--set", consent, "--at", at,
        ];
        rig.run(&asked)
    };
    ask("23h").code(0);
    assert!(
        ask("25h")
            .code(1)
            .out
            .contains("memory.consent is not fresh: stale")
    );
}

#[test]
fn what_if_judges_the_past_by_other_rules() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    let same = rig
        .run(&["what-if", "hello", "--rules", "hello", "--json"])
        .code(0)
        .json();
    assert_eq!(
        (&same["judged"], &same["changed"]),
        (&6.into(), &serde_json::json!([]))
    );
    let rules = object.dir.join("governance.cedar");
    let text = std::fs::read_to_string(&rules).unwrap();
    let open = text.replace("when { !resource.memory.open }\nunless", "when { false }\nunless");
    let open = open.replace(r#""request" && resource.memory.open"#, r#""request""#);
    assert_ne!(open, text);
    std::fs::write(&rules, open).unwrap();
    let other = rig
        .run(&["what-if", "hello", "--rules", "hello", "--json"])
        .code(1)
        .json();
    let changed = other["changed"].as_array().unwrap();
    assert_eq!(other["would_change"], 4);
    assert_eq!(changed.len(), 1, "{other}");
    assert_eq!((&changed[0]["seq"], &changed[0]["times"]), (&5.into(), &4.into()));
    assert_eq!(changed[0]["would_be"]["outcome"], "permit");
    let text = rig.run(&["what-if", "hello", "--rules", "hello"]).code(1).out;
    assert!(
        text.contains("6 recorded decisions replayed, 4 would change"),
        "{text}"
    );
}

// proves A11
#[test]
fn an_admission_refused_at_the_door_is_judged_again_as_the_door_did() {
    let rig = Rig::new();
    let rule = r#"
        @id("reads") forbid (principal, action == Action::"admit", resource) unless { context.request.method == "GET" };"#;
    let object = rig.create_with("hello", rule);
    let live = object.open();
    live.refuse_admission("HEAD");
    live.writer.close().unwrap();
    let why = rig.run(&["why", "hello", "--json"]).code(0).json();
    assert_eq!(why["replay"]["same"], true, "{why}");
    assert_eq!(
        (&why["verdict"]["action"], &why["verdict"]["place"]),
        (&"admit".into(), &"door".into())
    );
    assert_eq!(why["rules"][0]["id"], "reads", "{why}");
    let same = rig
        .run(&["what-if", "hello", "--rules", "hello", "--json"])
        .code(0)
        .json();
    assert_eq!(
        (&same["judged"], &same["changed"]),
        (&1.into(), &serde_json::json!([]))
    );
    let rules = object.dir.join("governance.cedar");
    let text = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(rules, text.replace(rule, "")).unwrap();
    let other = rig
        .run(&["what-if", "hello", "--rules", "hello", "--json"])
        .code(1)
        .json();
    assert_eq!(other["changed"][0]["would_be"]["outcome"], "permit", "{other}");
}
