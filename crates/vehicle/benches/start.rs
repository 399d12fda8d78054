//! What a machine's start costs over the plain start of the same program.
fn main() {}
