//! The rows of the requirements, with the level each asks for, and which of them this repository claims to meet.

/// One requirement row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// `A1` … `G6`.
    pub(crate) id: &'static str,
    /// Where the proof must run: U unit or property test, L real processes and sockets, B booted machine, F Fly surface.
    pub(crate) level: &'static str,
    /// What is required, in short.
    pub(crate) what: &'static str,
    /// Whether a missing proof is an error.
    pub(crate) claimed: bool,
}

const fn claimed(id: &'static str, level: &'static str, what: &'static str) -> Row {
    Row {
        id,
        level,
        what,
        claimed: true,
    }
}

const fn later(id: &'static str, level: &'static str, what: &'static str) -> Row {
    Row {
        id,
        level,
        what,
        claimed: false,
    }
}

/// All rows, in order.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    claimed("A1", "U", "every action is decided from rules the object carries"),
    claimed("A2", "L", "a wake is a proposal; nothing can force it"),
    claimed("A3", "L", "whether to remain is evaluated again and again"),
    claimed("A4", "L", "dormancy is the object's own, durable act"),
    claimed("A5", "L", "sleep follows governed state, not traffic"),
    claimed("A6", "UL", "a broken lineage is never active"),
    claimed("A7", "U", "stale memory refuses activation"),
    claimed("A8", "U", "conditions range over memory, lineage, identity, host, request"),
    claimed("A9", "U", "wake and remain are separate rules"),
    claimed("A10", "UL", "no path changes lifecycle without a decision"),
    claimed("A11", "U", "every decision is reproducible from its record"),
    claimed("A12", "L", "a host's stop or kill never changes object state"),
    claimed("A13", "L", "the object proposes its own end and its own move"),
    claimed("A14", "UL", "the same proposal has the same verdict whoever carries it"),
    claimed("B1", "U", "memory is typed"),
    claimed("B2", "U", "acknowledged writes survive kill and power loss"),
    claimed("B3", "U", "identity is a digest of the definition"),
    claimed("B4", "LBF", "identity survives moving"),
    claimed("B5", "U", "export and import keep every bit"),
    claimed("B6", "L", "rollback, twin and truncation are refused with a witness"),
    claimed("B7", "UL", "an authorised fork is a child with its own id"),
    claimed("B8", "L", "anyone can verify a lineage offline"),
    claimed("B9", "UL", "amending is governed and signed; the id stays"),
    claimed("B10", "U", "no secret stands in clear in lineage or bundle"),
    claimed("B11", "LF", "a name and an address follow the object"),
    claimed("B12", "UL", "an acknowledgement means what the witness setting says"),
    claimed("C1", "L", "boot order; a bad bundle runs nothing"),
    claimed("C2", "L", "all inbound traffic crosses the gate"),
    claimed("C3", "L", "a refused request causes zero workload bytes"),
    claimed("C4", "L", "refusals are useful"),
    claimed("C5", "L", "unmodified workloads run; aware ones use the agent socket"),
    claimed("C6", "LB", "resume runs the wake checks again"),
    claimed("C7", "LB", "duties of PID 1"),
    claimed("C8", "LB", "works with every platform call missing"),
    later("C9", "bench", "cheap"),
    claimed("C10", "L", "the workload is a stranger: it reaches nothing that is not its own, nor its runtime; what a mode cannot give is said"),
    claimed("C11", "LU", "what rules judge is what the workload gets"),
    claimed("C12", "L", "the image named is the image run, the limits named are enforced, exhaustion is reported as such"),
    claimed("C13", "L", "nothing outside can stop a supervisor: stalled reader, stuck runtime, hanging machine, slow peer, closed terminal"),
    claimed("C14", "L", "refusals give nothing away; nothing secret in argv, environment of others, logs"),
    claimed("C15", "L", "activations that never served are paced whatever triggered them; a message that kills its reader is set aside, not lost"),
    claimed("D1", "L", "a declared message wakes, once"),
    claimed("D2", "UL", "time wakes: instant, interval, cron with zone"),
    claimed("D3", "UL", "memory wakes: only fields declared sensitive"),
    claimed("D4", "L", "a request wakes, decided before a machine starts"),
    claimed("D5", "L", "the door refuses without starting anything"),
    claimed("D6", "L", "looking never wakes"),
    claimed("D7", "U", "civil time: what a change of clocks skips comes right after, what it repeats once"),
    claimed("E1", "L", "wraps an OCI image without rewriting it"),
    claimed("E2", "F", "image and volume snapshot give the same object"),
    claimed("E3", "F", "stops and suspends itself over the platform socket"),
    claimed("E4", "F", "the platform's auto-stop keeps working underneath"),
    claimed("E5", "F", "drain and migration, better with cooperation"),
    claimed("E6", "F", "answers fly-replay for another scope"),
    claimed("E7", "F", "serves a replay only for the resident identity"),
    claimed("E8", "F", "identity travels opaquely"),
    claimed("E9", "BL", "region, class, caller and rate rules"),
    claimed("E10", "B", "same disk on bare Firecracker or QEMU, same object"),
    claimed("E11", "LF", "rules on TLS and client certificates travel in the bundle"),
    claimed("E12", "LB", "egress rules travel; where they cannot be enforced it is said"),
    claimed("E13", "F", "without a door: linger, Retry-After, bounded wakes, cost stated"),
    claimed("E14", "BF", "works on the smallest shape, without a token"),
    claimed("E15", "FB", "off the host and back: same id, old copy refused"),
    claimed("E16", "LF", "where another scope lives is known; wrapping by reference"),
    claimed("F1", "F", "the Machines API"),
    claimed("F2", "L", "operations of the host survive kill -9"),
    claimed("F3", "L", "the host's proxy"),
    claimed("F4", "L", "copy-on-write volumes"),
    later("F5", "LB", "process, QEMU and Firecracker drivers"),
    claimed("F6", "L", "images from layouts, tarballs, registries"),
    later("F7", "L", "a fleet over etcd"),
    claimed("F8", "L", "scoped tokens; no anonymous writes; a machine's socket reaches that machine alone"),
    claimed("F9", "L", "machines of an org reach each other by name, and nobody else"),
    claimed("F10", "L", "placement and shapes; oom_killed is reported"),
    claimed("G1", "L", "up: a running object in one command"),
    claimed("G2", "L", "the commands, with --json and exit codes"),
    later("G3", "L", "web console"),
    later("G4", "L", "metrics, traces, logs, health"),
    later("G5", "L", "clients for Python and TypeScript, MCP server"),
    later("G6", "L", "systemd unit, container image, docs"),
    claimed("G7", "L", "many objects in one process; classes; one amendment for all"),
    claimed("G8", "L", "installed without compiling; builds with Rust and a C compiler"),
    claimed("G9", "L", "one control API under commands: OpenAPI committed and fuzzed, tokens with scopes"),
    claimed(
        "G10",
        "L",
        "the definition can be changed while it runs: shown, asked, amended; users test their rules in files",
    ),
];

/// The row called `id`.
pub(crate) fn row(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_what_was_built() {
        let claimed: Vec<&str> = ROWS.iter().filter(|row| row.claimed).map(|row| row.id).collect();
        let expected = "A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14 B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 B12 \
                        C1 C2 C3 C4 C5 C6 C7 C8 C10 C11 C12 C13 C14 C15 D1 D2 D3 D4 D5 D6 D7 E1 E2 E3 E4 E5 E6 E7 E8 E9 E10 E11 E12 E13 E14 E15 E16 \
                        F1 F2 F3 F4 F6 F8 F9 F10 G1 G2 G7 G8 G9 G10";
        assert_eq!(claimed.join(" "), expected);
    }

    #[test]
    fn a_row_stands_once() {
        assert!(
            ROWS.iter()
                .all(|row| ROWS.iter().filter(|other| other.id == row.id).count() == 1)
        );
    }
}
