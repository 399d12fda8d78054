//! Secrets of memory that the workload gets as a variable and as a file, and what becomes of a wake without them.

use std::os::unix::fs::PermissionsExt as _;

use suijuris_api::Event;
use suijuris_core::lineage::Body;
use suijuris_link::ToSupervisor;
use suijuris_link::launch::Unattended;
use suijuris_link::message::How;

use crate::rig::{Machine, Object};

/// Writes down what it was given, and then serves.
const DEFINITION: &str = r#"
name = "linked"

[workload]
command = [
    "sh", "-c",
    "printf %s \"$DB\" > $SUIJURIS_DATA/variable; cat \"$1\" > $SUIJURIS_DATA/file; printf %s \"$1\" > $SUIJURIS_DATA/path; tr '\\0' ' ' < /proc/$$/cmdline > $SUIJURIS_DATA/arguments; exec python3 -m http.server $PORT --bind 127.0.0.1",
    "sh", "{secret_file:db}",
]
env = { DB = { secret = "db" } }
network = "host"

[memory]
db = { type = "string", secret = true }
"#;

// proves C14
#[tokio::test]
async fn a_workload_gets_its_secrets_as_a_variable_and_as_a_file() {
    let object = Object::defined(DEFINITION);
    object.set_secret("db", "correct horse").await;
    let mut machine = Machine::start(object.launch(Unattended::Stop));
    machine.supervisor.serves().await;
    let said = |name: &str| std::fs::read_to_string(object.data().join("volume").join(name)).unwrap();
    assert_eq!(
        (said("variable").as_str(), said("file").as_str()),
        ("correct horse", "correct horse")
    );
    let path = said("path");
    assert!(!said("arguments").contains("horse"), "{}", said("arguments"));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o400
    );
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    assert!(!std::path::Path::new(&path).exists());
}

#[tokio::test]
async fn a_wake_without_a_secret_fails_and_names_it() {
    let object = Object::defined(DEFINITION);
    let mut machine = Machine::start(object.launch(Unattended::Stop));
    let (code, message) = machine
        .supervisor
        .until(|message| match message {
            ToSupervisor::Event(event) => match event.0.event {
                Event::Error { code, message } => Some((code, message)),
                _ => None,
            },
            _ => None,
        })
        .await;
    assert_eq!(code, "secret_missing");
    assert!(
        message.contains("`db`") && message.contains("suijuris memory set"),
        "{message}"
    );
    assert_eq!(machine.code().await, Some(0));
    assert!(!object.data().join("volume/variable").exists(), "nothing ran");
    let last = object.records().pop().unwrap();
    let Body::Dormant(dormant) = last.body else {
        panic!("{last:?}")
    };
    assert!(dormant.workload.contains("`db`"), "{}", dormant.workload);
}
