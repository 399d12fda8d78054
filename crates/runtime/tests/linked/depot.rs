//! The depot that a supervisor serves its machine, and the one that the next supervisor serves.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_depot::memory::Memory;
use suijuris_depot::{Marks as _, Session, relay};
use suijuris_link::frame::StreamKind;
use suijuris_link::launch::{DepotRoute, Unattended};
use suijuris_link::message::How;
use suijuris_link::{SupervisorLink, ToRuntime};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::rig::{Machine, Object, PATIENCE};

/// Serves the depot over the stream that the machine opens on this link.
async fn relayed_over(link: &SupervisorLink, depot: &Arc<Memory>, object: ObjectId) -> JoinSet<()> {
    let stream = timeout(PATIENCE, link.accept(StreamKind::Depot))
        .await
        .unwrap()
        .unwrap();
    let (socket, moves) = stream.into_socket().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UnixStream::from_std(socket).unwrap();
    let session = Arc::new(Session::new(depot.clone()));
    let mut serving = JoinSet::new();
    serving.spawn(moves);
    serving.spawn(async move { drop(relay::serve(socket, session, object).await) });
    serving
}

/// A relay for a machine of `object`: its end, and the task that serves it.
fn relayed(depot: &Arc<Memory>, object: ObjectId) -> (OwnedFd, JoinSet<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let session = Arc::new(Session::new(depot.clone()));
    let mut serving = JoinSet::new();
    serving.spawn(async move { drop(relay::serve(ours, session, object).await) });
    (theirs.into_std().unwrap().into(), serving)
}

#[tokio::test]
async fn another_supervisors_depot_takes_the_place_of_the_former_ones() {
    let object = Object::new();
    let id: ObjectId = object.id.parse().unwrap();
    let depot = Arc::new(Memory::with_presence());
    let (theirs, first) = relayed(&depot, id);
    let mut launch = object.launch(Unattended::Serve);
    launch.depot = DepotRoute::Descriptor(theirs);
    let mut machine = Machine::start(launch);
    machine.supervisor.serves().await;
    assert!(object.messages().await.starts_with("HTTP/1.1 200"));
    let holder = holder(&depot, id).await;

    drop(first);
    machine.lose_the_supervisor();
    let lost = object.messages().await;
    assert!(lost.starts_with("HTTP/1.1 503"), "{lost}");

    let second = machine.attach();
    second.present().await;
    let (theirs, _serving) = relayed(&depot, id);
    let route = DepotRoute::Descriptor(theirs);
    second.link.queue(ToRuntime::Depot { route }).unwrap();
    while !object.messages().await.starts_with("HTTP/1.1 200") {}
    assert_eq!(self::holder(&depot, id).await, holder, "the same copy goes on");
    assert_eq!(second.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    // Whoever leaves on its own gives the object up, which only the new relay could tell.
    assert_eq!(self::holder(&depot, id).await, None);
}

#[tokio::test]
async fn the_depot_is_reached_over_a_link_that_passes_no_descriptors() {
    let object = Object::new();
    let id: ObjectId = object.id.parse().unwrap();
    let depot = Arc::new(Memory::with_presence());
    let mut launch = object.launch(Unattended::Stop);
    launch.depot = DepotRoute::Link;
    let mut machine = Machine::start_over_tcp(launch);
    let _serving = relayed_over(&machine.supervisor.link, &depot, id).await;
    machine.supervisor.serves().await;
    assert!(object.messages().await.starts_with("HTTP/1.1 200"));
    assert!(holder(&depot, id).await.is_some());
    assert_eq!(machine.supervisor.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    assert_eq!(holder(&depot, id).await, None);
}

#[tokio::test]
async fn another_supervisors_stream_takes_the_place_of_the_former_ones() {
    let object = Object::new();
    let id: ObjectId = object.id.parse().unwrap();
    let depot = Arc::new(Memory::with_presence());
    let mut launch = object.launch(Unattended::Serve);
    launch.depot = DepotRoute::Link;
    let mut machine = Machine::start(launch);
    let first = relayed_over(&machine.supervisor.link, &depot, id).await;
    machine.supervisor.serves().await;
    machine.lose_the_supervisor();
    drop(first);
    let lost = object.messages().await;
    assert!(lost.starts_with("HTTP/1.1 503"), "{lost}");

    let second = machine.attach();
    second.present().await;
    let route = DepotRoute::Link;
    second.link.queue(ToRuntime::Depot { route }).unwrap();
    let _serving = relayed_over(&second.link, &depot, id).await;
    while !object.messages().await.starts_with("HTTP/1.1 200") {}
    assert_eq!(second.sleep().await, How::Stop);
    assert_eq!(machine.code().await, Some(0));
    assert_eq!(holder(&depot, id).await, None);
}

async fn holder(depot: &Memory, object: ObjectId) -> Option<suijuris_core::witness::HolderId> {
    let (mark, _) = depot.mark(object).await.unwrap().unwrap();
    mark.holder.map(|holder| holder.id)
}
