//! One image, as processes and in a virtual machine: the same object, whose workload sees the same.

use std::fs;

use crate::rig::{Home, Up};

const LOOK: &str = "PATH=/bin; busybox id -u; busybox id -g; pwd; busybox ls /; echo $GREETING $HOME; echo more >> $SUIJURIS_DATA/kept; \
                    busybox cat $SUIJURIS_DATA/kept; busybox stat -c %U /www; busybox test -e /dev/vda || echo apart; echo done; exec busybox sleep 1000";

/// What the workload writes, up to `done`; the object sleeps then.
fn sees(mut up: Up) -> (String, Vec<String>) {
    // Nobody answers there: it wakes for the request.
    up.get();
    up.event("output", |event| event["line"] == "done");
    let outputs = up.heard.iter().filter(|event| event["event"] == "output");
    let lines = outputs
        .filter(|event| event["stream"] != "machine")
        .map(|event| event["line"].as_str().unwrap().to_owned())
        .collect();
    let object = up.object.clone();
    assert_eq!(up.interrupt(), Some(0));
    (object, lines)
}

// proves E10
#[test]
fn an_image_is_the_same_object_as_processes_and_in_a_virtual_machine() {
    let home = Home::of_image();
    let script = serde_json::to_string(LOOK).unwrap();
    let definition = format!(
        "name = \"image\"\n[workload]\nimage = \"oci:layout\"\nnetwork = \"private\"\ncommand = [\"/bin/sh\", \"-c\", {script}]\nready = \"spawned\"\n[memory]\nlinger = {{ type = \"duration\", default = \"1h\" }}\n"
    );
    fs::write(home.object().join("object.toml"), definition).unwrap();
    let (id, seen) = sees(home.up("process"));
    assert!(seen.contains(&"1000".to_owned()), "{seen:?}");
    let (same, inside) = sees(home.up("qemu"));
    assert_eq!(same, id);
    // Of two lives: one line more in its volume, the disk's own directory in its root.
    let mut wanted = seen;
    let kept = wanted.iter().position(|line| line == "more").unwrap();
    wanted.insert(kept, "more".to_owned());
    let inside: Vec<String> = inside.into_iter().filter(|line| line != "lost+found").collect();
    assert_eq!(inside, wanted);
    let kept = fs::read_to_string(home.data().join("volume/kept")).unwrap();
    assert_eq!(kept, "more\nmore\n");
    let (same, again) = sees(home.up("process"));
    assert_eq!(same, id);
    assert_eq!(again.len(), wanted.len() + 1);
    home.run(&["verify", "vm"]);
    let log = home.run(&["log", "vm", "--json"]);
    let kinds: Vec<String> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].to_string())
        .collect();
    let life = ["\"woke\"", "\"dormant\""];
    assert_eq!(kinds[1..], life.repeat(3), "each time the same was decided");
}
