//! Untrusted text from Azure, the network and other programs, made safe for a terminal, a shell, JSON and a log.

use std::io::Write;

use serde_json::Value;
use unicode_width::UnicodeWidthChar as _;

/// The longest line, in characters. A command with a full resource ID fits.
const MAX_LINE: usize = 900;

/// Returns `text` as one line of limited length, with a space for each unsafe character.
pub(crate) fn sanitize(text: &str) -> String {
    let visible = |c: char| if is_unsafe(c) { ' ' } else { c };
    let mut line: String = text.chars().take(MAX_LINE).map(visible).collect();
    if text.chars().nth(MAX_LINE).is_some() {
        line.push('…');
    }
    line
}

/// Returns `text` with a space for each unsafe character except newlines and tabs.
pub(crate) fn lines(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) && !"\n\t".contains(c) { ' ' } else { c }).collect()
}

/// Returns a text without a byte order mark, which programs of Windows write before UTF-8.
pub(crate) fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// Returns a setting without the blanks and one pair of quotes around it, which `set` of cmd.exe and files of variables
/// (systemd, Docker) leave in the value.
pub(crate) fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inner = ['"', '\''].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    inner.unwrap_or(text).trim()
}

/// Returns bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the text before a suffix, whose case does not count.
pub(crate) fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (before, end) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(before)
}

/// Replaces a word in any case. Letters, digits, hyphens and underscores around it belong to another word.
pub(crate) fn replace_word(text: &str, word: &str, by: &str) -> String {
    let (lower, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let is_part = |c: char| c.is_alphanumeric() || "-_".contains(c);
    let (mut replaced, mut end) = (String::new(), 0);
    for (at, found) in lower.match_indices(&word).filter(|(_, found)| !found.is_empty()) {
        let after = at + found.len();
        let is_word = !lower[..at].ends_with(is_part) && !lower[after..].starts_with(is_part);
        if is_word {
            replaced.push_str(&text[end..at]);
            replaced.push_str(by);
            end = after;
        }
    }
    replaced + &text[end..]
}

/// Returns a number with a comma between thousands.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns the width of a line on a terminal, in columns (Unicode Standard Annex 11). Terminals add the widths of the
/// characters (wcswidth(3)); one that joins an emoji or a ligature uses fewer columns.
pub(crate) fn width(line: &str) -> usize {
    line.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    c.width().unwrap_or_default()
}

/// Returns the longest prefix of a line that fits into `limit` columns.
pub(crate) fn cut(line: &str, limit: usize) -> &str {
    let mut used = 0;
    let end = line.char_indices().find(|(_, c)| {
        used += columns(*c);
        used > limit
    });
    &line[..end.map_or(line.len(), |(at, _)| at)]
}

/// Returns a line that fits into `limit` columns, at least one, with `…` in its middle if it is shortened: names often differ
/// only at the end.
pub(crate) fn shorten(line: &str, limit: usize) -> String {
    if width(line) <= limit {
        return line.to_owned();
    }
    let rest = limit.saturating_sub(1);
    let mut used = 0;
    let fitting = line.char_indices().rev().take_while(|(_, c)| {
        used += columns(*c);
        used <= rest / 2
    });
    let tail = &line[fitting.last().map_or(line.len(), |(at, _)| at)..];
    // A mark would change the ellipsis.
    let tail = tail.trim_start_matches(|c| columns(c) == 0);
    format!("{}…{tail}", cut(line, rest.div_ceil(2)))
}

/// Returns `value` as JSON on one line, with a `\u` escape for each unsafe character (RFC 8259, section 7).
pub(crate) fn json_text(value: &Value) -> String {
    let mut safe = String::new();
    for c in value.to_string().chars() {
        match c {
            c if is_unsafe(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| safe += &format!("\\u{unit:04x}"));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// A log with one line for each write. Unsafe characters are escaped.
pub(crate) struct Log<W>(pub(crate) W);

impl<W: Write> Write for Log<W> {
    /// `tracing_subscriber::fmt` writes an event with one call, and a newline at its end.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut line = String::with_capacity(text.len());
        for c in text.strip_suffix('\n').unwrap_or(&text).chars() {
            if is_unsafe(c) { line.extend(c.escape_default()) } else { line.push(c) }
        }
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// The syntax of the shell in which the user runs the commands of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    /// bash, zsh, fish or tcsh.
    Unix,
    PowerShell,
    Cmd,
}

impl Syntax {
    fn of_user() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some();
        if cfg!(windows) { Self::on_windows(is_set) } else { Self::Unix }
    }

    /// Returns the syntax of the shell by the variables that it sets: Git for Windows `MSYSTEM` (msys2.org, "Environments"),
    /// cmd `PROMPT` (uv distinguishes them by this variable too: astral-sh/uv, `crates/uv-shell/src/lib.rs`).
    fn on_windows(is_set: impl Fn(&str) -> bool) -> Self {
        if is_set("MSYSTEM") {
            Self::Unix
        } else if is_set("PROMPT") {
            Self::Cmd
        } else {
            Self::PowerShell
        }
    }

    fn quote(self, text: &str) -> String {
        match self {
            Self::Unix => quote_for_unix(text),
            Self::PowerShell => quote_for_powershell(text),
            Self::Cmd => quote_for_cmd(text),
        }
    }

    fn set(self, name: &str, value: &str) -> String {
        match self {
            Self::Unix => format!("export {name}={}", quote_for_unix(value)),
            // Unlike an argument, a value without quotes would be a command (Microsoft Learn, "about_Environment_Variables").
            Self::PowerShell => format!("$env:{name} = '{}'", quotes_doubled(value)),
            Self::Cmd => format!("set {}", quote_for_cmd(&format!("{name}={value}"))),
        }
    }

    fn unset(self, name: &str) -> String {
        match self {
            Self::Unix => format!("unset {name}"),
            Self::PowerShell => format!("Remove-Item Env:{name}"),
            Self::Cmd => format!("set {name}="),
        }
    }
}

/// Quotes `text` as one word of a command for the user's shell.
pub(crate) fn shell_quote(text: &str) -> String {
    Syntax::of_user().quote(text)
}

/// Escapes `'`, `\` and `!` outside of the quotes: inside them, a backslash is an escape in fish, and `!` is the history in
/// tcsh. A `~` needs no quotes at the start of a path only, and zsh expands a word that starts with `=`.
fn quote_for_unix(text: &str) -> String {
    let rest = text.strip_prefix("~/").unwrap_or(text);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if !text.is_empty() && !text.starts_with('=') && rest.chars().all(is_plain) {
        return text.to_owned();
    }
    let quoted = |c: char| if "'\\!".contains(c) { format!("'\\{c}'") } else { c.to_string() };
    format!("'{}'", text.chars().map(quoted).collect::<String>())
}

/// Quotes `text` as one word of a command for PowerShell, in which four typographic quotes equal `'` (Microsoft Learn, "about_Quoting_Rules").
pub(crate) fn quote_for_powershell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/\\._-+:=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", quotes_doubled(text))
}

fn quotes_doubled(text: &str) -> String {
    text.replace(['\'', '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}'], "''")
}

/// Quotes `text` as one word for cmd, which reads it first, and for the program, which then splits its command line (Microsoft
/// Learn, "cmd" and "Parsing C command-line arguments"). cmd replaces `%NAME%` also inside quotes, and does not know `\"`:
/// with such a character, each special one gets a `^`, and cmd sees no quotes.
fn quote_for_cmd(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/\\._-+:=@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    let mut backslashes = 0;
    for c in text.chars() {
        if c == '"' {
            quoted += &"\\".repeat(backslashes + 1);
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
        quoted.push(c);
    }
    quoted += &"\\".repeat(backslashes);
    quoted.push('"');
    if !text.contains(['"', '%', '!']) {
        return quoted;
    }
    quoted.chars().flat_map(|c| "()%!^\"<>&|".contains(c).then_some('^').into_iter().chain([c])).collect()
}

/// Returns the command that sets an environment variable in the user's shell.
pub(crate) fn set_variable(name: &str, value: &str) -> String {
    Syntax::of_user().set(name, value)
}

/// Returns the command that removes an environment variable from the user's shell.
pub(crate) fn unset_variable(name: &str) -> String {
    Syntax::of_user().unset(name)
}

/// Returns whether a character controls a terminal, is invisible, or changes the order of the text around it.
///
/// Source: Unicode 16.0: the controls (Cc), `Default_Ignorable_Code_Point` of DerivedCoreProperties.txt (soft hyphen,
/// zero-width characters, bidirectional controls, variation selectors, fillers, tags), the line and paragraph separators
/// (Zl, Zp) and the interlinear annotations (U+FFF9 to U+FFFB). C1 controls are escape sequences too (ECMA-48, 5.3).
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Formats a line for each label and value, safe for a terminal. A field without a value has no line.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let fields = fields.iter().filter(|(_, value)| !value.is_empty());
    let width = fields.clone().map(|(label, _)| label.len()).max().unwrap_or_default();
    fields.map(|(label, value)| format!("{label:width$}  {}\n", sanitize(value))).collect()
}

/// Returns the lines of a text that fit into `columns`. A line ends after a word, or inside of one that is too long: if
/// possible, after a slash or a hyphen.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if width(line) + 1 + width(word) <= columns {
            *line += &format!(" {word}");
        } else {
            lines.push(word.to_owned());
        }
        while let Some(line) = lines.pop_if(|line| width(line) > columns) {
            let fitting = cut(&line, columns);
            let end = fitting.rfind(['/', '-']).filter(|at| *at > 0).map_or(fitting.len(), |at| at + 1);
            let first = line.chars().next().map_or(0, char::len_utf8);
            let (start, rest) = line.split_at(end.max(first));
            lines.push(start.to_owned());
            if rest.is_empty() {
                break;
            }
            lines.push(rest.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_are_replaced() {
        let replaced = replace_word("web1 and Web1: 'm/WEB1' of web10, my-web1", "web1", "MACHINE");
        assert_eq!(replaced, "MACHINE and MACHINE: 'm/MACHINE' of web10, my-web1");
        assert_eq!(replace_word("é", "", "x"), "é");
    }

    #[test]
    fn thousands_are_separated() {
        let numbers = [0, 999, 1000, 12_345, 1_000_000].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "12,345", "1,000,000"]);
    }

    #[test]
    fn a_line_ends_after_a_word_unless_the_word_is_too_long() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two three", 80), ["one two three"]);
        assert_eq!(wrap("at /subscriptions/s", 6), ["at", "/subsc", "riptio", "ns/s"]);
        assert_eq!(wrap("7e4a4700-0000-4000", 12), ["7e4a4700-", "0000-4000"]);
        assert_eq!(wrap("机器 机器 x", 5), ["机器", "机器", "x"]);
        assert_eq!(wrap("机器机", 3), ["机", "器", "机"]);
        assert_eq!(wrap("机 a", 1), ["机", "a"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn a_word_is_quoted_if_a_shell_would_change_it() {
        for plain in ["/subscriptions/s/resourceGroups/g_1/machines/web-01.x", "~/.ssh/config"] {
            assert_eq!(quote_for_unix(plain), plain);
        }
        for (text, quoted) in [
            ("rg (test)", "'rg (test)'"),
            ("it's; rm", r"'it'\''s; rm'"),
            ("", "''"),
            ("=ls", "'=ls'"),
            ("~root", "'~root'"),
            ("~/$(id)", "'~/$(id)'"),
            ("x!y", r"'x'\!'y'"),
            ("ü\u{3164}--x", "'ü\u{3164}--x'"),
        ] {
            assert_eq!(quote_for_unix(text), quoted);
        }
        for (text, quoted) in [
            (r"C:\Users\ada", r"C:\Users\ada"),
            ("rg (test)", "'rg (test)'"),
            ("it's; rm", "'it''s; rm'"),
            ("a\u{2019}; rm", "'a''; rm'"),
            ("@(id),b", "'@(id),b'"),
        ] {
            assert_eq!(quote_for_powershell(text), quoted);
        }
    }

    #[test]
    fn a_word_for_cmd_cannot_end_its_quotes_or_name_a_variable() {
        for (text, quoted) in [
            (r"C:\Users\ada", r"C:\Users\ada"),
            ("rg (test) & calc", "\"rg (test) & calc\""),
            ("it's", "\"it's\""),
            ("", "\"\""),
            (r"a b\", r#""a b\\""#),
            ("%PATH%", "^\"^%PATH^%^\""),
            (r#"a" & calc"#, r#"^"a\^" ^& calc^""#),
            (r#"\""#, r#"^"\\\^"^""#),
        ] {
            assert_eq!(quote_for_cmd(text), quoted);
        }
    }

    #[test]
    fn a_variable_is_set_in_the_syntax_of_each_shell() {
        use Syntax::{Cmd, PowerShell, Unix};
        let address = "http://PROXY:PORT";
        assert_eq!(Unix.set("HTTPS_PROXY", address), "export HTTPS_PROXY=http://PROXY:PORT");
        assert_eq!(Unix.set("A", "it's $x"), r"export A='it'\''s $x'");
        assert_eq!(Unix.unset("A"), "unset A");
        assert_eq!(PowerShell.set("HTTPS_PROXY", address), "$env:HTTPS_PROXY = 'http://PROXY:PORT'");
        assert_eq!(PowerShell.set("A", "it's $x"), "$env:A = 'it''s $x'");
        assert_eq!(PowerShell.unset("A"), "Remove-Item Env:A");
        assert_eq!(Cmd.set("HTTPS_PROXY", address), "set HTTPS_PROXY=http://PROXY:PORT");
        assert_eq!(Cmd.set("A", "x & y"), "set \"A=x & y\"");
        assert_eq!(Cmd.unset("A"), "set A=");
    }

    #[test]
    fn the_shell_on_windows_is_known_by_its_variables() {
        let with = |set: &'static [&str]| Syntax::on_windows(|name| set.contains(&name));
        assert_eq!(with(&[]), Syntax::PowerShell);
        assert_eq!(with(&["PROMPT"]), Syntax::Cmd);
        assert_eq!(with(&["MSYSTEM", "PROMPT"]), Syntax::Unix);
    }

    #[cfg(unix)]
    #[test]
    fn each_shell_reads_a_quoted_word_unchanged() {
        let text = "a'b\"c\\d\\'e$(id)`id`${HOME}!x;*? [a](b)&|<>#~%\\";
        let script = format!("printf %s {}", quote_for_unix(text));
        for shell in ["sh", "bash", "dash", "zsh", "fish", "tcsh"] {
            let output = std::process::Command::new(shell).args(["-c", &script]).output();
            let Ok(output) = output else { continue };
            assert_eq!(String::from_utf8_lossy(&output.stdout), text, "{shell}: {script}");
        }
    }

    #[test]
    fn sanitized_text_is_one_line_of_limited_length() {
        assert_eq!(sanitize("a\r\nb\u{1b}[2J\u{202e}ü"), "a  b [2J ü");
        assert_eq!(sanitize(&"x".repeat(5000)).chars().count(), MAX_LINE + 1);
    }

    /// One of each kind of unsafe character.
    const UNSAFE: [char; 30] = [
        '\0',
        '\u{7}',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{90}',
        '\u{9b}',
        '\u{9d}',
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{180e}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202a}',
        '\u{202e}',
        '\u{2060}',
        '\u{2064}',
        '\u{2066}',
        '\u{2069}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{fff9}',
        '\u{e0001}',
        '\u{e007f}',
    ];

    #[test]
    fn no_output_contains_an_unsafe_character() {
        let text: String = UNSAFE.iter().collect();
        assert_eq!(sanitize(&text), " ".repeat(UNSAFE.len()));
        assert_eq!(lines(&format!("a\tb{text}\n")), format!("a\tb{}\n", " ".repeat(UNSAFE.len())));
        let mut log = Log(Vec::new());
        log.write_all(format!("machine {text}é\n\n").as_bytes()).unwrap();
        let log = String::from_utf8(log.0).unwrap();
        assert!(log.starts_with("machine ") && log.ends_with("é\\n\n"), "{log}");
        assert!(!log.trim_end_matches('\n').contains(is_unsafe), "{log}");
        let value = serde_json::json!({ &*text: [text, "é机\n"] });
        let json = json_text(&value);
        assert!(!json.contains(is_unsafe) && json.contains("é机"), "{json}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
    }

    #[test]
    fn visible_characters_are_unchanged() {
        let text = "web-01 ü 机器 עברית 👍 e\u{301} 100 %";
        assert_eq!(sanitize(text), text);
        assert_eq!((width("机器"), width("e\u{301}"), width("web")), (4, 1, 3));
        assert_eq!((cut("a机器", 4), cut("web", 9), cut("机", 1)), ("a机", "web", ""));
    }

    #[test]
    fn a_shortened_line_fits_and_has_both_ends() {
        assert_eq!(shorten("contoso-prod-001", 9), "cont…-001");
        assert_eq!(shorten("contoso-prod-001", 16), "contoso-prod-001");
        assert_eq!(shorten("机器机器", 5), "机…器");
        assert_eq!(shorten("abce\u{301}", 3), "a…e\u{301}");
        for line in ["机器机器a", "👍🏽👍🏽👍🏽", "\u{301}\u{301}abc\u{301}\u{301}def", "لالالا", "x"]
        {
            for limit in 1..9 {
                let short = shorten(line, limit);
                assert!(width(&short) <= limit, "{line} in {limit}: {short}");
                assert_eq!(short.contains('…'), width(line) > limit);
            }
        }
    }
}
