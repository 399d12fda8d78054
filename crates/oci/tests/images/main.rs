//! Images: layers unpacked, stored and put together again; sources that agree; registries that break off.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking"
)]

#[path = "../registry/honest.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of registries, which use more of it"
)]
mod honest;
#[path = "../registry/liar.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of registries, which use more of it"
)]
mod liar;

mod building;
mod evil;
mod full;
mod make;
mod pulling;
mod running;
mod sources;
mod stacks;
mod store;
mod tarball;
mod unpacking;

/// The error with all its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
