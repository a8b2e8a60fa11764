//! The grammar of the simulated shell: a small part of POSIX's (XCU chapter 2).
//!
//! Owns words, quotes, variables, lists, pipelines and redirections. What is left out is refused by
//! name, so that nobody takes a wrong answer for a right one. It runs nothing, and how long a script may be
//! is for those to say who give it its memory.

use super::variables::OutOfMemory;

/// Pipelines, each with what decides whether it runs.
pub(super) type Script = Vec<(When, Pipeline)>;

/// When a pipeline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// After `&&`.
    Succeeded,
    /// After `||`.
    Failed,
}

/// Commands, each of which reads what the one before it writes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pipeline {
    pub(super) negated: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) assignments: Vec<(String, Word)>,
    pub(super) words: Vec<Word>,
    pub(super) redirections: Vec<Redirection>,
}

pub(super) type Word = Vec<Part>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text {
        text: String,
        quoted: bool,
    },
    Variable {
        name: String,
        /// For when it is not set or empty.
        default: Option<String>,
        quoted: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) kind: Direction,
    pub(super) target: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// `<`
    From,
    /// `>` and `>>`, of stdout or with `2` of stderr.
    To { stderr: bool, append: bool },
    /// `2>&1`
    StderrToStdout,
    /// `>&2`
    StdoutToStderr,
}

/// Why a script cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SyntaxError {
    /// More input could make it whole.
    #[error("syntax error: unterminated quoted string")]
    Unterminated,
    #[error("syntax error: {0:?} unexpected")]
    Unexpected(String),
    #[error("syntax error: bad substitution: {0}")]
    BadSubstitution(String),
    #[error("syntax error: {0} is not supported in this simulated container")]
    Unsupported(&'static str),
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Words that begin a compound command.
const COMPOUND: [&str; 14] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "{",
    "}",
];

pub(super) fn parse(text: &str) -> Result<Script, SyntaxError> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Lexer { characters, at: 0 }.tokens()?.into_iter().peekable();
    let (mut script, mut when) = (Script::new(), When::Always);
    let mut pipeline = Pipeline::default();
    let mut command = Command::default();
    let mut piped = false;
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => place(&mut pipeline, &mut command, word)?,
            Token::Redirect(kind, name) => {
                let target = match (kind, tokens.next_if(|next| matches!(next, Token::Word(_)))) {
                    (Direction::StderrToStdout | Direction::StdoutToStderr, None) => Word::new(),
                    (Direction::From | Direction::To { .. }, Some(Token::Word(word))) => word,
                    (_, Some(Token::Word(word))) => {
                        place(&mut pipeline, &mut command, word)?;
                        Word::new()
                    }
                    _ => return Err(SyntaxError::Unexpected(name.to_owned())),
                };
                command.redirections.push(Redirection { kind, target });
            }
            Token::Operator(name) => {
                let empty = command == Command::default();
                if empty && (name == "|" || name == "&&" || name == "||" || name == ";" || piped) {
                    // A line may go on after `|`, `&&` and `||`.
                    if name == "\n" {
                        continue;
                    }
                    return Err(SyntaxError::Unexpected(name.to_owned()));
                }
                if empty && name == "\n" && when != When::Always {
                    continue;
                }
                if !empty {
                    pipeline.commands.push(std::mem::take(&mut command));
                }
                piped = name == "|";
                if piped {
                    continue;
                }
                if !pipeline.commands.is_empty() {
                    script.push((when, std::mem::take(&mut pipeline)));
                }
                when = match name {
                    "&&" => When::Succeeded,
                    "||" => When::Failed,
                    _ => When::Always,
                };
            }
        }
    }
    if command == Command::default() {
        if piped || when != When::Always || pipeline.negated {
            return Err(SyntaxError::Unexpected("end of file".to_owned()));
        }
    } else {
        pipeline.commands.push(command);
        script.push((when, pipeline));
    }
    Ok(script)
}

/// Puts a word where it belongs in the command.
fn place(pipeline: &mut Pipeline, command: &mut Command, word: Word) -> Result<(), SyntaxError> {
    let plain = match &*word {
        [
            Part::Text {
                text,
                quoted: false,
            },
        ] => Some(text.as_str()),
        _ => None,
    };
    if command.words.is_empty() {
        if let Some(text) = plain {
            if COMPOUND.contains(&text) {
                return Err(SyntaxError::Unsupported(
                    "a compound command (if, for, while, case, {})",
                ));
            }
            let first = *command == Command::default() && pipeline.commands.is_empty();
            if text == "!" && first && !pipeline.negated {
                pipeline.negated = true;
                return Ok(());
            }
        }
        if let Some((name, value)) = assignment(&word) {
            command.assignments.push((name, value));
            return Ok(());
        }
    }
    command.words.push(word);
    Ok(())
}

/// `NAME=value`, as name and value.
pub(super) fn assignment(word: &[Part]) -> Option<(String, Word)> {
    let Some((
        Part::Text {
            text,
            quoted: false,
        },
        rest,
    )) = word.split_first()
    else {
        return None;
    };
    let (name, value) = text.split_once('=')?;
    if !is_name(name) {
        return None;
    }
    let first = Part::Text {
        text: value.to_owned(),
        // A value is not split at its spaces.
        quoted: true,
    };
    Some((
        name.to_owned(),
        std::iter::once(first).chain(rest.iter().cloned()).collect(),
    ))
}

/// Whether a variable can have this name.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(is_name_character)
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

enum Token {
    Word(Word),
    Operator(&'static str),
    Redirect(Direction, &'static str),
}

struct Lexer {
    characters: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn take(&mut self, text: &str) -> bool {
        let matches = text
            .chars()
            .enumerate()
            .all(|(n, c)| self.peek(n) == Some(c));
        if matches {
            self.at += text.chars().count();
        }
        matches
    }

    fn tokens(mut self) -> Result<Vec<Token>, SyntaxError> {
        const REDIRECTIONS: [(&str, Direction); 10] = [
            ("2>&1", Direction::StderrToStdout),
            ("1>&2", Direction::StdoutToStderr),
            (">&2", Direction::StdoutToStderr),
            (
                "2>>",
                Direction::To {
                    stderr: true,
                    append: true,
                },
            ),
            (
                "2>",
                Direction::To {
                    stderr: true,
                    append: false,
                },
            ),
            (
                "1>>",
                Direction::To {
                    stderr: false,
                    append: true,
                },
            ),
            (
                "1>",
                Direction::To {
                    stderr: false,
                    append: false,
                },
            ),
            (
                ">>",
                Direction::To {
                    stderr: false,
                    append: true,
                },
            ),
            (
                ">",
                Direction::To {
                    stderr: false,
                    append: false,
                },
            ),
            ("<", Direction::From),
        ];
        let mut tokens = Vec::new();
        'tokens: while let Some(character) = self.peek(0) {
            if character == ' ' || character == '\t' || character == '\r' {
                self.at += 1;
                continue;
            }
            if self.take("\\\n") {
                continue;
            }
            if character == '#' {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
                continue;
            }
            for operator in ["&&", "||", "|", ";", "\n"] {
                if self.take(operator) {
                    tokens.push(Token::Operator(operator));
                    continue 'tokens;
                }
            }
            for (unsupported, name) in [
                ("<<", "a here-document (<<)"),
                ("&", "a command in the background (&)"),
                ("(", "a subshell ( )"),
                (")", "a subshell ( )"),
            ] {
                if self.take(unsupported) {
                    return Err(SyntaxError::Unsupported(name));
                }
            }
            for (text, direction) in REDIRECTIONS {
                if self.take(text) {
                    tokens.push(Token::Redirect(direction, text));
                    continue 'tokens;
                }
            }
            tokens.push(Token::Word(self.word()?));
        }
        Ok(tokens)
    }

    fn word(&mut self) -> Result<Word, SyntaxError> {
        let mut word = Word::new();
        while let Some(character) = self.peek(0) {
            match character {
                ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => break,
                '\'' => {
                    self.at += 1;
                    let end = self.characters[self.at..].iter().position(|c| *c == '\'');
                    let end = self.at + end.ok_or(SyntaxError::Unterminated)?;
                    let text = self.characters[self.at..end].iter().collect();
                    word.push(Part::Text { text, quoted: true });
                    self.at = end + 1;
                }
                '"' => {
                    self.at += 1;
                    self.double_quoted(&mut word)?;
                }
                '\\' => {
                    let next = self.peek(1).ok_or(SyntaxError::Unterminated)?;
                    self.at += 2;
                    if next != '\n' {
                        push(&mut word, next, true);
                    }
                }
                '$' => self.dollar(&mut word, false)?,
                '`' => return Err(SyntaxError::Unsupported("command substitution (``)")),
                character => {
                    self.at += 1;
                    push(&mut word, character, false);
                }
            }
        }
        Ok(word)
    }

    fn double_quoted(&mut self, word: &mut Word) -> Result<(), SyntaxError> {
        word.push(Part::Text {
            text: String::new(),
            quoted: true,
        });
        loop {
            match self.peek(0).ok_or(SyntaxError::Unterminated)? {
                '"' => {
                    self.at += 1;
                    return Ok(());
                }
                '$' => self.dollar(word, true)?,
                '`' => return Err(SyntaxError::Unsupported("command substitution (``)")),
                '\\' if matches!(self.peek(1), Some('$' | '`' | '"' | '\\' | '\n')) => {
                    if let Some(next) = self.peek(1).filter(|next| *next != '\n') {
                        push(word, next, true);
                    }
                    self.at += 2;
                }
                character => {
                    self.at += 1;
                    push(word, character, true);
                }
            }
        }
    }

    fn dollar(&mut self, word: &mut Word, quoted: bool) -> Result<(), SyntaxError> {
        self.at += 1;
        let variable = |name: String, default| Part::Variable {
            name,
            default,
            quoted,
        };
        match self.peek(0) {
            Some('(') => Err(SyntaxError::Unsupported("command substitution $( )")),
            Some('{') => {
                let rest = &self.characters[self.at + 1..];
                let end = rest.iter().position(|c| *c == '}');
                let end = end.ok_or(SyntaxError::Unterminated)?;
                let inner: String = rest[..end].iter().collect();
                self.at += end + 2;
                let (name, default) = match inner.split_once(":-") {
                    Some((name, default)) => (name, Some(default.to_owned())),
                    None => (&*inner, None),
                };
                if !is_name(name) && !is_special(name) {
                    return Err(SyntaxError::BadSubstitution(format!("${{{inner}}}")));
                }
                word.push(variable(name.to_owned(), default));
                Ok(())
            }
            Some(character) if is_special(&character.to_string()) => {
                self.at += 1;
                word.push(variable(character.to_string(), None));
                Ok(())
            }
            Some(character) if character.is_ascii_alphabetic() || character == '_' => {
                let rest = &self.characters[self.at..];
                let end = rest.iter().position(|c| !is_name_character(*c));
                let end = end.unwrap_or(rest.len());
                word.push(variable(rest[..end].iter().collect(), None));
                self.at += end;
                Ok(())
            }
            _ => {
                push(word, '$', quoted);
                Ok(())
            }
        }
    }
}

fn is_special(name: &str) -> bool {
    let mut characters = name.chars();
    matches!(
        (characters.next(), characters.next()),
        (Some('?' | '$' | '#' | '@' | '*' | '0'..='9'), None)
    )
}

fn push(word: &mut Word, character: char, is_quoted: bool) {
    match word.last_mut() {
        Some(Part::Text { text, quoted }) if *quoted == is_quoted => text.push(character),
        _ => word.push(Part::Text {
            text: character.into(),
            quoted: is_quoted,
        }),
    }
}
