//! Properties of `process` and `linux` that runtime-spec 1.1 to 1.3 added, as a program in the container sees them.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Container, SKEG, wait_for};

/// config.md, scheduler.
#[test]
fn scheduler() {
    let Some(mut container) = Container::new("scheduler") else { return };
    // Policy and nice value of this process: fields 41 and 19 (proc_pid_stat(5)).
    container.script("cut -d' ' -f19,41 /proc/self/stat");
    container.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    assert_eq!(container.run().ok(), "5 3\n");
    container.config["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"});
    assert_eq!(container.run().ok(), "0 5\n");
    let flags = json!(["SCHED_FLAG_RESET_ON_FORK"]);
    container.config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": -3, "flags": flags});
    // What is forked has its nice value reset.
    container.script("cut -d' ' -f19 /proc/$$/stat; cut -d' ' -f19 /proc/self/stat; true");
    assert_eq!(container.run().ok(), "-3\n0\n");
    container.config["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 5});
    container.config["linux"]["resources"]["cpu"] = json!({"realtimeRuntime": 10_000});
    if fs::exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").unwrap_or(false) {
        assert_eq!(container.script("cut -d' ' -f40,41 /proc/self/stat").run().ok(), "5 1\n");
    }
    container.config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 30});
    assert!(container.run().error().starts_with("/process/scheduler/nice: 30"));
}

/// config.md, ioPriority; config-linux.md, personality.
#[test]
fn io_priority_and_personality() {
    let Some(mut container) = Container::new("priority") else { return };
    container.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    container.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    let out = container.script("ionice -p $$; cat /proc/self/personality").run().ok();
    assert_eq!(out, "best-effort: prio 6\n00000008\n");
    let flags = json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
    container.config["linux"]["personality"] = flags;
    assert!(container.run().error().starts_with("/linux/personality/flags"));
}

/// config-linux.md, memoryPolicy.
#[test]
fn memory_policy() {
    let Some(mut container) = Container::new("mempolicy") else { return };
    if !fs::exists("/proc/self/numa_maps").unwrap() {
        println!("skipped: this kernel has no memory policies");
        return;
    }
    container.script("head -1 /proc/self/numa_maps | cut -d' ' -f2");
    let mut run = |policy: Value| {
        container.config["linux"]["memoryPolicy"] = policy;
        container.run()
    };
    let flags = json!(["MPOL_F_STATIC_NODES"]);
    assert_eq!(run(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": flags})).ok(), "bind=static:0\n");
    assert_eq!(run(json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-0"})).ok(), "interleave:0\n");
    assert_eq!(run(json!({"mode": "MPOL_LOCAL"})).ok(), "local\n");
    assert_eq!(run(json!({"mode": "MPOL_DEFAULT"})).ok(), "default\n");
    assert!(
        run(json!({"mode": "MPOL_BIND", "nodes": "1000"})).error().starts_with("/linux/memoryPolicy: set")
    );
    assert!(run(json!({"mode": "MPOL_BIND", "nodes": "a"})).error().starts_with("/linux/memoryPolicy/nodes"));
    assert!(run(json!({"mode": "MPOL_SOME"})).error().starts_with("/linux/memoryPolicy/mode"));
}

/// config.md, execCPUAffinity; without it, what the caller of the runtime is bound to is not the container's matter.
#[test]
fn cpu_affinity() {
    let Some(mut container) = Container::new("affinity") else { return };
    let allowed = |text: &str| {
        text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t").map(str::to_owned))
    };
    let ours = allowed(&fs::read_to_string("/proc/self/status").unwrap()).unwrap();
    if ours != "0-1" {
        println!("skipped: needs CPUs 0 and 1 exactly, and has {ours}");
        return;
    }
    const SCRIPT: &str = "grep Cpus_allowed_list /proc/self/status";
    container.script(SCRIPT).write_config();
    let mut bound = Command::new("taskset");
    let bundle = container.bundle().to_str().unwrap();
    bound.args(["-c", "1", SKEG, "--root"]).arg(container.state_root()).args([
        "run",
        "-b",
        bundle,
        &container.id,
    ]);
    assert_eq!(allowed(&String::from_utf8(bound.output().unwrap().stdout).unwrap()), Some(ours));

    container.start_sleeping();
    let with =
        |affinity: Value| container.exec_process(SCRIPT, |process| process["execCPUAffinity"] = affinity);
    assert_eq!(allowed(&with(json!({"initial": "0", "final": "1"})).ok()).unwrap(), "1");
    assert_eq!(allowed(&with(json!({"initial": "0"})).ok()).unwrap(), "0-1");
    assert_eq!(allowed(&with(json!({"final": "0,1"})).ok()).unwrap(), "0-1");
    assert!(with(json!({"initial": "4000"})).error().starts_with("/process/execCPUAffinity: run on CPUs"));
    assert!(with(json!({"final": "1-"})).error().contains("xecCPUAffinity"));
}

/// config.md, oomScoreAdj: of the init process and of every exec process, and not of the runtime.
#[test]
fn oom_score() {
    let Some(mut container) = Container::new("oom-score") else { return };
    const SCRIPT: &str = "cat /proc/self/oom_score_adj";
    container.config["process"]["oomScoreAdj"] = json!(321);
    assert_eq!(container.script(SCRIPT).run().ok(), "321\n");
    let before = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    container.script("sleep 1000").write_config();
    let bundle = container.bundle().to_str().unwrap().to_owned();
    let mut run = container.command(&["run", "-b", &bundle, &container.id]).spawn().unwrap();
    wait_for("the container", || (container.exec(&[], "true").status == Some(0)).then_some(()));
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.id())).unwrap();
    let runtime = children.split_whitespace().next().unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{runtime}/oom_score_adj")).unwrap(), before);
    // The second process of an exec is there before the runtime goes on: nothing may depend on who is first.
    for _ in 0..20 {
        assert_eq!(container.exec(&[], SCRIPT).ok(), "321\n");
    }
    let said = container.exec_process(SCRIPT, |process| process["oomScoreAdj"] = json!(400));
    assert_eq!(said.ok(), "400\n");
    container.skeg(&["kill", &container.id, "KILL"]).ok();
    assert_eq!(run.wait().unwrap().code(), Some(137));
}

/// config.md, mounts: tmpcopyup, and id mappings of a bind mount.
#[test]
fn mounts() {
    let Some(mut container) = Container::new("mounts") else { return };
    fs::write(container.rootfs().join("etc/canary"), "copied").unwrap();
    let source = container.bundle().join("volume");
    fs::create_dir_all(source.join("below")).unwrap();
    let mappings = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    let mounts = container.config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    mounts.push(json!({
        "destination": "/volume", "type": "bind", "source": source, "options": ["rbind", "ridmap"],
        "uidMappings": mappings, "gidMappings": mappings
    }));
    container.script("cat /etc/canary; echo; stat -f -c %T /etc; stat -c %u:%g /volume /volume/below");
    assert_eq!(container.run().ok(), "copied\ntmpfs\n5000:5000\n5000:5000\n");
}

/// config.md, mounts: "The runtime MUST mount entries in the listed order", and whoever looks finds them in it.
#[test]
fn mounts_are_seen_in_the_listed_order() {
    for propagation in ["private", "unbindable", "slave"] {
        let Some(mut container) = Container::new(&format!("order-{propagation}")) else { return };
        let source = container.bundle().join("volume");
        fs::create_dir_all(&source).unwrap();
        let mounts = container.config["mounts"].as_array_mut().unwrap();
        mounts
            .insert(1, json!({"destination": "/early", "source": source, "options": ["rbind", propagation]}));
        mounts.push(json!({"destination": "/fs", "type": "tmpfs", "source": "tmpfs"}));
        mounts.push(json!({"destination": "/late", "source": source, "options": ["bind", "mode=755"]}));
        let listed: Vec<_> =
            mounts.iter().map(|mount| mount["destination"].as_str().unwrap().to_owned()).collect();
        container.config["linux"].as_object_mut().unwrap().remove("maskedPaths");
        container.config["linux"].as_object_mut().unwrap().remove("readonlyPaths");
        container.script(
            "cut -d' ' -f5 /proc/self/mountinfo; grep -c ' /early .* unbindable ' /proc/self/mountinfo",
        );
        let said = container.run();
        // The cgroup mount is several.
        let seen = said.out.lines().skip(1).filter(|line| !line.starts_with("/sys/fs/cgroup/"));
        let seen: Vec<_> = seen.collect();
        assert_eq!(seen[..listed.len()], listed, "{said:?}");
        // Nothing of the host is left.
        assert_eq!(seen[listed.len()..], [if propagation == "unbindable" { "1" } else { "0" }]);
    }
}

/// Labels of a security module that this host does not have are errors (security.md B1, G6), but for that of mounts,
/// which nobody would look at.
#[test]
fn b1_labels_without_their_module_are_errors() {
    let Some(mut container) = Container::new("labels") else { return };
    if fs::exists("/sys/fs/selinux/enforce").unwrap_or(false) {
        println!("skipped: this host has SELinux");
        return;
    }
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    container.script("true").config["linux"]["mountLabel"] = json!(label);
    container.run().ok();
    container.config["linux"].as_object_mut().unwrap().remove("mountLabel");
    container.config["process"]["selinuxLabel"] = json!(label);
    let error = container.run().error();
    assert!(error.starts_with("apply SELinux label"), "{error}");
}

/// config-linux.md, intelRdt: "MUST generate an error" where it cannot be had.
#[test]
fn intel_rdt_needs_resctrl() {
    let Some(mut container) = Container::new("rdt") else { return };
    if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - resctrl ") {
        println!("skipped: this host has resctrl");
        return;
    }
    container.script("true").config["linux"]["intelRdt"] = json!({"closID": "gold"});
    let error = container.run().error();
    assert_eq!(error, "/linux/intelRdt: no resctrl file system is mounted on this host");
    assert!(!container.state_root().join(&container.id).exists());
}
