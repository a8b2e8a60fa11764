//! A tree of files in memory: all that a simulated container can see.
//!
//! Owns paths and files. A path means something in a tree and nowhere else: no function here or in
//! the shell touches a file of the host. Who may write where is decided by the shell.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;

/// An absolute path in normal form: no `.`, `..` or empty parts, and no slash at the end.
///
/// `..` at the root stays at the root, as on Linux.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Vec<String>);

impl TreePath {
    /// `/`
    pub fn root() -> Self {
        Self::default()
    }

    /// What `path` means to somebody whose working directory this is.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        let mut parts = if path.starts_with('/') {
            Vec::new()
        } else {
            self.0.clone()
        };
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part.to_owned()),
            }
        }
        Self(parts)
    }

    /// The directory that it is in; that of the root is the root.
    #[must_use]
    pub fn parent(&self) -> Self {
        let end = self.0.len().saturating_sub(1);
        Self(self.0[..end].to_vec())
    }

    /// Its last part, empty for the root.
    pub fn name(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// Whether it is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Number of its parts.
    pub fn depth(&self) -> usize {
        self.0.len()
    }

    /// The directories above it but the root, the outermost first, and itself.
    pub fn steps(&self) -> impl Iterator<Item = Self> {
        (1..=self.0.len()).map(|end| Self(self.0[..end].to_vec()))
    }
}

impl From<&str> for TreePath {
    fn from(path: &str) -> Self {
        Self::root().join(path)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

/// A file or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What is in it; `None` for a directory.
    pub content: Option<Bytes>,
    /// Permission bits.
    pub mode: u32,
    /// When it was last changed.
    pub modified: Timestamp,
}

impl Node {
    /// A directory, open to all as container images have them.
    pub fn directory(modified: Timestamp) -> Self {
        Self {
            content: None,
            mode: 0o755,
            modified,
        }
    }

    /// A file.
    pub fn file(content: impl Into<Bytes>, mode: u32, modified: Timestamp) -> Self {
        Self {
            content: Some(content.into()),
            mode,
            modified,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.content.is_none()
    }

    /// The size of a file, 0 for a directory, in bytes.
    pub fn size(&self) -> usize {
        self.content.as_ref().map_or(0, Bytes::len)
    }
}

/// Files and directories by their paths. Each entry's directory is an entry too, but for the root.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<TreePath, Node>,
}

impl Tree {
    /// What is at a path.
    pub fn get(&self, path: &TreePath) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The paths above this one that are no directories yet.
    pub fn missing_above(&self, path: &TreePath) -> Vec<TreePath> {
        let is_missing = |above: &TreePath| {
            *above != TreePath::root() && !self.get(above).is_some_and(Node::is_directory)
        };
        // Above a directory there are only directories: to look at them too would cost the square of
        // a path's depth for each entry.
        std::iter::successors(Some(path.parent()), |above| Some(above.parent()))
            .take_while(is_missing)
            .collect()
    }

    /// Puts an entry, with the directories above it where they are missing. A file in the place of
    /// one of those becomes a directory.
    pub fn insert(&mut self, path: TreePath, node: Node) {
        for above in self.missing_above(&path) {
            self.nodes.insert(above, Node::directory(node.modified));
        }
        if path != TreePath::root() {
            self.nodes.insert(path, node);
        }
    }

    /// Takes away an entry and all below it; returns how many there were.
    pub fn remove(&mut self, path: &TreePath) -> usize {
        let before = self.nodes.len();
        self.nodes.retain(|known, _| !known.is_within(path));
        before - self.nodes.len()
    }

    /// The entry and all below it, in the order of their paths.
    pub fn within<'a>(
        &'a self,
        path: &'a TreePath,
    ) -> impl Iterator<Item = (&'a TreePath, &'a Node)> {
        self.nodes
            .range(path..)
            .take_while(move |(known, _)| known.is_within(path))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_resolved_in_the_tree_only() {
        let cwd = TreePath::from("/var/log");
        for (path, want) in [
            ("a", "/var/log/a"),
            ("./a/./b//c/", "/var/log/a/b/c"),
            ("..", "/var"),
            ("../../../../../etc/passwd", "/etc/passwd"),
            ("/../..", "/"),
            ("/a/../../b", "/b"),
            ("", "/var/log"),
        ] {
            assert_eq!(cwd.join(path).to_string(), want, "{path}");
        }
    }

    #[test]
    fn the_directories_of_a_file_are_there() {
        let mut tree = Tree::default();
        tree.insert(
            "/a/b/c".into(),
            Node::file("x", 0o644, Timestamp::UNIX_EPOCH),
        );
        let root = TreePath::root();
        let all: Vec<_> = tree
            .within(&root)
            .map(|(path, _)| path.to_string())
            .collect();
        assert_eq!(all, ["/a", "/a/b", "/a/b/c"]);
        assert!(tree.get(&"/a/b".into()).unwrap().is_directory());
        assert_eq!(tree.remove(&"/a/b".into()), 2);
        assert_eq!(tree.len(), 1);
    }

    proptest! {
        #[test]
        fn no_path_escapes(cwd in "[a./]{0,12}", path in "[-a-z./\\\\\u{0}\\PC]{0,40}|(\\.\\./){0,9}etc") {
            let cwd = TreePath::from(&*cwd);
            let joined = cwd.join(&path);
            let text = joined.to_string();
            prop_assert!(text.starts_with('/'));
            prop_assert!(text.split('/').all(|part| part != ".." && part != "."));
            prop_assert_eq!(TreePath::from(&*text), joined, "the normal form is one");
        }
    }
}
