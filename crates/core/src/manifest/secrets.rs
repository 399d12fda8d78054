//! Which secrets of memory a workload is given, and as what: a variable, or the path of a file.
//!
//! Names only: values are in no bundle. Called by whoever builds a bundle and by the runtime.

use std::collections::BTreeSet;

use super::{Manifest, Workload};
use crate::memory::{Kind, Name, Schema};

/// What a placeholder for the path of a secret's file begins with, behind its brace.
pub const SECRET_FILE: &str = "secret_file:";

/// The names that stand in `{secret_file:NAME}` of a text, in order, whatever they name.
pub fn files_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('{').filter_map(|(at, brace)| {
        let behind = text.get(at + brace.len()..)?.strip_prefix(SECRET_FILE)?;
        behind.split_once('}').map(|(name, _)| name)
    })
}

/// Whether a file can hold the field: a secret that is a text or bytes.
#[must_use]
pub fn fits_file(memory: &Schema, name: &str) -> bool {
    let field = memory.field(name).filter(|field| field.secret);
    field.is_some_and(|field| matches!(field.kind, Kind::String | Kind::Bytes))
}

/// Whether a variable can hold the field: a secret that is a text.
#[must_use]
pub fn fits_variable(memory: &Schema, name: &str) -> bool {
    let field = memory.field(name).filter(|field| field.secret);
    field.is_some_and(|field| field.kind == Kind::String)
}

impl Workload {
    /// The texts in which `{secret_file:NAME}` is replaced: arguments and environment.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.argv.iter().chain(self.env.values()).map(String::as_str)
    }
}

impl Manifest {
    /// The secrets that the workload is given as files. What names no secret of memory is no placeholder.
    #[must_use]
    pub fn secret_files(&self) -> BTreeSet<Name> {
        let names = self.workload.texts().flat_map(files_in);
        let fits = names.filter(|name| fits_file(&self.memory, name));
        fits.filter_map(|name| Name::new(name).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_wherever_they_stand() {
        for (text, expect) in [
            ("--pass-file={secret_file:db}", &["db"][..]),
            ("{secret_file:a}{secret_file:b}", &["a", "b"]),
            ("{{secret_file:a}}", &["a"]),
            ("{secret_file:}", &[""]),
            ("{secret_file:a", &[]),
            ("é{secret_file:é}é", &["é"]),
            ("{secret:a} {port}", &[]),
        ] {
            assert_eq!(files_in(text).collect::<Vec<_>>(), expect, "{text}");
        }
    }
}
