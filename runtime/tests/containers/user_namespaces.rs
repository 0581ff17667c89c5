//! User namespaces, new and joined, with everything else beside them (config-linux.md, namespaces; plan.rs, `Stages`).

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::support::{Container, FIRST_ID, IDS, SKEG};

fn mapped() -> String {
    format!("{:>10} {:>10} {:>10}", 0, FIRST_ID, IDS)
}

#[test]
fn ids_files_and_mounts_are_those_of_the_namespace() {
    let Some(mut container) = Container::new("userns") else { return };
    container.user_namespace().namespace("cgroup", None);
    container.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"});
    container.config["linux"]["maskedPaths"].as_array_mut().unwrap().push(json!("/etc"));
    container.config["linux"]["devices"] = json!([{"path": "/dev/zero2", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 0, "gid": 0}]);
    fs::write(container.rootfs().join("etc/secret"), "").unwrap();
    let script = "id -u; cat /proc/self/uid_map; echo x > /made; head -c1 /dev/zero | grep -c .; \
        ls /etc; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; \
        mount | grep -c '^cgroup2* on'; cd /sys/fs/cgroup; [ ! -d memory ] || cd memory; touch x 2>&1; hostname";
    let out = container.script(script).run();
    // A device that is not on the host cannot be bound.
    assert!(out.error().contains("/dev/zero2"));
    container.config["linux"]["devices"][0]["path"] = json!("/dev/zero");
    let out = container.run().ok();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("0"));
    assert_eq!(lines.next(), Some(mapped().as_str()));
    assert!(lines.next().is_some());
    assert_eq!((lines.next(), lines.next()), (Some("1"), Some("9000")), "{out}");
    assert_ne!(lines.next(), Some("0"), "{out}");
    assert!(lines.next().unwrap().ends_with("Read-only file system"), "{out}");
    assert_eq!(lines.next(), Some("skeg"));
    assert_eq!(fs::metadata(container.rootfs().join("made")).unwrap().uid(), FIRST_ID);
}

/// The host's network as it is and by path, its processes: each asks for other steps (plan.rs).
#[test]
fn namespaces_of_the_host_beside_a_new_user_namespace() {
    let Some(mut container) = Container::new("userns-host") else { return };
    container.user_namespace();
    let script = "readlink /proc/self/ns/net; cat /proc/self/uid_map; echo $$";
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let expect = |out: String, pid: &str| {
        let expected = format!("{}\n{}\n{pid}\n", own.display(), mapped());
        assert_eq!(out, expected);
    };
    container.without_namespace("network").script(script);
    expect(container.run().ok(), "1");
    let path = format!("/proc/{}/ns/net", std::process::id());
    container.namespace("network", Some(path));
    expect(container.run().ok(), "1");
}

#[test]
fn a_time_namespace_in_a_user_namespace_has_its_offsets() {
    let Some(mut container) = Container::new("userns-time") else { return };
    container.user_namespace().namespace("time", None);
    container.config["linux"]["timeOffsets"] =
        json!({"boottime": {"secs": 864_000}, "monotonic": {"secs": 7, "nanosecs": 9}});
    let out = container.script("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime").run().ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["monotonic", "7", "9"]);
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["boottime", "864000", "0"]);
    assert!(lines[2].parse::<u64>().unwrap() >= 864_000, "{out}");
}

/// A pod: the second container joins the user namespace and others of the first one.
#[test]
fn an_existing_user_namespace_is_joined() {
    let Some(mut first) = Container::new("pod-first") else { return };
    first.user_namespace();
    let pid = first.start_sleeping();
    let Some(mut second) = Container::new("pod-second") else { return };
    second.give_rootfs_to(FIRST_ID);
    second.script("readlink /proc/self/ns/user; readlink /proc/self/ns/net; cat /proc/self/uid_map; echo $$");
    let link = |file: &str| fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap().display().to_string();
    let host_net = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let expected = |net: &str| format!("{}\n{net}\n{}\n1\n", link("user"), mapped());

    second
        .join("user", pid)
        .join("network", pid)
        .join("ipc", pid)
        .join("uts", pid)
        .without_namespace("hostname");
    second.config.as_object_mut().unwrap().remove("hostname");
    assert_eq!(second.run().ok(), expected(&link("net")));
    second.without_namespace("network");
    assert_eq!(second.run().ok(), expected(&host_net));
    // The host's network by path: its sysfs is not the user namespace's to mount, so that managers bind the host's.
    second.namespace("network", Some(format!("/proc/{}/ns/net", std::process::id())));
    let mounts = second.config["mounts"].as_array_mut().unwrap();
    let sys = mounts.iter_mut().find(|mount| mount["type"] == "sysfs").unwrap();
    *sys = json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "rro"]});
    assert_eq!(second.run().ok(), expected(&host_net));
}

#[test]
fn exec_enters_the_user_namespace() {
    let Some(mut container) = Container::new("userns-exec") else { return };
    container.user_namespace().start_sleeping();
    let out = container.exec(&[], "id -u; cat /proc/self/uid_map; test $$ != 1; cat /proc/1/comm").ok();
    assert_eq!(out, format!("0\n{}\nsleep\n", mapped()));
    let out = container.exec(&["-u", "1000:1001", "-g", "7"], "id -u; id -g; id -G").ok();
    assert_eq!(out, "1000\n1001\n1001 7\n");
}

#[test]
fn a_terminal_in_a_user_namespace_is_its_own() {
    let Some(mut container) = Container::new("userns-tty") else { return };
    container.user_namespace();
    container.config["process"]["terminal"] = json!(true);
    container.config["process"]["consoleSize"] = json!({"height": 31, "width": 77});
    container.script("tty; stat -c '%u %t' /dev/console; stty size").write_config();
    let bundle = container.bundle().to_str().unwrap();
    let line = format!("{SKEG} --root {} run -b {bundle} {}", container.state_root().display(), container.id);
    let mut command = std::process::Command::new("timeout");
    let output = command.args(["30", "script", "-qec", &line, "/dev/null"]).output().unwrap();
    // script(1) hands its own end of input on, which the terminal echoes.
    let out = String::from_utf8_lossy(&output.stdout).replace('\r', "").replace("^@", "");
    assert!(out.ends_with("/dev/pts/0\n0 88\n31 77\n"), "{out:?}");
}

/// Hooks in the container's namespaces have its user, those in the runtime's have the runtime's.
#[test]
fn hooks_run_in_the_user_namespace_they_belong_to() {
    let Some(mut container) = Container::new("userns-hooks") else { return };
    container.user_namespace();
    let out = container.bundle().join("hooks");
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let hook = |name: &str| {
        let script =
            format!("echo {name} $(cut -d' ' -f1-99 /proc/self/uid_map | tr -s ' ') >> {}", out.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    container.config["hooks"] = json!({"createRuntime": hook("createRuntime"), "createContainer": hook("createContainer"), "poststop": hook("poststop")});
    container.script("true").run().ok();
    let expected = format!(
        "createRuntime 0 0 4294967295\ncreateContainer 0 {FIRST_ID} {IDS}\npoststop 0 0 4294967295\n"
    );
    assert_eq!(container.read("hooks"), expected);
}
