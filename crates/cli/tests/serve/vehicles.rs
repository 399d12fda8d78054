//! What a daemon's machines cannot carry is said where it is added, as `up` says it.

use serde_json::json;

use crate::home::{Home, OPEN, STAY};
use crate::schemathesis::workspace;

#[test]
fn connections_as_descriptors_are_refused_where_machines_are_virtual_as_up_refuses_them() {
    let home = Home::new();
    let kernel = workspace().join("target/test/kernel");
    let virtual_ones = ["--vehicle", "qemu", "--kernel", kernel.to_str().unwrap()];
    let text = "[workload]\ncommand = [\"true\"]\n[gate]\nprotocol = \"handover\"\n";
    let dir = home.define("taker", text, &[OPEN, STAY].concat());
    let dir = dir.to_str().unwrap();
    let up = home.suijuris(&[&["up", dir][..], &virtual_ones].concat()).code(3);
    let why = "none reaches a virtual machine";
    assert!(up.err.contains(why), "{up:?}");

    // Processes take it; virtual machines do not wake it, whoever comes.
    let daemon = home.serve();
    let port = home
        .suijuris(&["add", dir, "--port", "0", "--json"])
        .code(0)
        .json();
    assert!(port["url"].as_str().unwrap().starts_with("tcp://"), "{port}");
    daemon.terminate();
    let mut daemon = home.serve_with(&virtual_ones);
    daemon.wait_phase("taker", "dormant");
    let woken = home.suijuris(&["wake", "taker", "--json"]).code(1).json();
    assert_eq!(woken["invariant"], "incapable", "{woken}");
    daemon.wait(json!({"event": "verdict", "outcome": "refuse", "invariant": "incapable"}));
    assert_eq!(daemon.count(&json!({"event": "machine"})), 0);

    let class = format!("{text}[class]\nmax_instances = 9\n");
    let class = home.define("takers", &class, OPEN);
    for definition in [
        &["add", dir, "--name", "other"][..],
        &["add", class.to_str().unwrap()],
    ] {
        let refused = home.suijuris(definition).code(3);
        assert!(refused.err.contains(why), "{refused:?}");
    }
    let added = daemon.api("GET", "/v1/objects", &json!(null)).status(200).json();
    assert_eq!(added["objects"].as_array().unwrap().len(), 1, "{added}");
    daemon.terminate();
    home.nobody_is_left();
}
