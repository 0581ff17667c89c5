//! `/linux/netDevices` (config-linux.md, "Network Devices").

use std::process::Command;

use serde_json::json;

use crate::support::Container;

/// A pair of devices on the host, gone with the test.
struct Pair {
    ours: String,
    theirs: String,
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn exists(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

impl Pair {
    fn new(name: &str) -> Self {
        let own = std::process::id() % 100_000;
        let pair = Self { ours: format!("{name}{own}a"), theirs: format!("{name}{own}b") };
        ip(&format!("link add {} type veth peer name {}", pair.theirs, pair.ours));
        pair
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in [&self.ours, &self.theirs] {
            let _ =
                Command::new("ip").args(["link", "del", name]).stderr(std::process::Stdio::null()).status();
        }
    }
}

/// "The runtime MUST preserve existing network interface attributes, including all permanent IP addresses of any family
/// with global scope", and "MUST set the network device state to up".
#[test]
fn a_device_moves_with_its_lasting_addresses() {
    let Some(mut container) = Container::new("net-move") else { return };
    let pair = Pair::new("nm");
    let device = &pair.theirs;
    ip(&format!("link set {device} mtu 1400 address 02:00:00:00:13:01"));
    ip(&format!("addr add 10.97.13.1/24 brd + dev {device}"));
    ip(&format!("addr add 10.97.14.1 peer 10.97.14.2/32 dev {device}"));
    ip(&format!("addr add 169.254.9.1/16 scope link dev {device}"));
    ip(&format!("addr add 10.97.15.1/24 dev {device} valid_lft 1000 preferred_lft 1000"));
    ip(&format!("addr add fd13::5/64 nodad dev {device}"));
    container.config["linux"]["netDevices"] = json!({device: {"name": "ctr0"}});
    let out = container.script("ip addr show ctr0").run().ok();
    for part in [
        "mtu 1400",
        ",UP",
        "02:00:00:00:13:01",
        "inet 10.97.13.1/24 brd 10.97.13.255 scope global",
        "inet 10.97.14.1 peer 10.97.14.2/32 scope global",
        "inet6 fd13::5/64 scope global",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("169.254.9.1") && !out.contains("10.97.15.1"), "{out}");
}

#[test]
fn a_device_of_a_container_with_a_user_namespace() {
    let Some(mut container) = Container::new("net-userns") else { return };
    let pair = Pair::new("nu");
    container.user_namespace().config["linux"]["netDevices"] = json!({&pair.theirs: {}});
    let out = container.script(&format!("ip -o link show {}", pair.theirs)).run().ok();
    assert!(out.contains("UP"), "{out}");
}

/// "unless the user has provided a template by appending %d to the new name".
#[test]
fn a_template_gives_the_lowest_free_number() {
    let Some(mut container) = Container::new("net-template") else { return };
    let pair = Pair::new("nt");
    container.config["linux"]["netDevices"] =
        json!({&pair.ours: {"name": "eth%d"}, &pair.theirs: {"name": "eth%d"}});
    let out = container.script("ip -o link show eth0 && ip -o link show eth1").run().ok();
    assert_eq!(out.lines().count(), 2, "{out}");
}

/// "If a network device with the specified name already exists in the container namespace, the runtime MUST throw an
/// error"; and no device is lost by one.
#[test]
fn a_device_that_cannot_be_moved_stays() {
    let Some(mut container) = Container::new("net-error") else { return };
    let pair = Pair::new("ne");
    container.script("true").config["linux"]["netDevices"] =
        json!({&pair.ours: {}, &pair.theirs: {"name": "lo"}});
    let error = container.run().error();
    assert!(error.ends_with("the container has a network device lo already"), "{error}");
    container.config["linux"]["netDevices"] = json!({&pair.ours: {}, "no-such": {}});
    assert_eq!(
        container.run().error(),
        "/linux/netDevices/no-such: there is no such network device on the host"
    );
    container.namespace("network", Some(format!("/proc/{}/ns/net", std::process::id())));
    container.config["linux"]["netDevices"] = json!({&pair.ours: {"name": "renamed"}});
    assert!(container.run().error().contains("the runtime's own network namespace"));
    assert!(exists(&pair.ours) && exists(&pair.theirs));
}
