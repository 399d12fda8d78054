//! An object that `up` runs moves of its own accord, as one that a daemon serves does.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::rig::{OPEN, Object, STAY};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const HOME: &str = "[memory.home]\ntype = \"string\"\ndefault = \"local\"\n";

/// It goes where its memory says that it lives.
const GO: &str = r#"@id("go-home") permit (principal is Self, action == Action::"migrate", resource)
    when { resource.memory.home == context.target.region && context.target.region != context.host.region };
"#;

/// Places in two regions, in a file of this name.
fn places(object: &Object, file: &Path) {
    let recipient = object
        .suijuris(&["key", "--recipient"])
        .code(0)
        .out
        .trim()
        .to_owned();
    let place = |region: &str| {
        let dir = object.home().join(region);
        json!({"region": region, "provider": "process", "id": region, "dir": dir, "seal_to": [recipient]})
    };
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, json!([place("us"), place("eu")]).to_string()).unwrap();
}

/// What was handed out for `region` arrives as this object.
fn arrives(object: &Object, region: &str, id: &str) {
    let file = object.home().join(region).join(format!("{id}.sui"));
    let data = object.home().join(format!("arrived-{region}"));
    let events = object
        .suijuris(&["import", text(&file), "--data", text(&data), "--json"])
        .code(0)
        .lines();
    assert_eq!(events[0]["object"], json!(id));
    assert_eq!(events.last().unwrap()["event"], "arrived", "{events:?}");
    let home = object.suijuris(&["memory", "get", text(&data), "home"]).code(0);
    assert_eq!(home.out.trim(), region);
    assert!(data.join("volume/received").exists(), "its volume came along");
    object.suijuris(&["verify", text(&data)]).code(0);
}

// proves A13
#[test]
fn awake_or_asleep_it_departs_to_where_its_rules_say_and_up_ends() {
    for awake in [true, false] {
        let object = Object::new(HOME, &[OPEN, STAY, GO].concat());
        let file: PathBuf = object.home().join("places.json");
        places(&object, &file);
        let mut up = object.up_with(&["--destinations", text(&file)]);
        let id = up.id.clone();
        up.get("/").status(200);
        if !awake {
            object.ask(&["sleep"]).code(0);
            up.wait_event("dormant");
        }
        object.ask(&["memory", "set", "home=eu"]).code(0);
        if awake {
            up.wait(json!({"event": "proposal", "action": "sleep", "by": "host"}));
        }
        up.wait(json!({"event": "proposal", "action": "migrate", "by": "self"}));
        up.wait(json!({"event": "departed", "to": text(&object.home().join("eu"))}));
        assert_eq!(up.ended().code(), Some(0));
        arrives(&object, "eu", &id);
        assert!(!object.home().join("us").exists());
        object.nobody_is_left();
    }
}

// proves A13
#[test]
fn places_lie_in_its_data_directory_and_what_cannot_be_packed_is_packed_at_the_next_start() {
    let object = Object::new(HOME, &[OPEN, STAY, GO].concat());
    let up = object.up();
    let id = up.id.clone();
    up.get("/").status(200);
    assert_eq!(up.interrupt(), Some(0));
    let nowhere = object.up_fails(&["--destinations", "nowhere.json"]).code(2);
    assert!(nowhere.err.contains("nowhere.json"), "{nowhere:?}");
    let file = object.data().join("destinations.json");
    std::fs::write(&file, "{}").unwrap();
    let broken = object.up_fails(&[]).code(3);
    assert!(broken.err.contains("destinations.json"), "{broken:?}");
    places(&object, &file);
    // A file where the directory would be.
    let eu = object.home().join("eu");
    std::fs::write(&eu, "").unwrap();
    object.ask(&["memory", "set", "home=eu"]).code(0);
    let mut up = object.up();
    up.wait_event("departed");
    up.wait(json!({"event": "error", "code": "not_durable"}));
    assert_eq!(up.ended().code(), Some(1));
    std::fs::remove_file(&eu).unwrap();
    let up = object.up();
    up.get("/").problem(503, "departed");
    assert_eq!(up.interrupt(), Some(0));
    arrives(&object, "eu", &id);
    let records = object.records("departed");
    assert_eq!(records[0]["verdict"]["rules"], Value::from(vec!["go-home"]));
}
