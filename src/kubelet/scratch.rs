//! What was written in simulated containers: files that outlive an exec.
//!
//! Owns the files of all containers and their bounds. They are gone when their pod is, when holdfast
//! restarts, and when there are too many: the longest unused go first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tree::{Node, Tree, TreePath};

/// Most bytes of one container's files.
pub const CONTAINER_BYTES_MAX: usize = 32 << 20;
/// Most bytes of all containers' files, and as much again for what all shells have in mind.
pub const TOTAL_BYTES_MAX: usize = 128 << 20;
/// Most containers whose files are kept.
pub const CONTAINERS_MAX: usize = 1024;
/// Most entries of one container's files.
const ENTRIES_MAX: usize = 4096;
/// Longest path, as Linux has it.
const PATH_MAX: usize = 4096;
/// What an entry costs besides its content and its path.
const ENTRY_BYTES: usize = 256;
/// What each part of its path costs besides its name.
const PART_BYTES: usize = 48;
/// What a shell has however much the others have, so that short commands always run.
const SHELL_BYTES_FREE: usize = 16 << 10;

/// There is no room for what was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("No space left on device")]
pub struct Full;

/// The files of all containers. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct ScratchStore {
    kept: Arc<Mutex<Kept>>,
    used: Arc<AtomicUsize>,
    /// By shells, which come and go: no files are dropped for them.
    used_by_shells: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Kept {
    scratches: HashMap<(String, String), (Scratch, u64)>,
    uses: u64,
}

impl ScratchStore {
    /// The files of a container, none if it is not known.
    pub fn of(&self, pod_uid: &str, container: &str) -> Scratch {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        let key = (pod_uid.to_owned(), container.to_owned());
        if let Some((scratch, used_at)) = kept.scratches.get_mut(&key) {
            *used_at = now;
            return scratch.clone();
        }
        while kept.scratches.len() >= CONTAINERS_MAX
            || self.used.load(Ordering::Relaxed) > TOTAL_BYTES_MAX / 2
        {
            let unused = kept
                .scratches
                .iter()
                .filter(|(_, (one, _))| one.is_unused());
            let Some((oldest, _)) = unused.min_by_key(|(_, (_, used_at))| *used_at) else {
                break;
            };
            let oldest = oldest.clone();
            kept.scratches.remove(&oldest);
        }
        let scratch = Scratch::new(Arc::clone(&self.used), Arc::clone(&self.used_by_shells));
        // With all of them in use there is no place left: this one lasts as long as its exec.
        if kept.scratches.len() < CONTAINERS_MAX {
            kept.scratches.insert(key, (scratch.clone(), now));
        }
        scratch
    }

    /// Drops the files of a pod that is gone. An exec that still runs there keeps its own until it
    /// ends.
    pub fn forget(&self, pod_uid: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.scratches.retain(|(uid, _), _| uid != pod_uid);
    }
}

/// The files of one container. Clones are the same files.
#[derive(Clone, Debug)]
pub struct Scratch {
    files: Arc<Mutex<Files>>,
    used_by_shells: Arc<AtomicUsize>,
}

/// The files, while nobody else changes them.
#[derive(Debug)]
pub struct Files {
    tree: Tree,
    reserved: Reserved,
}

impl Scratch {
    fn new(total: Arc<AtomicUsize>, used_by_shells: Arc<AtomicUsize>) -> Self {
        let reserved = Reserved::new(total, CONTAINER_BYTES_MAX, 0);
        let files = Files {
            tree: Tree::default(),
            reserved,
        };
        Self {
            files: Arc::new(Mutex::new(files)),
            used_by_shells,
        }
    }

    /// The files; to be let go soon, and never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room that counts against all containers' files, for what is still on its way into one.
    pub fn room(&self) -> Reserved {
        let total = Arc::clone(&self.lock().reserved.total);
        Reserved::new(total, CONTAINER_BYTES_MAX, 0)
    }

    /// Room for what a shell has in mind, which counts against that of all shells but for the little that
    /// each needs.
    pub fn shell_room(&self, bytes_max: usize) -> Reserved {
        Reserved::new(
            Arc::clone(&self.used_by_shells),
            bytes_max,
            SHELL_BYTES_FREE,
        )
    }

    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.files) == 1
    }
}

impl Files {
    /// What was written.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Writes an entry.
    pub fn insert(&mut self, path: TreePath, node: Node) -> Result<(), Full> {
        if path.to_string().len() > PATH_MAX {
            return Err(Full);
        }
        let above = self.tree.missing_above(&path);
        let entries = || above.iter().chain([&path]);
        let old = |path| self.tree.get(path);
        let new = entries().filter(|path| old(path).is_none()).count();
        if self.tree.len() + new > ENTRIES_MAX {
            return Err(Full);
        }
        let wanted = node.size() + entries().map(overhead).sum::<usize>();
        let freed = entries()
            .filter_map(|path| Some(cost(path, old(path)?)))
            .sum();
        self.reserved.grow(wanted.saturating_sub(freed))?;
        self.reserved.shrink(freed.saturating_sub(wanted));
        self.tree.insert(path, node);
        Ok(())
    }

    /// Takes away an entry and all below it; returns how many there were.
    pub fn remove(&mut self, path: &TreePath) -> usize {
        let costs = self.tree.within(path).map(|(path, node)| cost(path, node));
        self.reserved.shrink(costs.sum());
        self.tree.remove(path)
    }
}

/// What an entry costs.
fn cost(path: &TreePath, node: &Node) -> usize {
    overhead(path) + node.size()
}

/// What an entry costs besides its content.
fn overhead(path: &TreePath) -> usize {
    ENTRY_BYTES + PART_BYTES * path.depth() + path.to_string().len()
}

/// Bytes taken out of what all files or all shells may have; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    total: Arc<AtomicUsize>,
    bytes: usize,
    bytes_max: usize,
    bytes_free: usize,
}

impl Reserved {
    fn new(total: Arc<AtomicUsize>, bytes_max: usize, bytes_free: usize) -> Self {
        Self {
            total,
            bytes: 0,
            bytes_max,
            bytes_free,
        }
    }

    /// How many they are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more.
    pub fn grow(&mut self, by: usize) -> Result<(), Full> {
        let wanted = self.bytes.checked_add(by).ok_or(Full)?;
        if wanted > self.bytes_max {
            return Err(Full);
        }
        let by = self.counted(wanted) - self.counted(self.bytes);
        let fits = |used: usize| used.checked_add(by).filter(|sum| *sum <= TOTAL_BYTES_MAX);
        self.total
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| Full)?;
        self.bytes = wanted;
        Ok(())
    }

    /// Gives some back.
    pub fn shrink(&mut self, by: usize) {
        let left = self.bytes.saturating_sub(by);
        let by = self.counted(self.bytes) - self.counted(left);
        self.bytes = left;
        self.total.fetch_sub(by, Ordering::Relaxed);
    }

    /// How many of so many bytes count against the total.
    fn counted(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.bytes_free)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shrink(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn file(bytes: usize) -> Node {
        Node::file(vec![0; bytes], 0o644, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn files_outlive_an_exec_and_end_with_their_pod() {
        let store = ScratchStore::default();
        store
            .of("u1", "app")
            .lock()
            .insert("/tmp/a".into(), file(3))
            .unwrap();
        let size = |uid: &str, container: &str| {
            let scratch = store.of(uid, container);
            scratch.lock().tree().get(&"/tmp/a".into()).map(Node::size)
        };
        assert_eq!(
            (size("u1", "app"), size("u1", "db"), size("u2", "app")),
            (Some(3), None, None)
        );
        store.forget("u1");
        assert_eq!(size("u1", "app"), None);
        assert_eq!(store.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_container_cannot_fill_the_memory() {
        let store = ScratchStore::default();
        let scratch = store.of("u1", "app");
        let mut files = scratch.lock();
        assert_eq!(
            files.insert("/a".into(), file(CONTAINER_BYTES_MAX)),
            Err(Full)
        );
        files
            .insert("/a".into(), file(CONTAINER_BYTES_MAX - 1000))
            .unwrap();
        assert_eq!(files.insert("/b".into(), file(1000)), Err(Full));
        assert_eq!(files.remove(&"/a".into()), 1);
        files.insert("/b".into(), file(1000)).unwrap();
        let long = format!("/{}", "a/".repeat(3000));
        assert_eq!(files.insert((&*long).into(), file(0)), Err(Full));
    }

    #[test]
    fn what_shells_have_in_mind_takes_nothing_from_files_nor_files_from_it() {
        let store = ScratchStore::default();
        let mut rooms = Vec::new();
        let scratches = ["a", "b", "c", "d"].map(|name| store.of("u1", name));
        for scratch in &scratches {
            let mut files = scratch.lock();
            while {
                let next = format!("/{}", files.tree().len());
                files.insert((&*next).into(), file(1 << 20)).is_ok()
            } {}
        }
        for scratch in &scratches {
            let mut room = scratch.shell_room(4 << 20);
            room.grow(4 << 20).unwrap();
            rooms.push(room);
        }
        let used = store.used.load(Ordering::Relaxed);
        drop(rooms);
        assert_eq!(store.used.load(Ordering::Relaxed), used);
        assert_eq!(store.used_by_shells.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_containers_cannot_either_and_the_longest_unused_go() {
        let store = ScratchStore::default();
        for number in 0..12 {
            let scratch = store.of("u1", &number.to_string());
            scratch
                .lock()
                .insert("/a".into(), file(CONTAINER_BYTES_MAX - 1000))
                .unwrap();
        }
        let kept = |number: usize| !store.of("u1", &number.to_string()).lock().tree().is_empty();
        assert!(kept(11));
        assert!(!kept(0));
        assert!(store.used.load(Ordering::Relaxed) <= TOTAL_BYTES_MAX);
        for number in 0..2 * CONTAINERS_MAX {
            store.of("u2", &number.to_string());
        }
        assert!(store.kept.lock().unwrap().scratches.len() <= CONTAINERS_MAX);
    }

    proptest! {
        #[test]
        fn use_is_that_of_the_files_that_there_are_however_they_came_about(
            steps in proptest::collection::vec(("(/[ab]{1,2}){1,3}", proptest::option::of(0..2000_usize)), 0..30),
        ) {
            let (store, fresh) = (ScratchStore::default(), ScratchStore::default());
            let (scratch, again) = (store.of("u1", "app"), fresh.of("u1", "app"));
            let (mut files, mut again) = (scratch.lock(), again.lock());
            for (path, size) in steps {
                match size {
                    // A file where a directory was would leave entries below a file: the shell refuses that.
                    Some(size) if !files.tree().get(&(&*path).into()).is_some_and(Node::is_directory) => {
                        files.insert((&*path).into(), file(size)).unwrap();
                    }
                    _ => {
                        files.remove(&(&*path).into());
                    }
                }
            }
            for (path, node) in files.tree().within(&TreePath::root()) {
                again.insert(path.clone(), node.clone()).unwrap();
            }
            prop_assert_eq!(store.used.load(Ordering::Relaxed), fresh.used.load(Ordering::Relaxed));
        }
    }
}
