//! What the reading commands print, and that they leave everything as it was.

use crate::rig::Rig;

#[test]
fn show_says_what_an_object_is_and_holds() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    let shown = rig.run(&["show", "hello", "--json"]).code(0).json();
    assert_eq!(shown["object"], object.id);
    assert_eq!(shown["name"], "hello");
    assert_eq!(
        (&shown["phase"], &shown["running"]),
        (&"dormant".into(), &false.into())
    );
    assert_eq!((&shown["epoch"], &shown["seq"]), (&1.into(), &7.into()));
    assert_eq!(shown["memory"]["fields"]["open"]["value"], false);
    assert_eq!(shown["memory"]["fields"]["linger"]["freshness"], "never_written");
    let text = rig.run(&["show", "hello"]).code(0).out;
    for part in [
        "hello  dormant",
        &object.id,
        "8 records, epoch 1, 4 refused",
        "between",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_object_is_found_by_directory_data_or_both() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let copy = rig.path().join("copy");
    std::fs::rename(object.data(), &copy).unwrap();
    for args in [
        &["show", "copy", "--json"][..],
        &["show", "--data", "copy", "--json"],
        &["show", "hello", "--data", "copy", "--json"],
    ] {
        assert_eq!(rig.run(args).code(0).json()["object"], object.id, "{args:?}");
    }
    for args in [
        &["memory", "get", "open", "--data", "copy"][..],
        &["memory", "get", "./copy", "open"],
        &["memory", "get", "copy", "open"],
    ] {
        assert_eq!(rig.run(args).code(0).out, "true\n", "{args:?}");
    }
    assert!(
        rig.run(&["memory", "get", "hello", "--data", "copy"])
            .code(3)
            .err
            .contains("no field `hello`")
    );
    assert!(rig.run(&["memory", "get", "copy"]).code(0).out.contains("linger"));
    rig.run(&["log", "copy"]).code(0);
    rig.run(&["verify", "copy"]).code(0);
    rig.run(&["why", "copy", "last"]).code(1);
}

#[test]
fn log_tells_the_history_in_order() {
    let rig = Rig::new();
    rig.create("http", "hello").live();
    let records = rig.run(&["log", "hello", "--json"]).code(0).lines();
    let kinds: Vec<&str> = records
        .iter()
        .map(|record| record["kind"].as_str().unwrap())
        .collect();
    let expected = [
        "inception",
        "woke",
        "mutated",
        "dormant",
        "mutated",
        "refused",
        "mutated",
        "refused",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(records[1]["verdict"]["rules"][0], "wake-for-visitors");
    assert_eq!(records[2]["body"]["change"]["note"]["set"], "hello");
    assert_eq!(records[5]["verdict"]["outcome"], "refuse");
    for (seq, record) in records.iter().enumerate() {
        assert_eq!(record["seq"], seq);
        assert_eq!(record["id"].as_str().unwrap().len(), 59);
    }
    let refused = rig
        .run(&["log", "hello", "-n", "1", "--kind", "refused"])
        .code(0)
        .out;
    assert_eq!(refused.lines().count(), 1);
    for part in ["refused", "3 times", "closed", "GET /"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn memory_get_prints_a_value_for_programs() {
    let rig = Rig::new();
    rig.create("http", "hello").live();
    assert_eq!(
        rig.run(&["memory", "get", "hello", "note"]).code(0).out,
        "between\n"
    );
    let field = rig
        .run(&["memory", "get", "hello", "open", "--json"])
        .code(0)
        .json();
    assert_eq!((&field["value"], &field["type"]), (&false.into(), &"bool".into()));
    let all = rig.run(&["memory", "get", "./hello", "--json"]).code(0).json();
    assert_eq!(all["root"].as_str().unwrap().len(), 64);
    assert!(
        rig.run(&["memory", "get", "hello", "tags"])
            .code(1)
            .err
            .contains("holds nothing")
    );
    assert!(
        rig.run(&["memory", "get", "hello", "opne"])
            .code(3)
            .err
            .contains("this object has")
    );
}

// proves D6
#[test]
fn looking_changes_no_file_while_the_object_sleeps_and_while_it_runs() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    let look = || {
        for args in [
            &["show", "hello"][..],
            &["show", "hello", "--json"],
            &["log", "hello"],
            &["memory", "get", "./hello"],
            &["memory", "get", "hello", "open"],
            &["why", "hello"],
            &["what-if", "hello", "--action", "wake", "--path", "/"],
            &["verify", "hello"],
        ] {
            let ran = rig.run(args);
            assert!(ran.code < 2, "{args:?}: {}", ran.err);
        }
    };
    let before = object.files();
    look();
    assert_eq!(object.files(), before);
    let live = object.open();
    let before = object.files();
    look();
    assert_eq!(object.files(), before);
    assert_eq!(live.writer.published().head().epoch, 1, "it was not woken");
}

#[test]
fn show_tells_what_comes_next_and_times_carry_their_zone() {
    let rig = Rig::new();
    let dir = rig.path().join("timed");
    suijuris_bundle::scaffold("http", &dir, "timed").unwrap();
    let path = dir.join("object.toml");
    let definition = std::fs::read_to_string(&path).unwrap();
    let timers = "\n[timers.yearly]\ncron = \"0 0 1 1 *\"\n[timers.soon]\nat = \"2031-02-03T04:05:06Z\"\nmissed = \"skip\"\n";
    std::fs::write(&path, definition + timers).unwrap();
    let object = Rig::create_in(dir, "timed");
    object.live();
    let shown = rig.run(&["show", "timed", "--json"]).code(0).json();
    let next = &shown["next_timer"];
    assert_eq!(next["name"], "yearly", "{shown}");
    let at: jiff::Timestamp = next["at"].as_str().unwrap().parse().unwrap();
    assert!(
        at > jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * 366 * 2),
        "{at}"
    );
    let text = rig.run(&["show", "timed"]).code(0).out;
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("next"))
        .unwrap();
    assert!(line.contains("timer yearly at ") && line.ends_with('Z'), "{line}");
    // An instant in each line of the history, to the millisecond and with its zone.
    for line in rig.run(&["log", "timed"]).code(0).out.lines() {
        let at = line.split_whitespace().nth(1).unwrap();
        assert!(
            at.ends_with('Z') && at.parse::<jiff::Timestamp>().is_ok(),
            "{line}"
        );
    }
}

#[test]
fn ps_knows_what_up_has_noted_and_forgets_what_is_gone() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let notes = rig.path().join("share/suijuris/objects");
    std::fs::create_dir_all(&notes).unwrap();
    let note = serde_json::json!({"name": "hello", "data": object.data(), "object_dir": object.dir});
    let path = notes.join(format!("{}.json", object.id));
    std::fs::write(&path, note.to_string()).unwrap();
    std::fs::write(notes.join("nonsense.json"), "{").unwrap();
    let known = rig.run(&["ps", "--json"]).code(0).json();
    assert_eq!(known.as_array().unwrap().len(), 1);
    assert_eq!(
        (&known[0]["object"], &known[0]["phase"]),
        (&object.id.clone().into(), &"dormant".into())
    );
    assert!(rig.run(&["ps"]).code(0).out.contains("hello"));
    std::fs::remove_dir_all(&object.dir).unwrap();
    let gone = rig.run(&["ps"]).code(0);
    assert!(
        gone.out.is_empty() && gone.err.contains("suijuris new"),
        "{}",
        gone.err
    );
    assert!(!path.exists());
}

#[test]
fn check_prints_the_bundle_or_everything_that_is_wrong() {
    let rig = Rig::new();
    assert!(
        rig.run(&["new", "http", "hello"])
            .code(0)
            .out
            .contains("object.toml")
    );
    let id = rig.run(&["check", "hello"]).code(0).out;
    assert_eq!(id.trim().len(), 59);
    let json = rig.run(&["check", "hello", "--json"]).code(0).json();
    assert_eq!((&json["ok"], &json["bundle"]), (&true.into(), &id.trim().into()));
    let rules = rig.path().join("hello/governance.cedar");
    let text = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(
        &rules,
        text.replace("resource.memory.open", "resource.memory.opne"),
    )
    .unwrap();
    let broken = rig.run(&["check", "hello"]).code(3);
    assert!(broken.out.is_empty(), "{}", broken.out);
    assert!(
        broken.err.contains("governance.cedar:") && broken.err.contains("opne"),
        "{}",
        broken.err
    );
    let json = rig.run(&["check", "hello", "--json"]).code(3).json();
    assert!(json["errors"].as_u64().unwrap() >= 2, "{json}");
    let place = &json["diagnostics"][0]["labels"][0];
    assert!(place["line"].as_u64().unwrap() > 1, "{json}");
}

// proves G2
#[test]
fn every_command_has_help_with_an_example_and_completions_know_it() {
    let rig = Rig::new();
    let commands = [
        "new",
        "check",
        "up",
        "ps",
        "show",
        "log",
        "why",
        "what-if",
        "wake",
        "sleep",
        "verify",
        "completions",
    ];
    let memory = ["get", "set", "watch"];
    let script = rig.run(&["completions", "bash"]).code(0).out;
    for command in commands {
        let help = rig.run(&[command, "--help"]).code(0).out;
        assert!(
            help.contains("Example") && help.contains(&format!("suijuris {command}")),
            "{command}: {help}"
        );
        assert!(script.contains(command), "{command}");
    }
    for command in memory {
        let help = rig.run(&["memory", command, "--help"]).code(0).out;
        assert!(
            help.contains(&format!("suijuris memory {command}")),
            "{command}: {help}"
        );
    }
    assert!(
        rig.run(&["--help"])
            .code(0)
            .out
            .contains("Exit codes: 0 yes, 1 no")
    );
}
