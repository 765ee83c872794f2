//! `arcssh complete`: what the current word of a command line can be, for the scripts of `arcssh completions`.
//!
//! Names come from Azure, so a name may try to run a command when a shell inserts it. Each shell gets the candidates in a
//! form that it inserts as one word. Candidates with characters that a terminal obeys are left out.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_complete::engine::{CompletionCandidate, complete};

use crate::cli::complete::CompleteArgs;
use crate::cli::{Cli, without_ssh_options};
use crate::diagnosis::Result;
use crate::terminal::output::print;
use crate::text::{is_unsafe, quote_for_powershell, sanitize};

/// Prints one candidate on each line and returns the exit status.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(args: &CompleteArgs) -> Result<u8> {
    print(&candidates(args).concat())?;
    Ok(0)
}

fn candidates(args: &CompleteArgs) -> Vec<String> {
    let current = args.current.to_string_lossy();
    let (before, word) = match &args.line {
        Some(line) => {
            let mut words = split(&line.to_string_lossy());
            let word = words.pop().unwrap_or_default();
            (words.into_iter().skip(1).map(|word| word.text.into()).collect(), word)
        }
        None => (args.words.clone(), split(&current).pop().unwrap_or_default()),
    };
    let replaced = Replaced::new(&word, &current);
    let before = without_ssh_options([vec![OsString::from("arcssh")], before].concat());
    let Some(mut words) = before else { return Vec::new() };
    words.push(word.text.clone().into());
    let (last, folder) = (words.len() - 1, std::env::current_dir().ok());
    let found = complete(&mut Cli::command(), words, last, folder.as_deref()).unwrap_or_default();
    let is_option =
        |candidate: &CompletionCandidate| candidate.get_value().as_encoded_bytes().starts_with(b"-");
    // Options are many, and names are what the user looks for.
    let has_name = word.text.is_empty() && found.iter().any(|candidate| !is_option(candidate));
    let found = found.iter().filter(|candidate| !has_name || !is_option(candidate));
    found.filter_map(|candidate| line(candidate, args.shell, &replaced)).collect()
}

/// Returns the line for a candidate, unless the shell cannot insert it safely.
fn line(candidate: &CompletionCandidate, shell: Shell, replaced: &Replaced) -> Option<String> {
    let value = candidate.get_value().to_str().filter(|value| !value.chars().any(is_unsafe))?;
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    let help = sanitize(help.lines().next().unwrap_or_default());
    let described = |value: &str, separator: char| match help.is_empty() {
        true => format!("{value}\n"),
        false => format!("{value}{separator}{help}\n"),
    };
    Some(match shell {
        Shell::Bash => format!("{}\n", replaced.in_bash(value)?),
        // zshcompsys(1), `_describe`: the first colon without a backslash ends the name. compadd quotes it.
        Shell::Zsh => described(&value.replace('\\', r"\\").replace(':', r"\:"), ':'),
        Shell::PowerShell => {
            let help = if help.is_empty() { value } else { &help };
            format!("{}\t{value}\t{help}\n", quote_for_powershell(value))
        }
        // fish inserts the value as one word.
        _ => described(value, '\t'),
    })
}

/// A word of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Word {
    /// The word as it was typed.
    raw: String,
    /// The word without quotes and backslashes.
    text: String,
    /// The quote that is still open at its end.
    quote: Option<char>,
}

/// Splits a command line into words as a shell does, without expansions. The last one is the current word; it is empty after a
/// space.
fn split(line: &str) -> Vec<Word> {
    let mut words = vec![Word::default()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let Some(word) = words.last_mut() else { break };
        if c.is_whitespace() && word.quote.is_none() {
            if !word.raw.is_empty() {
                words.push(Word::default());
            }
            continue;
        }
        word.raw.push(c);
        match (c, word.quote) {
            ('\\', None | Some('"')) => {
                if let Some(next) = characters.next() {
                    word.raw.push(next);
                    if word.quote.is_some() && !"\"\\$`".contains(next) {
                        word.text.push(c);
                    }
                    word.text.push(next);
                }
            }
            ('"' | '\'', None) => word.quote = Some(c),
            (c, Some(quote)) if c == quote => word.quote = None,
            (c, _) => word.text.push(c),
        }
    }
    words
}

/// The part of the current word that bash replaces by a candidate.
struct Replaced {
    /// The unquoted text before that part.
    before: String,
    /// The quote in which that part is.
    quote: Option<char>,
}

impl Replaced {
    /// `part` is the end of the word after the last of the characters in `COMP_WORDBREAKS`, or after an open quote.
    fn new(word: &Word, part: &str) -> Self {
        let before = word.raw.strip_suffix(part).unwrap_or_default();
        Self { before: split(before).pop().unwrap_or_default().text, quote: word.quote }
    }

    /// Returns the candidate without the text before the replaced part, quoted as bash requires.
    fn in_bash(&self, value: &str) -> Option<String> {
        let end = value.get(..self.before.len())?.eq_ignore_ascii_case(&self.before);
        let value = value.get(self.before.len()..).filter(|_| end)?;
        match self.quote {
            Some('"') => (!value.contains(['"', '$', '`', '\\', '!'])).then(|| value.to_owned()),
            Some(_) => (!value.contains('\'')).then(|| value.to_owned()),
            None => Some(escaped(value)),
        }
    }
}

/// Returns a word with a backslash before each character that may be special for bash.
fn escaped(value: &str) -> String {
    let mut word = String::new();
    for c in value.chars() {
        if !c.is_alphanumeric() && !"-_./=:,+%@".contains(c) {
            word.push('\\');
        }
        word.push(c);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_a_shell_does() {
        let texts = |line: &str| split(line).into_iter().map(|word| word.text).collect::<Vec<_>>();
        assert_eq!(texts("arcssh list "), ["arcssh", "list", ""]);
        assert_eq!(texts(r#"a  "b c"d\ e 'f\"#), ["a", "b cd e", r"f\"]);
        assert_eq!(texts(r#""a\$\b" "#), [r"a$\b", ""]);
        assert_eq!(split("x \"a b").pop().unwrap().quote, Some('"'));
        assert_eq!(texts(""), [""]);
        assert_eq!(texts("\\"), [""]);
    }

    #[test]
    fn bash_gets_the_part_that_it_replaces_with_all_special_characters_escaped() {
        let insert = |raw: &str, part: &str, value: &str| {
            Replaced::new(&split(raw).pop().unwrap(), part).in_bash(value)
        };
        assert_eq!(insert("env=pr", "pr", "env=prod").unwrap(), "prod");
        assert_eq!(insert("ENV=pr", "pr", "env=prod").unwrap(), "prod");
        assert_eq!(insert("w", "w", "web01").unwrap(), "web01");
        assert_eq!(insert("e", "e", "e=$(id)`x` ;'\"!").unwrap(), r#"e=\$\(id\)\`x\`\ \;\'\"\!"#);
        assert_eq!(insert("\"e", "e", "e=a b").unwrap(), "e=a b");
        assert_eq!(insert("\"e", "e", "e=$(id)"), None);
        assert_eq!(insert("'e", "e", "e=$(id)").unwrap(), "e=$(id)");
        assert_eq!(insert("'e", "e", "e='"), None);
        assert_eq!(insert("x=é", "é", "x=éa").unwrap(), "éa");
        assert_eq!(insert("é=", "", "e=long"), None);
    }
}
