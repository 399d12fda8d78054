//! `memory set`, with nobody running the object and with somebody; `wake` and `sleep`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use suijuris_api::agent::Patch;
use suijuris_api::control::{ControlRequest, Reply};
use suijuris_api::event::Verdict;
use suijuris_core::key::{PublicKey, SecretKey};
use suijuris_core::memory::Value;

use crate::rig::{Object, Rig};

#[test]
fn an_owner_writes_fields_of_every_form_and_all_or_none() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let set = |more: &[&str]| rig.run(&[&["memory", "set"], more].concat());
    let get = |field| rig.run(&["memory", "get", "hello", field]).out;
    assert_eq!(
        set(&["hello", "open=false", "linger=1m 5s", "--json"])
            .code(0)
            .json()["seq"],
        1
    );
    assert_eq!((get("open"), get("linger")), ("false\n".into(), "1m 5s\n".into()));
    set(&["hello", "note", "5"]).code(0);
    assert_eq!(
        get("note"),
        "5\n",
        "a field of text takes what looks like a number"
    );
    set(&["--data", "hello/.suijuris", "note=a=b"]).code(0);
    assert_eq!(get("note"), "a=b\n");
    set(&["./hello", "--append", r#"tags=["x"]"#]).code(0);
    set(&["./hello", "--append", r#"tags=["y"]"#]).code(0);
    assert_eq!(get("tags"), "[\"x\",\"y\"]\n");
    set(&["./hello", "--unset", "tags", "--expect", "open=false"]).code(0);
    rig.run(&["memory", "get", "hello", "tags"]).code(1);
    assert!(
        set(&["hello", "open=true", "--expect", "note=c"])
            .code(1)
            .err
            .contains("does not hold what")
    );
    set(&["hello", "open=true", "--expect", "tags=null"]).code(0);
    assert!(
        set(&["hello", "open=perhaps", "note=no"])
            .code(3)
            .err
            .contains("field `open`")
    );
    assert_eq!((get("open"), get("note")), ("true\n".into(), "a=b\n".into()));
    rig.run(&["verify", "hello"]).code(0);
    let records = rig.run(&["log", "hello", "--kind", "mutated", "--json"]).lines();
    assert!(
        records
            .iter()
            .all(|record| record["body"]["by"] == "controller" && record["signed"] == true)
    );
    assert_eq!(
        object.open().writer.published().memory().value("open"),
        Some(&Value::Bool(true))
    );
}

// proves A8, A11
#[test]
fn a_write_is_judged_by_what_it_changes_and_its_refusal_is_made_again() {
    let rig = Rig::new();
    let rules = r#"
@id("linger-only-grows")
forbid (principal, action == Action::"mutate", resource)
when { context.change has linger && context.change.linger.new < context.change.linger.old };
@id("few-notes")
forbid (principal, action == Action::"mutate", resource)
when { context.change has note && context.change.note has new && context.change.note.new like "*again*" };
"#;
    let object = rig.create_with("grows", rules);
    let set = |more: &[&str]| rig.run(&[&["memory", "set", "grows"], more].concat());
    set(&["linger=1m"]).code(0);
    let refused = set(&["linger=59s"]).code(1);
    assert!(refused.out.contains("linger-only-grows"), "{}", refused.out);
    set(&["linger=1h"]).code(0);
    set(&["note=once"]).code(0);
    set(&["note=and again"]).code(1);
    let why = |kind: &[&str]| {
        let asked = [&["why", "grows", "--action", "mutate", "--json"], kind].concat();
        rig.run(&asked).code(0).json()
    };
    let last = why(&[]);
    assert_eq!(last["replay"]["same"], true, "{last}");
    assert_eq!(last["inputs"]["written"]["note"]["string"], "and again", "{last}");
    assert_eq!(object.open().writer.published().head().refused, 2);
    let what_if = |value: &str| rig.run(&["what-if", "grows", "--action", "mutate", "--set", value]);
    what_if("linger=59m").code(1);
    what_if("linger=61m").code(0);
    rig.run(&["verify", "grows"]).code(0);
}

#[test]
fn a_counter_is_declared_added_to_and_shown() {
    let rig = Rig::new();
    rig.create("http", "plain");
    let dir = rig.path().join("counts");
    suijuris_bundle::scaffold("http", &dir, "counts").unwrap();
    let path = dir.join("object.toml");
    let definition = std::fs::read_to_string(&path).unwrap();
    let counter = "\n[memory.calls]\ntype = { counter = { window = \"30d\" } }\n";
    std::fs::write(&path, definition + counter).unwrap();
    Rig::create_in(dir, "counts");
    let set = |more: &[&str]| rig.run(&[&["memory", "set", "counts"], more].concat());
    let get = || rig.run(&["memory", "get", "counts", "calls"]).code(0).out;
    assert_eq!(get(), "0\n");
    set(&["--add", "calls=2"]).code(0);
    set(&["--add", "calls=3"]).code(0);
    assert_eq!(get(), "5\n");
    let refused = set(&["calls=0"]).code(3);
    assert!(refused.err.contains("is a counter"), "{}", refused.err);
    let log = rig.run(&["log", "counts"]).code(0).out;
    assert!(log.contains("calls + 3"), "{log}");
    let record = rig.run(&["log", "counts", "--kind", "mutated", "--json"]).lines();
    assert_eq!(record[0]["body"]["change"]["calls"]["add"], 2);
    rig.run(&["verify", "counts"]).code(0);
}

#[test]
fn what_the_readmes_of_templates_say_to_type_works() {
    let rig = Rig::new();
    let object = rig.create("agent", "bot");
    let run = |args: &[&str]| {
        let output = rig.command(args).current_dir(&object.dir).output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["check", "."]);
    run(&["memory", "set", ".", "consent", "2026-11-23T08:00:00Z"]);
    run(&["memory", "set", ".", "jobs", r#"["invoices", "letters"]"#]);
    run(&["memory", "set", ".", "budget", "0"]);
    run(&["memory", "set", "done=2"]);
    assert_eq!(run(&["memory", "get", ".", "done"]), "2\n");
    assert_eq!(run(&["memory", "get", "budget"]), "0\n");
    assert!(run(&["log", "."]).contains("invoices"));
}

#[test]
fn the_rules_decide_whether_even_an_owner_writes_and_a_refusal_is_recorded() {
    let rig = Rig::new();
    let object = rig.create_with(
        "strict",
        r#"
@id("sealed") @reason("Nobody touches the sign.")
forbid (principal, action == Action::"mutate", resource) when { context.fields.contains("open") };
"#,
    );
    let refused = rig.run(&["memory", "set", "strict", "open=false"]).code(1);
    assert!(
        refused.out.contains("denied: mutate by sealed") && refused.out.contains("Nobody touches"),
        "{}",
        refused.out
    );
    rig.run(&["memory", "set", "strict", "linger=1s"]).code(0);
    assert_eq!(rig.run(&["memory", "get", "strict", "open"]).out, "true\n");
    let why = rig
        .run(&["why", "strict", "--action", "mutate", "--json"])
        .code(0)
        .json();
    assert_eq!(
        (&why["replay"]["same"], &why["rules"][0]["id"]),
        (&true.into(), &"sealed".into())
    );
    assert_eq!(object.open().writer.published().head().refused, 1);
}

#[test]
fn who_is_no_owner_asks_as_the_host_which_the_rules_may_refuse() {
    let rig = Rig::new();
    rig.create("http", "hello");
    let key = rig.path().join("other.key");
    let mut command = rig.command(&["memory", "set", "hello", "open=false"]);
    let output = command.env("SUIJURIS_OWNER_KEY", &key).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("no owner's key is here") && err.contains("SUIJURIS_OWNER_KEY"),
        "{err}"
    );
    assert_eq!(rig.run(&["memory", "get", "hello", "open"]).out, "true\n");
    let why = rig
        .run(&["why", "hello", "--action", "mutate", "--json"])
        .code(0)
        .json();
    assert_eq!(why["replay"]["same"], true, "{why}");
}

#[test]
fn an_activation_that_crashed_is_settled_before_a_write() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let live = object.open();
    live.wake();
    live.writer.close().unwrap();
    assert_eq!(rig.run(&["show", "hello", "--json"]).json()["phase"], "crashed");
    rig.run(&["memory", "set", "hello", "open=false"]).code(0);
    let kinds: Vec<_> = rig
        .run(&["log", "hello", "--json"])
        .lines()
        .into_iter()
        .map(|r| r["kind"].clone())
        .collect();
    assert_eq!(kinds, ["inception", "woke", "unsealed", "mutated"]);
    rig.run(&["verify", "hello"]).code(0);
}

#[test]
fn a_second_writer_is_told_who_writes() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let _live = object.open();
    let busy = rig.run(&["memory", "set", "hello", "open=false"]).code(3);
    assert!(
        busy.err
            .contains(&format!("in use by process {}", std::process::id())),
        "{}",
        busy.err
    );
}

/// Somebody who runs the object: says so whenever asked, answers what is asked of the object with `replies`, one after the
/// other, and returns that.
fn up(object: &Object, replies: Vec<Reply>) -> JoinHandle<Vec<ControlRequest>> {
    let run = object.home.run_dir();
    std::fs::create_dir_all(&run).unwrap();
    let listener = UnixListener::bind(run.join("up.sock")).unwrap();
    let hear = move || {
        let (stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (stream, serde_json::from_str::<ControlRequest>(&line).unwrap())
    };
    let say = |mut stream: UnixStream, reply: &Reply| {
        writeln!(stream, "{}", serde_json::to_string(reply).unwrap()).unwrap();
    };
    std::thread::spawn(move || {
        let answer = |reply: Reply| loop {
            match hear() {
                (stream, ControlRequest::Status) => say(stream, &status("waking")),
                (stream, asked) => {
                    say(stream, &reply);
                    return asked;
                }
            }
        };
        replies.into_iter().map(answer).collect()
    })
}

/// What an owner asked of `up`, and signed for it.
fn signed(asked: &ControlRequest) -> &str {
    match asked {
        ControlRequest::Owner { signed, .. } => {
            assert_eq!(signed.request.audience, server().to_string());
            assert_eq!(signed.signatures.len(), 1);
            &signed.request.ask
        }
        other => panic!("{other:?}"),
    }
}

/// The key of the `up` of these tests.
fn server() -> PublicKey {
    SecretKey::from_seed(&[5; 32]).public()
}

fn status(phase: &str) -> Reply {
    Reply::Status {
        phase: phase.to_owned(),
        pid: 77,
        url: "http://127.0.0.1:1/".to_owned(),
        server: server().to_string(),
        paused: None,
        holds: std::collections::BTreeMap::new(),
    }
}

fn verdict(action: &str, outcome: &str) -> Reply {
    Reply::Verdict(Verdict {
        action: action.to_owned(),
        outcome: outcome.to_owned(),
        rules: vec!["closed".to_owned()],
        reasons: vec!["This object is closed.".to_owned()],
        invariant: None,
        retry_after: Some(300),
        place: "door".to_owned(),
    })
}

#[test]
fn wake_and_sleep_ask_whoever_runs_the_object() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    for command in ["wake", "sleep"] {
        let nobody = rig.run(&[command, "hello"]).code(3);
        assert!(
            nobody.err.contains("start it with `suijuris up hello`"),
            "{}",
            nobody.err
        );
    }
    let error = Reply::Error {
        code: "draining".to_owned(),
        message: "it is going to sleep".to_owned(),
    };
    let asked = up(
        &object,
        vec![
            verdict("wake", "refuse"),
            verdict("sleep", "permit"),
            error,
            status("active"),
        ],
    );
    let refused = rig.run(&["wake", "hello"]).code(1).out;
    assert!(
        refused.contains("denied: wake by closed") && refused.contains("try again in 300 s"),
        "{refused}"
    );
    assert_eq!(
        rig.run(&["sleep", "hello", "--json"]).code(0).json()["outcome"],
        "permit"
    );
    assert!(
        rig.run(&["wake", "hello"])
            .code(3)
            .err
            .contains("it is going to sleep [draining]")
    );
    assert_eq!(rig.run(&["wake", "hello"]).code(0).out, "already active\n");
    let asked = asked.join().unwrap();
    let asked: Vec<&str> = asked.iter().map(signed).collect();
    assert_eq!(asked, ["wake", "sleep", "wake", "wake"]);
    rig.run(&["wake", "hello"]).code(3);
}

#[test]
fn a_running_object_is_written_and_shown_through_up() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let refused = |code: &str| Reply::Error {
        code: code.to_owned(),
        message: "no".to_owned(),
    };
    let patched = Reply::Patched {
        seq: 9,
        root: "ab".to_owned(),
    };
    let asked = up(
        &object,
        vec![patched, refused("memory_conflict"), refused("disk_full")],
    );
    let set = |text| rig.run(&["memory", "set", "hello", text, "--json"]);
    assert_eq!(set("open=false").code(0).json()["seq"], 9);
    let shown = rig.run(&["show", "hello", "--json"]).code(0).json();
    assert_eq!(
        (&shown["phase"], &shown["pid"], &shown["running"]),
        (&"waking".into(), &77.into(), &true.into())
    );
    set("open=true").code(1);
    assert!(set("open=true").code(3).err.contains("disk_full"));
    let patch = Patch {
        set: [("open".to_owned(), false.into())].into(),
        ..Patch::default()
    };
    let asked = asked.join().unwrap();
    assert_eq!(signed(&asked[0]), "write");
    assert!(matches!(&asked[0], ControlRequest::Owner { patch: Some(sent), .. } if *sent == patch));
}

#[test]
fn watching_and_following_see_what_is_written() {
    let rig = Rig::new();
    rig.create("http", "hello");
    let follow = |args: &[&str]| {
        let mut child = rig
            .command(args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (mut watch, mut fields) = follow(&["memory", "watch", "hello", "--json"]);
    // It says so once it looks.
    let mut said = String::new();
    BufReader::new(watch.stderr.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    let (mut log, mut records) = follow(&["log", "hello", "--follow", "--json"]);
    assert!(records.next().unwrap().unwrap().contains("inception"));
    rig.run(&["memory", "set", "hello", "open=false"]).code(0);
    let field: serde_json::Value = serde_json::from_str(&fields.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&field["field"], &field["value"], &field["seq"]),
        (&"open".into(), &false.into(), &1.into())
    );
    assert!(records.next().unwrap().unwrap().contains("\"mutated\""));
    for child in [&mut watch, &mut log] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
