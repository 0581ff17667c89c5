use serde_json::{Value, json};

use super::*;

/// A configuration that passes, with every namespace type new.
fn base() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/true"], "env": ["PATH=/bin"]},
        "root": {"path": "rootfs"},
        "hostname": "web",
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}, {"type": "user"}, {"type": "time"}
            ],
            "uidMappings": [{"containerID": 0, "hostID": 100_000, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 100_000, "size": 65536}]
        }
    })
}

/// Sets the value at `pointer`, objects on the way made; null removes it.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut place = document;
    for step in parent.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        place = match place {
            Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
            Value::Object(map) => map.entry(step).or_insert_with(|| json!({})),
            other => panic!("{pointer}: {other}"),
        };
    }
    let key = key.replace("~1", "/").replace("~0", "~");
    match (place, value) {
        (Value::Object(map), Value::Null) => drop(map.remove(&key)),
        (Value::Object(map), value) => drop(map.insert(key, value)),
        (Value::Array(list), value) => list[key.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{pointer}: {other}"),
    }
}

fn check(changes: &[(&str, Value)]) -> Result<Vec<String>> {
    let mut document = base();
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    let spec: Spec = serde_json::from_value(document).unwrap_or_else(|error| panic!("{changes:?}: {error}"));
    validate(&spec)
}

/// The change at its pointer is refused with an error that starts with `expected`.
fn refused(pointer: &str, value: Value, expected: &str) {
    match check(&[(pointer, value.clone())]) {
        Ok(_) => panic!("{pointer} {value}: accepted"),
        Err(error) => assert!(error.to_string().starts_with(expected), "{pointer} {value}: {error}"),
    }
}

fn accepted(pointer: &str, value: Value) {
    if let Err(error) = check(&[(pointer, value.clone())]) {
        panic!("{pointer} {value}: {error}");
    }
}

fn without_namespace(kind: &str) -> Value {
    let mut document = base();
    let list = document["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|namespace| namespace["type"] != kind);
    document["linux"]["namespaces"].clone()
}

#[test]
fn the_base_passes() {
    assert_eq!(check(&[]).unwrap(), Vec::<String>::new());
    // runtime.md, create: a container without a process can be made.
    accepted("/process", Value::Null);
}

/// config.md, specification version: SemVer, and our major version.
#[test]
fn versions() {
    for text in ["1.0.0", "1.3.0", "1.0.2-dev", "1.1.0-rc.2", "1.9.0", "1.0.0+build.1", "1.2.3-a-b.c+d"] {
        accepted("/ociVersion", json!(text));
    }
    for absent in [Value::Null, json!("")] {
        refused("/ociVersion", absent, "/ociVersion: missing or empty: must be a version 1.MINOR.PATCH");
    }
    for text in [
        "1",
        "1.0",
        "2.0.0",
        "0.9.0",
        "v1.0.0",
        "1.0.0.0",
        "01.0.0",
        "1.00.0",
        "1.0.0-",
        "1.0.0+",
        "1.0.0-a..b",
        "1.0.x",
        "1.0.0 ",
        "1.-1.0",
    ] {
        refused(
            "/ociVersion",
            json!(text),
            &format!("/ociVersion: {text:?}: must be a version 1.MINOR.PATCH"),
        );
    }
}

/// config.md, root and process: what MUST be there and absolute.
#[test]
fn root_and_process() {
    refused("/root", Value::Null, "/root: missing: ");
    refused("/root/path", json!(""), "/root/path: \"\": must be a path");
    refused("/process/cwd", json!("tmp"), "/process/cwd: \"tmp\": must be an absolute path");
    refused("/process/cwd", json!(""), "/process/cwd: ");
    refused("/process/args", json!([]), "/process/args: missing: must have at least one entry");
    refused("/process/args", Value::Null, "/process/args: missing: ");
    refused("/process/args", json!([""]), "/process/args/0: ");
    refused("/process/oomScoreAdj", json!(1001), "/process/oomScoreAdj: 1001: must be -1000 to 1000");
    accepted("/process/oomScoreAdj", json!(-1000));
    refused(
        "/process/ioPriority",
        json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        "/process/ioPriority/priority: 8",
    );
    let size = json!({"height": 65536, "width": 1});
    // config.md: consoleSize MUST be ignored where terminal is false.
    accepted("/process/consoleSize", size.clone());
    let error = check(&[("/process/terminal", json!(true)), ("/process/consoleSize", size)]).unwrap_err();
    assert!(error.to_string().starts_with("/process/consoleSize: 65536"), "{error}");
}

/// security.md E20: no entry without a name and a `=`, and no value in the message (G9).
#[test]
fn e20_environment() {
    refused("/process/env", json!(["A=1", "FOO"]), "/process/env/1: \"FOO\": must be NAME=value");
    refused("/process/env", json!(["=secret"]), "/process/env/0: missing: must have a name before the =");
    refused("/process/env", json!([""]), "/process/env/0: ");
    accepted("/process/env", json!(["A=", "B=x=y", "a.b-c=1"]));
    let hook = json!([{"path": "/h", "env": ["X"]}]);
    refused("/hooks/poststop", hook, "/hooks/poststop/0/env/0: \"X\": must be NAME=value");
}

/// security.md E3: 4294967295 is no id.
#[test]
fn e3_ids() {
    for (pointer, value, shown) in [
        ("/process/user/uid", json!(4_294_967_295_u32), "/process/user/uid"),
        ("/process/user/gid", json!(4_294_967_295_u32), "/process/user/gid"),
        ("/process/user/additionalGids", json!([1, 4_294_967_295_u32]), "/process/user/additionalGids/1"),
    ] {
        refused(pointer, value, &format!("{shown}: 4294967295: must be 0 to 4294967294"));
    }
    refused("/process/user/umask", json!(512), "/process/user/umask: 512: ");
    accepted("/process/user/umask", json!(0o777));
    let no_userns = [
        ("/linux/namespaces", without_namespace("user")),
        ("/linux/uidMappings", Value::Null),
        ("/linux/gidMappings", Value::Null),
        ("/process/user/uid", json!(4_294_967_294_u32)),
    ];
    check(&no_userns).unwrap();
}

/// security.md E16: a type occurs once, soft is at most hard.
#[test]
fn e16_limits() {
    let limit = |soft: u64, hard: u64| json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard});
    refused(
        "/process/rlimits",
        json!([limit(2, 1)]),
        "/process/rlimits/0/soft: 2: must not be greater than the hard limit 1",
    );
    refused(
        "/process/rlimits",
        json!([limit(1, 1), limit(1, 1)]),
        "/process/rlimits/1/type: \"RLIMIT_NOFILE\": must occur once only",
    );
    accepted("/process/rlimits", json!([limit(0, u64::MAX), {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]));
}

#[test]
fn schedulers() {
    for (value, expected) in [
        (json!({"policy": "SCHED_OTHER", "nice": 20}), "/process/scheduler/nice: 20"),
        (json!({"policy": "SCHED_FIFO"}), "/process/scheduler/priority: 0: must be 1 to 99 with SCHED_FIFO"),
        (json!({"policy": "SCHED_RR", "priority": 100}), "/process/scheduler/priority: 100"),
        (json!({"policy": "SCHED_BATCH", "priority": 1}), "/process/scheduler/priority: 1: must be 0"),
        (json!({"policy": "SCHED_FIFO", "priority": 1, "runtime": 5}), "/process/scheduler/runtime: 5"),
        (json!({"policy": "SCHED_OTHER", "period": 5}), "/process/scheduler/period: 5"),
    ] {
        refused("/process/scheduler", value, expected);
    }
    accepted(
        "/process/scheduler",
        json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}),
    );
    accepted("/process/scheduler", json!({"policy": "SCHED_IDLE", "nice": -20}));
}

#[test]
fn names_need_a_uts_namespace() {
    let namespaces = ("/linux/namespaces", without_namespace("uts"));
    let error = check(std::slice::from_ref(&namespaces)).unwrap_err().to_string();
    assert_eq!(error, "/hostname: \"web\": must have a uts namespace in /linux/namespaces");
    check(&[namespaces.clone(), ("/hostname", Value::Null)]).unwrap();
    check(&[namespaces.clone(), ("/hostname", json!(""))]).unwrap();
    assert!(check(&[namespaces, ("/hostname", Value::Null), ("/domainname", json!("d"))]).is_err());
    refused("/hostname", json!("x".repeat(65)), "/hostname: ");
    accepted("/hostname", json!("x".repeat(64)));
}

/// security.md A6: what may be mounted in and over /proc.
#[test]
fn a6_mounts_over_proc() {
    let mount =
        |destination: &str, kind: &str| json!([{"destination": destination, "type": kind, "source": "/s"}]);
    for destination in ["/proc", "/proc/", "//proc", "/./proc", "/x/../proc", "proc"] {
        accepted("/mounts", mount(destination, "proc"));
        accepted("/mounts", mount(destination, "bind"));
        refused(
            "/mounts",
            mount(destination, "tmpfs"),
            "/mounts/0/destination: \"/proc\": must have a mount of type proc",
        );
    }
    for destination in [
        "/proc/self",
        "//proc//self",
        "/proc/./sys",
        "/proc/../proc/x",
        "/proc/sys",
        "/proc/sys/kernel",
        "/proc/1",
        "proc/self",
        "/proc/cpuinfo/x",
        "/proc/self/attr/exec",
        "/../../proc/self",
    ] {
        for kind in ["bind", "proc", "tmpfs"] {
            refused("/mounts", mount(destination, kind), "/mounts/0/destination: \"/proc/");
        }
    }
    for destination in
        PROC_FILES.iter().copied().chain(["/procx", "/x/proc/self", "/proc/../sys/x", "/proc/sys/../cpuinfo"])
    {
        accepted("/mounts", mount(destination, "bind"));
    }
}

#[test]
fn mounts() {
    refused("/mounts", json!([{"destination": ""}]), "/mounts/0/destination: \"\": must be a path");
    for bind in [
        json!({"destination": "/a", "type": "bind"}),
        json!({"destination": "/a", "options": ["rbind"], "source": ""}),
    ] {
        refused("/mounts", json!([bind]), "/mounts/0/source: missing: must be a path for a bind mount");
    }
    let warnings = check(&[("/mounts", json!([{"destination": "a", "type": "tmpfs"}]))]).unwrap();
    assert_eq!(warnings, ["/mounts/0/destination: \"a\": is taken as relative to /, which is deprecated"]);
    let map = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    let mount = |kind: &str| json!([{"destination": "/a", "type": kind, "source": "/s", "uidMappings": map, "gidMappings": map}]);
    accepted("/mounts", mount("bind"));
    refused("/mounts", mount("tmpfs"), "/mounts/0/type: \"tmpfs\": must be a bind mount");
    refused(
        "/mounts",
        json!([{"destination": "/a", "type": "bind", "source": "/s", "uidMappings": map}]),
        "/mounts/0/gidMappings: missing",
    );
}

/// config.md, POSIX-platform hooks: absolute path, timeout greater than zero.
#[test]
fn hooks_of_all_kinds() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let pointer = format!("/hooks/{kind}");
        refused(
            &pointer,
            json!([{"path": "h"}]),
            &format!("/hooks/{kind}/0/path: \"h\": must be an absolute path"),
        );
        refused(
            &pointer,
            json!([{"path": "/h"}, {"path": "/h", "timeout": 0}]),
            &format!("/hooks/{kind}/1/timeout: 0"),
        );
        refused(&pointer, json!([{"path": "/h", "timeout": -1}]), &format!("/hooks/{kind}/0/timeout: -1"));
        accepted(&pointer, json!([{"path": "/h", "timeout": 1, "args": ["h"], "env": ["A=b"]}]));
    }
}

/// config-linux.md, namespaces: a type occurs once, a path is absolute; security.md F8.
#[test]
fn f8_namespaces() {
    let mut twice = base()["linux"]["namespaces"].clone();
    twice.as_array_mut().unwrap().push(json!({"type": "ipc"}));
    refused("/linux/namespaces", twice, "/linux/namespaces/8/type: \"ipc\"");
    refused(
        "/linux/namespaces/0/path",
        json!("ns/pid"),
        "/linux/namespaces/0/path: \"ns/pid\": must be an absolute path",
    );
    accepted("/linux/namespaces/0/path", json!("/proc/1/ns/pid"));
    accepted("/linux/namespaces/0/path", json!(""));
}

/// security.md E6: ranges with checked arithmetic.
#[test]
fn e6_id_mappings() {
    let map = |lines: &[[u32; 3]]| -> Value {
        lines
            .iter()
            .map(|[container, host, size]| json!({"containerID": container, "hostID": host, "size": size}))
            .collect()
    };
    let max = u32::MAX;
    for (lines, expected) in [
        (&[[0, 0, 0]][..], "0/size: 0"),
        (&[[0, max, 1]], "0/hostID: 4294967295"),
        (&[[max, 0, 1]], "0/containerID: 4294967295"),
        (&[[0, 1, max]], "0/hostID: 1"),
        (&[[0, 0, 10], [9, 100, 1]], "1/containerID: 9: must not overlap the range of entry 0"),
        (&[[9, 100, 1], [0, 0, 10]], "0/containerID: 9: must not overlap the range of entry 1"),
        (&[[0, 0, 10], [10, 9, 1]], "1/hostID: 9: must not overlap the range of entry 0"),
        (&[[0, 5, 1], [1, 5, 1]], "1/hostID: 5"),
    ] {
        for name in ["uidMappings", "gidMappings"] {
            refused(&format!("/linux/{name}"), map(lines), &format!("/linux/{name}/{expected}"));
        }
    }
    for lines in [&[[0, 0, max]][..], &[[0, max - 1, 1]], &[[10, 0, 10], [0, 10, 10]]] {
        accepted("/linux/uidMappings", map(lines));
    }
    let many: Vec<[u32; 3]> = (0..341).map(|n| [n, n, 1]).collect();
    refused("/linux/uidMappings", map(&many), "/linux/uidMappings: 341: must have at most 340 entries");
    accepted("/linux/uidMappings", map(&many[..340]));
    refused(
        "/linux/uidMappings",
        json!([]),
        "/linux/uidMappings: missing: must be there for a new user namespace",
    );
    refused("/linux/namespaces", without_namespace("user"), "/linux/uidMappings: ");
    accepted("/linux/namespaces/6/path", json!("/proc/1/ns/user"));
}

/// security.md E6: random ranges never overflow, and what is accepted has no overlap.
#[test]
fn e6_random_mappings() {
    let mut seed: u64 = 42;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Small numbers and numbers near the end in turn.
        let small = u32::try_from(seed >> 60).unwrap();
        if seed >> 33 & 1 == 0 { small } else { u32::MAX - small }
    };
    for _ in 0..10_000 {
        let mappings: Vec<LinuxIdMapping> = (0..3)
            .map(|_| json!({"containerID": next(), "hostID": next(), "size": next()}))
            .map(|mapping| serde_json::from_value(mapping).unwrap())
            .collect();
        if id_mappings(&mappings, "/m").is_ok() {
            let ranges: Vec<_> = mappings
                .iter()
                .map(|m| u64::from(m.host_id())..u64::from(m.host_id()) + u64::from(m.size()))
                .collect();
            for (index, a) in ranges.iter().enumerate() {
                assert!(a.end <= u64::from(u32::MAX) && !a.is_empty());
                assert!(
                    ranges[index + 1..].iter().all(|b| a.end <= b.start || b.end <= a.start),
                    "{mappings:?}"
                );
            }
        }
    }
}

#[test]
fn the_user_is_mapped() {
    refused(
        "/process/user/uid",
        json!(65536),
        "/process/user/uid: 65536: must be an id of /linux/uidMappings",
    );
    refused(
        "/process/user/gid",
        json!(65536),
        "/process/user/gid: 65536: must be an id of /linux/gidMappings",
    );
    refused("/process/user/additionalGids", json!([1, 70000]), "/process/user/additionalGids/1: 70000");
    accepted("/process/user/uid", json!(65535));
}

/// security.md F13: clocks and ranges.
#[test]
fn f13_time_offsets_and_personality() {
    for (value, expected) in [
        (
            json!({"realtime": {"secs": 1}}),
            "/linux/timeOffsets/realtime: \"realtime\": must be monotonic or boottime",
        ),
        (json!({"monotonic": {"secs": 9_223_372_037_i64}}), "/linux/timeOffsets/monotonic/secs: 9223372037"),
        (json!({"boottime": {"secs": i64::MIN}}), "/linux/timeOffsets/boottime/secs: "),
        (
            json!({"boottime": {"nanosecs": 1_000_000_000}}),
            "/linux/timeOffsets/boottime/nanosecs: 1000000000",
        ),
    ] {
        refused("/linux/timeOffsets", value, expected);
    }
    accepted(
        "/linux/timeOffsets",
        json!({"monotonic": {"secs": -9_223_372_036_i64, "nanosecs": 999_999_999}}),
    );
    let offsets = ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}));
    assert!(check(&[offsets.clone(), ("/linux/namespaces", without_namespace("time"))]).is_err());
    assert!(check(&[offsets, ("/linux/namespaces/7/path", json!("/proc/1/ns/time"))]).is_err());
    refused("/linux/personality", json!({"domain": "LINUX", "flags": ["X"]}), "/linux/personality/flags: ");
    accepted("/linux/personality", json!({"domain": "LINUX32", "flags": []}));
}

/// security.md B6: key by namespace.
#[test]
fn b6_sysctl_needs_its_namespace() {
    for (key, kind) in [
        ("net.core.somaxconn", "network"),
        ("kernel.sem", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
    ] {
        let sysctl = ("/linux/sysctl", json!({key: "1"}));
        check(std::slice::from_ref(&sysctl)).unwrap();
        let error =
            check(&[sysctl, ("/linux/namespaces", without_namespace(kind)), ("/hostname", Value::Null)])
                .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("/linux/sysctl/{key}: \"1\": must have a {kind} namespace in /linux/namespaces")
        );
    }
    refused(
        "/linux/sysctl",
        json!({"kernel.core_pattern": "x"}),
        "/linux/sysctl/kernel.core_pattern: must belong to a namespace",
    );
    refused(
        "/linux/sysctl",
        json!({"net/../kernel/x": "1"}),
        "/linux/sysctl/net~1..~1kernel~1x: must be a parameter",
    );
    refused("/linux/sysctl", json!({"net.a": "1\n2"}), "/linux/sysctl/net.a: \"1\\n2\": must be one line");
    refused("/linux/sysctl", json!({"net.a": "1", "net/a": "2"}), "/linux/sysctl/net");
    accepted("/linux/sysctl", json!({"net.a": "1+kernel.core_pattern=x"}));
}

#[test]
fn device_nodes() {
    let device = |changes: Value| {
        let mut device = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
        device.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!([device])
    };
    for (changes, expected) in [
        (json!({"path": "dev/x"}), "path: \"dev/x\": must be an absolute path"),
        (json!({"type": "a"}), "type: \"a\": must be c, b, u or p"),
        (json!({"major": -1}), "major: -1: must be 0 to 4095"),
        (json!({"major": 4096}), "major: 4096"),
        (json!({"minor": 1_048_576}), "minor: 1048576"),
        (json!({"fileMode": 0o1_000_000}), "fileMode: "),
        (json!({"uid": 4_294_967_295_u32}), "uid: 4294967295"),
    ] {
        refused("/linux/devices", device(changes), &format!("/linux/devices/0/{expected}"));
    }
    // Some writers put the file type into the mode.
    accepted("/linux/devices", device(json!({"fileMode": 0o020_666})));
    accepted("/linux/devices", device(json!({"type": "p", "major": -1})));
}

#[test]
fn paths_and_propagation() {
    for name in ["maskedPaths", "readonlyPaths"] {
        let pointer = format!("/linux/{name}");
        refused(
            &pointer,
            json!(["/a", "proc/x"]),
            &format!("{pointer}/1: \"proc/x\": must be an absolute path"),
        );
        let paths = (pointer.as_str(), json!(["/a"]));
        assert!(check(&[paths, ("/linux/namespaces", without_namespace("mount"))]).is_err());
    }
    for propagation in
        ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable", ""]
    {
        accepted("/linux/rootfsPropagation", json!(propagation));
    }
    for propagation in ["rrslave", "r", "ro", "Shared"] {
        refused("/linux/rootfsPropagation", json!(propagation), "/linux/rootfsPropagation: ");
    }
    refused("/annotations", json!({"": "x"}), "/annotations/: ");
    refused(
        "/linux/memoryPolicy",
        json!({"mode": "MPOL_BIND", "nodes": "0;1"}),
        "/linux/memoryPolicy/nodes: ",
    );
}

/// security.md F4: names that become path components.
#[test]
fn f4_resctrl_and_interface_names() {
    for id in ["", ".", "..", "a/b", "/a", "a\nb", "info", "mon_groups"] {
        refused(
            "/linux/intelRdt",
            json!({"closID": id}),
            &format!("/linux/intelRdt/closID: {id:?}: must be a file name"),
        );
    }
    refused("/linux/intelRdt", json!({"memBwSchema": "L3:0=f"}), "/linux/intelRdt/memBwSchema: ");
    refused("/linux/intelRdt", json!({"memBwSchema": "MB:0=f\nL3:1"}), "/linux/intelRdt/memBwSchema: ");
    refused("/linux/intelRdt", json!({"schemata": ["L3:0=f", "a\nb"]}), "/linux/intelRdt/schemata/1: ");
    accepted("/linux/intelRdt", json!({"closID": "guaranteed", "memBwSchema": "MB:0=20"}));
    accepted("/linux/intelRdt", json!({"closID": "/", "schemata": ["L3:0=f"]}));
    for name in ["", ".", "..", "a/b", "a b", "a:b", "eth%d", "a\nb", "0123456789012345"] {
        refused("/linux/netDevices", json!({name: {}}), "/linux/netDevices/");
        if !name.is_empty() && name != "eth%d" {
            refused("/linux/netDevices", json!({"eth0": {"name": name}}), "/linux/netDevices/eth0: ");
        }
    }
    refused("/linux/netDevices", json!({"a": {"name": "x"}, "b": {"name": "x"}}), "/linux/netDevices/");
    let fine = json!({"eth0": {"name": "ctr_eth0"}, "wlan0": {}, "a": {"name": ""}});
    accepted("/linux/netDevices", fine);
    accepted("/linux/netDevices", json!({"a": {"name": "eth%d"}, "b": {"name": "eth%d"}}));
    for name in ["%d", "eth%d%d", "eth%dx", "eth%s"] {
        refused("/linux/netDevices", json!({"eth0": {"name": name}}), "/linux/netDevices/eth0: ");
    }
    let devices = ("/linux/netDevices", json!({"eth0": {}}));
    assert!(check(&[devices, ("/linux/namespaces", without_namespace("network"))]).is_err());
}

#[test]
fn resource_numbers() {
    for (value, expected) in [
        (json!({"devices": [{"allow": true, "type": "u"}]}), "devices/0/type: \"u\": must be a, b or c"),
        (json!({"devices": [{"allow": true, "major": -2}]}), "devices/0/major: -2"),
        (
            json!({"devices": [{"allow": true}, {"allow": true, "access": "rx"}]}),
            "devices/1/access: \"rx\": must be made of",
        ),
        (json!({"memory": {"limit": -2}}), "memory/limit: -2"),
        (json!({"memory": {"swap": -2}}), "memory/swap: -2"),
        (json!({"memory": {"reservation": -2}}), "memory/reservation: -2"),
        (json!({"memory": {"swappiness": 101}}), "memory/swappiness: 101: must be 0 to 100"),
        (json!({"cpu": {"idle": 2}}), "cpu/idle: 2"),
        (
            json!({"cpu": {"quota": 1000, "burst": 1001}}),
            "cpu/burst: 1001: must not be greater than the quota 1000",
        ),
        (json!({"cpu": {"cpus": "0-3;x"}}), "cpu/cpus: "),
        (json!({"cpu": {"mems": "a"}}), "cpu/mems: "),
        (json!({"blockIO": {"weight": 9}}), "blockIO/weight: 9: must be 10 to 1000"),
        (json!({"blockIO": {"leafWeight": 1001}}), "blockIO/leafWeight: 1001"),
        (json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}), "blockIO/weightDevice/0: missing"),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 5}]}}),
            "blockIO/weightDevice/0/weight: 5",
        ),
        (
            json!({"blockIO": {"throttleReadIOPSDevice": [{"major": -1, "minor": 0, "rate": 1}]}}),
            "blockIO/throttleReadIOPSDevice/0: ",
        ),
        (json!({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}), "hugepageLimits/0/pageSize: \"2M\""),
        (json!({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}), "hugepageLimits/0/pageSize: "),
        (json!({"hugepageLimits": [{"pageSize": "02MB", "limit": 1}]}), "hugepageLimits/0/pageSize: "),
        (json!({"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}), "hugepageLimits/0/limit: -1"),
        (json!({"network": {"priorities": [{"name": "a b", "priority": 1}]}}), "network/priorities/0/name: "),
        (json!({"rdma": {"mlx 1": {"hcaHandles": 1}}}), "rdma/mlx 1: "),
        (json!({"rdma": {"mlx": {}}}), "rdma/mlx: missing"),
        (json!({"unified": {"../x.y": "1"}}), "unified/..~1x.y: "),
        (json!({"unified": {"memory": "1"}}), "unified/memory: "),
        (json!({"unified": {".procs": "1"}}), "unified/.procs: "),
    ] {
        refused("/linux/resources", value, &format!("/linux/resources/{expected}"));
    }
    accepted(
        "/linux/resources",
        json!({
            "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": -1, "access": "r"}],
            "memory": {"limit": -1, "reservation": 0, "swap": 1_u64 << 40, "swappiness": 60},
            "cpu": {"shares": 2, "quota": -1, "burst": 5, "period": 100_000, "cpus": "0-3,7", "mems": "0", "idle": 1},
            "pids": {"limit": -1},
            "blockIO": {"weight": 0, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]},
            "hugepageLimits": [{"pageSize": "64KB", "limit": 0}],
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]},
            "rdma": {"mlx5_1": {"hcaObjects": 1}},
            "unified": {"memory.high": "1", "hugetlb.1GB.max": "2"}
        }),
    );
}
