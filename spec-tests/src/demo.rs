//! `make demo`: runs one container from a bundle whose rootfs holds only the probe, and prints from inside, for a
//! person, what the container is isolated by.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::failure::{During, Failure, Outcome};
use crate::inside::{actions, report};
use crate::{config, ensure, harness, probe};

const MEMORY_LIMIT: u64 = 64 << 20;
const PIDS_LIMIT: u64 = 32;

/// The host's half: `demo --runtime PATH`. The result is the exit status.
pub fn run(arguments: &[String]) -> i32 {
    match arguments {
        [flag, runtime] if flag == "--runtime" => match on_host(Path::new(runtime)) {
            Ok(status) => status,
            Err(Failure::Failed(text) | Failure::Skipped(text)) => {
                eprintln!("demo: {text}");
                1
            }
        },
        _ => {
            eprintln!("usage: spec-tests demo --runtime PATH");
            2
        }
    }
}

fn on_host(runtime: &Path) -> Outcome<i32> {
    ensure!(nix::unistd::geteuid().is_root(), "the demonstration makes a container as root");
    let runtime = fs::canonicalize(runtime).during(runtime.display())?;
    let id = format!("skeg-demo-{}", std::process::id());
    let dir = std::env::temp_dir().join(&id);
    let status = in_directory(&runtime, &id, &dir);
    fs::remove_dir_all(&dir).during(format!("remove {}", dir.display()))?;
    status
}

fn in_directory(runtime: &Path, id: &str, dir: &Path) -> Outcome<i32> {
    let bundle = dir.join("bundle");
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    harness::place_probe(&probe::locate()?, &rootfs)?;
    fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&configuration(id))?)?;
    let words: [PathBuf; 6] =
        ["--root".into(), dir.join("state"), "run".into(), "--bundle".into(), bundle, id.into()];
    println!("host      process {} on {}", std::process::id(), hostname());
    println!(
        "command   {} {}\n",
        runtime.display(),
        words.each_ref().map(|word| word.to_string_lossy()).join(" ")
    );
    let status = Command::new(runtime).args(&words).status().during("start the runtime")?;
    let code = status.code().unwrap_or(1);
    let left = crate::cgroups::containing(id)?;
    println!("\nexit      {code}; cgroups left behind: {}", left.len());
    Ok(if left.is_empty() { code } else { 1 })
}

fn hostname() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

fn configuration(id: &str) -> Value {
    let mut spec = config::default_config();
    config::set(&mut spec, "/process/terminal", json!(false));
    config::set(&mut spec, "/process/args", json!(["/probe", "demo", report::namespaces().to_string()]));
    config::set(&mut spec, "/hostname", json!("skeg-demo"));
    config::set(&mut spec, "/linux/cgroupsPath", json!(format!("/{id}")));
    config::set(&mut spec, "/linux/resources/memory", json!({ "limit": MEMORY_LIMIT }));
    config::set(&mut spec, "/linux/resources/pids", json!({ "limit": PIDS_LIMIT }));
    config::set(&mut spec, "/linux/resources/cpu", json!({ "quota": 50_000, "period": 100_000 }));
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["ptrace", "add_key", "bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }]
    });
    config::set(&mut spec, "/linux/seccomp", seccomp);
    spec
}

/// The container's half: prints the report.
pub fn inside(host_namespaces: &str) -> Outcome<i32> {
    let host: Value = serde_json::from_str(host_namespaces).unwrap_or_default();
    let found = report::report();
    identity(&found);
    isolation(&found, &host);
    resources(&found);
    mounts(&found);
    attempts();
    Ok(0)
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn line(name: &str, value: &str) {
    println!("  {name:<22} {value}");
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn identity(found: &Value) {
    println!("Inside the container");
    heading("Identity");
    line("process", &format!("pid {}, parent {}, session {}", found["pid"], found["ppid"], found["session"]));
    line("host name", &text(&found["hostname"]));
    line(
        "user and groups",
        &format!("uid {}, gid {}, groups {}", found["uid"], found["gid"], found["groups"]),
    );
    line(
        "uid map",
        &found["uidMap"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", "),
    );
    for set in ["effective", "bounding", "inheritable"] {
        line(&format!("capabilities, {set}"), &capability_names(&text(&found["capabilities"][set])));
    }
    line("no new privileges", if found["noNewPrivileges"] == 1 { "yes" } else { "no" });
    let mode = match found["seccomp"]["mode"].as_str() {
        Some("2") => "filter",
        Some("0") => "none",
        _ => "unknown",
    };
    line("seccomp", &format!("{mode}, {} filter(s)", text(&found["seccomp"]["filters"])));
    line("open descriptors", &found["fds"].as_object().map_or(0, serde_json::Map::len).to_string());
}

/// The names of the capabilities in a mask as /proc/PID/status prints it.
fn capability_names(mask: &str) -> String {
    let bits = u64::from_str_radix(mask, 16).unwrap_or(0);
    let names: Vec<&str> = report::CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn isolation(found: &Value, host: &Value) {
    heading("Namespaces");
    for (kind, own) in found["namespaces"].as_object().into_iter().flatten() {
        let relation = if host[kind] == *own { "the host's" } else { "its own" };
        line(kind, &format!("{relation:<11} {}", text(own)));
    }
}

fn resources(found: &Value) {
    heading("Control groups");
    for group in found["cgroup"].as_array().into_iter().flatten().map(text) {
        let mut parts = group.splitn(3, ':').skip(1);
        let controller = parts.next().filter(|name| !name.is_empty()).unwrap_or("unified");
        line(controller, parts.next().unwrap_or_default());
    }
    let limits = [
        ("memory limit", "memory/memory.limit_in_bytes", "memory.max"),
        ("pids limit", "pids/pids.max", "pids.max"),
        ("cpu quota of 100 ms", "cpu/cpu.cfs_quota_us", "cpu.max"),
    ];
    for (name, v1, v2) in limits {
        let read = |file: &str| fs::read_to_string(Path::new("/sys/fs/cgroup").join(file));
        let value =
            read(v1).or_else(|_| read(v2)).map_or_else(|_| "-".to_owned(), |text| text.trim().to_owned());
        line(name, &value);
    }
}

fn mounts(found: &Value) {
    heading("Mounts");
    let mut mounts: Vec<&Value> = found["mounts"].as_array().into_iter().flatten().collect();
    mounts.sort_by_key(|mount| text(&mount["target"]));
    for mount in mounts {
        line(&text(&mount["target"]), &format!("{:<8} {}", text(&mount["type"]), text(&mount["options"])));
    }
}

/// What it tried, and what came of it.
fn attempts() {
    heading("Attempts");
    let forks = (PIDS_LIMIT * 2).to_string();
    let attempts = [
        ("write to the rootfs", json!(["create", "/made"])),
        ("write to /dev/shm", json!(["create", "/dev/shm/made"])),
        ("read /proc/timer_list", json!(["read", "/proc/timer_list"])),
        ("change a sysctl", json!(["write", "/proc/sys/kernel/msgmax", "1"])),
        ("list the cgroups", json!(["list", "/sys/fs/cgroup"])),
        ("mount a tmpfs", json!(["mount", "/dev/shm", "tmpfs", "tmpfs"])),
        ("change the host name", json!(["sethostname", "other"])),
        ("make a device node", json!(["mknod", "/dev/shm/disk", "b", "254", "0"])),
        ("read from /dev/zero", json!(["open", "/dev/zero", "r"])),
        ("ptrace (seccomp)", json!(["syscall", libc::SYS_ptrace.to_string(), "0", "0", "0"])),
        ("fork 64 children", json!(["fork", forks])),
    ];
    for (name, action) in attempts {
        let results = actions::perform_all(&json!([action]));
        let outcome = match (results[0].get("errno"), results[0].get("ok")) {
            (Some(errno), _) => format!("refused: {}", text(errno)),
            (_, Some(value)) => summary(value),
            _ => "-".to_owned(),
        };
        line(name, &outcome);
    }
}

fn summary(value: &Value) -> String {
    match value {
        Value::Null => "done".to_owned(),
        Value::String(text) if text.is_empty() => "done: empty".to_owned(),
        Value::Object(map) if map.contains_key("refusal") => {
            format!("{} made, then refused: {}", map["made"], text(&map["refusal"]))
        }
        Value::Array(items) => format!("done: {} entries", items.len()),
        other => format!("done: {}", text(other).chars().take(60).collect::<String>()),
    }
}
