//! Parse, validate strictly, compile: from governance text to a program, or to everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy_core::ast::{
    ActionConstraint, AnyId, Effect as CedarEffect, EntityType, EntityUID, ExprKind, Literal, PolicySet,
    Template,
};
use cedar_policy_core::extensions::Extensions;
use cedar_policy_core::parser::parse_policyset;
use cedar_policy_core::validator::typecheck::{PolicyCheck, Typechecker};
use cedar_policy_core::validator::types::RequestEnv;
use cedar_policy_core::validator::{ValidationMode, Validator, ValidatorSchema};
use suijuris_core::governance::{
    Action, Body, Clause, Const, Effect, Group, Listing, MAX_RULES, PrincipalKind, Program, Rule, TextSpan,
    Vocabulary,
};
use suijuris_core::time::Span;

use crate::diagnostic::{Diagnostic, Severity};
use crate::lower::{Lower, Table, Typed, conjuncts};
use crate::words::{self, Word};
use crate::{Compiled, findings, nesting};

/// Bytes of governance text at most.
pub const MAX_SOURCE_BYTES: usize = 1 << 18;

/// Compiles rules over a vocabulary.
///
/// # Errors
/// Everything that is wrong, sorted by place.
pub fn compile(vocabulary: &Vocabulary, source: &str) -> Result<Compiled, Vec<Diagnostic>> {
    nesting::check(source).map_err(|error| vec![*error])?;
    let no_thread = |error: std::io::Error| {
        let message = format!("the system has no thread to compile the rules on: {error}");
        vec![Diagnostic::new(Severity::Error, "rules.too_large", message).help("try again with more memory")]
    };
    nesting::with_room(|| compile_here(vocabulary, source)).map_err(no_thread)?
}

fn compile_here(vocabulary: &Vocabulary, source: &str) -> Result<Compiled, Vec<Diagnostic>> {
    let sorted = |mut all: Vec<Diagnostic>| {
        all.sort();
        all.dedup();
        all
    };
    let checked = check(vocabulary, source).map_err(sorted)?;
    let listing = Compiler::new(vocabulary, source, &checked)
        .run()
        .map_err(sorted)?;
    let program = Program::new(listing).map_err(|error| {
        vec![Diagnostic::new(
            Severity::Error,
            "rules.too_large",
            error.to_string(),
        )]
    })?;
    let findings = sorted(findings::all(vocabulary, &program, checked.warnings));
    Ok(Compiled { program, findings })
}

/// Rules that Cedar accepts.
struct Checked {
    schema: ValidatorSchema,
    templates: Vec<Template>,
    rules: Vec<Rule>,
    warnings: Vec<Diagnostic>,
}

fn check(vocabulary: &Vocabulary, source: &str) -> Result<Checked, Vec<Diagnostic>> {
    let fail = |code: &str, message: String| vec![Diagnostic::new(Severity::Error, code, message)];
    if source.len() > MAX_SOURCE_BYTES {
        return Err(fail(
            "rules.too_large",
            format!(
                "the rules are {} bytes long; at most {MAX_SOURCE_BYTES} are allowed",
                source.len()
            ),
        ));
    }
    vocabulary
        .check()
        .map_err(|error| fail("rules.vocabulary", error.to_string()))?;
    let text = words::schema_text(vocabulary);
    let (schema, _) = ValidatorSchema::from_cedarschema_str(&text, Extensions::all_available())
        .map_err(|error| fail("rules.vocabulary", error.to_string()))?;
    let policies = parse_policyset(source).map_err(|errors| {
        errors
            .iter()
            .map(|error| Diagnostic::of_cedar(Severity::Error, "rules.parse", error))
            .collect::<Vec<_>>()
    })?;
    let templates = in_order(&policies);
    let (rules, mut errors) = named(source, &templates);
    let result = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
    let (found, warned) = result.into_errors_and_warnings();
    let foreign = founding_without_class(vocabulary, &templates, &rules);
    let known =
        |error: &Diagnostic| !foreign.is_empty() && error.message.contains(r#"Action::"instantiate""#);
    let found = found.map(|error| Diagnostic::of_cedar(Severity::Error, "rules.type", &error).by_id(&rules));
    errors.extend(found.filter(|error| !known(error)));
    errors.extend(foreign);
    if !errors.is_empty() {
        return Err(errors);
    }
    let warnings =
        warned.map(|warning| Diagnostic::of_cedar(Severity::Warning, "rules.never", &warning).by_id(&rules));
    let warnings = warnings.collect();
    Ok(Checked {
        schema,
        templates,
        rules,
        warnings,
    })
}

/// Rules that speak of founding instances where there is no class.
fn founding_without_class(
    vocabulary: &Vocabulary,
    templates: &[Template],
    rules: &[Rule],
) -> Vec<Diagnostic> {
    if vocabulary.class {
        return Vec::new();
    }
    let instantiates = |template: &Template| {
        let is = |uid: &EntityUID| AsRef::<str>::as_ref(uid.eid()) == Action::Instantiate.as_str();
        match template.action_constraint() {
            ActionConstraint::Eq(uid) => is(uid),
            ActionConstraint::In(uids) => uids.iter().any(|uid| is(uid)),
            _ => false,
        }
    };
    let error = |(template, rule): (&Template, &Rule)| {
        let message = format!(
            "rule `{}` uses `instantiate`, but this bundle is not a class",
            rule.id
        );
        let at = template.loc().map_or((0, 0), |loc| (loc.start(), loc.end()));
        Diagnostic::new(Severity::Error, "rules.no_class", message)
            .at(at.0, at.1, None)
            .help("add [class] with max_instances to object.toml, or leave the action out")
    };
    templates
        .iter()
        .zip(rules)
        .filter(|(template, _)| instantiates(template))
        .map(error)
        .collect()
}

fn in_order(policies: &PolicySet) -> Vec<Template> {
    let mut templates: Vec<Template> = policies.all_templates().cloned().collect();
    templates.sort_by_key(|template| template.loc().map_or(0, |loc| loc.start()));
    templates
}

fn span_of(start: usize, end: usize) -> TextSpan {
    // Within `MAX_SOURCE_BYTES`.
    let fit = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    TextSpan {
        start: fit(start),
        end: fit(end),
    }
}

/// The rules as people know them, and what is wrong with how they are labelled.
fn named(source: &str, templates: &[Template]) -> (Vec<Rule>, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let mut rules = Vec::new();
    let mut ids = BTreeMap::new();
    if templates.len() > MAX_RULES {
        let message = format!("{} rules; at most {MAX_RULES} are allowed", templates.len());
        errors.push(Diagnostic::new(Severity::Error, "rules.too_large", message));
    }
    for (index, template) in templates.iter().enumerate() {
        let (start, end) = template
            .loc()
            .map_or((0, source.len()), |loc| (loc.start(), loc.end()));
        let mut fault = |code: &str, at: (usize, usize), message: String, help: &str| {
            let fault = Diagnostic::new(Severity::Error, code, message);
            errors.push(fault.at(at.0, at.1, None).help(help));
        };
        if !template.is_static() {
            let help = "name the principal and the object in the rule itself";
            fault(
                "rules.template",
                (start, end),
                "a bundle cannot contain templates".into(),
                help,
            );
        }
        let mut rule = Rule {
            id: format!("rule{}", index + 1),
            effect: match template.effect() {
                CedarEffect::Permit => Effect::Permit,
                CedarEffect::Forbid => Effect::Forbid,
            },
            reason: None,
            retry_after: None,
            status: None,
            span: span_of(start, end),
            clauses: Vec::new(),
        };
        for (key, value) in template.annotations() {
            let at = value
                .loc
                .as_ref()
                .map_or((start, end), |loc| (loc.start(), loc.end()));
            let text = value.val.as_str();
            if let Err((message, help)) = annotate(&mut rule, key, text) {
                fault("rules.annotation", at, message, help);
            }
        }
        if ids.insert(rule.id.clone(), index).is_some() {
            let message = format!("two rules are called `{}`", rule.id);
            fault(
                "rules.duplicate_id",
                (start, end),
                message,
                "give each rule an @id of its own",
            );
        }
        rules.push(rule);
    }
    (rules, errors)
}

fn annotate(rule: &mut Rule, key: &AnyId, text: &str) -> Result<(), (String, &'static str)> {
    match AsRef::<str>::as_ref(key) {
        "id" if text.is_empty() || text.len() > 128 => Err((
            "the @id is empty or longer than 128 bytes".into(),
            "write a short name, as in @id(\"opening-hours\")",
        )),
        "id" => {
            rule.id = text.to_owned();
            Ok(())
        }
        "reason" => {
            rule.reason = Some(text.to_owned());
            Ok(())
        }
        "retry_after" => match text.parse::<Span>() {
            Ok(span) if span.0 > 0 => {
                rule.retry_after = Some(span);
                Ok(())
            }
            _ => Err((
                format!("`{text}` is not a duration to retry after"),
                "write it as in @retry_after(\"5m\"), longer than zero",
            )),
        },
        "status" => match text.parse() {
            Ok(status @ 400..=599) if text.len() == 3 => {
                rule.status = Some(status);
                Ok(())
            }
            _ => Err((
                format!("`{text}` is not an HTTP status of a refusal"),
                "write one from 400 to 599, as in @status(\"404\")",
            )),
        },
        other => Err((
            format!("there is no annotation @{other}"),
            "use @id, @reason, @retry_after and @status",
        )),
    }
}

struct Compiler<'a> {
    vocabulary: &'a Vocabulary,
    source: &'a str,
    checked: &'a Checked,
    table: Table,
    rules: Vec<Rule>,
    bodies: Vec<Body>,
    errors: Vec<Diagnostic>,
}

type GroupKey = (Action, PrincipalKind);

impl<'a> Compiler<'a> {
    fn new(vocabulary: &'a Vocabulary, source: &'a str, checked: &'a Checked) -> Self {
        Self {
            vocabulary,
            source,
            checked,
            table: Table::default(),
            rules: checked.rules.clone(),
            bodies: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Listing, Vec<Diagnostic>> {
        let mut groups: BTreeMap<GroupKey, Vec<u16>> = BTreeMap::new();
        let checked = self.checked;
        let typechecker = Typechecker::new(&checked.schema, ValidationMode::Strict);
        let resource = record(words::resource(self.vocabulary));
        // Where no rule names the object itself, it proposes nothing, and rules for anybody are as they were.
        let own = checked.templates.iter().any(names_self);
        for (index, template) in checked.templates.iter().enumerate() {
            let typed: BTreeMap<GroupKey, Typed> = typechecker
                .typecheck_by_request_env(template)
                .filter_map(|(env, check)| Some((key(&env)?, typed(check)?)))
                .filter(|(key, _)| own || key.1 != PrincipalKind::Own)
                .collect();
            for (key, condition) in typed {
                if let Some(body) = self.body(index, key, &resource, &condition) {
                    groups.entry(key).or_default().push(body);
                }
            }
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let group = |((action, principal), bodies)| Group {
            action,
            principal,
            bodies,
        };
        Ok(Listing {
            version: Listing::VERSION,
            rules: self.rules,
            nodes: self.table.into_nodes(),
            bodies: self.bodies,
            groups: groups.into_iter().map(group).collect(),
        })
    }

    /// Compiles one rule for one action by one sort of principal; `None` if it cannot apply there.
    fn body(&mut self, rule: usize, key: GroupKey, resource: &Word, condition: &Typed) -> Option<u16> {
        let principal = record(words::principal(key.1, self.vocabulary));
        let context = record(words::context(key.0, self.vocabulary));
        let mut clauses = Vec::new();
        let mut can_err = false;
        for conjunct in conjuncts(condition) {
            let mut lower = Lower {
                table: &mut self.table,
                action: key.0,
                kind: key.1,
                principal: &principal,
                resource,
                context: &context,
            };
            let node = match lower.expr(conjunct) {
                Ok(node) => node,
                Err(fault) => {
                    let error = Diagnostic::new(Severity::Error, "rules.unsupported", fault.message);
                    self.errors
                        .push(error.at(fault.start, fault.end, None).help(fault.help));
                    return None;
                }
            };
            let known = self.table.literal(node).cloned();
            if known == Some(Const::Bool(true)) {
                continue;
            }
            if known == Some(Const::Bool(false)) && !can_err {
                return None;
            }
            can_err |= self.table.can_err(node);
            clauses.push((node, self.clause(rule, conjunct)?));
            if known == Some(Const::Bool(false)) {
                break;
            }
        }
        let rule = u8::try_from(rule).ok()?;
        let body = Body { rule, clauses };
        let found = self.bodies.iter().position(|have| *have == body);
        let index = found.unwrap_or(self.bodies.len());
        if found.is_none() {
            self.bodies.push(body);
        }
        u16::try_from(index).ok()
    }

    /// The index of a condition's text among those of its rule.
    fn clause(&mut self, rule: usize, conjunct: &Typed) -> Option<u16> {
        let rule = self.rules.get_mut(rule)?;
        let loc = conjunct.source_loc();
        let clause = Clause {
            span: loc.map_or(rule.span, |loc| span_of(loc.start(), loc.end())),
            text: loc
                .and_then(|loc| self.source.get(loc.start()..loc.end()))
                .map_or_else(|| conjunct.to_string(), one_line),
        };
        let index = rule.clauses.iter().position(|have| *have == clause);
        let index = index.unwrap_or_else(|| {
            rule.clauses.push(clause);
            rule.clauses.len() - 1
        });
        u16::try_from(index).ok()
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn record(parts: words::Parts) -> Word {
    Word::Branch { parts, present: None }
}

fn key(env: &RequestEnv<'_>) -> Option<GroupKey> {
    let request = env.to_request_type()?;
    let action: &str = request.action.eid().as_ref();
    Some((action.parse().ok()?, request.principal.to_string().parse().ok()?))
}

/// Whether a rule speaks of the object as a principal.
fn names_self(template: &Template) -> bool {
    let is = |kind: &EntityType| kind.to_string() == PrincipalKind::Own.as_str();
    template
        .condition()
        .subexpressions()
        .any(|part| match part.expr_kind() {
            ExprKind::Is { entity_type, .. } => is(entity_type),
            ExprKind::Lit(Literal::EntityUID(uid)) => is(uid.entity_type()),
            _ => false,
        })
}

fn typed(check: PolicyCheck) -> Option<Typed> {
    match check {
        PolicyCheck::Success(typed) | PolicyCheck::Irrelevant(_, typed) => Some(typed),
        PolicyCheck::Fail(_) => None,
    }
}

/// Actions that some rule of a program permits.
pub(crate) fn permitted(program: &Program) -> BTreeSet<Action> {
    let listing = program.listing();
    let permits = |body: &u16| {
        let body = listing.bodies.get(usize::from(*body));
        body.and_then(|body| program.rule(body.rule))
            .is_some_and(|rule| rule.effect == Effect::Permit)
    };
    let groups = listing
        .groups
        .iter()
        .filter(|group| group.bodies.iter().any(permits));
    groups.map(|group| group.action).collect()
}
