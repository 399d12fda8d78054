//! The depot that a supervisor serves its machine, and the one that the next supervisor serves.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use suijuris_core::ObjectId;
use suijuris_depot::memory::Memory;
use suijuris_depot::{Marks as _, Session, relay};
use suijuris_link::ToRuntime;
use suijuris_link::launch::{DepotRoute, Unattended};
use suijuris_link::message::How;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::rig::{Machine, Object};

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

async fn holder(depot: &Memory, object: ObjectId) -> Option<suijuris_core::witness::HolderId> {
    let (mark, _) = depot.mark(object).await.unwrap().unwrap();
    mark.holder.map(|holder| holder.id)
}
