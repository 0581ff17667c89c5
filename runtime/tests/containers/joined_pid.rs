//! Containers that share a PID namespace (security.md C5; config-linux.md, namespaces).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::{Container, FIRST_ID, wait_for};

const SCRIPT: &str =
    "cat /proc/1/comm; readlink /proc/self/ns/pid; test /proc/$$/exe -ef /proc/self/exe && echo self";

fn expected(pid: i32) -> String {
    let namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    format!("sleep\n{}\nself\n", namespace.display())
}

#[test]
fn c5_proc_shows_the_joined_namespace() {
    let Some(mut first) = Container::new("pid-first") else { return };
    let pid = first.start_sleeping();
    let Some(mut second) = Container::new("pid-second") else { return };
    second.join("pid", pid).script(SCRIPT);
    assert_eq!(second.run().ok(), expected(pid));
    second.join("network", pid).join("ipc", pid).join("uts", pid);
    second.config.as_object_mut().unwrap().remove("hostname");
    assert_eq!(second.run().ok(), expected(pid));
    // Options of the mount are kept.
    let mounts = second.config["mounts"].as_array_mut().unwrap();
    let proc = mounts.iter_mut().find(|mount| mount["type"] == "proc").unwrap();
    proc["options"] = json!(["ro", "nosuid", "hidepid=invisible"]);
    let out = second.script("grep ' /proc proc' /proc/self/mounts").run().ok();
    assert!(out.starts_with("proc /proc proc ro,nosuid,relatime,hidepid=invisible"), "{out}");
    // exec, kill and delete find it in that namespace.
    second.start_sleeping();
    assert_eq!(second.exec(&[], "cat /proc/1/comm").ok(), "sleep\n");
    second.skeg(&["delete", "-f", &second.id]).ok();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
}

/// security.md F16: what a container left behind in a namespace that is not its own ends with it.
#[test]
fn f16_sigkill_ends_all_of_a_container_in_a_joined_namespace() {
    let Some(mut first) = Container::new("pid-kill-first") else { return };
    let pid = first.start_sleeping();
    let Some(mut second) = Container::new("pid-kill-second") else { return };
    second.join("pid", pid).script("sleep 1000 & exec sleep 1000").detach().ok();
    // The first container's init waits for nobody, so that what has ended stays as a zombie.
    let members = || {
        let entries = fs::read_dir(format!("/proc/{pid}/root/proc")).unwrap().filter_map(Result::ok);
        let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        stats.filter(|stat| stat.contains(") S ")).count()
    };
    wait_for("both processes", || (members() == 3).then_some(()));
    second.skeg(&["kill", &second.id, "KILL"]).ok();
    wait_for("the end of both processes", || (members() == 1).then_some(()));
}

/// The PID namespace is of a user namespace that is joined too, or a new one is made beside it.
#[test]
fn c5_user_namespaces_beside_a_joined_pid_namespace() {
    let Some(mut first) = Container::new("pid-user-first") else { return };
    let pid = first.user_namespace().start_sleeping();
    let Some(mut second) = Container::new("pid-user-second") else { return };
    second.give_rootfs_to(FIRST_ID);
    second.join("pid", pid).join("user", pid).script(SCRIPT);
    assert_eq!(second.run().ok(), expected(pid));

    let Some(mut host) = Container::new("pid-host") else { return };
    let pid = host.start_sleeping();
    let Some(mut third) = Container::new("pid-new-user") else { return };
    third
        .user_namespace()
        .join("pid", pid)
        .join("network", pid)
        .script("cat /proc/1/comm; cut -c12-21 /proc/self/uid_map");
    assert_eq!(third.run().ok(), format!("sleep\n{FIRST_ID:>10}\n"));
    third.start_sleeping();
    assert_eq!(third.exec(&[], "cat /proc/1/comm; id -u").ok(), "sleep\n0\n");
    third.config["hooks"] = json!({"createContainer": [{"path": "/bin/true"}]});
    assert!(third.run().error().starts_with("/hooks/createContainer: cannot run where"));
}

/// Nobody in the namespace ever sees a process with the host's root or working directory (C5), or one that runs from the
/// host's file (C1), however fast he looks: here somebody who has the view of the namespace and the rights of the host's
/// root.
#[test]
fn c5_members_never_see_the_hosts_root() {
    let Some(mut first) = Container::new("pid-watched") else { return };
    let pid = first.start_sleeping();
    let Some(mut second) = Container::new("pid-joining") else { return };
    second.join("pid", pid).script("true");
    let root_of = |container: &Container| {
        let status = fs::metadata(container.rootfs()).unwrap();
        (status.dev(), status.ino())
    };
    let of = |status: fs::Metadata| (status.dev(), status.ino());
    let runtime = of(fs::metadata(env!("CARGO_BIN_EXE_skeg")).unwrap());
    let (over, looked_at) = (AtomicBool::new(false), AtomicUsize::new(0));
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            let mut numbers = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let members = fs::read_dir(format!("/proc/{pid}/root/proc")).unwrap();
                for member in members.filter_map(Result::ok) {
                    let Some(number) = member.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
                    else {
                        continue;
                    };
                    numbers.insert(number);
                    looked_at.store(numbers.len(), Ordering::Relaxed);
                    for link in ["root", "cwd"] {
                        seen.extend(fs::metadata(member.path().join(link)).map(of));
                    }
                    let program = fs::metadata(member.path().join("exe")).map(of);
                    assert_ne!(program.ok(), Some(runtime), "it runs from the host's file");
                }
            }
            seen
        });
        // Each container is a process in the namespace, and its helper is one: until half of them have been looked at.
        let mut runs = 0;
        while runs < 20 || looked_at.load(Ordering::Relaxed) < runs {
            second.run().ok();
            runs += 1;
            assert!(runs < 500, "hardly any process was seen");
        }
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert_eq!(seen, BTreeSet::from([root_of(&first), root_of(&second)]));
}
