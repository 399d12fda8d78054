//! suijuris: the one program people run.
fn main() {}
