//! Everything wrong at once, each fault at its place: what `check` tells authors.

#![expect(clippy::panic, clippy::expect_used, reason = "a test ends by panicking")]

mod classes;
mod mistakes;

use std::path::Path;

use suijuris_bundle::{Built, Diagnostic, MAX_DIAGNOSTICS, Report, Severity, Style, build, build_texts};

use mistakes::MISTAKES;

const GOOD: &str = r#"name = "hello"

[workload]
command = ["python3", "{port}"]
"#;

const RULES: &str = "permit (principal, action, resource);";

const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAdYgX+X4bRqU44dVer/HS3N+3ZTIiBZaq4U+1gYSs060=
-----END PUBLIC KEY-----
";
const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEHccBG7pDmcFfswaMT5/V77MLpW7tyBMn
ruR853VaUYYXYfnqJL3kk7BBejgp5UGS22cBqB7TJ7/QnVt2JRu58m/OFptIrtar
0u6TGA9E7MX+8QAq23JR25/oBpAEaGEq
-----END PUBLIC KEY-----
";
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDKjqeHFMSrQvO8tagP6PoVS4Vq
DaLZKWaUr9fwfj02C48PTICHMidBbdp9s1NvP1Z4ZgerIYlKeGZGuNQiYbyYi8sI
RG7+fakhqz1P9s6Skymghree/3RwFl7R4k0xozqiGME5E8Uf7izNtHgdifHyKL5H
ZHXa/bfMXgnWxsaSoQIDAQAB
-----END PUBLIC KEY-----
";

fn checked(definition: &str, rules: &str) -> (Vec<Diagnostic>, Option<Built>) {
    match build_texts(definition, rules, Path::new(".")) {
        Ok(built) => (built.findings.diagnostics().to_vec(), Some(built)),
        Err(report) => (report.diagnostics().to_vec(), None),
    }
}

/// `definition` gives exactly one error in object.toml: with this code, at this text, and this in its help or message.
fn check(definition: &str, code: &str, place: &str, says: &str) {
    let (diagnostics, built) = checked(definition, RULES);
    assert!(built.is_none(), "built: {definition}");
    let mine =
        |diagnostic: &&Diagnostic| diagnostic.file == "object.toml" && diagnostic.severity == Severity::Error;
    let errors: Vec<_> = diagnostics.iter().filter(mine).collect();
    let [error] = errors.as_slice() else {
        panic!("{definition}\n{errors:#?}")
    };
    let label = error.labels.first().expect("a place");
    let help = error.help.clone().unwrap_or_default();
    assert_eq!(
        (error.code.as_ref(), &definition[label.start..label.end]),
        (code, place),
        "{definition}\n{error:?}"
    );
    assert!(
        format!("{} {help}", error.message).contains(says),
        "{says}: {error:?}"
    );
}

const UNKNOWN: &str = "object.unknown_key";
const WRONG: &str = "object.wrong_type";
const VALUE: &str = "object.bad_value";
const BOUNDS: &str = "object.out_of_bounds";
const TIMER: &str = "object.bad_timer";

#[test]
fn each_mistake_has_its_code_place_and_advice() {
    for (more, code, place, says) in MISTAKES {
        check(&format!("{GOOD}{more}\n"), code, place, says);
    }
}

#[test]
fn what_every_object_needs_is_asked_for() {
    check("name = \"hello\"\n", "object.missing_key", "", "[workload]");
    check(
        "[workload]\ncommand = [\"a\"]\n",
        "object.missing_key",
        "",
        "first line",
    );
    check(
        "name = \"Hello World\"\n[workload]\ncommand = [\"a\"]\n",
        "object.bad_name",
        "\"Hello World\"",
        "1 to 63",
    );
    check(
        "name = \"hello\"\n[workload]\ncommand = []\n",
        "object.out_of_bounds",
        "[]",
        "name the program",
    );
}

#[test]
fn keys_of_the_wrong_kind_or_size_are_refused_by_name() {
    let key = |algorithm: &str, pem: &str| {
        format!("{GOOD}[[callers.keys]]\nalgorithm = \"{algorithm}\"\npem = '''\n{pem}'''\n")
    };
    let place = |pem: &str| format!("'''\n{pem}'''");
    check(
        &key("ES256", ED25519),
        "object.bad_key",
        &place(ED25519),
        "another kind than ECDSA on P-256",
    );
    check(&key("ES256", P384), "object.bad_key", &place(P384), "P-256");
    check(
        &key("RS256", RSA_1024),
        "object.bad_key",
        &place(RSA_1024),
        "2048",
    );
    let (_, built) = checked(&key("EdDSA", &ED25519.replace('\n', "\r\n")), RULES);
    assert_eq!(built.expect("a good key").manifest.callers[0].pem, ED25519);
}

// proves B10
#[test]
fn nothing_secret_enters_a_bundle() {
    let secret = format!("{GOOD}[memory.token]\ntype = \"string\"\nsecret = true\ndefault = \"hunter2\"\n");
    check(
        &secret,
        "object.secret_default",
        "\"hunter2\"",
        "readable in the bundle",
    );
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----";
    let key = format!("{GOOD}[[callers.keys]]\nalgorithm = \"EdDSA\"\npem = '''{private}'''\n");
    check(
        &key,
        "object.private_key",
        &format!("'''{private}'''"),
        "public half",
    );
    let (diagnostics, _) = checked(&format!("{GOOD}env = {{ API_TOKEN = \"abc\" }}\n"), RULES);
    assert!(
        diagnostics
            .iter()
            .any(|found| found.code == "object.clear_secret"),
        "{diagnostics:?}"
    );
}

// proves C14
#[test]
fn a_workload_takes_secrets_of_memory_as_variables_and_files() {
    let memory = "[memory]\ndb = { type = \"string\", secret = true }\nkey = { type = \"bytes\", secret = true }\nplain = \"string\"\n";
    let with = |workload: &str| {
        let head = GOOD.replace("\"{port}\"", "\"{port}\", \"--key={secret_file:key}\"");
        format!("{head}{workload}\n{memory}")
    };
    let (_, built) = checked(
        &with("env = { DB = { secret = \"db\" }, F = \"{secret_file:db}\" }"),
        RULES,
    );
    let manifest = built.expect("good").manifest;
    assert_eq!(manifest.workload.secret_env["DB"].as_str(), "db");
    assert!(!manifest.workload.env.contains_key("DB"));
    let files: Vec<_> = manifest
        .secret_files()
        .into_iter()
        .map(|name| name.to_string())
        .collect();
    assert_eq!(files, ["db", "key"]);

    let env = |value: &str, code: &str, says: &str| {
        check(&with(&format!("env = {{ DB = {value} }}")), code, value, says);
    };
    env("{ secret = \"dbb\" }", "object.no_secret", "did you mean `db`?");
    env("{ secret = \"plain\" }", "object.no_secret", "secret = true");
    // Bytes are no text.
    env("{ secret = \"key\" }", "object.no_secret", "that is a string");
    env("{ secret = \"Not a name\" }", "object.bad_name", "lower-case");
    env("{ secret = 1 }", "object.wrong_type", "{ secret = \"field\" }");
    env(
        "{ secret = \"db\", file = true }",
        "object.wrong_type",
        "nothing else",
    );
    env("{ file = \"db\" }", "object.wrong_type", "nothing else");
    env("true", "object.wrong_type", "a string in quotes");
    env("\"{secret_file:plain}\"", "object.no_secret", "a string or bytes");
    check(
        &with("cwd = \"{data}/{secret_file:db}\""),
        "object.no_secret",
        "\"{data}/{secret_file:db}\"",
        "`command` or `env`",
    );
}

#[test]
fn owners_are_named_in_hexadecimal_or_pem_and_can_reach_their_threshold() {
    let with =
        |keys: &str, threshold: u32| format!("{GOOD}[controllers]\nkeys = {keys}\nthreshold = {threshold}\n");
    let (_, built) = checked(&with(&format!("['''{ED25519}''']"), 1), RULES);
    let controllers = built.and_then(|built| built.controllers).expect("owners");
    assert_eq!((controllers.keys.len(), controllers.threshold), (1, 1));
    let by_hex = controllers.keys[0].to_string();
    let (_, again) = checked(&with(&format!("[\"{by_hex}\"]"), 1), RULES);
    assert_eq!(again.and_then(|built| built.controllers), Some(controllers));
    check(
        &with(&format!("[\"{by_hex}\", \"{by_hex}\"]"), 1),
        "object.twice",
        &format!("\"{by_hex}\""),
        "counts once",
    );
    check(
        &with(&format!("[\"{by_hex}\"]"), 2),
        "object.out_of_bounds",
        "2",
        "1 up to the number of keys",
    );
    let zero = "0".repeat(64);
    check(
        &with(&format!("[\"{zero}\"]"), 1),
        "object.bad_key",
        &format!("\"{zero}\""),
        "not a point",
    );
}

// proves A8
#[test]
fn an_ill_typed_rule_is_a_build_error_at_its_place_in_the_rules() {
    let definition = format!("{GOOD}[memory]\nbudget = {{ type = \"int\", default = 1 }}\n");
    let rules = "permit (principal, action == Action::\"wake\", resource)\nwhen { resource.memory.budget == \"many\" };";
    let (diagnostics, built) = checked(&definition, rules);
    assert!(built.is_none());
    let [error] = diagnostics.as_slice() else {
        panic!("{diagnostics:#?}")
    };
    let label = error.labels.first().expect("a place");
    assert_eq!(
        (error.file.as_str(), error.severity, label.line),
        ("governance.cedar", Severity::Error, 2)
    );
    assert!(
        rules[label.start..label.end].contains("resource.memory.budget"),
        "{error:?}"
    );
}

#[test]
fn definition_and_rules_are_reported_together() {
    let definition = format!("{GOOD}comand = 1\n[gate]\nhold = \"forever\"\n");
    let (diagnostics, _) = checked(
        &definition,
        "permit (principal, action, resource) when { context.nowhere };",
    );
    let files: Vec<_> = diagnostics.iter().map(|found| found.file.as_str()).collect();
    assert_eq!(
        files,
        ["object.toml", "object.toml", "governance.cedar"],
        "{diagnostics:#?}"
    );
}

#[test]
fn broken_toml_is_reported_line_by_line_without_guesses() {
    let definition = "name = \n[workload]\ncommand = [\"a\"]\ncommand = [\"b\"]\nport = 70000\n";
    let (diagnostics, _) = checked(definition, RULES);
    let codes: Vec<_> = diagnostics
        .iter()
        .map(|found| (found.code.as_ref(), found.labels.first().map(|l| l.line)))
        .collect();
    assert_eq!(
        codes.get(..3),
        Some(
            &[
                ("object.syntax", Some(1)),
                ("object.syntax", Some(4)),
                ("object.out_of_bounds", Some(5))
            ][..]
        ),
        "{diagnostics:#?}"
    );
}

#[test]
fn rules_are_not_blamed_for_a_field_that_could_not_be_read() {
    let definition = format!("{GOOD}[memory]\nbudget = \"integer\"\n");
    let (diagnostics, _) = checked(
        &definition,
        "permit (principal, action, resource) when { resource.memory.budget > 0 };",
    );
    let codes: Vec<_> = diagnostics.iter().map(|found| found.code.as_ref()).collect();
    assert_eq!(codes, ["object.bad_type", "object.rules_unchecked"]);
}

#[test]
fn triggers_and_words_that_the_rules_leave_unused_are_pointed_out() {
    let definition = format!(
        "{GOOD}[gate]\nheaders = [\"x-tenant\"]\n[callers]\nclaims = {{ tenant = \"string\" }}\n[messages]\ntopics = [\"job\"]\n\
         [timers.nightly]\nevery = \"1h\"\n[timers.daily]\nevery = \"24h\"\n[memory.jobs]\ntype = {{ set = \"string\" }}\nwakes = true\n"
    );
    let rules = r#"
        permit (principal, action == Action::"wake", resource) when { context.trigger.kind == "request" };
        permit (principal is Timer, action == Action::"wake", resource)
        when { context.trigger has name && context.trigger.name == "daily" };
        permit (principal, action in [Action::"remain", Action::"admit"], resource);"#;
    let (diagnostics, built) = checked(&definition, rules);
    assert!(built.is_some(), "{diagnostics:#?}");
    let place = |code: &str| -> Vec<&str> {
        let found = diagnostics.iter().filter(|found| found.code == code);
        found
            .map(|found| &definition[found.labels[0].start..found.labels[0].end])
            .collect()
    };
    assert_eq!(
        place("object.unused_trigger"),
        ["[\"job\"]", "[timers.nightly]", "true"]
    );
    assert_eq!(place("object.unused_header"), ["\"x-tenant\""]);
    assert_eq!(place("object.unused_claim"), ["\"string\""]);
    let all = "permit (principal, action, resource);";
    let (diagnostics, _) = checked(&definition, all);
    assert!(
        diagnostics
            .iter()
            .all(|found| found.code != "object.unused_trigger"),
        "{diagnostics:#?}"
    );
}

#[test]
fn texts_that_secret_headers_are_compared_with_are_pointed_out() {
    let definition = format!("{GOOD}[gate]\nheaders = [\"x-api-key\", \"x-monkey\", \"x-auth-token\"]\n");
    let rules = |when: &str| {
        format!(
            "permit (principal, action, resource);\nforbid (principal, action == Action::\"admit\", resource) when {{ {when} }};"
        )
    };
    let warned = |when: &str| -> Vec<String> {
        let (diagnostics, _) = checked(&definition, &rules(when));
        let found = diagnostics
            .iter()
            .filter(|found| found.code == "object.secret_literal");
        found
            .map(|found| definition[found.labels[0].start..found.labels[0].end].to_owned())
            .collect()
    };
    let header = |name: &str, test: &str| {
        format!(
            "context.request.headers has \"{name}\" && {}",
            test.replace("KEY", &format!("context.request.headers[\"{name}\"]"))
        )
    };
    for test in [
        "KEY == \"s3cret\"",
        "[\"s3cret\", \"other\"].contains(KEY)",
        "KEY like \"s3cret*\"",
    ] {
        assert_eq!(warned(&header("x-api-key", test)), ["\"x-api-key\""], "{test}");
        assert_eq!(warned(&header("x-monkey", test)).len(), 0, "{test}");
    }
    assert_eq!(
        warned("!(context.request.headers has \"x-auth-token\")").len(),
        0,
        "that it is there is no secret"
    );
}

#[test]
fn rules_that_refuse_preflights_are_pointed_out_where_other_origins_may_read() {
    let warned = |gate: &str, rules: &str| {
        let (diagnostics, built) = checked(&format!("{GOOD}{gate}"), rules);
        assert!(built.is_some(), "{diagnostics:#?}");
        diagnostics.iter().any(|found| found.code == "object.preflight")
    };
    let listed = |methods: &str| {
        format!(
            "permit (principal, action, resource);\nforbid (principal, action == Action::\"admit\", resource) unless {{ {methods}.contains(context.request.method) }};"
        )
    };
    let (open, closed) = (
        "[gate]\ncors = [\"https://app.example\", \"http://localhost:3000\"]\n",
        "",
    );
    assert!(warned(open, &listed("[\"GET\"]")));
    assert!(!warned(open, &listed("[\"GET\", \"OPTIONS\"]")));
    assert!(!warned(open, RULES), "no rule looks at methods");
    assert!(
        !warned(closed, &listed("[\"GET\"]")),
        "nobody of another origin reads"
    );
}

// proves D7
#[test]
fn a_timer_that_never_fires_is_pointed_out() {
    let warned = |cron: &str| {
        let timer = format!("{GOOD}[timers.t]\ncron = \"{cron}\"\nzone = \"Europe/Berlin\"\n");
        let (diagnostics, built) = checked(&timer, RULES);
        assert!(built.is_some(), "{diagnostics:#?}");
        diagnostics.iter().any(|found| found.code == "object.never_fires")
    };
    assert!(warned("0 3 30 2 *"));
    assert!(warned("*/5 * 31 4,6 *"));
    assert!(!warned("0 3 29 2 *"), "in leap years");
    assert!(!warned("30 2 * * *"));
}

#[test]
fn http_words_under_raw_connections_are_pointed_out() {
    let definition = format!("{GOOD}[gate]\nprotocol = \"tcp\"\n");
    let rules = "permit (principal, action, resource);\nforbid (principal, action == Action::\"admit\", resource) when { context.request.path == \"/admin\" };";
    let (diagnostics, _) = checked(&definition, rules);
    let found = diagnostics
        .iter()
        .find(|found| found.code == "object.no_request_words")
        .expect("a warning");
    assert_eq!(&definition[found.labels[0].start..found.labels[0].end], "\"tcp\"");
}

#[test]
fn placeholders_are_checked_where_they_are_surely_mistaken() {
    let warned = |command: &str| {
        let (diagnostics, _) = checked(&format!("name = \"a\"\n[workload]\ncommand = {command}\n"), RULES);
        diagnostics.iter().any(|found| found.code == "object.placeholder")
    };
    assert!(warned("[\"serve\", \"{prot}\"]"));
    assert!(warned("[\"./serve.sh\"]"));
    assert!(!warned(
        "[\"serve\", \"{port}\", \"{}\", \"{\\\"a\\\": 1}\", \"{object}/x\"]"
    ));
}

#[test]
fn a_directory_without_rules_or_with_a_huge_definition_is_refused_with_advice() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("object.toml"), format!("{GOOD}comand = 1\n")).expect("written");
    let report = build(dir.path()).expect_err("no rules");
    assert_eq!(report.diagnostics().len(), 2, "{report}");
    assert!(report.render(Style::PLAIN).contains("suijuris new"));
    std::fs::write(dir.path().join("governance.cedar"), RULES).expect("written");
    std::fs::write(dir.path().join("object.toml"), "#".repeat((1 << 20) + 1)).expect("written");
    let report = build(dir.path()).expect_err("too long");
    assert!(
        report.to_string().contains("longer than 1048576 bytes"),
        "{report}"
    );
}

#[test]
fn a_million_mistakes_are_answered_with_the_first_hundred() {
    let report = build_texts(&"x = 1\n".repeat(100_000), RULES, Path::new(".")).expect_err("nonsense");
    assert!(report.count(Severity::Error) <= 2 * MAX_DIAGNOSTICS);
}

fn report(definition: &str, rules: &str) -> Report {
    match build_texts(definition, rules, Path::new(".")) {
        Ok(built) => built.findings,
        Err(report) => report,
    }
}

#[test]
fn reports_read_well() {
    let spelling = report(
        "name = \"hello\"\n\n[workload]\ncomand = [\"python3\"]\nready_within = \"2h\"\n",
        RULES,
    );
    insta::assert_snapshot!("spelling", spelling.render(Style::PLAIN));
    let memory = format!(
        "{GOOD}\n[memory.jobs]\ntype = {{ set = \"string\" }}\ndefault = [\"a\", 2]\nfresh_fro = \"1h\"\n"
    );
    insta::assert_snapshot!("memory", report(&memory, RULES).render(Style::PLAIN));
    let timer = format!("{GOOD}\n[timers.nightly]\ncron = \"0 3 * * *\"\n");
    let rules = "permit (principal, action, resource) unless { principal is Timer };";
    insta::assert_snapshot!("advice", report(&timer, rules).render(Style::PLAIN));
}

#[test]
fn a_report_is_json_for_programs() {
    let json = serde_json::to_value(report(&format!("{GOOD}port = 0\n"), RULES)).expect("JSON");
    assert_eq!(json[0]["code"], "object.out_of_bounds");
    assert_eq!(
        (&json[0]["severity"], &json[0]["file"]),
        (&"error".into(), &"object.toml".into())
    );
    assert_eq!(
        (&json[0]["labels"][0]["line"], &json[0]["labels"][0]["column"]),
        (&5.into(), &8.into())
    );
}
