//! Secrets of memory that `[workload]` takes as variables or files: whether memory has them.

use std::ops::Range;

use suijuris_core::manifest::{Manifest, secrets};
use suijuris_core::memory::Name;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fault::{Faults, code, nearest};
use crate::section::wrong_type;

/// The field that a variable's value is, from a table such as `{ secret = "field" }`.
pub(super) fn variable(name: &str, value: &Spanned<DeValue<'_>>, faults: &Faults<'_>) -> Option<Name> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(
            faults,
            name,
            value,
            "a string in quotes, or { secret = \"field\" }",
        );
        return None;
    };
    let field = table.get("secret").and_then(|field| field.get_ref().as_str());
    let Some(field) = field.filter(|_| table.len() == 1) else {
        wrong_type(
            faults,
            name,
            value,
            "{ secret = \"field\" }, and nothing else in it",
        );
        return None;
    };
    let named = Name::new(field);
    if named.is_err() {
        let message = format!("`{field}` is not a name for a memory field");
        let help = "use lower-case letters, digits and `_`, a letter first";
        faults.error(code::BAD_NAME, &value.span(), message, help);
    }
    named.ok()
}

/// Reports what names no secret that can be given so.
pub(super) fn check(manifest: &Manifest, table: &DeTable<'_>, faults: &Faults<'_>) {
    let check = Check { manifest, faults };
    let Some(workload) = table.get("workload").map(Spanned::get_ref) else {
        return;
    };
    if let Some(DeValue::Array(command)) = workload.get("command").map(Spanned::get_ref) {
        command.iter().for_each(|argument| check.text(argument));
    }
    if let Some(cwd) = workload.get("cwd")
        && cwd
            .get_ref()
            .as_str()
            .is_some_and(|cwd| secrets::files_in(cwd).next().is_some())
    {
        let message = "`workload.cwd` is no place for a secret's file";
        faults.error(
            code::NO_SECRET,
            &cwd.span(),
            message,
            "write it in `command` or `env`",
        );
    }
    let Some(DeValue::Table(env)) = workload.get("env").map(Spanned::get_ref) else {
        return;
    };
    for (name, value) in env {
        check.text(value);
        if let Some(field) = manifest.workload.secret_env.get(name.get_ref().as_ref())
            && !secrets::fits_variable(&manifest.memory, field.as_str())
        {
            check.report(field.as_str(), "a string", &value.span());
        }
    }
}

struct Check<'c> {
    manifest: &'c Manifest,
    faults: &'c Faults<'c>,
}

impl Check<'_> {
    fn text(&self, value: &Spanned<DeValue<'_>>) {
        for name in value.get_ref().as_str().into_iter().flat_map(secrets::files_in) {
            if !secrets::fits_file(&self.manifest.memory, name) {
                self.report(name, "a string or bytes", &value.span());
            }
        }
    }

    fn report(&self, name: &str, kind: &str, span: &Range<usize>) {
        let memory = &self.manifest.memory;
        let message = format!("memory has no secret `{name}` that is {kind}");
        let secret = memory.iter().filter(|(_, field)| field.secret);
        let help = match nearest(name, secret.map(|(name, _)| name.as_str())) {
            Some(near) if near != name => format!("did you mean `{near}`?"),
            _ => format!("declare it: {name} = {{ type = \"string\", secret = true }} in [memory]"),
        };
        self.faults.error(code::NO_SECRET, span, message, help);
    }
}
