//! What a pod asks for: its annotations and compute class, read once when it is accepted.

use serde::Serialize;

use crate::id::VSwitchId;

/// Annotation that turns the fixed address on (spec, "Configuration description").
pub const ENABLE_FIXED_IP: &str = "network.alibabacloud.com/enable-fixed-ip";
/// Annotation with the retention period in whole hours (spec, "Configuration description").
pub const FIXED_IP_RELEASE_AFTER: &str = "network.alibabacloud.com/fixed-ip-release-after";
/// Annotation with the vSwitches to try, in order (ACS, "Specify vSwitches for a pod").
pub const VSWITCH_IDS: &str = "network.alibabacloud.com/vswitch-ids";
/// Label with the compute class (ACS, "ACS pod overview").
pub const COMPUTE_CLASS: &str = "alibabacloud.com/compute-class";

/// What a pod asks for, as understood when it was first accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OptIn {
    /// Whether it wants a fixed address.
    pub fixed_ip: FixedIp,
    /// The vSwitches it names, in its order; empty when it names none.
    pub vswitches: Vec<VSwitchId>,
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
