//! vSwitches and nodes.

use super::*;

#[test]
fn a_wrong_vswitch_is_refused_with_its_place_and_the_way_out() {
    for (id, cidr, token, reason) in [
        (
            "vsw-c",
            "192.168.1.128/25",
            "192.168.1.128/25",
            "vSwitch vsw-c overlaps vsw-b (192.168.1.0/24): give it a CIDR of its own",
        ),
        (
            "'a,b'",
            "10.0.0.0/24",
            "'a,b'",
            "vSwitch `a,b` is no valid id: use 1 to 63 letters, digits, `-`, `_` and `.`, with a \
             letter or digit at both ends",
        ),
        (
            "v",
            "10.0.0.0",
            "10.0.0.0",
            "`10.0.0.0` is no IPv4 CIDR: write it like 192.168.1.0/24",
        ),
        (
            "v",
            "10.0.0.7/24",
            "10.0.0.7",
            "`10.0.0.7/24` does not begin at its network address: write 10.0.0.0/24",
        ),
        (
            "v",
            "10.0.0.0/15",
            "10.0.0.0",
            "`10.0.0.0/15` is no size for a vSwitch: give a /16 to a /29",
        ),
        (
            "v",
            "10.0.0.0/30",
            "10.0.0.0",
            "`10.0.0.0/30` is no size for a vSwitch: give a /16 to a /29",
        ),
        (
            "v",
            "10.0.0.0/29, exclude: [10.0.0.1-10.0.0.4]",
            "10.0.0.0",
            "vSwitch v (10.0.0.0/29) has no usable address left: exclude fewer",
        ),
        (
            "v",
            "10.0.0.0/29, exclude: [10.0.0.4-10.0.0.2]",
            "10.0.0.4",
            "`10.0.0.4-10.0.0.2` runs backwards: write 10.0.0.2-10.0.0.4",
        ),
        (
            "v",
            "10.0.0.0/29, exclude: [10.0.0.9]",
            "10.0.0.9",
            "`10.0.0.9` lies outside 10.0.0.0/29: exclude only what is inside",
        ),
        (
            "v",
            "10.0.0.0/29, exclude: [all]",
            "all",
            "`all` excludes nothing: write an address, a range like 192.168.2.10-192.168.2.20, \
             or a CIDR",
        ),
    ] {
        let entry = format!("- {{id: {id}, zone: z, cidr: {cidr}}}\nnodes:");
        refused(&BASE.replace("nodes:", &entry), token, reason);
    }
}

#[test]
fn two_vswitches_with_one_id_are_refused() {
    let entry = "- {id: \"vsw-b\", zone: z, cidr: 10.0.0.0/24}\nnodes:";
    refused(
        &BASE.replace("nodes:", entry),
        "\"vsw-b\"",
        "vSwitch vsw-b is there twice: give each one an id of its own",
    );
}

#[test]
fn a_wrong_node_is_refused_with_its_place_and_the_way_out() {
    let long = "n".repeat(64);
    let name = |name: &str| {
        format!(
            "node `{name}` is no valid name: use 1 to 63 lower-case letters, digits, `-` and `.`, \
             with a letter or digit at both ends of each part"
        )
    };
    for (entry, token, reason) in [
        (
            "zone: zone-z",
            "zone-z",
            "zone zone-z has no vSwitch, so its pods could get no address: add one",
        ),
        (
            "name: virtual-kubelet-cn-wulanchabu-b, zone: cn-wulanchabu-b",
            "virtual-kubelet",
            "node virtual-kubelet-cn-wulanchabu-b is there twice: give it another name",
        ),
        (
            "name: Node_1, zone: cn-wulanchabu-b",
            "Node_1",
            &name("Node_1"),
        ),
        ("name: a..b, zone: cn-wulanchabu-b", "a..b", &name("a..b")),
        (
            &format!("name: {long}, zone: cn-wulanchabu-b"),
            &long,
            &name(&long),
        ),
        (
            "type: ecs, zone: cn-wulanchabu-b",
            "{type",
            "a node of type ecs needs a name",
        ),
        (
            "count: 27, zone: cn-wulanchabu-b",
            "27",
            "an entry with count needs a name with one `%d`, like load-%d",
        ),
        (
            "name: a-%d, zone: cn-wulanchabu-b",
            "a-%d",
            "`a-%d` has `%d` but no count: say how many",
        ),
        (
            "name: a-%d, zone: cn-wulanchabu-b, count: 0",
            "0}",
            "count is `0`: give a whole number from 1 to 10000",
        ),
        (
            "name: a-%d, zone: cn-wulanchabu-b, count: 10001",
            "10001",
            "count is `10001`: give a whole number from 1 to 10000",
        ),
    ] {
        refused(
            &BASE.replace("# end", &format!("- {{{entry}}}")),
            token,
            reason,
        );
    }
}

#[test]
fn a_node_entry_without_a_port_left_is_refused() {
    refused(
        &BASE.replace(
            "# end",
            "- {name: n, zone: cn-wulanchabu-b}\nkubelet: {port: 65535}",
        ),
        "{name: n",
        "no port is left for this entry: each has one of its own from kubelet.port (65535) \
         upward, so give a lower kubelet.port",
    );
}
