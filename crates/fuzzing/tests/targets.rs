//! Each target runs on its seeds and on some thousand mutations of them; and each has its file for cargo-fuzz.

use std::collections::BTreeSet;
use std::path::Path;

use suijuris_fuzzing::mutate::Random;
use suijuris_fuzzing::{TARGETS, corpus, find, mutate, run};

/// Mutations of each target in a plain test; CI runs each target for five seconds, `cargo xtask fuzz` for as long as you like.
const MUTATIONS: usize = 60;

#[test]
fn whatever_the_bytes_each_decoder_answers() {
    for target in TARGETS {
        let seeds = corpus::of(target);
        for seed in &seeds {
            assert_eq!(run::broken(target, seed), None, "{}: {seed:x?}", target.name);
        }
        let mut random = Random(7);
        for _ in 0..MUTATIONS {
            let input = mutate::next(&mut random, &seeds);
            assert_eq!(run::broken(target, &input), None, "{}: {input:x?}", target.name);
        }
    }
}

#[test]
fn seeds_are_bytes_that_decoders_accept() {
    assert!(corpus::vectors().len() > 100);
    assert!(corpus::schemas().len() > 1);
    assert!(corpus::state().is_some());
    assert!(find("record").is_some() && find("nothing").is_none());
}

#[test]
fn a_target_that_breaks_is_found_and_its_input_kept() {
    let temp = tempfile::tempdir().unwrap();
    let target = suijuris_fuzzing::Target {
        name: "breaks",
        about: "",
        run: |bytes| assert!(bytes.len() < 3, "three bytes"),
        seeds: &[b"ab"],
    };
    let outcome = run::run(&target, std::time::Duration::from_secs(60), 1, temp.path());
    let (why, path) = outcome.found.unwrap();
    assert!(why.contains("three bytes"));
    assert!(std::fs::read(path).unwrap().len() >= 3);
}

#[test]
fn each_target_has_its_file_for_cargo_fuzz() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let files: BTreeSet<String> = std::fs::read_dir(folder.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected: BTreeSet<String> = TARGETS
        .iter()
        .map(|target| format!("{}.rs", target.name))
        .collect();
    assert_eq!(files, expected);
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(
            manifest.contains(&format!("name = \"{}\"", target.name)),
            "{}",
            target.name
        );
        let path = folder.join("fuzz_targets").join(format!("{}.rs", target.name));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&format!("::{}(bytes)", target.name)), "{text}");
    }
}
