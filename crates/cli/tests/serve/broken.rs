//! What is damaged on disk keeps nobody else from being served, is said, and is not made worse.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{FOUND, Home, OPEN, STAY, names, until};

/// A home with two classes that have an instance each, and two objects; nobody serves them.
fn furnished() -> Home {
    let home = Home::new();
    let daemon = home.serve();
    let rules = [FOUND, OPEN, STAY].concat();
    for class in ["one", "two"] {
        home.add(&home.class(class, "max_instances = 9", &rules));
        daemon.get(&format!("acme.{class}"), "/").status(200);
    }
    for object in ["hello", "other"] {
        home.add(&home.object(object, &[OPEN, STAY].concat()));
        daemon.get(object, "/").status(200);
    }
    daemon.terminate();
    home
}

/// The daemon says that something is wrong with `name`.
fn says(daemon: &Daemon, name: &str) {
    let of = |event: &Value| event["event"] == "error" && event.to_string().contains(name);
    until(&format!("{name} is said to be broken"), || {
        daemon.events().iter().any(of)
    });
}

#[test]
fn a_class_whose_note_is_broken() {
    for text in ["", "{", "[]", "{\"name\": \"one\"}"] {
        let home = furnished();
        let note = home.root().join("classes/one/class.json");
        std::fs::write(&note, text).unwrap();
        let daemon = home.serve();
        says(&daemon, "one");
        for host in ["acme.two", "new.two", "hello", "other"] {
            daemon.get(host, "/").status(200);
        }
        daemon.get("acme.one", "/").problem(404, "unknown_object");
        assert_eq!(home.keys("one"), ["acme"], "nothing is lost");
        daemon.terminate();
        home.verify(&home.instance("one", "acme"));
    }
}

#[test]
fn a_class_whose_bundle_is_gone_or_an_object_whose_note_is_broken() {
    let home = furnished();
    let class = home.root().join("classes/one");
    for name in names(&class).into_iter().filter(|name| name != "class.json") {
        std::fs::remove_dir_all(class.join(name)).unwrap();
    }
    std::fs::write(home.root().join("objects/hello/object.json"), "{").unwrap();
    let daemon = home.serve();
    says(&daemon, "one");
    says(&daemon, "hello");
    for host in ["acme.two", "new.two", "other"] {
        daemon.get(host, "/").status(200);
    }
    assert_eq!(home.keys("one"), ["acme"]);
    assert!(home.root().join("objects/hello/lineage").is_dir());
    daemon.terminate();
}

#[test]
fn an_instance_that_is_half_deleted_is_kept_for_its_owner_and_not_founded_anew() {
    let home = furnished();
    let data = home.instance("one", "acme");
    let volume = data.join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("precious"), "yes").unwrap();
    std::fs::remove_dir_all(data.join("lineage")).unwrap();
    let daemon = home.serve();
    says(&daemon, "one/acme");
    for host in ["acme.two", "hello", "other", "new.one"] {
        daemon.get(host, "/").status(200);
    }
    let answer = daemon.get("acme.one", "/");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(std::fs::read_to_string(volume.join("precious")).unwrap(), "yes");
    daemon.terminate();
    assert!(volume.join("precious").exists() && !data.join("lineage").exists());
}

/// Whatever is not a key of the class is left alone too.
#[test]
fn strange_things_among_the_instances() {
    let home = furnished();
    let instances = home.root().join("instances/one");
    std::fs::create_dir(instances.join("lost+found")).unwrap();
    std::fs::write(instances.join("note"), "a file").unwrap();
    std::fs::create_dir(instances.join("empty")).unwrap();
    let staging = home.root().join("staging");
    std::fs::create_dir(staging.join("one.cut.0123456789abcdef")).unwrap();
    std::fs::create_dir(staging.join("gone.cut.0123456789abcdef")).unwrap();
    let daemon = home.serve();
    for name in ["one/lost+found", "one/note", "one/empty"] {
        says(&daemon, name);
    }
    for host in ["acme.one", "acme.two", "cut.one", "hello"] {
        daemon.get(host, "/").status(200);
    }
    assert_eq!(daemon.get("empty.one", "/").status, 503);
    assert_eq!(home.keys("one"), ["acme", "cut", "empty", "lost+found", "note"]);
    until("what nobody knows of is gone", || home.staged().is_empty());
    daemon.terminate();
}

#[test]
fn an_object_whose_directory_was_moved_away_while_nobody_served_it() {
    let home = furnished();
    let (objects, away) = (home.root().join("objects"), home.path().join("away"));
    std::fs::rename(objects.join("hello"), &away).unwrap();
    let daemon = home.serve();
    daemon.get("hello", "/").problem(404, "unknown_object");
    daemon.get("other", "/").status(200);
    daemon.terminate();
    std::fs::rename(&away, objects.join("hello")).unwrap();
    let daemon = home.serve();
    daemon.get("hello", "/").status(200);
    daemon.terminate();
    home.verify(&objects.join("hello"));
}

#[test]
fn an_object_whose_directory_is_moved_away_under_the_daemon() {
    let home = furnished();
    let mut daemon = home.serve();
    daemon.wait_phase("hello", "dormant");
    let (objects, away) = (home.root().join("objects"), home.path().join("away"));
    std::fs::rename(objects.join("hello"), &away).unwrap();
    let answer = daemon.get("hello", "/");
    assert!((500..600).contains(&answer.status), "{answer:?}");
    daemon.wait(json!({"event": "error"}));
    daemon.get("other", "/").status(200);
    daemon.get("acme.one", "/").status(200);
    daemon.terminate();
    home.nobody_is_left();
    home.verify(&away);
}

#[test]
fn a_definition_that_was_moved_away_is_said_when_it_is_needed() {
    let home = furnished();
    let definition = home.path().join("definitions/hello");
    std::fs::rename(&definition, home.path().join("away")).unwrap();
    let daemon = home.serve();
    let answer = daemon.get("hello", "/");
    assert!((500..600).contains(&answer.status), "{answer:?}");
    daemon.get("other", "/").status(200);
    std::fs::rename(home.path().join("away"), &definition).unwrap();
    // It paused after its failures; those who wait are served in the end.
    until("it is served again", || daemon.get("hello", "/").status == 200);
    daemon.terminate();
    home.nobody_is_left();
}
