//! The arguments of a keyword in ssh_config(5), and patterns of host names.

/// The arguments of a keyword, separated by white space outside of quotes. A backslash escapes a quote, a backslash or a
/// space (misc.c, `argv_split`). Words of a comment count, as in versions before 8.7.
pub(crate) fn arguments(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None;
    let mut quote = None;
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        let escapes = |next: &char| "\\\"'".contains(*next) || quote.is_none() && *next == ' ';
        match quote {
            _ if c == '\\' && rest.peek().is_some_and(escapes) => {
                word.get_or_insert_with(String::new).extend(rest.next());
            }
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_with(String::new);
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// The arguments of a keyword without a comment, as since OpenSSH 8.7 (misc.c, `argv_split`).
pub(crate) fn without_comment(value: &str) -> Vec<String> {
    arguments(value).into_iter().take_while(|word| !word.starts_with('#')).collect()
}

/// The patterns of `host` and `originalhost` in a `Match`. Newer versions of ssh accept `=` as a separator.
pub(crate) fn match_patterns(value: &str) -> Vec<String> {
    let words = arguments(&value.replace('=', " "));
    let is_host =
        |word: &String| ["host", "originalhost"].contains(&word.to_lowercase().trim_start_matches('!'));
    let pairs = words.iter().zip(words.iter().skip(1)).filter(|(word, _)| is_host(word));
    let patterns = pairs.flat_map(|(word, list)| list.split(',').map(move |one| (word, one)));
    // `!host *.lab` excludes the names that `*.lab` matches.
    patterns
        .map(
            |(word, one)| {
                if word.starts_with('!') && is_wildcard(one) { format!("!{one}") } else { one.to_owned() }
            },
        )
        .collect()
}

/// Returns whether a pattern has wildcards.
pub(crate) fn is_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// A name that a pattern matches.
pub(crate) fn example(pattern: &str) -> String {
    pattern.replace(['*', '?'], "x")
}

/// Returns whether a pattern of a host entry is the alias, or a wildcard for it.
pub(crate) fn is_alias_of(pattern: &str, alias: &str) -> bool {
    pattern == alias || is_wildcard(pattern) && matches(pattern, alias)
}

/// Returns whether a name matches a pattern with `*` and `?` (match.c, `match_pattern`).
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_those_of_ssh() {
        for (pattern, name, is_match) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("?", "", false),
            ("*.a*b", "x.aab", true),
            ("web??", "web01", true),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
        }
    }

    #[test]
    fn arguments_are_split_like_those_of_ssh() {
        for (value, words) in [
            ("a  b\tc", &["a", "b", "c"][..]),
            ("'a' \"b\"c d'e f'", &["a", "bc", "de f"]),
            (r#"a\ b "c\"d" 'e\f' \\"#, &["a b", "c\"d", "e\\f", "\\"]),
            ("\"\" 'open", &["", "open"]),
            ("", &[]),
        ] {
            assert_eq!(arguments(value), words, "{value}");
        }
    }
}
