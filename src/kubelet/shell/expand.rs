//! Expands words: what a command is made of once its variables have their values.
//!
//! Owns the rules for fields and quotes. There are no patterns of file names: a `*` stays as it is.

use super::interpreter::Shell;
use super::parse::{Command, Part};
use super::variables::{Memory, OutOfMemory};

/// Values by the names that they are assigned to.
pub(super) type Assigned = Vec<(String, String)>;

impl Shell<'_> {
    /// The words and the assignments of a command.
    pub(super) fn expanded(
        &self,
        command: &Command,
        memory: &mut Memory,
    ) -> Result<(Vec<String>, Assigned), OutOfMemory> {
        let (mut words, mut assigned) = (Vec::new(), Vec::new());
        for word in &command.words {
            words.extend(self.fields(word, memory)?);
        }
        for (name, value) in &command.assignments {
            assigned.push((name.clone(), self.joined(value, memory)?));
        }
        Ok((words, assigned))
    }

    /// The fields that a word becomes: unquoted variables are split at their spaces.
    fn fields(&self, word: &[Part], memory: &mut Memory) -> Result<Vec<String>, OutOfMemory> {
        let (mut fields, mut field) = (Vec::new(), None::<String>);
        for part in word {
            let (text, quoted) = self.value(part);
            memory.take(text.len())?;
            if quoted || matches!(part, Part::Text { .. }) {
                field.get_or_insert_default().push_str(&text);
                continue;
            }
            if text.starts_with(char::is_whitespace) {
                fields.extend(field.take());
            }
            let mut pieces = text.split_whitespace().peekable();
            while let Some(piece) = pieces.next() {
                field.get_or_insert_default().push_str(piece);
                if pieces.peek().is_some() || text.ends_with(char::is_whitespace) {
                    memory.take(0)?;
                    fields.extend(field.take());
                }
            }
        }
        fields.extend(field);
        Ok(fields)
    }

    pub(super) fn joined(&self, word: &[Part], memory: &mut Memory) -> Result<String, OutOfMemory> {
        let mut joined = String::new();
        for part in word {
            let (text, _) = self.value(part);
            memory.take(text.len())?;
            joined.push_str(&text);
        }
        Ok(joined)
    }

    /// What a part stands for, and whether it is quoted.
    fn value(&self, part: &Part) -> (String, bool) {
        match part {
            Part::Text { text, quoted } => (text.clone(), *quoted),
            Part::Variable {
                name,
                default,
                quoted,
            } => {
                let value = match &**name {
                    "?" => self.status.to_string(),
                    "$" => "1".to_owned(),
                    "#" => self.args.len().saturating_sub(1).to_string(),
                    "@" | "*" => self.args.get(1..).unwrap_or_default().join(" "),
                    name => match name.parse::<usize>() {
                        Ok(number) => self.args.get(number).cloned().unwrap_or_default(),
                        Err(_) => self.variables.get(name).unwrap_or_default().to_owned(),
                    },
                };
                match default {
                    Some(default) if value.is_empty() => (default.clone(), *quoted),
                    _ => (value, *quoted),
                }
            }
        }
    }
}
