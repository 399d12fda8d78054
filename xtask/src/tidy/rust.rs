//! Rust files: header, length, where `unsafe` may stand, no test switched off, no program that cannot be run, nothing left for later.

use super::Finding;
use crate::source::{Source, words};
use crate::tree::File;

/// A longer file wants another look; lines without tests.
const LOOK_LINES: usize = 400;
/// A longer file is refused; lines without tests.
const MAX_LINES: usize = 800;
/// A longer function wants another look.
const LOOK_FUNCTION_LINES: usize = 70;
/// Where `unsafe` may stand in any file.
const UNSAFE_ROOM: &str = "crates/sys/src/";

/// Checks every `.rs` file.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let rust = files.iter().filter_map(|file| Some((file, file.rust.as_ref()?)));
    let each = rust.flat_map(|(file, source)| {
        let mut findings: Vec<Finding> = header(file).into_iter().chain(length(file, source)).collect();
        findings.extend(long_functions(file, source));
        findings.extend(unsafe_code(file, source));
        findings.extend(ignored_tests(file, source));
        findings.extend(busy_programs(file, source));
        findings.extend(unfinished(file, source));
        findings
    });
    each.chain(second_sys(files)).collect()
}

fn header(file: &File) -> Option<Finding> {
    let advice = "begin the file with `//!`: purpose, what it is not, who calls it";
    (!file.text.starts_with("//! ")).then(|| Finding::error(&file.path, 1, "header", advice))
}

fn length(file: &File, source: &Source) -> Option<Finding> {
    let lines = source.production().lines().count();
    if file.is_test() || lines <= LOOK_LINES {
        return None;
    }
    let advice = format!(
        "{lines} lines without tests, over {LOOK_LINES}: look where it parts; over {MAX_LINES} is refused"
    );
    let grave = lines > MAX_LINES;
    Some(Finding {
        grave,
        ..Finding::error(&file.path, 0, "length", advice)
    })
}

fn long_functions(file: &File, source: &Source) -> Vec<Finding> {
    let code = source.production();
    let lines = |at: usize| body(code.get(at..).unwrap_or_default()).matches('\n').count();
    let long = words(code, "fn")
        .map(|at| (at, lines(at)))
        .filter(|(_, lines)| *lines > LOOK_FUNCTION_LINES);
    let advice =
        |lines| format!("a function of {lines} lines, over {LOOK_FUNCTION_LINES}: look where it parts");
    long.map(|(at, lines)| Finding::warning(&file.path, source.line(at), "length", advice(lines)))
        .collect()
}

/// From `fn` to the brace that closes its body; empty for a declaration or a function type.
fn body(code: &str) -> &str {
    if code.starts_with("fn(") {
        return "";
    }
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, letter) in code.char_indices() {
        match letter {
            '(' | '[' => brackets += 1,
            ')' | ']' if brackets == 0 => return "",
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return "",
            '{' => braces += 1,
            '}' if braces <= 1 => return code.get(..at).unwrap_or_default(),
            '}' => braces -= 1,
            _ => {}
        }
    }
    ""
}

fn unsafe_code(file: &File, source: &Source) -> Vec<Finding> {
    if file.path.starts_with(UNSAFE_ROOM) || file.name() == "sys.rs" {
        return Vec::new();
    }
    let advice = "`unsafe` outside crates/sys: move it there behind a safe function";
    words(&source.code, "unsafe")
        .map(|at| Finding::error(&file.path, source.line(at), "unsafe", advice))
        .collect()
}

/// What a crate with a `sys.rs` of its own needs alone; what two need is moved to [`UNSAFE_ROOM`].
/// A crate has one place for `unsafe`, so that its reader has one file to check.
fn second_sys(files: &[File]) -> Vec<Finding> {
    let crate_of = |file: &File| file.path.split("/src/").next().map(str::to_owned);
    let sys: Vec<&File> = files.iter().filter(|file| file.name() == "sys.rs").collect();
    let pairs = sys
        .iter()
        .zip(sys.iter().skip(1))
        .filter(|(first, second)| crate_of(first) == crate_of(second));
    let advice = |first: &File| format!("the crate already has {}: one sys.rs per crate", first.path);
    pairs
        .map(|(first, second)| Finding::error(&second.path, 0, "unsafe", advice(first)))
        .collect()
}

fn ignored_tests(file: &File, source: &Source) -> Vec<Finding> {
    let advice = "a test that does not run proves nothing: make it run or take it out";
    let attributes = source.code.match_indices("#[ignore").map(|(at, _)| at);
    let doc_tests = source.comments.match_indices("```ignore").map(|(at, _)| at);
    attributes
        .chain(doc_tests)
        .map(|at| Finding::error(&file.path, source.line(at), "ignored-test", advice))
        .collect()
}

/// A program that a test writes itself cannot always be run: another thread's child may have it open for writing.
fn busy_programs(file: &File, source: &Source) -> Vec<Finding> {
    let advice = "a copy that may be run must not be open in this process: suijuris_testkit::program::copy";
    let copies = source.code.match_indices("fs::copy(").map(|(at, _)| at);
    copies
        .filter(|_| file.path.contains("/tests/"))
        .map(|at| Finding::error(&file.path, source.line(at), "busy-program", advice))
        .collect()
}

fn unfinished(file: &File, source: &Source) -> Vec<Finding> {
    let advice = "finish it, or leave it out cleanly";
    ["todo!", "unimplemented!"]
        .into_iter()
        .flat_map(|name| source.code.match_indices(name))
        .map(|(at, _)| Finding::error(&file.path, source.line(at), "unfinished", advice))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    fn check_at(path: &str, text: &str) -> Vec<&'static str> {
        rules(&check(&[File::new(path, text)]))
    }

    fn check_text(text: &str) -> Vec<&'static str> {
        check_at("crates/x/src/lib.rs", &format!("//! Purpose.\n{text}"))
    }

    #[test]
    fn a_missing_header_is_caught() {
        assert_eq!(check_at("a.rs", "fn a() {}\n"), ["header"]);
        assert_eq!(check_at("a.rs", ""), ["header"]);
        assert_eq!(check_at("a.py", "x = 1\n"), Vec::<&str>::new());
    }

    #[test]
    fn a_program_that_a_test_copies_by_itself_is_caught() {
        let text = "//! A.\nfn a() { std::fs::copy(b, c).unwrap(); }\n";
        assert_eq!(check_at("crates/x/tests/a.rs", text), ["busy-program"]);
        assert_eq!(check_at("crates/x/src/a.rs", text), Vec::<&str>::new());
    }

    #[test]
    fn long_files_are_caught_and_tests_do_not_count() {
        let lines = |number: usize| "fn a() {}\n".repeat(number);
        assert_eq!(check_text(&lines(LOOK_LINES - 1)), Vec::<&str>::new());
        let grave = |number| {
            check(&[File::new("a.rs", &format!("//! A.\n{}", lines(number)))])
                .iter()
                .any(|finding| finding.grave)
        };
        assert_eq!(check_text(&lines(LOOK_LINES)), ["length"]);
        assert!(!grave(MAX_LINES - 1) && grave(MAX_LINES));
        assert_eq!(
            check_text(&format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(900))),
            Vec::<&str>::new()
        );
        assert_eq!(
            check_at("crates/x/tests/t.rs", &format!("//! T.\n{}", lines(900))),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn long_functions_are_noted() {
        let function = |lines: usize| {
            format!(
                "fn a(x: [u8; 4]) {{\n{}}}\n",
                "    if x { b({}) }\n".repeat(lines)
            )
        };
        assert_eq!(check_text(&function(LOOK_FUNCTION_LINES - 1)), Vec::<&str>::new());
        assert_eq!(check_text(&function(LOOK_FUNCTION_LINES)), ["length"]);
        let types = format!(
            "struct S {{ a: fn(u8), b: fn() }}\ntrait T {{ fn a(); }}\n{}",
            "const X: u8 = 1;\n".repeat(90)
        );
        assert_eq!(check_text(&types), Vec::<&str>::new());
    }

    #[test]
    fn unsafe_code_is_caught_outside_sys() {
        assert_eq!(check_text("fn a() { unsafe { b() } }\n"), ["unsafe"]);
        assert_eq!(
            check_at("crates/x/src/sys.rs", "//! Calls.\nfn a() { unsafe { b() } }\n"),
            Vec::<&str>::new()
        );
        assert_eq!(
            check_at(
                "crates/sys/src/fork.rs",
                "//! Calls.\nfn a() { unsafe { b() } }\n"
            ),
            Vec::<&str>::new()
        );
        assert_eq!(
            check_text("#![deny(unsafe_op_in_unsafe_fn)] // unsafe\n"),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn a_second_sys_in_a_crate_is_caught() {
        let sys = |path: &str| File::new(path, "//! Calls.\n");
        assert_eq!(
            check(&[sys("crates/a/src/sys.rs"), sys("crates/b/src/sys.rs")]),
            []
        );
        assert_eq!(
            rules(&check(&[
                sys("crates/a/src/net/sys.rs"),
                sys("crates/a/src/sys.rs")
            ])),
            ["unsafe"]
        );
    }

    #[test]
    fn ignored_tests_are_caught() {
        assert_eq!(
            check_text("#[test]\n#[ignore = \"slow\"]\nfn a() {}\n"),
            ["ignored-test"]
        );
        assert_eq!(
            check_text("/// ```ignore\n/// a();\n/// ```\nfn a() {}\n"),
            ["ignored-test"]
        );
    }

    #[test]
    fn unfinished_code_is_caught() {
        assert_eq!(
            check_text("fn a() { todo!() }\nfn b() { unimplemented!(\"x\") }\n"),
            ["unfinished", "unfinished"]
        );
    }
}
