//! Where control planes keep etcd's data, certificates and logs while they run.
//!
//! A directory is removed with its owner; when the owner was killed, by the next process that makes one. A lock inside
//! the directory says whether its owner lives: the kernel gives it back when the owner ends.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::go_program;

const OWNER: &str = "owner.lock";

/// A directory that belongs to this process.
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: TempDir,
    _owned: File,
}

impl StateDir {
    /// Makes a directory under the workspace's target directory and removes those whose owner is gone.
    pub(crate) fn create() -> Result<Self> {
        let root = go_program::cache_dir().join("state");
        let create = || -> std::io::Result<Self> {
            fs::create_dir_all(&root)?;
            // Without this, a sweep could meet a directory between its making and its locking.
            let sweep = File::create(root.join("lock"))?;
            sweep.lock()?;
            remove_ownerless(&root)?;
            let dir = tempfile::Builder::new()
                .prefix("plane-")
                .tempdir_in(&root)?;
            let owned = File::create(dir.path().join(OWNER))?;
            owned.lock()?;
            Ok(Self { dir, _owned: owned })
        };
        create().with_context(|| format!("cannot make a state directory in {}", root.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn remove_ownerless(root: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let lives = match File::open(path.join(OWNER)) {
            Ok(lock) => matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            Err(_) => false,
        };
        if !lives {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_when_its_owner_does_and_not_before() {
        let root = TempDir::new().unwrap();
        let plane = root.path().join("plane-1");
        fs::create_dir(&plane).unwrap();
        let owner = File::create(plane.join(OWNER)).unwrap();
        owner.lock().unwrap();

        remove_ownerless(root.path()).unwrap();
        assert!(plane.exists(), "its owner lives");

        drop(owner);
        remove_ownerless(root.path()).unwrap();
        assert!(!plane.exists(), "its owner is gone");
    }
}
