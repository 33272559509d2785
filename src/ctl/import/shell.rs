//! The words of a command line, as a shell reads simple ones (POSIX.1-2024, Shell Command Language, 2.2 and 2.3).

/// The simple commands of `text`, which run one after another, each as its words. `;`, `&&` and the end of a line end a
/// command.
///
/// # Errors
///
/// The first character with another meaning to the shell (an expansion, a redirection, a pipe, a job, a pattern), or a
/// quote without its end.
pub(super) fn commands(text: &str) -> Result<Vec<Vec<String>>, char> {
    let mut commands = Vec::new();
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('"'), '$' | '`' | '\\') => return Err(character),
            (Some(_), inside) => word.get_or_insert_default().push(inside),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '&') if characters.next_if_eq(&'&').is_none() => return Err('&'),
            (None, ';' | '&' | '\n') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, '|' | '<' | '>' | '$' | '`' | '(' | ')' | '\\' | '*' | '?' | '#') => return Err(character),
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    quote.map_or(Ok(commands), Err)
}

/// The words of a text that is one simple command.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    commands(text).ok().filter(|commands| commands.len() == 1)?.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_join_words_and_separators_end_commands() {
        for (text, expected) in [
            ("", vec![]),
            ("a 'b c'\t\"d\"e", vec![vec!["a", "b c", "de"]]),
            ("a; b && c\nd ;", vec![vec!["a"], vec!["b"], vec!["c"], vec!["d"]]),
            ("x=\"a=\"b\" c\"", vec![vec!["x=a=b c"]]),
            ("a ''", vec![vec!["a", ""]]),
        ] {
            assert_eq!(
                commands(text),
                Ok(expected.into_iter().map(|words| words.into_iter().map(str::to_owned).collect()).collect()),
                "{text}"
            );
        }
        for (text, character) in
            [("a | b", '|'), ("a & b", '&'), ("a $(b)", '$'), ("a \"$b\"", '$'), ("a 'b", '\''), ("a || b", '|')]
        {
            assert_eq!(commands(text), Err(character), "{text}");
        }
    }
}
