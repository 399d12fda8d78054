//! A gate whose authorizer admits everything: what the gate itself costs. Used by benchmarks.
//!
//! `gate_null LISTEN UPSTREAM [http|h2c|tcp]`, both addresses as `ADDR:PORT`.

use std::net::TcpListener;

use suijuris_gate::{
    Admission, Authorizer, Control, Forwarding, Gate, Limits, Peer, Phase, Protocol, RequestHead, Upstream,
};
use tokio::sync::mpsc;

struct Everyone;

impl Authorizer for Everyone {
    type Permit = ();

    fn admit(&self, _: &RequestHead<'_>, _: &mut Forwarding) -> Admission<()> {
        Admission::Forward(())
    }

    fn connect(&self, _: Peer<'_>) -> Admission<()> {
        Admission::Forward(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (args.next(), args.next()) else {
        return Err("usage: gate_null LISTEN UPSTREAM [http|h2c|tcp]".into());
    };
    let protocol = match args.next().as_deref() {
        Some("tcp") => Protocol::Tcp,
        Some("h2c") => Protocol::H2c,
        _ => Protocol::Http,
    };
    let listener = TcpListener::bind(listen)?;
    let gate = Gate::new(
        Everyone,
        Upstream::Tcp(upstream.parse()?),
        protocol,
        Limits::default(),
        Control::new(Phase::Open),
    );
    let (_handing, handed_over) = mpsc::channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let serving = tokio::task::LocalSet::new();
    serving.block_on(&runtime, gate.serve(listener, handed_over))?;
    Ok(())
}
