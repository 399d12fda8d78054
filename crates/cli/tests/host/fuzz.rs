//! The Machines API asked by schemathesis, with a machine and a volume that are there: whatever its OpenAPI document allows, and what it
//! does not. No answer is a fault of the server, and none is other than the document says.

use serde_json::json;
use tempfile::TempDir;

use crate::images::{host, layout, machine, name};
use crate::schemathesis::{Fuzzing, workspace};

/// Examples of each kind for each operation.
const EXAMPLES: &str = "6";
/// What would take away what all others are asked of, and what does not end.
const LEFT_OUT: [&str; 4] = ["DeleteApp", "DeleteMachine", "DeleteVolume", "Logs"];

// proves F1
#[test]
fn the_live_api_answers_nothing_but_what_its_document_says() {
    let (dir, at) = (layout(), TempDir::new().unwrap());
    let host = host(&dir);
    host.app("a");
    let id = machine(
        &host,
        &name(&dir),
        &json!({"init": {"exec": ["/bin/busybox", "sleep", "100000"]}}),
    );
    host.wait(&id, "started");
    let volume = host
        .post("/apps/a/volumes", &json!({"name": "data", "size_gb": 1}))
        .is(200);
    let volume = volume["id"].as_str().unwrap();
    // What the state of a machine, its config and others' names allow no schema says.
    let config = format!(
        "[parameters]\n\"path.app_name\" = \"a\"\n\"path.machine_id\" = \"{id}\"\n\"path.volume_id\" = \"{volume}\"\n\"path.org_slug\" = \"personal\"\n\
         \"query.timeout\" = \"1\"\n\
         [checks.positive_data_acceptance]\nexpected-statuses = [\"2xx\", \"400\", \"403\", \"404\", \"408\", \"409\", \"412\", \"413\", \"415\", \"422\"]\n\
         [checks.negative_data_rejection]\nexpected-statuses = [\"2xx\", \"400\", \"401\", \"403\", \"404\", \"405\", \"408\", \"409\", \"412\", \"413\", \"415\", \"422\"]\n"
    );
    let config_file = at.path().join("schemathesis.toml");
    std::fs::write(&config_file, config).unwrap();
    Fuzzing {
        home: at.path(),
        config: &config_file,
        document: &workspace().join("docs/machines-openapi.json"),
        url: &format!("http://{}", host.api),
        header: &format!("Authorization: Bearer {}", host.token),
        examples: EXAMPLES,
        left_out: &LEFT_OUT,
    }
    .run();
}
