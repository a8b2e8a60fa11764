//! What a test wants of its world, and the settings that come of it.

use holdfast_provider::cloud::sim;
use holdfast_provider::id::NodeType;
use holdfast_provider::policy::opt_in::UnsupportedClass;
use holdfast_provider::settings::{Retention, Settings as Provider, VSwitch};
use jiff::SignedDuration;

use super::world::{HOUR, SECOND};
use crate::config::Profile;
use crate::pod::agent::Settings;
use crate::pod::core::{Lifecycle, NodeInfo};

/// What a test wants of its world.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) profile: Profile,
    pub(super) cidr: &'static str,
    pub(super) cloud: sim::Config,
    pub(super) hour: SignedDuration,
    pub(super) writes_max: usize,
}

impl Wish {
    pub(super) fn fast() -> Self {
        Self {
            profile: Profile::Fast,
            cidr: "192.168.1.0/24",
            cloud: sim::Config::default(),
            hour: HOUR,
            writes_max: 32,
        }
    }

    /// As ACS shows it: stages take their time, and so do ENIs.
    pub(super) fn acs() -> Self {
        Self {
            profile: Profile::Acs,
            cloud: slow_cloud(),
            ..Self::fast()
        }
    }
}

pub(super) fn slow_cloud() -> sim::Config {
    sim::Config {
        attach: SECOND,
        detach: SECOND,
        ..sim::Config::default()
    }
}

pub(super) fn provider(cidr: &str, hour: SignedDuration, cloud: sim::Config) -> Provider {
    let vswitch = |id: &str, zone: &str, cidr: &str| VSwitch {
        id: id.into(),
        zone: zone.into(),
        cidr: cidr.parse().unwrap(),
        exclude: Vec::new(),
    };
    Provider {
        cluster: "cluster".into(),
        region: "cn-wulanchabu".into(),
        vpc: "vpc".into(),
        vswitches: vec![
            vswitch("vsw-b", "b", cidr),
            vswitch("vsw-c", "c", "192.168.2.0/28"),
        ],
        retention: Retention {
            default_hours: 48,
            hour,
        },
        cloud,
        history_days: 30,
    }
}

pub(super) fn settings(wish: &Wish) -> Settings {
    let node = |zone: &str, node_type, last| NodeInfo {
        host_ip: [10, 0, 0, last].into(),
        zone: zone.into(),
        region: "cn-wulanchabu".into(),
        vpc: "vpc".into(),
        node_type,
    };
    let seconds =
        |acs| SignedDuration::from_secs(if wish.profile == Profile::Acs { acs } else { 0 });
    Settings {
        nodes: [
            ("acs-b".into(), node("b", NodeType::Acs, 1)),
            ("acs-c".into(), node("c", NodeType::Acs, 2)),
            ("ecs-b".into(), node("b", NodeType::Ecs, 3)),
        ]
        .into_iter()
        .collect(),
        lifecycle: Lifecycle {
            profile: wish.profile,
            creating: seconds(3),
            running: seconds(1),
            stop: seconds(1),
        },
        unsupported_class: UnsupportedClass::Refuse,
        default_hours: 48,
        tolerate: true,
        writes_max: wish.writes_max,
    }
}
