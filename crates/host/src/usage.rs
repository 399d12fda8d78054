//! What machines cost: the seconds that they ran, in the text format of Prometheus, of each machine, app and org. Machines that were
//! destroyed count for as long as they are known.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::PoisonError;

use crate::host::Inner;

/// The counters now.
pub(crate) fn text(host: &Inner, now_ms: u64) -> String {
    let (mut machines, mut apps, mut orgs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    {
        let all = host.machines.read().unwrap_or_else(PoisonError::into_inner);
        for machine in all.values().map(|handle| handle.now()) {
            let ms = machine.awake.until(now_ms);
            let (org, app) = (&machine.org, &machine.app);
            // Names and ids are letters, digits and -: they need no escapes.
            let of_app = format!("org=\"{org}\",app=\"{app}\"");
            machines.insert(format!("{of_app},machine=\"{}\"", machine.id), ms);
            *apps.entry(of_app).or_insert(0) += ms;
            *orgs.entry(format!("org=\"{org}\"")).or_insert(0) += ms;
        }
    }
    let mut text = String::new();
    for (of, counts) in [("machine", machines), ("app", apps), ("org", orgs)] {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "# TYPE suijuris_{of}_awake_seconds_total counter");
        for (labels, ms) in counts {
            let (seconds, rest) = (ms / 1_000, ms % 1_000);
            let _infallible = writeln!(
                text,
                "suijuris_{of}_awake_seconds_total{{{labels}}} {seconds}.{rest:03}"
            );
        }
    }
    text
}
