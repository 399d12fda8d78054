//! An object that lives in a machine by itself: founded once, asked before it wakes, asleep by its own decision.

use crate::machine::{Carried, Machine, Platform, Running, until};

const OPEN: &str = r#"
@id("wake") permit (principal, action == Action::"wake", resource);
@id("admit") permit (principal, action == Action::"admit", resource);
"#;

/// Awake while requests come.
const VISITED: &str = r#"@id("visited") permit (principal, action == Action::"remain", resource)
when { context.activity.in_flight > 0 || context.activity.idle < duration("300ms") };"#;

const STAY: &str = r#"@id("stay") permit (principal, action == Action::"remain", resource);"#;

#[test]
fn an_empty_volume_founds_by_a_live_ticket_and_by_nothing_else() {
    let carried = Carried::new("", &[OPEN, STAY].concat());
    let volume = carried.volume();
    let platform = Platform::new("vol_1", &volume, 200);
    let cases = [
        (None, "there is no ticket"),
        (Some("!".to_owned()), "cannot be read"),
        (
            Some(carried.ticket(|ticket| ticket.expires.0 -= 700_000)),
            "has expired",
        ),
        (
            Some(carried.ticket(|ticket| ticket.expires.0 += 700_000)),
            "more than 15 minutes",
        ),
        (
            Some(carried.ticket(|ticket| ticket.app = "other".into())),
            "for the app `other`",
        ),
        (
            Some(carried.ticket(|ticket| ticket.volume = "vol_2".into())),
            "for the volume `vol_2`",
        ),
        (
            Some(carried.ticket(|ticket| ticket.threshold = 2)),
            "no possible owners",
        ),
    ];
    for (ticket, why) in cases {
        let machine = Machine {
            ticket,
            platform: Some(&platform),
            ..Machine::default()
        };
        let mut running = carried.start(&machine);
        assert_eq!(running.ends(), 0, "{}", running.said());
        let said = running.said();
        assert!(
            said.contains("not_founded") && said.contains(why),
            "{why}: {said}"
        );
        let left: Vec<_> = std::fs::read_dir(&volume).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let ticket = Some(carried.ticket(|_| {}));
    let mut running = carried.start(&Machine {
        ticket: ticket.clone(),
        platform: Some(&platform),
        ..Machine::default()
    });
    let answer = running.get("/");
    assert!(answer.ends_with("served\n"), "{answer}");
    running.signal("TERM");
    assert_eq!(running.ends(), 0);
    let first = carried.object();
    // Recreated from image and volume it is the same object, with the ticket, without it, and after it has expired.
    for ticket in [
        ticket,
        None,
        Some(carried.ticket(|ticket| ticket.expires.0 -= 700_000)),
    ] {
        let mut running = carried.start(&Machine {
            ticket,
            platform: Some(&platform),
            ..Machine::default()
        });
        assert!(running.get("/").ends_with("served\n"), "{}", running.said());
        running.signal("TERM");
        assert_eq!(running.ends(), 0);
        assert_eq!(carried.object(), first);
    }
    carried
        .home
        .suijuris(&["verify", carried.volume().join("object").to_str().unwrap()])
        .code(0);
    let inceptions = carried.kinds().iter().filter(|kind| *kind == "inception").count();
    assert_eq!(inceptions, 1);
}

#[test]
fn a_ticket_founds_one_object_however_many_volumes_it_meets() {
    let carried = Carried::new("", &[OPEN, STAY].concat());
    let depot = Some(carried.home.path().join("depot"));
    let ticket = Some(carried.ticket(|_| {}));
    let machine = Machine {
        ticket,
        depot,
        ..Machine::default()
    };
    let mut running = carried.start(&machine);
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    running.signal("TERM");
    running.ends();
    let first = carried.object();
    // The volume is lost, and the ticket is still good.
    std::fs::rename(carried.volume(), carried.home.path().join("lost")).unwrap();
    std::fs::create_dir(carried.volume()).unwrap();
    let mut running = carried.start(&machine);
    assert_eq!(running.ends(), 0);
    let said = running.said();
    assert!(said.contains("was spent") && said.contains(&first), "{said}");
    assert!(!carried.volume().join("object").exists());
    // The lost one was only on its way: as if the first boot had been cut short before it had its place.
    std::fs::remove_dir_all(carried.volume()).unwrap();
    std::fs::rename(carried.home.path().join("lost"), carried.volume()).unwrap();
    std::fs::rename(
        carried.volume().join("object"),
        carried.volume().join(".founding"),
    )
    .unwrap();
    let running = carried.start(&machine);
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    running.signal("TERM");
    assert_eq!(carried.object(), first);
}

/// Killed at moments that go over all of its first boot, it is founded by the next one, once.
#[test]
fn killed_while_it_founds_itself_it_is_one_object() {
    let carried = Carried::new("", &[OPEN, STAY].concat());
    let depot = Some(carried.home.path().join("depot"));
    let begin = std::time::Instant::now();
    let machine = |nonce: u8| Machine {
        ticket: Some(carried.ticket(|ticket| ticket.nonce = [nonce; 16])),
        depot: depot.clone(),
        ..Machine::default()
    };
    let clear = || {
        std::fs::remove_dir_all(carried.volume()).unwrap();
        std::fs::create_dir(carried.volume()).unwrap();
    };
    let running = carried.start(&machine(1));
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    let takes = begin.elapsed();
    drop(running);
    let rounds = 10;
    for round in 1..=rounds {
        clear();
        let machine = machine(100 + u8::try_from(round).unwrap());
        let killed = carried.start(&machine);
        // A fault at a moment of its own each time; nothing waits for it.
        std::thread::sleep(takes * round / rounds);
        drop(killed);
        let begun = ["object", ".founding"].map(|name| carried.volume().join(name).join("lineage").exists());
        let mut running = carried.start(&machine);
        assert!(
            running.get("/").ends_with("served\n"),
            "{begun:?}: {}",
            running.said()
        );
        running.signal("TERM");
        assert_eq!(running.ends(), 0);
        assert!(!carried.volume().join(".founding").exists());
        let kinds = carried.kinds();
        assert_eq!(
            kinds.iter().filter(|kind| *kind == "inception").count(),
            1,
            "{kinds:?}"
        );
        // The ticket was spent for this one, and founds no other.
        let first = carried.object();
        clear();
        let mut other = carried.start(&machine);
        assert_eq!(other.ends(), 0);
        assert!(
            other.said().contains("was spent") && other.said().contains(&first),
            "{}",
            other.said()
        );
    }
}

// proves E3
#[test]
fn it_falls_asleep_by_its_own_rule_and_asks_to_be_stopped() {
    let carried = Carried::new("", &[OPEN, VISITED].concat());
    let volume = carried.volume();
    let platform = Platform::new("vol_1", &volume, 200);
    let ticket = Some(carried.ticket(|_| {}));
    let mut running = carried.start(&Machine {
        ticket,
        platform: Some(&platform),
        ..Machine::default()
    });
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    let stop = "POST /v1/apps/shop/machines/d891/stop HTTP/1.1";
    until("it asks to be stopped", || {
        platform.asked().last().is_some_and(|asked| asked == stop)
    });
    // Dormancy is durable before it asks.
    assert_eq!(carried.kinds().last().unwrap(), "dormant");
    running.signal("INT");
    assert_eq!(running.ends(), 0);
    // Where nobody answers, or says no, it ends by itself, in a way that is not restarted.
    let refuses = Platform::new("vol_1", &volume, 403);
    for platform in [None, Some(&refuses)] {
        let mut running = carried.start(&Machine {
            platform,
            ..Machine::default()
        });
        assert!(running.get("/").ends_with("served\n"), "{}", running.said());
        assert_eq!(running.ends(), 0, "{}", running.said());
        assert_eq!(carried.kinds().last().unwrap(), "dormant");
    }
    assert_eq!(refuses.asked().last().unwrap(), stop);
}

#[test]
fn it_has_itself_suspended_and_goes_on_where_it_was() {
    let carried = Carried::new("[sleep]\nmode = \"suspend\"\n", &[OPEN, VISITED].concat());
    let volume = carried.volume();
    let platform = Platform::new("vol_1", &volume, 200);
    let ticket = Some(carried.ticket(|_| {}));
    let mut running = carried.start(&Machine {
        ticket,
        platform: Some(&platform),
        ..Machine::default()
    });
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    let suspend = "POST /v1/apps/shop/machines/d891/suspend HTTP/1.1";
    until("it asks to be suspended", || {
        platform.asked().iter().any(|asked| asked == suspend)
    });
    running.signal("STOP");
    assert_eq!(carried.kinds().last().unwrap(), "dormant");
    std::thread::sleep(std::time::Duration::from_secs(2));
    running.signal("CONT");
    // Whoever comes is served once the rules have let it wake again.
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    assert!(
        carried.kinds().iter().any(|kind| kind == "resumed"),
        "{:?}",
        carried.kinds()
    );
    running.signal("TERM");
    assert_eq!(running.ends(), 0);
    // A platform that does not suspend it is left.
    let refuses = Platform::new("vol_1", &volume, 412);
    let mut running = carried.start(&Machine {
        platform: Some(&refuses),
        ..Machine::default()
    });
    assert!(running.get("/").ends_with("served\n"), "{}", running.said());
    assert_eq!(running.ends(), 0, "{}", running.said());
    assert_eq!(carried.kinds().last().unwrap(), "dormant");
}

// proves E1
#[test]
fn as_the_first_process_of_its_image_it_starts_what_the_image_says() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can enter an image here");
        return;
    }
    let (carried, entrypoint) = Carried::example();
    let mut running = Running::first_process(&carried.home, &entrypoint, Some(carried.ticket(|_| {})));
    let answer = running.get("/");
    let page = std::fs::read_to_string(carried.home.dir().join("site/index.html")).unwrap();
    assert!(answer.ends_with(&page), "{answer}: {}", running.said());
    let programs = running.programs();
    let workload = programs
        .iter()
        .find(|(arguments, _)| arguments.starts_with("/bin/busybox httpd -f -h /www"));
    let (_, workload) = workload.unwrap_or_else(|| panic!("{programs:?}"));
    let status = std::fs::read_to_string(workload.join("status")).unwrap();
    assert!(status.contains("Uid:\t1000\t1000"), "{status}");
    let environment = std::fs::read(workload.join("environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(
        environment.contains("GREETING=hello") && !environment.contains("SUIJURIS_TICKET"),
        "{environment}"
    );
    // Without a request it falls asleep, and the machine ends.
    assert_eq!(running.ends(), 0, "{}", running.said());
    assert_eq!(carried.kinds(), ["inception", "woke", "dormant"]);
    let first = carried.object();
    let mut again = Running::first_process(&carried.home, &entrypoint, None);
    assert!(again.get("/").ends_with(&page), "{}", again.said());
    assert_eq!(again.ends(), 0);
    assert_eq!(carried.object(), first);
}

#[test]
fn whoever_comes_first_wakes_it_only_if_the_rules_say_so_for_them() {
    let rules = r#"
@id("wake") permit (principal, action == Action::"wake", resource)
when { context.trigger.kind == "request" && context has request && context.request.path like "/in*" };
@id("admit") permit (principal, action == Action::"admit", resource)
when { context.request.path != "/index.html/never" };
"#;
    let carried = Carried::new("", &[rules, VISITED].concat());
    let ticket = Some(carried.ticket(|_| {}));
    let mut running = carried.start(&Machine {
        ticket,
        stay: 60,
        ..Machine::default()
    });
    let refused = running.get("/out");
    assert!(
        refused.starts_with("HTTP/1.1 403") && refused.contains("wake_refused"),
        "{refused}"
    );
    // It would wake, and the caller would not be let in: nothing is started for them.
    let refused = running.get("/index.html/never");
    assert!(refused.contains("admit_refused"), "{refused}");
    assert!(!running.said().contains("spawn"), "{}", running.said());
    assert!(
        running.get("/index.html").ends_with("served\n"),
        "{}",
        running.said()
    );
    assert_eq!(running.ends(), 0);
    let kinds = carried.kinds();
    assert_eq!(kinds, ["inception", "refused", "refused", "woke", "dormant"]);
    // A platform that stops the machine before anybody came finds it where it was.
    let mut running = carried.start(&Machine {
        stay: 60,
        ..Machine::default()
    });
    assert!(running.get("/out").starts_with("HTTP/1.1 403"));
    running.signal("TERM");
    assert_eq!(running.ends(), 0);
    assert_eq!(carried.kinds().last().unwrap(), "refused");
}

#[test]
fn a_start_that_the_rules_refuse_is_bounded_and_says_when_to_come_again() {
    let rules = r#"@id("admit") permit (principal, action == Action::"admit", resource);"#;
    let carried = Carried::new("", rules);
    let ticket = Some(carried.ticket(|_| {}));
    let began = std::time::Instant::now();
    let mut running = carried.start(&Machine {
        ticket,
        stay: 3,
        ..Machine::default()
    });
    for _ in 0..3 {
        let answer = running.get("/");
        let head = answer.to_ascii_lowercase();
        assert!(
            head.starts_with("http/1.1 403") && head.contains("\r\nretry-after: "),
            "{answer}"
        );
        assert!(answer.contains("wake_refused"), "{answer}");
    }
    assert_eq!(running.ends(), 0);
    // However soon the callers are answered, nobody starts it more often than this.
    assert!(began.elapsed() >= std::time::Duration::from_secs(3));
    assert!(
        !carried.kinds().iter().any(|kind| kind == "woke"),
        "{:?}",
        carried.kinds()
    );
}

/// Its network is the platform's, which nothing of ours limits: an object whose bundle says what its workload may reach says so when it wakes.
// proves E12
#[test]
fn what_a_platforms_network_does_not_limit_is_said() {
    let limits = "egress = [\"host.internal:5432\", \"203.0.113.0/24:443\"]\n";
    for (definition, is_said) in [(limits, true), ("", false)] {
        let carried = Carried::new(definition, &[OPEN, STAY].concat());
        let platform = Platform::new("vol_1", &carried.volume(), 200);
        let mut running = carried.start(&Machine {
            ticket: Some(carried.ticket(|_| {})),
            platform: Some(&platform),
            ..Machine::default()
        });
        let answer = running.get("/");
        assert!(answer.ends_with("served\n"), "it runs all the same: {answer}");
        running.signal("TERM");
        assert_eq!(running.ends(), 0);
        let said = running.said();
        assert_eq!(said.contains("egress_not_limited"), is_said, "{said}");
        assert_eq!(
            said.contains("nothing limits what the workload reaches here: the network is the platform's"),
            is_said,
            "{said}"
        );
    }
}
