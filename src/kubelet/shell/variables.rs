//! The variables of a shell, and the memory of a shell.
//!
//! Owns the one bound on what a shell has in mind: its variables together with the words that its
//! command is made of. What a command reads and writes is bounded where it does so.

use std::collections::BTreeMap;
use std::io;

use crate::kubelet::scratch::{CONTAINER_BYTES_MAX, Full, Reserved, Scratch};

/// Most memory of a shell.
const BYTES_MAX: usize = 4 << 20;
/// What a variable or a word costs besides its text.
const OVERHEAD_BYTES: usize = 64;

/// There is no memory for what was asked, as a shell says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory")]
pub(super) struct OutOfMemory;

impl From<Full> for OutOfMemory {
    fn from(_: Full) -> Self {
        Self
    }
}

impl From<OutOfMemory> for io::Error {
    fn from(error: OutOfMemory) -> Self {
        Self::new(io::ErrorKind::OutOfMemory, error)
    }
}

#[derive(Clone)]
struct Variable {
    value: String,
    exported: bool,
}

/// The variables of a shell.
pub(super) struct Variables {
    values: BTreeMap<String, Variable>,
    room: Reserved,
}

impl Variables {
    pub(super) fn new(
        scratch: &Scratch,
        exported: &[(String, String)],
    ) -> Result<Self, OutOfMemory> {
        let variables = Self {
            values: BTreeMap::new(),
            room: scratch.shell_room(BYTES_MAX),
        };
        let mut exported = exported.iter();
        exported.try_fold(variables, |variables, (name, value)| {
            variables.with(name, value.clone())
        })
    }

    /// The same variables in other memory.
    pub(super) fn copy(&self, scratch: &Scratch) -> Result<Self, OutOfMemory> {
        let mut room = scratch.shell_room(BYTES_MAX);
        room.grow(self.room.bytes())?;
        let values = self.values.clone();
        Ok(Self { values, room })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|variable| &*variable.value)
    }

    pub(super) fn set(
        &mut self,
        name: &str,
        value: String,
        export: bool,
    ) -> Result<(), OutOfMemory> {
        self.room.grow(cost(name, &value))?;
        let exported = export || self.values.get(name).is_some_and(|old| old.exported);
        let variable = Variable { value, exported };
        if let Some(old) = self.values.insert(name.to_owned(), variable) {
            self.room.shrink(cost(name, &old.value));
        }
        Ok(())
    }

    /// As [`set`](Self::set), for a command to see.
    pub(super) fn with(mut self, name: &str, value: String) -> Result<Self, OutOfMemory> {
        self.set(name, value, true)?;
        Ok(self)
    }

    pub(super) fn unset(&mut self, name: &str) {
        if let Some(old) = self.values.remove(name) {
            self.room.shrink(cost(name, &old.value));
        }
    }

    /// Those that commands see.
    pub(super) fn exported(&self) -> impl Iterator<Item = (&str, &str)> {
        let exported = self.values.iter().filter(|(_, variable)| variable.exported);
        exported.map(|(name, variable)| (&**name, &*variable.value))
    }

    /// The memory that is left, for words.
    pub(super) fn memory(&self, scratch: &Scratch) -> Memory {
        Memory(scratch.shell_room(BYTES_MAX.saturating_sub(self.room.bytes())))
    }
}

fn cost(name: &str, value: &str) -> usize {
    OVERHEAD_BYTES + name.len() + value.len()
}

/// Memory for what a command is made of, until it is done.
pub(super) struct Memory(Reserved);

impl Memory {
    /// What a script takes when it is taken apart: as much as its shortest words for each character.
    pub(super) fn of_script(scratch: &Scratch, text: &str) -> Result<Self, OutOfMemory> {
        const CHARACTER_BYTES: usize = 200;
        let mut room = scratch.shell_room(CONTAINER_BYTES_MAX);
        room.grow(text.len().saturating_mul(CHARACTER_BYTES))?;
        Ok(Self(room))
    }

    /// For what a command keeps of what it reads.
    pub(super) fn of_input(scratch: &Scratch, bytes_max: usize) -> Self {
        Self(scratch.shell_room(bytes_max))
    }

    /// Takes as much as a text needs.
    pub(super) fn take(&mut self, text_bytes: usize) -> Result<(), OutOfMemory> {
        Ok(self.0.grow(OVERHEAD_BYTES + text_bytes)?)
    }

    /// Gives back what a text needed.
    pub(super) fn give_back(&mut self, text_bytes: usize) {
        self.0.shrink(OVERHEAD_BYTES + text_bytes);
    }
}
