//! A depot through a Unix socket: the runtime in a machine has no network and no credentials, what started it has both.
//!
//! [`Client`] is the depot at the machine's end, [`serve`] answers at the other, for one object only. One round trip a
//! call, several in flight. Of a presence the name passes: whoever serves holds it for its machine.

mod client;
mod link;
mod serve;
mod wire;

pub use self::client::Client;
pub use self::serve::{Ended, serve};
pub use self::wire::Refused;

/// The fuzz body of the relay's frames: whatever the bytes, they are cut and read or refused, and what is read is written back
/// the same.
#[doc(hidden)]
pub fn fuzz_frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((frame, took))) = wire::split(rest) {
        wire::fuzz(frame);
        rest = rest.get(took..).unwrap_or_default();
    }
    wire::fuzz(bytes);
}
