//! Names in a simulated container: its host name, `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Owns the kubelet's rules for them (kubernetes/kubernetes, pkg/kubelet/kubelet_pods.go and
//! pkg/kubelet/network/dns/dns.go). Where a real kubelet passes the host's own files on, there is
//! only what the configuration says: no file of the host is read.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Longest host name (Linux, HOST_NAME_MAX, less one).
const HOST_NAME_MAX: usize = 63;

/// How names are resolved on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of the cluster's name servers.
    pub cluster_servers: Vec<IpAddr>,
    /// Domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// Addresses of the node's own name servers.
    pub node_servers: Vec<IpAddr>,
    /// Search domains of the node.
    pub node_searches: Vec<String>,
}

/// The pod's host name: its own, or its name as far as that fits; the node's with the node's network.
pub fn host_name(pod: &Pod) -> String {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let Some(spec) = &pod.spec else {
        return name;
    };
    if let Some(fixed) = spec.hostname_override.clone() {
        return fixed;
    }
    if spec.host_network == Some(true) {
        return spec.node_name.clone().unwrap_or_default();
    }
    let name = spec.hostname.clone().unwrap_or(name);
    let cut: String = name.chars().take(HOST_NAME_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Content of `/etc/hosts`.
pub fn hosts_file(pod: &Pod, dns: &Dns) -> String {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let host_network = spec.host_network == Some(true);
    let kind = if host_network { " (host network)" } else { "" };
    let mut text = format!("# Kubernetes-managed hosts file{kind}.\n");
    text += "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n";
    let status = pod.status.as_ref();
    let addresses = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default();
    let name = host_name(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = spec
        .subdomain
        .as_deref()
        .filter(|domain| !domain.is_empty());
    let full =
        full.map(|domain| format!("{name}.{domain}.{namespace}.svc.{}\t", dns.cluster_domain));
    for address in addresses.iter().filter(|_| !host_network) {
        let full = full.as_deref().unwrap_or_default();
        // A String takes all text.
        let _ = writeln!(text, "{}\t{full}{name}", address.ip);
    }
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default();
        let _ = writeln!(text, "{}\t{}", alias.ip, names.join("\t"));
    }
    text
}

/// Content of `/etc/resolv.conf`.
pub fn resolv_conf(pod: &Pod, dns: &Dns) -> String {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let strings = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect();
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => spec.host_network != Some(true),
        _ => false,
    };
    if cluster && !dns.cluster_servers.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = &dns.cluster_domain;
        servers = strings(&dns.cluster_servers);
        searches = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        searches.extend(dns.node_searches.iter().cloned());
        options = vec![("ndots".to_owned(), Some("5".to_owned()))];
    } else if policy != "None" {
        servers = strings(&dns.node_servers);
        searches.clone_from(&dns.node_searches);
    }
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|(known, _)| *known != name);
            options.push((name, option.value.clone()));
        }
    }
    let mut text = String::new();
    let searches = without_repeats(searches);
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    for server in without_repeats(servers) {
        let _ = writeln!(text, "nameserver {server}");
    }
    let options: Vec<_> = options
        .into_iter()
        .map(|(name, value)| match value {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name,
        })
        .collect();
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

fn without_repeats(list: Vec<String>) -> Vec<String> {
    let mut kept = Vec::with_capacity(list.len());
    for entry in list {
        if !kept.contains(&entry) {
            kept.push(entry);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value) -> Pod {
        let mut all = json!({"containers": [], "nodeName": "vk-b"});
        for (name, value) in spec.as_object().unwrap() {
            all[name] = value.clone();
        }
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": all,
            "status": {"podIPs": [{"ip": "192.168.1.4"}]},
        }))
        .unwrap()
    }

    fn dns() -> Dns {
        Dns {
            cluster_servers: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
            node_servers: vec!["100.100.2.136".parse().unwrap()],
            node_searches: vec!["corp".into()],
        }
    }

    #[test]
    fn a_host_name_is_that_of_the_pod_or_of_the_node() {
        for (spec, want) in [
            (json!({}), "web-0"),
            (json!({"hostname": "db"}), "db"),
            (json!({"hostNetwork": true}), "vk-b"),
        ] {
            assert_eq!(host_name(&pod(&spec)), want, "{spec}");
        }
        let mut long = pod(&json!({}));
        long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(9)));
        assert_eq!(host_name(&long), "a".repeat(62));
    }

    #[test]
    fn the_hosts_file_has_the_address_and_the_aliases() {
        let spec = json!({"subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let text = hosts_file(&pod(&spec), &dns());
        let end = "fe00::2\tip6-allrouters\n\
            192.168.1.4\tweb-0.web.shop.svc.cluster.local\tweb-0\n\
            \n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n";
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
            "{text}"
        );
        assert!(text.ends_with(end), "{text}");
        let plain = hosts_file(&pod(&json!({})), &dns());
        assert!(plain.ends_with("192.168.1.4\tweb-0\n"), "{plain}");
    }

    #[test]
    fn resolv_conf_follows_the_policy_and_the_pods_own_configuration() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp\nnameserver 10.96.0.10\noptions ndots:5\n";
        let node = "search corp\nnameserver 100.100.2.136\n";
        let config = json!({"nameservers": ["8.8.8.8"], "searches": ["corp", "x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        for (spec, want) in [
            (json!({}), cluster),
            (json!({"dnsPolicy": "Default"}), node),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"}),
                node,
            ),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                cluster,
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": config}),
                "search corp x\nnameserver 8.8.8.8\noptions ndots:2 edns0\n",
            ),
            (
                json!({"dnsConfig": config}),
                "search shop.svc.cluster.local svc.cluster.local cluster.local corp x\nnameserver 10.96.0.10\nnameserver 8.8.8.8\noptions ndots:2 edns0\n",
            ),
        ] {
            assert_eq!(resolv_conf(&pod(&spec), &dns()), want, "{spec}");
        }
    }
}
