//! Names as the cloud gives them out: ids with the region's code, and MACs.
//!
//! Pure: the same numbers give the same names. That no two are equal is the schema's task.

use crate::id::{EniId, Mac};

/// Enough for a second of the next thousand years, or for a serial.
const PLACE_DIGITS: u32 = 7;
/// Characters of a resource id behind the region's code.
const DIGITS: usize = 17;

/// The three characters that resource ids of a region begin with, as in
/// `eni-bp16h6wuzpa9w2vdm5dn` of Hangzhou. A region whose code is not known here gets one
/// derived from its name, which need not be the real one.
pub fn region_code(region: &str) -> String {
    match region {
        "cn-beijing" => "2ze".to_owned(),
        "cn-hangzhou" => "bp1".to_owned(),
        "cn-shanghai" => "uf6".to_owned(),
        "cn-wulanchabu" => "0jl".to_owned(),
        other => {
            let seed = other.bytes().fold(0, |sum: u64, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(byte))
            });
            base36(seed, 3)
        }
    }
}

/// A resource id: prefix, region code and 17 characters of `[a-z0-9]`. They begin with `place`, so
/// that what is made one after the other has ids that follow one another, and go on with what is
/// drawn from `seed`. Indexes on such ids grow at one end.
pub(crate) fn resource_id(prefix: &str, region_code: &str, place: u64, seed: u64) -> String {
    let mut id = String::with_capacity(prefix.len() + 1 + region_code.len() + DIGITS);
    id.push_str(prefix);
    id.push('-');
    id.push_str(region_code);
    let mut divisor = 36_u64.pow(PLACE_DIGITS);
    for _ in 0..PLACE_DIGITS {
        let rest = place % divisor;
        divisor /= 36;
        id.push(digit(rest / divisor));
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    id.extend((PLACE_DIGITS as usize..DIGITS).map(|_| rng.digit(36)));
    id
}

fn digit(below_36: u64) -> char {
    let digit = below_36.try_into().ok();
    let digit = digit.and_then(|digit| char::from_digit(digit, 36));
    digit.expect("below 36")
}

pub(super) fn eni_id(region_code: &str, seed: u64, serial: u64) -> EniId {
    let number = seed.wrapping_add(serial);
    resource_id("eni", region_code, number, number).into()
}

/// `00:16:3e:` and 24 bits. 2^24 serials in a row have different MACs, so that one is not given
/// again soon after its ENI is gone.
pub(super) fn mac(seed: u64, serial: u64) -> Mac {
    let [.., a, b, c] = seed.wrapping_add(serial).to_be_bytes();
    Mac([0x00, 0x16, 0x3e, a, b, c])
}

fn base36(seed: u64, len: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.digit(36)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_and_macs_have_the_shape_of_ecs_and_never_repeat() {
        let (mut ids, mut macs) = (BTreeSet::new(), BTreeSet::new());
        for serial in 1..=20_000 {
            let id = eni_id("0jl", 7, serial);
            let tail = id.as_str().strip_prefix("eni-0jl").unwrap();
            assert_eq!(tail.len(), 17);
            assert!(
                tail.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            );
            let mac = mac(7, serial);
            assert!(mac.to_string().starts_with("00:16:3e:"));
            assert!(ids.insert(id) && macs.insert(mac), "serial {serial}");
        }
    }

    #[test]
    fn what_is_made_later_has_the_greater_id_and_mac_until_they_begin_anew() {
        let ids = |serials: std::ops::Range<u64>| serials.map(|serial| eni_id("0jl", 7, serial));
        assert!(ids(1..20_000).is_sorted());
        assert!((1..20_000).map(|serial| mac(7, serial).0).is_sorted());
        let made_s = [1_800_000_000, 1_800_000_001, 1_900_000_000];
        let instances = made_s.map(|made_s| resource_id("acs", "0jl", made_s, u64::MAX - made_s));
        assert!(instances.is_sorted(), "{instances:?}");
    }

    #[test]
    fn a_region_has_its_own_three_characters() {
        let codes: Vec<_> = ["cn-wulanchabu", "cn-hangzhou", "cn-beijing", "cn-shanghai"]
            .map(region_code)
            .into();
        assert_eq!(codes, ["0jl", "bp1", "2ze", "uf6"]);
        let derived = region_code("eu-nowhere-9");
        assert_eq!(derived.len(), 3);
        assert_eq!(derived, region_code("eu-nowhere-9"));
        assert_ne!(derived, region_code("eu-nowhere-8"));
    }
}
