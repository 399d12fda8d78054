//! What a daemon says of its objects, and who reads it: nothing of one tenant reaches another, and nothing of any stands where
//! everybody can look.

use crate::home::{FOUND, Home, OPEN, STAY};

const LITERAL: &str = "literal-in-confidence";
const MEMORY: &str = "memory-in-confidence";
const HEADER: &str = "header-in-confidence";
const QUERY: &str = "query-in-confidence";

/// All that nobody but the owner may read, and the places of this home.
fn secrets(home: &Home) -> Vec<String> {
    let words = [
        LITERAL,
        MEMORY,
        HEADER,
        QUERY,
        "secret-tenant",
        "only-with-the-word",
    ];
    let here = home.path().to_str().unwrap().to_owned();
    words.map(str::to_owned).into_iter().chain([here]).collect()
}

// proves C14
#[test]
fn refusals_tell_nothing_of_rules_memory_or_other_tenants_and_nothing_stands_where_all_can_look() {
    let home = Home::new();
    let log = home.path().join("access");
    let daemon = home.serve_with(&["--access-log", log.to_str().unwrap()]);
    let rule = format!(
        "@id(\"only-with-the-word\") forbid (principal, action == Action::\"admit\", resource) when {{\n\
         context.request.path like \"/closed*\" && !(context.request.headers has \"x-key\" &&\n\
         context.request.headers[\"x-key\"] == \"{LITERAL}\" && resource.memory.note == \"{MEMORY}\") }};\n"
    );
    let text = "[workload]\ncommand = [\"python3\", \"-I\", \"-S\", \"{object}/server.py\", \"{port}\"]\n\
                [gate]\nheaders = [\"x-key\"]\n[class]\nmax_instances = 2\n\
                [memory]\nnote = { type = \"string\", default = \"\" }\n";
    home.add(&home.define("tenant", text, &[FOUND, OPEN, STAY, &rule].concat()));
    daemon.get("secret-tenant.tenant", "/").status(200);
    let note = home.path().join("note");
    std::fs::write(&note, MEMORY).unwrap();
    for tenant in ["tenant/secret-tenant", "tenant/b"] {
        if tenant == "tenant/b" {
            daemon.get("b.tenant", "/").status(200);
        }
        home.suijuris(&["memory", "set", tenant, &format!("note=@{}", note.display())])
            .code(0);
    }
    let answers = std::cell::RefCell::new(Vec::new());
    let refused = |daemon: &crate::daemon::Daemon, host: &str, path: &str, status: u16| {
        let host = format!("{host}.localhost");
        let path = format!("{path}?{QUERY}");
        let headers = [
            ("host", host.as_str()),
            ("x-key", HEADER),
            ("connection", "close"),
        ];
        let answer = daemon.request(&path, &headers);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        answers.borrow_mut().push(format!("{answer:?}"));
    };
    // Awake, and then asleep.
    refused(&daemon, "b.tenant", "/closed", 403);
    refused(&daemon, "b.tenant", "/.suijuris/v1/memory", 404);
    home.suijuris(&["sleep", "tenant/b"]).code(0);
    daemon.wait_phase("tenant/b", "dormant");
    refused(&daemon, "b.tenant", "/closed", 403);
    refused(&daemon, "b.tenant", "/.suijuris/v1/memory", 404);
    // A class that is full, a key that is none, an object that is not here.
    refused(&daemon, "third.tenant", "/", 503);
    refused(&daemon, "b..tenant", "/", 400);
    refused(&daemon, "nobody", "/", 404);
    let secrets = secrets(&home);
    for answer in &*answers.borrow() {
        for secret in &secrets {
            assert!(!answer.contains(secret), "{secret}: {answer}");
        }
    }

    // What brought it to wake is in no list of processes.
    refused(&daemon, "secret-tenant.tenant", "/closed", 403);
    let headers = [
        ("host", "b.tenant.localhost"),
        ("x-key", HEADER),
        ("connection", "close"),
    ];
    daemon.request(&format!("/open?{QUERY}"), &headers).status(200);
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(process.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            for secret in [LITERAL, MEMORY, HEADER, QUERY] {
                assert!(
                    !text.contains(secret),
                    "{secret} in {file} of {:?}",
                    process.path()
                );
            }
        }
    }
    let complaints = daemon.complaints();
    daemon.terminate();
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(told.contains("/closed"), "{told}");
    for secret in [LITERAL, MEMORY, HEADER, QUERY] {
        assert!(
            !told.contains(secret) && !complaints.contains(secret),
            "{secret}: {told}{complaints}"
        );
    }
    home.nobody_is_left();
}
