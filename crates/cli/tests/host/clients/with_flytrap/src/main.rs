//! Lists apps and machines with flytrap; nothing but the base URL and the token is other than at Fly. In a machine it finds itself by the
//! environment.

use flytrap::api::{Client, MachineState};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), flytrap::Error> {
    let client = Client::with_origin(variable("URL").as_str(), variable("FLY_API_TOKEN"));
    let apps = client.apps("personal").await?;
    assert_eq!(apps.total, 1);
    let app = apps.iter().next().expect("an app");
    assert_eq!((app.name.as_str(), app.machine_count), ("a", 2));
    let machines = client.machines("a").await?;
    assert_eq!(machines.len(), 2);
    for machine in &machines {
        println!("{} {} in {}: {:?}", machine.id, machine.name, machine.location, machine.state);
    }
    let started = machines.iter().filter(|machine| machine.state == MachineState::Started);
    assert_eq!(started.count(), 1);
    // As the machine that the environment says that this is: the other one is its peer.
    assert_eq!(client.peers().await?.len(), 1);
    let placement = flytrap::Placement::current()?;
    assert_eq!((placement.app.as_str(), placement.location.to_string().as_str()), ("a", "fra"));
    Ok(())
}
