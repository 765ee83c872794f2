//! A list on the terminal from which the user picks lines. Typing filters it.
//!
//! It uses the `console` crate, as the progress does. `dialoguer` finds the picked line by its text, which is ambiguous when
//! a narrow terminal shortens names; `inquire` and `nucleo-picker` bring a second terminal library.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, stderr, stdin};

use console::{Key, Term};
use tokio::task::spawn_blocking;

use crate::terminal::TerminalError;
use crate::terminal::palette::{COMMAND, Colors};
use crate::text::{cut, grouped, is_unsafe, sanitize, shorten, width};

/// The most lines that are visible at once.
const MAX_VISIBLE: usize = 12;
/// The control characters of readline(3) for the previous line, the next line, an empty filter and the end of the input.
const PREVIOUS: char = '\x10';
const NEXT: char = '\x0e';
const DELETE_ALL: char = '\x15';
const END: char = '\x04';

/// How many lines the user can pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Exactly one.
    One,
    /// At least one.
    Several,
}

/// Returns whether the user can pick from a list: at a terminal that can move its cursor.
pub(crate) fn is_possible() -> bool {
    let is_capable = match std::env::var_os("TERM") {
        Some(term) => !term.is_empty() && term != "dumb",
        None => cfg!(windows),
    };
    is_capable && stdin().is_terminal() && stderr().is_terminal()
}

/// Returns the positions of the lines that the user picks.
///
/// # Errors
/// The user picks none, or the terminal cannot be read.
pub(crate) async fn pick(lines: Vec<String>, choice: Choice) -> Result<Vec<usize>, TerminalError> {
    let _modes = Modes::for_keys();
    // A thread reads the keys, so that a signal ends arcssh.
    let picked = spawn_blocking(move || List::new(&lines, choice).run(&Term::stderr())).await;
    let picked = picked.map_err(io::Error::other).and_then(|picked| picked).map_err(TerminalError::Stdin)?;
    picked.ok_or(TerminalError::NothingPicked)
}

/// The modes of the terminal. While the value exists, the terminal passes on each key and shows none, as `console` requires
/// while it reads one. They are restored when the value is dropped, also after a signal.
struct Modes {
    #[cfg(unix)]
    saved: Option<rustix::termios::Termios>,
}

impl Modes {
    fn for_keys() -> Self {
        #[cfg(unix)]
        {
            use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
            let saved = tcgetattr(stdin()).ok();
            if let Some(modes) = &saved {
                let mut raw = modes.clone();
                raw.make_raw();
                raw.output_modes = modes.output_modes;
                let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
            }
            Self { saved }
        }
        #[cfg(not(unix))]
        Self {}
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(saved) = &self.saved {
            let _ = rustix::termios::tcsetattr(stdin(), rustix::termios::OptionalActions::Now, saved);
        }
    }
}

/// The list and its state.
struct List {
    /// Each line, and the same in lower case.
    lines: Vec<(String, String)>,
    choice: Choice,
    filter: String,
    /// The lines that match the filter, the best first.
    matching: Vec<usize>,
    /// The lines that the user marked to pick several.
    marked: BTreeSet<usize>,
    /// The current and the first visible one of the matching lines.
    current: usize,
    first: usize,
}

impl List {
    fn new(lines: &[String], choice: Choice) -> Self {
        let lines: Vec<(String, String)> =
            lines.iter().map(|line| (sanitize(line), line.to_lowercase())).collect();
        let matching = (0..lines.len()).collect();
        let (filter, marked) = (String::new(), BTreeSet::new());
        Self { lines, choice, filter, matching, marked, current: 0, first: 0 }
    }

    /// Shows the list until the user has picked lines, or none.
    fn run(mut self, terminal: &Term) -> io::Result<Option<Vec<usize>>> {
        let colors = Colors::of(&stderr());
        loop {
            let rows = self.draw(terminal, colors)?;
            let key = terminal.read_key_raw();
            terminal.clear_line()?;
            terminal.move_cursor_up(rows)?;
            terminal.clear_to_end_of_screen()?;
            match key? {
                Key::Escape | Key::CtrlC | Key::Char(END) => return Ok(None),
                // Esc, and a key that arrived before Esc was read.
                Key::UnknownEscSeq(keys) if matches!(keys[..], ['\x1b' | '\x03' | END]) => return Ok(None),
                Key::Enter if !self.marked.is_empty() => return Ok(Some(self.marked.into_iter().collect())),
                Key::Enter => {
                    if let Some(line) = self.matching.get(self.current) {
                        return Ok(Some(vec![*line]));
                    }
                }
                key => self.press(&key),
            }
        }
    }

    /// Changes the list after a key that does not end it.
    fn press(&mut self, key: &Key) {
        let last = self.matching.len().saturating_sub(1);
        match key {
            Key::ArrowUp | Key::BackTab | Key::Char(PREVIOUS) => {
                self.current = self.current.saturating_sub(1)
            }
            Key::ArrowDown | Key::Char(NEXT) => self.current = last.min(self.current + 1),
            Key::PageUp => self.current = self.current.saturating_sub(MAX_VISIBLE),
            Key::PageDown => self.current = last.min(self.current + MAX_VISIBLE),
            Key::Home => self.current = 0,
            Key::End => self.current = last,
            Key::Tab if self.choice == Choice::Several => {
                if let Some(line) = self.matching.get(self.current)
                    && !self.marked.remove(line)
                {
                    self.marked.insert(*line);
                }
                self.current = last.min(self.current + 1);
            }
            Key::Tab => self.current = last.min(self.current + 1),
            Key::Backspace => {
                self.filter.pop();
                self.search();
            }
            Key::Char(DELETE_ALL) => {
                self.filter.clear();
                self.search();
            }
            Key::Char(c) if !is_unsafe(*c) => {
                self.filter.push(*c);
                self.search();
            }
            _ => {}
        }
    }

    /// Selects the lines that contain each word of the filter, the best first.
    fn search(&mut self) {
        let filter = self.filter.to_lowercase();
        let words: Vec<&str> = filter.split_whitespace().collect();
        let rank = |line: &str| words.iter().map(|word| distance(line, word)).sum::<Option<usize>>();
        let found = self.lines.iter().enumerate().filter_map(|(at, (_, lower))| Some((rank(lower)?, at)));
        let mut found: Vec<(usize, usize)> = found.collect();
        found.sort_unstable();
        self.matching = found.into_iter().map(|(_, at)| at).collect();
        (self.current, self.first) = (0, 0);
    }

    /// Writes the visible lines, the keys and the filter, at whose end the cursor stays. Returns the number of lines above it.
    fn draw(&mut self, terminal: &Term, colors: Colors) -> io::Result<usize> {
        let (rows, columns) = terminal.size();
        // A character in the last column wraps the line on some terminals.
        let columns = usize::from(columns).saturating_sub(1).max(1);
        let visible = MAX_VISIBLE.min(usize::from(rows).saturating_sub(3)).max(1);
        self.first = self.first.clamp((self.current + 1).saturating_sub(visible), self.current);
        let shown = self.matching.iter().enumerate().skip(self.first).take(visible);
        let mut text = String::new();
        for (at, line) in shown.clone() {
            let mark = if self.marked.contains(line) { '*' } else { ' ' };
            let pointer = if at == self.current { '>' } else { ' ' };
            let row = fitted(&self.lines[*line].0, columns.saturating_sub(2));
            let row = format!("{pointer}{mark}{row}");
            let row = cut(&row, columns);
            text += &if at == self.current { colors.paint(COMMAND, row) } else { row.to_owned() };
            text.push('\n');
        }
        let keys = match self.choice {
            Choice::One => "Enter picks, Esc quits",
            Choice::Several => "Enter picks, Tab marks, Esc quits",
        };
        let (matching, all) = (grouped(self.matching.len()), grouped(self.lines.len()));
        let short = format!("  {matching} of {all}");
        let lines = [format!("{short} machines: {keys}"), format!("{short}: {keys}"), format!("  {keys}")];
        let fitting = lines.iter().find(|line| width(line) <= columns);
        text += &format!("{}\n", fitting.map_or(cut(&short, columns), String::as_str));
        text += &shorten(&format!("Filter: {}", self.filter), columns);
        terminal.write_str(&text)?;
        Ok(shown.count() + 1)
    }
}

/// Returns a line that fits into `columns`. Its first column is the name, of which beginning and end remain.
fn fitted(line: &str, columns: usize) -> String {
    let name = line.split("  ").next().unwrap_or_default();
    if width(name) > columns { shorten(name, columns) } else { cut(line, columns).to_owned() }
}

/// Returns how far a line is from a word: 0 if it contains the word at its beginning. The characters of the word are in the
/// line in the same order. `None` if one is missing.
fn distance(line: &str, word: &str) -> Option<usize> {
    if let Some(at) = line.find(word) {
        return Some(at);
    }
    let mut rest = line.chars();
    let gaps: usize = word.chars().map(|c| rest.position(|other| other == c)).sum::<Option<usize>>()?;
    Some(line.len() + gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(filter: &str) -> Vec<String> {
        let lines = ["db01  rg-db", "web01  rg-web", "web10  rg-web", "Wörter  rg-x"].map(str::to_owned);
        let mut list = List::new(&lines, Choice::One);
        filter.chars().for_each(|c| list.press(&Key::Char(c)));
        list.matching.iter().map(|at| lines[*at].clone()).collect()
    }

    #[test]
    fn the_filter_finds_parts_of_words_and_skipped_letters_in_any_case() {
        assert_eq!(shown("").len(), 4);
        assert_eq!(shown("WEB"), ["web01  rg-web", "web10  rg-web"]);
        assert_eq!(shown("w1"), ["web10  rg-web", "web01  rg-web"], "the nearest first");
        assert_eq!(shown("web 01"), ["web01  rg-web"]);
        assert_eq!(shown("rg-db"), ["db01  rg-db"]);
        assert_eq!(shown("wö"), ["Wörter  rg-x"]);
        assert!(shown("webx").is_empty());
    }

    #[test]
    fn keys_move_and_mark_only_within_the_list() {
        let lines: Vec<String> = (0..30).map(|number| format!("m{number:02}")).collect();
        let mut list = List::new(&lines, Choice::Several);
        for (key, current) in [
            (Key::ArrowUp, 0),
            (Key::Tab, 1),
            (Key::PageDown, 1 + MAX_VISIBLE),
            (Key::End, 29),
            (Key::ArrowDown, 29),
            (Key::Tab, 29),
            (Key::Home, 0),
            (Key::Tab, 1),
        ] {
            list.press(&key);
            assert_eq!(list.current, current, "{key:?}");
        }
        assert_eq!(list.marked, BTreeSet::from([29]), "Tab on a marked line removes the mark");
        list.press(&Key::Char('\u{202e}'));
        assert_eq!(list.filter, "");
        "zz".chars().for_each(|c| list.press(&Key::Char(c)));
        list.press(&Key::Tab);
        list.press(&Key::ArrowDown);
        assert_eq!((list.current, list.matching.len()), (0, 0));
        list.press(&Key::Char(DELETE_ALL));
        assert_eq!(list.matching.len(), 30);
    }
}
