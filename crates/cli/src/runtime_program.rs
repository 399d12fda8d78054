//! The program that is the runtime in a machine.

use std::path::PathBuf;

use suijuris_supervisor::RuntimeProgram;

/// A static `suijuris-init` beside this program, or this program itself.
pub(crate) fn runtime_program() -> RuntimeProgram {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|dir| dir.join("suijuris-init")));
    match beside.filter(|path| path.is_file()) {
        Some(exe) => RuntimeProgram {
            exe,
            argv: vec!["suijuris-init".into()],
        },
        None => RuntimeProgram {
            exe: PathBuf::from("/proc/self/exe"),
            argv: vec!["suijuris".into(), "__init".into()],
        },
    }
}
