//! A Rust text split into code, literals and comments, byte for byte in place.
//!
//! Not a parser: enough to ask "does this word stand in code" without being misled by strings and comments.

/// A Rust text and two masks of it, both of the same length with the same line breaks.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The text itself.
    pub(crate) text: String,
    /// Code alone: comments are blank, a literal is its opening byte as `"` and blanks.
    pub(crate) code: String,
    /// Comments alone.
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Literal,
    Comment,
}

impl Source {
    /// Splits `text`. What does not lex is taken as code.
    pub(crate) fn new(text: &str) -> Self {
        let (mut code, mut comments) = (String::new(), String::new());
        let mut rest = text;
        let mut in_word = false;
        while !rest.is_empty() {
            let (kind, length) = token(rest, in_word);
            let (piece, after) = rest.split_at(length);
            in_word = kind == Kind::Code && piece.ends_with(is_word);
            match kind {
                Kind::Code => code.push_str(&keep(piece)),
                Kind::Literal => code.extend(['"'].into_iter().chain(blank(piece).chars().skip(1))),
                Kind::Comment => code.push_str(&blank(piece)),
            }
            comments.push_str(&if kind == Kind::Comment {
                keep(piece)
            } else {
                blank(piece)
            });
            rest = after;
        }
        Self {
            text: text.to_owned(),
            code,
            comments,
        }
    }

    /// Lines that are compiled outside tests: all before a `#[cfg(test)]` module, which stands last by convention.
    pub(crate) fn production(&self) -> &str {
        let end = self
            .code
            .match_indices("#[cfg(test)]")
            .map(|(at, _)| at)
            .find(|at| opens_module(self.code.get(*at..)));
        self.code
            .get(..end.unwrap_or(self.code.len()))
            .unwrap_or_default()
    }

    /// The string literal that begins at byte `at`, without its quotes; escapes stay as written.
    pub(crate) fn literal(&self, at: usize) -> Option<&str> {
        let inside = self.text.get(at..)?.strip_prefix('"')?;
        inside.get(..inside.find('"')?)
    }

    /// Number, from 1, of the line with byte `at`.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }
}

fn opens_module(code: Option<&str>) -> bool {
    let mut words = code.unwrap_or_default().split_whitespace().skip(1);
    words.next() == Some("mod") && words.nth(1) == Some("{")
}

/// Byte positions where `word` stands alone in `code`.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code.get(..*at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Kind and length in bytes of the first token of `rest`.
fn token(rest: &str, in_word: bool) -> (Kind, usize) {
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    let literal = if rest.starts_with('"') {
        Some(quoted(rest))
    } else if rest.starts_with('\'') {
        character(rest)
    } else if in_word {
        None
    } else {
        raw(rest)
    };
    literal.map_or_else(|| (Kind::Code, first(rest)), |length| (Kind::Literal, length))
}

fn first(rest: &str) -> usize {
    rest.chars().next().map_or(1, char::len_utf8)
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        let step = match here.get(..2) {
            Some("/*") => {
                depth += 1;
                2
            }
            Some("*/") => {
                depth -= 1;
                2
            }
            _ => first(here),
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of a character literal; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.get(1..)?;
    if let Some(escape) = inside.strip_prefix('\\') {
        let end = escape.get(first(escape)..)?.find('\'')?;
        return Some(2 + first(escape) + end + 1);
    }
    let length = first(inside);
    inside.get(length..)?.starts_with('\'').then_some(length + 2)
}

/// Length of a raw string (`r"…"`, `br#"…"#`, `cr"…"`); `None` for anything else.
fn raw(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        rest.strip_prefix(prefix)
            .is_some_and(|after| after.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = rest
        .get(prefix.len()..)?
        .bytes()
        .take_while(|byte| *byte == b'#')
        .count();
    let open = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    let body = rest.get(open..)?;
    Some(open + body.find(&close).map_or(body.len(), |at| at + close.len()))
}

/// The piece with one ASCII byte for each byte, so that positions agree in text and masks.
fn keep(piece: &str) -> String {
    piece
        .bytes()
        .map(|byte| if byte.is_ascii() { char::from(byte) } else { ' ' })
        .collect()
}

fn blank(piece: &str) -> String {
    piece
        .bytes()
        .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_not_code() {
        let text = "let a = \"unsafe // \\\" x\"; // unsafe\n/* a /* unsafe */ b */ let b = r#\"\"unsafe\"#;";
        let source = Source::new(text);
        assert_eq!(words(&source.code, "unsafe").count(), 0, "{}", source.code);
        assert_eq!(words(&source.comments, "unsafe").count(), 2);
        assert!(source.code.contains("let b = \""));
        assert_eq!(source.code.len(), text.len());
    }

    #[test]
    fn lifetimes_characters_and_raw_identifiers_do_not_confuse_it() {
        let source = Source::new("fn f<'a>(x: &'a str) { '\"'; '\\''; b'\"'; r#type; 'é'; unsafe {} }");
        assert_eq!(words(&source.code, "unsafe").count(), 1, "{}", source.code);
    }

    #[test]
    fn a_test_module_ends_production_code() {
        let source = Source::new(
            "fn a() {}\n#[cfg(test)]\nmod fixtures;\nfn b() {}\n#[cfg(test)]\nmod tests {\nfn c() {}\n}\n",
        );
        assert_eq!(source.production().lines().count(), 4);
    }

    #[test]
    fn a_text_that_never_closes_ends_somewhere() {
        for text in ["\"abc", "/* abc", "r#\"abc", "'", "'\\", "b'\\x", "/*/"] {
            assert_eq!(Source::new(text).code.len(), text.len());
        }
    }
}
