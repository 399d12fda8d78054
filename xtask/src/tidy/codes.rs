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

/// Checks that each code has a page and each page a code.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut codes = BTreeMap::new();
    for file in files
        .iter()
        .filter(|file| file.path.starts_with("crates/") && file.path.contains("/src/") && !file.is_test())
    {
        let Some(source) = &file.rust else { continue };
        let (found, loose) = collect(source);
        for (code, line) in found {
            codes.entry(code).or_insert((file.path.clone(), line));
        }
        let advice = "the code is neither a literal nor from a CODE_ or CODES constant of this file: tidy cannot find its page";
        findings.extend(
            loose
                .into_iter()
                .map(|line| Finding::error(&file.path, line, RULE, advice)),
        );
    }
    let pages: Vec<&str> = files.iter().filter_map(page).collect();
    let lacking = codes.iter().filter(|(code, _)| !pages.contains(&code.as_str()));
    findings.extend(lacking.map(|(code, (path, line))| {
        Finding::error(
            path,
            *line,
            RULE,
            format!("code `{code}` has no page: write {PAGES}{code}.md"),
        )
    }));
    let unused = pages.iter().filter(|page| !codes.contains_key(**page));
    findings.extend(unused.map(|page| {
        Finding::error(
            &format!("{PAGES}{page}.md"),
            0,
            RULE,
            "no source gives this code: take the page out, or correct its name",
        )
    }));
    findings
}

/// The code that a file is the page of.
fn page(file: &File) -> Option<&str> {
    file.path
        .strip_prefix(PAGES)?
        .strip_suffix(".md")
        .filter(|page| *page != "README")
}

/// Codes with their lines, and lines of `Problem::new` whose code cannot be found.
fn collect(source: &Source) -> (Vec<(String, usize)>, Vec<usize>) {
    let code = source.production();
    let mut found: Vec<(usize, &str)> = Vec::new();
    let mut loose = Vec::new();
    let has_table = code.contains("const CODES");
    for (at, _) in code.match_indices("Problem::new(") {
        match second_argument(code, at).map(|start| (start, source.literal(start))) {
            Some((start, Some(literal))) => found.push((start, literal)),
            Some((start, None)) if has_table || names_constant(code, start) => {}
            _ => loose.push(source.line(at)),
        }
    }
    for (at, _) in code.match_indices("const CODE") {
        let item = code
            .get(at..)
            .and_then(|rest| rest.split_once(';'))
            .map_or("", |(item, _)| item);
        // `[T; N]` holds a semicolon of its own: a table ends at the `;` after its closing bracket.
        let item = if item.contains('[') { table(code, at) } else { item };
        let literals = item
            .match_indices('"')
            .filter_map(|(offset, _)| Some((at + offset, source.literal(at + offset)?)));
        found.extend(literals.filter(|(_, literal)| is_code(literal)));
    }
    (
        found
            .into_iter()
            .map(|(at, literal)| (literal.to_owned(), source.line(at)))
            .collect(),
        loose,
    )
}

fn table(code: &str, at: usize) -> &str {
    let rest = code.get(at..).unwrap_or_default();
    rest.split_once("];").map_or(rest, |(table, _)| table)
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

/// Lowercase words joined by hyphens.
fn is_code(literal: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    literal.split('-').all(word)
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
                      const CODE_GONE: &str = \"gone-away\";\n\
                      pub const CODES: [(u16, &str, &str); 1] = [(409, \"twin\", \"A twin\")];\n\
                      // Problem::new(1, \"comment\", \"\")\n\
                      #[cfg(test)]\nmod tests {\n    fn t() { Problem::new(1, \"test\", \"\") }\n}\n";
        assert_eq!(check_with(source, &["refused", "gone-away", "twin"]), []);
        assert_eq!(check_with(source, &[]).len(), 3);
    }

    #[test]
    fn a_page_without_a_code_is_caught() {
        assert_eq!(rules(&check_with("", &["stale"])), [RULE]);
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
