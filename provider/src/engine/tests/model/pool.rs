//! How the pool is configured, and which addresses that makes.

use super::*;

pub(super) fn configured(pool: Pool, cloud: &Config) -> Settings {
    let mut settings = settings("192.168.1.0/29", cloud.clone());
    let vswitch = |id: &str, zone: &str, cidr: &str| VSwitch {
        id: id.into(),
        zone: zone.into(),
        cidr: cidr.parse().unwrap(),
        exclude: Vec::new(),
    };
    settings.retention.hour = HOUR_LASTS;
    settings.vswitches = vec![
        vswitch("vsw-b", "b", "192.168.1.0/29"),
        vswitch("vsw-b2", "b", "192.168.3.0/29"),
        vswitch("vsw-c", "c", "192.168.2.0/29"),
    ];
    settings.vswitches[1].exclude = vec![([192, 168, 3, 3].into(), [192, 168, 3, 4].into())];
    match pool {
        Pool::Plain => {}
        Pool::Grown => settings.vswitches[0].cidr = "192.168.1.0/28".parse().unwrap(),
        Pool::Excluding => {
            settings.vswitches[0].exclude =
                vec![([192, 168, 1, 2].into(), [192, 168, 1, 3].into())];
        }
        Pool::WithoutC => {
            settings.vswitches.pop();
        }
    }
    settings
}

pub(super) fn zones(settings: &Settings) -> Vec<(&'static str, &'static str)> {
    let known = [("vsw-b", "b"), ("vsw-b2", "b"), ("vsw-c", "c")];
    let mut known = known.to_vec();
    known.retain(|(id, _)| settings.vswitches.iter().any(|one| one.id.as_str() == *id));
    known
}

/// All addresses of a configuration with their vSwitch, and whether they are excluded: all of a
/// CIDR but the first and the last three.
pub(super) fn addresses(settings: &Settings) -> Vec<(Ipv4Addr, &'static str, bool)> {
    let zones = zones(settings);
    let mut all = Vec::new();
    for vswitch in &settings.vswitches {
        let (id, _) = zones
            .iter()
            .find(|(id, _)| *id == vswitch.id.as_str())
            .unwrap();
        let [a, b, c, d] = vswitch.cidr.network().octets();
        let size = 1_u8 << (32 - vswitch.cidr.prefix_len());
        for host in d + 1..=d + size - 4 {
            let address = Ipv4Addr::from([a, b, c, host]);
            all.push((address, *id, vswitch.excludes(address)));
        }
    }
    all
}
