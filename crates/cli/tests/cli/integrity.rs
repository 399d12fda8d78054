//! `verify`: whatever was done to a history, it is found and its place is named.

use std::fs;
use std::path::{Path, PathBuf};

use suijuris_core::memory::Value;

use crate::rig::{Object, Rig};

fn segment(data: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(data.join("lineage"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files.remove(0)
}

/// Bytes of the first segment without the zeros behind its records.
fn used(object: &Object) -> Vec<u8> {
    let mut bytes = fs::read(segment(object.data())).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(end + 1);
    bytes
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            suijuris_testkit::program::copy(entry.path(), target);
        }
    }
}

/// A link to what somebody else keeps, and a look at whether it is as it was.
fn victim(rig: &Rig, name: &str) -> PathBuf {
    let dir = rig.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("kept"), "precious").unwrap();
    dir
}

#[test]
fn links_in_a_data_directory_lead_nowhere() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    rig.run(&["export", "hello", "--output", "hello.sui"]).code(0);
    let dir = victim(&rig, "victim");
    let kept = || fs::read_to_string(dir.join("kept")).unwrap();
    let link = |from: &Path, to: &Path| std::os::unix::fs::symlink(to, from).unwrap();
    // An import clears what an earlier one left, and nothing behind a link.
    for folder in ["lineage.tmp", "lineage", "bundles", "secrets"] {
        let data = rig.path().join(folder).join("data");
        fs::create_dir_all(&data).unwrap();
        link(&data.join(folder), &dir);
        let ran = rig
            .run(&[
                "import",
                "hello.sui",
                "--data",
                data.to_str().unwrap(),
                "--without-key",
            ])
            .code(1);
        assert!(ran.out.contains("it is a link"), "{}", ran.out);
        assert_eq!(kept(), "precious");
    }
    // What is written in one go is written beside, over no link.
    link(&object.data().join("checkpoint.tmp"), &dir.join("kept"));
    fs::hard_link(dir.join("kept"), object.data().join("next.tmp")).unwrap();
    object.live();
    assert_eq!(kept(), "precious");
    // The lock is nobody else's file.
    fs::remove_file(object.data().join("lock")).unwrap();
    for hard in [false, true] {
        let lock = object.data().join("lock");
        if hard {
            fs::hard_link(dir.join("kept"), &lock).unwrap();
        } else {
            link(&lock, &dir.join("kept"));
        }
        let ran = rig.run(&["memory", "set", "hello", "open=true"]).code(3);
        assert!(ran.err.contains("link"), "{}", ran.err);
        assert_eq!(kept(), "precious");
        fs::remove_file(&lock).unwrap();
    }
    rig.run(&["memory", "set", "hello", "open=true"]).code(0);
}

#[test]
fn what_verify_refuses_is_not_imported() {
    let rig = Rig::new();
    let dir = rig.path().join("forged");
    suijuris_bundle::scaffold("http", &dir, "forged").unwrap();
    let nested = format!(
        "permit (principal, action, resource) when {{ {}true{} }};",
        "(".repeat(1_000),
        ")".repeat(1_000)
    );
    for governance in ["forbid (principal, action, resource);".to_owned(), nested] {
        Rig::forge(&dir, "forged", governance);
        rig.run(&["export", "forged", "--output", "forged.sui"]).code(0);
        let verified = rig.run(&["verify", "forged.sui"]).code(1).out;
        assert!(verified.contains("is not valid"), "{verified}");
        let imported = rig
            .run(&["import", "forged.sui", "--data", "taken", "--without-key"])
            .code(1)
            .out;
        assert!(imported.contains("not imported"), "{imported}");
        assert!(!rig.path().join("taken").exists());
        fs::remove_file(rig.path().join("forged.sui")).unwrap();
        fs::remove_dir_all(dir.join(".suijuris")).unwrap();
    }
}

// proves B8
#[test]
fn a_copy_is_verified_without_the_definition_the_key_or_the_network() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    copy(object.data(), &rig.path().join("elsewhere"));
    fs::remove_file(rig.path().join("elsewhere/next.key")).unwrap();
    fs::remove_dir_all(&object.dir).unwrap();
    fs::remove_dir_all(rig.path().join("config")).unwrap();
    let verified = rig.run(&["verify", "elsewhere", "--json"]).code(0).json();
    assert_eq!(
        (&verified["verified"], &verified["records"]),
        (&true.into(), &8.into())
    );
    assert_eq!(verified["object"], object.id);
    assert_eq!(verified["bundles"].as_array().unwrap().len(), 1);
    assert!(
        rig.run(&["verify", "elsewhere"])
            .code(0)
            .out
            .starts_with("verified  8 records")
    );
}

// proves B8
#[test]
fn every_flipped_byte_is_found_and_its_record_named() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    let (path, bytes) = (segment(object.data()), used(&object));
    let whole = fs::read(&path).unwrap();
    // A step that shares no factor with the layout, so that every sort of byte is met.
    for at in (0..bytes.len()).step_by(67).chain([bytes.len() - 1]) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        let ran = rig.run(&["verify", "hello", "--json"]).code(1).json();
        assert_eq!(ran["verified"], false, "byte {at}");
        let fault = &ran["fault"];
        assert!(
            fault["seq"].is_u64() && fault["file"].as_str().unwrap().starts_with("lineage/"),
            "byte {at}: {ran}"
        );
        let place = fault["offset"].as_u64().unwrap();
        assert!(place <= at as u64, "byte {at}: {ran}");
        assert_eq!(
            fault["seq"], ran["records"],
            "byte {at}: the first bad record follows the last good one"
        );
    }
    fs::write(&path, &whole).unwrap();
    rig.run(&["verify", "hello"]).code(0);
}

#[test]
fn a_history_that_was_cut_is_not_a_shorter_one() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    let (path, bytes) = (segment(object.data()), used(&object));
    let whole = fs::read(&path).unwrap();
    let mut cut = whole.clone();
    cut[bytes.len() - 700..].fill(0);
    for content in [
        cut,
        whole[..bytes.len() / 2].to_vec(),
        whole[..bytes.len() - 1].to_vec(),
    ] {
        fs::write(&path, content).unwrap();
        let ran = rig.run(&["verify", "hello"]).code(1);
        assert!(
            ran.out.contains("not verified  record") && ran.out.contains("byte"),
            "{}",
            ran.out
        );
    }
    let mut longer = whole.clone();
    longer[bytes.len() + 40] = 1;
    fs::write(&path, longer).unwrap();
    rig.run(&["verify", "hello"]).code(1);
    fs::write(&path, &whole).unwrap();
    fs::remove_file(&path).unwrap();
    let gone = rig.run(&["verify", "hello"]);
    assert!(
        matches!(gone.code, 1 | 3) && gone.out.is_empty() != (gone.code == 1),
        "{}",
        gone.err
    );
}

#[test]
fn rules_that_were_swapped_or_altered_are_found() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    object.live();
    let bundles = object.data().join("bundles");
    let bundle = fs::read_dir(bundles).unwrap().next().unwrap().unwrap().path();
    for file in ["governance.cedar", "program", "manifest"] {
        let path = bundle.join(file);
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        altered[whole.len() / 2] ^= 1;
        fs::write(&path, altered).unwrap();
        let ran = rig.run(&["verify", "hello", "--json"]).code(1).json();
        assert!(
            ran["fault"]["message"].as_str().unwrap().contains("bundle"),
            "{file}: {ran}"
        );
        fs::write(&path, whole).unwrap();
    }
    let checkpoint = object.data().join("checkpoint");
    let mut altered = fs::read(&checkpoint).unwrap();
    altered[40] ^= 1;
    fs::write(&checkpoint, altered).unwrap();
    rig.run(&["verify", "hello"]).code(1);
}

#[test]
fn an_unsealed_end_holds_and_is_said() {
    let rig = Rig::new();
    let object = rig.create("http", "hello");
    let live = object.open();
    live.wake();
    live.write_unsealed("note", Value::String("late".to_owned()));
    live.writer.close().unwrap();
    let verified = rig.run(&["verify", "hello", "--json"]).code(0).json();
    assert_eq!(
        (&verified["records"], &verified["uncovered"]),
        (&3.into(), &1.into())
    );
    assert!(
        rig.run(&["verify", "hello"])
            .code(0)
            .out
            .contains("not signed yet: 1 record at the end")
    );
    assert!(
        rig.run(&["show", "hello"])
            .code(0)
            .out
            .contains("not signed yet: 1 record")
    );
}
