//! What a workload may reach from a virtual machine: what its bundle names, over the machine's one channel, and nothing else.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::rig::Home;

/// A port of this host's loopback where everybody is greeted, and how many came.
fn outside() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let came = Arc::new(AtomicUsize::new(0));
    let count = came.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = client.write_all(b"outside\n");
        }
    });
    (port, came)
}

/// Root in its machine, with tools: each way out, and what it gave.
const TRY: &str = "way() { name=$1; shift; got=$(busybox timeout 20 busybox \"$@\" 2>/dev/null </dev/null); echo \"$name: ${got:-shut}\"; }
address=$(busybox awk '/host.internal/ { print $1 }' /etc/hosts)
way name nc host.internal ALLOWED
way address nc $address ALLOWED
way port nc $address FORBIDDEN
way loopback nc 127.0.0.1 ALLOWED
way gateway nc 10.0.2.2 ALLOWED
way carrier nc 10.0.2.2 FORBIDDEN
way metadata nc 169.254.169.254 80
way route ip address add 203.0.113.9 dev lo && busybox ip address show dev lo | busybox grep -c 203.0.113.9
echo cards: $(busybox ls /sys/class/net)
echo done; exec busybox sleep 1000";

// proves E12
#[test]
fn a_workload_in_a_virtual_machine_reaches_what_its_bundle_names_and_nothing_else() {
    let home = Home::new();
    let ((allowed, greeted), (forbidden, uninvited)) = (outside(), outside());
    let script = TRY
        .replace("ALLOWED", &allowed.to_string())
        .replace("FORBIDDEN", &forbidden.to_string());
    let script = serde_json::to_string(&script).unwrap();
    let definition = format!(
        "name = \"vm\"\n[workload]\ncommand = [\"busybox\", \"sh\", \"-c\", {script}]\nready = \"spawned\"\n\
         egress = [\"host.internal:{allowed}\"]\n[memory]\nlinger = {{ type = \"duration\", default = \"1h\" }}\n"
    );
    fs::write(home.object().join("object.toml"), definition).unwrap();
    let mut up = home.up("qemu");
    // Nobody answers there: it wakes for the request.
    up.get();
    up.event("output", |event| event["line"] == "done");
    let outputs = up.heard.iter().filter(|event| event["event"] == "output");
    let lines: Vec<&str> = outputs
        .filter(|event| event["stream"] != "machine")
        .map(|event| event["line"].as_str().unwrap())
        .collect();
    let expected = [
        "name: outside",
        "address: outside",
        "port: shut",
        "loopback: shut",
        "gateway: shut",
        "carrier: shut",
        "metadata: shut",
        "route: shut",
        "0",
        "cards: lo",
        "done",
    ];
    assert_eq!(lines, expected);
    assert_eq!(greeted.load(Ordering::SeqCst), 2);
    assert_eq!(uninvited.load(Ordering::SeqCst), 0);
    assert_eq!(up.interrupt(), Some(0));
    home.run(&["verify", "vm"]);
}
