//! What an author of rules meets: verdicts that follow the rules, errors with their place, findings, explanations.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use suijuris_core::governance::{
    Action, Activity, Caller, Changed, Facts, Fault, Host, Lineage, Object, Outcome, Principal,
    PrincipalKind, Program, Protocol, Request, Trigger, TriggerKind, Vocabulary,
};
use suijuris_core::memory::{Change, Field, Freshness, Kind, Memory, Name, Schema, Value, Write};
use suijuris_core::time::{Now, Quality, Span, Timestamp};
use suijuris_policy::{Diagnostic, Severity, compile, oracle::Oracle};

const NOW: Timestamp = Timestamp(1_795_420_800_000);

fn field(kind: Kind, default: Option<Value>, fresh_for: Option<i64>) -> Field {
    let mut field = Field::new(kind);
    field.default = default;
    field.fresh_for = fresh_for.map(Span);
    field
}

fn vocabulary() -> Vocabulary {
    let fields = [
        ("on", field(Kind::Bool, Some(Value::Bool(true)), None)),
        ("count", field(Kind::INT, Some(Value::Int(0)), None)),
        ("consent", field(Kind::String, None, Some(60_000))),
        (
            "state",
            field(
                Kind::Enum(vec!["open".into(), "shut".into()]),
                Some(Value::Enum("open".into())),
                None,
            ),
        ),
    ];
    let fields: BTreeMap<_, _> = fields
        .into_iter()
        .map(|(name, field)| (Name::new(name).unwrap(), field))
        .collect();
    Vocabulary::of_memory(Schema::try_from(fields).unwrap())
}

fn program(source: &str) -> Program {
    compiled(&vocabulary(), source)
}

fn compiled(vocabulary: &Vocabulary, source: &str) -> Program {
    compile(vocabulary, source)
        .unwrap_or_else(|errors| panic!("{errors:#?}"))
        .program
}

fn memory() -> Memory {
    Memory::new(Arc::new(vocabulary().memory))
}

fn set(memory: &mut Memory, name: &str, value: Value, at: Timestamp) {
    memory
        .apply(&Change::from([(Name::new(name).unwrap(), Write::Set(value))]), at)
        .unwrap();
}

fn facts<'a>(memory: &'a Memory, principal: Principal<'a>) -> Facts<'a> {
    let object = Object {
        id: "o",
        name: "o",
        memory,
        lineage: Lineage::default(),
        instance: None,
    };
    let now = Now {
        at: NOW,
        quality: Quality::Synced,
    };
    let mut facts = Facts::new(principal, object, now, Host::default());
    facts.trigger = Some(Trigger {
        kind: TriggerKind::Manual,
        name: None,
        topic: None,
        field: None,
        missed: 0,
    });
    facts.request = Some(Request {
        protocol: Protocol::Http1,
        peer_ip: [127, 0, 0, 1].into(),
        method: "GET",
        path: "/",
        query: "",
        host: "o.localhost",
        port: None,
        content_length: None,
        headers: &[],
        tls: None,
        client_cert: None,
    });
    facts.activity = Some(Activity::default());
    facts.target = Some(Host::default());
    facts.scope = Some("s");
    facts.field = Some("count");
    facts
}

fn principal(kind: PrincipalKind) -> Principal<'static> {
    match kind {
        PrincipalKind::Caller => Principal::Caller(Caller::default()),
        PrincipalKind::Host => Principal::Host,
        PrincipalKind::Timer => Principal::Timer,
        PrincipalKind::Peer => Principal::Peer("p"),
        PrincipalKind::Controller => Principal::Controller(&["k"]),
        PrincipalKind::Workload => Principal::Workload,
        PrincipalKind::Own => Principal::Own,
    }
}

/// A write of `count` and `spent` by the workload, with what it would leave.
fn judged_write(program: &Program, memory: &Memory, changes: &[(u16, Option<Value>)]) -> Outcome {
    let changes: Vec<Changed<'_>> = changes
        .iter()
        .map(|(position, new)| Changed {
            position: *position,
            new: new.as_ref(),
        })
        .collect();
    let mut facts = facts(memory, Principal::Workload);
    facts.changes = &changes;
    program.judge(Action::Mutate, &facts).outcome
}

// proves A8
#[test]
fn who_may_count_may_still_not_begin_anew() {
    let program = program(
        r#"permit(principal is Workload, action == Action::"mutate", resource)
           when { context.change has count && context.change.count.new >= context.change.count.old };"#,
    );
    let mut memory = memory();
    set(&mut memory, "count", Value::Int(5), NOW);
    let position = u16::try_from(memory.schema().position("count").unwrap()).unwrap();
    let write = |new| judged_write(&program, &memory, &[(position, new)]);
    assert_eq!(write(Some(Value::Int(6))), Outcome::Permit);
    assert_eq!(write(Some(Value::Int(5))), Outcome::Permit);
    assert_eq!(write(Some(Value::Int(4))), Outcome::Refuse);
    assert_eq!(write(None), Outcome::Refuse, "emptied: what is not there errs");
    let other = [(position + 1, Some(Value::Bool(true)))];
    assert_eq!(judged_write(&program, &memory, &other), Outcome::Refuse);
    let optional = compile(
        &vocabulary(),
        r#"permit(principal, action == Action::"mutate", resource)
           when { context.change has consent && context.change.consent.new == "yes" };"#,
    );
    let errors = optional.unwrap_err();
    assert_eq!(
        errors[0].code, "rules.type",
        "a field without a default may be emptied"
    );
    let elsewhere = compile(
        &vocabulary(),
        r#"permit(principal, action == Action::"wake", resource) when { context.change has count };"#,
    );
    assert!(elsewhere.is_err() || !elsewhere.unwrap().findings.is_empty());
}

#[test]
fn a_rule_of_forks_sees_whether_the_child_begins_with_the_parents_memory() {
    let memory = memory();
    let judged = |program: &Program, warm| {
        let mut facts = facts(&memory, Principal::Controller(&["k"]));
        facts.warm = warm;
        program.judge(Action::Fork, &facts).outcome
    };
    let cold = program(
        r#"permit(principal is Controller, action == Action::"fork", resource) when { !context.warm };"#,
    );
    assert_eq!(judged(&cold, false), Outcome::Permit);
    assert_eq!(judged(&cold, true), Outcome::Refuse);
    let warm = program(
        r#"permit(principal is Controller, action == Action::"fork", resource) when { context.warm };"#,
    );
    assert_eq!(judged(&warm, false), Outcome::Refuse);
    assert_eq!(judged(&warm, true), Outcome::Permit);
    let elsewhere = compile(
        &vocabulary(),
        r#"permit(principal, action == Action::"wake", resource) when { context.warm };"#,
    );
    assert!(elsewhere.is_err(), "no other action has it");
}

// proves A8
#[test]
fn a_counter_reads_as_what_was_added_in_its_window() {
    let fields = [
        (
            "calls",
            field(
                Kind::Counter {
                    window: Span(86_400_000),
                },
                None,
                None,
            ),
        ),
        ("count", field(Kind::INT, Some(Value::Int(0)), None)),
    ];
    let fields: BTreeMap<_, _> = fields
        .into_iter()
        .map(|(name, field)| (Name::new(name).unwrap(), field))
        .collect();
    let vocabulary = Vocabulary::of_memory(Schema::try_from(fields).unwrap());
    let program = compiled(
        &vocabulary,
        r#"permit(principal, action == Action::"wake", resource) when { resource.memory.calls < 3 };
           permit(principal is Workload, action == Action::"mutate", resource)
           when { context.change has calls && context.change.calls.new - context.change.calls.old <= 2 };"#,
    );
    let mut memory = Memory::new(Arc::new(vocabulary.memory));
    let wake = |memory: &Memory, at: Timestamp| {
        let mut facts = facts(memory, Principal::Host);
        facts.now.at = at;
        let whole = program.judge(Action::Wake, &facts);
        let now = Now { at: NOW, ..facts.now };
        let residual = program.specialize(Action::Wake, facts.object, now).unwrap();
        let worked_in = residual.judge(&facts);
        assert!(worked_in.is_none_or(|judgement| judgement == whole), "{at}");
        (whole.outcome, worked_in.is_some())
    };
    let add = |memory: &mut Memory, more| {
        let change = Change::from([(Name::new("calls").unwrap(), Write::Add(more))]);
        memory.apply(&change, NOW).unwrap();
    };
    let midnight = Timestamp((NOW.0 / 86_400_000 + 1) * 86_400_000);
    assert_eq!(wake(&memory, NOW), (Outcome::Permit, true));
    add(&mut memory, 3);
    assert_eq!(wake(&memory, NOW), (Outcome::Refuse, true));
    let before = Timestamp(midnight.0 - 1);
    assert_eq!(wake(&memory, before), (Outcome::Refuse, true));
    assert_eq!(wake(&memory, midnight), (Outcome::Permit, false), "it began anew");
    assert_eq!(
        judged_write(&program, &memory, &[(0, Some(Value::Int(5)))]),
        Outcome::Permit
    );
    assert_eq!(
        judged_write(&program, &memory, &[(0, Some(Value::Int(6)))]),
        Outcome::Refuse
    );
    assert!(program.watches(Action::Wake).now);
}

#[test]
fn text_of_any_depth_is_answered() {
    let wake = |condition: &str| {
        format!("permit(principal, action == Action::\"wake\", resource) when {{ {condition} }};")
    };
    let answered = |condition: String| match compile(&vocabulary(), &wake(&condition)) {
        Ok(_) => "fine".to_owned(),
        Err(errors) => errors[0].code.clone(),
    };
    for deep in [
        format!("{}true{}", "(".repeat(1_000), ")".repeat(1_000)),
        format!("{}{}", "(".repeat(50_000), ")".repeat(50_000)),
        "[".repeat(1_000),
        "{a:".repeat(1_000),
        "resource".to_owned() + &".memory".repeat(20_000),
        "if true then true else ".repeat(5_000) + "true",
        "true && ".repeat(20_000) + "true",
        "-".repeat(100_000) + "1 == 1",
        "1 + ".repeat(20_000) + "1 == 1",
    ] {
        assert_eq!(answered(deep), "rules.too_deep");
    }
    // What the bounds let through has room.
    assert_eq!(
        answered(format!("{}true{}", "(".repeat(90), ")".repeat(90))),
        "fine"
    );
    let chain = |link: &str, count: usize| link.repeat(count) + "true";
    assert_eq!(answered(chain("resource.memory.on && ", 600)), "fine");
    answered(chain("true || ", 2_000));
    answered(chain("if resource.memory.on then true else ", 600));
    answered("resource".to_owned() + &".memory".repeat(2_000));
    answered("1 + ".repeat(1_000) + "1 == 1");
    answered(format!("\"a\"{}", ".contains(\"b\")".repeat(1_000)));
    answered("!".repeat(2_000) + "true");
}

#[test]
fn what_cedar_finds_names_the_rule_by_its_id() {
    let errors = compile(
        &vocabulary(),
        r#"permit(principal, action, resource);
           @id("hours") permit(principal, action == Action::"wake", resource) when { resource.memory.nothing };"#,
    )
    .unwrap_err();
    assert!(errors[0].message.starts_with("rule `hours`: "), "{errors:?}");
    let never = compile(
        &vocabulary(),
        r#"@id("not") permit(principal, action == Action::"wake", resource) when { principal is Host && principal is Timer };"#,
    )
    .unwrap();
    let told: Vec<_> = never
        .findings
        .iter()
        .map(|found| found.message.as_str())
        .collect();
    assert!(told.iter().any(|text| text.contains("`not`")), "{told:?}");
    assert!(!told.iter().any(|text| text.contains("policy")), "{told:?}");
}

#[test]
fn rules_that_no_owner_can_change_are_told() {
    let codes = |source: &str| -> Vec<String> {
        let found = compile(&vocabulary(), source).unwrap().findings;
        found.into_iter().map(|found| found.code).collect()
    };
    let locked = |source: &str| codes(source).iter().any(|code| code == "rules.owner_locked_out");
    let permit = r#"permit(principal is Controller, action == Action::"amend", resource);"#;
    assert!(!locked(permit));
    assert!(locked(
        r#"permit(principal, action == Action::"wake", resource);"#
    ));
    assert!(locked(
        r#"permit(principal is Host, action == Action::"amend", resource);"#
    ));
    assert!(locked(&format!(
        "{permit} forbid(principal, action == Action::\"amend\", resource);"
    )));
    assert!(!locked(&format!(
        "{permit} forbid(principal, action == Action::\"amend\", resource) when {{ !resource.memory.on }};"
    )));
    assert!(locked(&format!(
        "{permit} forbid(principal, action, resource) when {{ resource.memory.on }};
         forbid(principal, action, resource) unless {{ resource.memory.on }};"
    )));
}

#[test]
fn a_forbid_of_one_spelling_is_pointed_out() {
    let words = Vocabulary {
        headers: vec!["x-team".to_owned()],
        ..vocabulary()
    };
    let found = |condition: &str| {
        let source = format!("forbid(principal, action == Action::\"admit\", resource) {condition};");
        let found = compile(&words, &source).unwrap().findings;
        found.iter().any(|found| found.code == "rules.many_spellings")
    };
    assert!(found(r#"when { context.request.query like "*admin=1*" }"#));
    assert!(found(
        r#"when { context.request.headers has "x-team" && context.request.headers["x-team"] == "red" }"#
    ));
    assert!(!found(r#"unless { context.request.query == "" }"#));
    assert!(!found(r#"when { context.request.query != "" }"#));
    assert!(!found(r#"when { context.request.path like "/private*" }"#));
}

// proves A1
#[test]
fn every_action_is_decided_by_the_rules_and_by_nothing_else() {
    let memory = memory();
    let class = Vocabulary {
        class: true,
        ..vocabulary()
    };
    let program = |source: &str| compiled(&class, source);
    for action in Action::ALL {
        let permit = program(&format!(
            "permit(principal, action == Action::\"{action}\", resource);"
        ));
        let forbid = program(&format!(
            "permit(principal, action, resource); @id(\"no\") forbid(principal, action == Action::\"{action}\", resource);"
        ));
        let silent = program("permit(principal, action, resource) when { false };");
        // The object itself is asked about where a rule names it, and nowhere else.
        let others = PrincipalKind::ALL
            .iter()
            .filter(|kind| **kind != PrincipalKind::Own);
        for kind in others.filter(|kind| action.applies_to(**kind)) {
            let facts = facts(&memory, principal(*kind));
            assert_eq!(permit.judge(*action, &facts).outcome, Outcome::Permit, "{action}");
            assert_eq!(silent.judge(*action, &facts).outcome, Outcome::Refuse, "{action}");
            let refused = forbid.judge(*action, &facts);
            assert_eq!(refused.outcome, Outcome::Refuse, "{action}");
            assert_eq!(refused.deciding.iter().collect::<Vec<_>>(), [1], "{action}");
            for other in Action::ALL
                .iter()
                .filter(|other| *other != action && other.applies_to(*kind))
            {
                assert_eq!(
                    permit.judge(*other, &facts).outcome,
                    Outcome::Refuse,
                    "{other} by the rule of {action}"
                );
            }
        }
    }
}

/// Whether the object may end itself, and whether a rule that permits it names the object.
fn own_end(source: &str, memory: &Memory) -> (Outcome, bool) {
    let program = program(source);
    let judged = program.judge(Action::Terminate, &facts(memory, Principal::Own));
    let named = program.naming_self(Action::Terminate);
    (
        judged.outcome,
        judged.deciding.iter().any(|rule| named.contains(rule)),
    )
}

// proves A13
#[test]
fn the_object_proposes_its_end_where_a_rule_names_it_and_nowhere_else() {
    let mut memory = memory();
    let anybody = "permit(principal, action, resource);";
    assert_eq!(own_end(anybody, &memory), (Outcome::Refuse, false));
    let done =
        "permit(principal is Self, action == Action::\"terminate\", resource) when { !resource.memory.on };";
    let both = format!("{anybody}{done}");
    let kept = format!("{done}forbid(principal, action == Action::\"terminate\", resource);");
    assert_eq!(own_end(done, &memory), (Outcome::Refuse, false));
    assert_eq!(
        own_end(&both, &memory),
        (Outcome::Permit, false),
        "by a rule for anybody"
    );
    set(&mut memory, "on", Value::Bool(false), Timestamp(1));
    assert_eq!(own_end(done, &memory), (Outcome::Permit, true));
    assert_eq!(own_end(&both, &memory), (Outcome::Permit, true));
    assert_eq!(own_end(&kept, &memory).0, Outcome::Refuse, "forbid wins");
    // Of nothing but its end and its move.
    let wake = compile(
        &vocabulary(),
        "permit(principal is Self, action == Action::\"wake\", resource);",
    );
    let findings = wake.unwrap().findings;
    assert!(
        findings.iter().any(|finding| finding.code == "rules.never"),
        "{findings:#?}"
    );
}

#[test]
fn time_awake_and_crashes_in_a_row_are_words_of_the_rules() {
    let memory = memory();
    let source = "permit(principal, action == Action::\"wake\", resource) when {
        resource.usage.awake < duration(\"10s\") && resource.lineage.crashes < 3 };";
    let program = program(source);
    let wake = |awake: i64, since: Option<i64>, crashes: i64| {
        let mut facts = facts(&memory, Principal::Host);
        facts.now.at = Timestamp(20_000);
        facts.object.lineage.awake = Span(awake);
        facts.object.lineage.awake_since = since.map(Timestamp);
        facts.object.lineage.crashes = crashes;
        let whole = program.judge(Action::Wake, &facts);
        // What is known of the object is worked in, and the running activation grows all the same.
        let object = facts.object;
        let rest = program.specialize(Action::Wake, object, facts.now).unwrap();
        assert_eq!(rest.judge(&facts), Some(whole));
        whole.outcome == Outcome::Permit
    };
    assert!(wake(9_999, None, 2));
    assert!(!wake(10_000, None, 2));
    assert!(!wake(9_999, None, 3));
    assert!(wake(5_000, Some(15_001), 0));
    assert!(!wake(5_000, Some(15_000), 0), "the running activation counts");
}

// proves A9
#[test]
fn wake_and_remain_are_decided_apart() {
    let memory = memory();
    let facts = facts(&memory, Principal::Host);
    for (permitted, other) in [(Action::Wake, Action::Remain), (Action::Remain, Action::Wake)] {
        let program = program(&format!(
            "permit(principal, action == Action::\"{permitted}\", resource);"
        ));
        assert_eq!(program.judge(permitted, &facts).outcome, Outcome::Permit);
        assert_eq!(program.judge(other, &facts).outcome, Outcome::Refuse);
    }
}

#[test]
fn only_what_the_deciding_rules_look_at_explains() {
    let rules = r#"@id("budget") @status("404") forbid(principal, action == Action::"wake", resource) when { resource.memory.count < 1 };
        @id("spent") @status("410") forbid(principal, action == Action::"wake", resource) when { resource.memory.count < 1 };
        @id("consented") permit(principal, action == Action::"wake", resource) when { resource.memory.on && resource.fresh.consent };
        @id("remain") permit(principal, action == Action::"remain", resource) when { resource.memory.count > 5 && resource.fresh.consent };"#;
    let program = program(rules);
    let memory = memory();
    let facts = facts(&memory, Principal::Host);
    let explain = |action| {
        let judgement = program.judge(action, &facts);
        program.explain(action, &facts, &judgement)
    };
    let wake = explain(Action::Wake);
    assert_eq!((wake.status, wake.not_fresh.len()), (Some(404), 0), "{wake:?}");
    let remain = explain(Action::Remain);
    assert_eq!(
        (remain.status, remain.not_fresh.len()),
        (None, 0),
        "it failed before it looked: {remain:?}"
    );
}

// proves A7
#[test]
fn a_wake_on_stale_memory_is_refused_and_says_why() {
    let program = program(
        r#"@id("consented") permit(principal, action == Action::"wake", resource) when { resource.memory.on && resource.fresh.consent };"#,
    );
    let yes = || Value::String("yes".into());
    let mut fresh = memory();
    set(&mut fresh, "consent", yes(), NOW.saturating_add(Span(-1_000)));
    let mut old = memory();
    set(&mut old, "consent", yes(), NOW.saturating_add(Span(-60_001)));
    let never = memory();
    for (memory, quality, expect) in [
        (&fresh, Quality::Synced, None),
        (&old, Quality::Synced, Some(Freshness::Stale)),
        (&never, Quality::Synced, Some(Freshness::NeverWritten)),
        (&fresh, Quality::Unknown, Some(Freshness::ClockUnknown)),
    ] {
        let mut facts = facts(memory, Principal::Host);
        facts.now.quality = quality;
        let judgement = program.judge(Action::Wake, &facts);
        let words = program.explain(Action::Wake, &facts, &judgement);
        let found: Vec<_> = words
            .not_fresh
            .iter()
            .map(|not| (not.field.as_str(), not.freshness))
            .collect();
        assert_eq!(
            found,
            expect
                .map(|freshness| ("consent", freshness))
                .into_iter()
                .collect::<Vec<_>>()
        );
        assert_eq!(judgement.outcome == Outcome::Permit, expect.is_none());
        if expect.is_some() {
            assert_eq!(words.near_misses[0].rule, "consented");
            assert_eq!(words.near_misses[0].condition, "resource.fresh.consent");
            assert_eq!((words.near_misses[0].held, words.near_misses[0].of), (1, 2));
        }
    }
}

fn errors(source: &str) -> Vec<Diagnostic> {
    let errors = compile(&vocabulary(), source)
        .err()
        .unwrap_or_else(|| panic!("accepted: {source}"));
    assert!(errors.iter().all(|error| error.severity == Severity::Error));
    errors
}

/// The first error's code and the text it points at.
fn first(source: &str) -> (String, String) {
    let errors = errors(source);
    let label = errors[0]
        .labels
        .first()
        .unwrap_or_else(|| panic!("no place: {errors:?}"));
    (
        errors[0].code.clone(),
        source[label.start..label.start + label.len].to_owned(),
    )
}

// proves A8
#[test]
fn an_ill_typed_rule_is_an_error_with_its_place() {
    let rule = |condition: &str| {
        format!("permit(principal, action == Action::\"wake\", resource) when {{ {condition} }};")
    };
    for (condition, code, place) in [
        (
            "resource.memory.count == \"three\"",
            "rules.type",
            "resource.memory.count == \"three\"",
        ),
        (
            "resource.memory.nothing > 1",
            "rules.type",
            "resource.memory.nothing",
        ),
        (
            "resource.memory.consent == \"yes\"",
            "rules.type",
            "resource.memory.consent",
        ),
        ("resource.memory.on > 1", "rules.type", "resource.memory.on"),
        ("principal.subject == \"ann\"", "rules.type", "principal.subject"),
        (
            "context.activity.idle > duration(\"1h\")",
            "rules.type",
            "context.activity.idle",
        ),
        ("resource.memory.count > ", "rules.parse", "}"),
        (
            "Caller::\"ann\".authenticated",
            "rules.unsupported",
            "Caller::\"ann\".authenticated",
        ),
        (
            "context.now > datetime(\"tomorrow\")",
            "rules.type",
            "datetime(\"tomorrow\")",
        ),
        (
            "context.now > datetime(resource.memory.state)",
            "rules.type",
            "datetime(resource.memory.state)",
        ),
    ] {
        let (found_code, found_place) = first(&rule(condition));
        assert_eq!(
            (found_code.as_str(), found_place.as_str()),
            (code, place),
            "{condition}"
        );
    }
}

#[test]
fn annotations_are_checked_and_all_faults_are_told_at_once() {
    let source = r#"
        @id("a") @retry_after("soon") permit(principal, action, resource);
        @id("a") @colour("red") permit(principal, action, resource) when { resource.memory.nothing };
        permit(principal == ?principal, action, resource);
    "#;
    let codes: Vec<_> = errors(source).into_iter().map(|error| error.code).collect();
    for code in [
        "rules.annotation",
        "rules.duplicate_id",
        "rules.template",
        "rules.type",
    ] {
        assert!(codes.iter().any(|have| have == code), "{code} in {codes:?}");
    }
    assert_eq!(codes.iter().filter(|code| *code == "rules.annotation").count(), 2);
}

#[test]
fn reasons_and_the_longest_retry_come_with_a_refusal() {
    let program = program(
        r#"permit(principal, action, resource);
        @id("shut") @reason("closed for today") @retry_after("5m") forbid(principal, action, resource) when { resource.memory.state == "shut" };
        @id("busy") @retry_after("1h") forbid(principal, action, resource) when { resource.memory.count >= 3 };"#,
    );
    let mut memory = memory();
    set(&mut memory, "state", Value::Enum("shut".into()), NOW);
    set(&mut memory, "count", Value::Int(3), NOW);
    let facts = facts(&memory, Principal::Host);
    let words = program.explain(Action::Wake, &facts, &program.judge(Action::Wake, &facts));
    let reasons: Vec<_> = words
        .reasons
        .iter()
        .map(|reason| (reason.rule.as_str(), reason.reason.as_deref()))
        .collect();
    assert_eq!(reasons, [("shut", Some("closed for today")), ("busy", None)]);
    assert_eq!(words.retry_after, Some(Span(3_600_000)));
}

#[test]
fn a_forbid_that_errs_refuses_where_cedar_would_let_pass() {
    let source = r#"permit(principal, action, resource);
        @id("limit") forbid(principal, action == Action::"wake", resource) when { resource.memory.count + 1 > 10 };"#;
    let program = program(source);
    let mut memory = memory();
    set(&mut memory, "count", Value::Int(i64::MAX), NOW);
    let facts = facts(&memory, Principal::Host);
    let cedar = Oracle::new(source)
        .unwrap()
        .authorize(&vocabulary(), Action::Wake, &facts)
        .unwrap();
    assert!(cedar.allowed);
    let judgement = program.judge(Action::Wake, &facts);
    assert_eq!(judgement.outcome, Outcome::Refuse);
    let words = program.explain(Action::Wake, &facts, &judgement);
    assert_eq!(
        (words.erred[0].rule.as_str(), words.erred[0].fault),
        ("limit", Fault::Overflow)
    );
}

#[test]
fn findings_tell_what_was_likely_not_meant() {
    let wake = |condition: &str| {
        format!("permit(principal, action == Action::\"wake\", resource) when {{ {condition} }};")
    };
    let remain = |condition: &str| {
        format!("permit(principal, action == Action::\"remain\", resource) when {{ {condition} }};")
    };
    let open = "resource.memory.state == \"open\"";
    let shut = "resource.memory.state == \"shut\"";
    for (source, code, expect) in [
        (
            wake("resource.memory.state == \"ajar\""),
            "rules.unknown_symbol",
            true,
        ),
        (wake(open), "rules.unknown_symbol", false),
        (wake("resource.fresh.count"), "rules.no_fresh_for", true),
        (wake("resource.fresh.consent"), "rules.no_fresh_for", false),
        (wake(&format!("{open} && {shut}")), "rules.never", true),
        (
            wake("resource.memory.count > 5 && resource.memory.count < 3"),
            "rules.never",
            true,
        ),
        (
            wake("resource.memory.count > 3 && resource.memory.count < 5"),
            "rules.never",
            false,
        ),
        (wake(open), "rules.wake_not_kept", true),
        (wake(open) + &remain(shut), "rules.wake_not_kept", true),
        (
            wake(open) + &remain(&format!("{open} && context.activity.idle < duration(\"5m\")")),
            "rules.wake_not_kept",
            false,
        ),
        (wake(open), "rules.unused_field", true),
    ] {
        let findings = compile(&vocabulary(), &source).unwrap().findings;
        assert_eq!(
            findings.iter().any(|finding| finding.code == code),
            expect,
            "{code}: {source}\n{findings:#?}"
        );
    }
}

#[test]
fn the_same_rules_give_the_same_bytes() {
    let source =
        "permit(principal, action, resource) when { resource.memory.on || resource.memory.count > 3 };";
    let (one, other) = (
        program(source).encode().unwrap(),
        program(source).encode().unwrap(),
    );
    assert_eq!(one, other);
    assert_eq!(Program::decode(&one).unwrap().encode().unwrap(), one);
}

#[test]
fn watches_say_when_to_decide_again() {
    let program = program(
        r#"permit(principal, action == Action::"admit", resource) when { resource.memory.on && context.request.peer_ip.isLoopback() };
        permit(principal, action == Action::"remain", resource) when { resource.fresh.consent && context.activity.in_flight > 0 };
        permit(principal, action == Action::"wake", resource) when { context has request && context.request.path == "/" };"#,
    );
    let admit = program.watches(Action::Admit);
    assert!(admit.at_connect() && admit.connection && admit.memory.len() == 1);
    let remain = program.watches(Action::Remain);
    assert!(remain.activity && remain.fresh.len() == 1 && !remain.now);
    assert!(!program.watches(Action::Wake).at_connect());
}
