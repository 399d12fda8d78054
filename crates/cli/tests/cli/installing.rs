//! The installer and the uninstaller of the archive, with a stand-in for the program: what they do does not depend on it. That
//! the program itself is installed and used where nothing else is, `cargo xtask dist --check` tries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ran::{Ran, run};

/// An unpacked archive of this version with these files beside the program.
fn archive(root: &Path, version: &str, files: &[&str]) -> PathBuf {
    let dir = root.join(version);
    fs::create_dir_all(dir.join("bin")).unwrap();
    let program = format!("#!/bin/sh\n[ \"$1\" = --version ] || exec sleep 600\necho suijuris {version}\n");
    suijuris_testkit::program::script(dir.join("bin/suijuris"), &program);
    for file in files {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, version).unwrap();
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools");
    for name in ["install.sh", "uninstall.sh"] {
        suijuris_testkit::program::copy(tools.join(name), dir.join(name));
    }
    dir
}

fn shell(home: &Path, program: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new("sh");
    command.arg(program).args(words).env_clear();
    run(command.env("PATH", "/usr/bin:/bin").env("HOME", home))
}

/// Everything below a directory, by name.
fn files(below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![below.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.path().is_dir() {
                true => dirs.push(entry.path()),
                false => found.push(entry.path().strip_prefix(below).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

// proves G8
#[test]
fn a_version_takes_the_place_of_another_while_that_runs_and_objects_stay() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("home");
    let prefix = home.join(".local");
    // The data folder of this user lies where the archive puts things too.
    fs::create_dir_all(prefix.join("share/suijuris/depot")).unwrap();
    fs::write(prefix.join("share/suijuris/depot/mark"), "theirs").unwrap();
    let old = archive(temp.path(), "1", &["share/man/man1/old.1", "share/suijuris/both"]);
    let new = archive(temp.path(), "2", &["share/man/man1/new.1", "share/suijuris/both"]);
    let to = ["--prefix", prefix.to_str().unwrap()];
    let said = shell(&home, &old.join("install.sh"), &to).code(0).out;
    assert!(
        said.contains("installed suijuris 1") && said.contains("add it to your PATH"),
        "{said}"
    );
    let mut running = Command::new(prefix.join("bin/suijuris"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let said = shell(&home, &new.join("install.sh"), &to).code(0).out;
    assert!(said.contains("installed suijuris 2"), "{said}");
    assert!(running.try_wait().unwrap().is_none(), "what runs goes on");
    let installed = [
        "bin/suijuris",
        "share/man/man1/new.1",
        "share/suijuris/both",
        "share/suijuris/depot/mark",
        "share/suijuris/installed",
        "share/suijuris/uninstall.sh",
    ];
    assert_eq!(files(&prefix), installed);
    assert_eq!(
        fs::read_to_string(prefix.join("share/suijuris/both")).unwrap(),
        "2"
    );

    let uninstaller = prefix.join("share/suijuris/uninstall.sh");
    let said = shell(&home, &uninstaller, &[]).code(0).out;
    assert!(said.contains("objects, keys and depots stay"), "{said}");
    assert_eq!(files(&prefix), ["share/suijuris/depot/mark"]);
    assert!(running.try_wait().unwrap().is_none());
    running.kill().unwrap();
    running.wait().unwrap();
    shell(&home, &new.join("uninstall.sh"), &to).code(3);
}

// proves G8
#[test]
fn where_it_cannot_write_it_says_so_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let archive = archive(temp.path(), "1", &[]);
    let install = archive.join("install.sh");
    let refused = shell(temp.path(), &install, &["--prefix", "/proc/none"]).code(3);
    assert!(
        refused.err.contains("/proc/none cannot be written"),
        "{}",
        refused.err
    );
    shell(temp.path(), &install, &["--prefix"]).code(2);
    fs::remove_file(archive.join("bin/suijuris")).unwrap();
    let refused = shell(
        temp.path(),
        &install,
        &["--prefix", temp.path().join("to").to_str().unwrap()],
    )
    .code(3);
    assert!(refused.err.contains("is not there"), "{}", refused.err);
    assert!(!temp.path().join("to").exists());
}
