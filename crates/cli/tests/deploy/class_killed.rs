//! The door of a class is killed while it makes an instance: the next one finishes what was begun, and founds nothing twice.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::class::make_class;
use crate::daemon::{Host, PATIENCE, until};
use crate::host::{Deployed, event};

/// The host counts calls: what the door asks for waits as long as others ask for the same too often.
const COUNTED: [&str; 2] = ["--proxy", "127.0.0.1:0"];

/// What a call answers, once it is counted in.
fn get(host: &Host, path: &str) -> Value {
    let mut found = None;
    until("the call is counted in", || {
        let answer = host.get(path);
        let counted = answer.status != 429;
        if counted {
            found = Some(answer.is(200));
        }
        counted
    });
    found.unwrap()
}

fn list(host: &Host, what: &str) -> Vec<Value> {
    get(host, &format!("/apps/shop-objects/{what}"))
        .as_array()
        .unwrap()
        .clone()
}

/// How many there are of these in the host's directory.
fn on_disk(host: &Host, what: &str) -> usize {
    std::fs::read_dir(host.data().join(what)).unwrap().count()
}

/// Says that it is over, also where the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the first program of the door's machine.
fn kill_door(host: &Host, door: &str) {
    until("the door is killed", || {
        let answer = host.post(
            &format!("/apps/shop/machines/{door}/signal"),
            &json!({"signal": "SIGKILL"}),
        );
        answer.status == 200
    });
}

/// Sends a permitted first use, and comes back without its answer.
fn visit(deployed: &Deployed) -> TcpStream {
    let mut stream = TcpStream::connect(&deployed.host.proxy[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /index.html HTTP/1.1\r\nHost: shop.localhost\r\nX-Tenant: acme\r\nX-Secret: acme\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Uses it until it is served.
fn served(deployed: &Deployed) {
    until("it is served", || {
        let mut text = String::new();
        let _broken = visit(deployed).read_to_string(&mut text);
        text.starts_with("HTTP/1.1 200") && text.ends_with("<h1>Hello from an image</h1>\n")
    });
}

/// One volume, one machine on it, one object.
#[track_caller]
fn one_of_each(host: &Host) -> (String, String, String) {
    let (volumes, machines) = (list(host, "volumes"), list(host, "machines"));
    assert_eq!(
        (volumes.len(), machines.len()),
        (1, 1),
        "{volumes:?} {machines:?}"
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mounted = &machines[0]["config"]["mounts"][0]["volume"];
    assert_eq!(mounted, &volumes[0]["id"]);
    let metadata = &machines[0]["config"]["metadata"];
    assert_eq!(metadata["suijuris_key"], "acme");
    (
        text(mounted),
        text(&machines[0]["id"]),
        text(&metadata["suijuris_object"]),
    )
}

#[test]
fn a_door_that_is_killed_while_it_makes_an_instance_leaves_one_volume_one_machine_and_one_object() {
    let deployed = Deployed::onto(Host::start_with(&COUNTED), None);
    let host = &deployed.host;
    make_class(&deployed);
    let events = deployed.deploy(&[]).code(0).lines();
    let door = event(&events, "class")["machine"].as_str().unwrap().to_owned();
    // Between the volume and the machine: the call that makes the machine is not counted in while others use its share up.
    let done = AtomicBool::new(false);
    let volume = std::thread::scope(|scope| {
        let over = Over(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                host.post("/apps/shop-objects/machines", &json!({}));
            }
        });
        until("the share is used up", || {
            host.post("/apps/shop-objects/machines", &json!({})).status == 429
        });
        let first = visit(&deployed);
        // Seen on the disk: what the door asks for is not used up by asking too.
        until("there is a volume", || on_disk(host, "volumes") == 1);
        kill_door(host, &door);
        // What the host had begun for it is finished without it.
        until("the volume is made", || !list(host, "volumes").is_empty());
        let (volumes, machines) = (list(host, "volumes"), list(host, "machines"));
        drop((over, first));
        assert_eq!((volumes.len(), machines.len()), (1, 0), "{machines:?}");
        volumes[0]["id"].as_str().unwrap().to_owned()
    });
    // Between the machine, which is the second one beside the door's, and what is noted of its object.
    let second = visit(&deployed);
    until("there is a machine", || on_disk(host, "machines") == 2);
    kill_door(host, &door);
    let noted = list(host, "machines")[0]["config"]["metadata"]["suijuris_object"].clone();
    drop(second);
    served(&deployed);
    let (same, machine, object) = one_of_each(host);
    assert_eq!(same, volume, "it went on with the volume that was there");
    assert!(noted.is_null() || noted == object.as_str());
    // Killed once more, where nothing is under way: the next one knows it.
    kill_door(host, &door);
    served(&deployed);
    assert_eq!(one_of_each(host), (volume, machine, object));
}
