//! Random well-typed rules as text, over a vocabulary.

use std::collections::BTreeMap;

use suijuris_core::governance::{Action, PrincipalKind, Vocabulary};
use suijuris_core::memory::Kind;

use super::random::{DECIMAL_TEXTS, INSTANT_TEXTS, NETS, Random, SPAN_TEXTS};

/// Types of Cedar expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ty {
    Bool,
    Long,
    Text,
    Decimal,
    Ip,
    Instant,
    Span,
    Set(Box<Ty>),
    Record(BTreeMap<String, Ty>),
}

impl Ty {
    fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool,
            Kind::Int { .. } | Kind::Counter { .. } => Self::Long,
            Kind::Decimal => Self::Decimal,
            Kind::String | Kind::Bytes | Kind::Enum(_) => Self::Text,
            Kind::Timestamp => Self::Instant,
            Kind::Duration => Self::Span,
            Kind::Set(item) | Kind::List(item) => Self::Set(Box::new(Self::of(item))),
            Kind::Map(item) => Self::Set(Box::new(Self::Record(
                [
                    ("key".to_owned(), Self::Text),
                    ("value".to_owned(), Self::of(item)),
                ]
                .into(),
            ))),
            Kind::Record(parts) => {
                let part = |(name, kind): (&suijuris_core::memory::Name, &Kind)| {
                    (name.as_str().to_owned(), Self::of(kind))
                };
                Self::Record(parts.iter().map(part).collect())
            }
        }
    }
}

/// A word that a rule may use.
#[derive(Debug, Clone)]
struct Path {
    text: String,
    ty: Ty,
    /// What must hold before it may be used.
    guard: Option<String>,
}

fn path(text: &str, ty: Ty) -> Path {
    Path {
        text: text.to_owned(),
        ty,
        guard: None,
    }
}

fn guarded(text: &str, ty: Ty, guard: &str) -> Path {
    Path {
        text: text.to_owned(),
        ty,
        guard: Some(guard.to_owned()),
    }
}

fn texts() -> Ty {
    Ty::Set(Box::new(Ty::Text))
}

fn common(vocabulary: &Vocabulary) -> Vec<Path> {
    let mut out = vec![
        path("resource.id", Ty::Text),
        path("resource.name", Ty::Text),
        path("resource.lineage.length", Ty::Long),
        path("resource.lineage.epoch", Ty::Long),
        path("resource.lineage.unsealed", Ty::Bool),
        path("resource.lineage.born", Ty::Instant),
        guarded(
            "resource.lineage.last_woke",
            Ty::Instant,
            "resource.lineage has last_woke",
        ),
        guarded(
            "resource.lineage.last_dormant",
            Ty::Instant,
            "resource has lineage.last_dormant",
        ),
        path("resource.lineage.refused", Ty::Long),
        path("resource.lineage.crashes", Ty::Long),
        path("resource.usage.awake", Ty::Span),
        path("resource.holds.count", Ty::Long),
        path("resource.holds.names", texts()),
        path("resource.messages.pending", Ty::Long),
        path("context.now", Ty::Instant),
        path("context.clock", Ty::Text),
        path("context.host.region", Ty::Text),
        path(
            "context.host",
            Ty::Record(
                ["region", "provider", "class", "id"]
                    .map(|name| (name.to_owned(), Ty::Text))
                    .into(),
            ),
        ),
    ];
    for word in ["class", "key"] {
        let text = format!("resource.{word}");
        out.push(match vocabulary.class {
            true => path(&text, Ty::Text),
            false => guarded(&text, Ty::Text, &format!("resource has {word}")),
        });
    }
    for (name, field) in vocabulary.memory.iter() {
        out.push(path(&format!("resource.fresh.{name}"), Ty::Bool));
        let text = format!("resource.memory.{name}");
        let ty = Ty::of(&field.kind);
        let always = field.default.is_some() || matches!(field.kind, Kind::Counter { .. });
        match (always, field.secret) {
            (_, true) => {}
            (true, _) => out.push(path(&text, ty)),
            (false, _) => out.push(guarded(&text, ty, &format!("resource.memory has {name}"))),
        }
    }
    out
}

fn of_principal(kind: PrincipalKind, vocabulary: &Vocabulary) -> Vec<Path> {
    match kind {
        PrincipalKind::Caller => {
            let mut out = vec![
                path("principal.authenticated", Ty::Bool),
                guarded("principal.subject", Ty::Text, "principal has subject"),
                guarded("principal.issuer", Ty::Text, "principal has issuer"),
                path("principal.audience", texts()),
                path("principal.scopes", texts()),
            ];
            for (name, kind) in &vocabulary.claims {
                let text = format!("principal.claims.{name}");
                out.push(guarded(
                    &text,
                    Ty::of(kind),
                    &format!("principal has claims.{name}"),
                ));
            }
            out
        }
        PrincipalKind::Peer => vec![path("principal.id", Ty::Text)],
        PrincipalKind::Controller => vec![path("principal.keys", texts())],
        _ => Vec::new(),
    }
}

fn of_request(vocabulary: &Vocabulary, guard: Option<&str>) -> Vec<Path> {
    let mut out = vec![
        path("context.request.protocol", Ty::Text),
        path("context.request.peer_ip", Ty::Ip),
        path("context.request.method", Ty::Text),
        path("context.request.path", Ty::Text),
        path("context.request.host", Ty::Text),
        guarded(
            "context.request.content_length",
            Ty::Long,
            "context.request has content_length",
        ),
    ];
    let cert = |word: &str, ty: Ty| {
        guarded(
            &format!("context.request.client_cert.{word}"),
            ty,
            "context.request has client_cert",
        )
    };
    out.extend([
        guarded("context.request.tls.version", Ty::Text, "context.request has tls"),
        guarded("context.request.tls.sni", Ty::Text, "context.request has tls.sni"),
        guarded(
            "context.request.client_cert.name",
            Ty::Text,
            "context.request has client_cert && context.request.client_cert has name",
        ),
        cert("subject", Ty::Text),
        cert("issuer", Ty::Text),
        cert("fingerprint", Ty::Text),
        cert("not_after", Ty::Instant),
    ]);
    for name in &vocabulary.headers {
        out.push(guarded(
            &format!("context.request.headers[\"{name}\"]"),
            Ty::Text,
            &format!("context.request.headers has \"{name}\""),
        ));
    }
    if let Some(guard) = guard {
        for path in &mut out {
            path.guard = Some(match path.guard.take() {
                Some(own) => format!("{guard} && {own}"),
                None => guard.to_owned(),
            });
        }
    }
    out
}

fn of_rates(vocabulary: &Vocabulary) -> impl Iterator<Item = Path> {
    let names = vocabulary.rates.keys();
    names.map(|name| path(&format!("context.rate.{name}"), Ty::Long))
}

/// What a write changes, behind the guards that it needs.
fn of_change(vocabulary: &Vocabulary) -> Vec<Path> {
    let mut out = Vec::new();
    for (name, field) in vocabulary.memory.iter().filter(|(_, field)| !field.secret) {
        let always = field.default.is_some() || matches!(field.kind, Kind::Counter { .. });
        for side in ["old", "new"] {
            let guard = match always {
                true => format!("context has change.{name}"),
                false => format!("context has change.{name}.{side}"),
            };
            let text = format!("context.change.{name}.{side}");
            out.push(guarded(&text, Ty::of(&field.kind), &guard));
        }
    }
    out
}

fn of_action(action: Action, vocabulary: &Vocabulary) -> Vec<Path> {
    match action {
        Action::Wake => {
            let mut out = vec![
                path("context.trigger.kind", Ty::Text),
                path("context.trigger.missed", Ty::Long),
                guarded("context.trigger.topic", Ty::Text, "context.trigger has topic"),
                guarded("context.trigger.name", Ty::Text, "context has trigger.name"),
            ];
            out.extend(of_request(vocabulary, Some("context has request")));
            let rate = |path: Path| guarded(&path.text, Ty::Long, "context has rate");
            out.extend(of_rates(vocabulary).map(rate));
            out
        }
        Action::Admit => {
            let mut out = of_request(vocabulary, None);
            out.extend(of_rates(vocabulary));
            out
        }
        Action::Remain | Action::Sleep => vec![
            path("context.activity.active", Ty::Span),
            path("context.activity.idle", Ty::Span),
            path("context.activity.connections", Ty::Long),
            path("context.activity.in_flight", Ty::Long),
        ],
        Action::Mutate => {
            let mut out = vec![path("context.fields", texts())];
            out.extend(of_change(vocabulary));
            out
        }
        Action::Migrate => vec![path("context.target.region", Ty::Text)],
        Action::Fork => vec![path("context.scope", Ty::Text), path("context.warm", Ty::Bool)],
        Action::Read => vec![path("context.field", Ty::Text)],
        Action::Instantiate => {
            let mut out = of_request(vocabulary, Some("context has request"));
            out.extend([
                path("context.key", Ty::Text),
                path("context.instances", Ty::Long),
                path("context.max_instances", Ty::Long),
                path("context.rate.peer", Ty::Long),
                path("context.rate.class", Ty::Long),
            ]);
            out
        }
        Action::Amend | Action::Terminate => Vec::new(),
    }
}

/// Writes one rule.
struct Author<'a> {
    random: &'a mut Random,
    /// Words that may be used here and now.
    open: Vec<Path>,
    /// Words behind a guard.
    closed: Vec<Path>,
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

impl Author<'_> {
    fn literal(&mut self, ty: &Ty) -> String {
        match ty {
            Ty::Bool => self.random.one_in(2).to_string(),
            Ty::Long => self.random.long().to_string(),
            Ty::Text => quoted(self.random.text()),
            Ty::Decimal => format!("decimal(\"{}\")", self.random.pick(DECIMAL_TEXTS)),
            Ty::Ip => format!("ip(\"{}\")", self.random.pick(NETS)),
            Ty::Instant => format!("datetime(\"{}\")", self.random.pick(INSTANT_TEXTS)),
            Ty::Span => format!("duration(\"{}\")", self.random.pick(SPAN_TEXTS)),
            Ty::Set(item) => {
                let items: Vec<String> = (0..1 + self.random.below(3))
                    .map(|_| self.literal(item))
                    .collect();
                format!("[{}]", items.join(", "))
            }
            Ty::Record(parts) => self.record(parts, 0),
        }
    }

    fn record(&mut self, parts: &BTreeMap<String, Ty>, depth: u32) -> String {
        let parts: Vec<String> = parts
            .iter()
            .map(|(name, ty)| format!("\"{name}\": {}", self.of(ty, depth)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }

    fn leaf(&mut self, ty: &Ty) -> String {
        let fitting: Vec<String> = self
            .open
            .iter()
            .filter(|path| path.ty == *ty)
            .map(|path| path.text.clone())
            .collect();
        if fitting.is_empty() || self.random.one_in(4) {
            self.literal(ty)
        } else {
            self.random.pick(&fitting).clone()
        }
    }

    /// An expression of this type.
    fn of(&mut self, ty: &Ty, depth: u32) -> String {
        if depth == 0 {
            return self.leaf(ty);
        }
        let next = depth - 1;
        if self.random.one_in(8) {
            let (test, then, or) = (self.bool(next), self.of(ty, next), self.of(ty, next));
            return format!("(if {test} then {then} else {or})");
        }
        if self.random.one_in(10) {
            let other = self.any_type();
            let parts = BTreeMap::from([("p".to_owned(), ty.clone()), ("q".to_owned(), other)]);
            return format!("{}.p", self.record(&parts, next));
        }
        match (ty, self.random.below(if *ty == Ty::Long { 2 } else { 3 })) {
            (Ty::Bool, _) => self.bool(depth),
            (Ty::Long, 0) => {
                let op = *self.random.pick(&["+", "-", "*"]);
                format!("({} {op} {})", self.of(ty, next), self.of(ty, next))
            }
            (Ty::Long, 1) if self.random.one_in(3) => format!("(-({}))", self.of(ty, next)),
            (Ty::Long, 1) => {
                let method =
                    *self
                        .random
                        .pick(&["toMilliseconds", "toSeconds", "toMinutes", "toHours", "toDays"]);
                format!("{}.{method}()", self.of(&Ty::Span, next))
            }
            (Ty::Instant, 0) => format!("{}.offset({})", self.of(ty, next), self.of(&Ty::Span, next)),
            (Ty::Instant, 1) => format!("{}.toDate()", self.of(ty, next)),
            (Ty::Span, 0) => format!(
                "{}.durationSince({})",
                self.of(&Ty::Instant, next),
                self.of(&Ty::Instant, next)
            ),
            (Ty::Span, 1) => format!("{}.toTime()", self.of(&Ty::Instant, next)),
            (Ty::Set(item), 0) => {
                let items: Vec<String> = (0..1 + self.random.below(3))
                    .map(|_| self.of(item, next))
                    .collect();
                format!("[{}]", items.join(", "))
            }
            (Ty::Record(parts), 0) => self.record(&parts.clone(), next),
            _ => self.leaf(ty),
        }
    }

    fn any_type(&mut self) -> Ty {
        if self.random.one_in(2) && !self.open.is_empty() {
            return self.random.pick(&self.open.clone()).ty.clone();
        }
        let plain = [
            Ty::Long,
            Ty::Bool,
            Ty::Long,
            Ty::Text,
            Ty::Decimal,
            Ty::Ip,
            Ty::Instant,
            Ty::Span,
        ];
        let ty = self.random.pick(&plain).clone();
        if self.random.one_in(4) {
            Ty::Set(Box::new(ty))
        } else {
            ty
        }
    }

    /// A condition.
    fn bool(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.test(0);
        }
        let next = depth - 1;
        match self.random.below(9) {
            0 => format!("({} && {})", self.bool(next), self.bool(next)),
            1 => format!("({} || {})", self.bool(next), self.bool(next)),
            2 => format!("!({})", self.bool(next)),
            3 => format!(
                "(if {} then {} else {})",
                self.bool(next),
                self.bool(next),
                self.bool(next)
            ),
            4 | 5 => self.behind_guard(next),
            _ => self.test(next),
        }
    }

    /// Opens an optional word behind its guard.
    fn behind_guard(&mut self, depth: u32) -> String {
        if self.closed.is_empty() {
            return self.test(depth);
        }
        let opened = self.random.pick(&self.closed.clone()).clone();
        let guard = opened.guard.clone().unwrap_or_else(|| "true".to_owned());
        let ty = opened.ty.clone();
        let text = opened.text.clone();
        self.open.push(opened);
        let body = if self.random.one_in(3) {
            self.bool(depth)
        } else {
            self.about(&text, &ty, depth)
        };
        self.open.pop();
        format!("({guard} && {body})")
    }

    fn test(&mut self, depth: u32) -> String {
        if self.random.one_in(12) {
            return self.identity();
        }
        if self.random.one_in(10) && !self.closed.is_empty() {
            return format!(
                "({})",
                self.random
                    .pick(&self.closed.clone())
                    .guard
                    .clone()
                    .unwrap_or_default()
            );
        }
        let ty = self.any_type();
        let subject = self.of(&ty, depth.max(1));
        self.about(&subject, &ty, depth)
    }

    /// Tests of who and what.
    fn identity(&mut self) -> String {
        let kind = *self.random.pick(PrincipalKind::ALL);
        let id = quoted(self.random.text());
        match self.random.below(6) {
            0 => format!("(principal is {kind})"),
            1 => format!("(resource == Object::{id})"),
            2 => format!("(action == Action::\"{}\")", self.random.pick(Action::ALL)),
            3 => format!(
                "(action in [Action::\"wake\", Action::\"{}\"])",
                self.random.pick(Action::ALL)
            ),
            4 => format!("(resource in [Object::{id}, Object::\"a\"])"),
            _ => format!("(resource is Object && resource in Object::{id})"),
        }
    }

    /// A condition about an expression of this type.
    fn about(&mut self, subject: &str, ty: &Ty, depth: u32) -> String {
        let next = depth.saturating_sub(1);
        if self.random.one_in(4) {
            let op = if self.random.one_in(3) { "!=" } else { "==" };
            return format!("({subject} {op} {})", self.of(ty, next));
        }
        match ty {
            Ty::Bool => subject.to_owned(),
            Ty::Long | Ty::Instant | Ty::Span => {
                let op = *self.random.pick(&["<", "<=", ">", ">="]);
                format!("({subject} {op} {})", self.of(ty, next))
            }
            Ty::Decimal => {
                let method =
                    *self
                        .random
                        .pick(&["lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"]);
                format!("{subject}.{method}({})", self.of(ty, next))
            }
            Ty::Ip => match *self.random.pick(&[
                "isIpv4",
                "isIpv6",
                "isLoopback",
                "isMulticast",
                "isInRange",
                "isInRange",
            ]) {
                "isInRange" => format!("{subject}.isInRange({})", self.of(ty, next)),
                method => format!("{subject}.{method}()"),
            },
            Ty::Text if self.random.one_in(2) => {
                let pattern = *self.random.pick(&[
                    "*", "a*", "*b", "a*b", "/api/*", "", "*a*b*", "A*", "*Q*", "a\\*b", "gr*",
                ]);
                format!("({subject} like \"{pattern}\")")
            }
            Ty::Text => format!("{}.contains({subject})", self.of(&texts(), next)),
            Ty::Set(item) => match self.random.below(5) {
                0 => format!("{subject}.isEmpty()"),
                1 => format!("{subject}.containsAll({})", self.of(ty, next)),
                2 => format!("{subject}.containsAny({})", self.of(ty, next)),
                _ => format!("{subject}.contains({})", self.of(item, next)),
            },
            Ty::Record(parts) => {
                let names: Vec<&String> = parts.keys().collect();
                let name = (*self.random.pick(&names)).clone();
                let part = format!("{subject}[\"{name}\"]");
                self.about(&part, &parts[&name], next)
            }
        }
    }
}

/// The action and principal that most rules and worlds of a case are about, so that they meet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Focus(Action, PrincipalKind, bool);

impl Focus {
    pub(crate) fn any(random: &mut Random, class: bool) -> Self {
        let actions: Vec<_> = Action::ALL.iter().filter(|action| action.is_of(class)).collect();
        let action = **random.pick(&actions);
        let kinds: Vec<_> = PrincipalKind::ALL
            .iter()
            .filter(|kind| action.applies_to(**kind))
            .collect();
        Self(action, **random.pick(&kinds), class)
    }

    pub(crate) fn of(self, random: &mut Random) -> (Action, PrincipalKind) {
        let other = if random.one_in(4) {
            Self::any(random, self.2)
        } else {
            self
        };
        (other.0, other.1)
    }
}

/// One rule.
fn rule(random: &mut Random, vocabulary: &Vocabulary, focus: Focus, index: usize) -> String {
    let mut words = common(vocabulary);
    let (action, kind) = focus.of(random);
    let id = random.text();
    let principal = match random.below(6) {
        0 => format!("principal == {kind}::\"{id}\""),
        1 => format!("principal is {kind} in {kind}::\"{id}\""),
        2 | 3 => format!("principal is {kind}"),
        _ => "principal".to_owned(),
    };
    let scope = match random.below(4) {
        0 => "action".to_owned(),
        1 => format!(
            "action in [Action::\"{action}\", Action::\"{}\"]",
            random.pick(Action::ALL)
        ),
        _ => format!("action == Action::\"{action}\""),
    };
    if principal != "principal" {
        words.extend(of_principal(kind, vocabulary));
    }
    if scope.contains("==") {
        words.extend(of_action(action, vocabulary));
    }
    let resource = match random.below(8) {
        0 => "resource == Object::\"a\"",
        1 => "resource is Object",
        _ => "resource",
    };
    let effect = if random.one_in(3) { "forbid" } else { "permit" };
    let (closed, open) = words.into_iter().partition(|path| path.guard.is_some());
    let mut author = Author { random, open, closed };
    let mut clauses = String::new();
    for _ in 0..author.random.below(3) {
        let word = if author.random.one_in(4) { "unless" } else { "when" };
        let condition = if author.random.one_in(3) {
            format!("{} && {}", author.bool(2), author.bool(1))
        } else {
            author.bool(3)
        };
        clauses.push_str(&format!("\n{word} {{ {condition} }}"));
    }
    format!("@id(\"r{index}\")\n{effect}({principal}, {scope}, {resource}){clauses};\n")
}

/// A few rules.
pub(crate) fn rules(random: &mut Random, vocabulary: &Vocabulary, focus: Focus) -> String {
    (0..1 + random.below(6))
        .map(|index| rule(random, vocabulary, focus, index))
        .collect()
}
