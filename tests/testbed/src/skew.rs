//! A wall clock that a test sets, for one process. Its monotonic clock goes on as it is.
//!
//! A small library is loaded before the C library; no right is needed for that, and a time namespace of Linux has no
//! wall clock. It needs the C compiler that SQLite needs anyway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;

/// How far the wall clock of a process is from the true one.
#[derive(Debug)]
pub struct Skew {
    library: PathBuf,
    file: PathBuf,
}

impl Skew {
    /// Builds what is loaded, in `dir`. There is no difference yet.
    ///
    /// # Errors
    /// There is no C compiler, or it fails.
    pub fn new(dir: &Path) -> Result<Self> {
        let library = dir.join("skewed_clock.so");
        let source = dir.join("skewed_clock.c");
        fs::write(&source, include_str!("skewed_clock.c")).context("cannot write the clock")?;
        let output = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .context("cannot run the C compiler cc")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cc failed: {errors}");
        let skew = Self {
            library,
            file: dir.join("skew"),
        };
        skew.set(SignedDuration::ZERO)?;
        Ok(skew)
    }

    /// What the process must have in its environment.
    pub fn env(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("SKEW_FILE".to_owned(), text(&self.file)),
        ]
    }

    /// Sets the clock, in whole seconds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, by: SignedDuration) -> Result<()> {
        // A whole file takes the place of the old one: the process reads it at any time.
        let next = self.file.with_extension("next");
        fs::write(&next, by.as_secs().to_string()).context("cannot write the difference")?;
        fs::rename(&next, &self.file).context("cannot set the difference")
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_process_sees_the_clock_that_was_set() {
        let dir = TempDir::new().unwrap();
        let skew = Skew::new(dir.path()).unwrap();
        let ahead_s = || {
            let mut date = Command::new("date");
            let output = date.arg("+%s").envs(skew.env()).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.trim().parse::<i64>().unwrap() - Timestamp::now().as_second()
        };
        assert!(ahead_s().abs() < 60);
        skew.set(SignedDuration::from_hours(-1)).unwrap();
        assert!((ahead_s() + 3600).abs() < 60);
    }
}
