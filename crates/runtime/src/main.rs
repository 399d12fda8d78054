//! suijuris-init: the runtime of one object inside its machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    suijuris_runtime::main(std::env::args_os().skip(1))
}
