//! What `new` writes passes `check` without a word, and never lands on somebody's files.

#![expect(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::sync::Arc;

use suijuris_bundle::{ScaffoldError, Style, build, scaffold, templates};
use suijuris_core::governance::{
    self, Action, Activity, Caller, Facts, Outcome, Principal, Program, Trigger, TriggerKind,
};
use suijuris_core::memory::{Change, Memory, Name, Value, Write};
use suijuris_core::time::{Now, Quality, Span, Timestamp};

#[test]
fn each_template_builds_without_findings_under_its_own_name() {
    for template in templates() {
        let dir = tempfile::tempdir().unwrap();
        let written = scaffold(template.name, dir.path(), "my-object").unwrap();
        let built = build(dir.path())
            .unwrap_or_else(|report| panic!("{}\n{}", template.name, report.render(Style::PLAIN)));
        assert!(
            built.findings.is_empty(),
            "{}\n{}",
            template.name,
            built.findings.render(Style::PLAIN)
        );
        assert_eq!(built.manifest.name, "my-object");
        let readme = fs::read_to_string(dir.path().join("README.md")).unwrap();
        assert!(readme.starts_with("# my-object\n") && readme.contains("suijuris up"));
        // Its history, keys and secrets go into no image that is built beside the definition.
        let left_out = fs::read_to_string(dir.path().join(".dockerignore")).unwrap();
        assert!(left_out.lines().any(|line| line == ".suijuris"), "{left_out}");
        for file in written {
            assert!(
                !fs::read_to_string(&file).unwrap().contains("__NAME__"),
                "{}",
                file.display()
            );
        }
    }
}

#[test]
fn a_directory_with_anything_in_it_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("diary.txt"), "mine").unwrap();
    let refused = scaffold("http", dir.path(), "hello");
    assert!(matches!(refused, Err(ScaffoldError::NotEmpty(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_template_or_name_that_is_none_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("new");
    assert!(matches!(
        scaffold("htp", &inner, "hello"),
        Err(ScaffoldError::UnknownTemplate(_))
    ));
    assert!(matches!(
        scaffold("http", &inner, "Hello World"),
        Err(ScaffoldError::Name(_))
    ));
    assert!(!inner.exists());
}

const NOON: Now = Now {
    at: Timestamp(1_795_435_200_000),
    quality: Quality::Synced,
};

/// A template's rules with its memory, as the machine judges them.
struct Object {
    program: Program,
    memory: Memory,
}

impl Object {
    fn of(template: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        scaffold(template, dir.path(), "my-object").unwrap();
        let built = build(dir.path()).unwrap();
        Self {
            memory: Memory::new(Arc::new(built.manifest.memory)),
            program: built.program,
        }
    }

    fn set(&mut self, field: &str, value: Value, at: Timestamp) {
        let change = Change::from([(Name::new(field).unwrap(), Write::Set(value))]);
        self.memory.apply(&change, at).unwrap();
    }

    fn consent(&mut self, at: Timestamp) {
        self.set("consent", Value::Timestamp(at), at);
    }

    /// Whether the rules permit, and the ids of the rules that decided.
    fn judge(
        &self,
        action: Action,
        principal: Principal<'_>,
        more: impl Fn(&mut Facts<'_>),
    ) -> (bool, Vec<String>) {
        let object = governance::Object {
            id: "id",
            name: "my-object",
            memory: &self.memory,
            lineage: governance::Lineage::default(),
            instance: None,
        };
        let mut facts = Facts::new(principal, object, NOON, governance::Host::default());
        more(&mut facts);
        let judgement = self.program.judge(action, &facts);
        let deciding = judgement
            .deciding
            .iter()
            .filter_map(|index| self.program.rule(index));
        let deciding = deciding.map(|rule| rule.id.clone()).collect();
        (judgement.outcome == Outcome::Permit, deciding)
    }

    fn wakes(
        &self,
        kind: TriggerKind,
        principal: Principal<'_>,
        name: Option<&'static str>,
    ) -> (bool, Vec<String>) {
        self.judge(Action::Wake, principal, |facts| {
            facts.trigger = Some(Trigger {
                kind,
                name,
                topic: None,
                field: None,
                missed: 0,
            });
        })
    }

    fn remains(&self, active_ms: i64, idle_ms: i64, in_flight: i64) -> bool {
        let activity = Activity {
            active: Span(active_ms),
            idle: Span(idle_ms),
            connections: in_flight,
            in_flight,
        };
        self.judge(Action::Remain, Principal::Host, |facts| {
            facts.activity = Some(activity);
        })
        .0
    }
}

const VISITOR: Principal<'static> = Principal::Caller(Caller {
    authenticated: false,
    subject: None,
    issuer: None,
    audience: &[],
    scopes: &[],
    claims: &[],
});

#[test]
fn the_web_server_wakes_for_visitors_while_open_and_sleeps_when_left_alone() {
    let mut object = Object::of("http");
    assert!(object.wakes(TriggerKind::Request, VISITOR, None).0);
    assert!(
        !object.wakes(TriggerKind::Boot, Principal::Host, None).0,
        "a host that starts it is no reason"
    );
    assert!(object.remains(60_000, 9_000, 0) && object.remains(60_000, 60_000, 1));
    assert!(!object.remains(60_000, 11_000, 0));
    object.set("open", Value::Bool(false), NOON.at);
    assert_eq!(
        object.wakes(TriggerKind::Request, VISITOR, None),
        (false, vec!["closed".to_owned()])
    );
}

#[test]
fn the_connection_server_serves_under_fresh_consent_only() {
    let mut object = Object::of("tcp");
    let wake = |object: &Object| object.wakes(TriggerKind::Request, VISITOR, None);
    assert_eq!(wake(&object), (false, vec!["consent".to_owned()]), "never given");
    object.consent(Timestamp(NOON.at.0 - 3_600_000));
    assert!(wake(&object).0 && object.remains(60_000, 1_000, 0));
    object.consent(Timestamp(NOON.at.0 - 25 * 3_600_000));
    assert_eq!(
        wake(&object),
        (false, vec!["consent".to_owned()]),
        "a day and an hour ago"
    );
    assert!(
        !object.remains(60_000, 1_000, 3),
        "open connections do not keep it awake without consent"
    );
}

#[test]
fn the_agent_is_awake_for_work_within_its_budget() {
    let mut object = Object::of("agent");
    object.consent(NOON.at);
    let by_memory = |object: &Object| object.wakes(TriggerKind::Memory, Principal::Controller(&[]), None);
    assert!(!by_memory(&object).0, "no jobs yet");
    assert!(
        object
            .wakes(TriggerKind::Timer, Principal::Timer, Some("nightly"))
            .0
    );
    assert!(
        !object.wakes(TriggerKind::Request, VISITOR, None).0,
        "looking does not wake"
    );
    assert!(
        object.remains(1_000, 0, 0) && !object.remains(60_000, 0, 9),
        "traffic is not work"
    );
    object.set(
        "jobs",
        Value::Set([Value::String("a".to_owned())].into()),
        NOON.at,
    );
    assert!(by_memory(&object).0 && object.remains(60_000, 60_000, 0));
    object.set("budget", Value::Int(0), NOON.at);
    assert_eq!(by_memory(&object), (false, vec!["budget".to_owned()]));
    assert!(!object.remains(60_000, 0, 0));
    let writes = |fields: &'static [&'static str]| {
        object
            .judge(Action::Mutate, Principal::Workload, |facts| facts.fields = fields)
            .0
    };
    assert!(writes(&["jobs", "done"]) && !writes(&["done", "consent"]) && !writes(&["budget"]));
}

#[test]
fn a_class_founds_for_anybody_on_this_machine_and_for_its_owner() {
    let object = Object::of("class");
    let asks = |ip: [u8; 4], principal: Principal<'_>| {
        let request = governance::Request {
            protocol: governance::Protocol::Http1,
            peer_ip: ip.into(),
            method: "GET",
            path: "/",
            query: "",
            host: "acme.my-object.localhost",
            port: None,
            content_length: None,
            headers: &[],
            tls: None,
            client_cert: None,
        };
        let founding = governance::Founding {
            max_instances: 100,
            ..governance::Founding::default()
        };
        let answer = object.judge(Action::Instantiate, principal, |facts| {
            facts.object.instance = Some(governance::Instance {
                class: "class",
                key: "acme",
            });
            facts.founding = Some(founding);
            facts.request = Some(request);
        });
        answer.0
    };
    assert!(asks([127, 0, 0, 1], VISITOR));
    assert!(!asks([192, 0, 2, 1], VISITOR), "not from elsewhere");
    assert!(asks([192, 0, 2, 1], Principal::Controller(&[])));
    assert!(!asks([127, 0, 0, 1], Principal::Host));
}
