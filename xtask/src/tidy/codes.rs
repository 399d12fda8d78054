//! Error codes and their pages are the same set.
//!
//! A code stands in a crate's `src` as the literal of `Problem::new(status, "code", …)`, as a constant `CODE_…: &str`, or in a table
//! constant whose name begins with `CODES`; `docs/errors/README.md` tells authors so.

use std::collections::BTreeMap;

use super::Finding;
use crate::source::Source;
use crate::tree::File;

const RULE: &str = "error-page";
const PAGES: &str = "docs/errors/";
const UNTRACED: &str =
    "the code is neither a literal nor from a CODE_ or CODES constant of this file: its page cannot be found";
const UNUSED: &str = "no source gives this code: take the page out, or correct its name";

/// Checks that each code has a page and each page a code.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut codes = BTreeMap::new();
    for (file, source) in files.iter().filter_map(product) {
        let at = |at: usize, advice: String| Finding::error(&file.path, source.line(at), RULE, advice);
        let (calls, untraced) = calls(source);
        findings.extend(untraced.into_iter().map(|start| at(start, UNTRACED.to_owned())));
        for (start, code) in calls.into_iter().chain(constants(source)) {
            if !is_code(code) {
                findings.push(at(
                    start,
                    format!("code `{code}`: write codes as lowercase words joined by `_`"),
                ));
            } else if !codes.contains_key(code) {
                codes.insert(
                    code,
                    at(
                        start,
                        format!("code `{code}` has no page: write {PAGES}{code}.md"),
                    ),
                );
            }
        }
    }
    let pages: Vec<&str> = files.iter().filter_map(page).collect();
    let unused = pages.iter().filter(|page| !codes.contains_key(**page));
    findings.extend(unused.map(|page| Finding::error(&format!("{PAGES}{page}.md"), 0, RULE, UNUSED)));
    findings.extend(
        codes
            .into_iter()
            .filter(|(code, _)| !pages.contains(code))
            .map(|(_, lacking)| lacking),
    );
    findings
}

/// Sources of the product: tests make up codes freely.
fn product(file: &File) -> Option<(&File, &Source)> {
    let inside = file.path.starts_with("crates/") && file.path.contains("/src/") && !file.is_test();
    file.rust.as_ref().filter(|_| inside).map(|source| (file, source))
}

/// The code that a file is the page of.
fn page(file: &File) -> Option<&str> {
    file.path
        .strip_prefix(PAGES)?
        .strip_suffix(".md")
        .filter(|page| *page != "README")
}

/// Codes that calls of `Problem::new` give as literals, and positions of calls whose code cannot be traced to a constant.
fn calls(source: &Source) -> (Vec<(usize, &str)>, Vec<usize>) {
    let code = source.production();
    let has_table = code.contains("const CODES");
    let (mut found, mut untraced) = (Vec::new(), Vec::new());
    for (at, _) in code.match_indices("Problem::new(") {
        let argument = second_argument(code, at);
        match argument.and_then(|start| Some((start, source.literal(start)?))) {
            Some(literal) => found.push(literal),
            None if has_table || argument.is_some_and(|start| names_constant(code, start)) => {}
            None => untraced.push(at),
        }
    }
    (found, untraced)
}

/// Codes in `const CODE_…` and `const CODES…`: every literal that does not read like a title.
fn constants(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let code = source.production();
    let literals = code.match_indices("const CODE").flat_map(move |(at, _)| {
        let item = constant(code.get(at..).unwrap_or_default());
        item.match_indices('"')
            .filter_map(move |(offset, _)| Some((at + offset, source.literal(at + offset)?)))
    });
    literals.filter(|(_, literal)| {
        literal.starts_with(|letter: char| letter.is_lowercase()) && !literal.contains(' ')
    })
}

/// The item that `code` begins with. A `;` may stand in its type (`[T; N]`), so a table ends with its bracket.
fn constant(code: &str) -> &str {
    let is_table = code.split('=').next().is_some_and(|head| head.contains('['));
    code.split(if is_table { "];" } else { ";" })
        .next()
        .unwrap_or(code)
}

/// Byte position of the second argument of the call at `at`.
fn second_argument(code: &str, at: usize) -> Option<usize> {
    let comma = at + code.get(at..)?.find(',')? + 1;
    let blanks = code
        .get(comma..)?
        .bytes()
        .take_while(u8::is_ascii_whitespace)
        .count();
    Some(comma + blanks)
}

fn names_constant(code: &str, at: usize) -> bool {
    let argument = code
        .get(at..)
        .unwrap_or_default()
        .split([',', ')'])
        .next()
        .unwrap_or_default();
    argument
        .trim()
        .rsplit("::")
        .next()
        .is_some_and(|name| name.starts_with("CODE_"))
}

/// Lowercase words joined by `_`.
fn is_code(literal: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    literal
        .split('_')
        .all(|word| !word.is_empty() && word.bytes().all(letter))
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    fn check_with(source: &str, pages: &[&str]) -> Vec<Finding> {
        let mut files = vec![
            File::new("crates/x/src/lib.rs", source),
            File::new("docs/errors/README.md", ""),
        ];
        files.extend(
            pages
                .iter()
                .map(|page| File::new(&format!("docs/errors/{page}.md"), "")),
        );
        check(&files)
    }

    #[test]
    fn every_form_of_a_code_is_found() {
        let source = "fn a() { Problem::new(\n    403,\n    \"refused\", \"Refused\"); Problem::new(s, codes::CODE_GONE, t) }\n\
                      const CODE_GONE: &str = \"gone_away\";\n\
                      pub const CODES: [(u16, &str, &str); 1] = [(409, \"twin\", \"A twin\")];\n\
                      // Problem::new(1, \"comment\", \"\")\n\
                      #[cfg(test)]\nmod tests {\n    fn t() { Problem::new(1, \"test\", \"\") }\n}\n";
        assert_eq!(check_with(source, &["refused", "gone_away", "twin"]), []);
        assert_eq!(check_with(source, &[]).len(), 3);
    }

    #[test]
    fn a_page_without_a_code_is_caught() {
        assert_eq!(rules(&check_with("", &["stale"])), [RULE]);
    }

    #[test]
    fn a_code_in_another_form_is_caught() {
        assert_eq!(
            rules(&check_with(
                "fn a() { Problem::new(400, \"bad-request\", \"\") }",
                &[]
            )),
            [RULE]
        );
        assert_eq!(
            rules(&check_with("const CODES: &[&str] = &[\"badRequest\"];", &[])),
            [RULE]
        );
    }

    #[test]
    fn a_code_that_cannot_be_traced_is_caught() {
        assert_eq!(
            rules(&check_with(
                "fn a(code: &str) { Problem::new(400, code, \"\") }",
                &[]
            )),
            [RULE]
        );
    }
}
