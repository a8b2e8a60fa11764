//! Which vSwitches a pod may use, and in what order they are tried.

use crate::id::{VSwitchId, Zone};
use crate::policy::opt_in::shown;

/// Ids of an annotation that a sentence repeats: it may name thousands, and the sentence is part of the pod's status.
const NAMED_MAX: usize = 8;

/// A configured vSwitch with the number of its free addresses.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its id.
    pub id: VSwitchId,
    /// Its zone.
    pub zone: Zone,
    /// Free addresses now.
    pub free: u64,
}

/// The vSwitches that a pod on a node in `zone` may use, best first.
///
/// `requested` are the ones its annotation names: only those, in that order (ACS, "Specify
/// vSwitches for a pod"). Without them the one with the most free addresses comes first, ties in
/// configuration order. ACS picks at random there; holdfast prefers what can be explained.
///
/// # Errors
/// One sentence when none is left, saying which vSwitches are where.
pub fn allowed(
    zone: &Zone,
    requested: &[VSwitchId],
    configured: &[Candidate],
) -> Result<Vec<VSwitchId>, String> {
    let in_zone = |candidate: &&Candidate| candidate.zone == *zone;
    let found: Vec<_> = if requested.is_empty() {
        let mut found: Vec<_> = configured.iter().filter(in_zone).collect();
        found.sort_by_key(|candidate| std::cmp::Reverse(candidate.free));
        found.iter().map(|candidate| candidate.id.clone()).collect()
    } else {
        let is_here = |id: &&VSwitchId| {
            let mut here = configured.iter().filter(in_zone);
            here.any(|candidate| candidate.id == **id)
        };
        requested.iter().filter(is_here).cloned().collect()
    };
    if found.is_empty() {
        Err(none_left(zone, requested, configured))
    } else {
        Ok(found)
    }
}

fn none_left(zone: &Zone, requested: &[VSwitchId], configured: &[Candidate]) -> String {
    if requested.is_empty() {
        let all: Vec<_> = configured
            .iter()
            .map(|candidate| format!("{} is in {}", candidate.id, candidate.zone))
            .collect();
        return format!(
            "zone {zone} has no vSwitch: {}; configure one there, or move the pod",
            all.join(", ")
        );
    }
    let mut places: Vec<_> = requested
        .iter()
        .take(NAMED_MAX)
        .map(
            |id| match configured.iter().find(|candidate| candidate.id == *id) {
                Some(candidate) => format!("{id} is in {}", candidate.zone),
                None => format!("{} is not configured", named(id)),
            },
        )
        .collect();
    let more = requested.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        places.push(format!("and {more} more"));
    }
    let here: Vec<_> = configured
        .iter()
        .filter(|candidate| candidate.zone == *zone)
        .map(|candidate| candidate.id.as_str())
        .collect();
    format!(
        "no vSwitch named in network.alibabacloud.com/vswitch-ids can be used in zone {zone}: {}; {zone} has {}",
        places.join(", "),
        here.join(", ")
    )
}

/// Bare as every real id can be; anything else as a value that somebody has written.
fn named(id: &VSwitchId) -> String {
    let quoted = shown(id.as_str());
    let is_plain = quoted.len() == id.as_str().len() + 2 && !id.as_str().contains(' ');
    if is_plain { id.to_string() } else { quoted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured() -> Vec<Candidate> {
        [
            ("vsw-1", "b", 3),
            ("vsw-2", "b", 9),
            ("vsw-3", "b", 9),
            ("vsw-4", "c", 99),
        ]
        .map(|(id, zone, free)| Candidate {
            id: id.into(),
            zone: zone.into(),
            free,
        })
        .to_vec()
    }

    #[track_caller]
    fn check(requested: &[&str], want: &[&str]) {
        let requested: Vec<VSwitchId> = requested.iter().map(|id| (*id).into()).collect();
        let got = allowed(&"b".into(), &requested, &configured()).unwrap();
        assert_eq!(got.iter().map(VSwitchId::as_str).collect::<Vec<_>>(), want);
    }

    #[test]
    fn most_free_first_then_configuration_order() {
        check(&[], &["vsw-2", "vsw-3", "vsw-1"]);
    }

    #[test]
    fn the_annotation_gives_the_order_and_the_zone_the_limit() {
        check(&["vsw-1", "vsw-4", "vsw-2"], &["vsw-1", "vsw-2"]);
    }

    #[test]
    fn none_left_says_which_are_where() {
        let note = allowed(
            &"b".into(),
            &["vsw-4".into(), "vsw-9".into()],
            &configured(),
        )
        .unwrap_err();
        assert!(
            note.contains("vsw-4 is in c") && note.contains("vsw-9 is not configured"),
            "{note}"
        );
        assert!(note.contains("b has vsw-1, vsw-2, vsw-3"), "{note}");
    }

    #[test]
    fn however_many_ids_are_named_and_whatever_they_are_the_sentence_stays_short() {
        let mut requested: Vec<VSwitchId> = vec!["vsw-4".into(), "a\u{7}b".into()];
        requested.push("x".repeat(100_000).as_str().into());
        requested.extend((0..50_000).map(|n| VSwitchId::from(format!("v{n}"))));
        let note = allowed(&"b".into(), &requested, &configured()).unwrap_err();
        assert!(
            note.contains(r#"vsw-4 is in c, "a\u{7}b" is not configured"#),
            "{note}"
        );
        assert!(
            note.contains("v4 is not configured, and 49995 more; b has"),
            "{note}"
        );
        assert!(note.len() < 1024, "{}", note.len());
    }

    #[test]
    fn a_zone_without_a_vswitch_says_which_are_where() {
        let note = allowed(&"d".into(), &[], &configured()).unwrap_err();
        assert!(note.contains("zone d has no vSwitch"), "{note}");
        assert!(note.contains("vsw-4 is in c"), "{note}");
    }
}
