//! The registry client against a real registry (Debian's `docker-registry`) and against servers that lie.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking"
)]

mod honest;
mod liar;
mod real;

mod against_liars;
mod against_referrers;
mod against_the_real_one;

use std::path::Path;
use std::time::Duration;

use suijuris_bundle::oci::{
    Artifact, Capsule, Descriptor, Labels, MAX_CAPSULE_BYTES, Options, Reference, Registry, RegistryError,
};
use suijuris_core::time::Timestamp;
use suijuris_core::{ObjectId, RecordId};

/// An artifact of these bytes; its object is named after them.
fn artifact(dir: &Path, bytes: &[u8], subject: Option<Descriptor>) -> Artifact {
    let path = tempfile::Builder::new()
        .suffix(".sui")
        .tempfile_in(dir)
        .unwrap()
        .into_temp_path()
        .keep()
        .unwrap();
    std::fs::write(&path, bytes).unwrap();
    let labels = Labels {
        title: "visits.sui".parse().unwrap(),
        created: Timestamp(1_795_000_000_000),
        object: ObjectId::of(bytes),
        head: RecordId::of(bytes),
        seq: 41,
    };
    let capsule = Capsule::measure(&path, MAX_CAPSULE_BYTES).unwrap();
    Artifact::new(capsule, labels, subject).unwrap()
}

fn reference(address: &str, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}

fn client(address: &str, options: Options) -> Registry {
    Registry::new(&address.parse().unwrap(), options).unwrap()
}

/// Options that give up soon where an answer does not come to its end.
fn soon() -> Options {
    Options {
        answer_within: Duration::from_secs(2),
        ..Options::default()
    }
}

/// Options that give up soon between two pieces of a transfer, and nowhere else.
fn restless() -> Options {
    Options {
        idle: Duration::from_millis(500),
        ..Options::default()
    }
}

/// The error with all its causes.
fn text(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Asserts that it failed, with these words.
#[track_caller]
fn failed<T>(result: Result<T, RegistryError>, expect: &str) {
    match result {
        Ok(_) => panic!("succeeded instead of: {expect}"),
        Err(error) => assert!(text(&error).contains(expect), "{}", text(&error)),
    }
}
