//! `examples/tenant/postgres`: an unmodified PostgreSQL for each tenant, asked by an unmodified client.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::home::Home;
use crate::ran::{Ran, run};

fn example(home: &Home) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tenant/postgres");
    let to = home.path().join("postgres");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        suijuris_testkit::program::copy(entry.path(), to.join(entry.file_name()));
    }
    to
}

// proves C5
#[test]
fn each_tenant_has_a_postgres_of_its_own_that_sleeps_and_keeps_its_data() {
    assert!(
        Path::new("/usr/lib/postgresql").is_dir(),
        "postgresql is not installed: `tools/setup --test` installs it"
    );
    let home = Home::new();
    home.suijuris(&["trust", "--json"]).code(0);
    let mut daemon = home.serve();
    let dir = example(&home);
    let added = home.suijuris(&["add", "--json", dir.to_str().unwrap(), "--port", "0"]);
    let url = added.code(0).json()["url"].as_str().unwrap().to_owned();
    let port = url.rsplit(':').next().unwrap().to_owned();
    let psql = |tenant: &str, ask: &str| -> Ran {
        let to = format!(
            "host={tenant}.pg.localhost hostaddr=127.0.0.1 port={port} sslmode=require user=tenant dbname=postgres"
        );
        run(home
            .command("psql")
            .args([to.as_str(), "-X", "-A", "-t", "-c", ask]))
    };
    psql("acme", "create table greetings (text text)").code(0);
    psql("acme", "insert into greetings values ('hello from acme')").code(0);
    let missing = psql("zenith", "select * from greetings");
    assert_ne!(missing.code, 0);
    assert!(missing.err.contains("does not exist"), "{}", missing.err);
    daemon.wait(json!({"event": "dormant", "key": "acme"}));
    daemon.wait_phase("pg/acme", "dormant");
    let kept = psql("acme", "select text from greetings").code(0);
    assert_eq!(kept.out.trim(), "hello from acme");
    assert_eq!(home.keys("pg"), ["acme", "zenith"]);
    daemon.terminate();
    home.nobody_is_left();
}
