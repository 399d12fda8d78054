//! Dependency budgets: what the crates that run inside a machine may take from outside, and how much the runtime drags in.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use xshell::Shell;

use super::{Finding, manifest_of};
use crate::workspace::{Crate, cargo};

const RULE: &str = "budget";

/// Crates linked into the runtime, ours included, procedural macros not, each version counted. Each is code that runs inside every machine with the
/// object's keys in reach; a larger number wants a reason in the commit that raises it.
const RUNTIME_CRATES_MAX: usize = 150;

/// What the runtime must never link: Cedar is a build-time tool, and TLS stacks are not needed where the gate listens inside.
const RUNTIME_BANS: &[(&str, &str)] = &[
    (
        "cedar-policy",
        "Cedar is a build-time tool: the runtime evaluates compiled decision programs",
    ),
    (
        "cedar-policy-core",
        "Cedar is a build-time tool: the runtime evaluates compiled decision programs",
    ),
    ("openssl", "the static runtime links no C library but libc"),
    ("aws-lc-sys", "the static runtime links no C library but libc"),
    (
        "ring",
        "one implementation of each primitive: those core already uses",
    ),
    (
        "rustls",
        "the runtime ends no TLS: the vehicle's proxy or the door does",
    ),
    ("reqwest", "the runtime speaks to sockets of its own machine only"),
];

/// Direct dependencies from outside that a crate may have.
struct Budget {
    name: &'static str,
    allowed: &'static [&'static str],
    why: &'static str,
}

#[rustfmt::skip]
const BUDGETS: &[Budget] = &[
    Budget { name: "core", why: "core has no I/O, no clock and no randomness: only encodings, digests, signatures and civil time",
        allowed: &["serde", "serde_bytes", "serde_ipld_dagcbor", "serde_json", "ipld-core", "sha2", "ed25519-dalek", "base64",
            "zeroize", "thiserror", "jiff", "cronexpr"] },
    Budget { name: "sys", why: "it is read whole by whoever asks where unsafe code stands: system calls, what lets tasks wait for them, and the two \
        filters that a workload gets",
        allowed: &["landlock", "libc", "nix", "seccompiler", "tokio"] },
    Budget { name: "store", why: "durability is files and system calls",
        allowed: &["serde", "serde_bytes", "serde_ipld_dagcbor", "ipld-core", "sha2", "ed25519-dalek", "zeroize", "getrandom", "thiserror",
            "libc", "nix"] },
    Budget { name: "auth", why: "it meets what strangers send before anything is decided: encodings and signatures",
        allowed: &["base64", "ed25519-dalek", "hmac", "p256", "rsa", "serde", "serde_json", "sha2", "thiserror", "zeroize"] },
    Budget { name: "link", why: "it is in every machine and reads what a machine says: encodings, one digest, tokio's sockets",
        allowed: &["getrandom", "hmac", "serde", "serde_bytes", "serde_json", "sha2", "thiserror", "tokio", "zeroize"] },
    Budget { name: "depot", why: "the runtime links its default features: files, locks, sockets, and no network; the rest is optional, for cli",
        allowed: &["getrandom", "nix", "serde", "serde_bytes", "thiserror", "tokio",
            "base64", "futures-util", "object_store", "reqwest", "rustls", "rustls-platform-verifier", "serde_json", "zeroize"] },
    Budget { name: "custody", why: "the runtime links it: clocks, threads and what JSON a patch is",
        allowed: &["getrandom", "libc", "nix", "serde", "serde_bytes", "serde_json", "thiserror", "tokio"] },
    Budget { name: "oci", why: "layouts and references take little; the registry client is optional, for whoever has a network, and so are images, for whoever runs them",
        allowed: &["base64", "oci-spec", "serde", "serde_json", "sha2", "tempfile", "thiserror", "zeroize",
            "bytes", "http-auth", "hyper", "reqwest", "rustls", "rustls-platform-verifier", "tokio",
            "flate2", "rustix", "ruzstd", "tar"] },
    Budget { name: "gate", why: "a proxy that must be read in one sitting: hyper's parts, tokio and system calls",
        allowed: &["bytes", "http", "http-body-util", "httparse", "hyper", "hyper-util", "libc", "nix", "serde", "serde_json",
            "thiserror", "tokio"] },
    // regorus is optional: a peer of the bench, never part of a build that ships.
    Budget { name: "door", why: "it answers for all objects of a depot: hyper's parts and tokio, no TLS, no client of any one cloud",
        allowed: &["base64", "bytes", "hashbrown", "http", "http-body-util", "hyper", "hyper-util", "prometheus-client", "regorus",
            "serde", "serde_json", "thiserror", "tokio", "zeroize"] },
    // rustix: files of an image are opened beneath its root and nowhere else (`openat2`).
    Budget { name: "runtime", why: "it runs inside every machine with the object's keys in reach",
        allowed: &["base64", "bytes", "getrandom", "http", "http-body-util", "httparse", "hyper", "hyper-util", "ipld-core",
            "jiff", "lexopt", "libc", "nix", "rustix", "serde", "serde_bytes", "serde_ipld_dagcbor", "serde_json", "thiserror", "tokio",
            "toml", "zeroize"] },
];

/// Checks direct dependencies against the budgets.
pub(super) fn check(crates: &[Crate]) -> Vec<Finding> {
    let over = |budget: &Budget, found: &Crate| {
        let manifest = manifest_of(budget.name);
        let names = found
            .normal
            .iter()
            .filter(|to| !to.ours && !budget.allowed.contains(&to.name.as_str()));
        let advice = |name: &str| {
            format!(
                "`{name}` is outside the budget of {} ({}): do without, or add it in tidy/budgets.rs and say why",
                budget.name, budget.why
            )
        };
        names
            .map(|to| Finding::error(&manifest, 0, RULE, advice(&to.name)))
            .collect::<Vec<_>>()
    };
    BUDGETS
        .iter()
        .flat_map(|budget| {
            crates
                .iter()
                .filter(|found| found.name == budget.name)
                .flat_map(move |found| over(budget, found))
        })
        .collect()
}

/// `name version` of all crates linked into the runtime on Linux, as cargo resolves features for it alone.
pub(super) fn runtime_tree(shell: &Shell) -> Result<Vec<String>> {
    let arguments = "tree --package suijuris-runtime --edges normal,no-proc-macro \
                     --target x86_64-unknown-linux-gnu --prefix none --format {p}";
    let tree = cargo(shell, &arguments.split_whitespace().collect::<Vec<_>>())
        .quiet()
        .read()
        .context("cargo tree of the runtime failed")?;
    let package = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let crates: BTreeSet<String> = tree
        .lines()
        .map(package)
        .filter(|found| !found.is_empty())
        .collect();
    Ok(crates.into_iter().collect())
}

/// Build dependencies that run a program which a machine with Rust and a C compiler has not.
const BUILD_BANS: &[(&str, &str)] = &[
    ("prost-build", "it runs protoc"),
    ("tonic-build", "it runs protoc"),
    ("tonic-prost-build", "it runs protoc"),
    ("protobuf-codegen", "it runs protoc"),
    ("cmake", "it runs cmake"),
    ("bindgen", "it needs libclang"),
];

/// Checks that a machine with Rust and a C compiler builds everything. `lock` is Cargo.lock.
pub(super) fn check_lock(lock: &str) -> Vec<Finding> {
    let has = |name: &str| lock.lines().any(|line| line == format!("name = \"{name}\""));
    let banned = BUILD_BANS.iter().filter(|(ban, _)| has(ban));
    banned
        .map(|(ban, why)| {
            let advice = format!("`{ban}` is in the graph: {why}; see cargo tree -i {ban} --workspace");
            Finding::error("Cargo.lock", 0, RULE, advice)
        })
        .collect()
}

/// Checks number and names of what the runtime links.
pub(super) fn check_runtime_tree(crates: &[String]) -> Vec<Finding> {
    let manifest = manifest_of("runtime");
    let banned = RUNTIME_BANS
        .iter()
        .filter(|(ban, _)| crates.iter().any(|found| found.split(' ').next() == Some(*ban)));
    let mut findings: Vec<Finding> = banned
        .map(|(ban, why)| {
            Finding::error(
                &manifest,
                0,
                RULE,
                format!("the runtime links `{ban}`: {why}; see cargo tree -i {ban}"),
            )
        })
        .collect();
    if crates.len() > RUNTIME_CRATES_MAX {
        let advice = format!(
            "the runtime links {} crates, its budget is {RUNTIME_CRATES_MAX}: see cargo tree",
            crates.len()
        );
        findings.push(Finding::error(&manifest, 0, RULE, advice));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, rules};
    use super::*;

    #[test]
    fn a_dependency_outside_the_budget_is_caught_and_tests_are_free() {
        let crates = [
            fixture("core", &["+serde"], &["+proptest"]),
            fixture("cli", &["+miette"], &[]),
        ];
        assert_eq!(check(&crates), []);
        assert_eq!(rules(&check(&[fixture("core", &["+tokio"], &[])])), [RULE]);
        assert_eq!(rules(&check(&[fixture("gate", &["+reqwest"], &[])])), [RULE]);
    }

    #[test]
    fn cedar_in_the_runtime_is_caught_however_it_came() {
        let names = ["tokio v1.54.1", "cedar-policy v4.14.0", "suijuris-core v0.1.0"].map(str::to_owned);
        assert_eq!(rules(&check_runtime_tree(&names)), [RULE]);
    }

    #[test]
    fn what_needs_more_than_a_c_compiler_to_build_is_caught() {
        let lock = "[[package]]\nname = \"prost\"\n\n[[package]]\nname = \"prost-build\"\n";
        assert_eq!(rules(&check_lock(lock)), [RULE]);
        assert_eq!(check_lock("[[package]]\nname = \"prost\"\n"), []);
    }

    #[test]
    fn too_many_crates_in_the_runtime_are_caught() {
        let names: Vec<String> = (0..=RUNTIME_CRATES_MAX)
            .map(|number| format!("crate{number}"))
            .collect();
        assert_eq!(rules(&check_runtime_tree(&names)), [RULE]);
    }
}
