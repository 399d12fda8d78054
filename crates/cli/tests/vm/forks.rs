//! Children that begin with the memory of a suspended parent: one machine that booted, many objects.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::rig::{Home, Up};

/// What the workload tells of the machine that it is in, and of the object that its gate says it is.
const TELLS: &str = "\
printf 'Content-Type: text/plain\\r\\n\\r\\n'
BUSYBOX cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid /proc/sys/kernel/hostname
echo \"$HTTP_X_SUIJURIS_OBJECT\"
BUSYBOX date +%s
";

/// What a workload told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    boot: String,
    uuid: String,
    host: String,
    object: String,
}

fn told(daemon: &Up, object: &str) -> Told {
    let answer = daemon.get_of(object, "cgi-bin/tells");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let words: Vec<&str> = body.split_whitespace().filter(|word| word.len() > 4).collect();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let clock: u64 = words[4].parse().unwrap();
    assert!(
        now.abs_diff(clock) <= 60,
        "its clock says {clock}, and it is {now}"
    );
    Told {
        boot: words[0].to_owned(),
        uuid: words[1].to_owned(),
        host: words[2].to_owned(),
        object: words[3].to_owned(),
    }
}

/// A home whose object may have warm forks, if `allowed`, by a rule that looks at whether it is one.
fn home(allowed: bool) -> Home {
    let home = Home::new();
    let object = home.object();
    let busybox = ["/usr/bin/busybox", "/bin/busybox"];
    let busybox = busybox.iter().find(|path| fs::metadata(path).is_ok()).unwrap();
    let tells = object.join("site/cgi-bin/tells");
    fs::create_dir_all(tells.parent().unwrap()).unwrap();
    let text = format!("#!{busybox} sh\n{}", TELLS.replace("BUSYBOX", busybox));
    fs::write(&tells, text).unwrap();
    fs::set_permissions(&tells, fs::Permissions::from_mode(0o755)).unwrap();
    let toml = fs::read_to_string(object.join("object.toml")).unwrap();
    let lineage = if allowed {
        "\n[lineage]\nwarm_forks = true\n"
    } else {
        ""
    };
    fs::write(object.join("object.toml"), format!("{toml}{lineage}")).unwrap();
    let rules = fs::read_to_string(object.join("governance.cedar")).unwrap();
    let forks = "\n@id(\"warm-forks\")\npermit (principal is Controller, action == Action::\"fork\", resource) when { context.warm };\n";
    fs::write(object.join("governance.cedar"), format!("{rules}{forks}")).unwrap();
    home
}

fn sleeps(daemon: &mut Up) {
    daemon.event("machine", |event| event["state"] == "suspended");
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

// proves B7
#[test]
fn children_begin_with_the_memory_of_a_suspended_parent_and_are_objects_of_their_own() {
    let home = home(true);
    let mut daemon = home.serve("qemu");
    home.run(&["add", "vm"]);
    let first = told(&daemon, "vm");
    sleeps(&mut daemon);

    let born = home.run(&["fork", "vm", "--warm", "--to", "try", "--count", "2", "--json"]);
    let born = lines(&born);
    assert_eq!(born.len(), 2, "{born:?}");
    for child in &born {
        assert_eq!(
            (&child["warm"], &child["parent"]),
            (&Value::Bool(true), &first.object.as_str().into()),
            "{child}"
        );
    }
    let all = [
        told(&daemon, "try-1"),
        told(&daemon, "try-2"),
        told(&daemon, "vm"),
    ];
    for (told, of) in all
        .iter()
        .zip([&born[0]["object"], &born[1]["object"], &born[0]["parent"]])
    {
        assert_eq!(told.object, of.as_str().unwrap(), "the gate says who it is");
        assert_eq!(told.boot, first.boot, "nothing booted: it went on");
    }
    let distinct = |of: fn(&Told) -> &str| {
        let mut seen: BTreeSet<&str> = all.iter().map(of).collect();
        seen.insert(of(&first));
        seen.len()
    };
    assert_eq!(distinct(|told| &told.uuid), 4, "{all:?}");
    assert!(distinct(|told| &told.host) >= 3, "{all:?}");
    // By its id: by its name it is the directory here that it was added from.
    let parent = first.object.as_str();
    for name in ["try-1", "try-2", parent] {
        home.run(&["verify", name]);
    }
    let log = home.run(&["log", parent, "--json"]);
    assert_eq!(log.matches("\"forked\"").count(), 2, "{log}");
    assert!(home.run(&["log", "try-1", "--json"]).contains("\"woke\""));

    // They sleep, outlive the daemon, and go on like any other.
    for _ in 0..3 {
        sleeps(&mut daemon);
    }
    daemon.killed();
    let daemon = home.serve("qemu");
    let again = told(&daemon, "try-2");
    assert_eq!((&again.boot, &again.object), (&first.boot, &all[1].object));
    assert_ne!(again.uuid, all[1].uuid);
    assert_eq!(daemon.interrupt(), Some(0));
}

#[test]
fn a_warm_fork_is_refused_where_the_bundle_does_not_allow_it_and_where_there_is_nothing_to_begin_with() {
    let home_of_none = home(false);
    let daemon = home_of_none.serve("qemu");
    home_of_none.run(&["add", "vm"]);
    let (code, _, said) = home_of_none.ask(&["fork", "vm", "--warm", "--to", "try"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("warm_forks = true"), "{said}");
    drop(daemon);

    let home = home(true);
    let (code, _, said) = home.ask(&["fork", "vm", "--warm", "--to", "try"]);
    assert_eq!(code, Some(3), "{said}");
    let daemon = home.serve("process");
    home.run(&["add", "vm"]);
    let (code, _, said) = home.ask(&["fork", "vm", "--warm", "--to", "try"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("--vehicle qemu"), "{said}");
    drop(daemon);
    let daemon = home.serve("qemu");
    let (code, _, said) = home.ask(&["fork", "vm", "--warm", "--to", "try"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("wake it"), "{said}");
    drop(daemon);
}
