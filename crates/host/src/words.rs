//! Splits a command in one text into words as a shell does: spaces, quotes, backslashes, and nothing else.

/// A text that no shell would take.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a quote in the command is not closed; close it, or send the command as a list")]
pub(crate) struct OpenQuote;

/// The words of `text`.
pub(crate) fn split(text: &str) -> Result<Vec<String>, OpenQuote> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some(open), letter) if letter == open => quote = None,
            (None | Some('"'), '\\') => word
                .get_or_insert_default()
                .push(letters.next().ok_or(OpenQuote)?),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if quote.is_some() {
        Err(OpenQuote)
    } else {
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        for (text, words) in [
            ("", vec![]),
            (" a  b ", vec!["a", "b"]),
            ("a 'b c' \"d e\"", vec!["a", "b c", "d e"]),
            ("a'b'c ''", vec!["abc", ""]),
            (r#"a\ b "\"" '\'"#, vec!["a b", "\"", "\\"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for bad in ["'a", "\"a", "a\\"] {
            assert_eq!(split(bad), Err(OpenQuote), "{bad}");
        }
    }
}
