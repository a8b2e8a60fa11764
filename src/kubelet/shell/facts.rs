//! `ip`, `hostname`, `env`, `printenv`, `id` and `whoami`: commands that answer from the pod.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use super::interpreter::Shell;
use super::world::World;

impl World {
    /// The host name that the kubelet gives the container.
    fn host_name(&self) -> String {
        crate::kubelet::hosts::host_name(&self.pod)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let status = self.pod.status.as_ref();
        let all = status
            .and_then(|status| status.pod_ips.as_deref())
            .unwrap_or_default();
        let mut addresses: Vec<IpAddr> = all.iter().filter_map(|one| one.ip.parse().ok()).collect();
        if addresses.is_empty() {
            let first = status.and_then(|status| status.pod_ip.as_ref());
            addresses.extend(first.and_then(|ip| ip.parse::<IpAddr>().ok()));
        }
        addresses
    }

    /// User and group that the container runs as, root unless its security context says otherwise.
    fn user(&self) -> (i64, i64) {
        let of_pod = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.as_ref());
        let own = self.spec().and_then(|spec| spec.security_context.as_ref());
        let user = own.and_then(|own| own.run_as_user);
        let group = own.and_then(|own| own.run_as_group);
        (
            user.or(of_pod.and_then(|pod| pod.run_as_user)).unwrap_or(0),
            group
                .or(of_pod.and_then(|pod| pod.run_as_group))
                .unwrap_or(0),
        )
    }
}

pub(super) async fn ip(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let (flags, words): (Vec<&str>, Vec<&str>) = args
        .iter()
        .map(String::as_str)
        .partition(|arg| arg.starts_with('-'));
    let family = |address: &IpAddr| match (flags.contains(&"-4"), flags.contains(&"-6")) {
        (true, false) => address.is_ipv4(),
        (false, true) => address.is_ipv6(),
        _ => true,
    };
    let known = flags
        .iter()
        .all(|flag| matches!(*flag, "-4" | "-6" | "-c" | "-color=auto"));
    let object = words.first().copied().unwrap_or_default();
    let is_address = !object.is_empty() && "address".starts_with(object);
    let is_link = !object.is_empty() && "link".starts_with(object);
    if !known || !(is_address || is_link) {
        let message = "only `ip addr` and `ip link` are known in this simulated container";
        return shell.fail("ip", message).await;
    }
    let mut words = words[1..]
        .iter()
        .filter(|word| !["show", "sh", "s", "list", "ls", "dev"].contains(word));
    let device = words.next().copied();
    if words.next().is_some() || device.is_some_and(|device| !["lo", "eth0"].contains(&device)) {
        let message = format!("Device {:?} does not exist.", device.unwrap_or_default());
        return shell.fail("ip", message).await;
    }
    let mut text = String::new();
    let world = shell.world;
    let addresses = world.addresses();
    let addresses = addresses
        .iter()
        .filter(|address| is_address && family(address));
    if device != Some("eth0") {
        text += "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000\n";
        text += "    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00\n";
        if is_address && family(&[127, 0, 0, 1].into()) {
            text += "    inet 127.0.0.1/8 scope host lo\n       valid_lft forever preferred_lft forever\n";
        }
    }
    if device != Some("lo") {
        text += "2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc mq state UP group default qlen 1000\n";
        if let Some(mac) = &world.mac {
            writeln!(text, "    link/ether {mac} brd ff:ff:ff:ff:ff:ff")
                .map_err(io::Error::other)?;
        }
        let annotations = world.pod.metadata.annotations.as_ref();
        let eni = annotations.and_then(|all| all.get("network.alibabacloud.com/allocated-eni-id"));
        if let Some(eni) = eni {
            writeln!(text, "    alias {eni}").map_err(io::Error::other)?;
        }
        for address in addresses {
            let (kind, length) = if address.is_ipv4() {
                ("inet", 32)
            } else {
                ("inet6", 128)
            };
            writeln!(
                text,
                "    {kind} {address}/{length} scope global eth0\n       valid_lft forever preferred_lft forever"
            )
            .map_err(io::Error::other)?;
        }
    }
    shell.io.stdout.write(text).await?;
    Ok(0)
}

pub(super) async fn hostname(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let world = shell.world;
    let addresses = || {
        let all = world.addresses();
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        all.join(" ")
    };
    let text = match args {
        [] => world.host_name(),
        [flag] if flag == "-s" => world.host_name(),
        [flag] if flag == "-i" || flag == "-I" => addresses(),
        [flag] if flag == "-f" => {
            let hosts = world.read(&"/etc/hosts".into()).unwrap_or_default();
            let hosts = String::from_utf8_lossy(&hosts);
            let name = world.host_name();
            let full = hosts.split_whitespace().find(|word| {
                word.strip_prefix(&*name)
                    .is_some_and(|rest| rest.starts_with('.'))
            });
            full.unwrap_or(&name).to_owned()
        }
        _ => {
            let message = "only -i, -I, -f and -s are known in this simulated container";
            return shell.fail("hostname", message).await;
        }
    };
    shell.io.stdout.write(text + "\n").await?;
    Ok(0)
}

pub(super) async fn printenv(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let mut status = 0;
    if args.is_empty() {
        for (name, value) in shell.variables.exported() {
            shell.io.stdout.write(format!("{name}={value}\n")).await?;
        }
    }
    for name in args {
        match shell.variables.exported().find(|(known, _)| known == name) {
            Some((_, value)) => shell.io.stdout.write(format!("{value}\n")).await?,
            None => status = 1,
        }
    }
    Ok(status)
}

pub(super) async fn id(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let (user, group) = shell.world.user();
    let named = |id: i64| {
        if id == 0 {
            format!("{id}(root)")
        } else {
            id.to_string()
        }
    };
    let flags = args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ");
    let text = match &*flags {
        "" => format!(
            "uid={} gid={} groups={}",
            named(user),
            named(group),
            named(group)
        ),
        "-u" => user.to_string(),
        "-g" | "-G" => group.to_string(),
        "-un" | "-u -n" | "-n -u" if user == 0 => "root".to_owned(),
        _ => {
            let message = format!("{flags}: not supported in this simulated container");
            return shell.fail("id", message).await;
        }
    };
    shell.io.stdout.write(text + "\n").await?;
    Ok(0)
}

pub(super) async fn whoami(shell: &mut Shell<'_>) -> io::Result<i32> {
    match shell.world.user() {
        (0, _) => {
            shell.io.stdout.write("root\n").await?;
            Ok(0)
        }
        (user, _) => shell.fail("whoami", format!("unknown uid {user}")).await,
    }
}
