//! `[callers]` and `[controllers]`: whose tokens count, and who owns the object.

use std::collections::BTreeMap;
use std::path::Path;

use suijuris_core::key::PublicKey;
use suijuris_core::manifest::{Algorithm, CallerKey};
use suijuris_core::memory::{Kind, Name};

use super::memory::kind;
use super::{Controllers, by_name, name};
use crate::defaults;
use crate::fault::code;
use crate::files;
use crate::pem;
use crate::section::{Found, Section};

const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("EdDSA", Algorithm::EdDsa),
    ("ES256", Algorithm::Es256),
    ("RS256", Algorithm::Rs256),
];

/// Controllers at most: each record that they sign carries their signatures.
const MAX_CONTROLLERS: usize = 64;

/// What `[callers]` says.
#[derive(Default)]
pub(super) struct Callers {
    pub(super) keys: Vec<CallerKey>,
    pub(super) claims: BTreeMap<Name, Kind>,
    /// Whether every claim was understood.
    pub(super) claims_whole: bool,
}

pub(super) fn read(root: &mut Section<'_>, dir: &Path) -> Callers {
    let Some(mut section) = root.section("callers") else {
        return Callers {
            claims_whole: !root.has("callers"),
            ..Callers::default()
        };
    };
    let (claims, claims_whole) = claims(&mut section);
    let keys = section.sections("keys");
    let keys = keys.into_iter().filter_map(|key| caller_key(key, dir)).collect();
    section.finish();
    Callers {
        keys,
        claims,
        claims_whole,
    }
}

fn claims(section: &mut Section<'_>) -> (BTreeMap<Name, Kind>, bool) {
    let Some((inner, entries)) = section.entries("claims") else {
        return (BTreeMap::new(), !section.has("claims"));
    };
    let claim = |(key, value): (Found<&str>, &_)| {
        let kind = kind(inner.faults(), &inner.name_of(key.value), value);
        Some((name(&key, inner.faults())?, kind?))
    };
    by_name(entries.into_iter().map(claim).collect())
}

fn caller_key(mut section: Section<'_>, dir: &Path) -> Option<CallerKey> {
    let algorithm = section.word("algorithm", &ALGORITHMS);
    if !section.has("algorithm") {
        section.missing(
            "algorithm",
            "write one of EdDSA, ES256, RS256: tokens of another are refused",
        );
    }
    let text = |found: Option<Found<&str>>| found.map(|found| found.value.to_owned());
    let kid = text(section.text("kid"));
    let issuer = text(section.text("issuer"));
    let audience = text(section.text("audience"));
    let pem = key_text(&mut section, dir);
    let key = pem.zip(algorithm).and_then(|(pem, algorithm)| {
        let canonical = pem::caller_key(&pem.value, algorithm);
        if let Err(error) = &canonical {
            let message = format!(
                "`{}` is not a usable {} public key",
                section.name_of("pem"),
                word(algorithm)
            );
            section.faults().error(error.code(), &pem.span, message, error);
        }
        canonical.ok().map(|pem| CallerKey {
            kid,
            algorithm,
            pem,
            issuer,
            audience,
        })
    });
    section.finish();
    key
}

fn word(algorithm: Algorithm) -> &'static str {
    let found = ALGORITHMS.iter().find(|(_, known)| *known == algorithm);
    found.map_or("", |(word, _)| *word)
}

/// The PEM text, from `pem` or from the file that `file` names.
fn key_text(section: &mut Section<'_>, dir: &Path) -> Option<Found<String>> {
    let pem = section.text("pem");
    let file = section.text("file");
    if section.has("pem") == section.has("file") {
        let help = "write either pem = \"\"\"…\"\"\" or file = \"keys/name.pem\"";
        let message = "a key needs exactly one of `pem` and `file`";
        section
            .faults()
            .error(code::BAD_KEY, &section.span(), message, help);
        return None;
    }
    if let Some(pem) = pem {
        return Some(Found {
            value: pem.value.to_owned(),
            span: pem.span,
        });
    }
    let file = file?;
    match files::text(&dir.join(file.value), files::MAX_KEY_BYTES) {
        Ok(value) => Some(Found {
            value,
            span: file.span,
        }),
        Err(error) => {
            let message = format!("the key file `{}` cannot be read", file.value);
            let cause = error.with_cause();
            let help = format!(
                "{cause}; where the tokens are your own, `suijuris token key --write {}` writes it",
                file.value
            );
            section.faults().error(code::FILE, &file.span, message, help);
            None
        }
    }
}

/// The owners that the file names; none where the table is absent.
pub(super) fn controllers(root: &mut Section<'_>) -> Option<Controllers> {
    let mut section = root.section("controllers")?;
    let wanted = section.texts("keys").unwrap_or_default();
    let declared = wanted.len();
    let mut keys: Vec<PublicKey> = Vec::new();
    for text in wanted {
        let faults = section.faults();
        match pem::controller(text.value) {
            Ok(key) if keys.contains(&key) => {
                let help = "leave one out: each controller counts once";
                faults.error(code::TWICE, &text.span, "this controller appears twice", help);
            }
            Ok(key) => keys.push(key),
            Err(error) => {
                faults.error(
                    error.code(),
                    &text.span,
                    "this is not a usable Ed25519 public key",
                    &error,
                );
            }
        }
    }
    let threshold = section.integer::<u32>("threshold");
    check_count(&section, declared, threshold.as_ref());
    section.finish();
    keys.sort_unstable();
    Some(Controllers {
        keys,
        threshold: threshold.map_or(defaults::THRESHOLD, |found| found.value),
    })
}

fn check_count(section: &Section<'_>, declared: usize, threshold: Option<&Found<u32>>) {
    let faults = section.faults();
    if !(1..=MAX_CONTROLLERS).contains(&declared) {
        let message = format!("{declared} controllers; 1 to {MAX_CONTROLLERS} can own an object");
        let help =
            "list public keys under keys, or leave [controllers] out: `up` then makes a key for the owner";
        faults.error(code::OUT_OF_BOUNDS, &section.span(), message, help);
    }
    if let Some(found) = threshold.filter(|found| {
        !usize::try_from(found.value).is_ok_and(|wanted| (1..=declared.max(1)).contains(&wanted))
    }) {
        let message = format!("{} of {declared} controllers can never sign", found.value);
        faults.error(
            code::OUT_OF_BOUNDS,
            &found.span,
            message,
            "use 1 up to the number of keys",
        );
    }
}
