//! Whose write is next when all places for writes are taken.
//!
//! Owns that order and nothing else: namespaces take turns, and the pods of one go in the order in which they came. A
//! tenant's single pod so waits for the writes under way and a turn of each other namespace, not for the thousands of
//! another's burst. Does not know which pods are gone meanwhile: their turn passes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use holdfast_provider::id::PodUid;

/// Pods that wait to write.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Namespaces of which a pod waits; the first is next.
    order: VecDeque<Arc<str>>,
    /// Never empty for a namespace. People choose these names, so the hash is a keyed one.
    waiting: HashMap<Arc<str>, VecDeque<PodUid>>,
}

impl Line {
    /// Lets a pod wait behind those of its namespace.
    pub(super) fn push(&mut self, namespace: &Arc<str>, uid: PodUid) {
        if let Some(pods) = self.waiting.get_mut(namespace) {
            pods.push_back(uid);
        } else {
            self.order.push_back(Arc::clone(namespace));
            self.waiting
                .insert(Arc::clone(namespace), VecDeque::from([uid]));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The pod whose turn it is.
    pub(super) fn pop(&mut self) -> Option<PodUid> {
        let namespace = self.order.pop_front()?;
        let pods = self.waiting.get_mut(&namespace)?;
        let uid = pods.pop_front();
        if pods.is_empty() {
            self.waiting.remove(&namespace);
        } else {
            self.order.push_back(namespace);
        }
        uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(pods: &[(&str, &str)]) -> Line {
        let mut line = Line::default();
        for (namespace, uid) in pods {
            line.push(&Arc::from(*namespace), PodUid::from(*uid));
        }
        line
    }

    fn all(line: &mut Line) -> Vec<String> {
        std::iter::from_fn(|| line.pop())
            .map(|uid| uid.to_string())
            .collect()
    }

    #[test]
    fn pods_of_one_namespace_go_in_their_order() {
        let mut line = line_of(&[("a", "a1"), ("a", "a2"), ("a", "a3")]);
        assert!(!line.is_empty());
        assert_eq!(all(&mut line), ["a1", "a2", "a3"]);
        assert!(line.is_empty() && line.waiting.is_empty());
    }

    #[test]
    fn namespaces_take_turns() {
        let burst = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("a", "a4")];
        let mut line = line_of(&burst);
        line.push(&Arc::from("b"), PodUid::from("b1"));
        line.push(&Arc::from("c"), PodUid::from("c1"));
        assert_eq!(all(&mut line), ["a1", "b1", "c1", "a2", "a3", "a4"]);
    }

    /// Whoever comes back at once does not get ahead of those who wait.
    #[test]
    fn a_namespace_that_comes_back_is_behind_the_others() {
        let mut line = line_of(&[("a", "a1"), ("b", "b1"), ("b", "b2"), ("c", "c1")]);
        assert_eq!(line.pop(), Some(PodUid::from("a1")));
        line.push(&Arc::from("a"), PodUid::from("a2"));
        assert_eq!(all(&mut line), ["b1", "c1", "a2", "b2"]);
    }
}
