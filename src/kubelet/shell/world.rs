//! What a simulated container consists of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::kubelet::scratch::{Full, Scratch};
use crate::kubelet::tree::{Node, Tree, TreePath};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// All that the commands of a container can see.
pub struct World {
    /// The pod, with its status.
    pub pod: Arc<Pod>,
    /// Name of the container.
    pub container: String,
    /// Its environment, later values of a name before earlier ones.
    pub environment: Vec<(String, String)>,
    /// Its files as they were made: of its image, so to speak, and of its volumes.
    pub files: Tree,
    /// Where nothing can be written.
    pub read_only: Vec<TreePath>,
    /// What was written since.
    pub scratch: Scratch,
    /// MAC of its ENI, if known.
    pub mac: Option<String>,
    /// Tells the time.
    pub clock: Clock,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment and the files can hold secrets.
        f.debug_struct("World")
            .field("pod", &self.pod.metadata.name)
            .field("container", &self.container)
            .finish_non_exhaustive()
    }
}

/// Why a file cannot be read or written, in the words of strerror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    #[error("No such file or directory")]
    NotFound,
    #[error("Is a directory")]
    IsDirectory,
    #[error("Not a directory")]
    NotDirectory,
    #[error("File exists")]
    Exists,
    #[error("Read-only file system")]
    ReadOnly,
    #[error(transparent)]
    Full(#[from] Full),
}

impl World {
    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The container's specification; ephemeral containers have none of this type.
    pub(super) fn spec(&self) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        all.find(|container| container.name == self.container)
    }

    pub(super) fn node(&self, path: &TreePath) -> Option<Node> {
        if *path == TreePath::root() {
            return Some(Node::directory(Timestamp::UNIX_EPOCH));
        }
        let files = self.scratch.lock();
        files
            .tree()
            .get(path)
            .or_else(|| self.files.get(path))
            .cloned()
    }

    pub(super) fn read(&self, path: &TreePath) -> Result<Bytes, FileError> {
        let node = self.node(path).ok_or(FileError::NotFound)?;
        node.content.ok_or(FileError::IsDirectory)
    }

    pub(super) fn is_directory(&self, path: &TreePath) -> bool {
        self.node(path).is_some_and(|node| node.is_directory())
    }

    /// An entry and all below it, each once.
    pub(super) fn walk(&self, path: &TreePath) -> BTreeMap<TreePath, Node> {
        let files = self.scratch.lock();
        let all = self.files.within(path).chain(files.tree().within(path));
        all.map(|(path, node)| (path.clone(), node.clone()))
            .collect()
    }

    /// The entries of a directory.
    pub(super) fn children(&self, path: &TreePath) -> Vec<(TreePath, Node)> {
        let all = self.walk(path).into_iter();
        all.filter(|(child, _)| child.depth() == path.depth() + 1)
            .collect()
    }

    fn check_writable(&self, path: &TreePath) -> Result<(), FileError> {
        let parent = self.node(&path.parent()).ok_or(FileError::NotFound)?;
        if !parent.is_directory() {
            return Err(FileError::NotDirectory);
        }
        if self.read_only.iter().any(|mount| path.is_within(mount)) {
            return Err(FileError::ReadOnly);
        }
        Ok(())
    }

    pub(super) fn write(&self, path: TreePath, content: Bytes, mode: u32) -> Result<(), FileError> {
        self.put(path, Node::file(content, mode, self.now()))
    }

    pub(super) fn put(&self, path: TreePath, file: Node) -> Result<(), FileError> {
        self.check_writable(&path)?;
        if self.is_directory(&path) {
            return Err(FileError::IsDirectory);
        }
        Ok(self.scratch.lock().insert(path, file)?)
    }

    pub(super) fn make_directory(&self, path: TreePath, mode: u32) -> Result<(), FileError> {
        self.check_writable(&path)?;
        if self.node(&path).is_some() {
            return Err(FileError::Exists);
        }
        let mut node = Node::directory(self.now());
        node.mode = mode;
        Ok(self.scratch.lock().insert(path, node)?)
    }

    /// Makes a directory and those above it, where they are missing.
    pub(super) fn make_directories(&self, path: &TreePath, mode: u32) -> Result<(), FileError> {
        match self.node(path) {
            Some(node) if node.is_directory() => return Ok(()),
            Some(_) => return Err(FileError::NotDirectory),
            None => {}
        }
        // From the top down, one path at a time: all of a deep one's at once are too many.
        path.steps()
            .filter(|step| self.node(step).is_none())
            .try_for_each(|step| self.make_directory(step, mode))
    }

    /// Takes away what was written; what the container began with stays.
    pub(super) fn remove(&self, path: &TreePath) -> Result<(), FileError> {
        if self.node(path).is_none() {
            return Err(FileError::NotFound);
        }
        if self.files.within(path).next().is_some() {
            return Err(FileError::ReadOnly);
        }
        self.scratch.lock().remove(path);
        Ok(())
    }
}
