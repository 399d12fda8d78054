//! Secrets stay in their own place.

use std::path::Path;

use crate::rig::Rig;

const SECRET: &str = "correct-horse-battery-staple";

fn holds_secret(path: &Path) -> bool {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .windows(SECRET.len())
        .any(|window| window == SECRET.as_bytes())
}

// proves B10
#[test]
fn a_secret_is_in_no_output_and_in_no_file_but_its_own() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    let written = rig
        .run(&["memory", "set", "hello", &format!("token={SECRET}"), "open=true"])
        .code(0);
    let mut said = vec![written.out, written.err];
    for args in [
        &["show", "hello"][..],
        &["show", "hello", "--json"],
        &["log", "hello"],
        &["log", "hello", "--json"],
        &["memory", "get", "./hello"],
        &["memory", "get", "hello", "token"],
        &["memory", "get", "hello", "token", "--json"],
        &["why", "hello", "--json"],
        &[
            "what-if",
            "hello",
            "--action",
            "wake",
            "--set",
            "token=correct-horse-battery-staple",
            "--json",
        ],
        &["verify", "hello", "--json"],
    ] {
        let ran = rig.run(args).code(0);
        said.extend([ran.out, ran.err]);
    }
    assert!(said.iter().all(|text| !text.contains(SECRET)), "{said:?}");
    assert!(said.iter().any(|text| text.contains("<secret>")));
    let files = object.files();
    let holding: Vec<_> = files.keys().filter(|path| holds_secret(path)).collect();
    assert_eq!(holding.len(), 1, "{holding:?}");
    assert_eq!(holding[0].parent().unwrap().file_name().unwrap(), "secrets");
    for file in std::fs::read_dir(&object.dir)
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        assert!(file.is_dir() || !holds_secret(&file), "{}", file.display());
    }
}
