//! Objects in virtual machines: Debian's kernel in QEMU, emulated, with this program's own runtime inside.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: what is not as expected ends them"
)]

mod egress;
mod forks;
mod images;
mod moving;
mod rig;
mod serving;

use rig::{Home, is_served};

/// One object in a machine that is suspended and goes on, is killed with its host's program, and as processes: one history,
/// each time found and gone on with.
// proves C6
#[test]
fn one_object_boots_is_suspended_goes_on_and_moves_to_processes_and_back_is_whole() {
    let home = Home::new();
    let mut up = home.up("qemu");
    is_served(&up.get());
    let woke = up.event("woke", |_| true);
    assert_eq!(woke["epoch"], 1);
    up.event("machine", |event| event["state"] == "suspended");
    // Its history is there while it sleeps, for whoever reads files.
    assert!(home.run(&["log", "vm", "--json"]).contains("dormant"));
    is_served(&up.get());
    let resumed = up.event("resumed", |_| true);
    assert_eq!(
        resumed["epoch"], 2,
        "the wake checks ran again, with a key of their own"
    );
    up.event("machine", |event| event["state"] == "suspended");
    assert_eq!(up.interrupt(), Some(0));
    home.run(&["verify", "vm"]);

    // Killed without a word, while the machine runs: what was durable inside is there.
    let mut up = home.up("qemu");
    is_served(&up.get());
    assert_eq!(up.event("woke", |_| true)["epoch"], 3);
    up.child.kill().unwrap();
    drop(up);
    let refused = home
        .command(&["memory", "set", "vm", "linger=5s"])
        .output()
        .unwrap();
    assert!(
        !refused.status.success(),
        "the newest state is on the machine's disk"
    );
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("suijuris up"), "{said}");

    let mut up = home.up("process");
    is_served(&up.get());
    assert_eq!(up.event("woke", |_| true)["epoch"], 4);
    assert_eq!(up.interrupt(), Some(0));
    let log = home.run(&["log", "vm"]);
    assert!(
        log.contains("unsealed"),
        "the end of the killed one is on record: {log}"
    );
    home.run(&["verify", "vm"]);
}

#[test]
fn what_is_missing_is_said_before_anything_is_made() {
    let home = Home::new();
    let mut command = home.command(&["up", "vm", "--vehicle", "qemu", "--kernel", "nowhere"]);
    let ran = command.output().unwrap();
    assert_eq!(ran.status.code(), Some(3));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("suijuris kernel install"), "{said}");
    assert!(!home.object().join(".suijuris").exists());
    // A kernel without drivers that a machine needs: each is named.
    let kernel = home.object().join("kernel");
    std::fs::create_dir(&kernel).unwrap();
    for (name, text) in [
        ("vmlinuz", "a kernel"),
        ("modules.builtin", "kernel/fs/ext4/ext4.ko\n"),
        ("virtio_pci.ko", ""),
    ] {
        std::fs::write(kernel.join(name), text).unwrap();
    }
    let mut command = home.command(&["up", "vm", "--vehicle", "qemu", "--kernel", "vm/kernel"]);
    let ran = command.output().unwrap();
    assert_eq!(ran.status.code(), Some(3));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("virtio_blk, virtio_console"), "{said}");
    assert!(!home.object().join(".suijuris").exists());
}

/// What carries machines is asked of the drivers: the same answer for who looks and for who starts.
#[test]
fn vehicles_say_what_up_says() {
    let home = Home::new();
    let all: serde_json::Value = serde_json::from_str(&home.run(&["vehicles", "--json"])).unwrap();
    let names: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|vehicle| vehicle["vehicle"].clone())
        .collect();
    assert_eq!(names, ["process", "qemu", "firecracker"]);
    let qemu = &all[1];
    assert_eq!(qemu["available"], true, "{qemu}");
    assert_eq!(qemu["capabilities"]["isolation"], "virtual_machine");
    assert_eq!(qemu["capabilities"]["suspend"], "memory_file");
    assert_eq!(qemu["capabilities"]["descriptors"], false);
    let firecracker = &all[2];
    if firecracker["available"] == false {
        let why = firecracker["why_not"].as_str().unwrap();
        assert_eq!(firecracker["capabilities"], serde_json::Value::Null);
        let (code, _, said) = home.ask(&["up", "vm", "--vehicle", "firecracker"]);
        assert_eq!(code, Some(3), "{said}");
        let first = why.split("; ").next().unwrap();
        assert!(said.contains(first), "{said} does not say {first}");
        assert!(!home.data().exists(), "nothing was made");
    }
    // Without a kernel there are no virtual machines.
    let mut command = home.command(&["vehicles", "--json"]);
    let ran = command.env_remove("SUIJURIS_KERNEL").output().unwrap();
    let all: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(all[1]["available"], false);
    let why = all[1]["why_not"].as_str().unwrap();
    assert!(why.contains("suijuris kernel install"), "{why}");
}
