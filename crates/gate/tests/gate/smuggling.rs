//! Requests that two readers could understand differently: refused, and the workload is not even connected to.

use crate::corpus::shapes;
use crate::rig::{Client, Rig, Workload};

// proves C3
#[test]
fn ambiguous_requests_are_refused_and_cost_the_workload_nothing() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    let shapes = shapes();
    assert!(shapes.len() >= 40);
    for (status, request) in &shapes {
        let mut client = rig.client();
        client.send(request.as_bytes());
        let reply = client.reply();
        assert_eq!(reply.status(), *status, "{request:.200?} gave {reply:?}");
        assert!(
            reply.head.contains("connection: close\r\n"),
            "{request:.200?} gave {reply:?}"
        );
        assert_eq!(reply.problem().status, *status);
        client.finish();
        assert!(client.rest().is_empty(), "{request:.200?}");
    }
    assert_eq!(workload.touched(), (0, 0));
}

// proves C3
#[test]
fn heads_that_arrive_byte_by_byte_are_refused_alike() {
    let workload = Workload::echo();
    let rig = Rig::http(&workload);
    for (status, request) in shapes().iter().filter(|(_, request)| request.len() < 120) {
        // A malformed chunk behind a complete head is another matter: the head has been forwarded then.
        if request.contains("Transfer-Encoding: chunked\r\n\r\n")
            && *status == 400
            && !request.contains("HTTP/1.0")
        {
            continue;
        }
        let reply = drip(rig.client(), request);
        assert_eq!(reply, *status, "{request:?}");
    }
    assert_eq!(workload.touched(), (0, 0));
}

fn drip(mut client: Client, request: &str) -> u16 {
    use std::io::Write;
    for byte in request.as_bytes() {
        // The gate answers as soon as it knows, and then stops reading.
        if client.stream.write_all(&[*byte]).is_err() {
            break;
        }
    }
    client.reply().status()
}

#[test]
fn a_malformed_chunk_after_the_head_cuts_the_request() {
    let workload = Workload::start(|conn| {
        assert!(conn.head().is_some());
        assert!(conn.until(b"0\r\n\r\n").is_none(), "the body must not end");
    });
    let rig = Rig::http(&workload);
    let mut client = rig.client();
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    rig.wait(|traffic| traffic.in_flight() == 1);
    client.send(b"3 \r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.reply().status(), 400);
    assert!(client.rest().is_empty());
}
