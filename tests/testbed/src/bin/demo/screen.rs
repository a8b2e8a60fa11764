//! How the demo looks: plain text for 120 columns, with colours when a terminal shows it.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use holdfast_testbed::PodRow;
use rustix::termios::tcgetwinsize;

/// What text is wrapped to, in characters; a narrower terminal wraps by itself.
const COLUMNS: usize = 120;

const PLAIN: &str = "0";
const BOLD: &str = "1";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    colour: bool,
    /// Characters of a row of pods that are shown.
    row_chars: usize,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let columns =
            terminal.then(|| tcgetwinsize(&stdout).map_or(COLUMNS, |it| it.ws_col.into()));
        let header = PodRow::HEADER;
        // The last two columns say nothing here; a terminal that cannot hold them would break every row.
        let narrow = header.find("NOMINATED NODE").unwrap_or(header.len());
        Self {
            colour: terminal,
            row_chars: match columns {
                Some(columns) if columns < header.len() => narrow,
                _ => header.len(),
            },
        }
    }

    /// Begins a part: what happens, and why one would look.
    pub(crate) fn heading(self, title: &str, why: &str) {
        self.line("");
        self.painted(BOLD, format!("== {title}"));
        self.text(why);
    }

    /// A paragraph.
    pub(crate) fn text(self, text: &str) {
        for line in wrap(text, COLUMNS) {
            self.line(line);
        }
    }

    /// A command that is run.
    pub(crate) fn command(self, command: &str) {
        self.painted(CYAN, format!("$ {command}"));
    }

    /// What a program wrote.
    pub(crate) fn output(self, text: &str) {
        text.lines().for_each(|line| self.line(line));
    }

    pub(crate) fn good(self, text: &str) {
        self.line("");
        self.painted(GREEN, text);
    }

    /// The head of the rows.
    pub(crate) fn row_header(self) {
        self.line(self.cut(PodRow::HEADER));
    }

    /// A pod as it stands now.
    pub(crate) fn row(self, row: &PodRow) {
        let row = row.to_string();
        self.line(self.cut(&row));
    }

    /// An event of a pod, the way `kubectl get events` orders its columns.
    pub(crate) fn event(self, kind: &str, reason: &str, pod: &str, message: &str) {
        let colour = if kind == "Warning" { YELLOW } else { GREEN };
        self.painted(colour, format!("{kind} {reason} pod/{pod}"));
        self.indented(message);
    }

    /// A line of the summary, green when the address was kept.
    pub(crate) fn verdict(self, kept: bool, line: &str, why: &str) {
        self.painted(if kept { GREEN } else { YELLOW }, line);
        self.indented(why);
    }

    fn indented(self, text: &str) {
        for line in wrap(text, COLUMNS - 4) {
            self.line(format!("    {line}"));
        }
    }

    fn cut(self, row: &str) -> &str {
        let end = row.char_indices().nth(self.row_chars);
        row[..end.map_or(row.len(), |(at, _)| at)].trim_end()
    }

    fn line(self, text: impl Display) {
        self.painted(PLAIN, text);
    }

    fn painted(self, colour: &str, text: impl Display) {
        // A reader that has enough, such as `head`, takes nothing away from the checks.
        let _ = if self.colour && colour != PLAIN {
            writeln!(io::stdout(), "\x1b[{colour}m{text}\x1b[0m")
        } else {
            writeln!(io::stdout(), "{text}")
        };
    }
}

/// Lines of at most `columns` characters, but for a word that is longer.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words_and_a_long_word_has_a_line_of_its_own() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a abcdefghij b", 5), ["a", "abcdefghij", "b"]);
        assert!(wrap(" \n", 5).is_empty());
    }

    #[test]
    fn a_row_is_cut_after_a_whole_column_when_the_terminal_is_narrow() {
        let screen = |row_chars| Screen {
            colour: false,
            row_chars,
        };
        let narrow = PodRow::HEADER.find("NOMINATED NODE").unwrap();
        assert!(screen(narrow).cut(PodRow::HEADER).ends_with(" NODE"));
        assert_eq!(screen(500).cut(PodRow::HEADER), PodRow::HEADER);
    }
}
