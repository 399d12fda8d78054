//! The least bundle an object can have, and what its bodies hold. The tests and the bench both build on it; not a test.

use std::collections::BTreeMap;

use suijuris_core::governance::{Action, Listing, Program};
use suijuris_core::id::BlobId;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_core::lineage::{Decision, Outcome};
use suijuris_core::manifest::{Gate, Manifest, Network, Protocol, Ready, SleepMode, Witness, Workload};
use suijuris_core::memory::Schema;
use suijuris_core::time::Span;
use suijuris_store::BundleFiles;

/// A bundle of this name and memory that permits nothing and runs `true`.
pub(crate) fn bundle_of(name: &str, memory: Schema) -> Result<BundleFiles, Box<dyn std::error::Error>> {
    let program = Program::new(Listing {
        version: Listing::VERSION,
        rules: vec![],
        nodes: vec![],
        bodies: vec![],
        groups: vec![],
    })?;
    let program = program.encode()?;
    let governance = b"// nothing is permitted\n".to_vec();
    let manifest = Manifest {
        v: 1,
        name: name.to_owned(),
        workload: Workload {
            image: None,
            argv: vec!["true".to_owned()],
            env: BTreeMap::new(),
            secret_env: BTreeMap::new(),
            cwd: None,
            user: None,
            port: 0,
            ready: Ready::Spawned,
            ready_within: Span(1_000),
            live: None,
            stop_signal: 15,
            stop_within: Span(1_000),
            network: Network::Private,
            egress: std::collections::BTreeSet::new(),
            limits: suijuris_core::manifest::UseLimits::default(),
            mounts: Vec::new(),
            read_only: true,
        },
        gate: Gate {
            protocol: Protocol::Tcp,
            headers: vec![],
            max_held: 16,
            hold: Span(1_000),
            max_connections: 16,
            drain: Span(1_000),
            linger: Span(1_000),
            api: false,
            cors: Vec::new(),
        },
        memory,
        governance: BlobId::of(&governance),
        program: BlobId::of(&program),
        triggers: suijuris_core::trigger::Triggers::default(),
        callers: vec![],
        claims: BTreeMap::new(),
        rates: BTreeMap::new(),
        sleep: SleepMode::Stop,
        witness: Witness::Optional,
        lease: suijuris_core::manifest::LEASE,
        grace: Span(0),
        class: None,
        elsewhere: BTreeMap::new(),
        warm_forks: false,
        seal_within: Span(1_000),
    };
    Ok(BundleFiles {
        manifest: manifest.encode()?,
        governance,
        program,
    })
}

/// A permit that needed no facts.
pub(crate) fn decision(action: Action) -> Decision {
    Decision {
        action,
        outcome: Outcome::Permit,
        explanation: None,
        inputs: Inputs::timeless(Principal::Workload),
    }
}
