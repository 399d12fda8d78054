//! The same definition is the same bytes everywhere, and every part of it counts.

#![expect(clippy::panic, reason = "a test ends by panicking")]

use std::path::Path;

use proptest::prelude::*;
use suijuris_bundle::{Built, Files, Style, VerifyError, build_texts, verify_files};
use suijuris_core::manifest::{Manifest, Witness};
use suijuris_core::time::Span;
use suijuris_core::{BlobId, BundleId};

const DEFINITION: &str = r#"name = "hello"

[workload]
command = ["python3", "-m", "http.server", "{port}"]
env = { LANG = "C.UTF-8", TZ = "UTC" }

[gate]
headers = ["x-tenant", "accept"]
hold = "20s"

[memory]
budget = { type = "int", default = 100, min = 0 }
jobs = { type = { set = "string" }, default = ["b", "a"], wakes = true }

[memory.consent]
type = "timestamp"
fresh_for = "24h"

[timers.nightly]
cron = "0 3 * * *"
zone = "Europe/Berlin"
"#;

/// The same, every table and key in another order, and in other spellings.
const SHUFFLED: &str = r#"
timers.nightly = { zone = "Europe/Berlin", cron = "0 3 * * *", missed = "once" }
name = 'hello'
[memory]
jobs = { wakes = true, default = ["a", "b", "a"], type = { set = "string" } }
consent = { fresh_for = "1440m", type = "timestamp" }
[memory.budget]
min = 0x0
default = 1_00
type = "int"
[gate]
hold = "20000ms"
headers = ["accept", "x-tenant"]
[workload]
env.TZ = "UTC"
env.LANG = "C.UTF-8"
ready = "tcp"
command = ["python3", "-m", "http.server", "{port}"]
"#;

const RULES: &str = r#"
@id("all") permit (principal, action, resource)
when { resource.memory.budget > 0 && resource.fresh.consent };
"#;

/// RFC 8032 §7.1, test 1.
const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn built(definition: &str, rules: &str) -> Built {
    build_texts(definition, rules, Path::new("."))
        .unwrap_or_else(|report| panic!("{}", report.render(Style::PLAIN)))
}

// proves B3
#[test]
fn the_order_and_spelling_of_keys_do_not_matter() {
    let (one, other) = (built(DEFINITION, RULES), built(SHUFFLED, RULES));
    assert_eq!(one.manifest_bytes, other.manifest_bytes);
    assert_eq!((one.id, one.program_bytes), (other.id, other.program_bytes));
}

// proves B3
#[test]
fn the_identity_of_a_definition_is_this_one() {
    let built = built(DEFINITION, RULES);
    assert_eq!(built.id, BundleId::of(&built.manifest_bytes));
    // The program's encoding has vectors of its own; here it is held fixed.
    let manifest = Manifest {
        program: BlobId::of(b"program"),
        ..built.manifest
    };
    let id = BundleId::of(&manifest.encode().unwrap());
    assert_eq!(
        id.to_string(),
        "bafyreicbdio2aestmtmnogxo42ab6iynlnivv37krqmleewkxojoi53svq"
    );
}

// proves B3
#[test]
fn whatever_changes_is_another_identity() {
    let id = built(DEFINITION, RULES).id;
    for (from, to) in [
        ("\"hello\"", "\"hallo\""),
        ("{port}", "{data}"),
        ("default = 100", "default = 101"),
        ("\"24h\"", "\"25h\""),
        ("0 3 * * *", "1 3 * * *"),
    ] {
        assert_ne!(
            built(&DEFINITION.replace(from, to), RULES).id,
            id,
            "{from} → {to}"
        );
    }
    assert_ne!(built(DEFINITION, &RULES.replace("> 0", "> 1")).id, id);
    // A comment is part of what its author said.
    assert_ne!(built(DEFINITION, &format!("{RULES}// so be it\n")).id, id);
}

// proves B3
#[test]
fn what_is_asked_of_a_witness_is_part_of_the_identity_and_its_defaults_change_no_byte() {
    let with = |table: &str| built(&format!("{DEFINITION}{table}"), RULES);
    let plain = built(DEFINITION, RULES);
    for same in [
        "[witness]\n",
        "[witness]\nstrength = \"optional\"\nlease = \"10s\"\ngrace = \"0s\"\n",
    ] {
        assert_eq!(with(same).manifest_bytes, plain.manifest_bytes, "{same}");
    }
    let long = with("[witness]\nstrength = \"required\"\nlease = \"3s\"\n").manifest;
    assert_eq!((long.witness, long.lease), (Witness::Required, Span(3_000)));
    let grace = with("[witness]\ngrace = \"1m\"\n");
    assert_eq!(grace.manifest.grace, Span(60_000));
    assert_ne!(grace.id, plain.id);
}

#[test]
fn owners_are_not_part_of_the_bundle_but_of_the_object() {
    let owned = format!("{DEFINITION}[controllers]\nkeys = [\"{KEY}\"]\n");
    let owned = built(&owned, RULES);
    assert_eq!(owned.id, built(DEFINITION, RULES).id);
    assert!(owned.controllers.is_some());
}

#[test]
fn a_bundle_written_to_files_reads_back_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let built = built(DEFINITION, RULES);
    built.files().write(dir.path()).unwrap();
    let verified = verify_files(dir.path()).unwrap();
    assert_eq!((verified.id, verified.manifest), (built.id, built.manifest));
}

#[test]
fn a_part_that_was_altered_swapped_or_lost_is_named() {
    let files = built(DEFINITION, RULES).files();
    let other = built(DEFINITION, &RULES.replace("> 0", ">= 0")).files();
    let swapped = |change: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        change(&mut files);
        files.verify().unwrap_err()
    };
    let error = swapped(&|files| files.governance.clone_from(&other.governance));
    assert!(
        matches!(
            error,
            VerifyError::Digest {
                part: "rule text",
                ..
            }
        ),
        "{error}"
    );
    let error = swapped(&|files| files.program.clone_from(&other.program));
    assert!(
        matches!(
            error,
            VerifyError::Digest {
                part: "decision program",
                ..
            }
        ),
        "{error}"
    );
    let error = swapped(&|files| files.manifest.clone_from(&other.manifest));
    assert!(matches!(error, VerifyError::Digest { .. }), "{error}");
    // Digests that match do not make a foreign program the one of the rules.
    let error = swapped(&|files| {
        let (_, manifest) = Manifest::decode(&files.manifest).unwrap();
        let program = BlobId::of(&other.program);
        files.manifest = Manifest { program, ..manifest }.encode().unwrap();
        files.program.clone_from(&other.program);
    });
    assert!(matches!(error, VerifyError::OtherProgram), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(verify_files(empty.path()), Err(VerifyError::File(_))));
}

/// Any text as object.toml and as rules is answered with a bundle or a report that can be drawn.
fn any_definition(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(report) = build_texts(&text, RULES, Path::new(".")) {
        assert!(report.has_errors() && !report.render(Style::PLAIN).is_empty());
    }
}

/// Any bytes as a manifest are refused or verified, never a panic.
fn any_files(bytes: &[u8]) {
    let files = Files {
        manifest: bytes.to_vec(),
        governance: RULES.to_owned(),
        program: bytes.to_vec(),
    };
    assert!(files.verify().is_err());
}

/// The definition with pieces cut out, doubled, or put in from a list of awkward words.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "[",
        "]",
        "{",
        "\"",
        "'''",
        "=",
        "\n[memory.x]\n",
        "type",
        "-1",
        "é",
        "\r",
        "1e9",
        "nan",
        "[[callers.keys]]",
    ];
    let cut = (
        0..DEFINITION.len(),
        0..DEFINITION.len(),
        proptest::sample::select(words.to_vec()),
    );
    proptest::collection::vec(cut, 1..4).prop_map(|cuts| {
        let mut bytes = DEFINITION.as_bytes().to_vec();
        for (from, to, word) in cuts {
            let (from, to) = (from.min(bytes.len()), to.min(bytes.len()));
            let end = from.max(to).min(from + 12).min(bytes.len());
            bytes.splice(from.min(end)..end, word.bytes());
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_text_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        any_definition(&bytes);
        any_files(&bytes);
    }

    #[test]
    fn a_mangled_definition_is_answered(bytes in mangled()) {
        any_definition(&bytes);
    }
}
