//! The size of instance that ACS runs a pod on: annotation `alibabacloud.com/pod-use-spec`.
//!
//! Names the size, and what of it is left for the pod's first container. Changes no pod.

/// The annotation that tells the size (ACS, pod annotations that the system writes).
pub const POD_USE_SPEC: &str = "alibabacloud.com/pod-use-spec";

/// The annotation by which a pod asks for a size (ACS, "ACS pod overview"), such as `2-4Gi`.
pub const POD_REQUIRED_SPEC: &str = "alibabacloud.com/pod-required-spec";

/// Why a required size cannot be had: ACS makes no such pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// No unit, another unit, the wrong way round, or no number.
    #[error(
        "annotation {POD_REQUIRED_SPEC} is {0:?}: write vCPU and memory in Gi, such as \"2-4Gi\""
    )]
    Format(String),
    /// Below the sum of the requests.
    #[error(
        "annotation {POD_REQUIRED_SPEC} is {asked:?}, which is less than the containers request, {requested}: ask for more, or request less"
    )]
    TooSmall {
        /// What it says.
        asked: String,
        /// The summed requests, rounded up.
        requested: String,
    },
    /// Above the largest size.
    #[error("annotation {POD_REQUIRED_SPEC} is {0:?}: the largest size is 64-512Gi")]
    TooLarge(String),
}

/// The size that a pod requires by annotation, rounded up to a supported one. It goes before what
/// [`use_spec`] makes of requests and limits.
///
/// # Errors
/// When ACS would not create the pod.
pub fn required_spec(text: &str, containers: &[Resources]) -> Result<String, InvalidSpec> {
    let asked = parsed(text).ok_or_else(|| InvalidSpec::Format(text.to_owned()))?;
    let sum = |request: fn(&Resources) -> Option<u64>| {
        let all = containers.iter().filter_map(request);
        all.fold(0_u64, u64::saturating_add)
    };
    let requested = Spec {
        cpu_quarters: sum(|of| of.cpu_request_milli).div_ceil(250),
        memory_halves: sum(|of| of.memory_request_bytes).div_ceil(1 << 29),
    };
    if asked.cpu_quarters < requested.cpu_quarters || asked.memory_halves < requested.memory_halves
    {
        return Err(InvalidSpec::TooSmall {
            asked: text.to_owned(),
            requested: requested.to_string(),
        });
    }
    let fitting = supported().find(|spec| spec.holds(asked));
    let fitting = fitting.ok_or_else(|| InvalidSpec::TooLarge(text.to_owned()))?;
    Ok(fitting.to_string())
}

fn parsed(text: &str) -> Option<Spec> {
    let (cpu, memory) = text.split_once('-')?;
    let spec = Spec {
        cpu_quarters: decimal(cpu, 4)?,
        memory_halves: decimal(memory.strip_suffix("Gi")?, 2)?,
    };
    (spec.cpu_quarters > 0 && spec.memory_halves > 0).then_some(spec)
}

/// A decimal number times `scale`, rounded up.
fn decimal(text: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str, most| {
        (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    // No supported size needs more.
    if !digits(whole, 6) || !digits(fraction, 3) {
        return None;
    }
    let thousandths: u64 = format!("{whole}{fraction:0<3}").parse().ok()?;
    Some((thousandths * scale).div_ceil(1000))
}

/// One container's requests and limits, where it has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU request in thousandths of a vCPU.
    pub cpu_request_milli: Option<u64>,
    /// CPU limit in thousandths of a vCPU.
    pub cpu_limit_milli: Option<u64>,
    /// Memory request in bytes.
    pub memory_request_bytes: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<u64>,
}

/// What a pod gets that asks for nothing: 2 vCPU and 4 GiB.
const UNSPECIFIED: Spec = Spec {
    cpu_quarters: 8,
    memory_halves: 8,
};

/// The spec for a pod with these containers, such as `2-4Gi` (ACS, "ACS pod overview"): the
/// larger of the summed requests and the summed limits, rounded up to the smallest supported size
/// that has both; the fewest vCPU first, then the least memory.
///
/// Beyond 64 vCPU or 512 GiB there is no such size and ACS makes no such pod. It is simulated
/// all the same, and the answer is what it asks for in whole vCPU and GiB, not a smaller size
/// that could not hold it.
pub fn use_spec(containers: &[Resources]) -> String {
    let cpu_milli = larger_sum(containers, |of| (of.cpu_request_milli, of.cpu_limit_milli));
    let memory_bytes = larger_sum(containers, |of| {
        (of.memory_request_bytes, of.memory_limit_bytes)
    });
    let asked = Spec {
        cpu_quarters: cpu_milli.div_ceil(250),
        memory_halves: memory_bytes.div_ceil(1 << 29),
    };
    if asked.cpu_quarters == 0 && asked.memory_halves == 0 {
        return UNSPECIFIED.to_string();
    }
    let fitting = supported().find(|spec| spec.holds(asked));
    fitting
        .unwrap_or_else(|| asked.in_whole_units())
        .to_string()
}

/// What an instance has beyond the sums of its containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surplus {
    /// In thousandths of a vCPU.
    pub cpu_milli: u64,
    /// In bytes.
    pub memory_bytes: u64,
}

/// What an instance of size `spec` has beyond the larger of the summed requests and the summed
/// limits. ACS gives it to the first container (ACS, "ACS pod overview"). Nothing for a size that
/// is none, or beyond the largest.
pub fn surplus(spec: &str, containers: &[Resources]) -> Surplus {
    let Some(spec) = parsed(spec) else {
        return Surplus::default();
    };
    let cpu_milli = larger_sum(containers, |of| (of.cpu_request_milli, of.cpu_limit_milli));
    let memory_bytes = larger_sum(containers, |of| {
        (of.memory_request_bytes, of.memory_limit_bytes)
    });
    Surplus {
        cpu_milli: (spec.cpu_quarters * 250).saturating_sub(cpu_milli),
        memory_bytes: (spec.memory_halves << 29).saturating_sub(memory_bytes),
    }
}

fn larger_sum(
    containers: &[Resources],
    request_and_limit: impl Fn(&Resources) -> (Option<u64>, Option<u64>),
) -> u64 {
    let sums = containers.iter().map(request_and_limit).fold(
        (0, 0),
        |(requests, limits): (u64, u64), (request, limit)| {
            (
                requests.saturating_add(request.unwrap_or(0)),
                limits.saturating_add(limit.unwrap_or(0)),
            )
        },
    );
    sums.0.max(sums.1)
}

/// A size, in the steps in which the smallest supported sizes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spec {
    /// Quarters of a vCPU.
    cpu_quarters: u64,
    /// Halves of a GiB.
    memory_halves: u64,
}

impl Spec {
    fn holds(self, other: Self) -> bool {
        self.cpu_quarters >= other.cpu_quarters && self.memory_halves >= other.memory_halves
    }

    fn in_whole_units(self) -> Self {
        Self {
            cpu_quarters: self.cpu_quarters.next_multiple_of(4).max(4),
            memory_halves: self.memory_halves.next_multiple_of(2).max(2),
        }
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cpu_fraction = match self.cpu_quarters % 4 {
            0 => "",
            1 => ".25",
            2 => ".5",
            _ => ".75",
        };
        let memory_fraction = if self.memory_halves.is_multiple_of(2) {
            ""
        } else {
            ".5"
        };
        write!(
            f,
            "{}{cpu_fraction}-{}{memory_fraction}Gi",
            self.cpu_quarters / 4,
            self.memory_halves / 2
        )
    }
}

/// The sizes of CPU pods, smallest first: 0.25 vCPU with 0.5, 1 or 2 GiB; 0.5 to 16 vCPU in steps
/// of 0.5, with whole GiB from as many as vCPU (rounded up) to eight times as many; 24, 32, 48 and
/// 64 vCPU with 1, 2, 4 or 8 GiB for each.
fn supported() -> impl Iterator<Item = Spec> {
    let spec = |cpu_quarters, memory_halves| Spec {
        cpu_quarters,
        memory_halves,
    };
    let smallest = [1, 2, 4].into_iter().map(move |halves| spec(1, halves));
    let middle = (1..=32_u64).flat_map(move |half_cpus| {
        (half_cpus.div_ceil(2)..=half_cpus * 4).map(move |gib| spec(half_cpus * 2, gib * 2))
    });
    let large = [24, 32, 48, 64].into_iter().flat_map(move |cpus| {
        [1, 2, 4, 8]
            .into_iter()
            .map(move |ratio| spec(cpus * 4, cpus * ratio * 2))
    });
    smallest.chain(middle).chain(large)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn limits(cpu_milli: u64, memory_bytes: u64) -> Resources {
        Resources {
            cpu_limit_milli: Some(cpu_milli),
            memory_limit_bytes: Some(memory_bytes),
            ..Resources::default()
        }
    }

    fn requests(cpu_milli: u64, memory_bytes: u64) -> Resources {
        Resources {
            cpu_request_milli: Some(cpu_milli),
            memory_request_bytes: Some(memory_bytes),
            ..Resources::default()
        }
    }

    #[test]
    fn a_pod_that_asks_for_nothing_gets_two_vcpu_and_four_gib() {
        assert_eq!(use_spec(&[]), "2-4Gi");
        assert_eq!(use_spec(&[Resources::default(); 3]), "2-4Gi");
        assert_eq!(use_spec(&[limits(0, 0)]), "2-4Gi");
    }

    #[test]
    fn sizes_are_rounded_up_to_the_nearest_supported_one() {
        for (cpu_milli, memory_bytes, want) in [
            (2000, 3584 * MIB, "2-4Gi"),
            (1, 1, "0.25-0.5Gi"),
            (250, 512 * MIB, "0.25-0.5Gi"),
            (250, 513 * MIB, "0.25-1Gi"),
            (250, 1025 * MIB, "0.25-2Gi"),
            (250, 2 * GIB + 1, "0.5-3Gi"),
            (251, 512 * MIB, "0.5-1Gi"),
            (500, 4 * GIB, "0.5-4Gi"),
            (500, 4 * GIB + 1, "1-5Gi"),
            (1001, GIB, "1.5-2Gi"),
            (1500, 12 * GIB, "1.5-12Gi"),
            (2500, 5 * GIB, "2.5-5Gi"),
            (15_500, 1, "15.5-16Gi"),
            (15_500, 124 * GIB, "15.5-124Gi"),
            (15_500, 125 * GIB, "16-125Gi"),
            (16_000, 128 * GIB, "16-128Gi"),
            (16_001, 16 * GIB, "24-24Gi"),
            (20_000, 30 * GIB, "24-48Gi"),
            (16_000, 200 * GIB, "32-256Gi"),
            (33_000, 97 * GIB, "48-192Gi"),
            (64_000, 512 * GIB, "64-512Gi"),
        ] {
            let got = use_spec(&[limits(cpu_milli, memory_bytes)]);
            assert_eq!(got, want, "{cpu_milli}m, {memory_bytes} bytes");
        }
    }

    #[test]
    fn one_resource_alone_decides_the_other() {
        let cpu = Resources {
            cpu_request_milli: Some(3000),
            ..Resources::default()
        };
        let memory = Resources {
            memory_limit_bytes: Some(6 * GIB),
            ..Resources::default()
        };
        assert_eq!(use_spec(&[cpu]), "3-3Gi");
        assert_eq!(use_spec(&[memory]), "1-6Gi");
        assert_eq!(use_spec(&[cpu, memory]), "3-6Gi");
    }

    #[test]
    fn the_larger_sum_counts_for_each_resource_by_itself() {
        let container = Resources {
            cpu_request_milli: Some(500),
            cpu_limit_milli: Some(1000),
            memory_request_bytes: Some(GIB),
            memory_limit_bytes: None,
        };
        assert_eq!(use_spec(&[container, container]), "2-2Gi");
        let mixed = [requests(3000, GIB), limits(1000, 4 * GIB)];
        assert_eq!(use_spec(&mixed), "3-4Gi");
    }

    #[test]
    fn beyond_the_largest_size_the_demand_itself_is_named() {
        assert_eq!(use_spec(&[limits(64_001, GIB)]), "65-1Gi");
        assert_eq!(use_spec(&[limits(64_000, 512 * GIB + 1)]), "64-513Gi");
        assert_eq!(use_spec(&[limits(100, 600 * GIB)]), "1-600Gi");
        // No overflow, and nothing short of the demand.
        assert_eq!(
            use_spec(&[limits(u64::MAX, u64::MAX); 2]),
            "18446744073709552-17179869184Gi"
        );
    }

    #[test]
    fn a_required_size_is_rounded_up_and_goes_before_the_limits() {
        for (text, want) in [
            ("2-4Gi", "2-4Gi"),
            ("0.25-0.5Gi", "0.25-0.5Gi"),
            ("1.6-3Gi", "2-3Gi"),
            ("20-30Gi", "24-48Gi"),
            ("64-512Gi", "64-512Gi"),
        ] {
            assert_eq!(required_spec(text, &[]).as_deref(), Ok(want), "{text}");
            assert_eq!(
                required_spec(text, &[limits(100, GIB / 4)]).as_deref(),
                Ok(want)
            );
        }
    }

    #[test]
    fn a_required_size_that_acs_refuses_is_refused_with_the_reason() {
        for text in [
            "",
            "2",
            "2-4",
            "2-4Mi",
            "4Gi-2",
            "-4Gi",
            "2-Gi",
            "two-4Gi",
            "0-4Gi",
            "2-4Gi ",
            "1.2345-2Gi",
        ] {
            let refused = Err(InvalidSpec::Format(text.to_owned()));
            assert_eq!(required_spec(text, &[]), refused, "{text:?}");
        }
        let large = required_spec("65-512Gi", &[]);
        assert_eq!(large, Err(InvalidSpec::TooLarge("65-512Gi".to_owned())));
        let small = required_spec("2-4Gi", &[requests(1000, GIB), requests(1500, GIB)]);
        assert_eq!(
            small.unwrap_err().to_string(),
            "annotation alibabacloud.com/pod-required-spec is \"2-4Gi\", which is less than the \
             containers request, 2.5-2Gi: ask for more, or request less"
        );
    }

    #[test]
    fn the_surplus_is_what_the_larger_sums_leave_of_the_size() {
        let of = |spec: &str, containers: &[Resources]| {
            let surplus = surplus(spec, containers);
            (surplus.cpu_milli, surplus.memory_bytes)
        };
        assert_eq!(of("2-4Gi", &[]), (2000, 4 * GIB));
        assert_eq!(of("2-4Gi", &[requests(2000, 3584 * MIB)]), (0, 512 * MIB));
        let mixed = [requests(500, GIB), limits(700, GIB / 2)];
        assert_eq!(of("1-1Gi", &mixed), (300, 0));
        assert_eq!(of("1-1Gi", &[limits(1500, 2 * GIB)]), (0, 0));
        assert_eq!(of("nonsense", &[]), (0, 0));
    }

    #[test]
    fn supported_sizes_grow() {
        assert!(supported().is_sorted());
    }
}
