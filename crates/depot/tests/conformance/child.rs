//! Tests that need a process of their own run themselves again: with an argument in the environment they are the child.

use std::process::Command;

const VARIABLE: &str = "SUIJURIS_DEPOT_TEST_CHILD";

/// The argument that was given to the child of this `kind`; `None` in the parent.
pub(crate) fn argument(kind: &str) -> Option<String> {
    let given = std::env::var(VARIABLE).ok()?;
    given.strip_prefix(kind)?.strip_prefix(' ').map(str::to_owned)
}

/// This program, to run the test `name` as a child.
pub(crate) fn command(name: &str, kind: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(VARIABLE, format!("{kind} {argument}"));
    command
}

/// `command` as the positional parameters of a shell script.
pub(crate) fn through_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell
        .args(["-c", script, "bash"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    shell
}

/// The child ran its test, and the test passed.
pub(crate) fn passes(mut command: Command) {
    let output = command.output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
