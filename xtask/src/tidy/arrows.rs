//! Which of our crates may depend on which. One table; everything it does not allow is banned, for the reason it gives.

use super::{Finding, manifest_of};
use crate::workspace::{Crate, Dependency};

const RULE: &str = "arrow";
const TESTKIT: &str = "testkit";

/// Who may depend on a crate of ours.
struct Arrow {
    from: &'static str,
    /// `["*"]` allows any.
    to: &'static [&'static str],
    /// What its tests and examples may use beyond `to` and testkit.
    tests: &'static [&'static str],
    /// Why it may not depend on anything else of ours.
    why: &'static str,
}

#[rustfmt::skip]
const ARROWS: &[Arrow] = &[
    Arrow { from: "core", to: &[], tests: &[],
        why: "core is pure: every crate rests on it, and it rests on none of ours" },
    Arrow { from: "sys", to: &[], tests: &[],
        why: "sys is system calls that several crates need; it decides nothing and knows none of ours" },
    Arrow { from: "policy", to: &["core"], tests: &[],
        why: "policy is a compiler from rules to core's decision programs; it runs at build time and knows no shell" },
    Arrow { from: "store", to: &["core"], tests: &[],
        why: "store keeps core's records on disk; it neither decides nor serves" },
    Arrow { from: "oci", to: &[], tests: &[],
        why: "oci carries bytes for whoever has artifacts: objects of bundle and cli, images of vehicle and host" },
    Arrow { from: "bundle", to: &["core", "policy", "oci"], tests: &[],
        why: "bundle is authoring; it needs the types, the compiler and the form of artifacts, and nothing that runs objects" },
    Arrow { from: "depot", to: &["core"], tests: &[],
        why: "depot keeps heads and messages; it takes no part in what they mean" },
    Arrow { from: "api", to: &[], tests: &[],
        why: "api is wire types, a leaf: a client depends on it alone, and so do gate and vehicle, which may not know core" },
    Arrow { from: "words", to: &["core", "api"], tests: &[],
        why: "words says core's values in api's documents, for all who say them; it decides nothing" },
    Arrow { from: "auth", to: &["core"], tests: &[],
        why: "auth verifies tokens for the runtime and for doors; signatures of three kinds are a budget of their own" },
    Arrow { from: "link", to: &["core", "api", "sys"], tests: &[],
        why: "link is what supervisor and runtime say to each other: it knows neither of them, nor what carries its bytes" },
    Arrow { from: "gate", to: &["api"], tests: &[],
        why: "the gate is generic over the permit, so that it cannot make one: it must not know core" },
    Arrow { from: "custody", to: &["core", "store", "depot", "api", "words", "sys"], tests: &[],
        why: "custody is reached by runtime, supervisor and commands alike: it knows neither machines nor doors; of api it reads the patch" },
    Arrow { from: "runtime", to: &["core", "store", "custody", "gate", "depot", "api", "words", "auth", "link", "guest", "sys"], tests: &["policy", "bundle"],
        why: "the runtime runs inside the machine: no Cedar (policy, bundle), and it must not know its vehicle or host" },
    Arrow { from: "door", to: &["core", "gate", "depot", "api", "words", "auth", "link"], tests: &["policy", "bundle"],
        why: "the door decides with the object's compiled rules only; it wakes machines through api" },
    Arrow { from: "guest", to: &["sys"], tests: &[],
        why: "guest is the first process of a virtual machine: it starts what it is told, and knows neither object nor vehicle" },
    Arrow { from: "vehicle", to: &["api", "guest", "sys"], tests: &[],
        why: "the vehicle knows nothing of objects: a volume is opaque bytes to it" },
    Arrow { from: "edge", to: &["gate"], tests: &[],
        why: "the edge makes a client known; it knows neither objects nor machines, and reads heads as the gate does" },
    Arrow { from: "proxy", to: &["api", "edge", "gate", "sys"], tests: &[],
        why: "the proxy forwards to whatever it is told can serve: it knows neither machines nor objects" },
    Arrow { from: "supervisor", to: &["core", "custody", "door", "edge", "gate", "link", "depot", "store", "vehicle", "api", "words", "sys", "oci"], tests: &["bundle", "policy"],
        why: "the supervisor runs objects on any vehicle: it knows no terminal, no authoring, and no runtime's insides" },
    Arrow { from: "host", to: &["api", "edge", "gate", "oci", "proxy", "sys", "vehicle"], tests: &[],
        why: "the host knows nothing of objects: it is a vehicle daemon" },
    Arrow { from: "cli", to: &["*"], tests: &["*"],
        why: "the user-facing program may embed everything" },
    Arrow { from: "testkit", to: &["core"], tests: &[],
        why: "testkit is reached by the tests of every crate, so it may not reach back" },
    Arrow { from: "fuzzing", to: &["*"], tests: &["*"],
        why: "fuzzing calls every decoder of foreign bytes, and nothing calls it" },
    Arrow { from: "xtask", to: &[], tests: &[],
        why: "xtask must build while the product does not" },
];

/// What a crate may not reach by any way, however its dependencies change.
struct Ban {
    from: &'static str,
    never: &'static [&'static str],
    why: &'static str,
}

const OBJECTS: &[&str] = &[
    "core", "policy", "store", "bundle", "depot", "custody", "runtime", "words",
];

#[rustfmt::skip]
const BANS: &[Ban] = &[
    Ban { from: "gate", never: OBJECTS,
        why: "it forwards what a permit lets through, and what links core could make a permit" },
    Ban { from: "vehicle", never: OBJECTS,
        why: "it carries machines, whatever is in them" },
    Ban { from: "host", never: OBJECTS,
        why: "it serves machines and knows no objects" },
    Ban { from: "api", never: OBJECTS,
        why: "whoever speaks to us needs it alone" },
    Ban { from: "runtime", never: &["policy", "bundle", "vehicle", "supervisor", "host", "oci"],
        why: "it is in every machine, with the object's keys in reach" },
    Ban { from: "supervisor", never: &["policy", "bundle", "runtime", "host"],
        why: "rules come to it compiled, and machines by a driver" },
];

/// Checks every dependency between crates of ours, and what they reach through others.
pub(super) fn check(crates: &[Crate]) -> Vec<Finding> {
    let direct = crates.iter().flat_map(check_crate);
    direct
        .chain(BANS.iter().flat_map(|ban| check_ban(ban, crates)))
        .collect()
}

/// Ways of more than one step to what is banned: those of one step are in the table of arrows.
fn check_ban(ban: &Ban, crates: &[Crate]) -> Vec<Finding> {
    let ours = |name: &str| {
        let found = crates.iter().find(|found| found.name == name);
        let all = found.map(|found| found.normal.as_slice()).unwrap_or_default();
        all.iter().filter(|to| to.ours).map(|to| to.name.as_str())
    };
    let mut ways: Vec<Vec<&str>> = vec![vec![ban.from]];
    let mut reached: Vec<&str> = vec![ban.from];
    let mut findings = Vec::new();
    while let Some(way) = ways.pop() {
        for to in ours(way.last().copied().unwrap_or_default()) {
            if reached.contains(&to) {
                continue;
            }
            reached.push(to);
            let mut longer = way.clone();
            longer.push(to);
            if ban.never.contains(&to) && longer.len() > 2 {
                let advice = format!(
                    "{} reaches `{to}` ({}): {}",
                    ban.from,
                    longer.join(" -> "),
                    ban.why
                );
                findings.push(Finding::error(&manifest_of(ban.from), 0, RULE, advice));
            }
            ways.push(longer);
        }
    }
    findings
}

fn check_crate(found: &Crate) -> Vec<Finding> {
    let manifest = manifest_of(&found.name);
    let Some(arrow) = ARROWS.iter().find(|arrow| arrow.from == found.name) else {
        let advice = format!(
            "crate `{}` has no arrows: add it to the table in tidy/arrows.rs, with the reason",
            found.name
        );
        return vec![Finding::error(&manifest, 0, RULE, advice)];
    };
    let ban = |kind: &str, to: &Dependency| {
        Finding::error(
            &manifest,
            0,
            RULE,
            format!("{} {kind} `{}`: {}", found.name, to.name, arrow.why),
        )
    };
    let product = found
        .normal
        .iter()
        .filter(|to| to.ours && !arrow.allows(&to.name));
    let tests = found
        .dev
        .iter()
        // A crate whose tests switch its own features on names itself.
        .filter(|to| to.ours && to.name != found.name && !arrow.allows_in_tests(&to.name));
    let product = product.map(|to| ban("may not depend on", to));
    product
        .chain(tests.map(|to| ban("may not, even in tests, depend on", to)))
        .collect()
}

impl Arrow {
    /// Testkit never reaches the product, not even where any crate is allowed.
    fn allows(&self, name: &str) -> bool {
        name != TESTKIT && matches(self.to, name)
    }

    fn allows_in_tests(&self, name: &str) -> bool {
        name == TESTKIT || matches(self.to, name) || matches(self.tests, name)
    }
}

fn matches(list: &[&str], name: &str) -> bool {
    list.contains(&"*") || list.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, rules};
    use super::*;

    #[test]
    fn the_arrows_of_the_design_are_allowed() {
        let crates = [
            fixture("core", &["+serde"], &["testkit", "+proptest"]),
            fixture(
                "runtime",
                &["core", "store", "gate", "depot", "api"],
                &["bundle", "testkit"],
            ),
            fixture(
                "cli",
                &["core", "vehicle", "door", "policy"],
                &["runtime", "testkit"],
            ),
        ];
        assert_eq!(check(&crates), []);
    }

    #[test]
    fn what_is_banned_is_banned_by_every_way() {
        let crates = [
            fixture("gate", &["api"], &[]),
            fixture("api", &["words"], &[]),
            fixture("words", &["core", "api"], &[]),
            fixture("core", &[], &[]),
        ];
        let findings = check(&crates);
        assert!(
            findings
                .iter()
                .any(|finding| finding.advice.contains("gate -> api -> words -> core")),
            "{findings:?}"
        );
        let sound = [
            fixture("gate", &["api"], &["core"]),
            fixture("api", &[], &[]),
            fixture("core", &[], &[]),
        ];
        let beyond_tests = check(&sound)
            .into_iter()
            .filter(|finding| finding.advice.contains("reaches"));
        assert_eq!(beyond_tests.count(), 0);
    }

    #[test]
    fn each_ban_is_caught_and_says_why() {
        let banned = [
            fixture("core", &["store"], &[]),
            fixture("gate", &["core"], &[]),
            fixture("vehicle", &["core"], &[]),
            fixture("vehicle", &["api"], &["bundle"]),
            fixture("host", &["depot"], &[]),
            fixture("runtime", &["policy"], &[]),
            fixture("runtime", &["vehicle"], &[]),
            fixture("door", &["bundle"], &[]),
            fixture("cli", &["testkit"], &[]),
            fixture("surprise", &[], &[]),
        ];
        for found in banned {
            let findings = check(std::slice::from_ref(&found));
            assert_eq!(rules(&findings), [RULE], "{found:?}");
        }
        let findings = check(&[fixture("vehicle", &["core"], &[])]);
        assert!(
            findings
                .iter()
                .any(|finding| finding.advice.contains("opaque bytes"))
        );
    }
}
