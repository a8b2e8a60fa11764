//! What a pod asks for: its annotations and compute class, read once when it is accepted.
//!
//! Bad input is no error here: something definite applies, and a [`Warning`] says what.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{SecurityGroupId, VSwitchId};

/// Annotation that turns the fixed address on (spec, "Configuration description").
pub const ENABLE_FIXED_IP: &str = "network.alibabacloud.com/enable-fixed-ip";
/// Annotation with the retention period in whole hours (spec, "Configuration description").
pub const FIXED_IP_RELEASE_AFTER: &str = "network.alibabacloud.com/fixed-ip-release-after";
/// Annotation with the vSwitches to try, in order (ACS, "Specify vSwitches for a pod").
pub const VSWITCH_IDS: &str = "network.alibabacloud.com/vswitch-ids";
/// Annotation with the security groups of the ENI, which replace the cluster's (ACS, "Specify vSwitches and
/// security groups for a pod").
pub const SECURITY_GROUP_IDS: &str = "network.alibabacloud.com/security-group-ids";
/// Label with the compute class (ACS, "ACS pod overview").
pub const COMPUTE_CLASS: &str = "alibabacloud.com/compute-class";

/// What a pod asks for, as understood when it was first accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OptIn {
    /// Whether it wants a fixed address.
    pub fixed_ip: FixedIp,
    /// The vSwitches it names, in its order; empty when it names none.
    pub vswitches: Vec<VSwitchId>,
    /// The security groups it names for its ENI, in its order; empty when it names none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<SecurityGroupId>,
}

/// Whether a pod wants a fixed address, and may have one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum FixedIp {
    /// An ordinary address.
    Off,
    /// A fixed address, kept for so many hours after the deletion.
    On {
        /// Whole hours, 1 to 8760.
        hours: u32,
    },
    /// Asked for on a compute class that does not offer it: the pod is refused.
    Unsupported {
        /// The class.
        class: String,
    },
}

/// The longest retention a pod can ask for, in hours: a year.
pub const HOURS_MAX: u32 = 8760;

/// Security groups of one ENI: as many as Terway allows (pkg/controller/webhook/mutating.go). ACS names no
/// limit.
pub const SECURITY_GROUPS_MAX: usize = 10;

/// Characters of a bad value that a warning repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// What happens to a pod that wants a fixed address on a compute class that offers none. ACS
/// documents no answer; it refuses `cpu-vendors` on such classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnsupportedClass {
    /// It is refused.
    #[default]
    Refuse,
    /// It gets an ordinary address.
    Ignore,
}

/// Something in a pod's annotations that does not mean what its author hoped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What kind of thing.
    pub kind: WarningKind,
    /// One sentence: what is wrong, where, what applies and what to do.
    pub note: String,
}

/// The kinds of [`Warning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// [`ENABLE_FIXED_IP`] is neither "true" nor "false".
    InvalidAnnotation,
    /// [`FIXED_IP_RELEASE_AFTER`] is no whole number from 1 to [`HOURS_MAX`].
    InvalidReleaseAfter,
    /// The compute class offers no fixed address.
    Unsupported,
    /// [`SECURITY_GROUP_IDS`] is no list of 1 to [`SECURITY_GROUPS_MAX`] security groups.
    InvalidSecurityGroups,
}

/// Reads what a pod asks for from its annotations and its label [`COMPUTE_CLASS`].
///
/// Every value counts as it is written, blanks included, but for the list of vSwitches. Hours are
/// decimal digits and nothing else: no sign, fraction or exponent; leading zeros change nothing.
/// They are not looked at without a fixed address. `default_hours` apply when there are none, and
/// when they are wrong: no mistake keeps an address for ever.
pub fn read<'a>(
    annotation: impl Fn(&str) -> Option<&'a str>,
    class: Option<&str>,
    unsupported: UnsupportedClass,
    default_hours: u32,
) -> (OptIn, Vec<Warning>) {
    let mut warnings = Vec::new();
    let fixed_ip = if !is_enabled(annotation(ENABLE_FIXED_IP), &mut warnings) {
        FixedIp::Off
    } else if let Some(class) = class.filter(|class| !offers_fixed_ip(class)) {
        warnings.push(unsupported_class(class, unsupported));
        match unsupported {
            UnsupportedClass::Refuse => FixedIp::Unsupported {
                class: class.to_owned(),
            },
            UnsupportedClass::Ignore => FixedIp::Off,
        }
    } else {
        let text = annotation(FIXED_IP_RELEASE_AFTER);
        FixedIp::On {
            hours: hours(text, default_hours, &mut warnings),
        }
    };
    let opt_in = OptIn {
        fixed_ip,
        vswitches: annotation(VSWITCH_IDS).map_or_else(Vec::new, ids),
        security_groups: security_groups(annotation(SECURITY_GROUP_IDS), &mut warnings),
    };
    (opt_in, warnings)
}

/// Whether a compute class is one of "general-purpose and compute-optimized CPU pods" (spec,
/// "Scope"). The label's value for the latter is `performance` (ACS, "ACS pod overview").
fn offers_fixed_ip(class: &str) -> bool {
    matches!(class, "general-purpose" | "performance")
}

/// Whether a pod of this compute class is a CPU pod; one that names none is `general-purpose`.
pub fn is_cpu_class(class: Option<&str>) -> bool {
    class.is_none_or(offers_fixed_ip)
}

fn is_enabled(text: Option<&str>, warnings: &mut Vec<Warning>) -> bool {
    match text {
        Some("true") => true,
        None | Some("false") => false,
        Some(other) => {
            warnings.push(Warning {
                kind: WarningKind::InvalidAnnotation,
                note: format!(
                    "annotation {ENABLE_FIXED_IP} is {}, so the pod gets an ordinary address; \
                     write \"true\" to keep its address or \"false\" not to, and make the pod again",
                    shown(other)
                ),
            });
            false
        }
    }
}

fn hours(text: Option<&str>, default_hours: u32, warnings: &mut Vec<Warning>) -> u32 {
    let Some(text) = text else {
        return default_hours;
    };
    // `parse` alone would take "+5".
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let hours = digits.and_then(|digits| digits.parse().ok());
    if let Some(hours) = hours.filter(|hours| (1..=HOURS_MAX).contains(hours)) {
        return hours;
    }
    warnings.push(Warning {
        kind: WarningKind::InvalidReleaseAfter,
        note: format!(
            "annotation {FIXED_IP_RELEASE_AFTER} is {}, so {default_hours} hours apply; \
             write whole hours from \"1\" to \"{HOURS_MAX}\" and make the pod again",
            shown(text)
        ),
    });
    default_hours
}

fn unsupported_class(class: &str, unsupported: UnsupportedClass) -> Warning {
    let outcome = match unsupported {
        UnsupportedClass::Refuse => "the pod stays Pending",
        UnsupportedClass::Ignore => "the pod gets an ordinary address",
    };
    Warning {
        kind: WarningKind::Unsupported,
        note: format!(
            "compute class {} (label {COMPUTE_CLASS}) offers no fixed address, which annotation \
             {ENABLE_FIXED_IP} asks for, so {outcome}; take class general-purpose or performance, \
             or remove the annotation, and make the pod again",
            shown(class)
        ),
    }
}

/// Comma-separated ids; blanks around them, empty ones and repetitions do not count.
fn ids<'a, T: From<&'a str>>(text: &'a str) -> Vec<T> {
    let mut seen = BTreeSet::new();
    text.split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty() && seen.insert(*id))
        .map(T::from)
        .collect()
}

/// All of them or none: an ENI with half of its groups is what nobody asked for. Whether they exist is not
/// known here.
fn security_groups(text: Option<&str>, warnings: &mut Vec<Warning>) -> Vec<SecurityGroupId> {
    let Some(text) = text else {
        return Vec::new();
    };
    let groups: Vec<SecurityGroupId> = ids(text);
    let is_id = |group: &SecurityGroupId| {
        let name = group.as_str().strip_prefix("sg-");
        name.is_some_and(|name| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
    };
    if (1..=SECURITY_GROUPS_MAX).contains(&groups.len()) && groups.iter().all(is_id) {
        return groups;
    }
    warnings.push(Warning {
        kind: WarningKind::InvalidSecurityGroups,
        note: format!(
            "annotation {SECURITY_GROUP_IDS} is {}, so the pod's ENI has the cluster's security groups; \
             write 1 to {SECURITY_GROUPS_MAX} ids such as \"sg-a1,sg-b2\" and make the pod again",
            shown(text)
        ),
    });
    Vec::new()
}

/// A value as a warning repeats it: quoted, nothing unprintable, and not long.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &value[..end]),
        None => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a pod with the given annotations and class; 48 hours are the default.
    fn read_pod(
        annotations: &[(&str, &str)],
        class: Option<&str>,
        unsupported: UnsupportedClass,
    ) -> (OptIn, Vec<Warning>) {
        let find = |name: &str| {
            let found = annotations.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value)
        };
        read(find, class, unsupported, 48)
    }

    #[track_caller]
    fn check(annotations: &[(&str, &str)], want: &FixedIp, kinds: &[WarningKind]) -> Vec<String> {
        let (opt_in, warnings) = read_pod(annotations, None, UnsupportedClass::Refuse);
        assert_eq!(opt_in.fixed_ip, *want, "{annotations:?}");
        let got: Vec<_> = warnings.iter().map(|warning| warning.kind).collect();
        assert_eq!(got, kinds, "{annotations:?}");
        warnings.into_iter().map(|warning| warning.note).collect()
    }

    #[test]
    fn a_fixed_address_is_on_only_for_the_word_true() {
        check(&[], &FixedIp::Off, &[]);
        check(&[(ENABLE_FIXED_IP, "false")], &FixedIp::Off, &[]);
        check(
            &[(ENABLE_FIXED_IP, "true")],
            &FixedIp::On { hours: 48 },
            &[],
        );
        for odd in [
            "", "True", "TRUE", "1", "yes", " true", "true\n", "\"true\"", "тrue",
        ] {
            let invalid = [WarningKind::InvalidAnnotation];
            check(&[(ENABLE_FIXED_IP, odd)], &FixedIp::Off, &invalid);
        }
    }

    #[test]
    fn whole_hours_up_to_a_year_are_taken() {
        for (text, hours) in [("1", 1), ("24", 24), ("048", 48), ("8760", 8760)] {
            let annotations = [(ENABLE_FIXED_IP, "true"), (FIXED_IP_RELEASE_AFTER, text)];
            check(&annotations, &FixedIp::On { hours }, &[]);
        }
    }

    #[test]
    fn any_other_period_warns_and_means_the_default() {
        for text in [
            "",
            "0",
            "000",
            "-1",
            "+5",
            "8761",
            "4294967297",
            "99999999999999999999",
            "48.0",
            "1.5",
            "4e1",
            "0x30",
            "48h",
            "2d",
            " 48",
            "48 ",
            "1,000",
            "1_000",
            "forever",
            "٤٨",
        ] {
            let annotations = [(ENABLE_FIXED_IP, "true"), (FIXED_IP_RELEASE_AFTER, text)];
            let invalid = [WarningKind::InvalidReleaseAfter];
            check(&annotations, &FixedIp::On { hours: 48 }, &invalid);
        }
    }

    #[test]
    fn a_period_is_void_without_a_fixed_address() {
        for text in ["12", "forever"] {
            check(&[(FIXED_IP_RELEASE_AFTER, text)], &FixedIp::Off, &[]);
            let off = [(ENABLE_FIXED_IP, "false"), (FIXED_IP_RELEASE_AFTER, text)];
            check(&off, &FixedIp::Off, &[]);
        }
    }

    #[test]
    fn the_default_period_is_the_callers() {
        let (opt_in, _) = read(
            |name| (name == ENABLE_FIXED_IP).then_some("true"),
            None,
            UnsupportedClass::Refuse,
            24,
        );
        assert_eq!(opt_in.fixed_ip, FixedIp::On { hours: 24 });
    }

    #[test]
    fn cpu_classes_are_eligible_and_others_are_refused_or_ignored() {
        use UnsupportedClass::{Ignore, Refuse};
        let on = [(ENABLE_FIXED_IP, "true")];
        for class in [None, Some("general-purpose"), Some("performance")] {
            let (opt_in, warnings) = read_pod(&on, class, Refuse);
            assert_eq!(opt_in.fixed_ip, FixedIp::On { hours: 48 }, "{class:?}");
            assert_eq!(warnings, [], "{class:?}");
        }
        for class in ["gpu", "gpu-hpn", "agent-sandbox", "Performance", ""] {
            let refused = FixedIp::Unsupported {
                class: class.to_owned(),
            };
            for (setting, want) in [(Refuse, refused), (Ignore, FixedIp::Off)] {
                let (opt_in, warnings) = read_pod(&on, Some(class), setting);
                assert_eq!(opt_in.fixed_ip, want, "{class:?}");
                let [warning] = warnings.try_into().unwrap();
                assert_eq!(warning.kind, WarningKind::Unsupported);
            }
        }
        let (opt_in, warnings) = read_pod(&[], Some("gpu"), Refuse);
        assert_eq!((opt_in.fixed_ip, warnings), (FixedIp::Off, vec![]));
    }

    #[test]
    fn vswitches_keep_their_order_and_lose_blanks_and_repetitions() {
        for (text, want) in [
            ("vsw-c,vsw-b", vec!["vsw-c", "vsw-b"]),
            (" vsw-b ,\tvsw-c\n", vec!["vsw-b", "vsw-c"]),
            ("vsw-b,,vsw-c,vsw-b,", vec!["vsw-b", "vsw-c"]),
            ("", vec![]),
            (" , ,", vec![]),
        ] {
            let (opt_in, _) = read_pod(&[(VSWITCH_IDS, text)], None, UnsupportedClass::Refuse);
            let got: Vec<_> = opt_in.vswitches.iter().map(VSwitchId::as_str).collect();
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn security_groups_count_all_or_none() {
        let read = |text: &str| {
            let (opt_in, warnings) = read_pod(
                &[(SECURITY_GROUP_IDS, text)],
                None,
                UnsupportedClass::Refuse,
            );
            let groups: Vec<_> = opt_in
                .security_groups
                .iter()
                .map(ToString::to_string)
                .collect();
            (groups.join(" "), warnings)
        };
        assert_eq!(
            read("sg-b2, sg-a1,sg-b2"),
            ("sg-b2 sg-a1".to_owned(), vec![])
        );
        let many: Vec<String> = (0..=SECURITY_GROUPS_MAX)
            .map(|n| format!("sg-{n}"))
            .collect();
        for text in [
            "",
            ",",
            "sg-",
            "sg-A",
            "a1",
            "sg-a1,b2",
            "sg-a 1",
            &many.join(","),
        ] {
            let (groups, warnings) = read(text);
            assert_eq!(groups, "", "{text:?}");
            assert_eq!(
                warnings[0].kind,
                WarningKind::InvalidSecurityGroups,
                "{text:?}"
            );
        }
        assert_eq!(
            read("sg-a1;sg-b2").1[0].note,
            "annotation network.alibabacloud.com/security-group-ids is \"sg-a1;sg-b2\", so the pod's ENI has \
             the cluster's security groups; write 1 to 10 ids such as \"sg-a1,sg-b2\" and make the pod again"
        );
    }

    #[test]
    fn a_warning_says_what_is_wrong_where_and_what_to_do() {
        let on = FixedIp::On { hours: 48 };
        let notes = check(
            &[(ENABLE_FIXED_IP, "true"), (FIXED_IP_RELEASE_AFTER, "4e1")],
            &on,
            &[WarningKind::InvalidReleaseAfter],
        );
        assert_eq!(
            notes,
            [
                "annotation network.alibabacloud.com/fixed-ip-release-after is \"4e1\", so 48 hours \
              apply; write whole hours from \"1\" to \"8760\" and make the pod again"
            ]
        );
        let notes = check(
            &[(ENABLE_FIXED_IP, "True")],
            &FixedIp::Off,
            &[WarningKind::InvalidAnnotation],
        );
        assert_eq!(
            notes,
            [
                "annotation network.alibabacloud.com/enable-fixed-ip is \"True\", so the pod gets an \
              ordinary address; write \"true\" to keep its address or \"false\" not to, and make \
              the pod again"
            ]
        );
        for (setting, outcome) in [
            (UnsupportedClass::Refuse, "the pod stays Pending"),
            (UnsupportedClass::Ignore, "the pod gets an ordinary address"),
        ] {
            let (_, warnings) = read_pod(&[(ENABLE_FIXED_IP, "true")], Some("gpu"), setting);
            let note = &warnings[0].note;
            for part in ["\"gpu\"", COMPUTE_CLASS, ENABLE_FIXED_IP, outcome] {
                assert!(note.contains(part), "{part:?} is not in {note}");
            }
        }
    }

    #[test]
    fn a_warning_shows_no_long_value_and_nothing_unprintable() {
        let long = "é".repeat(100_000);
        for text in [long.as_str(), "a\nb\0c\u{1b}[31m", "\u{202e}eurt\u{200b}"] {
            let annotations = [(ENABLE_FIXED_IP, "true"), (FIXED_IP_RELEASE_AFTER, text)];
            let invalid = [WarningKind::InvalidReleaseAfter];
            let notes = check(&annotations, &FixedIp::On { hours: 48 }, &invalid);
            let note = &notes[0];
            assert!(note.len() < 300, "{note}");
            let odd = |c: char| c.is_control() || matches!(c, '\u{200b}' | '\u{202e}');
            assert!(!note.contains(odd), "{note:?}");
        }
    }
}
