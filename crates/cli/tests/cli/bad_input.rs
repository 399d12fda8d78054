//! Whatever is wrong gets a clear answer and the right exit code.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use crate::rig::Rig;

#[test]
fn an_object_whose_data_is_gone_is_not_begun_anew_unasked() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let notes = rig.path().join("share/suijuris/objects");
    fs::create_dir_all(&notes).unwrap();
    let note = serde_json::json!({
        "name": "hello", "data": object.data(), "object_dir": object.dir, "url": null,
    });
    fs::write(notes.join(format!("{}.json", object.id)), note.to_string()).unwrap();
    fs::remove_dir_all(object.data()).unwrap();
    for _ in 0..2 {
        let refused = rig.run(&["up", "hello", "--port", "0"]).code(3).err;
        assert!(
            refused.contains("--anew") && refused.contains(&object.id),
            "{refused}"
        );
        rig.run(&["ps"]).code(0);
    }
    assert!(!object.data().exists());
}

#[test]
fn what_cannot_be_meant_or_used_says_what_to_do() {
    let rig = Rig::new();
    rig.create("http", "hello").live();
    fs::create_dir(rig.path().join("empty")).unwrap();
    fs::write(rig.path().join("file"), "x").unwrap();
    for (args, code, says) in [
        (&["frobnicate"][..], 2, "unrecognized subcommand"),
        (&["stop"], 2, "error: there is no `stop`; `suijuris sleep OBJ`"),
        (&["show", "hello", "--wat"], 2, "unexpected argument"),
        (&["show", "empty"], 3, "suijuris new http"),
        (&["show", "nowhere"], 3, "(neither object.toml nor lineage/)"),
        (&["show", "file"], 3, "no object in"),
        (&["show", "--data", "empty"], 3, "holds no object"),
        (&["verify", "--data", "empty"], 3, "holds no object"),
        (&["log", "hello", "--kind", "dreamt"], 2, "possible values"),
        (&["log", "hello", "-n", "minus"], 2, "invalid"),
        (&["new", "htp", "there"], 2, "choose http, tcp, agent or class"),
        (&["new", "http", "Not A Name"], 2, "--name"),
        (&["new", "http", "hello"], 3, "not empty"),
        (&["check", "empty"], 3, "object.toml"),
        (&["why", "hello", "99"], 2, "ends at 7"),
        (&["why", "hello", "0"], 2, "keeps no such decision"),
        (&["why", "1", "2"], 2, "one position"),
        (&["why", "hello", "--action", "dream"], 2, "is not one of"),
        (&["what-if", "hello"], 2, "--action"),
        (
            &["what-if", "hello", "--action", "wake", "--at", "soon"],
            2,
            "is not a timestamp",
        ),
        (
            &["what-if", "hello", "--action", "wake", "--set", "open"],
            2,
            "FIELD=VALUE",
        ),
        (
            &["what-if", "hello", "--action", "wake", "--set", "open=5"],
            3,
            "field `open`",
        ),
        (
            &["what-if", "hello", "--action", "admit", "--header", "x-a=1"],
            2,
            "declares no such header",
        ),
        (&["what-if", "hello", "--rules", "empty"], 3, "cannot be built"),
        (&["memory", "set", "hello"], 2, "say what to write"),
        (&["memory", "set", "hello", "open=1", "open=2"], 2, "named twice"),
        (&["memory", "set", "hello", "nothing=1"], 3, "no field `nothing`"),
        (&["memory", "set", "hello", "Bad-Name=1"], 3, "is not a name"),
        (
            &["memory", "get", "hello", "no.name"],
            2,
            "is not the name of a field",
        ),
    ] {
        let ran = rig.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{args:?}: errors are no data: {}", ran.out);
    }
}

#[test]
fn an_owners_key_that_others_can_read_is_refused() {
    let rig = Rig::new();
    rig.create("http", "hello");
    let key = rig.path().join("config/suijuris/owner.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        rig.run(&["memory", "set", "hello", "open=false"])
            .code(3)
            .err
            .contains("chmod 600")
    );
}

#[test]
fn values_cannot_play_tricks_on_a_terminal() {
    let rig = Rig::new();
    rig.create("http", "hello");
    rig.run(&["memory", "set", "hello", "note=\u{1b}[2Jgone\nforged"])
        .code(0);
    for args in [
        &["show", "hello"][..],
        &["log", "hello"],
        &["memory", "get", "./hello"],
    ] {
        let out = rig.run(args).code(0).out;
        assert!(
            !out.contains('\u{1b}') && out.contains("\\u{1b}[2Jgone\\nforged"),
            "{args:?}: {out}"
        );
    }
}

#[test]
fn whatever_listens_in_the_place_of_up_gets_no_further_than_an_error() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let run = object.home.run_dir();
    fs::create_dir_all(&run).unwrap();
    for (answer, says) in [
        (&b""[..], "ended before it answered"),
        (b"\n", "the answer of `up` cannot be read"),
        (
            b"{\"patched\":{\"seq\":-1}}\n",
            "the answer of `up` cannot be read",
        ),
        (b"\xff\xfe\n", "does not answer"),
        (&[b'['; 300_000], "the answer of `up` cannot be read"),
    ] {
        let listener = UnixListener::bind(run.join("up.sock")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                // Whoever asked may hang up before it has read all of this.
                let _ = stream.write_all(answer);
            });
            let ran = rig.run(&["wake", "hello"]).code(3);
            assert!(ran.err.contains(says), "{says}: {}", ran.err);
        });
        fs::remove_file(run.join("up.sock")).unwrap();
    }
}

#[test]
fn notes_of_nonsense_are_passed_over() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let notes = rig.path().join("share/suijuris/objects");
    fs::create_dir_all(notes.join(format!("{}.json", suijuris_core::ObjectId::of(b"directory")))).unwrap();
    let path = notes.join(format!("{}.json", object.id));
    for note in [&b"{"[..], b"[]", b"{\"name\":5}", b"\xff", &[b' '; 100_000]] {
        fs::write(&path, note).unwrap();
        assert_eq!(rig.run(&["ps", "--json"]).code(0).out, "[]\n");
    }
    let note = serde_json::json!({"name": "hello", "data": object.data(), "object_dir": null, "url": null});
    fs::write(&path, note.to_string()).unwrap();
    fs::write(object.data().join("checkpoint"), "nonsense").unwrap();
    let known = rig.run(&["ps", "--json"]).code(0).json();
    assert_eq!(known[0]["phase"], "unreadable");
    assert!(
        known[0]["error"].as_str().unwrap().contains("checkpoint"),
        "{known}"
    );
}

#[test]
fn words_of_other_programs_are_known_or_hinted_at() {
    let rig = Rig::new();
    rig.create("http", "hello");
    for (word, says) in [
        ("list", "`suijuris ps`"),
        ("rm", "`suijuris remove NAME`"),
        ("start", "`suijuris up DIR`"),
        ("stop", "`suijuris sleep OBJ`"),
        ("init", "`suijuris new http DIR`"),
    ] {
        for args in [&[word][..], &[word, "hello"]] {
            let ran = rig.run(args).code(2);
            let there = format!("error: there is no `{word}`; ");
            assert!(
                ran.err.contains(&there) && ran.err.contains(says),
                "{args:?}: {}",
                ran.err
            );
        }
    }
    rig.run(&["logs", "hello"]).code(0);
}

#[test]
fn where_json_is_asked_for_errors_are_json_too() {
    let rig = Rig::new();
    rig.create("http", "hello");
    for (args, code, says) in [
        (&["show", "nowhere", "--json"][..], 3, "no object in"),
        (&["why", "hello", "99", "--json"], 2, "there is no record 99"),
        (&["log", "hello", "-n", "minus", "--json"], 2, "invalid"),
        (&["memory", "set", "hello", "open=5", "--json"], 3, "open"),
        (&["stop", "--json"], 2, "suijuris sleep"),
        (&["frobnicate", "--json"], 2, "frobnicate"),
        (&["up", "nowhere", "--json"], 3, "object.toml"),
        (&["door", "--config", "nowhere", "--json"], 3, "nowhere"),
    ] {
        let ran = rig.run(args).code(code);
        let last = ran.err.lines().last().unwrap_or_default();
        let told: serde_json::Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ran.err));
        assert_eq!(told["error"]["exit_code"], code, "{told}");
        assert!(
            told["error"]["message"].as_str().unwrap().contains(says),
            "{told}"
        );
        assert!(ran.out.is_empty(), "{args:?}: {}", ran.out);
    }
}

#[test]
fn without_a_home_it_says_what_to_set() {
    let rig = Rig::new();
    rig.run(&["new", "http", "hello"]).code(0);
    for args in [
        &["up", "hello", "--port", "0"][..],
        &["key"],
        &["serve", "--listen", "127.0.0.1:0"],
        &["images", "ls"],
    ] {
        let mut command = rig.command(args);
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env_remove(name);
        }
        let ran = crate::ran::run(&mut command);
        assert_eq!(ran.code, 3, "{args:?}: {}{}", ran.out, ran.err);
        assert!(
            ran.err.contains("set ") && ran.err.contains("HOME"),
            "{args:?}: {}",
            ran.err
        );
    }
    assert!(!rig.path().join("hello/.suijuris/lineage").exists());
}

/// What is said to type can be typed, also where a directory has a space in its name.
#[test]
fn paths_in_what_is_said_to_type_are_quoted() {
    let rig = Rig::new();
    let ran = rig.run(&["new", "http", "my object", "--name", "hello"]).code(0);
    let said = format!("{}{}", ran.out, ran.err);
    assert!(said.contains("'my object'"), "{said}");
    rig.create("http", "hello");
    fs::rename(rig.path().join("hello"), rig.path().join("his object")).unwrap();
    let nobody = rig.run(&["wake", "his object"]).code(3).err;
    assert!(nobody.contains("suijuris up 'his object'"), "{nobody}");
}
